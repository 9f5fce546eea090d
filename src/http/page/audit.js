// The audit log: search, pages and export.

import { exportAs, get } from "./api.js";
import { h, slot } from "./dom.js";
import { eventTable } from "./events.js";
import { bytes, clock, instant, number, plural } from "./format.js";
import { button, field, formError, loading, panel, resultLine } from "./widgets.js";

const PAGE_SIZE = 50;
// The value `own` shows the two fields for a time range.
const SPANS = [
  ["", "any time"],
  ["1", "last hour"],
  ["24", "last 24 hours"],
  ["168", "last 7 days"],
  ["own", "from … to …"],
];
const SOURCES = [["", "any"], ["pgsteward"], ["application"], ["trigger"]];
const EXPORTS = { csv: ["CSV", "text/csv"], ndjson: ["NDJSON", "application/x-ndjson"] };
const FILTERS = [
  "span",
  "since",
  "until",
  "action",
  "resource_id",
  "actor",
  "order",
  "resource_type",
  "user_id",
  "ip",
  "request_id",
  "source",
];
const TIMES = ["since", "until"];

// The text of the form outlives the view: it must survive a token that expires.
let typed = {};
// The address as this view left it. A different one may hold another search.
let ownHash = "";

export function audit(ctx) {
  const state = {
    search: {},
    query: {},
    filtered: false,
    cursors: [null],
    page: 1,
    data: null,
    error: null,
    busy: false,
    opened: new Set(),
    at: null,
    exporting: null,
  };
  let request = null;

  async function load() {
    request?.abort();
    const own = (request = new AbortController());
    Object.assign(state, { busy: true, error: null });
    ctx.rerender();
    try {
      const query = ctx.query({ ...state.query, limit: PAGE_SIZE, cursor: state.cursors.at(-1) });
      state.data = await get("health/audit", query, own.signal);
      Object.assign(state, { at: Date.now(), page: state.cursors.length });
    } catch (error) {
      if (own.signal.aborted) return;
      state.error = error;
    }
    state.busy = false;
    ctx.rerender();
  }
  const applyForm = () => {
    state.search = typed;
    state.query = toQuery(typed);
    state.filtered = Object.keys(typed).some((name) => name !== "order");
    writeAddress(typed);
  };
  const search = () => {
    applyForm();
    showPage([null]);
  };
  const showPage = async (cursors) => {
    state.cursors = cursors;
    state.opened.clear();
    await load();
  };
  // The buttons are below the table, and the next page begins above it.
  const turnPage = async (cursors) => {
    await showPage(cursors);
    requestAnimationFrame(() => {
      const head = document.getElementById("events-result");
      head?.scrollIntoView({ block: "start" });
      head?.focus({ preventScroll: true });
    });
  };
  typed = readAddress() ?? typed;
  const form = searchForm(search);
  fill(form);
  applyForm();
  // Not a poll: rows that move would disturb the reader. It only repeats a request that failed.
  const retry = {
    start: () => load(),
    stop: () => request?.abort(),
    wake() {},
    now: () => state.error && load(),
  };
  const events = () =>
    h(
      "div",
      { key: "events", class: state.error ? "aged" : null, "aria-busy": String(state.busy) },
      eventTable(ctx, state),
      pager(state, turnPage),
    );
  return {
    polls: () => (ctx.who ? [retry] : []),
    stop() {
      request?.abort();
      state.exporting?.abort();
    },
    // The address changed; it may hold another search.
    moved() {
      if (location.hash === ownHash) return;
      const other = readAddress();
      if (!other) {
        writeAddress(state.search);
        return;
      }
      typed = other;
      fill(form);
      search();
    },
    render: () => [
      panel(ctx, {
        id: "audit",
        title: "Audit log",
        needs: ctx.who ? null : "user",
        about: state.data?.scope === "own" ? "Your own events. An admin sees all events." : null,
        actions: ctx.who && exportButtons(ctx, state),
        body: () => [
          slot("audit-form", form),
          formError(ctx, form, state.error, { polling: true }),
          state.busy && !state.data && loading("Searching …"),
          resultLine("events-result", state.data && summary(state)),
          state.data && (state.data.items.length > 0 || state.page > 1) && events(),
        ],
      }),
    ],
  };
}

function summary({ data: { items, scope }, page, at, filtered }) {
  if (items.length > 0) {
    const loadedAt = instant(at, "time");
    return `${plural(items.length, "event")}, page ${number(page)}, loaded at ${loadedAt}`;
  }
  if (filtered) return "No event matches the search.";
  return scope === "own" ? "You have no events yet." : "There are no events yet.";
}

// ---- the search form

