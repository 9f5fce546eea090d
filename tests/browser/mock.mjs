// A stand-in for the daemon, to develop the page with: the API as the page uses it, with invented data.
//
//   PORT=8499 node tests/browser/mock.mjs
//   curl -X POST 'http://127.0.0.1:8499/mock?to=outage'     # healthy, degraded, outage, gone, empty
//
// Tokens: `viewer`, `operator`, `admin`, `user` (the role is the name). Names and messages are hostile on purpose.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";

const PAGE = new URL("../../src/http/page/", import.meta.url);
const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript; charset=utf-8", css: "text/css; charset=utf-8", svg: "image/svg+xml" };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const EVIL = "<img src=x onerror=alert(1)>";
const LONG = "a_table_with_the_longest_name_that_postgresql_lets_anybody_give";
const ROLES = ["viewer", "operator", "admin"];
const COMPONENTS = ["connectivity", "response", "connections", "transactions", "locks", "replication", "wraparound", "schema", "partitions", "jobs", "audit"];
const HOUR = 3600e3;

const began = Date.now();
let state = "healthy";
let changed = Date.now() - 3 * HOUR;
// Outages of the past, so that charts have some: hours ago, minutes long.
const past = [[2.2, 14], [19, 55], [70, 160]].map(([ago, long]) => ({ from: began - ago * HOUR, to: began - ago * HOUR + long * 60e3 }));
const unmeasured = [[0.55, 7], [4.1, 35], [40, 420]].map(([ago, long]) => ({ from: began - ago * HOUR, to: began - ago * HOUR + long * 60e3 }));
const outages = [...past];

const iso = (at) => new Date(at).toISOString();
const ago = (seconds) => iso(Date.now() - seconds * 1000);
const within = (ranges, at) => ranges.some((range) => range.from <= at && at < (range.to ?? Infinity));

function turn(to) {
  if (to === state) return;
  if (to === "outage") outages.push({ from: Date.now(), to: null });
  if (state === "outage") outages.at(-1).to = Date.now();
  [state, changed] = [to, Date.now()];
}

// ---- health

const MESSAGES = {
  connections: ["degraded", "connections_high", "86 of 97 connections that ordinary roles may use are taken (89 %); the limit is 80 %; close idle sessions, use a pooler, or raise max_connections"],
  transactions: ["degraded", "transaction_old", `pid 4711 (user ${EVIL}, psql, database app) has a transaction open for 47 m 12 s (idle in transaction), the limit is 5 m 0 s; it holds back VACUUM: end it, or SELECT pg_terminate_backend(4711)`],
  locks: ["degraded", "lock_wait", "pid 4800 has waited 1 m 20 s for a lock behind pid 4711 (user app), the limit is 30 s; 3 sessions wait in all: end what holds the lock"],
  replication: ["unknown", "not_permitted", "replication cannot be seen: permission denied; what mends it: GRANT pg_monitor TO \"pgsteward\""],
  jobs: ["degraded", "jobs_failing", "the last run failed of: weekly-summary (ERROR: division by zero)"],
};

function componentsNow() {
  return COMPONENTS.map((name) => {
    if (state === "outage") {
      if (name === "connectivity") return part(name, "unhealthy", "refused", "the database cannot be reached: connection to 127.0.0.1:5432 refused; start the server, or check the port and listen_addresses", { error: "refused" }, changed);
      if (!["schema", "jobs", "audit"].includes(name)) return part(name, "unknown", "not_measured", "not measured: see connectivity", {}, changed);
    }
    if (state === "degraded" && MESSAGES[name]) return part(name, ...MESSAGES[name], measured(name), changed);
    return part(name, "healthy", "ok", HEALTHY[name] ?? "as it should be", measured(name), began - 3 * HOUR);
  });
}

