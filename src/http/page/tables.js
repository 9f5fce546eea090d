// Tables by size and bloat, and indexes that are invalid, duplicate or unused.

import { get } from "./api.js";
import { h } from "./dom.js";
import { ago, bytes, number, percent, words } from "./format.js";
import { button, choices, figure, muted, panel, prose, small, sql, table } from "./widgets.js";
import { Poll } from "./poll.js";

const EVERY = 60000;
const FIRST = 15;
const ORDERS = {
  total: ["Largest", (t) => t.total_bytes],
  bloat: ["Most bloated", (t) => t.bloat_bytes ?? -1],
  dead: ["Most dead rows", (t) => t.dead_rows ?? -1],
  age: ["Oldest transaction ids", (t) => t.xid_age ?? -1],
};

export function tables(ctx) {
  const state = { order: "total", all: false, find: "", refresh: false };
  const poll = new Poll(
    (signal) => {
      const refresh = state.refresh && "true";
      state.refresh = false;
      return get("health/database/statistics", ctx.query({ refresh }), signal);
    },
    EVERY,
    ctx.rerender,
  );
  const refresh = () => {
    state.refresh = true;
    poll.now();
    ctx.notify("The statistics are measured again.");
  };
  const set = (changes) => {
    Object.assign(state, changes);
    ctx.rerender();
  };
  return {
    polls: () => (ctx.can("viewer") ? [poll] : []),
    stop: () => poll.stop(),
    render: () => [
      panel(ctx, {
        id: "tables",
        title: "Tables",
        poll,
        about: poll.data && [
          "Measured ",
          ago(poll.data.measured_at),
          ". Counters since ",
          poll.data.stats_reset_at ? ago(poll.data.stats_reset_at) : "the database was created",
          ".",
        ],
        actions: button("Refresh", refresh, { denied: ctx.denied("operator"), id: "refresh" }),
        body: (data) => [
          totals(data),
          controls(state, set),
          tableList(state, set, data),
          unavailable(ctx, data),
        ],
      }),
      ctx.can("viewer") &&
        poll.data &&
        panel(ctx, { id: "indexes", title: "Indexes", poll, body: (data) => indexes(ctx, data) }),
    ],
  };
}

function totals(data) {
  const dead = data.tables.reduce((sum, t) => sum + (t.dead_rows ?? 0), 0);
  const bloat = data.tables.reduce((sum, t) => sum + (t.bloat_bytes ?? 0), 0);
  return h(
    "dl",
    { class: "figures", key: "totals" },
    figure("Database", bytes(data.size_bytes)),
    figure("Tables", number(data.tables_total)),
    figure("Dead rows", number(dead)),
    figure("Bloat, estimated", bytes(bloat)),
    data.tables_left_out > 0 && figure("Not listed", `${number(data.tables_left_out)} smaller`),
  );
}

function controls(state, set) {
  return h(
    "div",
    { class: "row", key: "controls" },
    choices(
      "Order",
      Object.entries(ORDERS).map(([key, [text]]) => [key, text]),
      state.order,
      (order) => set({ order }),
    ),
    h(
      "label",
      { class: "field inline" },
      h("span", { class: "visually-hidden" }, "Find a table"),
      h("input", {
        type: "search",
        placeholder: "Find a table",
        oninput: (event) => set({ find: event.target.value.toLowerCase() }),
      }),
    ),
  );
}

const nameOf = (t) => `${t.schema}.${t.name}`;

