// Maintenance: previews and runs of optimization and cleanup, and the retention of each table.

import { get, post } from "./api.js";
import { h, slot } from "./dom.js";
import { ago, number, plural, span, when } from "./format.js";
import { Poll } from "./poll.js";
import { Watches, isOver, objectResults, progress } from "./runs.js";
import {
  button,
  field,
  formError,
  panel,
  prose,
  resultLine,
  small,
  status,
  table,
} from "./widgets.js";

const EVERY = 60000;
const CHANGED = "The form has changed: repeat the dry run.";

function rowsDue({ rows_due: rows, rows_due_at_least: atLeast }) {
  if (rows == null) return "not counted";
  return atLeast ? `at least ${number(rows)}` : number(rows);
}

const RETENTION_COLUMNS = [
  [
    "Table",
    "lead",
    (row) => [
      row.table,
      small(`by ${row.column}`),
      row.problem && h("small", { class: "error" }, prose(row.problem)),
    ],
  ],
  ["Kept for", "number", (row) => span(row.keep_days * 86400)],
  ["Cutoff", "", (row) => when(row.cutoff)],
  ["Oldest row", "", (row) => ago(row.oldest)],
  ["Rows due", "number", rowsDue],
  ["Partitions due", "wide", (row) => row.partitions?.join(", ") || "none"],
];

// Each operation: its form, the request that the form makes, and the texts and columns of its plan.
const OPERATIONS = {
  optimize: {
    title: "Optimize",
    path: "health/database/optimize",
    verb: "Optimize now",
    about: "Runs VACUUM and ANALYZE on tables that need it, and refreshes materialized views.",
    fields: () => [
      field("Vacuum and analyze", { type: "checkbox", name: "vacuum", checked: true }),
      field("Refresh views", { type: "checkbox", name: "refresh", checked: true }),
    ],
    read: ({ elements: { vacuum, refresh } }) => ({
      vacuum: vacuum.checked,
      refresh: refresh.checked,
    }),
    missing: ({ vacuum, refresh }) =>
      !vacuum && !refresh && "Choose vacuum and analyze, refresh views, or both.",
    scope: ({ vacuum, refresh }) =>
      [vacuum && "vacuum and analyze", refresh && "refresh views"].filter(Boolean).join(", "),
    rows: (response) => response.plan,
    key: (row) => row.object,
    isDue: (row) => !row.skipped && (row.vacuum || row.analyze || row.refresh),
    preview: (count) => `${plural(count, "object")} would be processed.`,
    nothing: "No object needs it.",
    question: (due) =>
      h(
        "p",
        {},
        `${plural(due.length, "object")} will be processed. `,
        "VACUUM and a concurrent refresh do not block reads or writes.",
      ),
    columns: [
      ["Object", "lead", (row) => row.object],
      [
        "Actions",
        "",
        (row) =>
          row.skipped
            ? "skipped"
            : ["vacuum", "analyze", "refresh"].filter((action) => row[action]).join(", ") ||
              "nothing",
      ],
      [
        "Reason",
        "wide",
        ({ skipped, reason }) => [
          prose(skipped ?? reason),
          skipped && reason && small(prose(reason)),
        ],
      ],
    ],
  },
  cleanup: {
    title: "Clean up",
    path: "health/cleanup",
    verb: "Delete now",
    danger: true,
    about: "Deletes rows and drops partitions older than their retention.",
    fields: (ctx) => [
      field("Keep days (empty: as configured)", {
        type: "number",
        name: "retention_days",
        min: "1",
        max: "36500",
        inputmode: "numeric",
      }),
      ctx.can("admin") &&
        field("Keep for less than configured (loses data that the configuration keeps)", {
          type: "checkbox",
          name: "force",
        }),
    ],
    read: ({ elements: { retention_days: days, force } }) => ({
      ...(days.value ? { retention_days: Number(days.value) } : {}),
      ...(force?.checked ? { force: true } : {}),
    }),
    missing: (request) =>
      request.force && !request.retention_days && "Enter the number of days to keep.",
    scope: ({ retention_days: days, force }) =>
      days
        ? `keep ${plural(days, "day")}${force ? ", less than configured" : ""}`
        : "keep as configured",
    rows: (response) => response.tables,
    key: (row) => row.table,
    isDue: (row) => row.rows_due > 0 || row.partitions?.length > 0,
    preview: (count) => `Rows or partitions of ${plural(count, "table")} would be deleted.`,
    nothing: "No row is older than its retention.",
    question: (due, request) => [
      h(
        "p",
        {},
        `Rows and partitions of ${plural(due.length, "table")} will be deleted permanently: `,
        `${due.map((row) => row.table).join(", ")}.`,
      ),
      request.force &&
        h(
          "p",
          { class: "note bad" },
          h("strong", {}, `Only ${plural(request.retention_days, "day")} of data remain. `),
          "Older data is lost, even if the configuration keeps it.",
        ),
    ],
    columns: RETENTION_COLUMNS,
  },
};