const HEALTHY = {
  connectivity: "the server answers", response: "the server answered in 1.8 ms", connections: "12 of 97 connections that ordinary roles may use are taken (12 %)", transactions: "the oldest transaction is 2 s old",
  locks: "no session waits for a lock", replication: "standbys, slots and archiving keep up, where there are any", wraparound: "the database app has used 9 % of its transaction ids",
  schema: "the schema is as it was migrated", partitions: "every partitioned table has its partitions ahead", jobs: "no job's last run failed", audit: "every audited table has its triggers, and the trail is sealed",
};
const MEASURED = {
  connectivity: { response_ms: 1.82 }, response: { response_ms: 1.82 }, connections: { used: 12, usable: 97, max_connections: 100, active: 2, idle: 9, idle_in_transaction: 1, unseen: 0 },
  transactions: { oldest_transaction: { pid: 4711, user: EVIL, application: "psql", database: "app", state: "idle in transaction", seconds: 2832.4 }, oldest_idle_in_transaction: null, oldest_prepared: null, unseen_sessions: 0 },
  locks: { waiting: 0, longest_wait: null }, wraparound: { oldest: { name: "app", xid_age: 190000000, mxid_age: 41, own: true }, own: { name: "app", xid_age: 190000000, mxid_age: 41, own: true } },
  replication: { in_recovery: false, standby: null, replicas: [{ name: "standby_a", state: "streaming", lag_seconds: 0.2, lag_bytes: 18432 }, { name: EVIL, state: "streaming", lag_seconds: 1.4, lag_bytes: 918432 }], slots: [], archiver: { enabled: true, failing: false, failed_count: 0, since_success_seconds: 41.2 } },
  partitions: { "public.vm_metrics": 3, "steward.system_health": 14, "steward.connection_metrics": 14, "steward.audit_logs": 3 }, jobs: { failing: [], paused: false, not_permitted: [], warnings: 0 }, audit: { gaps: 0, losses: 0, seal: 8123, unsealed_seconds: 41 }, schema: { mismatches: [] },
};
const measured = (name) => MEASURED[name] ?? {};
const part = (name, status, reason, message, measured, since) => ({ name, status, reason, message, since: iso(since), measured });
const overall = () => ({ healthy: "healthy", degraded: "degraded", outage: "unhealthy", empty: "unknown" })[state];
const response = () => (state === "outage" || state === "empty" ? null : 1.4 + Math.random());

function health(role) {
  const parts = state === "empty" ? [] : componentsNow();
  const worst = { healthy: "ok", degraded: "connections_high", outage: "refused", empty: "not_measured" }[state];
  const open = (one) => ({ status: one.status, reason: one.reason, since: one.since, ...(ROLES.includes(role) ? { message: one.message, measured: one.measured } : {}) });
  const target = { status: overall(), reason: worst, since: iso(changed), checked_at: ago(3), age_seconds: 3.2, stale: false, response_ms: response(), components: Object.fromEntries(parts.map((one) => [one.name, open(one)])) };
  const other = { ...target, status: "healthy", reason: "ok", response_ms: 4.4, components: { connectivity: open(part("connectivity", "healthy", "ok", "the server answers", {}, began)) } };
  return { status: target.status, version: "0.1.0", targets: process.env.ONE ? { main: target } : { main: target, [`reports ${EVIL}`]: other } };
}

function database(target) {
  const up = state !== "outage" && state !== "empty";
  return {
    target, status: overall(), reason: "ok", since: iso(changed), checked_at: ago(3), age_seconds: 3.2, stale: false, response_ms: response(), observer: true, paused: null,
    server: up ? { version: "15.18", version_num: 150018, database: `app ${EVIL}`, role: "pgsteward", in_recovery: false, started_at: ago(86400 * 11), max_connections: 100, usable_connections: 97 } : null,
    connections: up ? { total: state === "degraded" ? 86 : 12, by_state: { active: 2, idle: 9, "idle in transaction": 1 }, saturation: state === "degraded" ? 0.89 : 0.12, waiting: 0, longest_wait_seconds: null, oldest_transaction_seconds: 2.1 } : null,
    replication: null, pool: { observe: { open: 1, idle: 1, max: 1 }, control: { open: 1, idle: 1, max: 1 }, job: { open: 0, idle: 0, max: 2 }, api: { open: 1, idle: 1, max: 10 } },
    connect_ms: up ? { dns: 0.2, tcp: 0.4, tls: null, auth: 6.2 } : null, components: state === "empty" ? [] : componentsNow(),
    unseen: state === "degraded" ? [{ what: "statement statistics", code: "not_installed", reason: "the extension pg_stat_statements is not installed", mend: "CREATE EXTENSION pg_stat_statements" }] : [],
    migrations: { state: state === "degraded" ? "failed" : "ready", failed: null, mismatches: state === "degraded" ? [`zentry/002_add_indexes_and_constraints.sql was edited ${EVIL}`] : [] },
  };
}

