// The page's frame: what is asked for all the time, the header, sign-in, notices, and which view shows.

import { ApiError, get, hasToken, onRefused, request, useToken } from "./api.js";
import { audit } from "./audit.js";
import { h, patch } from "./dom.js";
import { ago, brief, capital, clock, lasting, millis, now, tick, words, zone } from "./format.js";
import { jobs } from "./jobs.js";
import { migrations } from "./migrations.js";
import { overview } from "./overview.js";
import { button, explain, loading, muted, prose, status } from "./parts.js";
import { Poll } from "./poll.js";
import { tables } from "./tables.js";
import { upkeep } from "./upkeep.js";

const VIEWS = { overview, jobs, tables, upkeep, migrations, audit };
const RANK = { user: 1, viewer: 2, operator: 3, admin: 4 };
// What a role that reads its own events only has any use for.
const OWN = ["overview", "audit"];
const HEALTH_MS = 5000;
const NOTE_MS = 5000;
const NOTES = 3;
const at = (id) => document.getElementById(id);

/** What views are given. */
const ctx = {
  who: null,
  target: null,
  range: "1h",
  can: (role) => (RANK[ctx.who?.role] ?? 0) >= RANK[role],
  role: () => ctx.who?.role ?? null,
  /** Why somebody may not, or null: for buttons. */
  lacks: (role) =>
    ctx.can(role)
      ? null
      : ctx.who
        ? `needs the role ${role}; yours is ${ctx.who.role}`
        : `needs a sign-in as ${role}`,
  query: (more) => ({ target: ctx.target, ...more }),
  rerender: schedule,
  go: (changes) => {
    location.hash = hashOf({ ...place(), ...changes });
  },
  /** A link's: to a view, or to one row (`at`) of its table. */
  address: (changes) => `#${hashOf({ ...place(), at: null, ...changes })}`,
  /** Whether pgsteward itself does not answer. */
  lost: () => reachable.since !== null,
  /** The components as they were when they could be measured. */
  kept: new Map(),
  notify,
  confirm,
  signIn,
  failed,
};

let view = null;
let reachable = { since: null };
let told = "";
let sought = null;

// ---- what is asked for all the time

const health = new Poll((signal) => get("health/", {}, signal), HEALTH_MS, onHealth, {
  patient: false,
});
const database = new Poll(
  (signal) => get("health/database", ctx.query(), signal),
  HEALTH_MS,
  onDatabase,
  { patient: false },
);
ctx.health = health;
ctx.database = database;

function onHealth() {
  const lost = health.error?.code === "unreachable";
  if (lost && !reachable.since) reachable = { since: health.at ?? Date.now() };
  if (!lost) reachable = { since: null };
  const names = Object.keys(health.data?.targets ?? {});
  if (names.length > 0 && !names.includes(ctx.target))
    choose(names.includes(place().target) ? place().target : names[0]);
  announce();
  schedule();
}

function onDatabase() {
  const { data, error } = database;
  if (!error)
    for (const part of data.components)
      if (part.reason !== "not_measured")
        ctx.kept.set(part.name, { ...part, last: data.checked_at });
  schedule();
}

const current = () => health.data?.targets[ctx.target] ?? null;

/** Changes of level are said aloud, once; and what waited for the database is asked for again when it is back. */
function announce() {
  const is = current();
  const text = ctx.lost() ? "pgsteward does not answer" : is ? `${ctx.target} is ${is.status}` : "";
  if (text === told) return;
  if (told) {
    at("announcer").textContent = text;
    for (const poll of view?.polls() ?? []) poll.now();
    if (ctx.can("viewer")) database.now();
  }
  told = text;
}

function choose(target) {
  ctx.target = target;
  watch();
  open();
}

/** Asks for what only those may read who are signed in, anew for another database or person. */
function watch() {
  database.stop();
  database.data = null;
  ctx.kept.clear();
  if (ctx.can("viewer") && ctx.target !== null) database.start();
}

// ---- where we are: #view?target=…&range=…&at=…

function place() {
  const [name, query] = location.hash.slice(1).split("?");
  const params = new URLSearchParams(query);
  return {
    view: Object.hasOwn(VIEWS, name) ? name : "overview",
    target: params.get("target"),
    range: params.get("range"),
    at: params.get("at"),
  };
}

