// Optimizing and cleaning up: first what would be done, then doing it; and what retention does when.

import { get, post } from "./api.js";
import { h, slot } from "./dom.js";
import { ago, number, plural, span, when } from "./format.js";
import { blame, button, field, panel, prose, said, small, status, table } from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, isOver, objects, progress } from "./runs.js";

const EVERY = 60000;
const CHANGED = "The form was changed: make a dry run anew.";

const rowsDue = (row) =>
  row.rows_due == null
    ? "not counted"
    : `${row.rows_due_at_least ? "at least " : ""}${number(row.rows_due)}`;
const problem = (row) => row.problem && h("small", { class: "error" }, prose(row.problem));
const RETAINED = [
  ["Table", "lead", (row) => [row.table, small(`by ${row.column}`), problem(row)]],
  ["Keeps", "number", (row) => span(row.keep_days * 86400)],
  ["Deletes what is before", "", (row) => when(row.cutoff)],
  ["Oldest row", "", (row) => ago(row.oldest)],
  ["Rows due", "number", rowsDue],
  ["Partitions due", "wide", (row) => row.partitions?.join(", ") || "none"],
];

const ACTS = {
  optimize: {
    title: "Optimize",
    path: "health/database/optimize",
    about: "VACUUM and ANALYZE of tables that need it; refreshing materialized views.",
    act: "Optimize now",
    extra: () => [
      field("Vacuum and analyze", { type: "checkbox", name: "vacuum", checked: true }),
      field("Refresh views", { type: "checkbox", name: "refresh", checked: true }),
    ],
    read: (form) => ({
      vacuum: form.elements.vacuum.checked,
      refresh: form.elements.refresh.checked,
    }),
    lacks: (asked) =>
      !asked.vacuum &&
      !asked.refresh &&
      "Choose what to do: vacuum and analyze, refresh views, or both.",
    made: (asked) =>
      asked.vacuum && asked.refresh
        ? "vacuum, analyze and refresh"
        : asked.vacuum
          ? "vacuum and analyze"
          : "refresh views",
    rows: (answer) => answer.plan,
    key: (row) => row.object,
    due: (row) => !row.skipped && (row.vacuum || row.analyze || row.refresh),
    does: (count) => `${plural(count, "object")} would be worked on.`,
    none: "Nothing needs it.",
    ask: (due) =>
      h(
        "p",
        {},
        `${plural(due.length, "object")} will be worked on. VACUUM and a concurrent refresh keep nobody from reading or writing.`,
      ),
    columns: [
      ["Object", "lead", (row) => row.object],
      [
        "Would do",
        "",
        (row) =>
          row.skipped
            ? "left out"
            : ["vacuum", "analyze", "refresh"].filter((what) => row[what]).join(", ") || "nothing",
      ],
      [
        "Why",
        "wide",
        (row) => [prose(row.skipped ?? row.why), row.skipped && row.why && small(prose(row.why))],
      ],
    ],
  },
  cleanup: {
    title: "Clean up",
    path: "health/cleanup",
    about: "Deleting rows and dropping partitions that are past their retention.",
    act: "Delete now",
    danger: true,
    extra: (ctx) => [
      field("Keep days (empty: as configured)", {
        type: "number",
        name: "retention_days",
        min: "1",
        max: "36500",
        inputmode: "numeric",
      }),
      ctx.can("admin") &&
        field("Keep shorter than configured (loses data that the configuration keeps)", {
          type: "checkbox",
          name: "force",
        }),
    ],
    read: ({ elements: { retention_days: days, force } }) => ({
      ...(days.value ? { retention_days: Number(days.value) } : {}),
      ...(force?.checked ? { force: true } : {}),
    }),
    lacks: (asked) =>
      asked.force &&
      !asked.retention_days &&
      "Say how many days to keep instead of what is configured.",
    made: (asked) =>
      asked.retention_days
        ? `keeping ${plural(asked.retention_days, "day")}${asked.force ? ", shorter than configured" : ""}`
        : "keeping what is configured",
    rows: (answer) => answer.tables,
    key: (row) => row.table,
    due: (row) => row.rows_due > 0 || row.partitions?.length > 0,
    does: (count) => `Rows or partitions of ${plural(count, "table")} would be deleted.`,
    none: "Nothing is past its retention.",
    ask: (due, asked) => [
      h(
        "p",
        {},
        `Rows and partitions of ${plural(due.length, "table")} will be gone for good: ${due.map((row) => row.table).join(", ")}.`,
      ),
      asked.force &&
        h(
          "p",
          { class: "note bad" },
          h(
            "strong",
            {},
            `Only ${plural(asked.retention_days, "day")} are kept, also where the configuration keeps more. `,
          ),
          "What it keeps beyond that is lost.",
        ),
    ],
    columns: RETAINED,
  },
};

