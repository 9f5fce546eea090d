// The table of audit events, with the changed values of each.

import { h } from "./dom.js";
import { instant, value, words } from "./format.js";
import { definitions, opener, small, table, toggleIn, visuallyHidden } from "./widgets.js";

const LONG_VALUE = 120;
const MAX_SUMMARY = 90;
const MAX_NAMES = 4;
const HASH = /\b([0-9a-f]{10})[0-9a-f]{22,}\b/g;
const FACTS = [
  "id",
  "user_id",
  "actor",
  "session_user_name",
  "ip_address",
  "user_agent",
  "request_id",
  "source",
  "xid",
];

export function eventTable(ctx, state) {
  const { opened } = state;
  const time = (event) =>
    opener(
      [preciseTime(event.created_at), visuallyHidden(`, ${event.action}: details`)],
      opened.has(event.id),
      () => toggleIn(ctx, opened, event.id),
    );
  return table({
    caption: "Events",
    name: "event-list",
    rows: state.data.items,
    key: (event) => event.id,
    columns: [
      ["Time", "lead", time],
      ["Action", "", (event) => h("code", {}, event.action)],
      [
        "Actor",
        "",
        (event) => [
          event.user_id ?? event.actor ?? event.session_user_name ?? "–",
          event.user_id && event.actor && small(event.actor),
        ],
      ],
      [
        "Resource",
        "",
        (event) => [event.resource_id ?? "–", event.resource_type && small(event.resource_type)],
      ],
      ["Change", "wide", (event) => changeSummary(event) || shorten(detailSummary(event.details))],
      ["Address", "", (event) => [event.ip_address ?? "–", event.source && small(event.source)]],
    ],
    more: (event) => opened.has(event.id) && eventDetails(event),
  });
}

/** Day and time to the millisecond: many events share a second. */
function preciseTime(at) {
  const exact = new Date(at);
  const ms = String(exact.getMilliseconds()).padStart(3, "0");
  return h(
    "time",
    { datetime: exact.toISOString(), title: instant(at) },
    `${instant(at, "day")} ${instant(at, "time")}.${ms}`,
  );
}

const isScalar = (it) => it === null || typeof it !== "object";
const isInstant = (it) => typeof it === "string" && /^\d{4}-\d\d-\d\dT/.test(it);
const shorten = (text) => (text.length > MAX_SUMMARY ? `${text.slice(0, MAX_SUMMARY)}…` : text);

const fieldNames = (event) => [
  ...new Set([...Object.keys(event.old_values ?? {}), ...Object.keys(event.new_values ?? {})]),
];
const isEqual = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const changedNames = (event) =>
  fieldNames(event).filter((name) => !isEqual(event.old_values?.[name], event.new_values?.[name]));

/** The changed fields; one or two scalar values are shown as well. */
function changeSummary(event) {
  const names = changedNames(event);
  if (names.length === 0) return "";
  const { old_values: before, new_values: after } = event;
  const kind = before == null ? "new: " : after == null ? "deleted: " : "";
  const show = (name) => {
    if (kind || names.length > 2) return name;
    const [from, to] = [before[name] ?? null, after[name] ?? null];
    return isScalar(from) && isScalar(to) ? `${name}: ${from ?? "–"} → ${to ?? "–"}` : name;
  };
  const rest = names.length - MAX_NAMES;
  const shown = names.slice(0, MAX_NAMES).map(show).join(", ");
  return shorten(`${kind}${shown}${rest > 0 ? ` and ${rest} more` : ""}`);
}

/** The details of an event in one line, the reason first; of lists and objects only the names. */
function detailSummary(details) {
  if (isScalar(details)) return details == null ? "" : String(details);
  const entries = Object.entries(details).filter(
    ([name, it]) => it != null && name !== "run_id" && !isInstant(it),
  );
  const reasonFirst = entries.sort(([one], [other]) => (other === "reason") - (one === "reason"));
  const texts = reasonFirst.map(([name, it]) => `${words(name)}: ${valueSummary(it)}`);
  return texts.join("; ") || (details.run_id ? `run ${details.run_id}` : "");
}

function valueSummary(it) {
  if (isScalar(it)) return String(it).replace(HASH, "$1…");
  if (Array.isArray(it)) return it.filter(isScalar).join(", ");
  const inner = Object.entries(it).filter(([, value]) => value !== null && !isInstant(value));
  return inner.map(([name, value]) => (isScalar(value) ? `${name} ${value}` : name)).join(", ");
}

function eventDetails(event) {
  const facts = FACTS.filter((name) => event[name] != null).map((name) => [
    words(name),
    String(event[name]),
  ]);
  return h(
    "div",
    { class: "below" },
    valueTable(event),
    event.details != null && [h("h3", {}, "Details"), value(event.details)],
    definitions(facts, "facts"),
  );
}

/** The old and the new value of each field, the changed fields first. */
function valueTable(event) {
  const names = fieldNames(event);
  if (names.length === 0) return null;
  const changed = new Set(changedNames(event));
  const rows = [
    ...names.filter((name) => changed.has(name)),
    ...names.filter((name) => !changed.has(name)),
  ];
  const cell = (values, name, tag, sign) => {
    if (values == null || !(name in values)) return h("td", { class: "muted" }, "–");
    const it = values[name];
    const shown = it === null ? "null" : isScalar(it) ? String(it) : value(it);
    if (!changed.has(name)) return h("td", {}, shown);
    return h(
      "td",
      {},
      h(
        tag,
        { class: String(shown).length > LONG_VALUE ? "long" : null },
        h("span", { class: "sign", "aria-hidden": "true" }, sign),
        shown,
      ),
    );
  };
  const row = (name) =>
    h(
      "tr",
      { class: changed.has(name) ? null : "muted" },
      h("th", { scope: "row" }, name),
      cell(event.old_values, name, "del", "−"),
      cell(event.new_values, name, "ins", "+"),
    );
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "small diff" },
      h("caption", { class: "visually-hidden" }, "Old and new values"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["field", "before", "after"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h("tbody", {}, rows.map(row)),
    ),
  );
}
