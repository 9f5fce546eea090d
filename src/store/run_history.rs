//! The history in the fire ledger: pruned by age, and asked for what a job did last, for one run, and for
//! how each job stands.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Conn, Error, Tx, TxOptions};

/// Deletes at most `limit` ended runs, the oldest first; failures stay twice as long.
///
/// Never an open run, and never one above its job's floor: the ledger's unique row is what keeps an
/// instant from being fired twice, and below the floor nothing fires any more. What was asked for is
/// no instant of the plan; and the floor of a job without a plan stays where it is.
///
/// `cutoff` and `cutoff_failed` are instants as ISO text. Returns how many it deleted.
pub async fn prune(
    tx: &Tx<'_>,
    cutoff: &str,
    cutoff_failed: &str,
    limit: i64,
) -> Result<u64, Error> {
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
    let params: [crate::db::Param<'_>; 3] =
        [(&cutoff, Type::TEXT), (&cutoff_failed, Type::TEXT), (&limit, Type::INT8)];
    tx.execute("prune job history", sql, &params).await
}

/// The detail of the job's last run that ended by itself, as a whole or in part.
pub async fn last_detail(tx: &Tx<'_>, job: &str) -> Result<Option<Value>, Error> {
    let sql = "
        SELECT detail FROM steward.job_runs
         WHERE job = $1 AND state IN ('succeeded', 'failed') AND options IS NULL AND jsonb_typeof(detail) = 'object'
         ORDER BY due_at DESC
         LIMIT 1";
    Ok(tx
        .row_opt("read the last run's detail", sql, &[(&job, Type::TEXT)])
        .await?
        .map(|row| row.get(0)))
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
               s.consecutive_failures::bigint
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

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunEntry {
    pub id: Uuid,
    pub job: String,
    /// `scheduled`, `chained`, `manual` or `missed`.
    pub kind: String,
    /// The instant; of a missed range the first.
    pub due_at: DateTime<Utc>,
    /// Of a missed range: the last instant, and how many.
    pub last_due_at: Option<DateTime<Utc>>,
    pub missed_count: Option<i32>,
    /// `queued`, `running`, or how it ended.
    pub state: String,
    pub reason: Option<String>,
    pub actor: Option<String>,
    pub instance: Option<String>,
    pub attempts: i32,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    /// From its start to its end, where it had both.
    pub duration_ms: Option<i64>,
    pub rows_affected: Option<i64>,
    pub error: Option<String>,
    /// False: at least once. Absent until it is known.
    pub fenced: Option<bool>,
    pub cancel_by: Option<String>,
    pub detail: Option<Value>,
    /// Of a run under way: how far it was when its lease was renewed last.
    pub progress: Option<Value>,
}

impl RunEntry {
    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running")
    }

    fn of(row: &Row) -> RunEntry {
        RunEntry {
            id: row.get(0),
            job: row.get(1),
            kind: row.get(2),
            due_at: row.get(3),
            last_due_at: row.get(4),
            missed_count: row.get(5),
            state: row.get(6),
            reason: row.get(7),
            actor: row.get(8),
            instance: row.get(9),
            attempts: row.get(10),
            started_at: row.get(11),
            finished_at: row.get(12),
            duration_ms: row.get(13),
            rows_affected: row.get(14),
            error: row.get(15),
            fenced: row.get(16),
            cancel_by: row.get(17),
            detail: row.get(18),
            progress: row.get(19),
        }
    }
}

/// The columns of an [`RunEntry`], of a row `r`.
const ENTRY: &str = "
    r.id, r.job, r.kind, r.due_at, r.last_due_at, r.missed_count, r.state, r.reason, r.actor, r.instance,
    r.attempts, r.started_at, r.finished_at,
    (extract(epoch FROM r.finished_at - r.started_at) * 1000)::bigint,
    r.rows_affected, r.error, r.fenced, r.cancel_by, nullif(r.detail, 'null'),
    CASE WHEN r.state = 'running' THEN r.progress END";

/// The newest rows of a job, newest first; `failed` leaves out all but failed, timed out and lost ones.
pub async fn list_for_job(
    conn: &mut Conn,
    job: &str,
    failed: bool,
    limit: i64,
    bound: Duration,
) -> Result<Vec<RunEntry>, Error> {
    let sql = &format!(
        "SELECT {ENTRY} FROM steward.job_runs r
          WHERE r.job = $1 AND (NOT $2 OR r.state IN ('failed', 'timed_out', 'lost'))
          ORDER BY r.due_at DESC LIMIT $3"
    );
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let params =
                [(&job as _, Type::TEXT), (&failed as _, Type::BOOL), (&limit as _, Type::INT8)];
            Ok(tx
                .rows("read the history of a job", sql, &params)
                .await?
                .iter()
                .map(RunEntry::of)
                .collect())
        })
    })
    .await
}

/// One run's row.
pub async fn read_run(
    conn: &mut Conn,
    id: Uuid,
    bound: Duration,
) -> Result<Option<RunEntry>, Error> {
    let sql = &format!("SELECT {ENTRY} FROM steward.job_runs r WHERE r.id = $1");
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            Ok(tx
                .row_opt("read a run", sql, &[(&id, Type::UUID)])
                .await?
                .as_ref()
                .map(RunEntry::of))
        })
    })
    .await
}

/// The runs with an id from `first` to `last`, newest first, at most `limit`: ids are made in the order of time.
pub async fn between(
    conn: &mut Conn,
    (first, last): (Uuid, Uuid),
    limit: i64,
    bound: Duration,
) -> Result<Vec<RunEntry>, Error> {
    let sql = &format!(
        "SELECT {ENTRY} FROM steward.job_runs r WHERE r.id BETWEEN $1 AND $2 ORDER BY r.id DESC LIMIT $3"
    );
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let params =
                [(&first as _, Type::UUID), (&last as _, Type::UUID), (&limit as _, Type::INT8)];
            Ok(tx
                .rows("look for runs by their ids", sql, &params)
                .await?
                .iter()
                .map(RunEntry::of)
                .collect())
        })
    })
    .await
}
