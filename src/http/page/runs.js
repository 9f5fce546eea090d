// Runs of jobs: follows them to their end, and shows their results for each object.

import { follow, get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, lasting, millis, number, plural, value, when, words } from "./format.js";
import { button, definitions, muted, prose, small, status, table } from "./widgets.js";

const FINAL_STATES = new Set(["succeeded", "failed", "timed_out", "cancelled", "skipped", "lost"]);
// A browser opens six connections to one origin, and polls need some of them.
const MAX_STREAMS = 2;
const POLL_MS = 2000;

// The unit of a job's result, if that is not rows.
const UNITS = { vacuum: "table", refresh: "view", partitions: "partition" };

export const isOver = (run) => FINAL_STATES.has(run.state);

/** Whether a person cancelled the run. That is no failure, although the run has an error. */
const cancelledOnRequest = (run) => run.state === "cancelled" && run.reason === "requested";

/** The reason of the run's state; empty if the error already states it. */
export const reasonText = (run) =>
  run.reason && !(run.error && ["sql", "requested"].includes(run.reason)) ? words(run.reason) : "";

/** The error of a run in one cell. */
export const runError = (run) =>
  run.error &&
  (cancelledOnRequest(run)
    ? small(run.error)
    : h("small", { class: "error", title: run.error }, prose(run.error)));

/** The number of rows or objects; empty for none. */
export const amount = (job, count) => (count > 0 ? plural(count, UNITS[job] ?? "row") : "");

/** Follows runs over event streams; beyond `MAX_STREAMS` by polling. */
export class Watches {
  /** `polls()` are repeated when a run has ended. */
  constructor(ctx, polls) {
    Object.assign(this, { ctx, polls, runs: new Map(), streams: 0, off: new AbortController() });
  }

  get = (id) => this.runs.get(id) ?? null;

  /** Follows a run. `known` are its fields that are already known. */
  add(id, known = {}) {
    if (this.runs.has(id)) return;
    this.runs.set(id, { id, state: "queued", ...known });
    this.follow(id);
  }

  stop() {
    this.off.abort();
  }

  /** A stream may end before its run does: if the page is hidden for long, or the daemon stops. */
  async follow(id) {
    const { signal } = this.off;
    const changed = (run) => {
      this.runs.set(id, run);
      this.ctx.rerender();
    };
    while (!signal.aborted && !isOver(this.get(id))) {
      try {
        if (this.streams < MAX_STREAMS) {
          this.streams += 1;
          await follow(id, this.ctx.query(), signal, changed).finally(() => {
            this.streams -= 1;
          });
        }
        // The final state is missed if the stream breaks.
        if (!isOver(this.get(id)))
          changed(await get(`runs/${encodeURIComponent(id)}`, this.ctx.query(), signal));
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 404 || error.status === 401 || error.status === 403) {
          this.runs.delete(id);
          return;
        }
      }
      if (!isOver(this.get(id))) await new Promise((done) => setTimeout(done, POLL_MS));
    }
    if (signal.aborted) return;
    reportEnd(this.ctx, this.get(id));
    for (const poll of this.polls()) poll.now();
    this.ctx.rerender();
  }
}

function reportEnd(ctx, run) {
  if (cancelledOnRequest(run)) return ctx.notify(`${run.job} was cancelled on request.`);
  const much = amount(run.job, run.rows_affected);
  if (run.state === "succeeded")
    return ctx.notify(
      `${run.job} succeeded in ${millis(run.duration_ms)}${much && `: ${much}`}.`,
      "good",
    );
  const why = reasonText(run);
  return ctx.notify(
    `${run.job} ${words(run.state)}${why && ` (${why})`}${run.error ? `: ${run.error}` : "."}`,
    "bad",
  );
}

function cancel(ctx, run) {
  return async () => {
    const confirmed = await ctx.confirm({
      title: `Cancel ${run.job}?`,
      confirmText: "Cancel the run",
      danger: true,
      content: h(
        "p",
        {},
        "Committed changes stay. The current statement is cancelled on the server.",
      ),
    });
    if (!confirmed) return;
    try {
      const { state } = await post(`runs/${encodeURIComponent(run.id)}/cancel`, ctx.query());
      ctx.notify(`${run.job}: ${words(state)}.`);
    } catch (error) {
      ctx.failed(`${run.job} was not cancelled`, error);
    }
  };
}

