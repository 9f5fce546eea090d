// The page's frame: the polls that always run, the address, the current view, and the session.

import { ApiError, get, hasToken, onRefused, request, useToken } from "./api.js";
import { audit } from "./audit.js";
import { h, patch } from "./dom.js";
import { capital, clock, tick } from "./format.js";
import { jobs } from "./jobs.js";
import { maintenance } from "./maintenance.js";
import { migrations } from "./migrations.js";
import { confirm, notify } from "./notices.js";
import { overview } from "./overview.js";
import { Poll } from "./poll.js";
import { openSignIn } from "./signin.js";
import { banners, statusBar, targetChooser, tools } from "./status.js";
import { tables } from "./tables.js";
import { button, describeError, loading } from "./widgets.js";

const VIEWS = { overview, jobs, tables, maintenance, migrations, audit };
const RANK = { user: 1, viewer: 2, operator: 3, admin: 4 };
// The views for the role `user`, which may read its own events only.
const USER_VIEWS = ["overview", "audit"];
const HEALTH_MS = 5000;
const element = (id) => document.getElementById(id);

/** The context that every view receives. */
const ctx = {
  who: null,
  target: null,
  range: "1h",
  /** Since when pgsteward does not respond; null while it does. */
  lostSince: null,
  /** The components as last measured, by name. */
  lastKnown: new Map(),
  can: (role) => (RANK[ctx.who?.role] ?? 0) >= RANK[role],
  role: () => ctx.who?.role ?? null,
  /** Why the current role may not act as `role`; null if it may. Buttons show it. */
  denied(role) {
    if (ctx.can(role)) return null;
    return ctx.who
      ? `needs the role ${role}; yours is ${ctx.who.role}`
      : `needs a sign-in as ${role}`;
  },
  query: (more) => ({ target: ctx.target, ...more }),
  rerender: schedule,
  go: (changes) => {
    location.hash = formatHash({ ...parseHash(), ...changes });
  },
  /** The link to a view, or to one row (`at`) of its table. */
  address: (changes) => `#${formatHash({ ...parseHash(), at: null, ...changes })}`,
  lost: () => ctx.lostSince !== null,
  /** The health of the current database, as everybody may read it. */
  current: () => health.data?.targets[ctx.target] ?? null,
  /** The details of the current database; null if they are not known or belong to another one. */
  details: () => (database.data?.target === ctx.target ? database.data : null),
  /** Whether this instance is not the leader. Its "healthy" then covers its own connection only. */
  follows: () => ctx.details()?.is_leader === false,
  signIn: () => openSignIn(onSignedIn),
  /** Reports a failed action. */
  failed(what, error) {
    if (!(error instanceof ApiError)) console.error(error);
    notify(`${what}: ${describeError(error, ctx.role())}`, "bad");
  },
  notify,
  confirm,
};

let view = null;
let announced = "";
let rowToReveal = null;

// ---- the polls that always run

const health = new Poll((signal) => get("health/", {}, signal), HEALTH_MS, onHealth, {
  backoff: false,
});
const database = new Poll(
  (signal) => get("health/database", ctx.query(), signal),
  HEALTH_MS,
  onDatabase,
  { backoff: false },
);
Object.assign(ctx, { health, database });

function onHealth() {
  const lost = health.error?.code === "unreachable";
  ctx.lostSince = lost ? (ctx.lostSince ?? health.at ?? Date.now()) : null;
  const names = Object.keys(health.data?.targets ?? {});
  if (names.length > 0 && !names.includes(ctx.target)) {
    const { target } = parseHash();
    selectTarget(names.includes(target) ? target : names[0]);
  }
  announce();
  schedule();
}

function onDatabase() {
  const { data, error } = database;
  const measured = error
    ? []
    : data.components.filter((component) => component.reason !== "not_measured");
  for (const component of measured)
    ctx.lastKnown.set(component.name, { ...component, last: data.checked_at });
  schedule();
}

/** Announces a changed status to screen readers, and reloads the view. */
function announce() {
  const current = ctx.current();
  const text = ctx.lost()
    ? "pgsteward does not respond"
    : current
      ? `${ctx.target} is ${current.status}`
      : "";
  if (text === announced) return;
  if (announced) {
    element("announcer").textContent = text;
    for (const poll of view?.polls() ?? []) poll.now();
    if (ctx.can("viewer")) database.now();
  }
  announced = text;
}

function selectTarget(target) {
  ctx.target = target;
  restartDatabasePoll();
  showView();
}

/** Drops the details of the former database or person, and polls those of the current one. */
function restartDatabasePoll() {
  database.stop();
  database.data = null;
  ctx.lastKnown.clear();
  if (ctx.can("viewer") && ctx.target !== null) database.start();
}

// ---- the address: #view?target=…&range=…&at=…

function parseHash() {
  const [name, query] = location.hash.slice(1).split("?");
  const params = new URLSearchParams(query);
  const [target, range, at] = ["target", "range", "at"].map((key) => params.get(key));
  return { view: Object.hasOwn(VIEWS, name) ? name : "overview", target, range, at };
}

function formatHash({ view: name, ...rest }) {
  const params = new URLSearchParams(Object.entries(rest).filter(([, value]) => value));
  return `${name}${params.size ? `?${params}` : ""}`;
}

function onHash() {
  if (location.hash === "#content") return;
  const { target, range, at } = parseHash();
  ctx.range = range ?? "1h";
  rowToReveal = at;
  if (target && target !== ctx.target && health.data?.targets[target]) selectTarget(target);
  else showView();
}