// ---- over time

const wave = (at, period, phase = 0) => Math.sin((at / period) * 2 * Math.PI + phase);
const noise = (at) => { const x = Math.sin(at * 12.9898) * 43758.5453; return x - Math.floor(x); };

function buckets(query, make) {
  const seconds = Number(query.get("bucket"));
  const [since, until] = [Date.parse(query.get("since")), Date.now()];
  const found = [];
  if (state === "empty") return { target: "main", bucket_seconds: seconds, buckets: [], source: "memory", reason: "nothing is recorded yet" };
  for (let at = Math.floor(since / 1000 / seconds) * seconds * 1000; at < until; at += seconds * 1000) {
    const middle = at + seconds * 500;
    if (within(unmeasured, middle)) continue;
    const bucket = make(at, middle, seconds);
    if (bucket) found.push({ at: iso(at), ...bucket });
  }
  return { target: "main", bucket_seconds: seconds, buckets: found, source: state === "outage" ? "memory" : "database", reason: state === "outage" ? "the database cannot be reached (refused)" : null };
}

function systemBuckets(query) {
  return buckets(query, (at, middle, seconds) => {
    const samples = Math.max(1, Math.round(seconds / 15)) * (query.get("component") ? 1 : COMPONENTS.length);
    const away = within(outages, middle);
    const slow = !away && noise(Math.floor(middle / 2.7e6)) > 0.86;
    const avg = 1.6 + wave(middle, 6 * HOUR) * 0.5 + noise(middle) * 0.7 + (slow ? 4 : 0);
    return {
      samples, worst: away ? "unhealthy" : slow ? "degraded" : "healthy", healthy: away ? 0 : slow ? samples - 1 : samples, degraded: slow ? 1 : 0, unhealthy: away ? (query.get("component") ? samples : samples / COMPONENTS.length) : 0, unknown: 0,
      latency_ms: away ? null : { min: avg * 0.6, avg, max: avg * (1.4 + noise(middle + 7) * 1.8) },
    };
  });
}

function connectionBuckets(query) {
  return buckets(query, (at, middle) => {
    if (within(outages, middle)) return null;
    const spread = (avg) => ({ min: Math.floor(avg), avg, max: Math.ceil(avg) + 1 });
    const active = Math.max(0.2, 4 + wave(middle, 5 * HOUR, 1) * 2.4 + noise(middle) * 2);
    const idle = 9 + wave(middle, 9 * HOUR) * 3 + noise(middle + 3);
    const inTransaction = noise(middle + 11) > 0.7 ? 2 : 0.4;
    return { samples: 4, total: spread(active + idle + inTransaction), active: spread(active), idle: spread(idle), idle_in_transaction: spread(inTransaction), waiting: spread(noise(middle + 5) > 0.9 ? 1 : 0), saturation_max: (active + idle + 2) / 97, max_connections: 100 };
  });
}

// ---- jobs

const runs = new Map();
const names = ["health-probe", "connection-metrics", "partitions", "retention", "vacuum", "refresh", "audit-seal", "weekly-summary", `sql-${EVIL}`];
const pauses = new Map();
let pausedAll = null;
const audit = [];

function makeRun(job, state, secondsAgo, more = {}) {
  const id = randomUUID();
  const run = {
    id, job, kind: "builtin", due_at: ago(secondsAgo), state, reason: null, actor: "schedule", instance: "vm/17963/4543f3f3", attempts: 1, started_at: ago(secondsAgo), finished_at: ago(secondsAgo - 2), duration_ms: 2140,
    rows_affected: 12, error: null, fenced: job !== "vacuum", cancel_by: null, detail: null, progress: null, ...more,
  };
  runs.set(id, run);
  return run;
}

