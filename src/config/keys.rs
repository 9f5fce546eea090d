//! Every key of the configuration but those of `[jobs]` and `[auth]`, which stand in [`super::job`]
//! and [`super::auth`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::conninfo::ConnInfo;
use super::problem::Origin;
use super::read::{Fault, Section, any_text, quote};
use super::table::{Key, Table, table, words};
use super::value::{DAY, GIB, HOUR, KIB, MIB, MILLISECOND, MINUTE, SECOND};
use super::{Auth, Cidr, Job, Jobs, SecretSource, SqlWork, auth};
use crate::sets;

/// The database that `[database]` and `DATABASE_URL` describe.
pub const MAIN: &str = "main";
/// PostgreSQL's limit for a name, in bytes.
pub(super) const IDENTIFIER_MAX: usize = 63;
/// A hundred years: more than any retention means, less than what overflows a date.
pub(super) const KEEP_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// The form of the name of a user's table or view, for error messages.
const QUALIFIED: &str = r#"a name with its schema, such as "public.events""#;
const ADDRESS: &str =
    r#"an address with a port, such as "127.0.0.1:8432", "0.0.0.0:8432" or "[::1]:8432""#;

table! {
    /// The whole configuration. `Config::default()` holds when nothing is given; it names no
    /// database, which [`super::load()`] therefore requires.
    Config {
        "environment" environment: Environment = Environment::default(), choice(), restart,
            env "ENVIRONMENT";
        "mode" mode: Mode = Mode::default(), choice(), live;
        /// Holds the local pause file and the spool. Without it, systemd's `STATE_DIRECTORY`.
        "state_dir" state_dir: Option<PathBuf> = None, path(), restart;
        "development" development: Development = Development::default(), table(), nested;
        /// `[database]` (named `main`) or `[databases.NAME]`.
        "database" databases: BTreeMap<String, Database> = main_alone(), custom(databases), restart;
        "migrations" migrations: Migrations = Migrations::default(), table(), nested;
        "http" http: Http = Http::default(), table(), nested;
        "log" log: Log = Log::default(), table(), nested;
        "health" health: Health = Health::default(), table(), nested;
        "jobs" jobs: Jobs = Jobs::default(), table(), nested;
        "retention" retention: Retention = Retention::default(), table(), nested;
        "vacuum" vacuum: Vacuum = Vacuum::default(), table(), nested;
        "refresh" refresh: Refresh = Refresh::default(), table(), nested;
        "spool" spool: Spool = Spool::default(), table(), nested;
        "audit" audit: Audit = Audit::default(), table(), nested;
        "auth" auth: Auth = Auth::default(), table(), nested;
    }
}

/// Visits every declared key with its path. Tables that exist under names of the user's have one of
/// the names in `config.example.toml`, or `NAME`.
pub(super) fn declared(visit: &mut dyn FnMut(String, &'static Key)) {
    Config::declared("", visit);
    Database::declared("database", visit);
    Supabase::declared("database.supabase", visit);
    Job::declared("jobs.NAME", visit);
    SqlWork::declared("jobs.NAME", visit);
}

impl Config {
    /// The top-level keys and tables whose values differ from those of `new`.
    pub fn changed(&self, new: &Config) -> Vec<&'static str> {
        Table::changed(self, new)
    }

    /// The paths of the keys whose change to their values in `new` needs a restart.
    pub fn needs_restart(&self, new: &Config) -> Vec<String> {
        let mut keys = Vec::new();
        Table::needs_restart(self, new, "", &mut keys);
        keys
    }
}

words! {
    /// The kind of system that this process serves.
    #[derive(Default)]
    Environment {
        /// Nothing is assumed and nothing is substituted.
        #[default]
        Production = "production" | "prod",
        /// A development server may replace a database that is missing.
        Development = "development" | "dev",
    }
}

words! {
    /// How much pgsteward may change.
    #[derive(Default)]
    Mode {
        /// Measures and maintains pgsteward's own schema. Changes nothing of the user's: no
        /// application migrations, no purge of application tables, no VACUUM, no REFRESH.
        Observe = "observe",
        /// Does everything that is configured.
        #[default]
        Maintain = "maintain",
    }
}

table! {
    /// `[development]`
    Development {
        /// Use a development server instead of the configured database.
        "ephemeral" ephemeral: bool = false, boolean(), restart, env "USE_IN_MEMORY_DB";
    }
}

