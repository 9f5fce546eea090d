// The client of the API: addresses, credentials, timeouts and errors.

import { clock } from "./format.js";

const TIMEOUT_MS = 20000;
const TOKEN_KEY = "pgsteward.token";
const EXPORT_BYTES = 200 * 1024 * 1024;

/** An error with the API's stable code; `unreachable` if nothing responded. */
export class ApiError extends Error {
  constructor({ status = 0, code, detail, requestId = null, retryAfter = null, body = null }) {
    super(detail || code);
    Object.assign(this, { status, code, detail, requestId, retryAfter, body });
  }
}

// In memory. A person may keep it in the tab's storage, which ends with the tab.
let token = sessionStorage.getItem(TOKEN_KEY);
let onRefusedToken = () => {};

export const hasToken = () => token !== null;

export function useToken(value, keep) {
  token = value;
  if (value !== null && keep) sessionStorage.setItem(TOKEN_KEY, value);
  else sessionStorage.removeItem(TOKEN_KEY);
}

/** Sets the handler for a refused token. It is called once: the token is not sent again. */
export function onRefused(call) {
  onRefusedToken = call;
}

// Relative, so that the page works behind a proxy with a path prefix.
function urlOf(path, query) {
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
  const deadline = new AbortController();
  const timer = setTimeout(() => deadline.abort(), timeout);
  const stop = () => deadline.abort();
  signal?.addEventListener("abort", stop);
  try {
    const response = await fetch(urlOf(path, query), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: deadline.signal,
      cache: "no-store",
      redirect: "error",
      credentials: "same-origin",
    });
    readClock(response);
    return response;
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = deadline.signal.aborted
      ? `no response within ${timeout / 1000} s`
      : "the connection failed";
    throw new ApiError({ code: "unreachable", detail: `pgsteward does not respond: ${why}` });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

// crypto.randomUUID needs a secure context, and this page is often plain HTTP inside a cluster.
function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");
}

function readClock(response) {
  const serverTime = Date.parse(response.headers.get("Date") ?? "");
  const skew = serverTime - Date.now();
  // The header has whole seconds, so a smaller difference means nothing.
  if (!Number.isNaN(skew)) clock.skew = Math.abs(skew) > 2000 ? skew : 0;
}

async function problem(response, used) {
  // Without JSON it is most likely the page of a proxy.
  const body = await response.json().catch(() => null);
  const code = body?.code ?? (response.status >= 502 ? "unreachable" : `http_${response.status}`);
  const detail =
    body?.detail ?? body?.title ?? `the response was ${response.status} ${response.statusText}`;
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const error = new ApiError({
    status: response.status,
    code,
    detail,
    requestId: body?.request_id ?? null,
    retryAfter,
    body,
  });
  if (response.status === 401 && used !== null && used === token) {
    useToken(null, false);
    onRefusedToken(error);
  }
  return error;
}

/** Returns the JSON of a response; throws an `ApiError` if there is none. */
export async function request(path, options = {}) {
  const used = options.as === undefined ? token : options.as;
  const response = await send(path, options);
  const json = (response.headers.get("Content-Type") ?? "").startsWith("application/json");
  // For an unhealthy database the status is 503, with a complete body.
  if (!response.ok && !(json && path === "health/")) throw await problem(response, used);
  try {
    return await response.json();
  } catch {
    throw new ApiError({
      status: response.status,
      code: "unreadable",
      detail: "the response is not JSON; check that this address belongs to pgsteward",
    });
  }
}

export const get = (path, query, signal) => request(path, { query, signal });
export const post = (path, query, body = {}) =>
  request(path, { method: "POST", query, body, timeout: 60000 });

/** Yields the body of a response chunk by chunk, until it ends or the caller aborts. */
async function* chunks(path, options) {
  const used = token;
  const response = await send(path, options);
  if (!response.ok) throw await problem(response, used);
  const reader = response.body.getReader();
  const cancel = () => reader.cancel().catch(() => {});
  options.signal.addEventListener("abort", cancel);
  try {
    for (;;) {
      const { value, done } = await reader.read();
      options.signal.throwIfAborted();
      if (done) return;
      yield value;
    }
  } finally {
    options.signal.removeEventListener("abort", cancel);
    cancel();
  }
}

/** Follows a run: calls `changed` with each new state, and returns when the run has ended. */
export async function follow(id, query, signal, changed) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of chunks(`runs/${encodeURIComponent(id)}/events`, {
    query,
    accept: "text/event-stream",
    signal,
  })) {
    const events = (text + decoder.decode(chunk, { stream: true }).replaceAll("\r", "")).split(
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
      if (field("event") === "run") changed(JSON.parse(field("data")));
      if (field("event") === "end") return;
    }
  }
}

/** Exports the audit log as a file. Its size is limited, since the page holds it in memory. */
export async function exportAs(type, query, signal) {
  const parts = [];
  let size = 0;
  for await (const chunk of chunks("health/audit", {
    query,
    accept: type,
    signal,
    timeout: 60000,
  })) {
    parts.push(chunk);
    size += chunk.length;
    if (size > EXPORT_BYTES)
      throw new ApiError({
        code: "too_large",
        detail: "the export exceeds 200 MiB; narrow the search, or use `pgsteward audit export`",
      });
  }
  return new Blob(parts, { type });
}
