//! What an operator may say: one struct per TOML table, with its defaults.
//!
//! A configuration is built in one pass and without side effects: the file (`--config`, else
//! `/etc/pgsteward/config.toml`, else nothing), over it the environment, over it the flags. Every
//! problem is collected, none stops the pass, and each says where it is, what was found and what
//! is wanted. What is returned is complete: later layers never meet a missing or malformed value.
//!
//! ```text
//! file ─► tree ◄─ overlay (environment, credentials, flags)
//!          └─► tables (by read: keys, types, bounds) ─► Config ─► check (contradictions)
//! ```
//!
//! `config.example.toml` is the manual: it documents every key, and a test holds it equal to the
//! defaults here. Where a secret comes from is known here; it is read at every connect.

pub mod auth;
mod check;
pub mod cidr;
pub mod conninfo;
mod defaults;
pub mod job;
pub mod load;
mod overlay;
pub mod problem;
mod read;
pub mod schedule;
mod secret;
mod tables;
mod tree;
mod value;
pub mod window;
pub mod zone;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use auth::{Auth, Role};
pub use cidr::Cidr;
pub use defaults::MAIN;
pub use job::{
    AfterFailure, Builtin, CatchUp, Job, JobName, ON_TIME, Overlap, SqlWork, Trigger, Work,
};
pub use load::{Args, Loaded, load};
pub use problem::{Origin, Problem, Problems};
pub use schedule::Schedule;
pub use secret::{Secret, SecretError, SecretSource};
pub use window::{Window, Windows};
pub use zone::Zone;

/// Everything that pgsteward was told. `Config::default()` is what holds when nothing is said; it
/// names no database, which [`load()`] therefore asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `environment`, or `ENVIRONMENT`. Development may fall back to a throw-away server.
    pub environment: Environment,
    /// `mode`. `observe` changes nothing of the user's: no application migrations, no purge of
    /// application tables, no VACUUM, no REFRESH; pgsteward's own schema is kept either way.
    pub mode: Mode,
    /// `state_dir`: where the local pause file lies, and the spool. Default: systemd's `STATE_DIRECTORY`,
    /// else none.
    pub state_dir: Option<PathBuf>,
    /// `development.ephemeral`, `--ephemeral`, or `USE_IN_MEMORY_DB`: use a throw-away server.
    pub ephemeral: bool,
    /// `[database]` (named `main`) or `[databases.NAME]`.
    pub databases: BTreeMap<String, Database>,
    /// `[migrations]`
    pub migrations: Migrations,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[health]`
    pub health: Health,
    /// `[jobs]`
    pub jobs: Jobs,
    /// `[retention]`
    pub retention: Retention,
    /// `[vacuum]`
    pub vacuum: Vacuum,
    /// `[refresh]`
    pub refresh: Refresh,
    /// `[spool]`
    pub spool: Spool,
    /// `[audit]`
    pub audit: Audit,
    /// `[auth]`
    pub auth: Auth,
}

/// Where this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Environment {
    /// Nothing is assumed, nothing stands in.
    #[default]
    Production,
    /// A throw-away server may stand in.
    Development,
}

/// How much pgsteward may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Look, keep pgsteward's own schema, leave the rest alone.
    Observe,
    /// Do what is configured.
    #[default]
    Maintain,
}

impl Mode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Maintain => "maintain",
        }
    }
}

/// One database to keep: `[database]` or `[databases.NAME]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// `url` (`DATABASE_URL`) or `url_file`: a libpq URL or `key=value` string.
    pub url: Option<SecretSource>,
    /// `direct_url` or `direct_url_file`: past the transaction pooler, for what needs a session.
    pub direct_url: Option<SecretSource>,
    /// `password`, `password_file` or `password_command`; wins over a password in the URL. Files
    /// and commands are read at every connect.
    pub password: Option<SecretSource>,
    /// `[database.supabase]`; used where no `url` is given.
    pub supabase: Option<Supabase>,
    /// `pooler`
    pub pooler: Pooler,
    /// `pool_min_size` (`DB_POOL_MIN_SIZE`), default 0: connections kept for the API.
    pub pool_min_size: u32,
    /// `pool_max_size` (`DB_POOL_MAX_SIZE`), default 2, 1..=100.
    pub pool_max_size: u32,
    /// `query_timeout` (`DB_QUERY_TIMEOUT`, seconds), default 30 s: API and probe statements.
    pub query_timeout: Duration,
    /// `connect_timeout`, default 5 s: DNS, TCP, TLS and login together, per host.
    pub connect_timeout: Duration,
}

