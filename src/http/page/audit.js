// The audit trail: who did what to which when, and what changed.

import { exportAs, get } from "./api.js";
import { h, slot } from "./dom.js";
import { bytes, clock, instant, number, plural, value, words } from "./format.js";
import {
  aside,
  blame,
  button,
  field,
  flip,
  loading,
  opener,
  panel,
  said,
  small,
  table,
} from "./parts.js";

const PAGE = 50;
const SPANS = [
  ["", "any time"],
  ["1", "last hour"],
  ["24", "last 24 hours"],
  ["168", "last 7 days"],
  ["own", "from … to …"],
];
const SOURCES = [["", "any"], ["pgsteward"], ["application"], ["trigger"]];
const EXPORTS = { csv: ["CSV", "text/csv"], ndjson: ["NDJSON", "application/x-ndjson"] };
const LONG = 120;
const SUMMARY = 90;

// What stands in the form, for as long as the page: a token that ends must not take it along.
let typed = {};
// The address as it was left here: any other may hold another search.
let left = "";

export function audit(ctx) {
  const state = {
    search: {},
    query: {},
    searched: false,
    pages: [null],
    page: 1,
    data: null,
    error: null,
    busy: false,
    opened: new Set(),
    at: null,
    saving: null,
  };
  let flight = null;

  async function load() {
    flight?.abort();
    const mine = (flight = new AbortController());
    Object.assign(state, { busy: true, error: null });
    ctx.rerender();
    try {
      state.data = await get(
        "health/audit",
        ctx.query({ ...state.query, limit: PAGE, cursor: state.pages.at(-1) }),
        mine.signal,
      );
      Object.assign(state, { at: Date.now(), page: state.pages.length });
    } catch (error) {
      if (mine.signal.aborted) return;
      state.error = error;
    }
    state.busy = false;
    ctx.rerender();
  }
  const take = () => {
    state.search = typed;
    state.query = asQuery(typed);
    state.searched = Object.keys(typed).some((name) => name !== "order");
    address(typed);
  };
  const search = () => {
    take();
    turn([null]);
  };
  const turn = async (pages) => {
    state.pages = pages;
    state.opened.clear();
    await load();
  };
  // The buttons stand below a page, and its successor begins above.
  const leaf = async (pages) => {
    await turn(pages);
    requestAnimationFrame(() => {
      const head = document.getElementById("events-said");
      head?.scrollIntoView({ block: "start" });
      head?.focus({ preventScroll: true });
    });
  };
  typed = asked() ?? typed;
  const form = makeForm(search);
  fill(form);
  take();
  // Not asked for again and again: a page that changes beneath a reader is no help. Only after a failure.
  const again = {
    start: () => load(),
    stop: () => flight?.abort(),
    wake() {},
    now: () => state.error && load(),
  };
  return {
    polls: () => (ctx.who ? [again] : []),
    stop() {
      flight?.abort();
      state.saving?.abort();
    },
    // Another search was put into the address.
    moved() {
      if (location.hash === left) return undefined;
      const wanted = asked();
      if (!wanted) return address(state.search);
      typed = wanted;
      fill(form);
      return search();
    },
    render: () => [
      panel(ctx, {
        id: "audit",
        title: "Audit trail",
        needs: ctx.who ? null : "user",
        about:
          state.data?.scope === "own"
            ? "Your own events: all of them are shown to an admin."
            : null,
        actions: ctx.who && exports(ctx, state),
        body: () => [
          slot("audit-form", form),
          blame(ctx, form, state.error, { again: true }),
          state.busy && !state.data && loading("Searching …"),
          said("events-said", state.data && found(state)),
          state.data &&
            (state.data.items.length > 0 || state.page > 1) &&
            h(
              "div",
              {
                key: "events",
                class: state.error ? "aged" : null,
                "aria-busy": String(state.busy),
              },
              events(ctx, state),
              pager(state, leaf),
            ),
        ],
      }),
    ],
  };
}

function found({ data: { items, scope }, page, at, searched }) {
  if (items.length > 0)
    return `${plural(items.length, "event")}, page ${number(page)}, read at ${instant(at, "time")}`;
  if (searched) return "No event is like that.";
  return scope === "own" ? "There are no events of yours yet." : "There are no events yet.";
}

function exports(ctx, state) {
  if (state.saving)
    return button("Stop the export", () => state.saving.abort(), { id: "stop-export" });
  return Object.entries(EXPORTS).map(([ending, [name, type]]) =>
    button(`Export as ${name}`, () => save(ctx, state, ending, type), { id: ending }),
  );
}

