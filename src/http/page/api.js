// The daemon's API: one place that knows about addresses, credentials, time limits and refusals.

import { clock } from "./format.js";

const TIMEOUT_MS = 20000;
const KEPT = "pgsteward.token";
const EXPORT_BYTES = 200 * 1024 * 1024;

/** What went wrong, with the API's stable code; `unreachable` when nothing answered. */
export class ApiError extends Error {
  constructor({ status = 0, code, detail, requestId = null, retryAfter = null, body = null }) {
    super(detail || code);
    Object.assign(this, { status, code, detail, requestId, retryAfter, body });
  }
}

// In memory; in the tab's own storage only where that was asked for, and in none that outlives it.
let token = sessionStorage.getItem(KEPT);
let refused = () => {};

export const hasToken = () => token !== null;

export function useToken(value, keep) {
  token = value;
  if (value !== null && keep) sessionStorage.setItem(KEPT, value);
  else sessionStorage.removeItem(KEPT);
}

/** Called once when the token in use is refused: it must not be tried again and again. */
export function onRefused(call) {
  refused = call;
}

// Relative, so that it works behind a proxy's path prefix.
function address(path, query) {
  const url = new URL(`./${path}`, document.baseURI.split(/[?#]/)[0]);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value != null && value !== "" && value !== false) url.searchParams.set(name, value);
  }
  return url;
}

async function send(
  path,
  {
    method = "GET",
    query,
    body,
    accept = "application/json",
    prefer,
    signal,
    as = token,
    timeout = TIMEOUT_MS,
  } = {},
) {
  const headers = { Accept: accept };
  if (as) headers.Authorization = `Bearer ${as}`;
  if (prefer) headers.Prefer = prefer;
  if (method !== "GET") {
    headers["Content-Type"] = "application/json";
    headers["Idempotency-Key"] = randomKey();
  }
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), timeout);
  const stop = () => late.abort();
  signal?.addEventListener("abort", stop);
  try {
    const answer = await fetch(address(path, query), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: late.signal,
      cache: "no-store",
      redirect: "error",
      credentials: "same-origin",
    });
    readClock(answer);
    return answer;
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = late.signal.aborted
      ? `no answer within ${timeout / 1000} s`
      : "the connection failed";
    throw new ApiError({ code: "unreachable", detail: `pgsteward does not answer: ${why}` });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

// crypto.randomUUID exists in secure contexts only, and this page is often plain HTTP inside a cluster.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function readClock(answer) {
  const told = Date.parse(answer.headers.get("Date") ?? "");
  const skew = told - Date.now();
  // The header has whole seconds: less than that is no difference.
  if (!Number.isNaN(skew)) clock.skew = Math.abs(skew) > 2000 ? skew : 0;
}

async function problem(answer, used) {
  // No JSON: a proxy's page, most likely.
  const body = await answer.json().catch(() => null);
  const code = body?.code ?? (answer.status >= 502 ? "unreachable" : `http_${answer.status}`);
  const detail =
    body?.detail ?? body?.title ?? `the answer was ${answer.status} ${answer.statusText}`;
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  const error = new ApiError({
    status: answer.status,
    code,
    detail,
    requestId: body?.request_id ?? null,
    retryAfter,
    body,
  });
  if (answer.status === 401 && used !== null && used === token) {
    useToken(null, false);
    refused(error);
  }
  return error;
}

/** The JSON of one answer; throws an `ApiError` otherwise. */
export async function request(path, options = {}) {
  const used = options.as === undefined ? token : options.as;
  const answer = await send(path, options);
  const json = (answer.headers.get("Content-Type") ?? "").startsWith("application/json");
  // An unhealthy database is told with 503 and a whole answer.
  if (!answer.ok && !(json && path === "health/")) throw await problem(answer, used);
  try {
    return await answer.json();
  } catch {
    throw new ApiError({
      status: answer.status,
      code: "unreadable",
      detail: "the answer is not JSON: is this address pgsteward's?",
    });
  }
}

export const get = (path, query, signal) => request(path, { query, signal });
export const post = (path, query, body = {}) =>
  request(path, { method: "POST", query, body, timeout: 60000 });

/** An answer that comes piece by piece, until its end or the caller's. */
async function* pieces(path, options) {
  const used = token;
  const answer = await send(path, options);
  if (!answer.ok) throw await problem(answer, used);
  const reader = answer.body.getReader();
  const leave = () => reader.cancel().catch(() => {});
  options.signal.addEventListener("abort", leave);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      options.signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    options.signal.removeEventListener("abort", leave);
    leave();
  }
}

/** Follows a run: calls `seen` at each change, ends with the run. */
export async function follow(id, query, signal, seen) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const piece of pieces(`runs/${encodeURIComponent(id)}/events`, {
    query,
    accept: "text/event-stream",
    signal,
  })) {
    const events = (text + decoder.decode(piece, { stream: true }).replaceAll("\r", "")).split(
      "\n\n",
    );
    text = events.pop();
    for (const event of events) {
      const field = (name) =>
        event
          .split("\n")
          .filter((line) => line.startsWith(`${name}:`))
          .map((line) => line.slice(name.length + 1).trim())
          .join("\n");
      if (field("event") === "run") seen(JSON.parse(field("data")));
      if (field("event") === "end") return;
    }
  }
}

/** The audit trail as a file; bounded, since it is held here whole. */
export async function exportAs(type, query, signal) {
  const parts = [];
  let size = 0;
  for await (const piece of pieces("health/audit", {
    query,
    accept: type,
    signal,
    timeout: 60000,
  })) {
    parts.push(piece);
    size += piece.length;
    if (size > EXPORT_BYTES)
      throw new ApiError({
        code: "too_large",
        detail:
          "the export is larger than a page should hold; narrow the search, or use `pgsteward audit export`",
      });
  }
  return new Blob(parts, { type });
}
