// How the database is, what is wrong with it and what to do, and how it was.

import { get } from "./api.js";
import { Chart, gaps } from "./charts.js";
import { h, slot } from "./dom.js";
import { ago, instant, lasting, millis, now, number, percent, plural, span, value, when, words } from "./format.js";
import { choices, flip, muted, opener, panel, prose, sql, status, table } from "./parts.js";
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
        wrong(ctx, components, full),
        charts.render(),
        h("div", { key: "columns", class: "columns" }, parts(ctx, components, opened), full && facts(full)),
      ];
    },
  };
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
  for (const unseen of full?.unseen ?? []) {
    items.push(h("li", { key: `unseen-${unseen.what}` }, status("unknown", ""), h("div", {},
      h("p", {}, h("strong", {}, `${unseen.what} cannot be seen`), muted(` ${words(unseen.code)}`)),
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
    h("p", {}, h("strong", {}, title), muted(` ${level}${reason ? ` · ${reason}` : ""}`, since && [" · for ", lasting(since)])),
    h("p", { class: "found" }, prose(found)), mend && h("p", { class: "mend" }, h("span", {}, "To do: "), prose(mend))));
}

// ---- components

function parts(ctx, components, opened) {
  const detailed = components.some((part) => part.measured !== undefined);
  return panel(ctx, { id: "components", title: "Components", needs: null, about: detailed ? null : "Sign in to see what was measured.", body: () => table({
    caption: "Components of health", name: "component-list", rows: components, key: (part) => part.name, empty: "Nothing has been measured yet.",
    columns: [
      ["Component", "lead", (part) => (part.measured !== undefined ? opener(words(part.name), opened.has(part.name), () => flip(ctx, opened, part.name)) : words(part.name))],
      ["Status", "", (part) => status(part.status)],
      ["Found", "wide", (part) => (part.message ? prose(part.message) : part.reason === "ok" ? "" : words(part.reason))],
      ["For", "number", (part) => lasting(part.since)],
    ],
    more: (part) => opened.has(part.name) && h("div", { class: "below" },
      h("p", { class: "muted" }, "Reason ", h("code", {}, part.reason), ", since ", when(part.since)), value(part.measured)),
  }) });
}

// ---- server and connections

function facts({ server, connections: used, pool, connect_ms: connect, replication, migrations }) {
  const each = (of, tell) => Object.entries(of ?? {}).map(tell).filter(Boolean).join(", ") || "–";
  const list = [
    ...(server ? [["Database", `${server.database}, as ${server.role}`], ["Server", `PostgreSQL ${server.version}, ${server.in_recovery ? "standby" : "primary"}`], ["Started", ago(server.started_at)]] : []),
    ...(used ? [
      ["Connections", `${number(used.total)} of ${number(server?.usable_connections)} usable (${percent(used.saturation)})`],
      ["By state", each(used.by_state, ([state, count]) => `${words(state)} ${number(count)}`)],
      ["Waiting for locks", `${number(used.waiting)}${used.longest_wait_seconds ? `, the longest for ${span(used.longest_wait_seconds)}` : ""}`],
      ["Oldest transaction", used.oldest_transaction_seconds == null ? "none" : span(used.oldest_transaction_seconds)],
    ] : []),
    ["To connect", each(connect, ([step, ms]) => ms != null && `${step} ${millis(ms)}`)],
    ["Own connections", each(pool, ([name, { open, max }]) => `${name} ${open ?? 0}/${max ?? "–"}`)],
    ["Migrations", words(migrations?.state ?? "–")],
  ];
  return h("section", { key: "server", class: "panel", id: "server", "aria-labelledby": "server-title" },
    h("header", {}, h("h2", { id: "server-title" }, "Server"), !server && h("p", { class: "muted" }, "It cannot be asked at the moment.")),
    h("dl", { class: "facts wide" }, list.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown)))),
    replication && h("details", {}, h("summary", {}, "Replication"), value(replication)));
}

// ---- how it was

