// Charts of status, response time and connections over time, below the problems.

import { get } from "./api.js";
import { Chart, gaps } from "./charts.js";
import { h, slot } from "./dom.js";
import { brief, instant, millis, now, number, percent, plural, words } from "./format.js";
import { Poll } from "./poll.js";
import { choices, panel } from "./widgets.js";

// Length, bucket width in seconds of each kind of measurement, and time between two requests.
const RANGES = {
  "1h": { text: "1 h", ms: 3600e3, health: 30, connections: 60, every: 15e3 },
  "6h": { text: "6 h", ms: 6 * 3600e3, health: 120, connections: 120, every: 30e3 },
  "24h": { text: "24 h", ms: 24 * 3600e3, health: 600, connections: 600, every: 60e3 },
  "7d": { text: "7 d", ms: 7 * 24 * 3600e3, health: 3600, connections: 3600, every: 120e3 },
};
const WORST_FIRST = ["unhealthy", "degraded", "unknown", "healthy"];

export function trends(ctx) {
  const peers = new Set();
  const charts = {
    status: new Chart({ title: "Status", kind: "strip", peers }),
    response: new Chart({
      title: "Response time",
      kind: "line",
      format: (v) => (v >= 1000 ? `${number(v / 1000)} s` : `${number(v)} ms`),
      peers,
    }),
    connections: new Chart({ title: "Connections", kind: "stack", peers }),
  };
  const rangeName = () => (Object.hasOwn(RANGES, ctx.range) ? ctx.range : "1h");
  const range = () => RANGES[rangeName()];
  // Not known during an outage: then the last known value is used.
  let usable = null;
  const redraw = () => {
    usable = ctx.database.data?.server?.usable_connections ?? usable;
    draw(charts, polls, usable);
    ctx.rerender();
  };
  const poll = (path, kind, filter) =>
    new Poll(
      async (signal) => {
        const bucket = range()[kind];
        // Whole buckets, so that the oldest one is complete.
        const from = Math.floor((now() - range().ms) / 1000 / bucket) * bucket * 1000;
        const data = await get(
          path,
          ctx.query({ bucket, since: new Date(from).toISOString(), ...filter }),
          signal,
        );
        return { ...data, from, to: now() };
      },
      range().every,
      redraw,
    );
  const polls = [
    poll("health/system", "health"),
    poll("health/system", "health", { component: "connectivity" }),
    poll("health/connections", "connections"),
  ];
  let shown = ctx.range;
  const element = h(
    "div",
    { class: "charts" },
    Object.values(charts).map((chart) => chart.element),
  );
  return {
    polls,
    moved() {
      if (shown === ctx.range) return redraw();
      shown = ctx.range;
      return polls.forEach((one) => Object.assign(one, { every: range().every }).now());
    },
    stop() {
      for (const one of polls) one.stop();
      for (const chart of peers) chart.release();
    },
    render: () =>
      panel(ctx, {
        id: "history",
        title: "Over time",
        poll: polls.find((one) => one.data === null && one.error) ?? polls[1],
        about: coverage(polls),
        actions: choices(
          "Time shown",
          Object.entries(RANGES).map(([key, { text }]) => [key, text]),
          rangeName(),
          (key) => ctx.go({ range: key }),
        ),
        body: () => slot("charts", element),
      }),
  };
}

const loaded = (polls) => polls.map((poll) => poll.data).filter(Boolean);

