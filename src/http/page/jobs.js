// Jobs: their schedules and runs, with actions to run, pause and cancel them.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, brief, millis, now, number, when, words } from "./format.js";
import { Poll } from "./poll.js";
import { Watches, amount, isOver, progress, reasonText, runDetails, runError } from "./runs.js";
import {
  button,
  describeError,
  errorNote,
  field,
  loading,
  muted,
  opener,
  panel,
  prose,
  small,
  status,
  table,
  toggleIn,
  visuallyHidden,
} from "./widgets.js";

const EVERY = 5000;
const HISTORY_EVERY = 15000;
const PAGE_SIZE = 20;
const MAX_RUNS = 200;
const MAX_OPEN = 4;
// A job that runs for less keeps its position in the list.
const LONG_MS = 10000;
const UNAVAILABLE = "not known while the database is unavailable";

// The last list that came from the ledger. During an outage the API returns schedules without runs;
// then the page shows this list with its age. `owner` is the person and the database it belongs to.
let lastKnown = null;

export function jobs(ctx) {
  const owner = `${ctx.target} ${ctx.who?.actor}`;
  const load = async (signal) => {
    const data = await get("jobs", ctx.query(), signal);
    if (data.source === "database") lastKnown = { owner, data, at: Date.now() };
    return data;
  };
  const list = new Poll(load, EVERY, () => {
    for (const { name, running } of list.data?.jobs ?? []) {
      if (!running) continue;
      const { since, instance, actor } = running;
      watches.add(running.id, { job: name, state: "running", started_at: since, instance, actor });
    }
    ctx.rerender();
  });
  const histories = new Map();
  const polls = () => [list, ...histories.values()];
  const watches = new Watches(ctx, polls);
  const state = { ctx, list, histories, watches, openedRuns: new Set() };
  return {
    polls: () => (ctx.can("viewer") ? polls() : []),
    stop() {
      for (const poll of polls()) poll.stop();
      watches.stop();
      clearTimeout(state.timer);
    },
    render() {
      update(state, owner);
      return [
        panel(ctx, {
          id: "jobs",
          title: "Jobs",
          poll: list,
          actions: list.data && allJobsButton(state),
          about: about(state),
          body: () => body(state),
        }),
      ];
    },
  };
}

/** Sets what is shown, whether it is current, and why an action is not available. */
function update(state, owner) {
  const { ctx, list } = state;
  const unavailable = list.data?.source === "memory";
  const outdated = unavailable && lastKnown?.owner === owner ? lastKnown : null;
  Object.assign(state, {
    unavailable,
    outdated,
    shown: outdated?.data ?? list.data,
    noRuns: unavailable && !outdated,
    current: !unavailable && !list.error,
    nextDue: Infinity,
    denied: ctx.denied("operator") ?? (unavailable ? "the database is unavailable" : null),
  });
}

function about({ list, unavailable }) {
  if (!list.data || unavailable) return null;
  const { leader } = list.data;
  return leader
    ? `Run by the leader, ${leader}.`
    : "No instance is the leader at the moment, so no job runs.";
}

function body(state) {
  const { ctx, unavailable, outdated, shown } = state;
  const { reason } = ctx.current()?.components.connectivity ?? {};
  const error = { code: "database_unavailable", body: { reason } };
  const content = [
    unavailable &&
      h(
        "p",
        { class: "note", key: "unavailable" },
        outdated && [h("strong", {}, "As of ", brief(outdated.at)), ". "],
        prose(describeError(error, ctx.role(), { polling: true })),
        !outdated && " Until then only schedules are known.",
      ),
    shown.paused && allPaused(shown.paused),
    !ctx.can("operator") &&
      h(
        "p",
        { class: "muted", key: "role" },
        `Running, pausing and cancelling need the role operator; yours is ${ctx.role()}.`,
      ),
    h("div", { key: "list", class: outdated ? "aged" : null }, jobTable(state)),
  ];
  // Redraws when a countdown ends, without waiting for the next response.
  clearTimeout(state.timer);
  const left = state.nextDue - now();
  if (left < 2 * EVERY) state.timer = setTimeout(ctx.rerender, left + 20);
  return content;
}