function tableList(state, set, data) {
  const by = ORDERS[state.order][1];
  const found = data.tables
    .filter((t) => nameOf(t).toLowerCase().includes(state.find))
    .sort((a, b) => by(b) - by(a));
  const shown = state.all ? found : found.slice(0, FIRST);
  const largest = Math.max(1, ...data.tables.map((t) => t.total_bytes));
  return [
    table({
      caption: "Tables",
      name: "table-list",
      rows: shown,
      key: nameOf,
      empty: state.find ? "No table has a name like this." : "No tables.",
      columns: [
        [
          "Table",
          "lead",
          (t) => [muted(`${t.schema}.`), t.name, t.kind !== "table" && small(words(t.kind))],
        ],
        ["Size", "number", (t) => [bytes(t.total_bytes), sizes(t, largest)]],
        ["Rows", "number", (t) => number(t.rows_estimate)],
        [
          "Dead",
          "number",
          (t) => [number(t.dead_rows), t.dead_ratio != null && small(percent(t.dead_ratio))],
        ],
        [
          "Bloat",
          "number",
          (t) => [
            bytes(t.bloat_bytes),
            t.bloat_bytes > 0 && t.table_bytes > 0 && small(percent(t.bloat_bytes / t.table_bytes)),
          ],
        ],
        ["Vacuumed", "", (t) => latest(t.last_vacuum, t.last_autovacuum)],
        [
          "Analyzed",
          "",
          (t) => [
            latest(t.last_analyze, t.last_autoanalyze),
            t.changed_since_analyze > 0 &&
              small(`${number(t.changed_since_analyze)} changed since`),
          ],
        ],
        [
          "Scans",
          "number",
          (t) => [
            h("span", {}, `${number(t.index_scans)} by index`),
            small(`${number(t.seq_scans)} sequential`),
          ],
        ],
        [
          "Id age",
          "number",
          (t) => [number(t.xid_age), t.xid_age != null && small("transactions")],
        ],
      ],
    }),
    found.length > FIRST &&
      h(
        "p",
        { key: "more" },
        button(state.all ? `Only the first ${FIRST}` : `All ${number(found.length)}`, () =>
          set({ all: !state.all }),
        ),
      ),
  ];
}

/** The parts of a size, relative to the largest table. */
function sizes(t, largest) {
  const part = (name, of) =>
    h("i", { class: name, css: { width: `${((of ?? 0) / largest) * 100}%` } });
  return h(
    "span",
    {
      class: "sizes",
      title: [
        `table ${bytes(t.table_bytes)}`,
        `indexes ${bytes(t.index_bytes)}`,
        `TOAST ${bytes(t.toast_bytes)}`,
      ].join(", "),
    },
    part("active", t.table_bytes),
    part("idle", t.index_bytes),
    part("toast", t.toast_bytes),
  );
}

function latest(manual, auto) {
  const at = [manual, auto].filter(Boolean).sort().at(-1);
  return at ? [ago(at), at === auto && small("by autovacuum")] : muted("never");
}

function unavailable(ctx, data) {
  if (!data.unavailable?.length) return null;
  return h(
    "ul",
    { class: "findings", key: "unavailable" },
    data.unavailable.map((one) =>
      h(
        "li",
        {},
        h(
          "div",
          {},
          h("p", {}, h("strong", {}, `${one.what} cannot be read: `), prose(one.reason)),
          one.remedy && h("p", {}, sql(one.remedy, ctx)),
        ),
      ),
    ),
  );
}

function indexes(ctx, { indexes: { unused, invalid, duplicate } }) {
  const of = (one) => h("span", {}, muted(`${one.schema}.`), one.table);
  const remedy = [
    "Remedy",
    "wide",
    (one) =>
      one.being_built
        ? "It is being built: wait for the end of the build."
        : one.remedy
          ? sql(one.remedy, ctx)
          : "Each belongs to a constraint: drop one of the constraints.",
  ];
  const size = ["Size", "number", (one) => bytes(one.bytes)];
  const index = ["Index", "lead", (one) => one.name];
  const pair = [
    "Index",
    "lead",
    ({ names: [keep, ...others], remedy }) => [
      h("div", {}, keep, small("keep")),
      others.map((name) =>
        h("div", {}, name, small(remedy ? "duplicate: can be dropped" : "duplicate")),
      ),
    ],
  ];
  const kind = (title, about, rows, columns) => [
    h("h3", { key: title }, `${title} (${rows.length})`),
    rows.length > 0 && h("p", { class: "muted", key: `${title}-about` }, about),
    table({
      caption: `${title} indexes`,
      rows,
      key: (one) => `${one.schema}.${one.name ?? one.names}`,
      columns,
    }),
  ];
  return [
    kind(
      "Invalid",
      "A failed build, or one in progress. It slows down writes, and no query uses it.",
      invalid,
      [index, ["Table", "", of], size, remedy],
    ),
    kind("Duplicate", "Indexes with the same definition. One of them is enough.", duplicate, [
      pair,
      ["Table", "", of],
      size,
      remedy,
    ]),
    kind(
      "Unused",
      "Not scanned since the counters began. A standby counts its own scans: check them as well.",
      unused,
      [
        index,
        ["Table", "", of],
        size,
        ["Scans", "number", (one) => number(one.scans)],
        ["Counted since", "", (one) => (one.since ? ago(one.since) : "the database was created")],
      ],
    ),
  ];
}
