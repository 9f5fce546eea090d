//! `steward.job_runs` and `steward.job_state`: the fire ledger.
//!
//! One row per job and due instant (made by [`claims`](super::claims)), which ends in exactly one state. A run may write only while its
//! row carries its epoch and an unexpired lease ([`fence`]); taking a run over raises the epoch
//! under `FOR UPDATE`, which waits for a fenced transaction that is just committing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::audit;
use crate::config::JobName;
use crate::db::{Conn, Error, Kind, Tx, TxOptions};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Skipped,
    Lost,
}

impl RunState {
    /// The value of `job_runs.state` and of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Succeeded => "succeeded",
            RunState::Failed => "failed",
            RunState::TimedOut => "timed_out",
            RunState::Cancelled => "cancelled",
            RunState::Skipped => "skipped",
            RunState::Lost => "lost",
        }
    }
}

/// How a run ended, for its row.
#[derive(Debug, Clone)]
pub struct RunResult {
    pub state: RunState,
    pub reason: Option<String>,
    pub rows: i64,
    pub error: Option<String>,
    pub detail: serde_json::Value,
    /// How often it was tried.
    pub attempts: i32,
    /// Whether its effect could commit only while it held its lease; `None` where nothing was tried.
    pub fenced: Option<bool>,
    /// The server process that may still work for it: the job waits until that is gone.
    pub quarantine: Option<Backend>,
    /// What it could not do for want of a privilege or an index. Not in the row: the detail has it.
    pub warnings: Vec<String>,
}

/// A job's row, as it was when the job was registered.
#[derive(Debug, Clone, PartialEq)]
pub struct RegisteredJob {
    pub job: String,
    /// Up to which it is accounted for.
    pub watermark: DateTime<Utc>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Instants above the watermark that have a row already: the database's clock was set back. At most
    /// [`ABOVE_MAX`].
    pub above: Vec<DateTime<Utc>>,
}

/// More than are ever run before somebody notices that the clock is wrong.
const ABOVE_MAX: i64 = 10_000;

/// Makes the row of a job that is seen for the first time; its watermark is now, so that nothing before
/// is due. So it is when its schedule changed: the part of `spec_hash` before the dash. Returns every
/// job's row. A row that is as it should be is not touched: it may be locked by a run that commits.
pub async fn register(
    conn: &mut Conn,
    jobs: &[(JobName, String)],
    bound: Duration,
) -> Result<Vec<RegisteredJob>, Error> {
    const SQL: &str = "
        INSERT INTO steward.job_state AS s (job, first_seen, claimed_floor, spec_hash, spec_seen_at)
        SELECT job, now(), now(), hash, now() FROM unnest($1::text[], $2::text[]) AS n (job, hash)
         WHERE NOT EXISTS (SELECT FROM steward.job_state k WHERE k.job = n.job AND k.spec_hash = n.hash)
         ORDER BY job
        ON CONFLICT (job) DO UPDATE
           SET spec_hash = excluded.spec_hash, spec_seen_at = now(),
               claimed_floor = CASE WHEN split_part(s.spec_hash, '-', 1) = split_part(excluded.spec_hash, '-', 1)
                                    THEN s.claimed_floor ELSE greatest(s.claimed_floor, now()) END
         WHERE s.spec_hash IS DISTINCT FROM excluded.spec_hash";
    const ROWS: &str = "
        SELECT s.job, s.claimed_floor, s.last_success_at,
               ARRAY(SELECT r.due_at FROM steward.job_runs r
                      WHERE r.job = s.job AND r.due_at > s.claimed_floor AND r.kind <> 'manual'
                      ORDER BY r.due_at LIMIT $2)
          FROM steward.job_state s WHERE s.job = ANY ($1::text[])";
    let (names, hashes): (Vec<&str>, Vec<&str>) =
        jobs.iter().map(|(name, hash)| (name.as_str(), hash.as_str())).unzip();
    let (names, hashes) = (&names, &hashes);
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            tx.execute(
                "register jobs",
                SQL,
                &[(names, Type::TEXT_ARRAY), (hashes, Type::TEXT_ARRAY)],
            )
            .await?;
            let rows = tx
                .rows(
                    "read the rows of jobs",
                    ROWS,
                    &[(names, Type::TEXT_ARRAY), (&ABOVE_MAX, Type::INT8)],
                )
                .await?;
            Ok(rows
                .iter()
                .map(|row| RegisteredJob {
                    job: row.get(0),
                    watermark: row.get(1),
                    last_success_at: row.get(2),
                    above: row.get(3),
                })
                .collect())
        })
    })
    .await
}