function makeForm(search) {
  const form = h(
    "form",
    {
      class: "search",
      role: "search",
      id: "audit-form",
      onsubmit: (event) => {
        event.preventDefault();
        search();
      },
      oninput: () => {
        typed = read(form);
      },
    },
    field("Time", { name: "span" }, SPANS),
    field("From", { type: "datetime-local", name: "since", step: "1" }),
    field("To", { type: "datetime-local", name: "until", step: "1" }),
    field("Action (job.* for all of a kind)", { name: "action" }),
    field("Resource", { name: "resource_id" }),
    field("Actor", { name: "actor" }),
    field("Order", { name: "order" }, [
      ["", "newest first"],
      ["oldest", "oldest first"],
    ]),
    h(
      "details",
      { class: "rare" },
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
      button("Clear", () => {
        typed = {};
        fill(form);
        search();
      }),
    ),
  );
  return form;
}

/** Puts into the form what was typed. */
function fill(form) {
  for (const input of form.querySelectorAll("[name]")) input.value = typed[input.name] ?? "";
  const rare = form.querySelector(".rare");
  rare.open ||= [...rare.querySelectorAll("[name]")].some((input) => input.value !== "");
}

/** What stands in the form, as far as something does. */
const read = (form) =>
  Object.fromEntries(
    [...new FormData(form)].map(([name, text]) => [name, text.trim()]).filter(([, text]) => text),
  );

// A time is typed in the zone that is shown, and sent and kept in the address as an instant.
const asInstant = (text) =>
  Number.isNaN(Date.parse(text)) ? null : new Date(clock.utc ? `${text}Z` : text).toISOString();

function asTyped(instant) {
  const at = new Date(instant);
  if (Number.isNaN(at.getTime())) return "";
  return new Date(at - (clock.utc ? 0 : at.getTimezoneOffset() * 60e3)).toISOString().slice(0, 19);
}

function asQuery({ span, since, until, ...others }) {
  if (!span) return others;
  if (span === "own") return { ...others, since: asInstant(since), until: asInstant(until) };
  return { ...others, since: `${Number(span) || 1}h` };
}