for (const job of names.slice(2)) {
  for (let i = 8; i > 0; i -= 1) makeRun(job, "succeeded", i * 3600, { detail: { "public.users": { vacuum: true, analyze: true, dead_before: 8211, dead_after: 12, duration_ms: 211 }, [`public.${LONG}`]: { skipped: "another session holds a lock" }, [`public.${EVIL}`]: { vacuum: false, analyze: true, dead_before: 0, dead_after: 0, duration_ms: 31 } } });
}
makeRun("weekly-summary", "failed", 600, { error: `ERROR: division by zero ${EVIL} in line 3 of the statement SELECT sum(amount) / count(*) FROM app.orders WHERE created_at >= current_date - 7`, rows_affected: null, attempts: 3 });
makeRun("refresh", "skipped", 300, { reason: "window", rows_affected: null, duration_ms: null, started_at: null, detail: { first: ago(4000), last: ago(300), count: 14 } });

function runsOf(job) {
  return [...runs.values()].filter((run) => run.job === job).reverse();
}

function jobList() {
  return {
    target: "main", observer: "vm/17963/4543f3f3", paused: pausedAll,
    jobs: names.map((name) => {
      const own = runsOf(name);
      const ticks = name === "health-probe" || name === "connection-metrics";
      const running = own.find((run) => run.state === "running");
      const last = own.find((run) => run.finished_at);
      return {
        name, kind: name.includes("sql") || name.includes("weekly") ? "sql" : "builtin", enabled: true, ticks, schedule: ticks ? "@every 15s" : name === "weekly-summary" ? "30 2 * * Mon" : "*/15 * * * *", timezone: name === "weekly-summary" ? "America/Argentina/Buenos_Aires" : "UTC",
        next_due: ticks ? null : iso(Date.now() + 611e3), next_dues: ticks ? [] : [1, 2, 3, 4, 5].map((i) => iso(Date.now() + i * 611e3)), paused: pauses.get(name) ?? null,
        running: running ? { id: running.id, since: running.started_at, instance: running.instance, actor: running.actor } : null, queued: null,
        last: last ? { id: last.id, state: last.state, reason: last.reason, error: last.error, finished_at: last.finished_at, duration_ms: last.duration_ms, rows_affected: last.rows_affected } : null,
        last_success_at: ago(3600), failures_in_a_row: name === "weekly-summary" ? 1 : 0, succeeded_total: ticks ? null : 1213, failed_total: name === "weekly-summary" ? 4 : 0, skipped_total: name === "refresh" ? 14 : 0, average_ms: ticks ? null : 812, p95_ms: ticks ? null : 2133,
      };
    }),
  };
}

function startRun(job, actor) {
  const run = makeRun(job, "running", 0, { actor, finished_at: null, duration_ms: null, rows_affected: null, progress: { object: "public.users", done: 0, total: 8, note: null } });
  let done = 0;
  const timer = setInterval(() => {
    if (run.state !== "running") return clearInterval(timer);
    done += 1;
    run.progress = { object: `public.${done % 2 ? EVIL : LONG}`, done, total: 8, note: "scanning heap" };
    if (done < 8) return undefined;
    clearInterval(timer);
    return Object.assign(run, { state: "succeeded", finished_at: iso(Date.now()), duration_ms: 6400, rows_affected: 8, progress: null, detail: { "public.users": { vacuum: true, analyze: true, dead_before: 8211, dead_after: 12, duration_ms: 211 }, [`public.${LONG}`]: { skipped: "another session holds a lock" } } });
  }, 800);
  record("job.run", actor, job, null, { state: "queued" }, { run_id: run.id });
  return run;
}

// ---- audit

