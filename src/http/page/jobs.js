// Jobs: when they run, how they went, and running, pausing, cancelling them.

import { get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, brief, millis, now, number, when, words } from "./format.js";
import {
  aside,
  button,
  explain,
  field,
  flip,
  loading,
  muted,
  opener,
  panel,
  prose,
  refusal,
  small,
  status,
  table,
} from "./parts.js";
import { Poll } from "./poll.js";
import { Watches, because, details, did, fault, isOver, progress } from "./runs.js";

const EVERY = 5000;
const HISTORY_EVERY = 15000;
const RUNS = 20;
const MOST_RUNS = 200;
const MOST_OPEN = 4;
// A job that runs for shorter stays where it is in the list.
const LONG_MS = 10000;
const AWAY = "not known while the database is away";

// The last list that was read from the ledger. During an outage the API tells what is planned, and nothing
// of how it went: then this is shown, as old as it is. `of` is whose and of which database.
let kept = null;

export function jobs(ctx) {
  const of = `${ctx.target} ${ctx.who?.actor}`;
  const load = async (signal) => {
    const data = await get("jobs", ctx.query(), signal);
    if (data.source === "database") kept = { of, data, at: Date.now() };
    return data;
  };
  const list = new Poll(load, EVERY, () => {
    for (const job of list.data?.jobs ?? [])
      if (job.running)
        watches.add(job.running.id, {
          job: job.name,
          state: "running",
          started_at: job.running.since,
          instance: job.running.instance,
          actor: job.running.actor,
        });
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
      clearTimeout(state.timer);
    },
    render() {
      look(state, of);
      return [
        panel(ctx, {
          id: "jobs",
          title: "Jobs",
          poll: list,
          actions: list.data && whole(state),
          about: about(state),
          body: () => body(state),
        }),
      ];
    },
  };
}

/** What is shown now, how old that is, and what it allows. */
function look(state, of) {
  const { ctx, list } = state;
  const away = list.data?.source === "memory";
  const old = away && kept?.of === of ? kept : null;
  Object.assign(state, {
    away,
    old,
    shown: old?.data ?? list.data,
    unknown: away && !old,
    current: !away && !list.error,
    soonest: Infinity,
    lacks: ctx.lacks("operator") ?? (away ? "needs the database, which is away" : null),
  });
}

function about({ list, away }) {
  if (!list.data || away) return null;
  return list.data.observer
    ? `Run by ${list.data.observer}.`
    : "No instance observes this database at the moment, so nothing runs.";
}

function body(state) {
  const { ctx, list, away, old, shown } = state;
  const { paused } = shown;
  const content = [
    away &&
      h(
        "p",
        { class: "note", key: "away" },
        old && [h("strong", {}, "As of ", brief(old.at)), ". "],
        prose(
          explain({ code: "database_unavailable", detail: list.data.reason }, ctx.role(), {
            again: true,
          }),
        ),
        !old && " Until then only the plan is known.",
      ),
    paused &&
      h(
        "p",
        { class: "note", key: "paused" },
        status("paused", "All jobs are paused"),
        paused.by && ` by ${paused.by}`,
        paused.at && [", ", ago(paused.at)],
        paused.reason && `: ${paused.reason}`,
        ". What is measured on each tick goes on.",
      ),
    !ctx.can("operator") &&
      h(
        "p",
        { class: "muted", key: "role" },
        `To run, pause or cancel needs the role operator; yours is ${ctx.role()}.`,
      ),
    h("div", { key: "list", class: old ? "aged" : null }, overviewOf(state)),
  ];
  // A countdown that is over says so, without waiting for the next answer.
  clearTimeout(state.timer);
  const left = state.soonest - now();
  if (left < 2 * EVERY) state.timer = setTimeout(ctx.rerender, left + 20);
  return content;
}

function whole(state) {
  const paused = state.shown.paused != null;
  return button(
    paused ? "Resume all" : "Pause all",
    () => turn(state, "*", paused ? "resume" : "pause"),
    { lacks: state.lacks, id: "all-jobs" },
  );
}

/** A run of it that waits or goes on: what is followed is known earlier than the list. */
function going(state, job) {
  const followed = liveOf(state, job)[0];
  if (followed) return followed;
  const { running } = job;
  if (running && !state.watches.get(running.id))
    return { state: "running", started_at: running.since, instance: running.instance };
  return job.queued && !state.watches.get(job.queued.id) ? { state: "queued" } : null;
}

const liveOf = (state, job) =>
  [...state.watches.runs.values()].filter((one) => one.job === job.name && !isOver(one));

