// Migrations: what is applied, what waits, what was edited; and applying what waits.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, millis, plural, when, words } from "./format.js";
import { button, panel, prose, small, status, table } from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, isOver, progress } from "./runs.js";

const EVERY = 30000;
const ORDER = ["edited", "out_of_order", "no_file", "pending", "applied"];
const MEANS = {
  edited: "the file differs from what was applied", out_of_order: "older than what is applied already", no_file: "applied, but the file is gone", pending: "not applied yet", applied: "",
};

export function migrations(ctx) {
  const poll = new Poll((signal) => get("health/database/migrations", ctx.query(), signal), EVERY, ctx.rerender);
  const state = { plan: null };
  const watches = new Watches(ctx, () => [poll]);
  const preview = async () => {
    try {
      state.plan = (await post("health/database/migrations", ctx.query(), { dry_run: true })).pending;
    } catch (error) {
      ctx.failed("The dry run", error);
    }
    ctx.rerender();
  };
  const apply = async () => {
    const names = state.plan.map((one) => h("li", {}, h("code", {}, one.file)));
    if (!await ctx.confirm({ title: `Apply ${plural(state.plan.length, "migration")}?`, act: "Apply", danger: true, content: [h("p", {}, "Each file is one transaction; the first that fails ends it."), h("ol", {}, names)] })) return;
    try {
      const answer = await post("health/database/migrations", ctx.query(), { dry_run: false });
      state.plan = null;
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
    render: () => [panel(ctx, {
      id: "migrations", title: "Migrations", poll, about: poll.data && `State: ${words(poll.data.state)}.`,
      actions: button("Dry run with SQL", preview, { lacks: ctx.lacks("admin"), id: "migrations-dry" }),
      body: (data) => [
        data.failed && h("p", { class: "note bad", key: "failed" }, h("strong", {}, "A migration failed: "), prose(data.failed)),
        mismatches(ctx),
        [...watches.runs.values()].filter((run) => !isOver(run)).map((run) => h("div", { key: run.id }, progress(ctx, run))),
        state.plan && plan(ctx, state, apply),
        list(data.migrations),
      ],
    })],
  };
}

function mismatches(ctx) {
  const found = ctx.database.data?.migrations?.mismatches ?? [];
  return found.length > 0 && h("div", { class: "note", key: "mismatches" }, h("strong", {}, "The schema is not as it was migrated:"), h("ul", {}, found.map((one) => h("li", {}, prose(one)))));
}

function plan(ctx, state, apply) {
  const close = button("Close", () => { state.plan = null; ctx.rerender(); });
  if (state.plan.length === 0) return h("p", { class: "note", key: "plan" }, "Nothing is pending. ", close);
  return h("div", { key: "plan", class: "below" }, h("h3", {}, `${plural(state.plan.length, "migration")} would be applied`),
    state.plan.map((one) => h("details", { key: one.file, open: state.plan.length === 1 }, h("summary", {}, h("code", {}, one.file), ` ${one.down ? "can be undone" : "has no way back"}`),
      h("pre", { tabindex: "0" }, one.sql), h("p", { class: "muted" }, "Checksum ", h("code", {}, one.checksum)))),
    h("div", { class: "row" }, button("Apply", apply, { kind: "main danger", id: "migrations-apply", lacks: ctx.lacks("admin") }), close));
}

function list(all) {
  const rank = (one) => ORDER.indexOf(one.state);
  const rows = [...all].sort((a, b) => rank(a) - rank(b) || a.set.localeCompare(b.set) || Number(b.version) - Number(a.version));
  return table({
    caption: "Migrations", name: "migration-list", rows, key: (one) => `${one.set}/${one.version}/${one.name}`, empty: "No migrations.",
    columns: [
      ["Migration", "lead", (one) => [`${one.set} ${one.version} ${words(one.name)}`, small(one.file)]],
      ["State", "", (one) => [status(one.state), MEANS[one.state] && small(MEANS[one.state])]],
      ["Applied", "", (one) => (one.applied_at ? [ago(one.applied_at), small(when(one.applied_at))] : "–")],
      ["By", "", (one) => one.applied_by ?? "–"],
      ["Took", "number", (one) => millis(one.duration_ms)],
    ],
  });
}
