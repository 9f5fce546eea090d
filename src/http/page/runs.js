// Runs of jobs: followed while they go on, and shown with what they did to each object.

import { follow, get, post } from "./api.js";
import { h } from "./dom.js";
import { ago, lasting, millis, number, plural, value, when, words } from "./format.js";
import { button, muted, prose, small, status, table } from "./parts.js";

const OVER = new Set(["succeeded", "failed", "timed_out", "cancelled", "skipped", "lost"]);
// A browser opens six connections to one origin; polls need some of them.
const STREAMS = 2;
const POLL_MS = 2000;

// What a job counts as its work, where that is not rows.
const UNITS = { vacuum: "table", refresh: "view", partitions: "partition" };

export const isOver = (run) => OVER.has(run.state);

/** Somebody cancelled it: that is no failure, although it is recorded with an error. */
export const onRequest = (run) => run.state === "cancelled" && run.reason === "requested";

/** Why it ended so, where its error does not say that better. */
export const because = (run) =>
  run.reason && !(run.error && ["sql", "requested"].includes(run.reason)) ? words(run.reason) : "";

/** The error in a row: of a cancel that was asked for, only by whom it was. */
export const fault = (run) =>
  run.error &&
  (onRequest(run)
    ? small(run.error.split(";")[0])
    : h("small", { class: "error", title: run.error }, prose(run.error)));

/** How much it did; nothing for nothing. */
export const did = (job, count) => (count > 0 ? plural(count, UNITS[job] ?? "row") : "");

/** Follows runs, over an event stream where there is room for one, else by asking. */
export class Watches {
  /** `polls()` are asked again when a run has ended. */
  constructor(ctx, polls) {
    Object.assign(this, { ctx, polls, runs: new Map(), streams: 0, off: new AbortController() });
  }

  get = (id) => this.runs.get(id) ?? null;

  /** `seen`: what is known of it already. */
  add(id, seen = {}) {
    if (this.runs.has(id)) return;
    this.runs.set(id, { id, state: "queued", ...seen });
    this.watch(id);
  }

  stop() {
    this.off.abort();
  }

  /** Streams end while the page is hidden for long, or with the daemon: asked again when looked at. */
  async watch(id) {
    const { signal } = this.off;
    const seen = (run) => {
      this.runs.set(id, run);
      this.ctx.rerender();
    };
    while (!signal.aborted && !isOver(this.get(id))) {
      try {
        if (this.streams < STREAMS) {
          this.streams += 1;
          await follow(id, this.ctx.query(), signal, seen).finally(() => {
            this.streams -= 1;
          });
        }
        // The stream's last word may be missed when it breaks.
        if (!isOver(this.get(id)))
          seen(await get(`runs/${encodeURIComponent(id)}`, this.ctx.query(), signal));
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
    tell(this.ctx, this.get(id));
    for (const poll of this.polls()) poll.now();
    this.ctx.rerender();
  }
}

function tell(ctx, run) {
  if (onRequest(run)) return ctx.notify(`${run.job} is cancelled, as was asked.`);
  const much = did(run.job, run.rows_affected);
  if (run.state === "succeeded")
    return ctx.notify(
      `${run.job} succeeded in ${millis(run.duration_ms)}${much && `: ${much}`}.`,
      "good",
    );
  const why = because(run);
  return ctx.notify(
    `${run.job} ${words(run.state)}${why && ` (${why})`}${run.error ? `: ${run.error}` : "."}`,
    "bad",
  );
}

function cancel(ctx, run) {
  return async () => {
    const sure = await ctx.confirm({
      title: `Cancel ${run.job}?`,
      act: "Cancel the run",
      danger: true,
      content: h(
        "p",
        {},
        "What it has committed stays done; the statement that runs is cancelled on the server.",
      ),
    });
    if (!sure) return;
    try {
      const { state } = await post(`runs/${encodeURIComponent(run.id)}/cancel`, ctx.query());
      ctx.notify(`${run.job}: ${words(state)}.`);
    } catch (error) {
      ctx.failed(`${run.job} was not cancelled`, error);
    }
  };
}

/** A run that goes on. */
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
        lacks: ctx.lacks("operator"),
        "data-act": "cancel",
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

/** A run that is over, or not, in full. */
export function details(run) {
  const facts = [
    ["Run", h("code", {}, run.id)],
    ["Due", run.due_at && when(run.due_at)],
    ["Asked for by", run.actor],
    ["Instance", run.instance],
    ["Attempts", run.attempts > 1 ? number(run.attempts) : null],
    ["Cancelled by", run.cancel_by],
    [
      "Fenced",
      run.fenced === false ? "no: what it did and its record did not commit together" : null,
    ],
  ].filter(([, shown]) => shown != null && shown !== "");
  return h(
    "div",
    { class: "below" },
    run.error && h("p", { class: onRequest(run) ? "note" : "note bad" }, prose(run.error)),
    h(
      "dl",
      { class: "facts" },
      facts.map(([name, shown]) => h("div", {}, h("dt", {}, name), h("dd", {}, shown))),
    ),
    objects(run),
  );
}

/** What a run did to each object. */
export function objects(run) {
  const all = Object.entries(run.detail ?? {});
  if (all.length === 0) return h("p", { class: "muted" }, "It recorded nothing of single objects.");
  const columns = OUTCOMES[run.job];
  if (!columns) return value(run.detail);
  const noted = all.some((one) => notes(one).flat().some(Boolean));
  return table({
    caption: `What ${run.job} did`,
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
      one.skipped && `left out: ${one.skipped}`,
      one.always_because,
      ...(one.notes ?? []),
      ...(one.notices ?? []),
    ]
      .filter(Boolean)
      .map((note) => small(prose(note))),
    throttled > 0 &&
      small(`held back for ${millis(throttled)} by ${one.throttled_by.map(words).join(", ")}`),
    left > 0 && small(`${number(left)} more are left for the next run`),
    held && small("dead rows are held by ", value(held)),
  ];
}

const TOOK = ["Took", "number", ([, one]) => millis(one.duration_ms)];
const OUTCOMES = {
  vacuum: [
    ["Table", "lead", ([name]) => name],
    [
      "Was done",
      "",
      ([, one]) =>
        ["vacuum", "analyze"].filter((what) => one[what] === true).join(", ") || "nothing",
    ],
    ["Dead rows before", "number", ([, one]) => number(one.dead_before)],
    ["After", "number", ([, one]) => number(one.dead_after)],
    TOOK,
  ],
  refresh: [
    ["View", "lead", ([name]) => name],
    [
      "Was done",
      "",
      ([, one]) =>
        one.how
          ? `refreshed ${words(one.how)}`
          : one.unchanged
            ? "nothing: no change beneath it"
            : "nothing",
    ],
    ["Refreshed", "", ([, one]) => when(one.refreshed_at)],
    TOOK,
  ],
  retention: [
    ["Table", "lead", ([name]) => name],
    ["Deleted what was before", "", ([, one]) => when(one.cutoff || null)],
    ["Rows deleted", "number", ([, one]) => number(one.rows)],
    ["Partitions dropped", "wide", ([, one]) => one.partitions?.join(", ") || "–"],
    [
      "Oldest row left",
      "",
      ([, one]) => (one.oldest_left ? [ago(one.oldest_left), small(when(one.oldest_left))] : "–"),
    ],
  ],
};
