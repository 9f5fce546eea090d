// Migrations: what is applied, what waits, what was edited; and applying what waits.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, millis, plural, when, words } from "./format.js";
import { button, panel, prose, said, small, status, table } from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, isOver, progress } from "./runs.js";

const EVERY = 30000;
const SHOWN_SQL = 3;
const ORDER = ["edited", "out_of_order", "no_file", "pending"];
const MEANS = {
  edited: "the file differs from what was applied",
  out_of_order: "older than what is applied already",
  no_file: "applied, but the file is gone",
  reformatted: "comments or white space of the file differ",
};
const nameOf = (path) => path.split(/[/\\]/).at(-1);

export function migrations(ctx) {
  const poll = new Poll(
    (signal) => get("health/database/migrations", ctx.query(), signal),
    EVERY,
    ctx.rerender,
  );
  const state = { plan: null, said: "" };
  const watches = new Watches(ctx, () => [poll]);
  const preview = async () => {
    Object.assign(state, { plan: null, said: "" });
    try {
      const plan = await post("health/database/migrations", ctx.query(), { dry_run: true });
      const { pending, refused } = plan;
      if (pending.length > 0 || refused) state.plan = plan;
      state.said = refused
        ? "Nothing would be applied."
        : pending.length > 0
          ? `${plural(pending.length, "migration")} would be applied.`
          : "Nothing is pending.";
    } catch (error) {
      ctx.failed("The dry run", error);
    }
    ctx.rerender();
  };
  const apply = async () => {
    const names = state.plan.pending.map((one) => h("li", {}, h("code", {}, nameOf(one.file))));
    if (
      !(await ctx.confirm({
        title: `Apply ${plural(names.length, "migration")}?`,
        act: "Apply",
        danger: true,
        content: [
          h("p", {}, "Each file is one transaction; the first that fails ends it."),
          h("ol", {}, names),
        ],
      }))
    )
      return;
    try {
      const answer = await post("health/database/migrations", ctx.query(), { dry_run: false });
      Object.assign(state, { plan: null, said: "" });
      if (answer.run_id) watches.add(answer.run_id, { job: "migrations" });
      else ctx.notify("Applied.", "good");
    } catch (error) {
      ctx.failed("Not applied", error);
    }
    poll.now();
    ctx.rerender();
  };
  return {
    polls: () => (ctx.can("viewer") ? [poll] : []),
    stop() {
      poll.stop();
      watches.stop();
    },
    render: () => [
      panel(ctx, {
        id: "migrations",
        title: "Migrations",
        poll,
        about: poll.data && `State: ${words(poll.data.state)}.`,
        actions: button("Dry run with SQL", preview, {
          lacks: ctx.lacks("admin"),
          id: "migrations-dry",
        }),
        body: (data) => [
          data.failed &&
            h(
              "p",
              { class: "note bad", key: "failed" },
              h("strong", {}, "A migration failed: "),
              prose(data.failed),
            ),
          mismatches(data),
          [...watches.runs.values()]
            .filter((run) => !isOver(run))
            .map((run) => h("div", { key: run.id }, progress(ctx, run))),
          said("migrations-said", state.said),
          state.plan && plan(ctx, state, apply),
          list(data.migrations),
        ],
      }),
    ],
  };
}

function mismatches({ mismatches: found }) {
  return (
    found.length > 0 &&
    h(
      "div",
      { class: "note", key: "mismatches" },
      h("strong", {}, "The schema is not as it was migrated:"),
      h(
        "ul",
        {},
        found.map((one) => h("li", {}, prose(one))),
      ),
    )
  );
}

function plan(ctx, state, apply) {
  const { pending, refused } = state.plan;
  const close = button("Close the plan", () => {
    Object.assign(state, { plan: null, said: "" });
    ctx.rerender();
  });
  const lacks = ctx.lacks("admin") ?? (refused ? "it would be refused" : null);
  return h(
    "div",
    { key: "plan", class: "below" },
    refused && h("p", { class: "note bad" }, prose(refused)),
    pending.map((one) =>
      h(
        "details",
        { key: one.file, open: pending.length <= SHOWN_SQL },
        h(
          "summary",
          {},
          h("code", {}, nameOf(one.file)),
          ` of ${one.set}; ${one.reversible ? "can be undone" : "has no way back"}`,
        ),
        h("pre", { tabindex: "0" }, one.sql),
        h("p", { class: "muted" }, "Checksum ", h("code", {}, one.checksum)),
      ),
    ),
    h(
      "div",
      { class: "row" },
      pending.length > 0 &&
        button("Apply", apply, { kind: "main danger", id: "migrations-apply", lacks }),
      close,
    ),
  );
}

/** First what is amiss, then what waits, as it will run; then what is applied, the newest first. */
function list(all) {
  const rank = (one) => (ORDER.includes(one.state) ? ORDER.indexOf(one.state) : ORDER.length);
  const place = new Map(
    all.map((one, i) => [one, one.applied_at ? -Date.parse(one.applied_at) : i]),
  );
  const rows = [...all].sort((a, b) => rank(a) - rank(b) || place.get(a) - place.get(b));
  return table({
    caption: "Migrations",
    name: "migration-list",
    rows,
    key: (one) => `${one.set}/${one.version}/${one.name}`,
    empty: "No migrations.",
    columns: [
      ["Migration", "lead", (one) => `${one.set} ${one.version} ${words(one.name)}`],
      ["State", "", (one) => [status(one.state), MEANS[one.state] && small(MEANS[one.state])]],
      [
        "Applied",
        "",
        (one) => (one.applied_at ? [ago(one.applied_at), small(when(one.applied_at))] : "–"),
      ],
      ["By", "", (one) => one.applied_by ?? "–"],
      ["Took", "number", (one) => millis(one.duration_ms)],
    ],
  });
}
