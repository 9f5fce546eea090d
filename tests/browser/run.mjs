// Tests the dashboard in a browser against a running daemon.
//
//   BASE=http://127.0.0.1:8432/ TOKEN=… node tests/browser/run.mjs
//
// BASE        the address of the page
// TOKEN       a token with the role operator or admin
// OUT         the folder for screenshots; without it none are taken
// BREAK_CMD   a shell command that makes the database unreachable
// REPAIR_CMD  a shell command that makes it reachable again; without both no outage is tested
// CHROMIUM    the browser (/usr/bin/chromium)

import { execFile } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

import { Browser } from "./cdp.mjs";
import { watch, wrong } from "./contract.mjs";

const { BASE, TOKEN, OUT, BREAK_CMD, REPAIR_CMD } = process.env;
const WHOLE_MS = 8 * 60e3;
const COMMAND_MS = 60e3;
const OUTAGE_MS = 40e3;
const RECOVERY_MS = 60e3;
const RUN_MS = 120e3;
const WIDTHS = [320, 360, 768, 900, 1024, 1440, 2560];
const VIEWS = ["overview", "jobs", "tables", "maintenance", "migrations", "audit"];

if (!BASE || !TOKEN) {
  console.error("set BASE (the address of the page) and TOKEN (of an operator or admin)");
  process.exit(2);
}

const shell = (command) => promisify(execFile)("/bin/sh", ["-c", command], { timeout: COMMAND_MS });
const text = (selector) =>
  `(document.querySelector(${JSON.stringify(selector)})?.textContent ?? "")`;
const has = (selector) => `document.querySelector(${JSON.stringify(selector)}) !== null`;
const row = (job) => `#job-list tr[data-key="${job}"]`;

function insist(holds, what) {
  if (!holds) throw new Error(what);
}

async function step(name, work) {
  const began = Date.now();
  try {
    await work();
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
  console.log(`ok   ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`);
}

/** The browser's errors, except responses with a status that the test provoked. */
function errorsOf(page, allowed = []) {
  return page.problems.filter(
    ({ kind, text: message }) =>
      kind !== "network" || !allowed.some((status) => message.includes(`status of ${status}`)),
  );
}

async function go(page, view) {
  await page.click(`#views a[href^="#${view}"]`);
  await page.until(
    `${has(`#views a[href^="#${view}"][aria-current]`)} && ${has("#content .panel")}`,
    `the view ${view}`,
  );
}

async function noOverflow(page, width) {
  await page.size(width);
  await page.until(`innerWidth === ${width}`, "the new width");
  const [over, who] = await page.eval(`(() => {
    const wide = [...document.querySelectorAll("body *")].filter(
      (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, pre"),
    );
    const names = wide.slice(0, 3).map((e) => e.tagName + "." + e.className).join(", ");
    return [document.documentElement.scrollWidth - innerWidth, names];
  })()`);
  insist(over <= 0, `at ${width} px the page is ${over} px too wide (${who})`);
}

/** Waits until the view has loaded its data, and the charts fit the width. */
async function drawn(page) {
  const fits = `[...document.querySelectorAll(".stage")].every(
    (stage) => Number(stage.firstChild?.getAttribute("width")) === stage.clientWidth,
  )`;
  await page.until(`!${has("#content .loading")} && ${fits}`, "the view to be drawn");
  await page.eval(
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))",
  );
}

async function shots(page, state) {
  if (!OUT) return;
  await mkdir(OUT, { recursive: true });
  await page.eval("document.querySelector('#notes').replaceChildren()");
  for (const scheme of ["light", "dark"]) {
    await page.scheme(scheme);
    for (const width of [360, 1440]) {
      await page.size(width);
      await drawn(page);
      await writeFile(join(OUT, `${state}-${scheme}-${width}.png`), await page.screenshot());
    }
  }
  await page.scheme("light");
  await page.size(1440);
}

/** Presses Tab until the focus is on the selector. */
async function tabTo(page, selector, what, most = 80) {
  await page.eval("document.activeElement?.blur()");
  for (let i = 0; i < most; i += 1) {
    await page.key("Tab");
    if (await page.eval(`document.activeElement?.matches(${JSON.stringify(selector)}) ?? false`)) {
      const outline = await page.eval("getComputedStyle(document.activeElement).outlineStyle");
      insist(outline !== "none", `the focus on ${what} is not visible`);
      return;
    }
  }
  throw new Error(`Tab does not reach ${what}`);
}