/// Fails unless this run still holds its lease under this epoch; keeps it from being taken over
/// until the transaction ends. First statement of every write transaction of a job.
pub async fn fence(tx: &Tx<'_>, run_id: Uuid, epoch: i64) -> Result<(), Error> {
    const SQL: &str = "
        SELECT FROM steward.job_runs
         WHERE id = $1 AND epoch = $2 AND state = 'running' AND lease_until > clock_timestamp()
           FOR KEY SHARE";
    match tx
        .row_opt("check the run's lease", SQL, &[(&run_id, Type::UUID), (&epoch, Type::INT8)])
        .await?
    {
        Some(_) => Ok(()),
        None => Err(fenced_off()),
    }
}

fn fenced_off() -> Error {
    Error::new(Kind::Fenced, "this run no longer holds its lease; nothing was written")
}

/// A run that is still ours, and who wants it cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewedLease {
    pub id: Uuid,
    pub cancel_by: Option<String>,
}

/// Extends the leases of these runs, and says which of them are still ours. One that is just recording its
/// end is not waited for: it may take long over its commit, and the leases of the others would pass.
pub async fn renew(
    conn: &mut Conn,
    runs: &[(Uuid, i64)],
    lease: Duration,
    bound: Duration,
) -> Result<Vec<RenewedLease>, Error> {
    const SQL: &str = "
        WITH ours AS MATERIALIZED (
            SELECT r.id, r.cancel_by
              FROM steward.job_runs r JOIN unnest($1::uuid[], $2::bigint[]) AS n (id, epoch) ON r.id = n.id
             WHERE r.epoch = n.epoch AND r.state = 'running'
        ), free AS MATERIALIZED (
            SELECT r.id FROM steward.job_runs r JOIN ours ON r.id = ours.id
             WHERE r.state = 'running' FOR NO KEY UPDATE OF r SKIP LOCKED
        ), renewed AS (
            UPDATE steward.job_runs r SET lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
              FROM free WHERE r.id = free.id
        )
        SELECT id, cancel_by FROM ours";
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = runs.iter().copied().unzip();
    let (ids, epochs) = (&ids, &epochs);
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params = [
                (ids as _, Type::UUID_ARRAY),
                (epochs as _, Type::INT8_ARRAY),
                (&lease_ms as _, Type::INT8),
            ];
            let rows = tx.rows("renew the leases of runs", SQL, &params).await?;
            Ok(rows
                .iter()
                .map(|row| RenewedLease { id: row.get(0), cancel_by: row.get(1) })
                .collect())
        })
    })
    .await
}

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is worked on: `schema.table`.
    pub object: String,
    /// Objects that are done, and all.
    pub done: u64,
    pub total: u64,
    /// What is done to it: `vacuum`, `deleting` …
    pub note: String,
}

