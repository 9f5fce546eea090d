// The header's tools, the banners, and the status bar of the current database.

import { h } from "./dom.js";
import { ago, brief, clock, lasting, millis, now, words, zone } from "./format.js";
import {
  button,
  definitions,
  describeError,
  muted,
  prose,
  status,
  visuallyHidden,
} from "./widgets.js";

/** The name of the database, or a list to choose one from. */
export function targetChooser(ctx) {
  const targets = ctx.health.data?.targets ?? {};
  const names = Object.keys(targets);
  if (names.length < 2)
    return (
      ctx.target &&
      h("span", { class: "target", title: "the database shown on this page" }, ctx.target)
    );
  const option = (name) => {
    const { status: state } = targets[name];
    return h("option", { value: name }, state === "healthy" ? name : `${name} (${state})`);
  };
  const choose = (event) => ctx.go({ target: event.target.value });
  return h(
    "label",
    {},
    visuallyHidden("Database"),
    h("select", { id: "target", value: ctx.target, onchange: choose }, names.map(option)),
  );
}

/** The buttons for time zone and theme, and sign-in or sign-out. */
export function tools(ctx, { setPreference, signOut }) {
  const theme = document.documentElement.dataset.theme ?? "auto";
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const { who } = ctx;
  return [
    button(zone(), () => setPreference("clock", clock.utc ? "local" : "utc"), {
      kind: "quiet",
      id: "clock",
      title: `The time zone of the page; change to ${clock.utc ? "local time" : "UTC"}`,
      "aria-label": `Times are shown in ${zone()}; change`,
    }),
    button(`Theme: ${theme}`, () => setPreference("theme", next), {
      kind: "quiet",
      id: "theme",
      "aria-label": `Theme: ${theme}; change to ${next}`,
    }),
    who &&
      h("span", { class: "who", title: `signed in as ${who.actor}` }, `${who.actor} · ${who.role}`),
    who
      ? button("Sign out", signOut, { id: "sign-out" })
      : button("Sign in", ctx.signIn, { kind: "main", id: "sign-in" }),
  ];
}

/** What the page shows in place of the status while no current status is known. */
function currentOutage(ctx) {
  if (ctx.lost()) {
    const { status: code } = ctx.health.error;
    const proxy = code ? `A proxy answered with ${code}. ` : "";
    return {
      id: "banner-lost",
      title: "pgsteward does not respond",
      since: ctx.lostSince,
      note: `${proxy}The page shows the last known data and retries every few seconds.`,
    };
  }
  const connectivity = ctx.current()?.components.connectivity;
  if (connectivity?.status !== "unhealthy") return null;
  return {
    id: "banner-outage",
    title: `The database ${ctx.target} cannot be reached`,
    reason: words(connectivity.reason),
    since: connectivity.since,
    note: "Health and data held in memory remain available; other data returns with the database.",
  };
}

export function banners(ctx) {
  const { error } = ctx.health;
  const current = ctx.current();
  if (error && !ctx.lost()) {
    return h(
      "div",
      { key: "error", class: "banner bad" },
      prose(describeError(error, null, { polling: true })),
    );
  }
  if (ctx.lost() && !current) {
    return h(
      "div",
      { key: "lost", class: "banner bad", id: "banner-lost" },
      h("strong", {}, "pgsteward does not respond."),
      " The page retries every few seconds.",
    );
  }
  if (!current?.stale || currentOutage(ctx)) return null;
  return h(
    "div",
    { key: "stale", class: "banner warn", id: "banner-stale" },
    h("strong", {}, "The last measurement is stale."),
    " It was taken ",
    ago(current.checked_at),
    ".",
  );
}

export function statusBar(ctx) {
  const current = ctx.current();
  if (!current) return null;
  const outage = currentOutage(ctx);
  const { server, is_leader: isLeader, leader, paused } = ctx.details() ?? {};
  const age = (current.age_seconds ?? 0) * 1000 + (ctx.health.at ? Date.now() - ctx.health.at : 0);
  const facts = [
    ["Measured", current.age_seconds == null ? "not yet" : ago(new Date(now() - age))],
    ["Response", millis(current.response_ms)],
    server && ["PostgreSQL", `${server.version}, ${server.in_recovery ? "standby" : "primary"}`],
    isLeader !== undefined && [
      "This instance",
      isLeader ? "is the leader" : leader ? "is not the leader" : "has no leader",
    ],
  ].filter(Boolean);
  const level = outage ? "unhealthy" : ctx.follows() ? "unknown" : current.status;
  return h(
    "div",
    {
      key: "bar",
      class: `bar ${level}`,
      id: "overall",
      "data-status": current.status,
      "data-reason": current.reason ?? "",
    },
    outage
      ? outageSummary(outage)
      : h("div", { class: "verdict" }, statusSummary(ctx, current, level, leader)),
    paused &&
      h("div", { id: "all-paused" }, status("paused", "jobs paused"), muted(` by ${paused.by}`)),
    definitions(facts),
  );
}

function statusSummary(ctx, current, level, leader) {
  const onlyConnection = Object.keys(current.components).length === 1 ? "connection only" : null;
  const [name, reason, since] = ctx.follows()
    ? ["not the leader", leader ? `measured by ${leader}` : "no instance is the leader"]
    : [
        current.status,
        current.status === "healthy" ? onlyConnection : words(current.reason ?? ""),
        current.since,
      ];
  return [
    status(level, name),
    reason && h("strong", {}, reason),
    since && muted("since ", brief(since), " (", lasting(since), ")"),
  ];
}

function outageSummary({ id, title, reason, since, note }) {
  return h(
    "div",
    { class: "outage-summary", id },
    h(
      "p",
      {},
      status("unhealthy", title),
      reason && ` (${reason})`,
      " since ",
      brief(since),
      " (",
      lasting(since),
      "). ",
    ),
    h("p", { class: "muted" }, note),
  );
}