async function signIn(page, token) {
  if (!(await page.eval(has("#sign-in-dialog[open]")))) await page.click("#sign-in");
  await page.until(has("#sign-in-dialog[open]"), "the sign-in");
  await page.type("#token", token);
  await page.click("#sign-in-send");
}

async function openView(page) {
  await page.size(1440);
  await page.open(BASE);
  await page.until(
    `${has("#overall")} && ${has("#component-list tbody tr")}`,
    "the status and the components without a token",
  );
  const status = await page.eval("document.querySelector('#overall').dataset.status");
  insist(
    ["healthy", "degraded"].includes(status),
    `expected a healthy or degraded database before the test, found ${status}`,
  );
  insist(/Sign in/.test(await page.eval(text("#content"))), "the page does not offer to sign in");
  const polled = `performance.getEntriesByType("resource").filter(
    ({ name, responseStatus }) => name.endsWith("/health/") && responseStatus > 0,
  ).length > 1`;
  await page.until(polled, "the second poll");
  insist(
    page.problems.length === 0,
    `the browser reports errors: ${JSON.stringify(page.problems)}`,
  );
}

async function wrongToken(page) {
  await signIn(page, "not-a-token-of-this-daemon");
  await page.until(`/not valid/.test(${text("#sign-in-message")})`, "a readable error");
  insist(
    await page.eval(
      "localStorage.length === 0 && sessionStorage.getItem('pgsteward.token') === null",
    ),
    "a refused token is stored",
  );
}

async function rightToken(page) {
  await signIn(page, TOKEN);
  await page.until(has("#sign-out"), "to be signed in");
  insist(
    await page.eval(
      "localStorage.length === 0 && sessionStorage.getItem('pgsteward.token') === null",
    ),
    "the token is stored without a request to keep it",
  );
}

async function liveData(page) {
  await page.until(
    has(".stage.line .line, .stage.line .dot"),
    "points in the chart of response times",
    40e3,
  );
  await page.until(has(".stage.strip .level"), "the strip of statuses");
  insist(
    await page.eval("document.querySelectorAll('#component-list tbody tr').length >= 8"),
    "components are missing",
  );
  await page.eval("document.querySelector('.stage.line').focus()");
  await page.key("ArrowLeft");
  await page.until(
    `/average/.test(${text("figure:has(.stage.line) output")})`,
    "a value read out by the keyboard",
    3000,
  );
  await page.eval(
    "document.querySelector('.stage.line').closest('figure').querySelector('summary').click()",
  );
  await page.until(
    "document.querySelectorAll('figure details[open] tbody tr').length > 0",
    "the chart as a table",
  );
  await go(page, "tables");
  await page.until(has("#table-list tbody tr"), "tables", 30e3);
}

async function runVacuum(page) {
  await go(page, "jobs");
  await page.until(
    has(`${row("vacuum")} [data-action=run]:not([aria-disabled])`),
    "the job vacuum",
    30e3,
  );
  await page.click(`${row("vacuum")} [data-action=run]`);
  await page.until(`/vacuum succeeded/.test(${text("#notes")})`, "vacuum to succeed", RUN_MS);
  await page.until(`/succeeded/.test(${text(row("vacuum"))})`, "the list to show that");
  await page.click(`${row("vacuum")} [aria-expanded=false]`);
  await page.until(has(`${row("vacuum")} + .more tbody tr`), "the history of vacuum");
}

async function pauseAndResume(page) {
  await page.click(`${row("refresh")} [data-action=pause]`);
  await page.until(has("dialog[open] input"), "to be asked for a reason");
  await page.type("dialog[open] input", "the browser test");
  await page.key("Enter");
  await page.until(has(`${row("refresh")} [data-action=resume]`), "refresh to be paused");
  await page.click(`${row("refresh")} [data-action=resume]`);
  await page.until(has(`${row("refresh")} [data-action=pause]`), "refresh to be resumed");
}