function hashOf({ view: name, target, range, at: key }) {
  const params = new URLSearchParams(
    Object.entries({ target, range, at: key }).filter(([, value]) => value),
  );
  return `${name}${params.size ? `?${params}` : ""}`;
}

function onHash() {
  if (location.hash === "#content") return;
  const { target, range, at: key } = place();
  ctx.range = range ?? "1h";
  sought = key;
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
    view = { ...VIEWS[name](ctx), name, identity };
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
  const here = place().view;
  const title = capital(here);
  const is = current();
  patch(at("version"), [health.data?.version ?? ""]);
  patch(at("chooser"), chooser());
  patch(at("tools"), tools());
  patch(
    at("views"),
    Object.keys(VIEWS)
      .filter((name) => !ctx.who || ctx.can("viewer") || OWN.includes(name) || name === here)
      .map((name) =>
        h(
          "a",
          {
            key: name,
            href: ctx.address({ view: name }),
            "aria-current": here === name ? "page" : null,
          },
          capital(name),
        ),
      ),
  );
  patch(at("status"), [...banners(), bar()]);
  patch(at("content"), [
    h("h1", { key: "title", class: "unseen" }, `${title}${ctx.target ? ` of ${ctx.target}` : ""}`),
    view && health.data
      ? view.render()
      : health.error
        ? h("p", { class: "muted", key: "nothing" }, "Nothing is known before pgsteward answers.")
        : loading(),
  ]);
  document.body.classList.toggle("lost", ctx.lost());
  document.title = `${ctx.lost() ? "no answer" : is ? (standsBy() ? "stands by" : is.status) : "…"} · ${title} · ${ctx.target ?? ""} · pgsteward`;
  scrollers();
  seek();
}

/** What scrolls sideways is reached by keys, and shows that it goes on. */
function scrollers() {
  for (const place of document.querySelectorAll("main .scroll:not(.tall)")) {
    if (place.scrollWidth > place.clientWidth + 1)
      Object.assign(place, {
        tabIndex: 0,
        role: "group",
        ariaLabel: place.querySelector("caption")?.textContent ?? "Table",
      });
  }
}

/** Opens the row that the address is about, once it is there. */
function seek() {
  const row = sought && document.querySelector(`main tr[data-key="${CSS.escape(sought)}"]`);
  if (!row) return;
  sought = null;
  row.scrollIntoView({ block: "center" });
  const opener = row.querySelector("button[aria-expanded]");
  if (opener?.getAttribute("aria-expanded") === "false") opener.click();
  opener?.focus({ preventScroll: true });
}

function chooser() {
  const names = Object.keys(health.data?.targets ?? {});
  if (names.length < 2)
    return [
      ctx.target && h("span", { class: "target", title: "the database that is shown" }, ctx.target),
    ];
  return [
    h(
      "label",
      {},
      h("span", { class: "unseen" }, "Database"),
      h(
        "select",
        {
          id: "target",
          value: ctx.target,
          onchange: (event) => ctx.go({ target: event.target.value }),
        },
        names.map((name) =>
          h(
            "option",
            { value: name },
            `${name}${health.data.targets[name].status === "healthy" ? "" : ` (${health.data.targets[name].status})`}`,
          ),
        ),
      ),
    ),
  ];
}

function tools() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const person = ctx.who
    ? [
        h(
          "span",
          { class: "who", title: `signed in as ${ctx.who.actor}` },
          `${ctx.who.actor} · ${ctx.who.role}`,
        ),
        button("Sign out", leave, { id: "sign-out" }),
      ]
    : button("Sign in", signIn, { kind: "main", id: "sign-in" });
  return [
    button(zone(), () => keep("clock", clock.utc ? "local" : "utc"), {
      kind: "quiet",
      id: "clock",
      title: `Times are shown in this zone; change to ${clock.utc ? "this machine's" : "UTC"}`,
      "aria-label": `Times are in ${zone()}; change`,
    }),
    button(`Theme: ${theme}`, () => keep("theme", next), {
      kind: "quiet",
      id: "theme",
      "aria-label": `Theme: ${theme}; change to ${next}`,
    }),
    person,
  ];
}

