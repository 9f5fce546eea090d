// Numbers, times and values as text.

import { h } from "./dom.js";

const NOTHING = "–";
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export const clock = { utc: false, skew: 0 };

/** Now, by the clock of the daemon: that of this machine may be wrong by minutes. */
export const now = () => Date.now() + clock.skew;

export const number = (value) => (value == null ? NOTHING : plain.format(value));

/** In binary units, as in the daemon's messages. */
export function bytes(value) {
  if (value == null) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let at = 0;
  let left = Math.abs(value);
  // A value that would round up to 1024 uses the next unit.
  while (left >= 1023.5 && at < units.length - 1) {
    left /= 1024;
    at += 1;
  }
  const digits = at === 0 || left >= 100 ? 0 : 1;
  return `${value < 0 ? "−" : ""}${left.toFixed(digits)} ${units[at]}`;
}

export function millis(value) {
  if (value == null) return NOTHING;
  if (value < 10) return `${plain.format(value)} ms`;
  if (value < 999.5) return `${value.toFixed(0)} ms`;
  return value < 59950 ? `${(value / 1000).toFixed(1)} s` : span(value / 1000);
}

const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** A duration in at most two units; the second one only while the first is below 10. */
export function span(seconds) {
  if (seconds == null) return NOTHING;
  const whole = Math.max(0, Math.round(seconds));
  const at = Math.max(
    0,
    UNITS.findIndex(([size]) => whole >= size),
  );
  if (whole === 0) return "0 s";
  const [[size, unit], [less, smaller] = []] = UNITS.slice(at);
  const [first, second] = [Math.floor(whole / size), less ? Math.floor((whole % size) / less) : 0];
  return `${first} ${unit}${second && first < 10 ? ` ${second} ${smaller}` : ""}`;
}

export function percent(share, digits = 0) {
  if (share == null) return NOTHING;
  return share > 0 && share < 0.005 ? "<1 %" : `${(share * 100).toFixed(digits)} %`;
}

export const plural = (count, one, many = `${one}s`) =>
  `${number(count)} ${count === 1 ? one : many}`;

/** `idle_in_transaction` → `idle in transaction`. */
export const words = (name) => String(name).replaceAll("_", " ");

export const capital = (word) => word[0].toUpperCase() + word.slice(1);

const styles = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit" },
  minute: { hour: "2-digit", minute: "2-digit" },
  day: { day: "numeric", month: "short" },
  date: { day: "numeric", month: "short", year: "numeric" },
};
// Creating a formatter costs more than using it a hundred times.
const formatters = new Map();

export function instant(at, style = "full") {
  if (style === "full") return `${instant(at, "date")}, ${instant(at, "time")} ${offset(at)}`;
  const name = `${style} ${clock.utc}`;
  if (!formatters.has(name))
    formatters.set(
      name,
      new Intl.DateTimeFormat("en-GB", {
        ...styles[style],
        ...(clock.utc ? { timeZone: "UTC" } : {}),
      }),
    );
  return formatters.get(name).format(new Date(at));
}

/** The offset of the shown zone from UTC at that time. */
function offset(at) {
  const minutes = clock.utc ? 0 : -new Date(at).getTimezoneOffset();
  const [hours, rest] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60];
  if (minutes === 0) return "UTC";
  const minute = rest ? `:${String(rest).padStart(2, "0")}` : "";
  return `UTC${minutes < 0 ? "−" : "+"}${hours}${minute}`;
}

/** The zone in which times are shown. */
export function zone() {
  const name = clock.utc ? "UTC" : new Intl.DateTimeFormat().resolvedOptions().timeZone;
  return name === "UTC" ? name : `${name}, ${offset(now())}`;
}

/** The time alone if it is today, else with the day, and with the year if that differs. */
export function brief(at, style = "time") {
  const [date, today] = [instant(at, "date"), instant(now(), "date")];
  if (date === today) return instant(at, style);
  const day = date.slice(-4) === today.slice(-4) ? instant(at, "day") : date;
  return `${day} ${instant(at, "minute")}`;
}