async function searchAudit(page) {
  await go(page, "audit");
  await page.until(has("#audit-form [name=action]"), "the search");
  await page.type("#audit-form [name=action]", "job.run");
  await page.click("#audit-search");
  await page.until(
    `(() => {
      const actions = [...document.querySelectorAll("#event-list tbody tr code")];
      return actions.length > 0 && actions.every((e) => e.textContent === "job.run");
    })()`,
    "events of job.run only",
  );
  insist(
    /vacuum/.test(await page.eval(text("#event-list tbody tr"))),
    "the newest event is not the run of vacuum",
  );
  await page.click("#event-list tbody tr [aria-expanded=false]");
  await page.until(has("#event-list .more .below"), "the event's details");
}

// The migration of the test creates this table with dead rows only.
async function optimize(page) {
  await go(page, "maintenance");
  await page.until(has("#optimize-form [name=tables]"), "the form");
  await page.type("#optimize-form [name=tables]", "public.worn");
  await page.click("#optimize-form [type=submit]");
  await page.until(
    `${has("#optimize-apply")} && /public.worn/.test(${text("#optimize table")})`,
    "the plan of a dry run",
    30e3,
  );
  await page.click("#optimize-apply");
  await page.click("#confirm");
  await page.until(
    `/succeeded/.test(${text("#optimize")}) && /public.worn/.test(${text("#optimize")})`,
    "the result for the table",
    RUN_MS,
  );
  insist(!(await page.eval(has("#optimize-apply"))), "a plan that was applied is still offered");
}

async function cancelRun(page) {
  await go(page, "jobs");
  await page.until(has(`${row("sleeper")} [data-action=run]`), "the job sleeper");
  await page.click(`${row("sleeper")} [data-action=run]`);
  await page.until(
    has(`${row("sleeper")} + .more [data-action=cancel]`),
    "the run under way",
    RUN_MS,
  );
  await page.click(`${row("sleeper")} + .more [data-action=cancel]`);
  await page.click("#confirm");
  await page.until(`/cancelled/.test(${text(row("sleeper"))})`, "the run to be cancelled", RUN_MS);
}

async function exportAudit(page) {
  await go(page, "audit");
  for (const kind of ["csv", "ndjson"]) {
    await page.until(has(`#${kind}`), `the export as ${kind}`);
    await page.eval("document.querySelector('#notes').replaceChildren()");
    await page.click(`#${kind}`);
    await page.until(`/Exported/.test(${text("#notes")})`, `the export as ${kind} to end`, 30e3);
  }
}

async function noScroll(page) {
  for (const view of VIEWS) {
    await page.size(1440);
    await go(page, view);
    await drawn(page);
    insist(
      (await page.eval("document.querySelectorAll('h1').length")) === 1,
      `the view ${view} must have exactly one h1`,
    );
    for (const width of WIDTHS) {
      await noOverflow(page, width);
      await nothingCutOff(page, width);
    }
  }
  await page.size(1440);
}

/** The buttons of a table are visible without scrolling. */
async function nothingCutOff(page, width) {
  const cut =
    await page.eval(`[...document.querySelectorAll(".scroll [data-action]")].filter((e) => {
    const [own, around] = [e.getBoundingClientRect(), e.closest(".scroll").getBoundingClientRect()];
    return own.right > around.right + 1 || own.left < around.left - 1;
  }).map((e) => e.textContent)`);
  insist(cut.length === 0, `at ${width} px a table cuts off ${cut.slice(0, 3).join(", ")}`);
}

/** The page reads no field that the API does not have; and the test finds a wrong name. */
async function keepsTheContract(page) {
  const document = await (await fetch(new URL("openapi.json", BASE))).json();
  const found = async () => wrong(await page.eval("missedFields()"), document);
  const before = await found();
  insist(
    before.length === 0,
    `the page reads fields that the API does not have: ${before.join("; ")}`,
  );
  await page.eval(
    "fetch('health/').then((answer) => answer.json()).then((health) => health.planted_by_the_test)",
  );
  insist(
    (await found()).some((one) => one.includes("planted_by_the_test")),
    "the test does not find a wrong name",
  );
}

async function keyboard(page) {
  await go(page, "jobs");
  await page.until(has(`${row("vacuum")} [data-action=run]`), "the job list");
  await tabTo(page, "#sign-out", "sign-out");
  await tabTo(page, "[data-action=run]", "a job's run button");
}

