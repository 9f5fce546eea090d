// How the database is, what is wrong with it and what to do, and how it was.

import { get } from "./api.js";
import { Chart, Cursor, gaps } from "./charts.js";
import { h, slot } from "./dom.js";
import { ago, bytes, instant, lasting, millis, now, number, percent, plural, span, value, when, words } from "./format.js";
import { button, choices, figure, opener, panel, prose, sql, status, table } from "./parts.js";
import { Poll } from "./poll.js";

const RANGES = {
  "1h": { text: "1 h", ms: 3600e3, health: 30, connections: 60, every: 15e3 },
  "6h": { text: "6 h", ms: 6 * 3600e3, health: 120, connections: 120, every: 30e3 },
  "24h": { text: "24 h", ms: 24 * 3600e3, health: 600, connections: 600, every: 60e3 },
  "7d": { text: "7 d", ms: 7 * 24 * 3600e3, health: 3600, connections: 3600, every: 120e3 },
};
const SEVERITY = ["unhealthy", "degraded", "unknown", "healthy"];

export function overview(ctx) {
  const opened = new Set();
  const charts = history(ctx);
  return {
    polls: () => (ctx.can("viewer") ? charts.polls : []),
    moved: charts.moved,
    stop() {
      for (const poll of charts.polls) poll.stop();
      charts.release();
    },
    render() {
      const open = ctx.health.data.targets[ctx.target];
      if (!open) return [];
      const full = ctx.who && ctx.database.data?.target === ctx.target ? ctx.database.data : null;
      const components = full?.components ?? Object.entries(open.components).map(([name, part]) => ({ name, ...part }));
      return [
        Object.keys(ctx.health.data.targets).length > 1 && databases(ctx),
        wrong(ctx, components, full),
        charts.render(),
        h("div", { key: "columns", class: "columns" }, parts(ctx, components, opened), full ? facts(full, open) : null),
      ];
    },
  };
}

// ---- all databases

function databases(ctx) {
  const rows = Object.entries(ctx.health.data.targets);
  return panel(ctx, { id: "databases", title: "Databases", needs: null, body: () => table({
    caption: "Databases that are kept here", rows, key: ([name]) => name,
    columns: [
      { head: "Database", lead: true, cell: ([name]) => button(name, () => ctx.go({ target: name }), { kind: "link", "aria-current": name === ctx.target ? "true" : null }) },
      { head: "Status", cell: ([, is]) => status(is.status) },
      { head: "Reason", cell: ([, is]) => words(is.reason ?? "") },
      { head: "For", cell: ([, is]) => (is.since ? lasting(is.since) : "–") },
      { head: "Response", class: "number", cell: ([, is]) => millis(is.response_ms) },
    ],
  }) });
}

// ---- what is wrong, and what to do

/** Messages end with what mends it: after the last semicolon, or after these words. */
function divide(message, reason) {
  const mends = message.lastIndexOf("what mends it: ");
  if (mends > 0) return [message.slice(0, mends).replace(/; $/, ""), message.slice(mends + 15)];
  const semicolon = message.lastIndexOf("; ");
  if (semicolon < 0 || reason === "jobs_failing") return [message, null];
  return [message.slice(0, semicolon), message.slice(semicolon + 2)];
}