table! {
    /// One maintained database: `[database]` or `[databases.NAME]`.
    Database {
        /// A libpq URL or `key=value` string.
        "url" url: Option<SecretSource> = None, secret(connection_string), restart,
            env "DATABASE_URL", credential "database_url";
        /// Bypasses the transaction pooler, for work that needs a session.
        "direct_url" direct_url: Option<SecretSource> = None, secret(connection_string), restart,
            credential "database_direct_url";
        /// Used where no `url` is given.
        "supabase" supabase: Option<Supabase> = None, custom(supabase), restart;
        /// Takes precedence over a password in the URL.
        "password" password: Option<SecretSource> = None, secret_or_command(any_text), restart,
            credential "database_password";
        "pooler" pooler: Pooler = Pooler::default(), choice(), restart;
        /// Connections that stay open for the API.
        "pool_min_size" pool_min_size: u32 = 0, integer(0, 100), restart, env "DB_POOL_MIN_SIZE";
        "pool_max_size" pool_max_size: u32 = 2, integer(1, 100), restart, env "DB_POOL_MAX_SIZE";
        /// Bounds one statement of the API or of a probe.
        "query_timeout" query_timeout: Duration = 30 * SECOND,
            duration(100 * MILLISECOND, HOUR), restart, env "DB_QUERY_TIMEOUT";
        /// Bounds DNS, TCP, TLS and login together, per host.
        "connect_timeout" connect_timeout: Duration = 5 * SECOND,
            duration(100 * MILLISECOND, 5 * MINUTE), restart;
    }
}

table! {
    /// Supabase's names for a database and its credentials.
    Supabase {
        /// `https://REF.supabase.co`; empty if it is missing or not a project's URL.
        "url" url: String = String::new(), parsed("a string", project_url), restart,
            env "SUPABASE_URL";
        /// Not a database password: a credential of the API.
        "service_key" service_key: Option<SecretSource> = None, secret(any_text), restart,
            env "SUPABASE_SERVICE_KEY", credential "supabase_service_key";
        /// Without it, the database's `password`.
        "db_password" db_password: Option<SecretSource> = None, secret(any_text), restart,
            env "SUPABASE_DB_PASSWORD", credential "supabase_db_password";
    }
}

words! {
    /// What stands between pgsteward and the server.
    #[derive(Default)]
    Pooler {
        /// Detected at the first connect, by behavior.
        #[default]
        Auto = "auto",
        /// A direct connection.
        None = "none",
        /// A pooler that gives each client a server session of its own.
        Session = "session",
        /// A pooler that may give each transaction another session: no session state and no named
        /// statements.
        Transaction = "transaction",
    }
}

table! {
    /// `[migrations]`
    Migrations {
        /// Bundled application sets to apply.
        "sets" sets: Vec<String> = Vec::new(), list("names of bundled sets", bundled_set), live;
        /// A directory of the user's SQL files, applied as the set `app`.
        "dir" dir: Option<PathBuf> = None, path(), live;
        "on_failure" on_failure: OnFailure = OnFailure::default(), choice(), live;
        /// For application sets.
        "search_path" search_path: String = "public".to_owned(), text(1_024), live;
        /// SET ROLE for application sets.
        "role" role: Option<String> = None, text(IDENTIFIER_MAX), live;
        "statement_timeout" statement_timeout: Duration = HOUR, duration(SECOND, 7 * DAY), live;
        /// Bounds one attempt's wait for a lock.
        "lock_timeout" lock_timeout: Duration = 20 * MILLISECOND,
            duration(MILLISECOND, MINUTE), live;
        /// Bounds all attempts for one file.
        "lock_budget" lock_budget: Duration = 10 * MINUTE, duration(SECOND, DAY), live;
    }
}

words! {
    /// What follows a migration that fails at start.
    #[derive(Default)]
    OnFailure {
        /// Keep observing, run no jobs, report it.
        #[default]
        Serve = "serve",
        /// End the process with the exit code of a failed migration.
        Exit = "exit",
    }
}

