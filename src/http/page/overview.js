// How the database is, what is wrong with it and what to do, and how it was.

import { get } from "./api.js";
import { Chart, gaps } from "./charts.js";
import { h, slot } from "./dom.js";
import {
  ago,
  brief,
  capital,
  instant,
  lasting,
  millis,
  now,
  number,
  percent,
  plural,
  span,
  value,
  when,
  words,
} from "./format.js";
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
      const full =
        ctx.can("viewer") && ctx.database.data?.target === ctx.target ? ctx.database.data : null;
      const components =
        full?.components ??
        Object.entries(open.components).map(([name, part]) => ({ name, ...part }));
      return [
        wrong(ctx, components, full),
        // Whoever signed in and may not read it is not shown what they cannot have.
        (!ctx.who || ctx.can("viewer")) && charts.render(),
        h(
          "div",
          { key: "columns", class: "columns" },
          parts(ctx, remembered(components, full?.observer ? ctx.kept : new Map()), opened),
          full && facts(full),
        ),
      ];
    },
  };
}

/** The components; `last` is when those were measured that cannot be measured now. */
function remembered(components, kept) {
  const fresh = new Map(components.map((part) => [part.name, { ...part, last: null }]));
  const unmeasured = (name) => (fresh.get(name)?.reason ?? "not_measured") === "not_measured";
  return [...new Set([...kept.keys(), ...fresh.keys()])].map(
    (name) => (unmeasured(name) && kept.get(name)) || fresh.get(name),
  );
}

// ---- what is wrong, and what to do

/** A remedy is a statement, which is shown to be copied, or a sentence. */
const remedyText = (text, ctx) =>
  /^[A-Z]{3,} /.test(text) ? sql(text, ctx) : [prose(capital(text)), ". "];

function wrong(ctx, components, full) {
  const bad = components
    .filter((part) => part.status !== "healthy")
    .sort(
      (a, b) =>
        SEVERITY.indexOf(a.status) - SEVERITY.indexOf(b.status) ||
        new Date(a.since) - new Date(b.since),
    );
  // In an outage most of them only say that they could not be measured.
  const blind = bad.filter((part) => part.reason === "not_measured");
  const items = bad
    .filter((part) => part.reason !== "not_measured" || blind.length < 3)
    .map((part) => finding(ctx, part));
  if (blind.length >= 3) {
    items.push(
      item(
        "unknown",
        "Not measured",
        null,
        `${blind.map((part) => words(part.name)).join(", ")}: for want of an answer from the database.`,
      ),
    );
  }
  const warned = full?.components.find(
    (part) => part.name === "jobs" && part.status === "healthy" && part.measured?.warnings > 0,
  );
  if (warned) items.push(item("degraded", "jobs", null, warned.message, leads(ctx, warned)));
  if (full?.paused && !bad.some((part) => part.reason === "paused")) {
    const { by, at, reason } = full.paused;
    items.push(
      item(
        "degraded",
        "jobs are paused",
        at,
        `All jobs are paused by ${by}${reason ? `: ${reason}` : "."}`,
        ["Resume them in ", link(ctx, "jobs"), "."],
      ),
    );
  }
  for (const { what, code, reason, mend } of full?.unseen ?? []) {
    items.push(
      item(
        "unknown",
        `${what} cannot be seen`,
        null,
        reason,
        mend && remedyText(mend, ctx),
        words(code),
      ),
    );
  }
  const [title, text] =
    items.length === 0
      ? allWell(ctx, components, full)
      : [`${ctx.lost() ? "What was wrong" : "What is wrong, and what to do"} (${items.length})`];
  return panel(ctx, {
    id: "wrong",
    title,
    needs: null,
    body: () => (text ? h("p", { class: "muted" }, text) : h("ul", { class: "findings" }, items)),
  });
}

