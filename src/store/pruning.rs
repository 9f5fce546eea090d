//! The history of one job, kept to a bound by count, whatever the retention by age.
//!
//! Of a job that runs often, successes are thinned out as they get older, so that the same number of
//! rows reaches further back: all of the last ten minutes, one a minute for six hours, one an hour
//! before that. Failures are never thinned out, and are counted apart from successes. How many there
//! were is kept in `job_state`.

use std::time::Duration;

use tokio_postgres::types::Type;

use crate::db::{Conn, Error, TxOptions};

/// How many rows one call deletes at most.
const ROWS_MAX: i64 = 10_000;

/// Thins out and bounds a job's history. Returns how many rows it deleted.
///
/// Never an open run, and never one of the plan above the job's floor: the ledger's unique row is what
/// keeps an instant from being fired twice, and below the floor nothing fires any more.
pub async fn prune_job(
    conn: &mut Conn,
    job: &str,
    keep: i64,
    bound: Duration,
) -> Result<u64, Error> {
    const SQL: &str = "
        WITH kept AS (
            SELECT (SELECT due_at FROM steward.job_runs
                     WHERE job = $1 AND state IN ('succeeded', 'skipped', 'cancelled')
                     ORDER BY due_at DESC OFFSET $2 LIMIT 1) AS fine,
                   (SELECT due_at FROM steward.job_runs
                     WHERE job = $1 AND state IN ('failed', 'timed_out', 'lost')
                     ORDER BY due_at DESC OFFSET $2 LIMIT 1) AS failed,
                   (SELECT claimed_floor FROM steward.job_state WHERE job = $1) AS floor
        ), thinned AS (
            SELECT id, row_number() OVER (
                       PARTITION BY due_at < now() - interval '6 hours',
                                    date_trunc(CASE WHEN due_at < now() - interval '6 hours' THEN 'hour' ELSE 'minute' END, due_at)
                       ORDER BY due_at) AS place
              FROM steward.job_runs
             WHERE job = $1 AND state = 'succeeded' AND kind = 'scheduled' AND due_at < now() - interval '10 minutes'
        )
        DELETE FROM steward.job_runs WHERE id = ANY (ARRAY(
            SELECT r.id FROM steward.job_runs r CROSS JOIN kept
             WHERE r.job = $1 AND (r.kind = 'manual' OR coalesce(r.last_due_at, r.due_at) <= kept.floor)
               AND (r.state IN ('succeeded', 'skipped', 'cancelled') AND r.due_at <= kept.fine
                    OR r.state IN ('failed', 'timed_out', 'lost') AND r.due_at <= kept.failed
                    OR r.id IN (SELECT id FROM thinned WHERE place > 1))
             LIMIT $3 FOR UPDATE OF r SKIP LOCKED))";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params =
                [(&job as _, Type::TEXT), (&keep as _, Type::INT8), (&ROWS_MAX as _, Type::INT8)];
            tx.execute("bound the history of a job", SQL, &params).await
        })
    })
    .await
}