/// Notes how far runs have come, for whoever looks from elsewhere. Rows that are locked are passed over: the next
/// time will do.
pub async fn save_progress(
    conn: &mut Conn,
    runs: &[(Uuid, i64, Progress)],
    bound: Duration,
) -> Result<(), Error> {
    const SQL: &str = "
        WITH free AS MATERIALIZED (
            SELECT r.id, n.progress
              FROM steward.job_runs r
              JOIN unnest($1::uuid[], $2::bigint[], $3::text[]) AS n (id, epoch, progress)
                ON n.id = r.id AND n.epoch = r.epoch
             WHERE r.state = 'running' FOR NO KEY UPDATE OF r SKIP LOCKED
        )
        UPDATE steward.job_runs r SET progress = free.progress::jsonb FROM free WHERE r.id = free.id";
    let ids: &Vec<Uuid> = &runs.iter().map(|(id, ..)| *id).collect();
    let epochs: &Vec<i64> = &runs.iter().map(|(_, epoch, _)| *epoch).collect();
    let progress: &Vec<String> =
        &runs.iter().map(|(.., progress)| json!(progress).to_string()).collect();
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params = [
                (ids as _, Type::UUID_ARRAY),
                (epochs as _, Type::INT8_ARRAY),
                (progress as _, Type::TEXT_ARRAY),
            ];
            tx.execute("note the progress of runs", SQL, &params).await?;
            Ok(())
        })
    })
    .await
}

/// The server process that works for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    pub pid: i32,
    /// Since the Unix epoch, in microseconds: with the pid, it names one process for ever.
    pub start_us: i64,
}

/// Notes how a run goes about its work, before it begins: fenced or not, and where it can be known,
/// the process that works for it. Fails when the run is not ours any more, as the fence does.
pub async fn record_unfenced(
    conn: &mut Conn,
    id: Uuid,
    epoch: i64,
    backend: Option<Backend>,
    bound: Duration,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE steward.job_runs
           SET fenced = false, backend_pid = $3,
               backend_start = to_timestamp(0) + $4::bigint * interval '1 microsecond'
         WHERE id = $1 AND epoch = $2 AND state = 'running' AND lease_until > clock_timestamp()";
    let (pid, start) =
        (backend.map(|backend| backend.pid), backend.map(|backend| backend.start_us));
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params = [
                (&id as _, Type::UUID),
                (&epoch as _, Type::INT8),
                (&pid as _, Type::INT4),
                (&start as _, Type::INT8),
            ];
            match tx.execute("note that a run is not fenced", SQL, &params).await? {
                0 => Err(fenced_off()),
                _ => Ok(()),
            }
        })
    })
    .await
}

/// A run whose end is to be written.
#[derive(Debug, Clone)]
pub struct FinishedRun {
    pub job: JobName,
    pub id: Uuid,
    pub epoch: i64,
    pub result: RunResult,
    /// Whether the job is paused since it failed (`on_failure = "pause"`).
    pub pause_job: bool,
}

/// Ends a run: its state, and its slot freed, in one transaction. False when the run was no longer
/// ours to end. The row lock comes first, as in [`reap`](super::orphans::reap): it waits for a transaction of the run that
/// may still be committing, and the raised epoch refuses any that begins later.
///
/// # Errors
/// Of [`Kind::LockTimeout`] when a transaction of the run stays open on the server: it has ended only
/// when that has.
///
/// `patience` is how long that lock is waited for.
pub async fn finish(
    conn: &mut Conn,
    ended: &FinishedRun,
    patience: Duration,
    bound: Duration,
) -> Result<bool, Error> {
    const LOCK: &str = "
        SELECT FROM steward.job_runs WHERE id = $1 AND epoch = $2 AND state = 'running' FOR UPDATE";
    conn.transaction(&TxOptions::within(bound).lock_timeout(patience), |tx| {
        Box::pin(async move {
            let run = [(&ended.id as _, Type::UUID), (&ended.epoch as _, Type::INT8)];
            if tx.row_opt("lock a run", LOCK, &run).await?.is_none() {
                return Ok(false);
            }
            finish_in(tx, ended).await
        })
    })
    .await
}

