//! How every job of a database stands, in one statement: for people who look.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Conn, Error, Tx, TxOptions};

use super::pauses::{self, ALL_JOBS, Pause};
use super::requests;

/// Everything that the ledger says of a database's jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overview {
    pub jobs: Vec<JobSummary>,
    /// Set when all jobs are paused.
    pub paused: Option<Pause>,
    /// The instance that observes, and runs what is due.
    pub leader: Option<String>,
}

/// A job, by its row.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JobSummary {
    #[serde(skip)]
    pub name: String,
    /// The specification that the instances go by.
    #[serde(skip)]
    pub spec_hash: Option<String>,
    pub paused: Option<Pause>,
    pub running: Option<OpenRun>,
    pub queued: Option<OpenRun>,
    /// The former run that may still work on the server: the job waits until it does not.
    pub quarantined: Option<Uuid>,
    pub last: Option<LastFinished>,
    pub last_success_at: Option<DateTime<Utc>>,
    pub consecutive_failures: i32,
    pub succeeded_total: i64,
    pub failed_total: i64,
    pub skipped_total: i64,
    /// Of the succeeded runs in the history; absent where there is none.
    pub average_ms: Option<f64>,
    pub p95_ms: Option<f64>,
}

/// A run that waits or is under way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OpenRun {
    pub id: Uuid,
    /// When it began; of one that waits, when it was asked for or due.
    pub since: DateTime<Utc>,
    /// Where it runs.
    pub instance: Option<String>,
    pub actor: Option<String>,
}

/// The newest row that has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastFinished {
    pub id: Uuid,
    pub state: String,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub finished_at: DateTime<Utc>,
    pub duration_ms: Option<i64>,
    pub rows_affected: Option<i64>,
}

/// How a job's durations are judged: by so many of its newest succeeded runs at most.
const DURATIONS_MAX: i64 = 1_000;

/// Looks at all jobs.
pub async fn read(conn: &mut Conn, bound: Duration) -> Result<Overview, Error> {
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let paused = pauses::find(tx, ALL_JOBS).await?;
            let leader = requests::current_leader(tx).await?;
            Ok(Overview { jobs: jobs(tx, None).await?, paused, leader })
        })
    })
    .await
}

/// Looks at one.
pub async fn job(tx: &Tx<'_>, name: &str) -> Result<Option<JobSummary>, Error> {
    Ok(jobs(tx, Some(name)).await?.pop())
}

async fn jobs(tx: &Tx<'_>, name: Option<&str>) -> Result<Vec<JobSummary>, Error> {
    const SQL: &str = "
        SELECT s.job, s.spec_hash, s.paused_by, s.paused_at, s.paused_reason,
               s.running_run_id, s.running_since, running.instance, running.actor,
               s.queued_run_id, queued.due_at, queued.actor,
               s.quarantined_run_id,
               last.id, last.state, last.reason, last.error, last.finished_at,
               (extract(epoch FROM last.finished_at - last.started_at) * 1000)::bigint, last.rows_affected,
               s.last_success_at, s.consecutive_failures, s.succeeded_total, s.failed_total, s.skipped_total,
               took.average, took.p95
          FROM steward.job_state s
          LEFT JOIN steward.job_runs running ON running.id = s.running_run_id
          LEFT JOIN steward.job_runs queued ON queued.id = s.queued_run_id
          LEFT JOIN LATERAL (
               SELECT r.* FROM steward.job_runs r
                WHERE r.job = s.job AND r.finished_at IS NOT NULL ORDER BY r.due_at DESC LIMIT 1) last ON true
          LEFT JOIN LATERAL (
               SELECT avg(ms)::float8 AS average,
                      (percentile_cont(0.95) WITHIN GROUP (ORDER BY ms))::float8 AS p95
                 FROM (SELECT extract(epoch FROM r.finished_at - r.started_at)::float8 * 1000 AS ms
                         FROM steward.job_runs r
                        WHERE r.job = s.job AND r.state = 'succeeded'
                        ORDER BY r.due_at DESC LIMIT $3) newest) took ON true
         WHERE s.job <> $1 AND ($2::text IS NULL OR s.job = $2)
         ORDER BY s.job";
    let params =
        [(&ALL_JOBS as _, Type::TEXT), (&name as _, Type::TEXT), (&DURATIONS_MAX as _, Type::INT8)];
    Ok(tx.rows("look at the jobs", SQL, &params).await?.iter().map(of_row).collect())
}

fn of_row(row: &Row) -> JobSummary {
    let open = |id: Option<Uuid>, since: Option<DateTime<Utc>>, instance, actor| {
        // A slot whose row is gone is mended by whoever observes.
        id.zip(since).map(|(id, since)| OpenRun { id, since, instance, actor })
    };
    let paused_at: Option<DateTime<Utc>> = row.get(3);
    let by = row.get::<_, Option<String>>(2).unwrap_or_default();
    let last_id: Option<Uuid> = row.get(13);
    JobSummary {
        name: row.get(0),
        spec_hash: row.get(1),
        paused: paused_at.map(|at| Pause { by, at, reason: row.get(4) }),
        running: open(row.get(5), row.get(6), row.get(7), row.get(8)),
        queued: open(row.get(9), row.get(10), None, row.get(11)),
        quarantined: row.get(12),
        last: last_id.map(|id| LastFinished {
            id,
            state: row.get(14),
            reason: row.get(15),
            error: row.get(16),
            finished_at: row.get(17),
            duration_ms: row.get(18),
            rows_affected: row.get(19),
        }),
        last_success_at: row.get(20),
        consecutive_failures: row.get(21),
        succeeded_total: row.get(22),
        failed_total: row.get(23),
        skipped_total: row.get(24),
        average_ms: row.get(25),
        p95_ms: row.get(26),
    }
}