const allPaused = ({ by, at, reason }) =>
  h(
    "p",
    { class: "note", key: "paused" },
    status("paused", "All jobs are paused"),
    by && ` by ${by}`,
    at && [", ", ago(at)],
    reason && `: ${reason}`,
    ". Health measurements continue.",
  );

function allJobsButton(state) {
  const paused = state.shown.paused != null;
  return button(
    paused ? "Resume all" : "Pause all",
    () => pauseOrResume(state, "*", paused ? "resume" : "pause"),
    { denied: state.denied, id: "all-jobs" },
  );
}

/** The current run of a job, queued or running. A followed run is known earlier than the list. */
function currentRun(state, job) {
  const [followed] = followedRuns(state, job);
  if (followed) return followed;
  const { running, queued } = job;
  if (running && !state.watches.get(running.id))
    return { state: "running", started_at: running.since, instance: running.instance };
  return queued && !state.watches.get(queued.id) ? { state: "queued" } : null;
}

const followedRuns = (state, job) =>
  [...state.watches.runs.values()].filter((run) => run.job === job.name && !isOver(run));

/** Jobs that need attention come first, then long runs. */
function rank(job) {
  if (job.quarantined || job.consecutive_failures > 0) return 0;
  return job.running && now() - new Date(job.running.since) > LONG_MS ? 1 : 2;
}

function jobTable(state) {
  const average = ({ average_ms: average, p95_ms: p95 }) =>
    average == null
      ? "–"
      : [
          millis(average),
          p95 != null && h("small", { title: "95 of 100 runs take less" }, `p95 ${millis(p95)}`),
        ];
  return table({
    caption: "Jobs",
    name: "job-list",
    rows: [...state.shown.jobs].sort((a, b) => rank(a) - rank(b)),
    key: (job) => job.name,
    columns: [
      ["Job", "lead", (job) => [h("strong", {}, job.name), small(kind(job)), notes(job)]],
      ["Schedule", "", schedule],
      ["Next run", "", (job) => nextRun(state, job)],
      ["Last run", "wide", (job) => lastRun(state, job)],
      ["Average", "number", average],
      ["Runs", "number", (job) => counts(state, job)],
      ["", "row-actions", (job) => actions(state, job)],
    ],
    more: (job) => below(state, job),
  });
}

function kind(job) {
  if (job.state === "not_configured") return "configured on another instance";
  return job.kind === "sql" ? "SQL job" : "built-in job";
}

const notes = (job) => [
  job.enabled === false && job.state !== "not_configured" && status("paused", "disabled"),
  job.config_differs &&
    h("small", { class: "error" }, "The leader has another schedule or content for this job."),
  job.quarantined &&
    small("An earlier run may still be working on the server; the next run waits for its end."),
];

function schedule(job) {
  if (job.state === "not_configured") return muted("not known here");
  const after = job.after?.length > 0 && `after ${job.after.join(", ")}`;
  const text = job.schedule ? h("code", { class: "cron" }, job.schedule) : after || "on request";
  return [h("span", {}, text), job.schedule && job.timezone !== "UTC" && small(job.timezone)];
}

function nextRun(state, job) {
  if (job.state === "measured") return muted("on each tick");
  if (job.paused)
    return [
      status("paused"),
      small(`by ${job.paused.by}`, job.paused.reason && `: ${job.paused.reason}`),
    ];
  if (state.shown.paused) return [status("paused"), small("with all jobs")];
  if (job.quarantined) return status("degraded", "quarantined");
  if (currentRun(state, job)?.state === "queued") return status("queued");
  if (!job.next_due) return "–";
  if (!state.current) return when(job.next_due);
  return [countdown(state, job.next_due), small(when(job.next_due)), laterRuns(job)];
}

function countdown(state, due) {
  const at = Date.parse(due);
  if (at <= now()) return h("span", {}, "due now");
  state.nextDue = Math.min(state.nextDue, at);
  return ago(due);
}