/** What may be said where nothing was found: never more than was looked at. */
function allWell(ctx, components, full) {
  if (ctx.lost())
    return ["What is wrong is not known", "Nothing was known to be when pgsteward answered last."];
  if (components.length === 0) return ["Nothing is known yet", "Nothing has been measured yet."];
  if (full && !full.observer) {
    const judge = full.observed_by
      ? `The database is judged by ${full.observed_by}: what is wrong is told there.`
      : "No instance observes the database at the moment, so nothing else is judged.";
    return [
      "This instance stands by",
      `It checks nothing but its connection, and that works. ${judge}`,
    ];
  }
  // An instance that stands by, told to whom it does not say so; or one that has just begun.
  if (components.length === 1)
    return ["The connection works", "Nothing else has been judged by this instance."];
  return ["Nothing is wrong", `All ${components.length} components are healthy.`];
}

// Where there is more about a component, or something to be done about it.
const VIEW_OF = {
  jobs: "jobs",
  schema: "migrations",
  partitions: "upkeep",
  wraparound: "upkeep",
  audit: "audit",
};

const link = (ctx, view, at) =>
  h("a", { href: ctx.address({ view, at }) }, at ?? `the view ${capital(view)}`);

function leads(ctx, part) {
  const failing = (part.name === "jobs" && part.measured?.failing) || [];
  if (failing.length > 0)
    return [
      "Failing: ",
      failing.slice(0, 5).map((job, i) => [i ? ", " : "", link(ctx, "jobs", job)]),
      failing.length > 5 ? ` and ${failing.length - 5} more.` : ".",
    ];
  return VIEW_OF[part.name] ? ["More in ", link(ctx, VIEW_OF[part.name]), "."] : null;
}

function finding(ctx, part) {
  if (!part.message)
    return item(
      part.status,
      words(part.name),
      part.since,
      null,
      ctx.who ? null : "Sign in to read the finding and the remedy.",
      words(part.reason),
    );
  const remedy = [part.remedy && remedyText(part.remedy, ctx), leads(ctx, part)].filter(Boolean);
  return item(part.status, words(part.name), part.since, part.message, remedy, words(part.reason));
}

function item(level, title, since, found, mend, reason) {
  return h(
    "li",
    { key: `${title}-${reason ?? ""}`, "data-level": level },
    status(level, ""),
    h(
      "div",
      {},
      h(
        "p",
        {},
        h("strong", {}, title),
        muted(` ${level}${reason ? ` · ${reason}` : ""}`, since && [" · for ", lasting(since)]),
      ),
      found && h("p", { class: "found" }, prose(found)),
      mend?.length > 0 && h("p", { class: "mend" }, h("span", {}, "To do: "), mend),
    ),
  );
}

// ---- components

function parts(ctx, components, opened) {
  const detailed = components.some((part) => part.measured !== undefined);
  const state = (part) =>
    part.last ? status("unknown", `was ${part.status}`) : status(part.status);
  const found = (part) =>
    part.last
      ? muted("Not measured since ", brief(part.last), ". It was: ", prose(part.message))
      : part.message
        ? prose(part.message)
        : part.reason === "ok"
          ? ""
          : words(part.reason);
  const about = detailed
    ? null
    : ctx.who
      ? `Your role (${ctx.role()}) is shown how they are, not what was measured.`
      : "Sign in to see what was measured.";
  return panel(ctx, {
    id: "components",
    title: "Components",
    needs: null,
    about,
    body: () =>
      table({
        caption: "Components of health",
        name: "component-list",
        rows: components,
        key: (part) => part.name,
        empty: "Nothing has been measured yet.",
        columns: [
          [
            "Component",
            "lead",
            (part) =>
              part.measured !== undefined
                ? opener(words(part.name), opened.has(part.name), () =>
                    flip(ctx, opened, part.name),
                  )
                : words(part.name),
          ],
          ["Status", "", state],
          detailed && ["Found", "wide", found],
          ["For", "number", (part) => (part.last ? "–" : lasting(part.since))],
        ].filter(Boolean),
        more: (part) =>
          opened.has(part.name) &&
          h(
            "div",
            { class: "below" },
            h(
              "p",
              { class: "muted" },
              "Reason ",
              h("code", {}, part.reason),
              ", since ",
              when(part.since),
            ),
            value(part.measured),
          ),
      }),
  });
}

