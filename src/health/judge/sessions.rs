//! Connections, transactions and locks: what the sessions of the cluster do.

use serde_json::json;

use super::{Verdict, not_permitted, span};
use crate::config;
use crate::observe::{Session, Snapshot};

pub(super) fn connections(snapshot: &Snapshot, limits: &config::Health) -> Verdict {
    const NAME: &str = "connections";
    let (used, usable) = (snapshot.sessions.total(), snapshot.usable_connections());
    let share = used as f64 / usable as f64;
    let found = format!(
        "{used} of {usable} connections that ordinary roles may use are taken ({:.0} %)",
        share * 100.0
    );
    let remedy = "close idle sessions, use a pooler, or raise max_connections";
    let verdict = if share >= limits.connections_unhealthy {
        let limit = limits.connections_unhealthy * 100.0;
        Verdict::unhealthy(
            NAME,
            "connections_exhausted",
            format!("{found}; the limit is {limit:.0} %"),
        )
        .remedy(remedy)
    } else if share >= limits.connections_degraded {
        let limit = limits.connections_degraded * 100.0;
        Verdict::degraded(NAME, "connections_high", format!("{found}; the limit is {limit:.0} %"))
            .remedy(remedy)
    } else {
        Verdict::healthy(NAME, found)
    };
    verdict.measured(json!({
        "used": used,
        "usable": usable,
        "max_connections": snapshot.max_connections,
        "active": snapshot.sessions.in_state("active"),
        "idle": snapshot.sessions.in_state("idle"),
        "idle_in_transaction": snapshot.sessions.idle_in_transaction(),
        "hidden": snapshot.sessions.hidden(),
    }))
}

pub(super) fn transactions(snapshot: &Snapshot, limits: &config::Health) -> Verdict {
    const NAME: &str = "transactions";
    let sessions = &snapshot.sessions;
    let limit = limits.transaction_age_degraded.as_secs_f64();
    let verdict = match (&sessions.oldest_transaction, &sessions.oldest_prepared) {
        (_, Some(prepared)) if prepared.seconds >= limit => Verdict::degraded(
            NAME,
            "prepared_transaction_old",
            format!(
                "the prepared transaction '{}' is {} old, the limit is {}; it keeps its locks and \
                 holds back VACUUM",
                prepared.gid,
                span(prepared.seconds),
                span(limit)
            ),
        )
        .remedy("end it with `COMMIT PREPARED` or `ROLLBACK PREPARED`"),
        (Some(oldest), _) if oldest.seconds >= limit => Verdict::degraded(
            NAME,
            "transaction_old",
            format!(
                "{} has a transaction open for {} ({}), the limit is {}; it holds back VACUUM",
                session(oldest),
                span(oldest.seconds),
                oldest.state,
                span(limit),
            ),
        )
        .remedy(format!(
            "end the transaction, or run `SELECT pg_terminate_backend({})`",
            oldest.pid
        )),
        _ if sessions.hidden() > 0 => not_permitted(NAME, snapshot, sessions.hidden()),
        (Some(oldest), _) => Verdict::healthy(
            NAME,
            format!("the oldest transaction is {} old", span(oldest.seconds)),
        ),
        (None, _) => Verdict::healthy(NAME, "no transaction is open"),
    };
    verdict.measured(json!({
        "oldest_transaction": sessions.oldest_transaction,
        "oldest_idle_in_transaction": sessions.oldest_idle_in_transaction,
        "oldest_prepared": sessions.oldest_prepared,
        "hidden_sessions": sessions.hidden(),
    }))
}

pub(super) fn locks(snapshot: &Snapshot, limits: &config::Health) -> Verdict {
    const NAME: &str = "locks";
    let waiting = snapshot.sessions.waiting;
    let waits = if waiting == 1 {
        "1 session waits".to_owned()
    } else {
        format!("{waiting} sessions wait")
    };
    let limit = limits.lock_wait_degraded.as_secs_f64();
    let verdict = match &snapshot.sessions.longest_wait {
        Some(wait) if wait.seconds.is_some_and(|seconds| seconds >= limit) => {
            let holders: Vec<String> = wait
                .blockers
                .iter()
                .map(|blocker| match (&blocker.user, blocker.pid) {
                    (_, 0) => "a prepared transaction".to_owned(),
                    (Some(user), pid) => format!("pid {pid} (user {user})"),
                    (None, pid) => format!("pid {pid}"),
                })
                .collect();
            let behind = if holders.is_empty() {
                String::new()
            } else {
                format!(" behind {}", holders.join(", "))
            };
            Verdict::degraded(
                NAME,
                "lock_wait",
                format!(
                    "pid {} has waited {} for a lock{behind}, the limit is {}; {waits} in all",
                    wait.pid,
                    span(wait.seconds.unwrap_or_default()),
                    span(limit)
                ),
            )
            .remedy("end the session or prepared transaction that holds the lock")
        }
        _ if waiting > 0 => Verdict::healthy(NAME, format!("{waits} for a lock, not for long")),
        _ => Verdict::healthy(NAME, "no session waits for a lock"),
    };
    verdict.measured(json!({ "waiting": waiting, "longest_wait": snapshot.sessions.longest_wait }))
}

fn session(session: &Session) -> String {
    let user = session.user.as_deref().unwrap_or("?");
    let application = session
        .application
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("no application name");
    format!("pid {} (user {user}, {application}, database {})", session.pid, session.database)
}