function record(action, actor, resource, old, values, details, more = {}) {
  audit.push({ id: randomUUID(), created_at: iso(Date.now()), user_id: null, actor, session_user_name: "pgsteward", action, resource_type: "job", resource_id: resource, old_values: old, new_values: values, ip_address: "127.0.0.1", user_agent: "Mozilla/5.0", request_id: randomUUID(), source: "api", xid: "8812", details, ...more });
}
for (let i = 0; i < 130; i += 1) {
  record(["row.update", "row.insert", "row.delete"][i % 3], `app:${i % 7 ? "web" : EVIL}`, randomUUID(), i % 3 === 1 ? null : { status: "running", credits: 12.5, name: `vm ${i}`, labels: { team: "a", note: EVIL } },
    i % 3 === 2 ? null : { status: i % 2 ? "stopped" : EVIL, credits: 12.5, name: `vm ${i}`, labels: { team: "b" }, description: "x ".repeat(i * 3) }, i % 5 ? null : { statement: "UPDATE vms SET status = $1" }, { created_at: ago((130 - i) * 400), resource_type: "public.vms", source: "trigger", user_id: i % 4 ? `user-${i}` : null, ip_address: i % 2 ? "2001:db8:85a3::8a2e:370:7334" : "10.0.0.8" });
}

function auditOf(query) {
  const wanted = (name, of) => !query.get(name) || (query.get(name).endsWith("*") ? String(of).startsWith(query.get(name).slice(0, -1)) : String(of) === query.get(name));
  const found = audit.filter((one) => ["user_id", "actor", "action", "resource_type", "resource_id", "source"].every((name) => wanted(name, one[name])) && wanted("ip", one.ip_address)
    && (!query.get("since") || one.created_at >= query.get("since")) && (!query.get("until") || one.created_at < query.get("until")));
  return query.get("order") === "oldest" ? found : found.reverse();
}

// ---- tables, upkeep, migrations

function statistics() {
  const table = (name, i, more) => {
    const bytes = Math.round(9e10 / (i + 1) ** 2.2);
    return { schema: "public", name, kind: "table", rows_estimate: Math.round(bytes / 180), total_bytes: bytes, table_bytes: Math.round(bytes * 0.6), index_bytes: Math.round(bytes * 0.35), toast_bytes: Math.round(bytes * 0.05), live_rows: 1e6, dead_rows: Math.round(noise(i) * 90000), dead_ratio: noise(i) * 0.3, changed_since_analyze: 812, bloat_bytes: i % 4 ? Math.round(bytes * noise(i + 3) * 0.4) : null, last_vacuum: i % 3 ? null : ago(86400), last_autovacuum: i % 5 ? ago(7200 * i) : null, last_analyze: null, last_autoanalyze: ago(3600), seq_scans: 12 * i, index_scans: 918231, xid_age: 190000000 - i * 1000, ...more };
  };
  const tables = [...["vm_metrics", "billing_records", "users", "vms", EVIL, LONG, "projects", "vm_state_transitions"], ...Array.from({ length: 20 }, (_, i) => `events_2026_${String(i + 1).padStart(2, "0")}`)].map((name, i) => table(name, i, i === 0 ? { kind: "partitioned" } : {}));
  return {
    target: "main", measured_at: ago(90), age_seconds: 90, cached: true, size_bytes: 1.7e11, tables, tables_total: 231, tables_left_out: 31,
    indexes: { unused: [{ schema: "public", table: "vms", name: "vms_region_idx", bytes: 81231872, scans: 0, since: ago(86400 * 30) }], invalid: [{ schema: "public", table: "users", name: `users_${EVIL}_idx`, bytes: 8192, being_built: false, mend: `REINDEX INDEX CONCURRENTLY public."users_${EVIL}_idx"` }], duplicate: [{ schema: "public", table: LONG, names: [`${LONG}_a_idx`.slice(-63), `${LONG}_b_idx`.slice(-63)], bytes: 1231872, mend: `DROP INDEX CONCURRENTLY public.${LONG}_b_idx` }] },
    stats_reset_at: ago(86400 * 30), unseen: [],
  };
}

const retention = () => ({ target: "main", tables: ["steward.audit_logs", "steward.system_health", "public.vm_metrics", `public.${LONG}`].map((table, i) => ({ table, column: "created_at", keep_days: [90, 30, 180, 365][i], cutoff: ago(86400 * [90, 30, 180, 365][i]), oldest: ago(86400 * [60, 31, 100, 12][i]), partitions_due: i === 1 ? ["steward.system_health_20261026", "steward.system_health_20261025"] : [], next_run_at: iso(Date.now() + 7 * HOUR) })) });