// ---- server and connections

function facts({
  server,
  connections: used,
  pool,
  connect_ms: connect,
  replication,
  migrations,
  observer,
  observed_by: holder,
}) {
  const each = (of, tell) =>
    Object.entries(of ?? {})
      .map(tell)
      .filter(Boolean)
      .join(", ") || "–";
  const list = [
    ...(server
      ? [
          ["Database", `${server.database}, as ${server.role}`],
          ["Server", `PostgreSQL ${server.version}, ${server.in_recovery ? "standby" : "primary"}`],
          ["Started", ago(server.started_at)],
        ]
      : []),
    ...(used
      ? [
          [
            "Connections",
            `${number(used.total)} of ${number(server?.usable_connections)} usable (${percent(used.saturation)}), pgsteward's own among them`,
          ],
          ["By state", each(used.by_state, ([state, count]) => `${number(count)} ${words(state)}`)],
          [
            "Waiting for locks",
            `${number(used.waiting)}${used.longest_wait_seconds ? `, the longest for ${span(used.longest_wait_seconds)}` : ""}`,
          ],
          ["Oldest transaction", session(used.oldest_transaction)],
          ["Oldest idle in one", session(used.oldest_idle_in_transaction)],
        ]
      : []),
    ["To connect", each(connect, ([step, ms]) => ms != null && `${step} ${millis(ms)}`)],
    ["Own connections", each(pool, ([name, { open, max }]) => `${name} ${open} of ${max}`)],
    ["Migrations", words(migrations?.state ?? "–")],
  ];
  const why = server
    ? null
    : observer
      ? "It cannot be asked at the moment."
      : holder
        ? `It is measured by ${holder}.`
        : "No instance measures it at the moment.";
  return h(
    "section",
    { key: "server", class: "panel", id: "server", "aria-labelledby": "server-title" },
    h(
      "header",
      {},
      h("h2", { id: "server-title" }, "Server"),
      why && h("p", { class: "muted" }, why),
    ),
    h(
      "dl",
      { class: "facts wide" },
      list.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown))),
    ),
    replication && h("details", {}, h("summary", {}, "Replication"), value(replication)),
  );
}

/** For how long, whose, and which process. */
function session(one) {
  if (!one) return "none";
  return [
    millis(one.seconds * 1000),
    muted(
      `: pid ${one.pid}, ${one.user}${one.application ? ` (${one.application})` : ""}, ${one.state}, in ${one.database}`,
    ),
  ];
}

// ---- how it was

