// Jobs: when they run, how they went, and running, pausing, cancelling them.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, millis, number, plural, when, words } from "./format.js";
import { aside, button, field, flip, loading, muted, opener, panel, prose, refusal, small, status, table } from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, details, isOver, progress } from "./runs.js";

const EVERY = 5000;
const HISTORY_EVERY = 15000;
const RUNS = 20;
const MOST_OPEN = 4;

export function jobs(ctx) {
  const list = new Poll((signal) => get("jobs", ctx.query(), signal), EVERY, () => {
    for (const job of list.data?.jobs ?? []) if (job.running) watches.add(job.running.id, { job: job.name, state: "running", started_at: job.running.since, actor: job.running.actor });
    ctx.rerender();
  });
  const opened = new Map();
  const watches = new Watches(ctx, () => [list, ...opened.values()]);
  const state = { ctx, list, opened, watches, read: new Set() };
  return {
    polls: () => (ctx.can("viewer") ? [list, ...opened.values()] : []),
    stop() {
      for (const poll of [list, ...opened.values()]) poll.stop();
      watches.stop();
    },
    render: () => [panel(ctx, {
      id: "jobs", title: "Jobs", poll: list, actions: list.data && whole(state),
      about: list.data && (list.data.observer ? `Run by ${list.data.observer}.` : "No instance observes this database at the moment, so nothing runs."),
      body: (data) => [
        data.paused && h("p", { class: "note", key: "paused" }, status("paused", "All jobs are paused"), ` by ${data.paused.by}`, data.paused.at && [", ", ago(data.paused.at)], data.paused.reason && `: ${data.paused.reason}`),
        !ctx.can("operator") && h("p", { class: "muted", key: "role" }, `To run, pause or cancel needs the role operator; yours is ${ctx.role()}.`),
        overviewOf(state, data.jobs),
      ],
    })],
  };
}

function whole(state) {
  const { ctx, list } = state;
  const paused = list.data.paused !== null;
  return button(paused ? "Resume all" : "Pause all", () => turn(state, "*", paused ? "resume" : "pause"), { lacks: ctx.lacks("operator"), id: "all-jobs" });
}

function overviewOf(state, rows) {
  const running = (job) => job.running && (state.watches.get(job.running.id) ?? null);
  return table({
    caption: "Jobs", name: "job-list", rows, key: (job) => job.name,
    columns: [
      ["Job", "lead", (job) => [h("strong", {}, job.name), small(job.kind === "sql" ? "own SQL" : "built in", job.enabled ? "" : ", disabled")]],
      ["Schedule", "", (job) => [h("span", {}, job.schedule ? h("code", {}, job.schedule) : "on request"), job.schedule && job.timezone !== "UTC" && small(job.timezone)]],
      ["Next", "", next],
      ["Last", "wide", (job) => last(job, running(job))],
      ["Usually", "number", (job) => (job.ticks ? "–" : [h("span", { title: "average" }, millis(job.average_ms)), job.p95_ms != null && h("small", { title: "95 of 100 runs take less" }, `p95 ${millis(job.p95_ms)}`)])],
      ["Runs", "number", counts],
      ["", "acts", (job) => acts(state, job)],
    ],
    more: (job) => below(state, job),
  });
}

function next(job) {
  if (job.paused) return [status("paused"), small(`by ${job.paused.by}`, job.paused.reason && `: ${job.paused.reason}`)];
  if (job.queued) return status("queued");
  if (!job.next_due) return muted(job.ticks ? "on each tick" : "–");
  const later = (job.next_dues ?? []).slice(1);
  return [ago(job.next_due), small(when(job.next_due), later.length > 0 && h("span", { title: `then ${later.join(", ")}` }, ` +${later.length}`))];
}

function last(job, live) {
  if (job.running) return [status("running"), small("since ", when(job.running.since), ` on ${job.running.instance}`)];
  if (job.ticks) return muted("measures on each tick; no runs are recorded");
  if (!job.last) return muted("has not run yet");
  const { last: run } = job;
  return [h("span", { class: "line" }, status(run.state), run.finished_at && muted(ago(run.finished_at))), small([run.duration_ms != null && millis(run.duration_ms), run.rows_affected != null && plural(run.rows_affected, "row or object", "rows or objects"), run.reason && words(run.reason)].filter(Boolean).join(" · ")),
    run.error && h("small", { class: "error", title: run.error }, prose(run.error))];
}

function counts(job) {
  if (job.ticks) return "–";
  const bad = job.failed_total > 0;
  return [h("span", {}, `${number(job.succeeded_total)} ok`), h("small", { class: job.failures_in_a_row > 0 ? "error" : null },
    bad ? `${number(job.failed_total)} failed${job.failures_in_a_row > 0 ? `, ${job.failures_in_a_row} in a row` : ""}` : "", job.skipped_total > 0 && `${bad ? ", " : ""}${number(job.skipped_total)} skipped`)];
}