const migrationList = () => ({
  target: "main", state: state === "degraded" ? "failed" : "ready", failed: state === "degraded" ? `zentry/004_more.sql:12:8: syntax error at or near "${EVIL}"` : null,
  migrations: [["steward", "001", "ledger"], ["steward", "002", "health"], ["steward", "003", "audit"], ["zentry", "001", "initial_schema"], ["zentry", "002", "add_indexes_and_constraints"], ["zentry", "003", "add_audit_and_logging"]].map(([set, version, name]) => ({ set, version, name, file: `${set}/${version}_${name}.sql`, state: state === "degraded" && version === "002" ? "edited" : "applied", applied_at: ago(86400 * 20), applied_by: "instance:vm/17963", duration_ms: 12.4 }))
    .concat([{ set: "zentry", version: "004", name: "more", file: "zentry/004_more.sql", state: "pending", applied_at: null, applied_by: null, duration_ms: null }]),
});

// ---- HTTP

const server = createServer(async (request, answer) => {
  const url = new URL(request.url, "http://mock");
  if (url.pathname === "/mock") {
    turn(url.searchParams.get("to"));
    return answer.end(`${state}\n`);
  }
  if (state === "gone") return request.socket.destroy();
  const path = decodeURIComponent(url.pathname.slice(1));
  const json = (status, body, headers = {}) => answer.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(body));
  const problem = (status, code, detail, headers = {}) => answer.writeHead(status, { "Content-Type": "application/problem+json", ...headers }).end(JSON.stringify({ type: "about:blank", title: code, status, code, detail, request_id: randomUUID() }));
  if (path === "" || path.startsWith("page/")) return page(path, answer);

  const token = /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1] ?? null;
  if (process.env.NO_CREDENTIALS && (token || path !== "health/")) return problem(403, "no_credentials_configured", "no credentials are configured");
  if (token && ![...ROLES, "user"].includes(token)) return token === "many" ? problem(429, "too_many_failures", "wait", { "Retry-After": "30" }) : problem(401, "invalid_credentials", "this token is not known", { "WWW-Authenticate": "Bearer" });
  const actor = `token:${token}`;
  if (path === "health/") return json(state === "outage" ? 503 : 200, health(token));
  if (!token) return problem(401, "unauthenticated", "credentials are needed", { "WWW-Authenticate": "Bearer" });
  if (path === "whoami") return json(200, { actor, role: token, user: null });

  const body = await read(request);
  const route = (method, pattern) => (request.method === method ? new RegExp(`^${pattern}$`).exec(path) : null);
  const rank = ROLES.indexOf(token);
  const needs = request.method === "POST" ? (path.endsWith("migrations") ? 2 : 1) : path === "health/audit" ? -1 : 0;
  if (rank < needs) return problem(403, "forbidden", `this needs the role ${ROLES[needs]}`);
  let found;
  if (path === "health/database") return json(200, database(url.searchParams.get("target") ?? "main"));
  if (path === "health/system") return json(200, systemBuckets(url.searchParams));
  if (path === "health/connections") return json(200, connectionBuckets(url.searchParams));
  if (state === "outage") return problem(503, "database_unavailable", "refused");
  if (path === "health/database/statistics") return json(200, statistics());
  if (path === "health/retention") return json(200, retention());
  if (route("GET", "health/database/migrations")) return json(200, migrationList());
  if (route("POST", "health/database/migrations")) return body.dry_run ? json(200, { dry_run: true, pending: [{ set: "zentry", version: "004", name: "more", file: "zentry/004_more.sql", checksum: "9f".repeat(32), sql: `CREATE TABLE more (\n  id uuid PRIMARY KEY,\n  note text DEFAULT '${EVIL}'\n);\n`, down: true }], migrations: [] }) : json(202, { run_id: startRun("migrations", actor).id });
  if (path === "health/database/optimize") return body.dry_run ? json(200, { dry_run: true, plan: [{ object: "public.users", vacuum: true, analyze: true, refresh: false, why: "8,211 dead rows, 21 % of it", skipped: null }, { object: `public.${LONG}`, vacuum: true, analyze: false, refresh: false, why: "dead rows", skipped: "not permitted, needs GRANT MAINTAIN" }] }) : json(202, { run_id: "x", runs: [startRun("vacuum", actor)].map(({ job, id, state: now }) => ({ job, id, state: now })) });
  if (path === "health/cleanup") return body.dry_run ? json(200, { dry_run: true, tables: retention().tables.map((one, i) => ({ ...one, rows_estimate: 120000, rows_due: i === 1 ? 9776 : 0, rows_due_at_least: i === 1, partitions: one.partitions_due })) }) : json(202, { run_id: "x", runs: [startRun("retention", actor)].map(({ job, id, state: now }) => ({ job, id, state: now })) });
  if (path === "health/audit") return auditAnswer(request, url.searchParams, answer, json);
  if (path === "jobs") return json(200, jobList());
  if ((found = route("GET", "jobs/(.+)/runs"))) return json(200, { target: "main", job: found[1], runs: runsOf(found[1]).filter((run) => !url.searchParams.get("failed") || run.state === "failed").slice(0, 20) });
  if ((found = route("POST", "jobs/(.+)/run"))) return json(202, { run_id: startRun(found[1], actor).id, job: found[1], state: "queued" });
  if ((found = route("POST", "jobs/(.+)/(pause|resume)"))) return json(200, pause(found[1], found[2], actor, body.reason ?? null));
  if ((found = route("POST", "runs/(.+)/cancel"))) {
    Object.assign(runs.get(found[1]), { state: "cancelled", finished_at: iso(Date.now()), progress: null, cancel_by: actor });
    return json(202, { run_id: found[1], job: runs.get(found[1]).job, state: "cancelling" });
  }
  if ((found = route("GET", "runs/(.+)/events"))) return events(runs.get(found[1]), answer);
  if ((found = route("GET", "runs/(.+)"))) return json(200, runs.get(found[1]));
  return problem(404, "no_such_route", path);
});

