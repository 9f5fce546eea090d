// The page's frame: what is asked for all the time, the header, sign-in, notices, and which view shows.

import { ApiError, get, hasToken, onRefused, request, useToken } from "./api.js";
import { audit } from "./audit.js";
import { h, patch } from "./dom.js";
import { ago, brief, clock, lasting, millis, now, tick, words } from "./format.js";
import { jobs } from "./jobs.js";
import { migrations } from "./migrations.js";
import { overview } from "./overview.js";
import { button, explain, loading, muted, prose, status } from "./parts.js";
import { Poll } from "./poll.js";
import { tables } from "./tables.js";
import { upkeep } from "./upkeep.js";

const VIEWS = { overview: ["Overview", overview], jobs: ["Jobs", jobs], tables: ["Tables", tables], upkeep: ["Upkeep", upkeep], migrations: ["Migrations", migrations], audit: ["Audit", audit] };
const RANK = { viewer: 1, operator: 2, admin: 3 };
const HEALTH_MS = 5000;
const NOTE_MS = 9000;
const at = (id) => document.getElementById(id);

/** What views are given. */
const ctx = {
  who: null,
  target: null,
  range: "1h",
  can: (role) => (RANK[ctx.who?.role] ?? 0) >= RANK[role],
  role: () => ctx.who?.role ?? null,
  /** Why somebody may not, or null: for buttons. */
  lacks: (role) => (ctx.can(role) ? null : ctx.who ? `needs the role ${role}; yours is ${ctx.who.role}` : `needs a sign-in as ${role}`),
  query: (more) => ({ target: ctx.target, ...more }),
  rerender: schedule,
  go: (changes) => { location.hash = hashOf({ ...place(), ...changes }); },
  notify, confirm, signIn, forget, failed,
};

let view = null;
let reachable = { since: null };
let told = "";

// ---- what is asked for all the time

const health = new Poll((signal) => get("health/", {}, signal), HEALTH_MS, onHealth, { patient: false });
const database = new Poll((signal) => get("health/database", ctx.query(), signal), HEALTH_MS, schedule, { patient: false });
ctx.health = health;
ctx.database = database;

function onHealth() {
  const lost = health.error?.code === "unreachable";
  if (lost && !reachable.since) reachable = { since: health.at ?? Date.now() };
  if (!lost) reachable = { since: null };
  const names = Object.keys(health.data?.targets ?? {});
  if (names.length > 0 && !names.includes(ctx.target)) choose(names.includes(place().target) ? place().target : names[0]);
  announce();
  schedule();
}

const current = () => health.data?.targets[ctx.target] ?? null;

/** Changes are said aloud, once; and what waited for the database is asked for again when it is back. */
function announce() {
  const is = current();
  const text = reachable.since ? "pgsteward does not answer" : is ? `${ctx.target} is ${is.status}${is.status === "healthy" ? "" : `: ${words(is.reason)}`}` : "";
  if (text === told) return;
  if (told) {
    at("announcer").textContent = text;
    for (const poll of view?.polls() ?? []) poll.now();
    if (ctx.who) database.now();
  }
  told = text;
}

function choose(target) {
  ctx.target = target;
  database.data = null;
  if (ctx.who) database.start();
  open();
}

// ---- where we are: #view?target=…&range=…

function place() {
  const [name, query] = location.hash.slice(1).split("?");
  const params = new URLSearchParams(query);
  return { view: name in VIEWS ? name : "overview", target: params.get("target"), range: params.get("range") };
}

function hashOf({ view: name, target, range }) {
  const params = new URLSearchParams(Object.entries({ target, range }).filter(([, value]) => value));
  return `${name}${params.size ? `?${params}` : ""}`;
}

function onHash() {
  if (location.hash === "#content") return;
  const { target, range } = place();
  ctx.range = range ?? "1h";
  if (target && target !== ctx.target && health.data?.targets[target]) choose(target);
  else open();
}