export function maintenance(ctx) {
  const retention = new Poll(
    (signal) => get("health/retention", ctx.query(), signal),
    EVERY,
    ctx.rerender,
  );
  const watches = new Watches(ctx, () => [retention]);
  const operations = Object.entries(OPERATIONS).map(([id, operation]) =>
    operationPanel(ctx, watches, id, operation),
  );
  const nextRun = (row) => [ago(row.next_run_at), row.next_run_at && small(when(row.next_run_at))];
  return {
    polls: () => (ctx.can("viewer") ? [retention] : []),
    stop() {
      retention.stop();
      watches.stop();
    },
    render: () => [
      ...operations.map((render) => render()),
      panel(ctx, {
        id: "retention",
        title: "Retention",
        about: "How long each table keeps its rows, and what the next run deletes.",
        poll: retention,
        body: (data) =>
          table({
            caption: "Retention",
            rows: data.tables,
            key: (row) => row.table,
            empty: "No table has a retention. Configure it in [retention.tables].",
            columns: [...RETENTION_COLUMNS, ["Next run", "", nextRun]],
          }),
      }),
    ],
  };
}

/** Tells a person how to confirm a retention that is shorter than configured. */
function withConfirmation(ctx, error) {
  if (error.code !== "shorter_retention_requires_force") return error;
  const remedy = ctx.can("admin")
    ? "Tick the box above to confirm."
    : "Only an admin may confirm this.";
  return { code: error.code, detail: `${error.detail}. ${remedy}` };
}

/** Returns the function that draws an operation: its form, the plan of a dry run, and its runs. */
function operationPanel(ctx, watches, id, operation) {
  const state = { plan: null, request: null, busy: false, error: null, result: "", runs: [] };
  const set = (changes) => {
    Object.assign(state, changes);
    ctx.rerender();
  };
  const onsubmit = (event) => {
    event.preventDefault();
    dryRun();
  };
  // A plan belongs to its request: a change of the form discards it.
  const oninput = () =>
    (state.plan || state.error) &&
    set({ plan: null, error: null, result: state.plan ? CHANGED : "" });
  const form = h(
    "form",
    { class: "operation", id: `${id}-form`, onsubmit, oninput },
    field("Only these tables (schema.table, comma-separated)", {
      name: "tables",
      placeholder: "all",
    }),
    operation.fields(ctx),
    h("button", { type: "submit" }, "Dry run"),
  );
  const readForm = () => {
    const tables = form.elements.tables.value
      .split(",")
      .map((name) => name.trim())
      .filter(Boolean);
    return { ...operation.read(form), ...(tables.length ? { tables } : {}) };
  };
  const send = async (request, isDryRun) => {
    set({ busy: true, error: null, result: "" });
    try {
      return await post(operation.path, ctx.query(), { ...request, dry_run: isDryRun });
    } catch (error) {
      set({ error: withConfirmation(ctx, error), plan: null });
      return null;
    } finally {
      set({ busy: false });
    }
  };
  const dryRun = async () => {
    const request = readForm();
    const missing = operation.missing(request);
    if (missing) {
      set({ plan: null, error: null, result: missing });
      return;
    }
    set({ plan: null, runs: [] });
    const response = await send(request, true);
    if (!response) return;
    if (JSON.stringify(readForm()) !== JSON.stringify(request)) {
      set({ result: CHANGED });
      return;
    }
    const plan = operation.rows(response);
    const count = plan.filter(operation.isDue).length;
    set({ plan, request, result: count > 0 ? operation.preview(count) : operation.nothing });
  };
  // Sends the request of the plan, whatever the form holds by now.
  const apply = async () => {
    const { request } = state;
    const due = state.plan.filter(operation.isDue);
    const { title, verb, danger } = operation;
    if (
      !(await ctx.confirm({
        title: `${title}?`,
        confirmText: verb,
        danger,
        content: operation.question(due, request),
      }))
    )
      return;
    const response = await send(request, false);
    if (!response) return;
    set({ plan: null, runs: response.runs ?? [{ id: response.run_id, job: "retention" }] });
    for (const run of state.runs) watches.add(run.id, run);
  };
  const planSection = () => {
    const { plan, request } = state;
    const count = plan.filter(operation.isDue).length;
    const props = {
      kind: operation.danger ? "main danger" : "main",
      id: `${id}-apply`,
      denied: ctx.denied("operator"),
    };
    return h(
      "div",
      { key: "plan" },
      h(
        "h3",
        {},
        `Plan for ${request.tables?.join(", ") ?? "all tables"}: ${operation.scope(request)}`,
      ),
      table({
        caption: `${operation.title}: plan`,
        rows: plan,
        key: operation.key,
        columns: operation.columns,
        empty: operation.nothing,
      }),
      h(
        "div",
        { class: "row", key: "apply" },
        count > 0 && button(`${operation.verb} (${count})`, apply, props),
        button("Discard", () => set({ plan: null, result: "" })),
      ),
    );
  };
  return () =>
    panel(ctx, {
      id,
      title: operation.title,
      about: operation.about,
      needs: "operator",
      body: () => [
        slot(`${id}-form`, form),
        resultLine(`${id}-result`, state.busy ? "Waiting for the plan …" : state.result),
        formError(ctx, form, state.error),
        state.plan && planSection(),
        state.runs.map(({ id: run }) => requestedRun(ctx, watches.get(run))),
      ],
    });
}

/** A run that this panel requested, with its results. */
function requestedRun(ctx, run) {
  if (!run) return null;
  if (!isOver(run)) return h("div", { key: run.id }, progress(ctx, run));
  return h(
    "div",
    { key: run.id, class: "below" },
    h("div", { class: "line" }, h("strong", {}, run.job), status(run.state)),
    run.error && h("p", { class: "note bad" }, prose(run.error)),
    objectResults(run),
  );
}
