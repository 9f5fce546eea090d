//! Pauses: of one job, in its row of `steward.job_state`, or of all jobs of a database, in the row of
//! the job `*`. Every instance reads both when it claims, so that they hold for all of them at once.
//!
//! A run under way goes on; what comes due is recorded as skipped.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, Tx, TxOptions};

/// The row of `job_state` that stands for all jobs.
pub const ALL_JOBS: &str = "*";

/// Who paused a job, or all, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// An actor; `on_failure` where the job's own failure did it.
    pub by: String,
    pub at: DateTime<Utc>,
    pub reason: Option<String>,
}

/// Whether all jobs are paused in the database.
pub async fn read(conn: &mut Conn, bound: Duration) -> Result<Option<Pause>, Error> {
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| Box::pin(find(tx, ALL_JOBS))).await
}

/// Whether a job is paused itself; of [`ALL_JOBS`], whether all are.
pub async fn find(tx: &Tx<'_>, job: &str) -> Result<Option<Pause>, Error> {
    const SQL: &str = "
        SELECT coalesce(paused_by, 'unknown'), paused_at, paused_reason
          FROM steward.job_state WHERE job = $1 AND paused_at IS NOT NULL";
    let row = tx.row_opt("read a pause", SQL, &[(&job, Type::TEXT)]).await?;
    Ok(row.map(|row| Pause { by: row.get(0), at: row.get(1), reason: row.get(2) }))
}

/// Pauses a job, or all. Returns the pause that held already, which then stays as it is.
///
/// A job that no instance has registered yet gets its row: it is paused from its first instant on.
pub async fn pause(
    tx: &Tx<'_>,
    job: &str,
    by: &str,
    reason: Option<&str>,
) -> Result<Option<Pause>, Error> {
    const SQL: &str = "
        INSERT INTO steward.job_state AS s (job, first_seen, claimed_floor, paused_by, paused_at, paused_reason)
        VALUES ($1, now(), now(), $2, now(), $3)
        ON CONFLICT (job) DO UPDATE SET paused_by = $2, paused_at = now(), paused_reason = $3
         WHERE s.paused_at IS NULL";
    let params = [(&job as _, Type::TEXT), (&by as _, Type::TEXT), (&reason as _, Type::TEXT)];
    match tx.execute("pause", SQL, &params).await? {
        0 => find(tx, job).await,
        _ => Ok(None),
    }
}

/// Resumes a job, or all. Returns the pause that it ended, if there was one.
pub async fn resume(tx: &Tx<'_>, job: &str) -> Result<Option<Pause>, Error> {
    const LOCK: &str = "SELECT FROM steward.job_state WHERE job = $1 FOR UPDATE";
    const SQL: &str = "
        UPDATE steward.job_state SET paused_by = NULL, paused_at = NULL, paused_reason = NULL
         WHERE job = $1 AND paused_at IS NOT NULL";
    tx.execute("lock the row of a job", LOCK, &[(&job, Type::TEXT)]).await?;
    let ended = find(tx, job).await?;
    if ended.is_some() {
        tx.execute("resume", SQL, &[(&job, Type::TEXT)]).await?;
    }
    Ok(ended)
}