function wrong(ctx, components, full) {
  const bad = components.filter((part) => part.status !== "healthy")
    .sort((a, b) => SEVERITY.indexOf(a.status) - SEVERITY.indexOf(b.status) || new Date(a.since) - new Date(b.since));
  // In an outage most of them only say that they could not be measured.
  const blind = bad.filter((part) => part.reason === "not_measured");
  const items = bad.filter((part) => part.reason !== "not_measured" || blind.length < 3).map((part) => finding(ctx, part));
  if (blind.length >= 3) {
    items.push(item("unknown", "Not measured", null, `${blind.map((part) => words(part.name)).join(", ")}: for want of an answer from the database.`));
  }
  const warned = full?.components.find((part) => part.name === "jobs" && part.status === "healthy" && part.measured?.warnings > 0);
  if (warned) items.push(item("degraded", "Jobs", null, warned.message));
  if (full?.paused && !bad.some((part) => part.reason === "paused")) {
    items.push(item("degraded", "Jobs are paused", full.paused.at, `All jobs are paused by ${full.paused.by}${full.paused.reason ? `: ${full.paused.reason}` : ""}.`, "Resume them in the view Jobs."));
  }
  if (full?.migrations?.failed && !bad.some((part) => part.reason === "migration_failed")) items.push(item("unhealthy", "A migration failed", null, full.migrations.failed));
  for (const unseen of full?.unseen ?? []) {
    items.push(h("li", { key: `unseen-${unseen.what}` }, status("unknown", ""), h("div", {},
      h("p", {}, h("strong", {}, `${unseen.what} cannot be seen`), h("span", { class: "muted" }, ` ${words(unseen.code)}`)),
      h("p", {}, prose(unseen.reason)), unseen.mend && h("p", { class: "mend" }, h("span", {}, "What mends it: "), /^[A-Z]{3,} /.test(unseen.mend) ? sql(unseen.mend, ctx) : prose(unseen.mend)))));
  }
  const title = items.length === 0 ? "Nothing is wrong" : `What is wrong, and what to do (${items.length})`;
  return panel(ctx, { id: "wrong", title, needs: null, body: () => (items.length ? h("ul", { class: "findings" }, items)
    : h("p", { class: "muted" }, `${components.length ? `All ${plural(components.length, "component")} are healthy.` : "Nothing has been measured yet."}`)) });
}

function finding(ctx, part) {
  if (!part.message) return item(part.status, words(part.name), part.since, `${words(part.reason)}.`, ctx.who ? null : "Sign in to read what was found and what mends it.");
  const [found, mend] = divide(part.message, part.reason);
  return item(part.status, words(part.name), part.since, found, mend, words(part.reason));
}

function item(level, title, since, found, mend, reason) {
  return h("li", { key: `${title}-${reason ?? ""}`, "data-level": level }, status(level, ""), h("div", {},
    h("p", {}, h("strong", {}, title), h("span", { class: "muted" }, ` ${level}${reason ? ` · ${reason}` : ""}`, since && [" · for ", lasting(since)])),
    h("p", { class: "found" }, prose(found)), mend && h("p", { class: "mend" }, h("span", {}, "To do: "), prose(mend))));
}

// ---- components

function parts(ctx, components, opened) {
  const toggle = (name) => {
    if (!opened.delete(name)) opened.add(name);
    ctx.rerender();
  };
  const detailed = components.some((part) => part.measured !== undefined);
  return panel(ctx, { id: "components", title: "Components", needs: null, about: detailed ? null : "Sign in to see what was measured.", body: () => table({
    caption: "Components of health", name: "component-list", rows: components, key: (part) => part.name, empty: "Nothing has been measured yet.",
    columns: [
      { head: "Component", lead: true, cell: (part) => (part.measured !== undefined ? opener(words(part.name), opened.has(part.name), () => toggle(part.name)) : words(part.name)) },
      { head: "Status", cell: (part) => status(part.status) },
      { head: "Found", class: "wide", cell: (part) => (part.message ? prose(part.message) : part.reason === "ok" ? "" : words(part.reason)) },
      { head: "For", class: "number", cell: (part) => lasting(part.since) },
    ],
    more: (part) => opened.has(part.name) && h("div", { class: "below" },
      h("p", { class: "muted" }, "Reason ", h("code", {}, part.reason), ", since ", when(part.since)), value(part.measured)),
  }) });
}

// ---- server and connections

function facts(full, open) {
  const { server, connections: used, pool, connect_ms: connect } = full;
  const states = Object.entries(used?.by_state ?? {}).map(([state, count]) => `${words(state)} ${number(count)}`).join(", ");
  const list = [
    server && ["Database", `${server.database}, as ${server.role}`],
    server && ["Server", `PostgreSQL ${server.version}, ${server.in_recovery ? "standby" : "primary"}`],
    server && ["Started", [when(server.started_at), " (", ago(server.started_at), ")"]],
    used && ["Connections", `${number(used.total)} of ${number(server?.usable_connections)} usable (${percent(used.saturation)})`],
    used && ["By state", states || "–"],
    used && ["Waiting for locks", `${number(used.waiting)}${used.longest_wait_seconds ? `, the longest for ${span(used.longest_wait_seconds)}` : ""}`],
    used && ["Oldest transaction", used.oldest_transaction_seconds == null ? "none" : span(used.oldest_transaction_seconds)],
    connect && ["To connect", Object.entries(connect).filter(([, ms]) => ms != null).map(([step, ms]) => `${step} ${millis(ms)}`).join(", ") || "–"],
    pool && ["Own connections", Object.entries(pool).map(([name, of]) => `${name} ${of.open ?? 0}/${of.max ?? "–"}`).join(", ")],
    ["Migrations", words(full.migrations?.state ?? "–")],
    ["Last measured", open.checked_at ? when(open.checked_at) : "not yet"],
  ].filter(Boolean);
  return h("section", { key: "server", class: "panel", id: "server", "aria-labelledby": "server-title" },
    h("header", {}, h("h2", { id: "server-title" }, "Server"), !server && h("p", { class: "muted" }, "What the server says of itself is missing while it cannot be asked.")),
    h("dl", { class: "facts wide" }, list.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown)))),
    full.replication && h("details", { class: "below" }, h("summary", {}, "Replication"), value(full.replication)));
}