function searchForm(search) {
  const onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  const clear = () => {
    typed = {};
    fill(form);
    search();
  };
  const time = (label, name) => field(label, { type: "datetime-local", name, step: "1" });
  const form = h(
    "form",
    {
      class: "search",
      role: "search",
      id: "audit-form",
      onsubmit,
      oninput: () => {
        typed = readForm(form);
      },
    },
    field("Time", { name: "span" }, SPANS),
    time("From", "since"),
    time("To", "until"),
    field("Action (job.run, job.*)", { name: "action" }),
    field("Resource", { name: "resource_id" }),
    field("Actor", { name: "actor" }),
    field("Order", { name: "order" }, [
      ["", "newest first"],
      ["oldest", "oldest first"],
    ]),
    h(
      "details",
      { class: "more-filters" },
      h("summary", {}, "More filters"),
      h(
        "div",
        {},
        field("Resource type", { name: "resource_type" }),
        field("User", { name: "user_id" }),
        field("IP address or network", { name: "ip" }),
        field("Request", { name: "request_id" }),
        field(
          "Source",
          { name: "source" },
          SOURCES.map(([value, text = value]) => [value, text]),
        ),
      ),
    ),
    h(
      "div",
      { class: "buttons" },
      h("button", { type: "submit", class: "main", id: "audit-search" }, "Search"),
      button("Clear", clear),
    ),
  );
  return form;
}

/** Fills the form with the typed text. */
function fill(form) {
  for (const input of form.querySelectorAll("[name]")) input.value = typed[input.name] ?? "";
  const more = form.querySelector(".more-filters");
  more.open ||= [...more.querySelectorAll("[name]")].some((input) => input.value !== "");
}

/** The fields of the form that are not empty. */
const readForm = (form) =>
  Object.fromEntries(
    [...new FormData(form)].map(([name, text]) => [name, text.trim()]).filter(([, text]) => text),
  );

// Times are typed in the shown zone; the API and the address have them in UTC.
const toInstant = (text) =>
  Number.isNaN(Date.parse(text)) ? null : new Date(clock.utc ? `${text}Z` : text).toISOString();

function toTyped(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at - (clock.utc ? 0 : at.getTimezoneOffset() * 60e3)).toISOString().slice(0, 19);
}

function toQuery({ span, since, until, ...others }) {
  if (!span) return others;
  if (span === "own") return { ...others, since: toInstant(since), until: toInstant(until) };
  return { ...others, since: `${Number(span) || 1}h` };
}

// ---- the search in the address, so that a link can be shared

const hashParams = () => new URLSearchParams(location.hash.split("?")[1]);

/** The search in the address; null if there is none, or if this view put it there. */
function readAddress() {
  const found = Object.fromEntries(
    [...hashParams()].filter(([name, text]) => FILTERS.includes(name) && text),
  );
  if (Object.keys(found).length === 0 || location.hash === ownHash) return null;
  for (const name of TIMES) if (found[name]) found[name] = toTyped(found[name]);
  return found;
}

function writeAddress(search) {
  const params = hashParams();
  for (const name of FILTERS) params.delete(name);
  for (const [name, text] of Object.entries(search))
    if (text) params.set(name, TIMES.includes(name) ? toInstant(text) : text);
  history.replaceState(null, "", `#audit${params.size ? `?${params}` : ""}`);
  ownHash = location.hash;
}

// ---- pages and export

function pager(state, turnPage) {
  const { cursors, data } = state;
  const first = cursors.length > 1 ? null : "this is the first page";
  return h(
    "div",
    { class: "row pager", key: "pager" },
    button("First", () => turnPage([null]), { denied: first }),
    button("Back", () => turnPage(cursors.slice(0, -1)), { denied: first }),
    button("Next", () => turnPage([...cursors, data.next]), {
      denied: data.next ? null : "this is the last page",
      id: "audit-next",
    }),
  );
}

function exportButtons(ctx, state) {
  if (state.exporting)
    return button("Stop the export", () => state.exporting.abort(), { id: "stop-export" });
  return Object.entries(EXPORTS).map(([extension, [name, type]]) =>
    button(`Export as ${name}`, () => exportEvents(ctx, state, extension, type), { id: extension }),
  );
}

async function exportEvents(ctx, state, extension, type) {
  const own = (state.exporting = new AbortController());
  ctx.rerender();
  try {
    const file = await exportAs(type, ctx.query(state.query), own.signal);
    const time = new Date().toISOString().slice(0, 19).replaceAll(":", "");
    const link = h("a", {
      href: URL.createObjectURL(file),
      download: `audit-${ctx.target}-${time}.${extension}`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    ctx.notify(`Exported ${bytes(file.size)}.`, "good");
  } catch (error) {
    if (own.signal.aborted) ctx.notify("The export was stopped.");
    else ctx.failed("The export failed", error);
  }
  state.exporting = null;
  ctx.rerender();
}
