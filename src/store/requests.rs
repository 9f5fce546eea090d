//! What people ask of jobs: run now, cancel. Asked for through the ledger, by any process that can
//! reach the database; heard by the instance that observes, which looks each second.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{Json, Type};
use uuid::Uuid;

use crate::db::{Conn, Error, Kind, Tx};

use super::leases::LEADER_LEASE;
use super::pauses::{self, ALL_JOBS, Pause};

/// Everything that waits to be heard.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PendingRequests {
    /// Runs that wait for their job's slot: asked for, or queued by their schedule.
    pub queued: Vec<QueuedRun>,
    /// Runs under way that somebody wants cancelled.
    pub cancel: Vec<CancelRequest>,
    /// When each of the jobs that others follow succeeded last.
    pub succeeded: Vec<LastSuccess>,
}

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QueuedRun {
    pub job: String,
    pub id: Uuid,
    pub due_at: DateTime<Utc>,
    pub manual: bool,
}

/// A run that is to be cancelled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CancelRequest {
    pub id: Uuid,
    pub by: String,
}

/// A job's last success.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LastSuccess {
    pub job: String,
    pub at: DateTime<Utc>,
}

/// Listens: one statement, one round trip. `upstream_jobs` are the jobs that others follow.
pub async fn poll_requests(
    conn: &Conn,
    upstream_jobs: &[String],
    bound: Duration,
) -> Result<PendingRequests, Error> {
    let upstream_jobs: Vec<String> =
        upstream_jobs.iter().map(|job| crate::db::quote_literal(job)).collect();
    let sql = format!(
        "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = {}; \
         SET LOCAL timezone = 'UTC'; \
         SELECT json_build_object( \
           'queued', coalesce((SELECT json_agg(json_build_object( \
                'job', job, 'id', id, 'due_at', due_at, 'manual', kind = 'manual')) \
              FROM steward.job_runs WHERE state = 'queued'), '[]'), \
           'cancel', coalesce((SELECT json_agg(json_build_object('id', id, 'by', cancel_by)) \
              FROM steward.job_runs WHERE state = 'running' AND cancel_by IS NOT NULL), '[]'), \
           'succeeded', coalesce((SELECT json_agg(json_build_object('job', job, 'at', last_success_at)) \
              FROM steward.job_state \
             WHERE job = ANY (ARRAY[{}]::text[]) AND last_success_at IS NOT NULL), '[]')); \
         COMMIT",
        bound.as_millis().clamp(1, i32::MAX as u128),
        upstream_jobs.join(", "),
    );
    let values = conn.batch_values("listen for requests", &sql).await?;
    let text = values.first().and_then(Option::as_deref).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| {
        Error::new(Kind::Protocol, format!("the server answered a request for JSON with {error}"))
    })
}

/// A job's row, as it was when a run was asked for: what a claim of that run goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    pub watermark: DateTime<Utc>,
    /// The specification that the instances go by; absent where none has registered the job.
    pub spec_hash: Option<String>,
}

/// What asking for a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnqueueResult {
    /// It waits under this id.
    Queued { id: Uuid, slot: Slot },
    /// One waits already.
    AlreadyQueued { id: Uuid },
    /// The job is paused, or `all` are.
    Paused { pause: Pause, all: bool },
    /// No instance has registered a job of this name; these are known.
    Unknown { known: Vec<String> },
}

/// What a caller wants of one run otherwise than the configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Only these, of what the job would treat: `schema.table`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
    /// How long rows are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_days: Option<u32>,
    /// Whether that may be shorter than what is configured when it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_shorten: bool,
}

impl RunOptions {
    /// Whether an object is to be treated.
    pub fn covers(&self, name: &str) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.iter().any(|table| table == name))
    }
}

/// What was wanted of a run; nothing special where it was not asked for.
pub async fn options(tx: &Tx<'_>, run: Uuid) -> Result<RunOptions, Error> {
    const SQL: &str = "SELECT options FROM steward.job_runs WHERE id = $1 AND options IS NOT NULL";
    let Some(row) = tx.row_opt("read what is wanted of a run", SQL, &[(&run, Type::UUID)]).await?
    else {
        return Ok(RunOptions::default());
    };
    let read = serde_json::from_value(row.get(0));
    // What cannot be read must not be taken for "everything".
    read.map_err(|error| {
        Error::new(Kind::Protocol, format!("the options of run {run} are not understood: {error}"))
    })
}