/** Shows the view of the address: a new one for another view, database or person. */
function showView() {
  const { view: name } = parseHash();
  const identity = JSON.stringify([name, ctx.target, ctx.who]);
  if (view?.identity === identity) view.moved?.();
  else {
    const changed = view && view.name !== name;
    view?.stop();
    view = { ...VIEWS[name](ctx), name, identity };
    for (const poll of view.polls()) poll.start();
    element("content").replaceChildren();
    if (changed) scrollTo(0, 0);
  }
  schedule();
}

// ---- drawing

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
  });
}

function draw() {
  const { view: name } = parseHash();
  const title = capital(name);
  patch(element("version"), [health.data?.version ?? ""]);
  patch(element("chooser"), targetChooser(ctx));
  patch(element("tools"), tools(ctx, { setPreference, signOut: onSignOut }));
  patch(element("views"), navigation(name));
  patch(element("status"), [banners(ctx), statusBar(ctx)]);
  const heading = h(
    "h1",
    { key: "title", class: "visually-hidden" },
    ctx.target ? `${title} of ${ctx.target}` : title,
  );
  patch(element("content"), [heading, content()]);
  document.body.classList.toggle("lost", ctx.lost());
  document.title = `${shortStatus()} · ${title} · ${ctx.target ?? ""} · pgsteward`;
  makeScrollable();
  revealRow();
}

function navigation(current) {
  const visible = (name) =>
    !ctx.who || ctx.can("viewer") || USER_VIEWS.includes(name) || name === current;
  const link = (name) =>
    h(
      "a",
      {
        key: name,
        href: ctx.address({ view: name }),
        "aria-current": name === current ? "page" : null,
      },
      capital(name),
    );
  return Object.keys(VIEWS).filter(visible).map(link);
}

function content() {
  if (view && health.data) return view.render();
  return health.error
    ? h("p", { class: "muted", key: "nothing" }, "No data until pgsteward responds.")
    : loading();
}

function shortStatus() {
  if (ctx.lost()) return "no response";
  return ctx.follows() ? "not the leader" : (ctx.current()?.status ?? "…");
}

/** Lets the keyboard reach what scrolls sideways. */
function makeScrollable() {
  for (const area of document.querySelectorAll("main .scroll:not(.tall)")) {
    if (area.scrollWidth <= area.clientWidth + 1) continue;
    const ariaLabel = area.querySelector("caption")?.textContent ?? "Table";
    Object.assign(area, { tabIndex: 0, role: "group", ariaLabel });
  }
}

/** Opens the row that the address names, once it is there. */
function revealRow() {
  const row =
    rowToReveal && document.querySelector(`main tr[data-key="${CSS.escape(rowToReveal)}"]`);
  if (!row) return;
  rowToReveal = null;
  row.scrollIntoView({ block: "center" });
  const opener = row.querySelector("button[aria-expanded]");
  if (opener?.getAttribute("aria-expanded") === "false") opener.click();
  opener?.focus({ preventScroll: true });
}

// ---- preferences, for as long as the tab is open

function setPreference(name, value) {
  sessionStorage.setItem(`pgsteward.${name}`, value);
  applyPreferences();
  view?.moved?.();
  schedule();
}

function applyPreferences() {
  clock.utc = sessionStorage.getItem("pgsteward.clock") === "utc";
  const theme = sessionStorage.getItem("pgsteward.theme");
  if (theme && theme !== "auto") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// ---- the session

function onSignedIn(who) {
  ctx.who = who;
  element("notes").querySelector(".expired")?.remove();
  restartDatabasePoll();
  health.now();
  // Events of one's own are all that the role `user` may read.
  if (!ctx.can("viewer") && ctx.can("user") && location.hash === "") ctx.go({ view: "audit" });
  const before = view;
  showView();
  // The same person signed in again: the view keeps its typed text, and polls again.
  if (view === before) for (const poll of view.polls()) poll.start();
}

function endSession() {
  useToken(null, false);
  for (const poll of view?.polls() ?? []) poll.stop();
  ctx.who = null;
  restartDatabasePoll();
  health.now();
}

function onSignOut() {
  endSession();
  showView();
  draw();
  element("sign-in").focus();
}

function onTokenRefused(error) {
  const signedIn = ctx.who;
  endSession();
  schedule();
  if (!signedIn) return;
  const action = button("Sign in", ctx.signIn, { kind: "main" });
  const expired = error.status === 401;
  const why = expired
    ? "your token is no longer accepted. It expired or was removed."
    : describeError(error);
  notify(`Signed out: ${why}`, "bad expired", { sticky: true, action });
  action.focus();
}

/** Resumes the session of a token that the tab kept, once the API has accepted it. */
async function resumeSession() {
  if (!hasToken()) return;
  try {
    onSignedIn(await request("whoami"));
  } catch (error) {
    if (error.status === 401 || error.status === 403) endSession();
    else setTimeout(resumeSession, HEALTH_MS);
  }
}

// ---- start

onRefused(onTokenRefused);
applyPreferences();
element("skip").onclick = (event) => {
  event.preventDefault();
  element("content").focus();
};
addEventListener("hashchange", onHash);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const poll of [health, database, ...(view?.polls() ?? [])]) poll.wake();
});
setInterval(() => document.hidden || tick(), 1000);
addEventListener("resize", schedule);
ctx.range = parseHash().range ?? "1h";
rowToReveal = parseHash().at;
health.start();
resumeSession();
showView();