/** What somebody should look at stands first. */
function rank(job) {
  if (job.quarantined || job.failures_in_a_row > 0) return 0;
  return job.running && now() - new Date(job.running.since) > LONG_MS ? 1 : 2;
}

function overviewOf(state) {
  return table({
    caption: "Jobs",
    name: "job-list",
    rows: [...state.shown.jobs].sort((a, b) => rank(a) - rank(b)),
    key: (job) => job.name,
    columns: [
      ["Job", "lead", (job) => [h("strong", {}, job.name), small(kind(job)), notes(job)]],
      ["Schedule", "", schedule],
      ["Next", "", (job) => next(state, job)],
      ["Last", "wide", (job) => last(state, job)],
      [
        "Average",
        "number",
        (job) =>
          job.average_ms == null
            ? "–"
            : [
                millis(job.average_ms),
                job.p95_ms != null &&
                  h("small", { title: "95 of 100 runs take less" }, `p95 ${millis(job.p95_ms)}`),
              ],
      ],
      ["Runs", "number", (job) => counts(state, job)],
      ["", "acts", (job) => acts(state, job)],
    ],
    more: (job) => below(state, job),
  });
}

function kind(job) {
  if (job.state === "not_configured") return "of another instance's configuration";
  return job.kind === "sql" ? "own SQL" : "built in";
}

const notes = (job) => [
  job.enabled === false && job.state !== "not_configured" && status("paused", "disabled"),
  job.differs &&
    h(
      "small",
      { class: "error" },
      "The instance that observes goes by another schedule or content.",
    ),
  job.quarantined &&
    small("A former run may still work on the server; the next one waits for its end."),
];

function schedule(job) {
  const follows = job.after?.length > 0 && `after ${job.after.join(", ")}`;
  if (job.state === "not_configured") return muted("not known here");
  return [
    h(
      "span",
      {},
      job.schedule ? h("code", { class: "cron" }, job.schedule) : follows || "on request",
    ),
    job.schedule && job.timezone !== "UTC" && small(job.timezone),
  ];
}

function next(state, job) {
  if (job.ticks) return muted("on each tick");
  if (job.paused)
    return [
      status("paused"),
      small(`by ${job.paused.by}`, job.paused.reason && `: ${job.paused.reason}`),
    ];
  if (state.shown.paused) return [status("paused"), small("with all jobs")];
  if (job.quarantined) return status("degraded", "quarantined");
  if (going(state, job)?.state === "queued") return status("queued");
  if (!job.next_due) return "–";
  if (!state.current) return when(job.next_due);
  return [due(state, job.next_due), small(when(job.next_due)), later(job)];
}

function due(state, at) {
  const instant = Date.parse(at);
  if (instant <= now()) return h("span", {}, "due now");
  state.soonest = Math.min(state.soonest, instant);
  return ago(at);
}

/** The times after the next, where the schedule does not say them itself. */
function later(job) {
  const dues = (job.next_dues ?? []).slice(1);
  if (dues.length === 0 || job.schedule?.startsWith("@every")) return null;
  return h(
    "details",
    {},
    h("summary", {}, `and ${dues.length} later`),
    dues.map((at) => small(when(at))),
  );
}

function last(state, job) {
  const run = going(state, job);
  if (run?.state === "running")
    return [
      status("running"),
      small("since ", when(run.started_at), run.instance && ` on ${run.instance}`),
    ];
  if (job.ticks) return muted("measures on each tick; no runs are recorded");
  if (state.unknown) return muted(AWAY);
  return job.last ? ended(job, job.last) : muted("has not run yet");
}

function ended(job, run) {
  const succeeded =
    run.state !== "succeeded" &&
    (job.last_success_at
      ? small("last succeeded ", ago(job.last_success_at))
      : small("has never succeeded"));
  return [
    h("span", { class: "line" }, status(run.state), run.finished_at && muted(ago(run.finished_at))),
    small(
      [
        run.duration_ms != null && millis(run.duration_ms),
        did(job.name, run.rows_affected),
        because(run),
      ]
        .filter(Boolean)
        .join(" · "),
    ),
    fault(run),
    succeeded,
  ];
}

function counts(state, job) {
  if (job.ticks || state.unknown) return "–";
  const {
    succeeded_total: good,
    failed_total: bad,
    skipped_total: skipped,
    failures_in_a_row: row,
  } = job;
  if (!good && !bad && !skipped) return muted("none");
  return [
    h("span", {}, `${number(good)} ok`),
    h(
      "small",
      { class: row > 0 ? "error" : null },
      [
        bad > 0 && `${number(bad)} failed${row > 0 ? `, ${row} in a row` : ""}`,
        skipped > 0 && `${number(skipped)} skipped`,
      ]
        .filter(Boolean)
        .join(", "),
    ),
  ];
}