const NAMES = [
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
const params = () => new URLSearchParams(location.hash.split("?")[1]);

/** The search in the address; null where there is none, or the one that was put there from here. */
function asked() {
  const found = Object.fromEntries(
    [...params()].filter(([name, text]) => NAMES.includes(name) && text),
  );
  if (Object.keys(found).length === 0 || location.hash === left) return null;
  for (const name of TIMES) if (found[name]) found[name] = asTyped(found[name]);
  return found;
}

/** Keeps the search in the address, for whoever is sent it. */
function address(search) {
  const next = params();
  for (const name of NAMES) next.delete(name);
  for (const [name, text] of Object.entries(search))
    if (text) next.set(name, TIMES.includes(name) ? asInstant(text) : text);
  history.replaceState(null, "", `#audit${next.size ? `?${next}` : ""}`);
  left = location.hash;
}

/** With its day, and finer than seconds: many happen in the same one. */
function precise(at) {
  const exact = new Date(at);
  return h(
    "time",
    { datetime: exact.toISOString(), title: instant(at) },
    `${instant(at, "day")} ${instant(at, "time")}.${String(exact.getMilliseconds()).padStart(3, "0")}`,
  );
}

function events(ctx, state) {
  return table({
    caption: "Events",
    name: "event-list",
    rows: state.data.items,
    key: (one) => one.id,
    columns: [
      [
        "When",
        "lead",
        (one) =>
          opener(
            [precise(one.created_at), aside(`, ${one.action}: details`)],
            state.opened.has(one.id),
            () => flip(ctx, state.opened, one.id),
          ),
      ],
      ["Action", "", (one) => h("code", {}, one.action)],
      [
        "Who",
        "",
        (one) => [
          one.user_id ?? one.actor ?? one.session_user_name ?? "–",
          one.user_id && one.actor && small(one.actor),
        ],
      ],
      [
        "What",
        "",
        (one) => [one.resource_id ?? "–", one.resource_type && small(one.resource_type)],
      ],
      ["Changed", "wide", (one) => changed(one) || short(summary(one.details))],
      ["From", "", (one) => [one.ip_address ?? "–", one.source && small(one.source)]],
    ],
    more: (one) => state.opened.has(one.id) && whole(one),
  });
}

const fields = (one) => [
  ...new Set([...Object.keys(one.old_values ?? {}), ...Object.keys(one.new_values ?? {})]),
];
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const differs = (one) =>
  fields(one).filter((name) => !same(one.old_values?.[name], one.new_values?.[name]));

const short = (text) => (text.length > SUMMARY ? `${text.slice(0, SUMMARY)}…` : text);
const HASH = /\b([0-9a-f]{10})[0-9a-f]{22,}\b/g;
const isScalar = (it) => it === null || typeof it !== "object";

function changed(one) {
  const names = differs(one);
  if (names.length === 0) return "";
  const { old_values: before, new_values: after } = one;
  const verb = before == null ? "new: " : after == null ? "gone: " : "";
  // One value or two are told as such.
  const told = (name) =>
    !verb && names.length < 3 && isScalar(before[name] ?? null) && isScalar(after[name] ?? null)
      ? `${name}: ${before[name] ?? "–"} → ${after[name] ?? "–"}`
      : name;
  return short(
    `${verb}${names.slice(0, 4).map(told).join(", ")}${names.length > 4 ? ` and ${names.length - 4} more` : ""}`,
  );
}

/** What the details of an act say in short, the reason first; of lists and records, what they name. */
function summary(details) {
  if (isScalar(details)) return details == null ? "" : String(details);
  const all = Object.entries(details).filter(
    ([name, it]) => it != null && name !== "run_id" && !isInstant(it),
  );
  const told = all
    .sort(([one], [other]) => (other === "reason") - (one === "reason"))
    .map(([name, it]) => `${words(name)}: ${brief(it)}`);
  return told.join("; ") || (details.run_id ? `run ${details.run_id}` : "");
}

const isInstant = (it) => typeof it === "string" && /^\d{4}-\d\d-\d\dT/.test(it);

function brief(it) {
  if (isScalar(it)) return String(it).replace(HASH, "$1…");
  if (Array.isArray(it)) return it.filter(isScalar).join(", ");
  return Object.entries(it)
    .filter(([, inner]) => inner !== null && !isInstant(inner))
    .map(([name, inner]) => (isScalar(inner) ? `${name} ${inner}` : name))
    .join(", ");
}

function whole(one) {
  const facts = [
    "id",
    "user_id",
    "actor",
    "session_user_name",
    "ip_address",
    "user_agent",
    "request_id",
    "source",
    "xid",
  ].filter((name) => one[name] != null);
  return h(
    "div",
    { class: "below" },
    diff(one),
    one.details != null && [h("h3", {}, "Details"), value(one.details)],
    h(
      "dl",
      { class: "facts" },
      facts.map((name) => h("div", {}, h("dt", {}, words(name)), h("dd", {}, String(one[name])))),
    ),
  );
}

function diff(one) {
  const names = fields(one);
  if (names.length === 0) return null;
  const moved = new Set(differs(one));
  const rows = [
    ...names.filter((name) => moved.has(name)),
    ...names.filter((name) => !moved.has(name)),
  ];
  const side = (values, name, tag, sign) => {
    const absent = values == null || !(name in values);
    if (absent) return h("td", { class: "muted" }, "–");
    const shown =
      values[name] === null
        ? "null"
        : typeof values[name] === "object"
          ? value(values[name])
          : String(values[name]);
    return h(
      "td",
      {},
      moved.has(name)
        ? h(
            tag,
            { class: String(shown).length > LONG ? "long" : null },
            h("span", { class: "sign", "aria-hidden": "true" }, sign),
            shown,
          )
        : shown,
    );
  };
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "small diff" },
      h("caption", { class: "unseen" }, "Old and new values"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["field", "before", "after"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((name) =>
          h(
            "tr",
            { class: moved.has(name) ? null : "muted" },
            h("th", { scope: "row" }, name),
            side(one.old_values, name, "del", "−"),
            side(one.new_values, name, "ins", "+"),
          ),
        ),
      ),
    ),
  );
}

function pager(state, leaf) {
  const { pages, data } = state;
  const first = pages.length > 1 ? null : "this is the first page";
  return h(
    "div",
    { class: "row pager", key: "pager" },
    button("First", () => leaf([null]), { lacks: first }),
    button("Back", () => leaf(pages.slice(0, -1)), { lacks: first }),
    button("Next", () => leaf([...pages, data.next]), {
      lacks: data.next ? null : "this is the last page",
      id: "audit-next",
    }),
  );
}

async function save(ctx, state, ending, type) {
  const mine = (state.saving = new AbortController());
  ctx.rerender();
  try {
    const file = await exportAs(type, ctx.query(state.query), mine.signal);
    const link = h("a", {
      href: URL.createObjectURL(file),
      download: `audit-${ctx.target}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${ending}`,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    ctx.notify(`Exported ${bytes(file.size)}.`, "good");
  } catch (error) {
    if (mine.signal.aborted) ctx.notify("The export was stopped.");
    else ctx.failed("The export", error);
  }
  state.saving = null;
  ctx.rerender();
}