/** A queued or running run. */
export function progress(ctx, run) {
  const { progress: done } = run;
  const bounded = done?.total > 0;
  const bar = bounded
    ? h("progress", {
        max: done.total,
        value: done.done ?? 0,
        "aria-label": `${run.job}: ${done.done} of ${done.total}`,
      })
    : h("progress", { "aria-label": `${run.job} is running` });
  return h(
    "div",
    { class: "live", "data-run": run.id },
    h(
      "div",
      {},
      status(run.state === "queued" ? "queued" : "running", words(run.state)),
      run.started_at && ["for ", lasting(run.started_at)],
      run.actor && muted(`by ${run.actor}`),
      button("Cancel", cancel(ctx, run), {
        denied: ctx.denied("operator"),
        "data-action": "cancel",
        "aria-label": `Cancel ${run.job}`,
      }),
    ),
    run.state !== "queued" &&
      h(
        "div",
        { class: "meter" },
        bar,
        h(
          "span",
          {},
          bounded ? `${number(done.done)} of ${number(done.total)}` : "",
          done?.object && [" ", h("code", {}, done.object)],
          done?.note && ` ${done.note}`,
        ),
      ),
  );
}

/** All facts of a run. */
export function runDetails(run) {
  const facts = [
    ["Run", h("code", {}, run.id)],
    ["Due", run.due_at && when(run.due_at)],
    ["Requested by", run.actor],
    ["Instance", run.instance],
    ["Attempts", run.attempts > 1 ? number(run.attempts) : null],
    ["Cancelled by", run.cancel_by],
    [
      "Fenced",
      run.fenced === false
        ? "no: the changes and the record of the run were separate transactions"
        : null,
    ],
  ].filter(([, shown]) => shown != null && shown !== "");
  return h(
    "div",
    { class: "below" },
    run.error && h("p", { class: cancelledOnRequest(run) ? "note" : "note bad" }, prose(run.error)),
    definitions(facts, "facts"),
    objectResults(run),
  );
}

/** The results of a run for each object. */
export function objectResults(run) {
  const all = Object.entries(run.detail ?? {});
  if (all.length === 0)
    return h("p", { class: "muted" }, "The run recorded no results for single objects.");
  const columns = RESULTS[run.job];
  if (!columns) return value(run.detail);
  const noted = all.some((one) => notes(one).flat().some(Boolean));
  return table({
    caption: `Results of ${run.job}`,
    rows: all,
    key: ([name]) => name,
    columns: noted ? [...columns, ["Note", "wide", notes]] : columns,
  });
}

function notes([, one]) {
  const { left_for_the_next_run: left, throttled_ms: throttled, held_by: held } = one;
  return [
    one.error && h("small", { class: "error" }, prose(one.error)),
    [
      one.skipped && `skipped: ${one.skipped}`,
      one.always_because,
      ...(one.notes ?? []),
      ...(one.notices ?? []),
    ]
      .filter(Boolean)
      .map((note) => small(prose(note))),
    throttled > 0 &&
      small(`throttled for ${millis(throttled)} by ${one.throttled_by.map(words).join(", ")}`),
    left > 0 && small(`${number(left)} more are left for the next run`),
    held && small("dead rows are kept by ", value(held)),
  ];
}

const DURATION = ["Duration", "number", ([, one]) => millis(one.duration_ms)];
const RESULTS = {
  vacuum: [
    ["Table", "lead", ([name]) => name],
    [
      "Actions",
      "",
      ([, one]) =>
        ["vacuum", "analyze"].filter((what) => one[what] === true).join(", ") || "nothing",
    ],
    ["Dead rows before", "number", ([, one]) => number(one.dead_before)],
    ["After", "number", ([, one]) => number(one.dead_after)],
    DURATION,
  ],
  refresh: [
    ["View", "lead", ([name]) => name],
    [
      "Actions",
      "",
      ([, one]) =>
        one.how
          ? `refreshed ${words(one.how)}`
          : one.unchanged
            ? "nothing: no underlying table changed"
            : "nothing",
    ],
    ["Refreshed", "", ([, one]) => when(one.refreshed_at)],
    DURATION,
  ],
  retention: [
    ["Table", "lead", ([name]) => name],
    ["Cutoff", "", ([, one]) => when(one.cutoff || null)],
    ["Rows deleted", "number", ([, one]) => number(one.rows)],
    ["Partitions dropped", "wide", ([, one]) => one.partitions?.join(", ") || "–"],
    [
      "Oldest row left",
      "",
      ([, one]) => (one.oldest_left ? [ago(one.oldest_left), small(when(one.oldest_left))] : "–"),
    ],
  ],
};