/// Supabase's own way to name a database.
#[derive(Debug, Clone, PartialEq)]
pub struct Supabase {
    /// `supabase.url` (`SUPABASE_URL`): `https://REF.supabase.co`.
    pub url: String,
    /// `supabase.service_key` (`SUPABASE_SERVICE_KEY`): not a database password; kept for the API.
    pub service_key: Option<SecretSource>,
    /// `supabase.db_password` (`SUPABASE_DB_PASSWORD`), else the database's `password`.
    pub db_password: Option<SecretSource>,
}

/// What stands between pgsteward and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooler {
    /// Found out by behaviour at the first connect.
    #[default]
    Auto,
    /// A direct connection.
    None,
    /// A pooler that gives each client a server session of its own.
    Session,
    /// A pooler that gives each transaction another session: no session state, no named statements.
    Transaction,
}

/// `[migrations]`
#[derive(Debug, Clone, PartialEq)]
pub struct Migrations {
    /// `sets`: bundled application sets to apply; the only one is `zentry`. Default none.
    pub sets: Vec<String>,
    /// `dir`: a folder of your own SQL files, applied as the set `app`. Default none.
    pub dir: Option<PathBuf>,
    /// `on_failure`, default `serve`.
    pub on_failure: OnFailure,
    /// `search_path` for application sets, default `public`.
    pub search_path: String,
    /// `role`: SET ROLE for application sets. Default none.
    pub role: Option<String>,
    /// `statement_timeout`, default 1 h.
    pub statement_timeout: Duration,
    /// `lock_timeout`, default 20 ms: how long one attempt may wait for a lock.
    pub lock_timeout: Duration,
    /// `lock_budget`, default 10 m: how long the attempts may go on for one file.
    pub lock_budget: Duration,
}

/// What a failed migration at start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Go on observing, run no jobs, say so.
    #[default]
    Serve,
    /// End the process with the exit code of a failed migration.
    Exit,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// `listen`, default `127.0.0.1:8432`.
    pub listen: SocketAddr,
    /// `max_connections`, default 64: more are closed at once, and counted.
    pub max_connections: usize,
    /// `header_timeout`, default 5 s: for a request's head to arrive whole.
    pub header_timeout: Duration,
    /// `request_timeout`, default 30 s: for an answer to be given.
    pub request_timeout: Duration,
    /// `body_limit`, default 64 KiB.
    pub body_limit_bytes: usize,
    /// `tls_cert_file` and `tls_key_file`: HTTPS instead of HTTP. Default none.
    pub tls: Option<TlsFiles>,
    /// `allow_plain_http`, default false: whether credentials are taken over plain HTTP from other machines.
    pub allow_plain_http: bool,
    /// `cors_origins`: pages of these origins may call. Default none.
    pub cors_origins: Vec<String>,
    /// `trusted_proxies`: whose `X-Forwarded-For` is believed. Default none.
    pub trusted_proxies: Vec<Cidr>,
}

/// Where the listener's certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// `tls_cert_file`: PEM, the server's own certificate first, then those that lead to a root.
    pub cert: PathBuf,
    /// `tls_key_file`: PEM, not encrypted.
    pub key: PathBuf,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Log {
    /// `level`, default `info`.
    pub level: LogLevel,
    /// `format`, default `auto`: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
}

/// From what weight on an event is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Something failed that was to happen.
    Error,
    /// Something is not as it should be.
    Warn,
    /// What an operator wants to have seen.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[health]`: thresholds that turn a measurement into a status.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// `cache_ttl`, default 5 m: how long heavy answers (statistics) are served from memory.
    pub cache_ttl: Duration,
    /// `stale_after`, default 60 s: a measurement older than this is no longer believed.
    pub stale_after: Duration,
    /// `recover_after`, default 2: measurements in a row that a component must be better for
    /// before its status improves (it worsens at once).
    pub recover_after: u32,
    /// `response_degraded`, default 500 ms.
    pub response_degraded: Duration,
    /// `connections_degraded`, default 0.80 of the connections that ordinary roles may use.
    pub connections_degraded: f64,
    /// `connections_unhealthy`, default 0.95.
    pub connections_unhealthy: f64,
    /// `transaction_age_degraded`, default 15 m: the oldest open transaction.
    pub transaction_age_degraded: Duration,
    /// `lock_wait_degraded`, default 60 s: the longest wait for a lock.
    pub lock_wait_degraded: Duration,
    /// `replication_lag_degraded`, default 30 s.
    pub replication_lag_degraded: Duration,
    /// `wraparound_degraded`, default 0.5 of the 2^31 transaction ids.
    pub wraparound_degraded: f64,
    /// `wraparound_unhealthy`, default 0.75.
    pub wraparound_unhealthy: f64,
}