async function outage(page) {
  await go(page, "overview");
  await page.eval("globalThis.notReloaded = true");
  await shell(BREAK_CMD);
  await page.until(
    `${has("#banner-outage")} && document.querySelector("#overall").dataset.status === "unhealthy"`,
    "the outage to be shown",
    OUTAGE_MS,
  );
  insist(
    /cannot be reached.*since/s.test(await page.eval(text("#banner-outage"))),
    "the banner does not show since when",
  );
  insist(await page.eval(has("#component-list tbody tr")), "the components are gone");
  await page.until(`/cannot be reached/.test(${text("#problems")})`, "the problem");
  await shots(page, "outage");
  // Recent measurements stay with their age; data of the database is replaced by the reason.
  await go(page, "tables");
  await page.until(
    `/Measured .* ago/.test(${text("#tables")})`,
    "the tables as measured before",
    30e3,
  );
  await go(page, "migrations");
  await page.until(
    `/database is unavailable/.test(${text("#content")})`,
    "the migrations to show the outage",
    30e3,
  );
  for (const width of WIDTHS) await noOverflow(page, width);
  await page.size(1440);
}

async function recovery(page) {
  await shell(REPAIR_CMD);
  await page.until(
    `!${has("#banner-outage")} && ${has("#overall:not([data-status=unhealthy])")}`,
    "the recovery to be shown",
    RECOVERY_MS,
  );
  await page.until(
    `!/database is unavailable/.test(${text("#content")})`,
    "the migrations to be loaded again",
    60e3,
  );
  insist(await page.eval("globalThis.notReloaded === true"), "the page was reloaded");
}

async function all(page) {
  await step("opens without a token and without errors in the browser", () => openView(page));
  await step("Tab reaches the sign-in", () => tabTo(page, "#sign-in", "the sign-in"));
  await step("shows why a wrong token is refused", () => wrongToken(page));
  await step("signs in", () => rightToken(page));
  await step("shows live data", () => liveData(page));
  await step("previews and runs an optimization", () => optimize(page));
  await step("runs vacuum to its end", () => runVacuum(page));
  await step("pauses and resumes a job", () => pauseAndResume(page));
  await step("finds the run in the audit log", () => searchAudit(page));
  await step("exports the audit log", () => exportAudit(page));
  await step("cancels a run", () => cancelRun(page));
  await step("Tab reaches a job's run button", () => keyboard(page));
  await step(`needs no horizontal scrolling at ${WIDTHS.join(", ")} px`, () => noScroll(page));
  await step("takes screenshots of each view", async () => {
    for (const view of VIEWS) {
      await go(page, view);
      if (view === "overview")
        await page.until(has(".stage.line .line, .stage.line .dot"), "the charts", 30e3);
      await shots(page, view);
    }
  });
  const allowed = [401, 403];
  if (BREAK_CMD && REPAIR_CMD) {
    allowed.push(503);
    let ended = false;
    try {
      await step("shows an outage", () => outage(page));
      ended = true;
      await step("shows the recovery without a reload", () => recovery(page));
    } finally {
      if (!ended) await shell(REPAIR_CMD).catch(() => {});
    }
  }
  await step("reads no field that the API does not have", () => keepsTheContract(page));
  const left = errorsOf(page, allowed);
  insist(left.length === 0, `the browser reports errors: ${JSON.stringify(left)}`);
  insist(page.dialogs === 0, "a script from data has run");
  console.log("ok   no errors in the browser");
}

const browser = await Browser.start();
const watchdog = setTimeout(() => {
  console.error(`FAIL not finished within ${WHOLE_MS / 60e3} min`);
  browser.kill();
  process.exit(1);
}, WHOLE_MS);
let page = null;
try {
  page = await browser.page();
  await page.before(watch);
  await all(page);
} catch (error) {
  console.error(`FAIL ${error.message}`);
  if (page?.problems.length > 0) console.error(JSON.stringify(page.problems));
  process.exitCode = 1;
  if (page && OUT) {
    await mkdir(OUT, { recursive: true });
    await writeFile(join(OUT, "failed.png"), await page.screenshot()).catch(() => {});
  }
} finally {
  clearTimeout(watchdog);
  await browser.stop();
}
