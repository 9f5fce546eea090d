// Migrations: their states, a preview of the pending ones, and applying them.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, millis, plural, when, words } from "./format.js";
import { button, panel, prose, resultLine, small, status, table } from "./widgets.js";
import { Poll } from "./poll.js";
import { Watches, isOver, progress } from "./runs.js";

const EVERY = 30000;
const MAX_OPEN_SQL = 3;
// These states come first in the list.
const FIRST = ["edited", "out_of_order", "no_file", "pending"];
const MEANING = {
  edited: "the file differs from what was applied",
  out_of_order: "older than an applied migration",
  no_file: "applied, but the file is missing",
  reformatted: "only comments or white space of the file differ",
};
const nameOf = (path) => path.split(/[/\\]/).at(-1);

export function migrations(ctx) {
  const poll = new Poll(
    (signal) => get("health/database/migrations", ctx.query(), signal),
    EVERY,
    ctx.rerender,
  );
  const state = { plan: null, result: "" };
  const watches = new Watches(ctx, () => [poll]);
  const preview = async () => {
    Object.assign(state, { plan: null, result: "" });
    try {
      const plan = await post("health/database/migrations", ctx.query(), { dry_run: true });
      const { pending, refused } = plan;
      if (pending.length > 0 || refused) state.plan = plan;
      state.result = refused
        ? "Nothing would be applied."
        : pending.length > 0
          ? `${plural(pending.length, "migration")} would be applied.`
          : "Nothing is pending.";
    } catch (error) {
      ctx.failed("The dry run failed", error);
    }
    ctx.rerender();
  };
  const apply = async () => {
    const names = state.plan.pending.map((one) => h("li", {}, h("code", {}, nameOf(one.file))));
    if (
      !(await ctx.confirm({
        title: `Apply ${plural(names.length, "migration")}?`,
        confirmText: "Apply",
        danger: true,
        content: [
          h("p", {}, "Each file is one transaction. The first failure stops the rest."),
          h("ol", {}, names),
        ],
      }))
    )
      return;
    try {
      const answer = await post("health/database/migrations", ctx.query(), { dry_run: false });
      Object.assign(state, { plan: null, result: "" });
      if (answer.run_id) watches.add(answer.run_id, { job: "migrations" });
      else ctx.notify("The migrations are applied.", "good");
    } catch (error) {
      ctx.failed("The migrations were not applied", error);
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
          denied: ctx.denied("admin"),
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
          resultLine("migrations-result", state.result),
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
      h("strong", {}, "The schema differs from the applied migrations:"),
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
    Object.assign(state, { plan: null, result: "" });
    ctx.rerender();
  });
  const denied = ctx.denied("admin") ?? (refused ? "the API would refuse it" : null);
  return h(
    "div",
    { key: "plan", class: "below" },
    refused && h("p", { class: "note bad" }, prose(refused)),
    pending.map((one) =>
      h(
        "details",
        { key: one.file, open: pending.length <= MAX_OPEN_SQL },
        h(
          "summary",
          {},
          h("code", {}, nameOf(one.file)),
          ` of ${one.set}; ${one.reversible ? "reversible" : "not reversible"}`,
        ),
        h("pre", { tabindex: "0" }, one.sql),
        h("p", { class: "muted" }, "Checksum ", h("code", {}, one.checksum)),
      ),
    ),
    h(
      "div",
      { class: "row" },
      pending.length > 0 &&
        button("Apply", apply, { kind: "main danger", id: "migrations-apply", denied }),
      close,
    ),
  );
}

/** Problems first, then pending migrations in their order, then the applied ones, newest first. */
function list(all) {
  const rank = (one) => (FIRST.includes(one.state) ? FIRST.indexOf(one.state) : FIRST.length);
  const position = new Map(
    all.map((one, i) => [one, one.applied_at ? -Date.parse(one.applied_at) : i]),
  );
  const rows = [...all].sort((a, b) => rank(a) - rank(b) || position.get(a) - position.get(b));
  return table({
    caption: "Migrations",
    name: "migration-list",
    rows,
    key: (one) => `${one.set}/${one.version}/${one.name}`,
    empty: "No migrations.",
    columns: [
      ["Migration", "lead", (one) => `${one.set} ${one.version} ${words(one.name)}`],
      ["State", "", (one) => [status(one.state), MEANING[one.state] && small(MEANING[one.state])]],
      [
        "Applied",
        "",
        (one) => (one.applied_at ? [ago(one.applied_at), small(when(one.applied_at))] : "–"),
      ],
      ["Applied by", "", (one) => one.applied_by ?? "–"],
      ["Duration", "number", (one) => millis(one.duration_ms)],
    ],
  });
}