/// `[jobs]`: how many at once, and `[jobs.NAME]` for each.
#[derive(Debug, Clone, PartialEq)]
pub struct Jobs {
    /// `max_concurrent`, default 2, 1..=8.
    pub max_concurrent: u32,
    /// `lease`, default 15 s, 5 s..=5 m: the observer's and each run's, on the database's clock.
    pub lease: Duration,
    /// `history_keep`, default 30 d: rows of `job_runs`; failures are kept twice as long.
    pub history_keep: Duration,
    /// `history_max`, default 2000: rows of one job that succeeded or were skipped; and as many that failed.
    pub history_max: u32,
    /// `[jobs.NAME]`: the built-in jobs, and those of an operator's own SQL.
    pub all: BTreeMap<JobName, Job>,
}

/// `[retention]`: how long rows are kept. Days are 24 hours.
#[derive(Debug, Clone, PartialEq)]
pub struct Retention {
    /// `audit_logs`, default 90 d; never under `min_keep`.
    pub audit_logs: Duration,
    /// `system_health`, default 45 d.
    pub system_health: Duration,
    /// `connection_metrics`, default 30 d.
    pub connection_metrics: Duration,
    /// `vm_metrics`, default 60 d; holds only where the set `zentry` is applied.
    pub vm_metrics: Duration,
    /// `min_keep`, default 30 d: the floor for the audit trail.
    pub min_keep: Duration,
    /// `slice_target`, default 200 ms: the time that one slice of a DELETE aims at.
    pub slice_target: Duration,
    /// `duty`, default 0.5: share of the time that slices may be running, 0.01..=1.
    pub duty: f64,
    /// `[retention.tables."schema.table"]`
    pub tables: BTreeMap<String, RetentionTable>,
}

/// `[retention.tables."schema.table"]`
#[derive(Debug, Clone, PartialEq)]
pub struct RetentionTable {
    /// `column`: a timestamp with an index.
    pub column: String,
    /// `keep`
    pub keep: Duration,
}

/// `[vacuum]`: which tables need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vacuum {
    /// `dead_ratio`, default 0.1 of the live rows.
    pub dead_ratio: f64,
    /// `dead_rows_min`, default 1000.
    pub dead_rows_min: u64,
    /// `changed_ratio`, default 0.1: rows changed since the last ANALYZE.
    pub changed_ratio: f64,
    /// `tables_max`, default 50 a run, the neediest first.
    pub tables_max: u32,
    /// `schemas_exclude`: never touched beside the system's. Default none.
    pub schemas_exclude: Vec<String>,
}

/// `[refresh]`: materialized views beside our own.
#[derive(Debug, Clone, PartialEq)]
pub struct Refresh {
    /// `views`: `schema.view` names. Default none.
    pub views: Vec<String>,
    /// `max_staleness`, default 1 h: refreshed at least this often, unchanged or not.
    pub max_staleness: Duration,
}

/// `[spool]`: measurements that wait for the database, per database.
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// `max_size`, default 16 MiB, 64 KiB..=1 GiB: in `state_dir`; memory holds 1 MiB of it at most.
    pub max_size_bytes: usize,
    /// `max_age`, default 7 d, 1 m..=30 d.
    pub max_age: Duration,
}

/// `[audit]`: where the heads of seals go, out of the reach of whoever is superuser in the database.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Audit {
    /// `head_dir`, default `state_dir`: a file `audit-heads-DATABASE.jsonl` in it is appended to.
    pub head_dir: Option<PathBuf>,
    /// `webhook_url` or `webhook_url_file`: is sent each new head, as JSON by POST.
    pub webhook_url: Option<SecretSource>,
}