function acts(state, job) {
  const { lacks } = state;
  const open = state.opened.has(job.name);
  const name = (verb) => [verb, aside(` ${job.name}`)];
  const busy =
    { running: "it is running", queued: "a run of it waits already" }[going(state, job)?.state] ??
    (job.paused ? "it is paused" : state.shown.paused ? "all jobs are paused" : null);
  const verb = job.paused ? "resume" : "pause";
  // What measures on each tick is neither run nor paused.
  return [
    !job.ticks &&
      button(name("Run"), () => run(state, job), {
        kind: job.failures_in_a_row > 0 ? "main" : "",
        lacks: lacks ?? busy,
        "data-act": "run",
      }),
    (!job.ticks || job.paused) &&
      button(name(job.paused ? "Resume" : "Pause"), () => turn(state, job.name, verb), {
        kind: job.paused ? "" : "quiet",
        lacks,
        "data-act": verb,
      }),
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
    const fresh = new Poll(
      (signal) =>
        get(
          `jobs/${encodeURIComponent(name)}/runs`,
          ctx.query({ limit: fresh.limit ?? RUNS, failed: fresh.failed && "true" }),
          signal,
        ),
      HISTORY_EVERY,
      ctx.rerender,
    );
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
    if (error.code === "waiting" && error.body?.run_id)
      watches.add(error.body.run_id, { job: job.name });
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
      title: `Pause ${what}?`,
      act: "Pause",
      read: () => ({ reason: reason.querySelector("input").value.trim() }),
      content: [
        h("p", {}, "What runs now goes on to its end. Nothing is run until it is resumed."),
        reason,
      ],
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
  const { ctx, opened } = state;
  const live = liveOf(state, job);
  const history = opened.get(job.name);
  if (live.length === 0 && !history) return null;
  return h(
    "div",
    { class: "below" },
    live.map((one) => h("div", { key: one.id }, progress(ctx, one))),
    history && runsOf(state, job, history),
  );
}

function runsOf(state, job, poll) {
  const { ctx, read } = state;
  if (poll.data === null) return refusal(ctx, poll.error, { again: true }) ?? loading();
  const { runs } = poll.data;
  const only = h(
    "label",
    { class: "check" },
    h("input", {
      type: "checkbox",
      onchange: (event) => {
        poll.failed = event.target.checked;
        poll.now();
      },
    }),
    h("span", {}, "only what failed"),
  );
  // The same error again and again is told once.
  const same = new Set(runs.filter((one, i) => one.error && one.error === runs[i - 1]?.error));
  const note = (one) => {
    if (one.progress && !isOver(one)) return one.progress.object;
    return [
      because(one),
      !read.has(one.id) && (same.has(one) ? small("the same as above") : fault(one)),
    ];
  };
  return h(
    "div",
    { key: "history", class: "history" },
    h("header", {}, h("h3", {}, `Runs of ${job.name}, newest first`), only),
    refusal(ctx, poll.error, { again: true }),
    table({
      caption: `Runs of ${job.name}`,
      rows: runs,
      key: (one) => one.id,
      empty: poll.failed ? "None failed." : "None yet.",
      columns: [
        [
          "Outcome",
          "lead",
          (one) =>
            opener(
              status(one.state),
              read.has(one.id),
              () => flip(ctx, read, one.id),
              `${words(one.state)}: details`,
            ),
        ],
        ["Started", "", (one) => when(one.started_at ?? one.due_at)],
        ["Took", "number", (one) => millis(one.duration_ms)],
        ["Result", "number", (one) => did(job.name, one.rows_affected) || "–"],
        ["By", "", (one) => one.actor ?? "–"],
        ["Note", "wide", note],
      ],
      more: (one) => read.has(one.id) && details(one),
    }),
    rest(poll),
  );
}

function rest(poll) {
  const { length } = poll.data.runs;
  if (length >= MOST_RUNS)
    return h(
      "p",
      { class: "muted" },
      prose(`The newest ${MOST_RUNS}; \`steward.job_runs\` has them all.`),
    );
  if (length < RUNS || poll.limit) return null;
  return h(
    "p",
    {},
    button("More", () => {
      poll.limit = MOST_RUNS;
      poll.now();
    }),
  );
}