function history(ctx) {
  const peers = new Set();
  const charts = {
    levels: new Chart({ title: "Status", kind: "strip", peers }),
    response: new Chart({
      title: "Response time",
      kind: "line",
      format: (v) => (v >= 1000 ? `${number(v / 1000)} s` : `${number(v)} ms`),
      peers,
    }),
    sessions: new Chart({ title: "Connections", kind: "stack", peers }),
  };
  const range = () => RANGES[ctx.range] ?? RANGES["1h"];
  const redraw = () => {
    usable = ctx.database.data?.server?.usable_connections ?? usable;
    draw(charts, polls, usable);
    ctx.rerender();
  };
  const ask = (path, bucket, more) =>
    new Poll(
      async (signal) => {
        const seconds = range()[bucket];
        // Whole buckets, so that the oldest is not half of one.
        const from = Math.floor((now() - range().ms) / 1000 / seconds) * seconds * 1000;
        const data = await get(
          path,
          ctx.query({ bucket: seconds, since: new Date(from).toISOString(), ...more }),
          signal,
        );
        return { ...data, from, to: now() };
      },
      range().every,
      redraw,
    );
  const polls = [
    ask("health/system", "health"),
    ask("health/system", "health", { component: "connectivity" }),
    ask("health/connections", "connections"),
  ];
  let shown = ctx.range;
  // Not told in an outage, in which it stays as it was.
  let usable = null;
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
      for (const poll of polls) Object.assign(poll, { every: range().every }).now();
    },
    release: () => peers.forEach((chart) => chart.release()),
    render: () =>
      panel(ctx, {
        id: "history",
        title: "Over time",
        poll: polls.find((poll) => poll.data === null && poll.error) ?? polls[1],
        about: source(polls),
        actions: choices(
          "Time shown",
          Object.entries(RANGES).map(([key, { text }]) => [key, text]),
          range() === RANGES[ctx.range] ? ctx.range : "1h",
          (key) => ctx.go({ range: key }),
        ),
        body: () => slot("charts", element),
      }),
  };
}

