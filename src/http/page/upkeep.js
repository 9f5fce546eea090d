// Optimizing and cleaning up: first what would be done, then doing it; and what retention does when.

import { get, post } from "./api.js";
import { h, slot } from "./dom.js";
import { ago, number, plural, span, when } from "./format.js";
import { button, field, loading, panel, prose, refusal, small, status, table } from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, isOver, progress } from "./runs.js";

const EVERY = 60000;

const ACTS = {
  optimize: {
    title: "Optimize", path: "health/database/optimize", about: "VACUUM and ANALYZE of tables that need it; refreshing materialized views.", act: "Optimize now",
    extra: () => [field("Vacuum and analyze", { type: "checkbox", name: "vacuum", checked: true }), field("Refresh views", { type: "checkbox", name: "refresh", checked: true })],
    read: (form) => ({ vacuum: form.elements.vacuum.checked, refresh: form.elements.refresh.checked }),
    rows: (answer) => answer.plan, key: (row) => row.object, due: (row) => !row.skipped, none: "Nothing needs it.",
    ask: (due) => `${plural(due.length, "object")} will be worked on. VACUUM and a concurrent refresh keep nobody from reading or writing.`,
    columns: [
      ["Object", "lead", (row) => row.object],
      ["Would do", "", (row) => ["vacuum", "analyze", "refresh"].filter((what) => row[what]).join(", ") || "–"],
      ["Why", "wide", (row) => prose(row.why)],
      ["Left out", "wide", (row) => (row.skipped ? prose(row.skipped) : "")],
    ],
  },
  cleanup: {
    title: "Clean up", path: "health/cleanup", about: "Deleting rows and dropping partitions that are past their retention.", act: "Delete now", danger: true,
    extra: () => [field("Keep days (empty: as configured)", { type: "number", name: "days", min: "1", max: "36500", inputmode: "numeric" })],
    read: (form) => (form.elements.days.value ? { retention_days: Number(form.elements.days.value) } : {}),
    rows: (answer) => answer.tables, key: (row) => row.table, due: (row) => row.rows_due > 0 || row.partitions?.length > 0, none: "Nothing is past its retention.",
    ask: (due) => `Rows and partitions of ${plural(due.length, "table")} will be gone for good: ${due.map((row) => row.table).join(", ")}.`,
    columns: [
      ["Table", "lead", (row) => [row.table, small(`by ${row.column}`)]],
      ["Keeps", "number", (row) => span(row.keep_days * 86400)],
      ["Older than", "", (row) => when(row.cutoff)],
      ["Oldest", "", (row) => ago(row.oldest)],
      ["Rows due", "number", (row) => [row.rows_due == null ? "not counted" : `${row.rows_due_at_least ? "at least " : ""}${number(row.rows_due)}`, small(`of about ${number(row.rows_estimate)}`)]],
      ["Partitions due", "wide", (row) => row.partitions?.join(", ") || "none"],
    ],
  },
};

export function upkeep(ctx) {
  const retention = new Poll((signal) => get("health/retention", ctx.query(), signal), EVERY, ctx.rerender);
  const watches = new Watches(ctx, () => [retention]);
  const acts = Object.entries(ACTS).map(([id, spec]) => makeAct(ctx, watches, id, spec));
  return {
    polls: () => (ctx.can("viewer") ? [retention] : []),
    stop() {
      retention.stop();
      watches.stop();
    },
    render: () => [
      ...acts.map((act) => act()),
      panel(ctx, { id: "retention", title: "Retention", about: "What goes when.", poll: retention, body: (data) => table({
        caption: "Retention", rows: data.tables, key: (row) => row.table, empty: "No table has a retention: name it under [retention.tables] in the configuration.",
        columns: [
          ["Table", "lead", (row) => [row.table, small(`by ${row.column}`)]],
          ["Keeps", "number", (row) => span(row.keep_days * 86400)],
          ["Now goes what is before", "", (row) => when(row.cutoff)],
          ["Oldest", "", (row) => [ago(row.oldest), row.oldest && row.oldest < row.cutoff && small(status("pending", "due"))]],
          ["Partitions due", "wide", (row) => row.partitions_due?.join(", ") || "none"],
          ["Next run", "", (row) => [ago(row.next_run_at), row.next_run_at && small(when(row.next_run_at))]],
        ],
      }) }),
    ],
  };
}

/** A form, the plan that the dry run gave, and the runs it led to. Gives what draws it. */
function makeAct(ctx, watches, id, spec) {
  const state = { plan: null, asked: null, busy: false, error: null, runs: [] };
  const form = h("form", { class: "act", id: `${id}-form`, onsubmit: (event) => {
    event.preventDefault();
    dry();
  } }, field("Only these tables (schema.table, comma-separated)", { name: "tables", placeholder: "all" }), spec.extra(),
    h("button", { type: "submit", class: "main" }, "Dry run"));
  const body = () => {
    const tables = form.elements.tables.value.split(",").map((name) => name.trim()).filter(Boolean);
    return { ...spec.read(form), ...(tables.length ? { tables } : {}) };
  };
  const send = async (dryRun, asked) => {
    Object.assign(state, { busy: true, error: null });
    ctx.rerender();
    try {
      return await post(spec.path, ctx.query(), { ...asked, dry_run: dryRun });
    } catch (error) {
      state.error = error;
      return null;
    } finally {
      state.busy = false;
      ctx.rerender();
    }
  };
  const dry = async () => {
    const asked = body();
    const answer = await send(true, asked);
    if (answer) Object.assign(state, { plan: spec.rows(answer), asked });
  };
  // What is done is what the plan was made for, whatever the form says by now.
  const apply = async () => {
    const due = state.plan.filter(spec.due);
    if (!await ctx.confirm({ title: `${spec.title}?`, act: spec.act, danger: spec.danger, content: h("p", {}, spec.ask(due)) })) return;
    const answer = await send(false, state.asked);
    if (!answer) return;
    state.plan = null;
    state.runs = answer.runs ?? [{ id: answer.run_id, job: spec.title }];
    for (const run of state.runs) watches.add(run.id, run);
    ctx.rerender();
  };
  const result = () => {
    const due = state.plan.filter(spec.due);
    return [table({ caption: `${spec.title}: what would be done`, rows: state.plan, key: spec.key, columns: spec.columns, empty: spec.none }),
      h("div", { class: "row", key: "apply" }, due.length > 0 ? button(`${spec.act} (${due.length})`, apply, { kind: spec.danger ? "main danger" : "main", id: `${id}-apply`, lacks: ctx.lacks("operator") }) : state.plan.length > 0 && h("p", { class: "muted" }, spec.none),
        button("Discard", () => { state.plan = null; ctx.rerender(); }))];
  };
  return () => panel(ctx, { id, title: spec.title, about: spec.about, needs: "operator", body: () => [
    slot(`${id}-form`, form),
    state.busy && loading("Asking …"), refusal(ctx, state.error),
    state.plan && h("div", { key: "plan" }, result()),
    state.runs.map((asked) => {
      const run = watches.get(asked.id);
      return run && h("div", { class: "row", key: asked.id }, isOver(run) ? [h("strong", {}, run.job), status(run.state), run.error && prose(run.error)] : progress(ctx, run));
    }),
  ] });
}