/** The times after the next one, unless the schedule itself makes them obvious. */
function laterRuns(job) {
  const later = (job.upcoming ?? []).slice(1);
  if (later.length === 0 || job.schedule?.startsWith("@every")) return null;
  return h(
    "details",
    {},
    h("summary", {}, `and ${later.length} later`),
    later.map((at) => small(when(at))),
  );
}

function lastRun(state, job) {
  const run = currentRun(state, job);
  if (run?.state === "running")
    return [
      status("running"),
      small("since ", when(run.started_at), run.instance && ` on ${run.instance}`),
    ];
  if (job.state === "measured") return muted("measures on each tick; its runs are not recorded");
  if (state.noRuns) return muted(UNAVAILABLE);
  return job.last ? finishedRun(job, job.last) : muted("has not run yet");
}

function finishedRun(job, run) {
  const success =
    run.state !== "succeeded" &&
    (job.last_success_at
      ? small("last succeeded ", ago(job.last_success_at))
      : small("has never succeeded"));
  const facts = [
    run.duration_ms != null && millis(run.duration_ms),
    amount(job.name, run.rows_affected),
    reasonText(run),
  ];
  return [
    h("span", { class: "line" }, status(run.state), run.finished_at && muted(ago(run.finished_at))),
    small(facts.filter(Boolean).join(" · ")),
    runError(run),
    success,
  ];
}

function counts(state, job) {
  if (job.state === "measured" || state.noRuns) return "–";
  const {
    succeeded_total: succeeded,
    failed_total: failed,
    skipped_total: skipped,
    consecutive_failures: inARow,
  } = job;
  if (!succeeded && !failed && !skipped) return muted("none");
  const others = [
    failed > 0 && `${number(failed)} failed${inARow > 0 ? `, ${inARow} in a row` : ""}`,
    skipped > 0 && `${number(skipped)} skipped`,
  ];
  return [
    h("span", {}, `${number(succeeded)} ok`),
    h("small", { class: inARow > 0 ? "error" : null }, others.filter(Boolean).join(", ")),
  ];
}

function actions(state, job) {
  const { denied } = state;
  const open = state.histories.has(job.name);
  const label = (verb) => [verb, visuallyHidden(` ${job.name}`)];
  const busy =
    { running: "it is running", queued: "a run of it is queued" }[currentRun(state, job)?.state] ??
    (job.paused ? "it is paused" : state.shown.paused ? "all jobs are paused" : null);
  const verb = job.paused ? "resume" : "pause";
  const runProps = {
    kind: job.consecutive_failures > 0 ? "main" : "",
    denied: denied ?? busy,
    "data-action": "run",
  };
  const pauseProps = { kind: job.paused ? "" : "quiet", denied, "data-action": verb };
  // A job that measures on each tick is neither run nor paused.
  const hasRuns = job.state !== "measured";
  return [
    hasRuns && button(label("Run"), () => run(state, job), runProps),
    (hasRuns || job.paused) &&
      button(
        label(job.paused ? "Resume" : "Pause"),
        () => pauseOrResume(state, job.name, verb),
        pauseProps,
      ),
    hasRuns && opener(label("History"), open, () => toggleHistory(state, job.name)),
  ];
}

function toggleHistory(state, name) {
  const { ctx, histories } = state;
  const open = histories.get(name);
  if (open) {
    open.stop();
    histories.delete(name);
  } else {
    // Each open history polls: the oldest one is closed.
    if (histories.size >= MAX_OPEN) toggleHistory(state, histories.keys().next().value);
    const load = (signal) =>
      get(
        `jobs/${encodeURIComponent(name)}/runs`,
        ctx.query({ limit: poll.limit ?? PAGE_SIZE, failed: poll.failed && "true" }),
        signal,
      );
    const poll = new Poll(load, HISTORY_EVERY, ctx.rerender);
    histories.set(name, poll.start());
  }
  ctx.rerender();
}

async function run(state, job) {
  const { ctx, watches, list } = state;
  try {
    const { run_id: id } = await post(`jobs/${encodeURIComponent(job.name)}/run`, ctx.query());
    ctx.notify(`A run of ${job.name} is requested.`);
    watches.add(id, { job: job.name });
  } catch (error) {
    if (error.code === "already_queued" && error.body?.run_id)
      watches.add(error.body.run_id, { job: job.name });
    ctx.failed(`${job.name} was not started`, error);
  }
  list.now();
}