/** Shows the view of the address: a new one for another view, database or person. */
function open() {
  const { view: name } = place();
  const identity = JSON.stringify([name, ctx.target, ctx.who]);
  if (view?.identity === identity) view.moved?.();
  else {
    const fresh = view && view.name !== name;
    view?.stop();
    view = { ...VIEWS[name][1](ctx), name, identity };
    for (const poll of view.polls()) poll.start();
    at("content").replaceChildren();
    if (fresh) scrollTo(0, 0);
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
  patch(at("version"), [health.data?.version ?? ""]);
  patch(at("chooser"), chooser());
  patch(at("tools"), tools());
  patch(at("views"), Object.entries(VIEWS).map(([name, [title]]) =>
    h("a", { key: name, href: `#${hashOf({ ...place(), view: name })}`, "aria-current": place().view === name ? "page" : null }, title)));
  patch(at("banners"), banners());
  patch(at("status"), bar());
  patch(at("content"), view && health.data ? view.render() : [health.error ? null : loading()]);
  document.body.classList.toggle("lost", reachable.since !== null);
  const is = current();
  document.title = `${reachable.since ? "no answer" : is?.status ?? "…"} · ${ctx.target ?? ""} · pgsteward`;
}

function chooser() {
  const names = Object.keys(health.data?.targets ?? {});
  if (names.length < 2) return [ctx.target && h("span", { class: "target", title: "the database that is shown" }, ctx.target)];
  return [h("label", {}, h("span", { class: "unseen" }, "Database"), h("select", { id: "target", value: ctx.target, onchange: (event) => ctx.go({ target: event.target.value }) },
    names.map((name) => h("option", { value: name }, `${name}${health.data.targets[name].status === "healthy" ? "" : ` (${health.data.targets[name].status})`}`))))];
}

function tools() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const person = ctx.who
    ? [h("span", { class: "who", title: `signed in as ${ctx.who.actor}` }, `${ctx.who.actor} · ${ctx.who.role}`), button("Sign out", () => forget(), { id: "sign-out" })]
    : button("Sign in", signIn, { kind: "main", id: "sign-in" });
  return [
    button(clock.utc ? "UTC" : "Local time", () => keep("clock", clock.utc ? "local" : "utc"), { kind: "quiet", id: "clock", "aria-label": `Times are in ${clock.utc ? "UTC" : "local time"}; change` }),
    button(`Theme: ${theme}`, () => keep("theme", next), { kind: "quiet", id: "theme", "aria-label": `Theme: ${theme}; change to ${next}` }),
    person,
  ];
}

function banners() {
  const is = current();
  const found = [];
  if (reachable.since) {
    found.push(h("div", { key: "lost", class: "banner bad", id: "banner-lost" }, h("strong", {}, "pgsteward does not answer"), " since ", brief(reachable.since), " (", lasting(reachable.since), "). ",
      health.error.status ? `A proxy answered ${health.error.status}. ` : "", "What is shown is of then. It is tried again every few seconds."));
  } else if (health.error) {
    found.push(h("div", { key: "error", class: "banner bad" }, prose(explain(health.error))));
  }
  const reach = is?.components.connectivity;
  if (!reachable.since && reach?.status === "unhealthy") {
    found.push(h("div", { key: "outage", class: "banner bad", id: "banner-outage" }, h("strong", {}, `The database ${ctx.target} cannot be reached`), ` (${words(reach.reason)}) since `, brief(reach.since), " (", lasting(reach.since),
      "). ", "Health and what is kept in memory go on below; what needs the database says so, and comes back by itself."));
  } else if (!reachable.since && is?.stale) {
    found.push(h("div", { key: "stale", class: "banner warn", id: "banner-stale" }, h("strong", {}, "The last measurement is too old to be believed."), " It was taken ", ago(is.checked_at), "."));
  }
  return found;
}

function bar() {
  const is = current();
  if (!is) return [];
  const level = reachable.since ? "unknown" : is.status;
  const measured = new Date(now() - ((is.age_seconds ?? 0) * 1000 + (health.at ? Date.now() - health.at : 0)));
  const server = database.data?.target === ctx.target ? database.data.server : null;
  const facts = [
    ["Measured", is.age_seconds == null ? "not yet" : ago(measured)],
    ["Response", millis(is.response_ms)],
    server && ["PostgreSQL", `${server.version}, ${server.in_recovery ? "standby" : "primary"}`],
    database.data && ctx.who && ["This instance", database.data.observer ? "observes" : database.data.observed_by ? "stands by" : "does not observe"],
  ].filter(Boolean);
  return [h("div", { class: `bar ${level}`, id: "overall", "data-status": is.status, "data-reason": is.reason ?? "" },
    h("div", { class: "verdict" }, status(level, reachable.since ? `was ${is.status}` : is.status),
      h("span", { class: "because" }, is.status === "healthy" ? "" : words(is.reason ?? "")),
      is.since && muted("since ", brief(is.since), " (", lasting(is.since), ")")),
    h("dl", {}, facts.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown)))))];
}

