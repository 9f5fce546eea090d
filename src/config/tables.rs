//! Every key, table by table: its type and its bounds. `config.example.toml` says the same in prose.

use std::collections::BTreeMap;
use std::time::Duration;

use super::conninfo::ConnInfo;
use super::defaults::MAIN;
use super::problem::{Origin, nearest};
use super::read::{Fault, Section, quote};
use super::*;

/// PostgreSQL's limit for a name, in bytes.
pub(super) const IDENTIFIER_MAX: usize = 63;
/// What a user's table or view looks like.
const QUALIFIED: &str = r#"a name with its schema, such as "public.events""#;
/// The bundled application sets.
const SETS: [&str; 1] = ["zentry"];

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(super) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn hours(count: u64) -> Duration {
    Duration::from_secs(count * 3_600)
}

pub(super) const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}

/// A hundred years: more than any retention means, less than what overflows a date.
const KEEP_MAX: Duration = days(36_500);

/// Reads the root and all below it.
pub(super) fn config(root: &Section<'_>) -> Config {
    Config {
        environment: root.choice(
            "environment",
            Environment::default(),
            &[
                ("production", Environment::Production),
                ("development", Environment::Development),
                ("prod", Environment::Production),
                ("dev", Environment::Development),
            ],
        ),
        mode: root.choice(
            "mode",
            Mode::default(),
            &[("observe", Mode::Observe), ("maintain", Mode::Maintain)],
        ),
        state_dir: root.path("state_dir"),
        ephemeral: root.section("development", |section| section.boolean("ephemeral", false)),
        databases: databases(root),
        migrations: root.section("migrations", migrations),
        http: root.section("http", http),
        log: root.section("log", log),
        health: root.section("health", health),
        jobs: root.section("jobs", job::table::jobs),
        retention: root.section("retention", retention),
        vacuum: root.section("vacuum", vacuum),
        refresh: root.section("refresh", refresh),
        spool: root.section("spool", spool),
        audit: root.section("audit", audit),
        auth: root.section("auth", auth::table::auth),
    }
}

fn databases(root: &Section<'_>) -> BTreeMap<String, Database> {
    let mut databases = BTreeMap::new();
    // Read also where it is missing: its keys are known.
    let main = root.section("database", database);
    let mut many = BTreeMap::new();
    root.section("databases", |section| {
        for (name, origin) in section.names() {
            if !is_database_name(name) {
                let wanted =
                    "a name of 1 to 31 characters a-z, 0-9, - or _ that begins with a letter";
                section.problem(origin, name, quote(name), wanted);
            }
            many.insert(name.to_owned(), section.section(name, database));
        }
    });
    if root.has("database") || many.is_empty() {
        databases.insert(MAIN.to_owned(), main);
    }
    databases.extend(many);
    databases
}

fn is_database_name(name: &str) -> bool {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    name.len() <= 31 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits)
}

fn database(section: &Section<'_>) -> Database {
    let default = Database::default();
    let password = section.secret("password", true, any_text);
    let named = section.has("url") || section.has("url_file");
    Database {
        url: section.secret("url", false, connection_string),
        direct_url: section.secret("direct_url", false, connection_string),
        supabase: section
            .section("supabase", |section| supabase(section, !named, password.as_ref())),
        password,
        pooler: section.choice(
            "pooler",
            default.pooler,
            &[
                ("auto", Pooler::Auto),
                ("none", Pooler::None),
                ("session", Pooler::Session),
                ("transaction", Pooler::Transaction),
            ],
        ),
        pool_min_size: section.integer("pool_min_size", default.pool_min_size, 0, 100),
        pool_max_size: section.integer("pool_max_size", default.pool_max_size, 1, 100),
        query_timeout: section.duration("query_timeout", default.query_timeout, ms(100), hours(1)),
        connect_timeout: section.duration(
            "connect_timeout",
            default.connect_timeout,
            ms(100),
            secs(300),
        ),
    }
}

/// A password may be anything.
fn any_text(text: &str) -> Result<&str, Fault> {
    Ok(text)
}

/// What can never work is told before anything happens. What a file or a command holds is read, and
/// judged, at each connect.
pub(super) fn connection_string(text: &str) -> Result<&str, Fault> {
    let text = text.trim();
    let wanted = || {
        Fault::wanted(
            r#"a libpq URL such as "postgresql://user@host:5432/name", or a "key=value" string"#,
        )
    };
    let url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    if !url && (text.contains("://") || !text.contains('=')) {
        return Err(wanted());
    }
    // The error repeats no secret.
    let unusable = |error| Fault {
        found: Some(format!("a string that cannot be used ({error})")),
        ..wanted()
    };
    ConnInfo::parse(text).map(|_| text).map_err(unusable)
}

