//! The pause of all jobs of a database: a row of `steward.job_state` that every instance reads.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, Tx, TxOptions};

/// The row of `job_state` that stands for all jobs.
pub const ALL_JOBS: &str = "*";

/// Who paused all jobs, and when.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pause {
    pub by: String,
    pub at: DateTime<Utc>,
    pub reason: Option<String>,
}

/// Whether all jobs are paused in the database.
pub async fn read(conn: &mut Conn, bound: Duration) -> Result<Option<Pause>, Error> {
    const SQL: &str = "
        SELECT coalesce(paused_by, 'unknown'), paused_at, paused_reason
          FROM steward.job_state WHERE job = '*' AND paused_at IS NOT NULL";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let row = tx.row_opt("read the pause flag", SQL, &[]).await?;
            Ok(row.map(|row| Pause { by: row.get(0), at: row.get(1), reason: row.get(2) }))
        })
    })
    .await
}

/// Pauses all jobs of the database, or resumes them. Running ones go on. True when that changed
/// anything.
pub async fn set(tx: &Tx<'_>, paused: bool, by: &str, reason: Option<&str>) -> Result<bool, Error> {
    const PAUSE: &str = "
        INSERT INTO steward.job_state AS s (job, first_seen, claimed_floor, paused_by, paused_at, paused_reason)
        VALUES ('*', now(), now(), $1, now(), $2)
        ON CONFLICT (job) DO UPDATE SET paused_by = $1, paused_at = now(), paused_reason = $2
         WHERE s.paused_at IS NULL";
    const RESUME: &str = "
        UPDATE steward.job_state SET paused_by = NULL, paused_at = NULL, paused_reason = NULL
         WHERE job = '*' AND paused_at IS NOT NULL";
    let changed = if paused {
        tx.execute("pause all jobs", PAUSE, &[(&by, Type::TEXT), (&reason, Type::TEXT)]).await?
    } else {
        tx.execute("resume all jobs", RESUME, &[]).await?
    };
    Ok(changed > 0)
}