table! {
    /// `[http]`
    Http {
        "listen" listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8432)),
            parsed(ADDRESS, socket_address), restart;
        /// Further connections are closed at once and counted.
        "max_connections" max_connections: usize = 64, integer(1, 10_000), restart;
        /// Bounds the arrival of a request's head.
        "header_timeout" header_timeout: Duration = 5 * SECOND,
            duration(100 * MILLISECOND, 5 * MINUTE), restart;
        /// Bounds the answer to a request.
        "request_timeout" request_timeout: Duration = 30 * SECOND,
            duration(100 * MILLISECOND, 10 * MINUTE), restart;
        "body_limit" body_limit_bytes: usize = 64 * KIB, size(KIB, 16 * MIB), restart;
        /// PEM: the server's own certificate first, then those that lead to a root.
        "tls_cert_file" tls_cert_file: Option<PathBuf> = None, path(), restart;
        /// PEM, not encrypted.
        "tls_key_file" tls_key_file: Option<PathBuf> = None, path(), restart;
        /// Accept credentials over plain HTTP from other machines.
        "allow_plain_http" allow_plain_http: bool = false, boolean(), restart;
        /// Pages of these origins may call.
        "cors_origins" cors_origins: Vec<String> = Vec::new(),
            list("origins", auth::cors_origin), restart;
        /// Addresses whose `X-Forwarded-For` is believed.
        "trusted_proxies" trusted_proxies: Vec<Cidr> = Vec::new(), cidrs(), restart;
    }
}

/// The listener's certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Http {
    /// The files for HTTPS; `None` means HTTP.
    pub fn tls(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.tls_cert_file.clone()?, self.tls_key_file.clone()?);
        Some(TlsFiles { cert, key })
    }
}

table! {
    /// `[log]`
    Log {
        "level" level: LogLevel = LogLevel::default(), choice(), live;
        "format" format: LogFormat = LogFormat::default(), choice(), restart;
    }
}