// ---- what a person prefers, for as long as the tab lives

function keep(name, value) {
  sessionStorage.setItem(`pgsteward.${name}`, value);
  prefer();
  view?.moved?.();
  schedule();
}

function prefer() {
  clock.utc = sessionStorage.getItem("pgsteward.clock") === "utc";
  const theme = sessionStorage.getItem("pgsteward.theme");
  if (theme && theme !== "auto") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// ---- notices and questions

function notify(text, kind = "", stay = false) {
  const note = h("div", { class: `notice ${kind}` }, h("span", {}, prose(text)), button("Dismiss", () => note.remove(), { kind: "quiet" }));
  at("notes").append(note);
  while (at("notes").children.length > 4) at("notes").firstChild.remove();
  if (!stay) setTimeout(() => note.remove(), kind === "bad" ? NOTE_MS * 2 : NOTE_MS);
}

/** What an act was refused with. */
function failed(what, error) {
  if (!(error instanceof ApiError)) console.error(error);
  notify(`${what}: ${explain(error, ctx.role())}`, "bad");
}

/** Asks first; resolves to what `read` gives, or null. */
function confirm({ title, content, act, danger = false, read = () => true }) {
  return new Promise((resolve) => {
    let answer = null;
    const dialog = h("dialog", { "aria-labelledby": "question", onclose: () => { dialog.remove(); resolve(answer); } },
      h("h2", { id: "question" }, title), content,
      h("div", { class: "buttons" }, button("Cancel", () => dialog.close(), { autofocus: danger }),
        button(act, () => { answer = read(); dialog.close(); }, { kind: danger ? "main danger" : "main", id: "confirm", autofocus: !danger })));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// ---- who we are

async function signIn() {
  const said = h("p", { class: "said", role: "alert", id: "sign-in-said" });
  const hint = h("p", { class: "muted" }, prose("A token is made on the server with `pgsteward token new NAME --role viewer`."));
  const token = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "sign-in-said", autofocus: true });
  const tab = h("input", { type: "checkbox", id: "keep" });
  const send = h("button", { type: "submit", class: "main", id: "sign-in-send" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    const value = token.value.trim();
    if (!value) return;
    send.disabled = true;
    said.textContent = "";
    try {
      const who = await request("whoami", { as: value });
      useToken(value, tab.checked);
      dialog.close();
      became(who);
    } catch (error) {
      said.replaceChildren(...[prose(explain(error))].flat());
      token.select();
    }
    send.disabled = false;
  };
  const dialog = h("dialog", { id: "sign-in-dialog", "aria-labelledby": "sign-in-title", onclose: () => dialog.remove() },
    h("h2", { id: "sign-in-title" }, "Sign in"),
    h("form", { method: "dialog", onsubmit: submit },
      h("label", { class: "field" }, h("span", {}, "Token"), token),
      h("label", { class: "check" }, tab, h("span", {}, "Keep for this tab (until it is closed)")), said, hint,
      h("div", { class: "buttons" }, button("Cancel", () => dialog.close()), send)));
  document.body.append(dialog);
  dialog.showModal();
  // Asked without a token: whether there is any, and whether one is needed at all.
  try {
    const who = await request("whoami", { as: null });
    dialog.close();
    became(who);
  } catch (error) {
    if (error.code === "no_credentials_configured") said.replaceChildren(...[prose(explain(error))].flat());
  }
}

function became(who) {
  ctx.who = who;
  database.data = null;
  if (ctx.target !== null) database.start();
  health.now();
  open();
}

function forget(error) {
  useToken(null, false);
  if (ctx.who && error) notify(`Signed out: ${explain(error)}`, "bad", true);
  ctx.who = null;
  database.stop();
  database.data = null;
  health.now();
  open();
}

// A token that was kept for the tab: believed once the API says whose it is.
async function resume() {
  if (!hasToken()) return;
  try {
    became(await request("whoami"));
  } catch (error) {
    if (error.status === 401 || error.status === 403) forget(error);
    else setTimeout(resume, HEALTH_MS);
  }
}

// ---- begin

onRefused(forget);
prefer();
at("skip").onclick = (event) => {
  event.preventDefault();
  at("content").focus();
};
addEventListener("hashchange", onHash);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  for (const poll of [health, database, ...(view?.polls() ?? [])]) poll.wake();
  view?.seen?.();
});
setInterval(() => document.hidden || tick(), 1000);
ctx.range = place().range ?? "1h";
health.start();
resume();
open();