/** What is shown in place of the status while there is none that may be believed. */
function outage() {
  const is = current();
  const reach = is?.components.connectivity;
  if (ctx.lost()) {
    return [
      "lost",
      "pgsteward does not answer",
      null,
      reachable.since,
      `${health.error.status ? `A proxy answered ${health.error.status}. ` : ""}What is shown is of then. It is tried again every few seconds.`,
    ];
  }
  if (reach?.status !== "unhealthy") return null;
  return [
    "outage",
    `The database ${ctx.target} cannot be reached`,
    words(reach.reason),
    reach.since,
    "Health and what is kept in memory go on below; what needs the database says so, and comes back by itself.",
  ];
}

function banners() {
  const is = current();
  if (health.error && !ctx.lost())
    return [
      h(
        "div",
        { key: "error", class: "banner bad" },
        prose(explain(health.error, null, { again: true })),
      ),
    ];
  if (ctx.lost() && !is)
    return [
      h(
        "div",
        { key: "lost", class: "banner bad", id: "banner-lost" },
        h("strong", {}, "pgsteward does not answer."),
        " It is tried again every few seconds.",
      ),
    ];
  if (is?.stale && !outage()) {
    return [
      h(
        "div",
        { key: "stale", class: "banner warn", id: "banner-stale" },
        h("strong", {}, "The last measurement is too old to be believed."),
        " It was taken ",
        ago(is.checked_at),
        ".",
      ),
    ];
  }
  return [];
}

/** Whether another instance judges the database: this one's "healthy" is about its connection alone. */
const standsBy = () => database.data?.target === ctx.target && !database.data.observer;

function bar() {
  const is = current();
  if (!is) return null;
  const out = outage();
  const {
    server,
    observer,
    observed_by: holder,
    paused,
  } = database.data?.target === ctx.target ? database.data : {};
  const measured = new Date(
    now() - ((is.age_seconds ?? 0) * 1000 + (health.at ? Date.now() - health.at : 0)),
  );
  const facts = [
    ["Measured", is.age_seconds == null ? "not yet" : ago(measured)],
    ["Response", millis(is.response_ms)],
    server && ["PostgreSQL", `${server.version}, ${server.in_recovery ? "standby" : "primary"}`],
    observer !== undefined && [
      "This instance",
      observer ? "runs the jobs" : holder ? "stands by" : "does not observe",
    ],
  ].filter(Boolean);
  const level = out ? "unhealthy" : standsBy() ? "unknown" : is.status;
  return h(
    "div",
    {
      key: "bar",
      class: `bar ${level}`,
      id: "overall",
      "data-status": is.status,
      "data-reason": is.reason ?? "",
    },
    out ? trouble(out) : h("div", { class: "verdict" }, verdict(is, level, holder)),
    paused &&
      h("div", { id: "all-paused" }, status("paused", "jobs paused"), muted(` by ${paused.by}`)),
    h(
      "dl",
      {},
      facts.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown))),
    ),
  );
}

function verdict(is, level, holder) {
  const alone = Object.keys(is.components).length === 1 ? "as far as the connection goes" : null;
  const [name, because, since] = standsBy()
    ? ["stands by", holder ? `judged by ${holder}` : "no instance judges the database"]
    : [is.status, is.status === "healthy" ? alone : words(is.reason ?? ""), is.since];
  return [
    status(level, name),
    because && h("strong", {}, because),
    since && muted("since ", brief(since), " (", lasting(since), ")"),
  ];
}