words! {
    /// The least severe events that are logged.
    #[derive(Default)]
    LogLevel {
        Error = "error",
        Warn = "warn",
        #[default]
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

words! {
    /// How log events are written.
    #[derive(Default)]
    LogFormat {
        /// Text on a terminal, JSON elsewhere.
        #[default]
        Auto = "auto",
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

table! {
    /// `[health]`: thresholds that turn a measurement into a status.
    Health {
        /// How long expensive statistics are served from memory.
        "cache_ttl" cache_ttl: Duration = 5 * MINUTE, duration(SECOND, DAY), live;
        /// An older measurement is stale.
        "stale_after" stale_after: Duration = MINUTE, duration(SECOND, DAY), restart;
        /// Consecutive better measurements before a status improves; it worsens at once.
        "recover_after" recover_after: u32 = 2, integer(1, 100), live;
        "response_degraded" response_degraded: Duration = 500 * MILLISECOND,
            duration(MILLISECOND, 7 * DAY), live;
        /// Of the connections that ordinary roles may use.
        "connections_degraded" connections_degraded: f64 = 0.8, ratio(0.0, 1.0), live;
        "connections_unhealthy" connections_unhealthy: f64 = 0.95, ratio(0.0, 1.0), live;
        /// Of the oldest open transaction.
        "transaction_age_degraded" transaction_age_degraded: Duration = 15 * MINUTE,
            duration(MILLISECOND, 7 * DAY), live;
        /// Of the longest wait for a lock.
        "lock_wait_degraded" lock_wait_degraded: Duration = MINUTE,
            duration(MILLISECOND, 7 * DAY), live;
        "replication_lag_degraded" replication_lag_degraded: Duration = 30 * SECOND,
            duration(MILLISECOND, 7 * DAY), live;
        /// Of the 2^31 transaction ids.
        "wraparound_degraded" wraparound_degraded: f64 = 0.5, ratio(0.0, 1.0), live;
        "wraparound_unhealthy" wraparound_unhealthy: f64 = 0.75, ratio(0.0, 1.0), live;
    }
}

table! {
    /// `[retention]`: how long rows are kept. A day has 24 hours.
    Retention {
        /// At least `min_keep`.
        "audit_logs" audit_logs: Duration = 90 * DAY, duration(DAY, KEEP_MAX), live;
        "system_health" system_health: Duration = 45 * DAY, duration(DAY, KEEP_MAX), live;
        "connection_metrics" connection_metrics: Duration = 30 * DAY, duration(DAY, KEEP_MAX), live;
        /// Applies only where the set `zentry` is applied.
        "vm_metrics" vm_metrics: Duration = 60 * DAY, duration(DAY, KEEP_MAX), live;
        /// The least that `audit_logs` may be.
        "min_keep" min_keep: Duration = 30 * DAY, duration(DAY, KEEP_MAX), live;
        /// The intended duration of one batch of a DELETE.
        "slice_target" slice_target: Duration = 200 * MILLISECOND,
            duration(10 * MILLISECOND, 10 * SECOND), live;
        /// The share of time in which batches may run.
        "duty" duty: f64 = 0.5, ratio(0.01, 1.0), live;
        /// `[retention.tables."schema.table"]`
        "tables" tables: BTreeMap<String, RetentionTable> = BTreeMap::new(),
            custom(retention_tables), live;
    }
}

impl Retention {
    /// How long the rows of a bundled set's table are kept, by the key that its manifest names.
    /// `None` if there is no such key.
    pub fn keep(&self, key: &str) -> Option<Duration> {
        Some(match key {
            "audit_logs" => self.audit_logs.max(self.min_keep),
            "system_health" => self.system_health,
            "connection_metrics" => self.connection_metrics,
            "vm_metrics" => self.vm_metrics,
            _ => return None,
        })
    }
}

/// `[retention.tables."schema.table"]`
#[derive(Debug, Clone, PartialEq)]
pub struct RetentionTable {
    /// A timestamp with an index.
    pub column: String,
    pub keep: Duration,
}

table! {
    /// `[vacuum]`: when a table needs VACUUM.
    Vacuum {
        /// Of the live rows.
        "dead_ratio" dead_ratio: f64 = 0.1, ratio(0.0, 1.0), live;
        "dead_rows_min" dead_rows_min: u64 = 1000, integer(0, 1_000_000_000_000), live;
        /// Rows changed since the last ANALYZE, of the live rows.
        "changed_ratio" changed_ratio: f64 = 0.1, ratio(0.0, 1.0), live;
        /// Tables per run, those with the greatest need first.
        "tables_max" tables_max: u32 = 50, integer(1, 10_000), live;
        /// Never vacuumed, like the system's schemas.
        "schemas_exclude" schemas_exclude: Vec<String> = Vec::new(),
            list("names of schemas", schema), live;
    }
}

table! {
    /// `[refresh]`: materialized views besides those of the bundled set.
    Refresh {
        /// `schema.view` names.
        "views" views: Vec<String> = Vec::new(), list("names of materialized views", view), live;
        /// A view is refreshed at least this often, even if nothing changed.
        "max_staleness" max_staleness: Duration = HOUR, duration(MINUTE, 30 * DAY), live;
    }
}

table! {
    /// `[spool]`: measurements that wait for the database, per database.
    Spool {
        /// In `state_dir`; memory holds at most 1 MiB of it.
        "max_size" max_size_bytes: usize = 16 * MIB, size(64 * KIB, GIB), live;
        "max_age" max_age: Duration = 7 * DAY, duration(MINUTE, 30 * DAY), live;
    }
}

table! {
    /// `[audit]`: where seal heads go, beyond the reach of a superuser of the database.
    Audit {
        /// Heads are appended to `audit-heads-DATABASE.jsonl` here. Defaults to `state_dir`.
        "head_dir" head_dir: Option<PathBuf> = None, path(), live;
        /// Receives each new head as JSON by POST.
        "webhook_url" webhook_url: Option<SecretSource> = None, secret(webhook_url), live;
    }
}

fn main_alone() -> BTreeMap<String, Database> {
    BTreeMap::from([(MAIN.to_owned(), Database::default())])
}

fn databases(root: &Section<'_>, _: BTreeMap<String, Database>) -> BTreeMap<String, Database> {
    let mut databases = BTreeMap::new();
    // Read even if it is missing, so that its keys are known.
    let main = root.section("database", database);
    let mut named = BTreeMap::new();
    root.section("databases", |section| {
        for (name, origin) in section.names() {
            if !is_name(name, 31) {
                let expected =
                    "a name of 1 to 31 characters a-z, 0-9, - or _ that begins with a letter";
                section.problem(origin, name, quote(name), expected);
            }
            named.insert(name.to_owned(), section.section(name, database));
        }
    });
    if root.has("database") || named.is_empty() {
        databases.insert(MAIN.to_owned(), main);
    }
    databases.extend(named);
    databases
}

fn database(section: &Section<'_>) -> Database {
    let mut database = Database::read(section, Database::default());
    if let Some(supabase) = &mut database.supabase {
        supabase.db_password = supabase.db_password.take().or_else(|| database.password.clone());
    }
    database
}

/// Whether a name of a database or a job has the form that fits into labels and environment
/// variables.
pub(super) fn is_name(name: &str, max: usize) -> bool {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    name.len() <= max
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(fits)
}

/// Without a project's URL nothing of it is used. Whether one is needed is checked later.
fn supabase(section: &Section<'_>, _: Option<Supabase>) -> Option<Supabase> {
    let supabase = section.table("supabase", Supabase::default());
    (!supabase.url.is_empty()).then_some(supabase)
}

/// Next to another URL of the database, `SUPABASE_URL` serves the application and may be the
/// address of a local server, so anything else than a project's URL is not an error here.
fn project_url(text: &str) -> Result<String, Fault> {
    let is_host_character = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let host = text.trim().trim_end_matches('/').strip_prefix("https://");
    let host = host.filter(|host| host.contains('.') && host.chars().all(is_host_character));
    Ok(host.map(|host| format!("https://{host}")).unwrap_or_default())
}

/// Refuses what can never work. The content of a file or of a command's output is read, and
/// checked, at each connect. No error repeats a secret.
pub(super) fn connection_string(text: &str) -> Result<&str, Fault> {
    let text = text.trim();
    let expected =
        r#"a libpq URL such as "postgresql://user@host:5432/name", or a "key=value" string"#;
    let url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if !url && (text.contains("://") || !text.contains('=')) {
        return Err(Fault::expected(expected));
    }
    ConnInfo::parse(text).map(|_| text).map_err(|error| {
        Fault::expected(expected).found(format!("a string that cannot be used ({error})"))
    })
}

fn bundled_set(set: &str) -> Result<(), Fault> {
    let names: Vec<&str> = sets::optional().map(|set| set.name).collect();
    if names.contains(&set) {
        return Ok(());
    }
    let expected = format!("the name of a bundled set ({})", names.join(", "));
    Err(Fault::expected(expected).near(set, names))
}

fn socket_address(text: &str) -> Result<SocketAddr, Fault> {
    text.trim().parse().map_err(|_| Fault::expected(ADDRESS))
}

fn schema(name: &str) -> Result<(), Fault> {
    let fits = !name.is_empty() && name.len() <= IDENTIFIER_MAX;
    fits.then_some(()).ok_or_else(|| Fault::expected("the name of a schema"))
}

fn view(name: &str) -> Result<(), Fault> {
    is_qualified(name).then_some(()).ok_or_else(|| Fault::expected(QUALIFIED))
}

/// The name is taken literally, including upper case. The schema ends at the only dot.
fn is_qualified(name: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty() && part.len() <= IDENTIFIER_MAX && !part.contains(['.', '"', '\0'])
    };
    name.split_once('.').is_some_and(|(schema, table)| fits(schema) && fits(table))
}

fn retention_tables(
    section: &Section<'_>,
    _: BTreeMap<String, RetentionTable>,
) -> BTreeMap<String, RetentionTable> {
    section.section("tables", |section| {
        let read = |(name, origin): (&str, &Origin)| {
            if !is_qualified(name) {
                section.problem(origin, name, quote(name), QUALIFIED);
            }
            let table = section.section(name, |table| {
                table.require(
                    section,
                    (name, origin),
                    &["column", "keep"],
                    r#"column = "…" and keep = "…d""#,
                );
                let column: Option<String> = table.text("column", None, IDENTIFIER_MAX);
                let keep: Option<Duration> = table.duration("keep", None, MINUTE, KEEP_MAX);
                Some(RetentionTable { column: column?, keep: keep? })
            })?;
            Some((name.to_owned(), table))
        };
        section.names().filter_map(read).collect()
    })
}

fn webhook_url(text: &str) -> Result<&str, Fault> {
    let text = text.trim();
    let plain = text.strip_prefix("http://").is_some_and(is_loopback);
    if text.starts_with("https://") || plain {
        return Ok(text);
    }
    Err(Fault::expected(
        r#"a URL such as "https://heads.example.com/pgsteward"; http:// only to this machine"#,
    ))
}

/// Whether the host of a URL without its scheme is a loopback address. Checked again at each use.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    ["localhost", "127.", "[::1]"].iter().any(|loopback| host.starts_with(loopback))
}