function distance(at) {
  const seconds = (now() - new Date(at)) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

/** A time as its distance from now, kept current by `tick`. */
export function ago(at) {
  if (at == null) return h("span", { class: "muted" }, NOTHING);
  const iso = new Date(at).toISOString();
  return h(
    "time",
    { datetime: iso, "data-ago": "", title: `${instant(at)} (${iso})` },
    distance(at),
  );
}

/** A time as text. */
export function when(at) {
  if (at == null) return h("span", { class: "muted" }, NOTHING);
  const iso = new Date(at).toISOString();
  return h("time", { datetime: iso, title: `${iso}, ${distance(at)}` }, brief(at));
}

/** The duration since a time, kept current by `tick`. */
export function lasting(since) {
  const at = new Date(since);
  return h("time", { datetime: at.toISOString(), "data-for": "" }, span((now() - at) / 1000));
}

export function tick() {
  for (const element of document.querySelectorAll("time[data-ago], time[data-for]")) {
    const at = new Date(element.dateTime);
    const text = "ago" in element.dataset ? distance(at) : span((now() - at) / 1000);
    if (element.textContent !== text) element.textContent = text;
  }
}

const INSTANT = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/;
const SHOWN = 50;

// The daemon's own field names, which can be shown as words. Any other name may be that of a table
// or a column, and is shown unchanged.
const FIELDS = new Set(
  `failed_count idle_in_transaction in_recovery lag_bytes lag_seconds left_for_the_next_run
  longest_wait max_connections mxid_age not_permitted oldest_idle_in_transaction oldest_left
  oldest_prepared oldest_transaction refreshed_at replay_lag_seconds response_ms retained_bytes
  rows_deleted since_success_seconds started_at unsealed_seconds hidden_sessions wal_status
  xid_age`.split(/\s+/),
);
const IDS = /(^|_)(id|pid|xid|oid|xmin|num|seal)$/;

function scalar(name, value) {
  if (value == null) return NOTHING;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string")
    return INSTANT.test(value) && !Number.isNaN(Date.parse(value)) ? when(value) : value;
  if (IDS.test(name)) return String(value);
  if (/(^|_)ms$/.test(name)) return millis(value);
  if (/(^|_)seconds$/.test(name)) return span(value);
  if (/(^|_)bytes$/.test(name)) return bytes(value);
  return number(value);
}

const label = (name) =>
  FIELDS.has(name) ? words(name.replace(/_(ms|seconds|bytes|at)$/, "")) : name;
const isRecord = (it) => it != null && typeof it === "object" && !Array.isArray(it);
const rest = (count) => count > SHOWN && h("p", { class: "muted" }, `and ${count - SHOWN} more`);

/** Any JSON value as lists and small tables. The unit is the suffix of the field's name. */
export function value(it, name = "", depth = 0) {
  if (it == null || typeof it !== "object") return h("span", { class: "value" }, scalar(name, it));
  if (depth > 4) return h("code", {}, JSON.stringify(it));
  const items = Array.isArray(it) ? it : Object.entries(it);
  if (items.length === 0) return h("span", { class: "muted" }, "none");
  if (Array.isArray(it)) {
    if (it.every(isRecord))
      return records(
        it.map((row) => [null, row]),
        depth,
      );
    return h(
      "ul",
      { class: "plain" },
      it.slice(0, SHOWN).map((item) => h("li", {}, value(item, name, depth + 1))),
      rest(it.length),
    );
  }
  if (items.every(([, item]) => isRecord(item) && Object.keys(item).length > 0))
    return records(items, depth);
  return h(
    "dl",
    { class: "facts" },
    items
      .slice(0, SHOWN)
      .map(([key, item]) =>
        h("div", {}, h("dt", {}, label(key) || "(all)"), h("dd", {}, value(item, key, depth + 1))),
      ),
    rest(items.length),
  );
}

function records(rows, depth) {
  const columns = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))];
  const named = rows.some(([name]) => name != null);
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "small" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          named && h("th", { scope: "col" }, "object"),
          columns.map((c) => h("th", { scope: "col" }, label(c))),
        ),
      ),
      h(
        "tbody",
        {},
        rows.slice(0, SHOWN).map(([name, row]) =>
          h(
            "tr",
            {},
            named && h("th", { scope: "row" }, name),
            columns.map((c) => h("td", {}, c in row ? value(row[c], c, depth + 1) : "")),
          ),
        ),
      ),
    ),
    rest(rows.length),
  );
}