// ---- how it was

function history(ctx) {
  const cursor = new Cursor();
  const charts = {
    levels: new Chart({ title: "Status", about: "The worst of all components over time.", kind: "strip", cursor }),
    response: new Chart({ title: "Response time", about: "How long the server took to answer.", kind: "line", format: (v) => (v >= 1000 ? `${number(v / 1000)} s` : `${number(v)} ms`), cursor }),
    sessions: new Chart({ title: "Connections", about: "Connections by state, stacked.", kind: "stack", cursor }),
  };
  const range = () => RANGES[ctx.range] ?? RANGES["1h"];
  const ask = (path, bucket, more) => (signal) => {
    const { ms } = range();
    const seconds = range()[bucket];
    // Whole buckets, so that the oldest is not half of one.
    const from = Math.floor((now() - ms) / 1000 / seconds) * seconds * 1000;
    return get(path, ctx.query({ bucket: seconds, since: new Date(from).toISOString(), ...more }), signal).then((data) => ({ ...data, from, to: now() }));
  };
  const redraw = () => {
    draw(charts, polls);
    ctx.rerender();
  };
  const make = (load) => new Poll(load, range().every, redraw);
  const polls = [
    make(ask("health/system", "health", {})),
    make(ask("health/system", "health", { component: "connectivity" })),
    make(ask("health/connections", "connections", {})),
  ];
  let shown = ctx.range;
  const moved = () => {
    if (shown !== ctx.range) {
      for (const poll of polls) Object.assign(poll, { every: range().every }).now();
      shown = ctx.range;
    } else draw(charts, polls);
  };
  const element = h("div", { class: "charts" }, charts.levels.element, charts.response.element, charts.sessions.element);
  return {
    polls, moved,
    release: () => Object.values(charts).forEach((chart) => chart.release()),
    render: () => panel(ctx, {
      id: "history", title: "Over time", poll: polls.find((poll) => poll.data === null && poll.error) ?? polls[1], about: source(polls),
      actions: choices("Time shown", Object.entries(RANGES).map(([key, { text }]) => [key, text]), range() === RANGES[ctx.range] ? ctx.range : "1h", (key) => ctx.go({ range: key })),
      body: () => slot("charts", element),
    }),
  };
}

function source(polls) {
  const memory = polls.map((poll) => poll.data).find((data) => data?.source === "memory");
  return memory ? `From memory, which goes back less far: ${memory.reason ?? "the database cannot be asked"}.` : null;
}

/** A bucket's point is its middle. */
const pointsOf = (data) => data.buckets.map((bucket) => ({ ...bucket, t: Date.parse(bucket.at) + data.bucket_seconds * 500 }));

function draw(charts, [levels, reach, sessions]) {
  const outages = reach.data ? outagesOf(reach.data) : [];
  if (levels.data) charts.levels.update(levelData(levels.data));
  if (reach.data) charts.response.update(responseData(reach.data, outages));
  if (sessions.data) charts.sessions.update(sessionData(sessions.data, outages));
}

function frame(data, outages) {
  const step = data.bucket_seconds * 1000;
  const points = pointsOf(data);
  const { bands, most } = gaps(points, data.from, data.to, step);
  const label = data.source === "memory" ? "not in memory" : "not measured";
  // What is known to be an outage is not called unmeasured.
  const left = bands.flatMap((gap) => outages.reduce((rest, out) => rest.flatMap((piece) => without(piece, out)), [gap])).filter((gap) => gap.to - gap.from > step / 4);
  return { from: data.from, to: data.to, step, points, most, bands: [...left.map((gap) => ({ ...gap, label })), ...outages] };
}

