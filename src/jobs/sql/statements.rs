//! The script statement by statement, each committed by itself.
//!
//! What was done before a failure stays. A statement may be run again by the next run, so it has to
//! bear that: it is up to whoever writes it.

use serde_json::json;
use tokio_postgres::error::ErrorPosition;

use super::{GRACE, located, settings, take_role};
use crate::config::SqlWork;
use crate::db::Error;
use crate::jobs::unfenced::{millis, still_ours};
use crate::jobs::{Context, Report};
use crate::sql::{self, Statement};

/// Runs it. A failure is told in the report, with how far it came.
pub async fn run(ctx: &mut Context<'_>, work: &SqlWork) -> Report {
    let mut report = Report::default();
    if let Err(error) = prepare(ctx, work).await {
        report.failure = Some(error);
        return report;
    }
    let statements = sql::statements(&work.sql);
    for (at, statement) in statements.iter().enumerate() {
        report.detail = json!({ "statements": statements.len(), "completed": at });
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        if let Err(error) = still_ours(ctx).await {
            report.failure = Some(error.context(so_far(at)));
            break;
        }
        match ctx.conn.script("run the job's SQL", statement.text).await {
            Ok(done) => {
                report.detail["completed"] = (at + 1).into();
                report.rows =
                    report.rows.saturating_add(i64::try_from(done.rows).unwrap_or(i64::MAX));
            }
            Err((_, error)) => {
                report.failure = Some(told(work, at, statement, error));
                return report;
            }
        }
    }
    report
}

async fn prepare(ctx: &Context<'_>, work: &SqlWork) -> Result<(), Error> {
    let bounds = format!(
        "{}; SET SESSION statement_timeout = {}; SET SESSION lock_timeout = {}",
        settings(ctx.job, ctx.spec, work, "SESSION"),
        millis(ctx.time_left() + GRACE),
        millis(work.lock_timeout),
    );
    ctx.conn.batch("prepare the session for the job", &bounds).await?;
    take_role(ctx.conn, work, "SESSION").await
}

fn told(work: &SqlWork, at: usize, statement: &Statement<'_>, error: Error) -> Error {
    // It was sent alone, so that a position counts from its own begin.
    let before = u32::try_from(work.sql[..statement.offset].chars().count()).unwrap_or(u32::MAX);
    let position = error.db().and_then(|db| db.position()).map(|position| match position {
        ErrorPosition::Original(position) => {
            ErrorPosition::Original(position.saturating_add(before))
        }
        inside => inside.clone(),
    });
    let place = sql::locate(&work.sql, 0, Some(at), position.as_ref());
    let error = if error.kind().is_connection() {
        error.context("the connection ended while it ran: whether it did its work is not known")
    } else if leaves_invalid_index(statement) {
        error.context(
            "building an index concurrently leaves an invalid index when it fails: find it by \
             SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid, and DROP INDEX it before the next run",
        )
    } else {
        error
    };
    located(work, place, error).context(so_far(at))
}

fn so_far(completed: usize) -> String {
    match completed {
        0 => "no statement had completed".to_owned(),
        1 => "statement 1 had completed and stays".to_owned(),
        completed => format!("statements 1 to {completed} had completed and stay"),
    }
}

/// CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY.
fn leaves_invalid_index(statement: &Statement<'_>) -> bool {
    let has = |word: &str| statement.words.iter().any(|known| known == word);
    let builds = matches!(statement.words.first().map(String::as_str), Some("CREATE" | "REINDEX"));
    builds && has("CONCURRENTLY")
}