/// Asks for a run of a job, as a row that waits for the job's slot.
pub async fn enqueue(
    tx: &Tx<'_>,
    job: &str,
    actor: &str,
    options: Option<&RunOptions>,
) -> Result<EnqueueResult, Error> {
    const LOCK: &str = "
        SELECT queued_run_id, claimed_floor, spec_hash FROM steward.job_state
         WHERE job = $1 AND job <> $2 FOR UPDATE";
    const SQL: &str = "
        WITH run AS (
            INSERT INTO steward.job_runs (id, job, kind, due_at, state, actor, options)
            VALUES ($1, $2, 'manual', clock_timestamp(), 'queued', $3, $4) RETURNING id, job
        )
        UPDATE steward.job_state s SET queued_run_id = run.id FROM run WHERE s.job = run.job";
    let Some(row) = tx
        .row_opt("lock the row of a job", LOCK, &[(&job, Type::TEXT), (&ALL_JOBS, Type::TEXT)])
        .await?
    else {
        return Ok(EnqueueResult::Unknown { known: job_names(tx).await? });
    };
    for name in [ALL_JOBS, job] {
        if let Some(pause) = pauses::find(tx, name).await? {
            return Ok(EnqueueResult::Paused { pause, all: name == ALL_JOBS });
        }
    }
    if let Some(id) = row.get(0) {
        return Ok(EnqueueResult::AlreadyQueued { id });
    }
    let id = Uuid::now_v7();
    let params = [
        (&id as _, Type::UUID),
        (&job as _, Type::TEXT),
        (&actor as _, Type::TEXT),
        (&options.map(Json) as _, Type::JSONB),
    ];
    tx.execute("ask for a run", SQL, &params).await?;
    Ok(EnqueueResult::Queued { id, slot: Slot { watermark: row.get(1), spec_hash: row.get(2) } })
}

/// The jobs that instances have registered, by name; at most 500.
pub async fn job_names(tx: &Tx<'_>) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT job FROM steward.job_state WHERE job <> $1 ORDER BY job LIMIT 500";
    let rows = tx.rows("read the names of jobs", SQL, &[(&ALL_JOBS, Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Makes the row of a job that no instance has registered. It has no specification: the first instance
/// that registers the job begins with it then.
pub async fn ensure_job_row(tx: &Tx<'_>, job: &str) -> Result<(), Error> {
    const SQL: &str = "
        INSERT INTO steward.job_state (job, first_seen, claimed_floor) VALUES ($1, now(), now())
        ON CONFLICT (job) DO NOTHING";
    tx.execute("make the row of a job", SQL, &[(&job, Type::TEXT)]).await?;
    Ok(())
}

/// The instance that hears requests: it holds the observer's lease. `None` where nobody does.
pub async fn current_leader(tx: &Tx<'_>) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT holder FROM steward.leases WHERE name = $1 AND expires_at > clock_timestamp()";
    Ok(tx
        .row_opt("read who observes", SQL, &[(&LEADER_LEASE, Type::TEXT)])
        .await?
        .map(|row| row.get(0)))
}

/// What asking for a cancel came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelResult {
    /// It runs on this instance, which is told; `again` where somebody had asked before.
    Requested { job: String, instance: String, again: bool },
    /// It had not begun, and does not any more.
    Dequeued { job: String },
    /// It had ended already.
    AlreadyFinished { job: String, state: String },
    /// There is no such run.
    Unknown,
}

/// Asks for a run to be cancelled; one that waits ends at once.
pub async fn cancel(tx: &Tx<'_>, id: Uuid, actor: &str) -> Result<CancelResult, Error> {
    // Of a run that waits the job's row comes first, as in claims; of one that runs its own does, as in
    // endings: in another order each could wait for the other.
    const WAITS: &str = "SELECT FROM steward.job_runs WHERE id = $1 AND state = 'queued'";
    const JOB: &str = "
        SELECT FROM steward.job_state
         WHERE job = (SELECT job FROM steward.job_runs WHERE id = $1) FOR UPDATE";
    const RUN: &str = "
        SELECT job, state, coalesce(instance, ''), cancel_by IS NOT NULL FROM steward.job_runs
         WHERE id = $1 FOR NO KEY UPDATE";
    const DEQUEUE: &str = "
        WITH run AS (
            UPDATE steward.job_runs
               SET state = 'cancelled', reason = 'requested', cancel_by = $2, finished_at = clock_timestamp(),
                   error = format('cancelled by %s before it began', $2)
             WHERE id = $1 RETURNING id
        )
        UPDATE steward.job_state s SET queued_run_id = NULL FROM run WHERE s.queued_run_id = run.id";
    const MARK: &str =
        "UPDATE steward.job_runs SET cancel_by = coalesce(cancel_by, $2) WHERE id = $1";
    let locked =
        tx.row_opt("look whether a run waits", WAITS, &[(&id, Type::UUID)]).await?.is_some();
    if locked {
        tx.execute("lock the row of a job", JOB, &[(&id, Type::UUID)]).await?;
    }
    let waits =
        tx.row_opt("look whether a run waits", WAITS, &[(&id, Type::UUID)]).await?.is_some();
    if locked && !waits {
        // It began while the lock was waited for: the transaction is run again, in the other order.
        return Err(Error::new(Kind::Conflict, "the run began at this moment"));
    }
    let Some(row) = tx.row_opt("lock a run", RUN, &[(&id, Type::UUID)]).await? else {
        return Ok(CancelResult::Unknown);
    };
    let (job, state, instance): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let params = [(&id as _, Type::UUID), (&actor as _, Type::TEXT)];
    match state.as_str() {
        "queued" => {
            tx.execute("take a run out of the queue", DEQUEUE, &params).await?;
            Ok(CancelResult::Dequeued { job })
        }
        "running" => {
            tx.execute("ask for a cancel", MARK, &params).await?;
            Ok(CancelResult::Requested { job, instance, again: row.get(3) })
        }
        _ => Ok(CancelResult::AlreadyFinished { job, state }),
    }
}
