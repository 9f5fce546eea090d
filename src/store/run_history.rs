//! The history in the fire ledger: pruned by age, and asked for what a job did last.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, Tx, TxOptions};

/// Deletes at most `limit` ended runs, the oldest first; failures stay twice as long.
///
/// Never an open run, and never one above its job's floor: the ledger's unique row is what keeps an
/// instant from being fired twice, and below the floor nothing fires any more. What was asked for is
/// no instant of the plan; and the floor of a job without a plan stays where it is.
///
/// `cutoff` and `cutoff_failed` are instants as ISO text. Returns how many it deleted.
pub async fn prune(tx: &Tx<'_>, cutoff: &str, cutoff_failed: &str, limit: i64) -> Result<u64, Error> {
    let sql = "
        DELETE FROM steward.job_runs
         WHERE id = ANY (ARRAY(
               SELECT r.id
                 FROM steward.job_runs r
                 LEFT JOIN steward.job_state s ON s.job = r.job
                WHERE r.finished_at < $1::timestamptz
                  AND r.state NOT IN ('queued', 'running')
                  AND (r.state IN ('succeeded', 'skipped') OR r.finished_at < $2::timestamptz)
                  AND (s.claimed_floor IS NULL OR r.kind = 'manual'
                       OR coalesce(r.last_due_at, r.due_at) <= s.claimed_floor)
                ORDER BY r.finished_at
                LIMIT $3
                  FOR UPDATE OF r SKIP LOCKED))";
    let params: [crate::db::Param<'_>; 3] = [(&cutoff, Type::TEXT), (&cutoff_failed, Type::TEXT), (&limit, Type::INT8)];
    tx.execute("prune job history", sql, &params).await
}

/// The detail of the job's last run that ended by itself, as a whole or in part.
pub async fn last_detail(tx: &Tx<'_>, job: &str) -> Result<Option<Value>, Error> {
    let sql = "
        SELECT detail FROM steward.job_runs
         WHERE job = $1 AND state IN ('succeeded', 'failed') AND jsonb_typeof(detail) = 'object'
         ORDER BY due_at DESC
         LIMIT 1";
    Ok(tx.row_opt("read the last run's detail", sql, &[(&job, Type::TEXT)]).await?.map(|row| row.get(0)))
}

/// What the last runs of each job came to, for health and metrics after a restart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastRun {
    pub job: String,
    pub state: String,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub finished_at: DateTime<Utc>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Runs in a row that did not succeed, newest first.
    pub failures: i64,
}

/// The newest ended run of each job.
pub async fn last_runs(conn: &mut Conn, bound: Duration) -> Result<Vec<LastRun>, Error> {
    const SQL: &str = "
        SELECT s.job, r.state, r.reason, left(r.error, 1000), r.finished_at, s.last_success_at,
               (SELECT count(*) FROM steward.job_runs f
                 WHERE f.job = s.job AND f.state IN ('failed', 'timed_out', 'lost')
                   AND f.finished_at > coalesce(s.last_success_at, '-infinity'))
          FROM steward.job_state s
          JOIN LATERAL (SELECT * FROM steward.job_runs r
                         WHERE r.job = s.job AND r.finished_at IS NOT NULL
                         ORDER BY r.due_at DESC LIMIT 1) r ON true
         WHERE s.job <> '*'";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let rows = tx.rows("read the last runs", SQL, &[]).await?;
            Ok(rows
                .iter()
                .map(|row| LastRun {
                    job: row.get(0),
                    state: row.get(1),
                    reason: row.get(2),
                    error: row.get(3),
                    finished_at: row.get(4),
                    last_success_at: row.get(5),
                    failures: row.get(6),
                })
                .collect())
        })
    })
    .await
}