function acts(state, job) {
  const { ctx } = state;
  const lacks = ctx.lacks("operator");
  const open = state.opened.has(job.name);
  const name = (verb) => [verb, aside(` ${job.name}`)];
  return [
    !job.ticks && button(name("Run"), () => run(state, job), { kind: "main", lacks: lacks ?? (job.running ? "it is running" : null), "data-act": "run" }),
    button(name(job.paused ? "Resume" : "Pause"), () => turn(state, job.name, job.paused ? "resume" : "pause"), { lacks, "data-act": job.paused ? "resume" : "pause" }),
    !job.ticks && opener(name("History"), open, () => toggle(state, job.name)),
  ];
}

function toggle(state, name) {
  const { ctx, opened } = state;
  const poll = opened.get(name);
  if (poll) {
    poll.stop();
    opened.delete(name);
  } else {
    // Each opened history asks again and again: the oldest gives way.
    if (opened.size >= MOST_OPEN) toggle(state, opened.keys().next().value);
    const fresh = new Poll((signal) => get(`jobs/${encodeURIComponent(name)}/runs`, ctx.query({ limit: RUNS, failed: fresh.failed && "true" }), signal), HISTORY_EVERY, ctx.rerender);
    opened.set(name, fresh.start());
  }
  ctx.rerender();
}

async function run(state, job) {
  const { ctx, watches, list } = state;
  try {
    const { run_id: id } = await post(`jobs/${encodeURIComponent(job.name)}/run`, ctx.query());
    ctx.notify(`${job.name} is asked for.`);
    watches.add(id, { job: job.name });
  } catch (error) {
    if (error.code === "waiting" && error.body?.run_id) watches.add(error.body.run_id, { job: job.name });
    ctx.failed(`${job.name} was not started`, error);
  }
  list.now();
}

async function turn(state, name, verb) {
  const { ctx, list } = state;
  const what = name === "*" ? "all jobs" : name;
  let body = {};
  if (verb === "pause") {
    const reason = field("Reason (optional)", { id: "pause-reason", maxlength: "200" });
    const sure = await ctx.confirm({
      title: `Pause ${what}?`, act: "Pause", read: () => ({ reason: reason.querySelector("input").value.trim() }),
      content: [h("p", {}, "What runs now goes on to its end. Nothing is run until it is resumed."), reason],
    });
    if (!sure) return;
    body = sure.reason ? sure : {};
  }
  try {
    const { changed } = await post(`jobs/${encodeURIComponent(name)}/${verb}`, ctx.query(), body);
    ctx.notify(changed ? `${what}: ${verb}d.` : `${what}: that was so already.`, "good");
  } catch (error) {
    ctx.failed(`${what}: not ${verb}d`, error);
  }
  list.now();
}

/** Below a job: what goes on, and its history. */
function below(state, job) {
  const { ctx, opened, watches } = state;
  const live = [...watches.runs.values()].filter((one) => one.job === job.name && !isOver(one));
  const history = opened.get(job.name);
  if (live.length === 0 && !history) return null;
  return h("div", { class: "below" }, live.map((one) => h("div", { key: one.id }, progress(ctx, one))), history && runsOf(state, job, history));
}

function runsOf(state, job, poll) {
  const { ctx, read } = state;
  const only = h("label", { class: "check" }, h("input", { type: "checkbox", onchange: (event) => {
    poll.failed = event.target.checked;
    poll.now();
  } }), h("span", {}, "only what failed"));
  if (poll.data === null) return refusal(ctx, poll.error) ?? loading();
  return h("div", { key: "history", class: "history" }, h("header", {}, h("h3", {}, `Runs of ${job.name}, newest first`), only),
    refusal(ctx, poll.error),
    table({
      caption: `Runs of ${job.name}`, rows: poll.data.runs, key: (one) => one.id, empty: poll.failed ? "None failed." : "None yet.",
      columns: [
        ["Outcome", "lead", (one) => opener(status(one.state), read.has(one.id), () => flip(ctx, read, one.id), `${words(one.state)}: details`)],
        ["Started", "", (one) => when(one.started_at ?? one.due_at)],
        ["Took", "number", (one) => millis(one.duration_ms)],
        ["Did", "number", (one) => number(one.rows_affected)],
        ["By", "", (one) => one.actor ?? "–"],
        ["Note", "wide", (one) => [one.reason && words(one.reason), one.error && h("small", { class: "error" }, prose(one.error)), one.progress && !isOver(one) && one.progress.object]],
      ],
      more: (one) => read.has(one.id) && details(one),
    }),
    poll.data.runs.length >= RUNS && h("p", { class: "muted" }, `The newest ${RUNS}; \`steward.job_runs\` has them all.`));
}