async function pauseOrResume(state, name, verb) {
  const { ctx, list } = state;
  const what = name === "*" ? "all jobs" : name;
  let body = {};
  if (verb === "pause") {
    const reason = field("Reason (optional)", { id: "pause-reason", maxlength: "200" });
    const confirmed = await ctx.confirm({
      title: `Pause ${what}?`,
      confirmText: "Pause",
      read: () => ({ reason: reason.querySelector("input").value.trim() }),
      content: [
        h(
          "p",
          {},
          "A current run continues to its end. No new run starts until the jobs are resumed.",
        ),
        reason,
      ],
    });
    if (!confirmed) return;
    body = confirmed.reason ? confirmed : {};
  }
  try {
    const { changed } = await post(`jobs/${encodeURIComponent(name)}/${verb}`, ctx.query(), body);
    ctx.notify(changed ? `${what}: ${verb}d.` : `${what}: already ${verb}d.`, "good");
  } catch (error) {
    ctx.failed(`${what}: not ${verb}d`, error);
  }
  list.now();
}

/** Below a job: its current runs and its history. */
function below(state, job) {
  const runs = followedRuns(state, job);
  const history = state.histories.get(job.name);
  if (runs.length === 0 && !history) return null;
  return h(
    "div",
    { class: "below" },
    runs.map((run) => h("div", { key: run.id }, progress(state.ctx, run))),
    history && runHistory(state, job, history),
  );
}

function runHistory(state, job, poll) {
  const { ctx, openedRuns } = state;
  if (poll.data === null) return errorNote(ctx, poll.error, { polling: true }) ?? loading();
  const { runs } = poll.data;
  const onchange = (event) => {
    poll.failed = event.target.checked;
    poll.now();
  };
  const onlyFailed = h(
    "label",
    { class: "check" },
    h("input", { type: "checkbox", onchange }),
    h("span", {}, "only failed runs"),
  );
  // An error that repeats is shown once.
  const repeated = new Set(runs.filter((one, i) => one.error && one.error === runs[i - 1]?.error));
  const note = (one) => {
    if (one.progress && !isOver(one)) return one.progress.object;
    return [
      reasonText(one),
      !openedRuns.has(one.id) && (repeated.has(one) ? small("same error as above") : runError(one)),
    ];
  };
  const runState = (one) =>
    opener(
      status(one.state),
      openedRuns.has(one.id),
      () => toggleIn(ctx, openedRuns, one.id),
      `${words(one.state)}: details`,
    );
  return h(
    "div",
    { key: "history", class: "history" },
    h("header", {}, h("h3", {}, `Runs of ${job.name}, newest first`), onlyFailed),
    errorNote(ctx, poll.error, { polling: true }),
    table({
      caption: `Runs of ${job.name}`,
      rows: runs,
      key: (one) => one.id,
      empty: poll.failed ? "No run failed." : "No runs yet.",
      columns: [
        ["State", "lead", runState],
        ["Started", "", (one) => when(one.started_at ?? one.due_at)],
        ["Duration", "number", (one) => millis(one.duration_ms)],
        ["Result", "number", (one) => amount(job.name, one.rows_affected) || "–"],
        ["Actor", "", (one) => one.actor ?? "–"],
        ["Note", "wide", note],
      ],
      more: (one) => openedRuns.has(one.id) && runDetails(one),
    }),
    moreRuns(poll),
  );
}

function moreRuns(poll) {
  const { length } = poll.data.runs;
  if (length >= MAX_RUNS)
    return h(
      "p",
      { class: "muted" },
      prose(`The newest ${MAX_RUNS}; \`steward.job_runs\` has all of them.`),
    );
  if (length < PAGE_SIZE || poll.limit) return null;
  const load = () => {
    poll.limit = MAX_RUNS;
    poll.now();
  };
  return h("p", {}, button("More", load));
}