function source(polls) {
  const known = polls.map((poll) => poll.data).filter(Boolean);
  const memory = known.find((data) => data.source === "memory");
  const began = known.length > 0 && beginning(known);
  return [
    memory &&
      `From memory, which goes back less far: ${memory.reason ?? "the database cannot be asked"}.`,
    began && `Measured since ${brief(began, "minute")}.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** When the first measurement was, where nothing is known of a good part of the time that is shown. */
function beginning(known) {
  const first = Math.min(
    ...known.flatMap((data) => (data.buckets.length ? [Date.parse(data.buckets[0].at)] : [])),
  );
  const { from, to } = known[0];
  return first - from > (to - from) / 10 && first < to ? first : null;
}

function draw(charts, polls, usable) {
  const known = polls.map((poll) => poll.data).filter(Boolean);
  const began = known.length > 0 && beginning(known);
  // The time before is left out, but for as much as makes a few measurements readable.
  const wide = Math.max(...known.map((data) => data.bucket_seconds)) * 3000;
  const cut = (data) =>
    data && began ? { ...data, from: Math.max(data.from, Math.min(began, data.to - wide)) } : data;
  const [all, reach, used] = polls.map((poll) => cut(poll.data));
  const outages = reach ? outagesOf(reach) : [];
  if (all) charts.levels.update(levelData(all));
  if (reach) charts.response.update(responseData(reach, outages));
  if (used) charts.sessions.update(sessionData(used, outages, usable));
}

/** A bucket's point is its middle; of the newest one, what has passed of it. */
const pointsOf = (data) =>
  data.buckets.map((bucket) => {
    const begin = Date.parse(bucket.at);
    return { ...bucket, begin, t: Math.min(begin + data.bucket_seconds * 500, data.to) };
  });

/** Points, gaps and outages of an answer. */
function frame(data, outages = []) {
  const step = data.bucket_seconds * 1000;
  const points = pointsOf(data);
  const { gaps: blank, most } = gaps(points, data.from, data.to, step);
  const label = data.source === "memory" ? "not in memory" : "not measured";
  // What is known to be an outage is not called unmeasured.
  const left = outages
    .reduce((rest, out) => rest.flatMap((gap) => without(gap, out)), blank)
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

function outagesOf(data) {
  const half = data.bucket_seconds * 500;
  const found = [];
  for (const { at, unhealthy, samples } of data.buckets.filter((bucket) => bucket.unhealthy > 0)) {
    const from = Date.parse(at);
    const to = Math.min(from + 2 * half, data.to);
    const last = found.at(-1);
    if (last && from - last.to < half)
      Object.assign(last, { to, failed: last.failed + unhealthy, of: last.of + samples });
    else found.push({ from, to, failed: unhealthy, of: samples });
  }
  return found.map(({ from, to, failed, of }) => ({
    from,
    to,
    kind: "outage",
    label: `outage: ${number(failed)} of ${plural(of, "measurement")} from ${instant(from, "minute")} to ${instant(to, "minute")} found it away`,
  }));
}

/** `name value`, or the value alone for a table. */
const told = (name, text) => (point, bare) => {
  const value = text(point);
  return value == null ? null : `${bare ? "" : `${name} `}${value}`;
};

/** How something is now and how it was at most, in words. */
const summary = (data, now, most) =>
  data.buckets.length ? `now ${now}, ${most}` : "nothing measured";

function levelData(data) {
  const base = frame(data);
  const present = SEVERITY.filter((level) => base.points.some((point) => point.worst === level));
  return {
    ...base,
    level: (point) => point.worst,
    legend: [...present].reverse().map((level) => [`level ${level}`, level]),
    summary: summary(data, data.buckets.at(-1)?.worst, `at worst ${present[0]}`),
    series: [
      { name: "worst", show: (point) => point.worst },
      {
        name: "judged",
        show: (point) =>
          SEVERITY.filter((level) => point[level] > 0)
            .map((level) => `${number(point[level])} ${level}`)
            .join(", "),
      },
    ],
  };
}

function responseData(data, outages) {
  const each = (name, which, mark) => ({
    name,
    mark,
    read: (point) => point.latency_ms?.[which],
    show: told(name, (point) => point.latency_ms && millis(point.latency_ms[which])),
  });
  const last = data.buckets.at(-1)?.latency_ms;
  const text = summary(
    data,
    last ? millis(last.avg) : "no answer",
    `highest ${millis(highest(data.buckets, (bucket) => bucket.latency_ms?.max))}`,
  );
  return {
    ...frame(data, outages),
    spread: ({ latency_ms: ms }) => [ms?.min ?? 0, ms?.max ?? 0],
    legend: [["spread", "lowest to highest"]],
    summary: text,
    series: [each("average", "avg", "line"), each("lowest", "min"), each("highest", "max")],
  };
}

const highest = (buckets, read) =>
  buckets.reduce((most, bucket) => Math.max(most, read(bucket) ?? 0), 0);

function sessionData(data, outages, usable) {
  const base = frame(data, outages);
  const average = (point, state) => point[state]?.avg ?? 0;
  const other = (point) =>
    Math.max(
      0,
      average(point, "total") -
        average(point, "active") -
        average(point, "idle") -
        average(point, "idle_in_transaction"),
    );
  const round = (v) => number(Math.round(v * 10) / 10);
  const state = (name, mark) => ({
    name: words(name),
    mark,
    read: (point) => (point.total ? average(point, name) : null),
    show: told(words(name), (point) => point[name] && round(point[name].avg)),
  });
  const most = (name, of) => ({
    name,
    show: told(name, (point) => point[of] && number(point[of].max)),
  });
  const share = highest(data.buckets, (bucket) => bucket.saturation_max);
  const atMost = `at most ${usable ? `${number(Math.round(share * usable))} of ${number(usable)}` : `${percent(share)} of the`} usable connections${usable ? ` (${percent(share)})` : ""}`;
  return {
    ...base,
    rule: usable && { value: usable, label: `${usable} usable` },
    idle: data.buckets.length ? `A${atMost.slice(1)}.` : null,
    summary: summary(data, round(average(data.buckets.at(-1) ?? {}, "total")), atMost),
    series: [
      state("active", "active"),
      state("idle_in_transaction", "in-transaction"),
      state("idle", "idle"),
      {
        name: "other",
        mark: base.points.some((point) => other(point) > 0.05) && "other",
        read: other,
        show: told("other", (point) => (other(point) > 0.05 ? round(other(point)) : null)),
      },
      most("most at once", "total"),
      most("waiting for locks", "waiting"),
      {
        name: "share of the usable",
        show: told("share of the usable", (point) => percent(point.saturation_max)),
      },
    ],
  };
}