/// `needed` where the database is named by nothing else. Otherwise the URL is there for the
/// application's own use, perhaps a server on this machine, and is taken only if it would serve.
fn supabase(
    section: &Section<'_>,
    needed: bool,
    password: Option<&SecretSource>,
) -> Option<Supabase> {
    let url = section.checked("url", "a string", |text| {
        let host = text.trim().trim_end_matches('/').strip_prefix("https://");
        match host.filter(|host| host.contains('.') && host.chars().all(is_host_character)) {
            Some(host) => Ok(Some(format!("https://{host}"))),
            None if needed => Err(Fault::wanted(r#""https://PROJECT.supabase.co""#)),
            None => Ok(None),
        }
    });
    let service_key = section.secret("service_key", false, any_text);
    let db_password = section.secret("db_password", false, any_text).or_else(|| password.cloned());
    Some(Supabase { url: url.flatten()?, service_key, db_password })
}

fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
}

fn migrations(section: &Section<'_>) -> Migrations {
    let default = Migrations::default();
    Migrations {
        sets: section.list("sets", "names of bundled sets", |set| {
            if SETS.contains(&set) {
                Ok(())
            } else {
                Err(Fault::wanted(r#"the only bundled set, "zentry""#).near(set, SETS))
            }
        }),
        dir: section.path("dir"),
        on_failure: section.choice(
            "on_failure",
            default.on_failure,
            &[("serve", OnFailure::Serve), ("exit", OnFailure::Exit)],
        ),
        search_path: section.text("search_path", 1_024).unwrap_or(default.search_path),
        role: section.text("role", IDENTIFIER_MAX),
        statement_timeout: section.duration(
            "statement_timeout",
            default.statement_timeout,
            secs(1),
            days(7),
        ),
        lock_timeout: section.duration("lock_timeout", default.lock_timeout, ms(1), secs(60)),
        lock_budget: section.duration("lock_budget", default.lock_budget, secs(1), days(1)),
    }
}

fn http(section: &Section<'_>) -> Http {
    let default = Http::default();
    let (cert, key) = (section.path("tls_cert_file"), section.path("tls_key_file"));
    let wanted =
        r#"an address with a port, such as "127.0.0.1:8432", "0.0.0.0:8432" or "[::1]:8432""#;
    Http {
        listen: section
            .checked("listen", wanted, |text| {
                text.trim().parse().map_err(|_| Fault::wanted(wanted))
            })
            .unwrap_or(default.listen),
        max_connections: section.integer("max_connections", default.max_connections, 1, 10_000),
        header_timeout: section.duration(
            "header_timeout",
            default.header_timeout,
            ms(100),
            secs(300),
        ),
        request_timeout: section.duration(
            "request_timeout",
            default.request_timeout,
            ms(100),
            secs(600),
        ),
        body_limit_bytes: section.size("body_limit", default.body_limit_bytes, 1 << 10, 16 << 20),
        tls: cert.zip(key).map(|(cert, key)| TlsFiles { cert, key }),
        allow_plain_http: section.boolean("allow_plain_http", default.allow_plain_http),
        cors_origins: auth::table::cors_origins(section),
        trusted_proxies: auth::table::cidrs(section, "trusted_proxies"),
    }
}

fn log(section: &Section<'_>) -> Log {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: section.choice("level", LogLevel::default(), &levels),
        format: section.choice("format", LogFormat::default(), &formats),
    }
}

fn health(section: &Section<'_>) -> Health {
    let default = Health::default();
    let age = |key, default| section.duration(key, default, ms(1), days(7));
    let share = |key, default| section.ratio(key, default, 0.0, 1.0);
    Health {
        cache_ttl: section.duration("cache_ttl", default.cache_ttl, secs(1), days(1)),
        stale_after: section.duration("stale_after", default.stale_after, secs(1), days(1)),
        recover_after: section.integer("recover_after", default.recover_after, 1, 100),
        response_degraded: age("response_degraded", default.response_degraded),
        connections_degraded: share("connections_degraded", default.connections_degraded),
        connections_unhealthy: share("connections_unhealthy", default.connections_unhealthy),
        transaction_age_degraded: age("transaction_age_degraded", default.transaction_age_degraded),
        lock_wait_degraded: age("lock_wait_degraded", default.lock_wait_degraded),
        replication_lag_degraded: age("replication_lag_degraded", default.replication_lag_degraded),
        wraparound_degraded: share("wraparound_degraded", default.wraparound_degraded),
        wraparound_unhealthy: share("wraparound_unhealthy", default.wraparound_unhealthy),
    }
}

pub(super) const ZONE: &str = r#"an IANA time zone such as "UTC" or "Europe/Berlin""#;

pub(super) fn zone(text: &str) -> Result<Zone, Fault> {
    let text = text.trim();
    Zone::named(text).ok_or_else(|| {
        // Most who err leave out the continent.
        let city = |name: &&str| {
            name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(text))
        };
        let meant = Zone::names().find(city).or_else(|| nearest(text, Zone::names()));
        Fault { did_you_mean: meant.map(str::to_owned), ..Fault::wanted(ZONE) }
    })
}

fn retention(section: &Section<'_>) -> Retention {
    let default = Retention::default();
    let keep = |key, default| section.duration(key, default, days(1), KEEP_MAX);
    Retention {
        audit_logs: keep("audit_logs", default.audit_logs),
        system_health: keep("system_health", default.system_health),
        connection_metrics: keep("connection_metrics", default.connection_metrics),
        vm_metrics: keep("vm_metrics", default.vm_metrics),
        min_keep: keep("min_keep", default.min_keep),
        slice_target: section.duration("slice_target", default.slice_target, ms(10), secs(10)),
        duty: section.ratio("duty", default.duty, 0.01, 1.0),
        tables: section.section("tables", |section| {
            let mut tables = BTreeMap::new();
            for (name, origin) in section.names() {
                if !is_qualified(name) {
                    section.problem(origin, name, quote(name), QUALIFIED);
                }
                if let Some(table) =
                    section.section(name, |table| retention_table(table, section, name, origin))
                {
                    tables.insert(name.to_owned(), table);
                }
            }
            tables
        }),
    }
}

/// Both keys are needed: nobody can guess which column tells a row's age, nor how long it is worth keeping.
fn retention_table(
    table: &Section<'_>,
    parent: &Section<'_>,
    name: &str,
    origin: &Origin,
) -> Option<RetentionTable> {
    for key in ["column", "keep"] {
        if table.exists() && !table.has(key) {
            parent.problem(
                origin,
                name,
                format!("no key \"{key}\""),
                r#"column = "…" and keep = "…d""#,
            );
        }
    }
    let column = table.text("column", IDENTIFIER_MAX);
    let keep = table.duration("keep", Duration::ZERO, secs(60), KEEP_MAX);
    (!keep.is_zero()).then_some(RetentionTable { column: column?, keep })
}

/// Taken literally, upper case and all. The schema ends at the only dot.
fn is_qualified(name: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty() && part.len() <= IDENTIFIER_MAX && !part.contains(['.', '"', '\0'])
    };
    name.split_once('.').is_some_and(|(schema, table)| fits(schema) && fits(table))
}