export function upkeep(ctx) {
  const retention = new Poll(
    (signal) => get("health/retention", ctx.query(), signal),
    EVERY,
    ctx.rerender,
  );
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
      panel(ctx, {
        id: "retention",
        title: "Retention",
        about: "What is kept for how long, and what the next run deletes.",
        poll: retention,
        body: (data) =>
          table({
            caption: "Retention",
            rows: data.tables,
            key: (row) => row.table,
            empty:
              "No table has a retention: name it under [retention.tables] in the configuration.",
            columns: [
              ...RETAINED,
              [
                "Next run",
                "",
                (row) => [ago(row.next_run_at), row.next_run_at && small(when(row.next_run_at))],
              ],
            ],
          }),
      }),
    ],
  };
}

/** The refusal of a shorter time says what of the form allows it. */
function wantsForce(ctx, error) {
  const [what, force] = (error.detail ?? "").split(': say "force"');
  return force
    ? {
        code: error.code,
        detail: `${what}. ${ctx.can("admin") ? "Tick the box above if that is meant." : "Only an admin can order that."}`,
      }
    : error;
}

/** A form, the plan that the dry run gave, and the runs it led to. Gives what draws it. */
function makeAct(ctx, watches, id, spec) {
  const state = { plan: null, asked: null, busy: false, error: null, said: "", runs: [] };
  const set = (changes) => {
    Object.assign(state, changes);
    ctx.rerender();
  };
  const form = h(
    "form",
    {
      class: "act",
      id: `${id}-form`,
      onsubmit: (event) => {
        event.preventDefault();
        dry();
      },
      // A plan is of what was asked for: it does not stand beside something else.
      oninput: () =>
        (state.plan || state.error) &&
        set({ plan: null, error: null, said: state.plan ? CHANGED : "" }),
    },
    field("Only these tables (schema.table, comma-separated)", {
      name: "tables",
      placeholder: "all",
    }),
    spec.extra(ctx),
    h("button", { type: "submit" }, "Dry run"),
  );
  const body = () => {
    const tables = form.elements.tables.value
      .split(",")
      .map((name) => name.trim())
      .filter(Boolean);
    return { ...spec.read(form), ...(tables.length ? { tables } : {}) };
  };
  const send = async (dryRun, asked) => {
    set({ busy: true, error: null, said: "" });
    try {
      return await post(spec.path, ctx.query(), { ...asked, dry_run: dryRun });
    } catch (error) {
      set({ error: wantsForce(ctx, error), plan: null });
      return null;
    } finally {
      set({ busy: false });
    }
  };
  const dry = async () => {
    const asked = body();
    const lacks = spec.lacks(asked);
    if (lacks) return set({ plan: null, error: null, said: lacks });
    set({ plan: null, runs: [] });
    const answer = await send(true, asked);
    if (!answer) return undefined;
    if (JSON.stringify(body()) !== JSON.stringify(asked)) return set({ said: CHANGED });
    const plan = spec.rows(answer);
    const due = plan.filter(spec.due).length;
    return set({ plan, asked, said: due > 0 ? spec.does(due) : spec.none });
  };
  // What is done is what the plan was made for.
  const apply = async () => {
    const due = state.plan.filter(spec.due);
    if (
      !(await ctx.confirm({
        title: `${spec.title}?`,
        act: spec.act,
        danger: spec.danger,
        content: spec.ask(due, state.asked),
      }))
    )
      return;
    const answer = await send(false, state.asked);
    if (!answer) return;
    set({ plan: null, runs: answer.runs ?? [{ id: answer.run_id, job: "retention" }] });
    for (const run of state.runs) watches.add(run.id, run);
  };
  const result = () => {
    const due = state.plan.filter(spec.due).length;
    return [
      h(
        "h3",
        {},
        `Plan for ${state.asked.tables?.join(", ") ?? "all tables"}: ${spec.made(state.asked)}`,
      ),
      table({
        caption: `${spec.title}: what would be done`,
        rows: state.plan,
        key: spec.key,
        columns: spec.columns,
        empty: spec.none,
      }),
      h(
        "div",
        { class: "row", key: "apply" },
        due > 0 &&
          button(`${spec.act} (${due})`, apply, {
            kind: spec.danger ? "main danger" : "main",
            id: `${id}-apply`,
            lacks: ctx.lacks("operator"),
          }),
        button("Discard", () => set({ plan: null, said: "" })),
      ),
    ];
  };
  return () =>
    panel(ctx, {
      id,
      title: spec.title,
      about: spec.about,
      needs: "operator",
      body: () => [
        slot(`${id}-form`, form),
        said(`${id}-said`, state.busy ? "Asking …" : state.said),
        blame(ctx, form, state.error),
        state.plan && h("div", { key: "plan" }, result()),
        state.runs.map((asked) => ran(ctx, watches.get(asked.id))),
      ],
    });
}

/** A run that was asked for here, and what it did. */
function ran(ctx, run) {
  if (!run) return null;
  if (!isOver(run)) return h("div", { key: run.id }, progress(ctx, run));
  return h(
    "div",
    { key: run.id, class: "below" },
    h("div", { class: "line" }, h("strong", {}, run.job), status(run.state)),
    run.error && h("p", { class: "note bad" }, prose(run.error)),
    objects(run),
  );
}