/// The same, in a transaction that holds the run's [`fence`]: the effect and its record commit
/// together.
pub async fn finish_in(tx: &Tx<'_>, ended: &FinishedRun) -> Result<bool, Error> {
    const SQL: &str = "
        WITH ended AS (
            UPDATE steward.job_runs
               SET epoch = epoch + 1, state = $3, reason = $4, rows_affected = $5, error = $6, detail = $7,
                   attempts = greatest(attempts, $8), fenced = coalesce(fenced, $9),
                   backend_pid = coalesce($10, backend_pid),
                   backend_start = coalesce(to_timestamp(0) + $11::bigint * interval '1 microsecond', backend_start),
                   finished_at = clock_timestamp(), lease_until = NULL
             WHERE id = $1 AND epoch = $2 AND state = 'running'
            RETURNING id, job, state
        )
        UPDATE steward.job_state s
           SET running_run_id = NULL, running_since = NULL,
               last_state = e.state, last_finished_at = clock_timestamp(),
               last_success_at = CASE WHEN e.state = 'succeeded' THEN clock_timestamp() ELSE s.last_success_at END,
               consecutive_failures = CASE WHEN e.state = 'succeeded' THEN 0
                                           WHEN e.state IN ('failed', 'timed_out') THEN s.consecutive_failures + 1
                                           ELSE s.consecutive_failures END,
               succeeded_total = s.succeeded_total + (e.state = 'succeeded')::int,
               failed_total = s.failed_total + (e.state IN ('failed', 'timed_out'))::int,
               skipped_total = s.skipped_total + (e.state = 'skipped')::int,
               quarantined_run_id = CASE WHEN $10 IS NOT NULL THEN e.id ELSE s.quarantined_run_id END,
               paused_by = CASE WHEN $12 THEN coalesce(s.paused_by, 'on_failure') ELSE s.paused_by END,
               paused_at = CASE WHEN $12 THEN coalesce(s.paused_at, now()) ELSE s.paused_at END,
               paused_reason = CASE WHEN $12 AND s.paused_at IS NULL THEN format('run %s failed', e.id) ELSE s.paused_reason END
          FROM ended e WHERE s.job = e.job AND s.running_run_id = e.id
        -- The time of this transaction: it was not paused before.
        RETURNING $12 AND s.paused_at = now()";
    let FinishedRun { id, epoch, result, pause_job, .. } = ended;
    let state = result.state.as_str();
    let (pid, start) = (
        result.quarantine.map(|backend| backend.pid),
        result.quarantine.map(|backend| backend.start_us),
    );
    let params = [
        (id as _, Type::UUID),
        (epoch as _, Type::INT8),
        (&state as _, Type::TEXT),
        (&result.reason as _, Type::TEXT),
        (&result.rows as _, Type::INT8),
        (&result.error as _, Type::TEXT),
        (&result.detail as _, Type::JSONB),
        (&result.attempts as _, Type::INT4),
        (&result.fenced as _, Type::BOOL),
        (&pid as _, Type::INT4),
        (&start as _, Type::INT8),
        (pause_job as _, Type::BOOL),
    ];
    let Some(row) = tx.row_opt("end a run", SQL, &params).await? else { return Ok(false) };
    if row.get::<_, Option<bool>>(0) == Some(true) {
        let details = json!({ "run_id": id, "state": state });
        audit::record(
            tx,
            &audit::Event::new("on_failure", "job.paused", "job", ended.job.as_str(), &details),
        )
        .await?;
    }
    Ok(true)
}

/// How a run stands now, by its row.
pub async fn read_state(
    conn: &mut Conn,
    id: Uuid,
    bound: Duration,
) -> Result<Option<String>, Error> {
    const SQL: &str = "SELECT state FROM steward.job_runs WHERE id = $1";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            Ok(tx
                .row_opt("read the state of a run", SQL, &[(&id, Type::UUID)])
                .await?
                .map(|row| row.get(0)))
        })
    })
    .await
}