function history(ctx) {
  const peers = new Set();
  const charts = {
    levels: new Chart({ title: "Status", about: "The worst of all components over time.", kind: "strip", peers }),
    response: new Chart({ title: "Response time", about: "How long the server took to answer.", kind: "line", format: (v) => (v >= 1000 ? `${number(v / 1000)} s` : `${number(v)} ms`), peers }),
    sessions: new Chart({ title: "Connections", about: "Connections by state, stacked.", kind: "stack", peers }),
  };
  const range = () => RANGES[ctx.range] ?? RANGES["1h"];
  const redraw = () => {
    draw(charts, polls);
    ctx.rerender();
  };
  const ask = (path, bucket, more) => new Poll(async (signal) => {
    const seconds = range()[bucket];
    // Whole buckets, so that the oldest is not half of one.
    const from = Math.floor((now() - range().ms) / 1000 / seconds) * seconds * 1000;
    const data = await get(path, ctx.query({ bucket: seconds, since: new Date(from).toISOString(), ...more }), signal);
    return { ...data, from, to: now() };
  }, range().every, redraw);
  const polls = [ask("health/system", "health"), ask("health/system", "health", { component: "connectivity" }), ask("health/connections", "connections")];
  let shown = ctx.range;
  const element = h("div", { class: "charts" }, Object.values(charts).map((chart) => chart.element));
  return {
    polls,
    moved() {
      if (shown === ctx.range) return draw(charts, polls);
      shown = ctx.range;
      for (const poll of polls) Object.assign(poll, { every: range().every }).now();
    },
    release: () => peers.forEach((chart) => chart.release()),
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

function draw({ levels, response, sessions }, [all, reach, used]) {
  const outages = reach.data ? outagesOf(reach.data) : [];
  if (all.data) levels.update(levelData(all.data));
  if (reach.data) response.update(responseData(reach.data, outages));
  if (used.data) sessions.update(sessionData(used.data, outages));
}

/** A bucket's point is its middle. */
const pointsOf = (data) => data.buckets.map((bucket) => ({ ...bucket, t: Date.parse(bucket.at) + data.bucket_seconds * 500 }));

/** Points, gaps and outages of an answer. */
function frame(data, outages = []) {
  const step = data.bucket_seconds * 1000;
  const points = pointsOf(data);
  const { gaps: blank, most } = gaps(points, data.from, data.to, step);
  const label = data.source === "memory" ? "not in memory" : "not measured";
  // What is known to be an outage is not called unmeasured.
  const left = outages.reduce((rest, out) => rest.flatMap((gap) => without(gap, out)), blank).filter((gap) => gap.to - gap.from > step / 4);
  return { from: data.from, to: data.to, step, points, most, bands: [...left.map((gap) => ({ ...gap, label })), ...outages] };
}

function without(gap, { from, to }) {
  if (to <= gap.from || from >= gap.to) return [gap];
  return [{ ...gap, to: from }, { ...gap, from: to }].filter((rest) => rest.to > rest.from);
}

function outagesOf(data) {
  const half = data.bucket_seconds * 500;
  const found = [];
  for (const { t, unhealthy, samples } of pointsOf(data).filter((point) => point.unhealthy > 0)) {
    const [from, to] = [t - half, Math.min(t + half, data.to)];
    const last = found.at(-1);
    if (last && from - last.to < half) Object.assign(last, { to, failed: last.failed + unhealthy, of: last.of + samples });
    else found.push({ from, to, failed: unhealthy, of: samples });
  }
  return found.map(({ from, to, failed, of }) => ({ from, to, kind: "outage", label: `outage: ${number(failed)} of ${plural(of, "measurement")} from ${instant(from, "minute")} to ${instant(to, "minute")} found it away` }));
}

/** `name value`, or the value alone for a table. */
const told = (name, text) => (point, bare) => {
  const value = text(point);
  return value == null ? null : `${bare ? "" : `${name} `}${value}`;
};

function levelData(data) {
  const base = frame(data);
  const present = SEVERITY.filter((level) => base.points.some((point) => point.worst === level));
  return { ...base, level: (point) => point.worst, legend: present.reverse().map((level) => [`level ${level}`, level]), series: [
    { name: "worst", show: (point) => point.worst },
    { name: "judged", show: (point) => SEVERITY.filter((level) => point[level] > 0).map((level) => `${number(point[level])} ${level}`).join(", ") },
  ] };
}

function responseData(data, outages) {
  const each = (name, which, mark) => ({ name, mark, read: (point) => point.latency_ms?.[which], show: told(name, (point) => point.latency_ms && millis(point.latency_ms[which])) });
  return { ...frame(data, outages), spread: ({ latency_ms: ms }) => [ms?.min ?? 0, ms?.max ?? 0], legend: [["spread", "lowest to highest"]], series: [each("average", "avg", "line"), each("lowest", "min"), each("highest", "max")] };
}

function sessionData(data, outages) {
  const base = frame(data, outages);
  const average = (point, state) => point[state]?.avg ?? 0;
  const other = (point) => Math.max(0, average(point, "total") - average(point, "active") - average(point, "idle") - average(point, "idle_in_transaction"));
  const round = (v) => number(Math.round(v * 10) / 10);
  const state = (name, mark) => ({ name: words(name), mark, read: (point) => (point.total ? average(point, name) : null), show: told(words(name), (point) => point[name] && round(point[name].avg)) });
  const most = (name, of) => ({ name, show: told(name, (point) => point[of] && number(point[of].max)) });
  const limit = base.points.at(-1)?.max_connections;
  const highest = Math.max(0, ...base.points.map((point) => point.saturation_max ?? 0));
  return {
    ...base, rule: limit && { value: limit, label: `max_connections ${limit}` }, idle: limit && `At most ${percent(highest)} of what may be used was, of max_connections ${limit}.`,
    series: [state("active", "active"), state("idle_in_transaction", "in-transaction"), state("idle", "idle"), { name: "other", mark: base.points.some((point) => other(point) > 0.05) && "other", read: other, show: told("other", (point) => round(other(point))) },
      most("most at once", "total"), most("waiting for locks", "waiting"), { name: "saturation", show: told("saturation", (point) => percent(point.saturation_max)) }],
  };
}