/** An outage is told once, in place of the verdict. */
function trouble([kind, what, reason, since, meanwhile]) {
  return h(
    "div",
    { class: "trouble", id: `banner-${kind}` },
    h(
      "p",
      {},
      status("unhealthy", what),
      reason && ` (${reason})`,
      " since ",
      brief(since),
      " (",
      lasting(since),
      "). ",
    ),
    h("p", { class: "muted" }, meanwhile),
  );
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

function notify(text, kind = "", stay = false, act = null) {
  const note = h(
    "div",
    { class: `notice ${kind}` },
    h("span", {}, prose(text)),
    act,
    button("Dismiss", () => note.remove(), {
      kind: "quiet",
      "aria-label": `Dismiss: ${text.slice(0, 60)}`,
    }),
  );
  at("notes").append(note);
  while (at("notes").children.length > NOTES) at("notes").firstChild.remove();
  if (stay) return note;
  let timer;
  const leave = () => {
    timer = setTimeout(() => note.remove(), kind === "bad" ? NOTE_MS * 2 : NOTE_MS);
  };
  // Not while somebody reads it.
  note.onpointerenter = note.onfocusin = () => clearTimeout(timer);
  note.onpointerleave = note.onfocusout = leave;
  leave();
  return note;
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
    const submit = (event) => {
      event.preventDefault();
      answer = read();
      dialog.close();
    };
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "question",
        onclose: () => {
          dialog.remove();
          resolve(answer);
        },
      },
      h("h2", { id: "question" }, title),
      h(
        "form",
        { method: "dialog", onsubmit: submit },
        content,
        h(
          "div",
          { class: "buttons" },
          button("Cancel", () => dialog.close(), { autofocus: danger }),
          h(
            "button",
            {
              type: "submit",
              class: danger ? "main danger" : "main",
              id: "confirm",
              autofocus: !danger,
            },
            act,
          ),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

// ---- who we are

async function signIn() {
  const said = h("p", { class: "said", role: "alert", id: "sign-in-said" });
  const hint = h(
    "p",
    { class: "muted" },
    prose("A token is made on the server with `pgsteward token new NAME --role viewer`."),
  );
  const token = h("input", {
    type: "password",
    id: "token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "sign-in-said",
    autofocus: true,
  });
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
  const dialog = h(
    "dialog",
    { id: "sign-in-dialog", "aria-labelledby": "sign-in-title", onclose: () => dialog.remove() },
    h("h2", { id: "sign-in-title" }, "Sign in"),
    h(
      "form",
      { method: "dialog", onsubmit: submit },
      h("label", { class: "field" }, h("span", {}, "Token"), token),
      h("label", { class: "check" }, tab, h("span", {}, "Keep for this tab (until it is closed)")),
      said,
      hint,
      h(
        "div",
        { class: "buttons" },
        button("Cancel", () => dialog.close()),
        send,
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  // Asked without a token: whether there is any, and whether one is needed at all.
  try {
    const who = await request("whoami", { as: null });
    dialog.close();
    became(who);
  } catch (error) {
    if (error.code === "no_credentials_configured")
      said.replaceChildren(...[prose(explain(error))].flat());
  }
}

function became(who) {
  ctx.who = who;
  at("notes").querySelector(".expired")?.remove();
  watch();
  health.now();
  // A role that reads its own events only has nothing else to come for.
  if (!ctx.can("viewer") && ctx.can("user") && location.hash === "") ctx.go({ view: "audit" });
  const before = view;
  open();
  // The same view for the same person: what was typed before the token expired is still there.
  if (view === before) for (const poll of view.polls()) poll.start();
}

function forget() {
  useToken(null, false);
  for (const poll of view?.polls() ?? []) poll.stop();
  ctx.who = null;
  watch();
  health.now();
}

function leave() {
  forget();
  open();
  draw();
  at("sign-in").focus();
}

/** The token that was in use is refused. */
function expired(error) {
  const had = ctx.who;
  forget();
  schedule();
  if (!had) return;
  const again = button("Sign in", signIn, { kind: "main" });
  notify(
    error.status === 401
      ? "Signed out: your token is no longer accepted. It expired, or was removed."
      : `Signed out: ${explain(error)}`,
    "bad expired",
    true,
    again,
  );
  again.focus();
}

// A token that was kept for the tab: believed once the API says whose it is.
async function resume() {
  if (!hasToken()) return;
  try {
    became(await request("whoami"));
  } catch (error) {
    if (error.status === 401 || error.status === 403) forget();
    else setTimeout(resume, HEALTH_MS);
  }
}

// ---- begin

onRefused(expired);
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
addEventListener("resize", schedule);
ctx.range = place().range ?? "1h";
sought = place().at;
health.start();
resume();
open();