fn vacuum(section: &Section<'_>) -> Vacuum {
    let default = Vacuum::default();
    Vacuum {
        dead_ratio: section.ratio("dead_ratio", default.dead_ratio, 0.0, 1.0),
        dead_rows_min: section.integer(
            "dead_rows_min",
            default.dead_rows_min,
            0,
            1_000_000_000_000,
        ),
        changed_ratio: section.ratio("changed_ratio", default.changed_ratio, 0.0, 1.0),
        tables_max: section.integer("tables_max", default.tables_max, 1, 10_000),
        schemas_exclude: section.list("schemas_exclude", "names of schemas", |name| {
            if name.is_empty() || name.len() > IDENTIFIER_MAX {
                Err(Fault::wanted("the name of a schema"))
            } else {
                Ok(())
            }
        }),
    }
}

fn refresh(section: &Section<'_>) -> Refresh {
    let default = Refresh::default();
    Refresh {
        views: section.list("views", "names of materialized views", |name| {
            if is_qualified(name) { Ok(()) } else { Err(Fault::wanted(QUALIFIED)) }
        }),
        max_staleness: section.duration("max_staleness", default.max_staleness, secs(60), days(30)),
    }
}

fn spool(section: &Section<'_>) -> Spool {
    let default = Spool::default();
    let (least, most) = (64 * 1024, 1024 * 1024 * 1024);
    Spool {
        max_size_bytes: section.size("max_size", default.max_size_bytes, least, most),
        max_age: section.duration("max_age", default.max_age, secs(60), days(30)),
    }
}

fn audit(section: &Section<'_>) -> Audit {
    Audit {
        head_dir: section.path("head_dir"),
        webhook_url: section.secret("webhook_url", false, |text| {
            let text = text.trim();
            if text.starts_with("https://") || text.strip_prefix("http://").is_some_and(is_of_this_machine) {
                return Ok(text);
            }
            let wanted = r#"a URL such as "https://heads.example.com/pgsteward"; http:// only to this machine"#;
            Err(Fault::wanted(wanted))
        }),
    }
}

/// Of a URL without its scheme: whether its host is a loopback one. It is judged again where it is used.
fn is_of_this_machine(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    ["localhost", "127.", "[::1]"].iter().any(|loopback| host.starts_with(loopback))
}