/** Where the data comes from, and when it begins if that is late. */
function coverage(polls) {
  const answers = loaded(polls);
  const memory = answers.find((data) => data.source === "memory");
  const start = answers.length > 0 && lateStart(answers);
  return [
    memory &&
      `From memory, which covers less time: ${memory.reason ?? "the database cannot be queried"}.`,
    start && `Measured since ${brief(start, "minute")}.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** The time of the first measurement, if a tenth or more of the shown time comes before it. */
function lateStart(answers) {
  const first = Math.min(
    ...answers.flatMap((data) => (data.buckets.length ? [Date.parse(data.buckets[0].at)] : [])),
  );
  const { from, to } = answers[0];
  return first - from > (to - from) / 10 && first < to ? first : null;
}

function draw(charts, polls, usable) {
  const answers = loaded(polls);
  const start = answers.length > 0 && lateStart(answers);
  // The time before the first measurement is cut off, but a few buckets must stay readable.
  const least = Math.max(...answers.map((data) => data.bucket_seconds)) * 3000;
  const cut = (data) =>
    data && start ? { ...data, from: Math.max(data.from, Math.min(start, data.to - least)) } : data;
  const [all, connectivity, connections] = polls.map((poll) => cut(poll.data));
  const outages = connectivity ? outagesOf(connectivity) : [];
  if (all) charts.status.update(statusData(all));
  if (connectivity) charts.response.update(responseData(connectivity, outages));
  if (connections) charts.connections.update(connectionData(connections, outages, usable));
}

/** The middle of each bucket; of the newest bucket, the part that has passed. */
const pointsOf = (data) =>
  data.buckets.map((bucket) => {
    const begin = Date.parse(bucket.at);
    return { ...bucket, begin, t: Math.min(begin + data.bucket_seconds * 500, data.to) };
  });

/** What all charts have in common: points, gaps and outages. */
function frame(data, outages = []) {
  const step = data.bucket_seconds * 1000;
  const points = pointsOf(data);
  const { gaps: empty, most } = gaps(points, data.from, data.to, step);
  const label = data.source === "memory" ? "not in memory" : "not measured";
  // A known outage is not also a gap.
  const left = outages
    .reduce((rest, outage) => rest.flatMap((gap) => without(gap, outage)), empty)
    .filter((gap) => gap.to - gap.from > step / 4);
  return {
    from: data.from,
    to: data.to,
    step,
    points,
    most,
    bands: [...left.map((gap) => ({ ...gap, label })), ...outages],
  };
}

function without(gap, { from, to }) {
  if (to <= gap.from || from >= gap.to) return [gap];
  return [
    { ...gap, to: from },
    { ...gap, from: to },
  ].filter((rest) => rest.to > rest.from);
}

/** Adjacent buckets with failed measurements, as one outage each. */
function outagesOf(data) {
  const half = data.bucket_seconds * 500;
  const outages = [];
  for (const { at, unhealthy, samples } of data.buckets.filter((bucket) => bucket.unhealthy > 0)) {
    const from = Date.parse(at);
    const to = Math.min(from + 2 * half, data.to);
    const last = outages.at(-1);
    if (last && from - last.to < half)
      Object.assign(last, { to, failed: last.failed + unhealthy, of: last.of + samples });
    else outages.push({ from, to, failed: unhealthy, of: samples });
  }
  return outages.map(({ from, to, failed, of }) => {
    const time = `from ${instant(from, "minute")} to ${instant(to, "minute")}`;
    return {
      from,
      to,
      kind: "outage",
      label: `outage: ${number(failed)} of ${plural(of, "measurement")} failed ${time}`,
    };
  });
}

/** `name value`; the value alone for a table, where `bare` is set. */
const labelled = (name, text) => (point, bare) => {
  const value = text(point);
  return value == null ? null : `${bare ? "" : `${name} `}${value}`;
};

/** The latest and the extreme value, in words. */
const summary = (data, latest, extreme) =>
  data.buckets.length ? `now ${latest}, ${extreme}` : "nothing measured";

const highest = (buckets, read) =>
  buckets.reduce((most, bucket) => Math.max(most, read(bucket) ?? 0), 0);

function statusData(data) {
  const base = frame(data);
  const present = WORST_FIRST.filter((level) => base.points.some((point) => point.worst === level));
  const counts = (point) =>
    WORST_FIRST.filter((level) => point[level] > 0)
      .map((level) => `${number(point[level])} ${level}`)
      .join(", ");
  return {
    ...base,
    level: (point) => point.worst,
    legend: [...present].reverse().map((level) => [`level ${level}`, level]),
    summary: summary(data, data.buckets.at(-1)?.worst, `worst ${present[0]}`),
    series: [
      { name: "worst", show: (point) => point.worst },
      { name: "measurements", show: counts },
    ],
  };
}

function responseData(data, outages) {
  const series = (name, which, mark) => ({
    name,
    mark,
    read: (point) => point.latency_ms?.[which],
    show: labelled(name, (point) => point.latency_ms && millis(point.latency_ms[which])),
  });
  const last = data.buckets.at(-1)?.latency_ms;
  const most = millis(highest(data.buckets, (bucket) => bucket.latency_ms?.max));
  return {
    ...frame(data, outages),
    spread: ({ latency_ms: ms }) => [ms?.min ?? 0, ms?.max ?? 0],
    legend: [["spread", "lowest to highest"]],
    summary: summary(data, last ? millis(last.avg) : "no response", `highest ${most}`),
    series: [series("average", "avg", "line"), series("lowest", "min"), series("highest", "max")],
  };
}

const STATES = ["active", "idle_in_transaction", "idle"];

function connectionData(data, outages, usable) {
  const base = frame(data, outages);
  const average = (point, state) => point[state]?.avg ?? 0;
  const other = (point) =>
    Math.max(
      0,
      STATES.reduce((rest, state) => rest - average(point, state), average(point, "total")),
    );
  const visible = (point) => other(point) > 0.05;
  const round = (v) => number(Math.round(v * 10) / 10);
  const state = (name, mark) => ({
    name: words(name),
    mark,
    read: (point) => (point.total ? average(point, name) : null),
    show: labelled(words(name), (point) => point[name] && round(point[name].avg)),
  });
  const maximum = (name, of) => ({
    name,
    show: labelled(name, (point) => point[of] && number(point[of].max)),
  });
  const most = atMost(data, usable);
  return {
    ...base,
    rule: usable && { value: usable, label: `${usable} usable` },
    idle: data.buckets.length ? `A${most.slice(1)}.` : null,
    summary: summary(data, round(average(data.buckets.at(-1) ?? {}, "total")), most),
    series: [
      state("active", "active"),
      state("idle_in_transaction", "in-transaction"),
      state("idle", "idle"),
      {
        name: "other",
        mark: base.points.some(visible) && "other",
        read: other,
        show: labelled("other", (point) => (visible(point) ? round(other(point)) : null)),
      },
      maximum("maximum", "total"),
      maximum("waiting for locks", "waiting"),
      {
        name: "saturation",
        show: labelled("saturation", (point) => percent(point.saturation_max)),
      },
    ],
  };
}

function atMost(data, usable) {
  const share = highest(data.buckets, (bucket) => bucket.saturation_max);
  if (!usable) return `at most ${percent(share)} of the usable connections`;
  const used = number(Math.round(share * usable));
  return `at most ${used} of ${number(usable)} usable connections (${percent(share)})`;
}
