//! An operator's own SQL.
//!
//! ```text
//! transaction = true    fence ─► search_path, role ─► the script ─► still our transaction? ─► record ─► COMMIT
//! transaction = false   for each statement: is the run still ours? ─► the statement, committed by itself
//! login_url             either of them under a login of its own, which cannot see the ledger: not fenced,
//!                       recorded by the runner
//! ```
//! As one transaction the effect and its record commit together or not at all, and only while the run
//! holds its lease. Anything else is at least once: the run's row says `fenced = false`.
//!
//! The session has the daemon's settings: dates as ISO, times in UTC. What the script leaves in it
//! (settings, roles, temporary tables, session locks) is taken back before anything else runs there; a
//! session in which that fails is closed. Notices go into the run's detail, and a failure names the
//! statement and its line.

mod statements;
mod transaction;

use serde_json::Value;

use super::{Context, Report, unfenced};
use crate::config::{Job, JobName, Mode, SqlWork};
use crate::db::{Conn, Error, Kind, quote_ident, quote_literal};
use crate::sql::{self, SourceLocation};
use crate::store::runs::Backend;

const LOGIN_NEEDS_SESSION: &str = "needs_direct_url: login_url goes through a transaction pooler, which keeps no \
     setting for us; it has to name the server itself";
/// Warnings that a run tells in health and log; the others are in its detail.
const WARNINGS_MAX: usize = 10;
/// Of one notice in a run's detail, in characters.
const NOTICE_SHOWN: usize = 500;
/// Beyond the deadline: the runner's own cut, which proves the end, is to come first. The server's bound is
/// for when there is no runner any more.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Runs it.
pub async fn run(ctx: &mut Context<'_>, work: &SqlWork) -> Result<Report, Error> {
    if ctx.config.mode == Mode::Observe {
        return Ok(skipped(
            "mode_observe: mode = \"observe\" changes nothing, and SQL of one's own may",
        ));
    }
    if !work.transaction && !ctx.conn.has_session_state() {
        return Ok(skipped(if work.login.is_some() {
            LOGIN_NEEDS_SESSION
        } else {
            unfenced::NEEDS_SESSION
        }));
    }
    if work.login.is_some() || !work.transaction {
        unfenced::note(ctx).await?;
    }
    ctx.conn.take_notices();
    ctx.conn.take_lost_notices();
    ctx.conn.soil();
    let mut report = if work.transaction {
        transaction::run(ctx, work).await
    } else {
        statements::run(ctx, work).await
    };
    if !report.recorded {
        report.detail = detail(ctx.conn, report.detail);
    }
    report.warnings = warnings(&report.detail);
    if ctx.unfenced
        && report.failure.as_ref().is_some_and(|error| error.kind() == Kind::ConnectionLost)
    {
        report.may_still_run = ctx.conn.process().map(|(pid, start_us)| Backend { pid, start_us });
    }
    // One's own is closed now.
    if work.login.is_none()
        && let Err(error) = ctx.conn.clean().await
    {
        tracing::debug!(error = %error, "the session of a job could not be put back, and is closed");
    }
    Ok(report)
}

fn skipped(reason: &str) -> Report {
    Report { skipped: Some(reason.to_owned()), ..Report::default() }
}

/// What the server warned of: a VACUUM that it skipped, say. It is no error, and nobody reads notices.
fn warnings(detail: &Value) -> Vec<String> {
    let notices = detail["notices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let told =
        notices.iter().filter_map(Value::as_str).filter(|notice| notice.starts_with("WARNING"));
    told.take(WARNINGS_MAX).map(str::to_owned).collect()
}

/// The detail with what the SQL had to say.
fn detail(conn: &Conn, mut detail: Value) -> Value {
    let (notices, lost) = (conn.take_notices(), conn.take_lost_notices());
    if !notices.is_empty() {
        detail["notices"] = notices.iter().map(|notice| shortened(notice)).collect();
    }
    if lost > 0 {
        detail["notices_dropped"] = lost.into();
    }
    detail
}

fn shortened(notice: &str) -> String {
    match notice.char_indices().nth(NOTICE_SHOWN) {
        // NUL cannot come from the server, and nothing else is refused by jsonb.
        Some((at, _)) => format!("{}…", &notice[..at]),
        None => notice.to_owned(),
    }
}

/// What is set before the SQL: `scope` is `LOCAL` or `SESSION`. Scripts are split as the standard has
/// it, so that the server must read them so.
fn settings(job: &JobName, spec: &Job, work: &SqlWork, scope: &str) -> String {
    let local = scope == "LOCAL";
    // What is "today" to the schedule is "today" to its SQL.
    let zone = quote_literal(spec.timezone.name());
    let path = quote_literal(&work.search_path);
    let name = quote_literal(&format!("pgsteward/job {job}"));
    format!(
        "SET {scope} standard_conforming_strings = on; \
         SELECT pg_catalog.set_config('application_name', {name}, {local}); \
         SELECT pg_catalog.set_config('timezone', {zone}, {local}); \
         SELECT pg_catalog.set_config('search_path', {path}, {local})"
    )
}

/// Takes the role that was asked for.
async fn take_role(conn: &Conn, work: &SqlWork, scope: &str) -> Result<(), Error> {
    let Some(role) = &work.role else { return Ok(()) };
    let set = format!("SET {scope} ROLE {}", quote_ident(role));
    conn.batch("take the job's role", &set).await.map_err(|error| {
        let quoted = quote_ident(role);
        error.context(format!(
            "role {quoted} cannot be had by this login; it needs GRANT {quoted} TO that login"
        ))
    })
}

/// The same error, with where it happened and under which role.
fn located(work: &SqlWork, location: Option<SourceLocation>, error: Error) -> Error {
    let error = match (error.kind(), &work.role, &work.login) {
        (Kind::Permission, Some(role), _) => {
            error.context(format!("as role {}", quote_ident(role)))
        }
        (Kind::Permission, None, Some(_)) => error.context("as the job's own login"),
        (Kind::Permission, None, None) => error.context("as the daemon's own login"),
        _ => error,
    };
    match location {
        // The place alone: the statement may hold secrets, and this is read by everybody who sees runs or health.
        Some(SourceLocation { number, line, column, .. }) => {
            let count = sql::statements(&work.sql).len();
            error.context(format!("statement {number} of {count}, line {line}, column {column}"))
        }
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notices_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = shortened(&"ü".repeat(600));
        assert_eq!(long.chars().count(), NOTICE_SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
