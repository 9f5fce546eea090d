// The health of the database: its problems with their remedies, its components, and its trends.

import { h } from "./dom.js";
import {
  ago,
  brief,
  capital,
  lasting,
  millis,
  number,
  percent,
  span,
  value,
  when,
  words,
} from "./format.js";
import { trends } from "./trends.js";
import {
  definitions,
  muted,
  opener,
  panel,
  prose,
  sql,
  status,
  table,
  toggleIn,
} from "./widgets.js";

const WORST_FIRST = ["unhealthy", "degraded", "unknown", "healthy"];
const MAX_JOBS_LINKED = 5;

export function overview(ctx) {
  const opened = new Set();
  const charts = trends(ctx);
  return {
    polls: () => (ctx.can("viewer") ? charts.polls : []),
    moved: charts.moved,
    stop: charts.stop,
    render() {
      const current = ctx.current();
      if (!current) return [];
      const details = ctx.can("viewer") ? ctx.details() : null;
      const components =
        details?.components ??
        Object.entries(current.components).map(([name, part]) => ({ name, ...part }));
      return [
        problems(ctx, components, details),
        // Without a session the panel offers the sign-in; a role below viewer does not see it.
        (!ctx.who || ctx.can("viewer")) && charts.render(),
        h(
          "div",
          { key: "columns", class: "columns" },
          componentList(
            ctx,
            withLastKnown(components, details?.is_leader ? ctx.lastKnown : new Map()),
            opened,
          ),
          details && serverFacts(details),
        ),
      ];
    },
  };
}

/** The components; one that cannot be measured is shown as last measured, at the time `last`. */
function withLastKnown(components, lastKnown) {
  const fresh = new Map(
    components.map((component) => [component.name, { ...component, last: null }]),
  );
  const notMeasured = (name) => (fresh.get(name)?.reason ?? "not_measured") === "not_measured";
  return [...new Set([...lastKnown.keys(), ...fresh.keys()])].map(
    (name) => (notMeasured(name) && lastKnown.get(name)) || fresh.get(name),
  );
}

// ---- problems

function problems(ctx, components, details) {
  const items = [...componentProblems(ctx, components), ...otherProblems(ctx, components, details)];
  const [title, text] =
    items.length === 0
      ? noProblems(ctx, components, details)
      : [`${ctx.lost() ? "Last known problems" : "Problems"} (${items.length})`];
  return panel(ctx, {
    id: "problems",
    title,
    needs: null,
    body: () => (text ? h("p", { class: "muted" }, text) : h("ul", { class: "findings" }, items)),
  });
}

function componentProblems(ctx, components) {
  const rank = (component) => WORST_FIRST.indexOf(component.status);
  const bad = components
    .filter((component) => component.status !== "healthy")
    .sort((a, b) => rank(a) - rank(b) || new Date(a.since) - new Date(b.since));
  // During an outage most components are only "not measured": one line for all of them.
  const notMeasured = bad.filter((component) => component.reason === "not_measured");
  if (notMeasured.length < 3) return bad.map((component) => componentProblem(ctx, component));
  const names = notMeasured.map((component) => words(component.name)).join(", ");
  return [
    ...bad
      .filter((component) => component.reason !== "not_measured")
      .map((component) => componentProblem(ctx, component)),
    problem({
      status: "unknown",
      title: "Not measured",
      message: `${names}: the database does not respond.`,
    }),
  ];
}

function componentProblem(ctx, component) {
  const { name, message, remedy, since } = component;
  const signIn = !message && !ctx.who && "Sign in to read the message and the remedy.";
  return problem({
    status: component.status,
    title: words(name),
    reason: words(component.reason),
    since,
    message,
    remedy: [
      remedy && remedyText(remedy, ctx),
      message && moreAbout(ctx, component),
      signIn,
    ].filter(Boolean),
  });
}

function otherProblems(ctx, components, details) {
  if (!details) return [];
  const { paused, unavailable } = details;
  const isPaused = components.some((component) => component.reason === "paused");
  return [
    ...details.components
      .filter(
        ({ name, status: is, measured }) =>
          name === "jobs" && is === "healthy" && measured?.warnings > 0,
      )
      .map((component) =>
        problem({
          status: "degraded",
          title: "jobs",
          message: component.message,
          remedy: moreAbout(ctx, component),
        }),
      ),
    ...(paused && !isPaused
      ? [
          problem({
            status: "degraded",
            title: "jobs are paused",
            since: paused.at,
            message: [`All jobs are paused by ${paused.by}`, paused.reason]
              .filter(Boolean)
              .join(": "),
            remedy: ["Resume them in ", viewLink(ctx, "jobs"), "."],
          }),
        ]
      : []),
    ...(unavailable ?? []).map(({ what, code, reason, remedy }) =>
      problem({
        status: "unknown",
        title: `${what} cannot be read`,
        reason: words(code),
        message: reason,
        remedy: remedy && remedyText(remedy, ctx),
      }),
    ),
  ];
}

/** One problem: what is known of it, and what to do. */
function problem({ status: level, title, reason, since, message, remedy }) {
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
      message && h("p", { class: "found" }, prose(message)),
      remedy?.length > 0 && h("p", { class: "remedy" }, muted("Remedy: "), remedy),
    ),
  );
}

/** A remedy is a statement, which is shown with a button to copy it, or a sentence. */
const remedyText = (text, ctx) =>
  /^[A-Z]{3,} /.test(text) ? sql(text, ctx) : [prose(capital(text)), ". "];

