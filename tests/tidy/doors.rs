//! Single doors: some crates, calls and SQL may stand in one place only.

use super::{Source, Violations, assert_none, code_lines, rust_files};

/// Code that may stand in one place only.
struct Door {
    /// Any of these in the code, comments aside, needs the door.
    patterns: &'static [&'static str],
    /// The files or folders that may hold it.
    allowed: &'static [&'static str],
    /// Further files that may hold it, each with its reason.
    exceptions: &'static [(&'static str, &'static str)],
    reason: &'static str,
}

const DOORS: &[Door] = &[
    Door {
        patterns: &[
            "rustls::",
            "rustls_native_certs::",
            "tokio_postgres_rustls::",
            "tokio_rustls::",
        ],
        allowed: &[
            "src/db/tls.rs",
            "src/db/tls/",
            "src/http/tls.rs",
            "src/http/tls/",
            "src/webhook/tls.rs",
        ],
        exceptions: &[],
        reason: "one place decides what each sslmode means",
    },
    Door {
        patterns: &["hyper::client::", "hyper_util::client::"],
        allowed: &["src/webhook/"],
        exceptions: &[],
        reason: "outgoing requests are bounded and show no secret",
    },
    Door {
        patterns: &["tokio_cron_scheduler"],
        allowed: &["src/scheduler/ticker.rs"],
        exceptions: &[("src/telemetry/log.rs", "names the crate to lower its log level")],
        reason: "the cron crate wakes the scheduler and decides nothing",
    },
    Door {
        patterns: &["tokio::spawn(", "task::spawn(", "Handle::spawn(", "spawn_local("],
        allowed: &["src/lifecycle.rs", "src/lifecycle/"],
        exceptions: &[],
        reason: "a drain can neither wait for nor name a task that has no name",
    },
    Door {
        patterns: &["process::exit("],
        allowed: &["src/main.rs"],
        exceptions: &[("src/lifecycle/signals.rs", "a second signal ends the process at once")],
        reason: "only main turns a result into an exit code",
    },
    Door {
        patterns: &[
            "FROM steward.",
            "INTO steward.",
            "UPDATE steward.",
            "JOIN steward.",
            "TRUNCATE steward.",
        ],
        allowed: &["src/store/", "src/store.rs"],
        exceptions: &[],
        reason: "all SQL on pgsteward's own tables is reviewed together",
    },
    Door {
        patterns: &[
            "FROM pg_stat_",
            "JOIN pg_stat_",
            "FROM pg_catalog.",
            "JOIN pg_catalog.",
            "FROM pg_class",
            "JOIN pg_class",
        ],
        allowed: &["src/observe/", "src/observe.rs"],
        exceptions: &[
            (
                "src/db/session.rs",
                "checks in pg_stat_activity that a cancelled statement has ended",
            ),
            ("src/db/pooler.rs", "detects a pooler by the behaviour of backends"),
            ("src/db/login.rs", "sets only the session settings that this server has"),
        ],
        reason: "one place knows the version and the privileges that a catalog query needs",
    },
];

fn misplaced(doors: &[Door], source: &Source) -> Violations {
    let is_in = |place: &str| {
        source.path == place || (place.ends_with('/') && source.path.starts_with(place))
    };
    let mut violations = Vec::new();
    for door in doors {
        if door.allowed.iter().any(|place| is_in(place))
            || door.exceptions.iter().any(|(place, _)| is_in(place))
        {
            continue;
        }
        for (line, code) in code_lines(&source.text) {
            let folded = code.split_whitespace().collect::<Vec<_>>().join(" ");
            for pattern in door.patterns.iter().filter(|pattern| contains(&folded, pattern)) {
                violations.push(format!(
                    "{}:{line}: `{pattern}` belongs in {}: {}",
                    source.path,
                    door.allowed.join(", "),
                    door.reason
                ));
            }
        }
    }
    violations
}

/// SQL matches in any letter case, a path of Rust only as a whole: `rustls::`, not `x_rustls::`.
fn contains(line: &str, pattern: &str) -> bool {
    let is_sql = pattern.starts_with(|c: char| c.is_ascii_uppercase()) && pattern.contains(' ');
    if is_sql {
        return line.to_ascii_uppercase().contains(&pattern.to_ascii_uppercase());
    }
    line.match_indices(pattern)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn doors_are_single() {
    let violations: Violations =
        rust_files(&["src/"]).iter().flat_map(|file| misplaced(DOORS, file)).collect();
    assert_none("some code may stand in one place only", &violations);
}

mod can_fail {
    use super::*;

    #[test]
    fn code_outside_its_door_is_seen() {
        for (path, bad) in [
            ("src/http/mod.rs", "let config = rustls::ServerConfig::builder();"),
            ("src/webhook/mod.rs", "use tokio_rustls::TlsConnector;"),
            ("src/jobs/mod.rs", "use hyper::client::conn::http1;"),
            ("src/daemon/mod.rs", "use tokio_cron_scheduler::JobScheduler;"),
            ("src/daemon/mod.rs", "tokio::spawn(async {});"),
            ("src/cli/mod.rs", "std::process::exit(1)"),
            ("src/jobs/vacuum.rs", "\"select 1 from steward.job_runs\""),
            ("src/jobs/vacuum.rs", "UPDATE   steward.job_state"),
            ("src/jobs/vacuum.rs", "FROM pg_stat_user_tables s"),
            ("src/store/mod.rs", "JOIN pg_class c"),
        ] {
            assert_eq!(misplaced(DOORS, &Source::new(path, bad)).len(), 1, "{path}: {bad}");
        }
    }

    #[test]
    fn code_behind_its_door_is_allowed() {
        for (path, good) in [
            ("src/db/tls.rs", "use rustls::ClientConfig;"),
            ("src/webhook/tls.rs", "use rustls::ClientConfig;"),
            ("src/http/tls.rs", "use rustls::ServerConfig;"),
            ("src/lifecycle.rs", "tokio::spawn(async {});"),
            ("src/store/runs.rs", "INSERT INTO steward.job_runs"),
            ("src/observe/tables.rs", "FROM pg_stat_user_tables"),
            ("src/daemon/mod.rs", "tasks.spawn(\"name\", future); // not tokio::spawn(…)"),
        ] {
            let violations = misplaced(DOORS, &Source::new(path, good));
            assert_eq!(violations, Violations::new(), "{path}: {good}");
        }
    }

    #[test]
    fn every_exception_has_its_reason() {
        for (path, reason) in DOORS.iter().flat_map(|door| door.exceptions) {
            assert!(reason.len() > 20, "{path}: {reason:?}");
        }
    }
}