function pause(name, verb, actor, reason) {
  const paused = verb === "pause" ? { by: actor, at: iso(Date.now()), reason } : null;
  record(`job.${verb}`, actor, name, null, { paused }, null);
  if (name === "*") pausedAll = paused;
  else if (paused) pauses.set(name, paused);
  else pauses.delete(name);
  return { job: name, paused, changed: true };
}

function auditAnswer(request, query, answer, json) {
  const found = auditOf(query);
  if (request.headers.accept === "text/csv") return answer.writeHead(200, { "Content-Type": "text/csv" }).end(`id,action\n${found.map((one) => `${one.id},${one.action}`).join("\n")}\n`);
  const [limit, from] = [Number(query.get("limit") ?? 100), Number(query.get("cursor") ?? 0)];
  return json(200, { target: "main", scope: request.headers.authorization === "Bearer admin" ? "all" : "own", items: found.slice(from, from + limit), next: from + limit < found.length ? String(from + limit) : null });
}

function events(run, answer) {
  answer.writeHead(200, { "Content-Type": "text/event-stream" });
  let last = "";
  const timer = setInterval(() => {
    const text = JSON.stringify(run);
    if (text !== last) answer.write(`event: run\ndata: ${last = text}\n\n`);
    else answer.write(": still here\n\n");
    if (run.state === "running") return;
    clearInterval(timer);
    answer.end("event: end\ndata: {}\n\n");
  }, 400);
  answer.on("close", () => clearInterval(timer));
}

async function page(path, answer) {
  const name = path === "" ? "index.html" : path.slice("page/".length);
  try {
    const content = await readFile(new URL(name, PAGE));
    answer.writeHead(200, { "Content-Type": TYPES[name.split(".").pop()], "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff" }).end(content);
  } catch {
    answer.writeHead(404).end();
  }
}

async function read(request) {
  let text = "";
  for await (const piece of request) text += piece;
  return text ? JSON.parse(text) : {};
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(process.env.PORT ?? 8499);
  server.listen(port, "127.0.0.1", () => console.log(`http://127.0.0.1:${port}/`));
}