/** Title and text without problems. They claim no more than was measured. */
function noProblems(ctx, components, details) {
  if (ctx.lost())
    return ["Problems are not known", "No problem was known when pgsteward last responded."];
  if (components.length === 0)
    return ["No measurement yet", "The first measurement has not finished."];
  if (details && !details.is_leader) {
    const leader = details.leader;
    const who = leader
      ? `The leader ${leader} measures the rest of the database.`
      : "No instance is the leader at the moment, so nothing else is measured.";
    return [
      "This instance is not the leader",
      `It checks its own connection only, and the connection works. ${who}`,
    ];
  }
  // Without details: an instance that is not the leader, or one that has just started.
  if (components.length === 1)
    return ["The connection works", "This instance has measured nothing else."];
  return ["No problems", `All ${components.length} components are healthy.`];
}

// The view that shows more about a component, or offers an action for it.
const VIEW_OF = {
  jobs: "jobs",
  schema: "migrations",
  partitions: "maintenance",
  wraparound: "maintenance",
  audit: "audit",
};

const viewLink = (ctx, view, at) =>
  h("a", { href: ctx.address({ view, at }) }, at ?? `the view ${capital(view)}`);

function moreAbout(ctx, component) {
  const failing = (component.name === "jobs" && component.measured?.failing) || [];
  if (failing.length > 0) {
    const links = failing
      .slice(0, MAX_JOBS_LINKED)
      .map((job, i) => [i ? ", " : "", viewLink(ctx, "jobs", job)]);
    const rest = failing.length - links.length;
    return ["Failing: ", links, rest > 0 ? ` and ${rest} more.` : "."];
  }
  return VIEW_OF[component.name] ? ["More in ", viewLink(ctx, VIEW_OF[component.name]), "."] : null;
}

// ---- components

function componentList(ctx, components, opened) {
  const detailed = components.some((component) => component.measured !== undefined);
  const name = (component) =>
    component.measured === undefined
      ? words(component.name)
      : opener(words(component.name), opened.has(component.name), () =>
          toggleIn(ctx, opened, component.name),
        );
  const state = (component) =>
    component.last ? status("unknown", `was ${component.status}`) : status(component.status);
  const about = () => {
    if (detailed) return null;
    return ctx.who
      ? `Your role (${ctx.role()}) may read statuses, not measurements.`
      : "Sign in to see the measurements.";
  };
  return panel(ctx, {
    id: "components",
    title: "Components",
    needs: null,
    about: about(),
    body: () =>
      table({
        caption: "Components of health",
        name: "component-list",
        rows: components,
        key: (component) => component.name,
        empty: "No measurement yet.",
        columns: [
          ["Component", "lead", name],
          ["Status", "", state],
          detailed && ["Message", "wide", componentMessage],
          ["Duration", "number", ({ last, since }) => (last ? "–" : lasting(since))],
        ].filter(Boolean),
        more: (component) =>
          opened.has(component.name) &&
          h(
            "div",
            { class: "below" },
            h(
              "p",
              { class: "muted" },
              "Reason ",
              h("code", {}, component.reason),
              ", since ",
              when(component.since),
            ),
            value(component.measured),
          ),
      }),
  });
}

function componentMessage({ last, message, reason }) {
  if (last) return muted("Not measured since ", brief(last), ". Last message: ", prose(message));
  if (message) return prose(message);
  return reason === "ok" ? "" : words(reason);
}

// ---- server and connections

function serverFacts(details) {
  const { server, connections, pool, connect_ms: connect, replication, migrations } = details;
  const join = (entries, text) =>
    Object.entries(entries ?? {})
      .map(text)
      .filter(Boolean)
      .join(", ") || "–";
  const facts = [
    server && ["Database", `${server.database}, as ${server.role}`],
    server && [
      "Server",
      `PostgreSQL ${server.version}, ${server.in_recovery ? "standby" : "primary"}`,
    ],
    server && ["Started", ago(server.started_at)],
    ...(connections ? connectionFacts(connections, server, join) : []),
    ["Time to connect", join(connect, ([step, ms]) => ms != null && `${step} ${millis(ms)}`)],
    ["Own connections", join(pool, ([name, { open, max }]) => `${name} ${open} of ${max}`)],
    ["Migrations", words(migrations?.state ?? "–")],
  ].filter(Boolean);
  const missing = server ? null : missingServer(details);
  return h(
    "section",
    { key: "server", class: "panel", id: "server", "aria-labelledby": "server-title" },
    h(
      "header",
      {},
      h("h2", { id: "server-title" }, "Server"),
      missing && h("p", { class: "muted" }, missing),
    ),
    definitions(facts, "facts wide"),
    replication && h("details", {}, h("summary", {}, "Replication"), value(replication)),
  );
}

function missingServer({ is_leader: isLeader, leader }) {
  if (isLeader) return "The server cannot be queried at the moment.";
  return leader
    ? `The leader ${leader} measures the server.`
    : "No instance is the leader at the moment.";
}

function connectionFacts(connections, server, join) {
  const { total, saturation, by_state: states, waiting, longest_wait_seconds: wait } = connections;
  return [
    [
      "Connections",
      `${number(total)} of ${number(server?.usable_connections)} usable (${percent(saturation)})`,
    ],
    ["By state", join(states, ([state, count]) => `${number(count)} ${words(state)}`)],
    ["Waiting for locks", `${number(waiting)}${wait ? `, the longest for ${span(wait)}` : ""}`],
    ["Oldest transaction", session(connections.oldest_transaction)],
    ["Oldest idle in transaction", session(connections.oldest_idle_in_transaction)],
  ];
}

/** The age of a session's transaction, and the session. */
function session(one) {
  if (!one) return "none";
  const { seconds, pid, user, application, state, database } = one;
  const name = application ? `${user} (${application})` : user;
  return [millis(seconds * 1000), muted(`: pid ${pid}, ${name}, ${state}, in ${database}`)];
}