function without(piece, { from, to }) {
  if (to <= piece.from || from >= piece.to) return [piece];
  return [{ ...piece, to: from }, { ...piece, from: to }].filter((rest) => rest.to > rest.from);
}

function outagesOf(data) {
  const step = data.bucket_seconds * 1000;
  const found = [];
  for (const point of pointsOf(data).filter((p) => p.unhealthy > 0)) {
    const [from, to] = [point.t - step / 2, Math.min(point.t + step / 2, data.to)];
    const last = found.at(-1);
    if (last && from - last.to < step / 2) Object.assign(last, { to, failed: last.failed + point.unhealthy, of: last.of + point.samples });
    else found.push({ from, to, kind: "outage", failed: point.unhealthy, of: point.samples });
  }
  return found.map((out) => ({ ...out, label: `outage: ${number(out.failed)} of ${plural(out.of, "measurement")} from ${instant(out.from, "minute")} to ${instant(out.to, "minute")} found it away` }));
}

function levelData(data) {
  const counted = (point) => SEVERITY.map((level) => point[level] > 0 && `${level} ${number(point[level])}`).filter(Boolean).join(", ");
  const base = frame(data, []);
  const present = new Set(base.points.map((point) => point.worst));
  return { ...base, level: (point) => point.worst, legend: SEVERITY.filter((level) => present.has(level)).reverse().map((level) => [`level ${level}`, level]),
    series: [{ name: "worst", read: () => 1, show: (point) => point.worst }, { name: "components judged", read: () => 1, show: counted }] };
}

function responseData(data, outages) {
  const each = (name, read, mark) => ({ name, mark, read: (point) => point.latency_ms?.[read] ?? null, show: (point, bare) => (point.latency_ms ? `${bare ? "" : `${name} `}${millis(point.latency_ms[read])}` : null) });
  const base = frame(data, outages);
  return { ...base, band: (point) => [point.latency_ms?.min ?? 0, point.latency_ms?.max ?? 0], legend: [["spread", "lowest to highest"]],
    series: [each("average", "avg", "line"), each("lowest", "min"), each("highest", "max")] };
}

function sessionData(data, outages) {
  const known = (point) => ["active", "idle", "idle_in_transaction"].reduce((sum, state) => sum + (point[state]?.avg ?? 0), 0);
  const state = (name, mark) => ({ name: words(name), mark, read: (point) => (point.total ? point[name]?.avg ?? 0 : null),
    show: (point, bare) => (point[name] ? `${bare ? "" : `${words(name)} `}${number(round(point[name].avg))}` : null) });
  const other = { name: "other", mark: "other", read: (point) => Math.max(0, (point.total?.avg ?? 0) - known(point)), show: (point, bare) => (point.total && point.total.avg - known(point) > 0.05 ? `${bare ? "" : "other "}${number(round(point.total.avg - known(point)))}` : null) };
  const extra = [
    { name: "most", show: (point, bare) => (point.total ? `${bare ? "" : "most at once "}${number(point.total.max)}` : null) },
    { name: "waiting for locks", show: (point, bare) => (point.waiting && (bare || point.waiting.max > 0) ? `${bare ? "" : "waiting for locks "}${number(point.waiting.max)}` : null) },
    { name: "saturation", show: (point, bare) => `${bare ? "" : "saturation "}${percent(point.saturation_max)}` },
  ].map((one) => ({ read: () => 0, ...one }));
  const base = frame(data, outages);
  const latest = base.points.at(-1);
  const most = Math.max(...base.points.map((point) => point.saturation_max ?? 0), 0);
  return { ...base, rule: latest?.max_connections ? { value: latest.max_connections, label: `max_connections ${latest.max_connections}` } : null,
    legend: latest ? [["none", `highest saturation ${percent(most)}${latest.max_connections ? `, max_connections ${latest.max_connections}` : ""}`]] : [],
    series: [state("active", "active"), state("idle_in_transaction", "in-transaction"), state("idle", "idle"), other, ...extra] };
}

const round = (v) => Math.round(v * 10) / 10;
