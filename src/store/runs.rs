//! `steward.job_runs` and `steward.job_state`: the fire ledger.
//!
//! One row per job and due instant, which ends in exactly one state. A run may write only while its
//! row carries its epoch and an unexpired lease ([`fence`]); taking a run over raises the epoch
//! under `FOR UPDATE`, which waits for a fenced transaction that is just committing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Conn, Error, Kind, Tx, TxOptions};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Succeeded,
    Failed,
    TimedOut,
    Cancelled,
    Skipped,
    Lost,
}

impl State {
    /// The value of `job_runs.state` and of the metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::TimedOut => "timed_out",
            State::Cancelled => "cancelled",
            State::Skipped => "skipped",
            State::Lost => "lost",
        }
    }
}

/// A due instant to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fire {
    pub job: &'static str,
    pub due_at: DateTime<Utc>,
    pub spec_hash: String,
    /// Recorded as skipped: this instance is paused by its local file.
    pub paused: bool,
}

/// What claiming came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Ours to run.
    Run { id: Uuid, epoch: i64 },
    /// Another instance had it, or it lies below the floor.
    Taken,
    /// Recorded as skipped, with the reason.
    Skipped { id: Uuid, reason: &'static str },
}

/// Instants that passed while nobody ran them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    pub count: i32,
}

/// How a run ended, for its row.
#[derive(Debug, Clone)]
pub struct Ending {
    pub state: State,
    pub reason: Option<String>,
    pub rows: i64,
    pub error: Option<String>,
    pub detail: serde_json::Value,
    /// What it could not do for want of a privilege or an index. Not in the row: the detail has it.
    pub warnings: Vec<String>,
}

/// Makes the row of a job that is seen for the first time; its floor is now, so that nothing before
/// is due. Returns every job's floor.
pub async fn register(
    conn: &mut Conn,
    jobs: &[(&'static str, String)],
    bound: Duration,
) -> Result<Vec<(String, DateTime<Utc>)>, Error> {
    const SQL: &str = "
        INSERT INTO steward.job_state AS s (job, first_seen, claimed_floor, spec_hash, spec_seen_at)
        SELECT job, now(), now(), hash, now() FROM unnest($1::text[], $2::text[]) AS n (job, hash)
        ON CONFLICT (job) DO UPDATE SET spec_hash = excluded.spec_hash, spec_seen_at = now()
         WHERE s.spec_hash IS DISTINCT FROM excluded.spec_hash";
    const FLOORS: &str = "
        SELECT job, claimed_floor FROM steward.job_state WHERE job = ANY ($1::text[])";
    let (names, hashes): (Vec<&str>, Vec<&str>) = jobs.iter().map(|(name, hash)| (*name, hash.as_str())).unzip();
    let (names, hashes) = (&names, &hashes);
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            tx.execute("register jobs", SQL, &[(names, Type::TEXT_ARRAY), (hashes, Type::TEXT_ARRAY)]).await?;
            let rows = tx.rows("read the floors of jobs", FLOORS, &[(names, Type::TEXT_ARRAY)]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
    })
    .await
}

/// Claims one due instant: a unique row, the job's slot taken in the same transaction. Where the
/// slot is held by a run that still lives, or everything is paused, the instant is recorded as
/// skipped.
pub async fn claim(
    conn: &mut Conn,
    fire: &Fire,
    instance: &str,
    lease: Duration,
    bound: Duration,
) -> Result<Claim, Error> {
    const SLOT: &str = "
        SELECT s.running_run_id IS NOT NULL
               AND EXISTS (SELECT FROM steward.job_runs r
                            WHERE r.id = s.running_run_id AND r.state = 'running'),
               s.paused_at IS NOT NULL
               OR EXISTS (SELECT FROM steward.job_state a WHERE a.job = '*' AND a.paused_at IS NOT NULL),
               s.claimed_floor >= $2,
               s.spec_hash = $3
          FROM steward.job_state s WHERE s.job = $1 FOR UPDATE OF s";
    const INSERT: &str = "
        INSERT INTO steward.job_runs
               (id, job, kind, due_at, state, reason, actor, instance, attempts, lease_until, started_at, finished_at, spec_hash)
        VALUES ($1, $2, 'scheduled', $3, $4, $5, 'schedule', $6,
                CASE WHEN $4 = 'running' THEN 1 ELSE 0 END,
                CASE WHEN $4 = 'running' THEN clock_timestamp() + $7::bigint * interval '1 ms' END,
                CASE WHEN $4 = 'running' THEN clock_timestamp() END,
                CASE WHEN $4 <> 'running' THEN clock_timestamp() END, $8)
        ON CONFLICT (job, due_at) DO NOTHING RETURNING epoch";
    const TAKE: &str = "
        UPDATE steward.job_state SET claimed_floor = $3, running_run_id = coalesce($2, running_run_id) WHERE job = $1";
    let id = Uuid::now_v7();
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params = [
                (&fire.job as _, Type::TEXT),
                (&fire.due_at as _, Type::TIMESTAMPTZ),
                (&fire.spec_hash as _, Type::TEXT),
            ];
            let Some(row) = tx.row_opt("read the slot of a job", SLOT, &params).await? else {
                return Err(Error::new(Kind::Protocol, format!("job {:?} has no row in steward.job_state", fire.job)));
            };
            let (busy, paused, below, current): (bool, bool, bool, bool) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            if below || !current {
                return Ok(Claim::Taken);
            }
            let reason = match (paused || fire.paused, busy) {
                (true, _) => Some("paused"),
                (false, true) => Some("overlap"),
                (false, false) => None,
            };
            let state = if reason.is_some() { "skipped" } else { "running" };
            let params = [
                (&id as _, Type::UUID),
                (&fire.job as _, Type::TEXT),
                (&fire.due_at as _, Type::TIMESTAMPTZ),
                (&state as _, Type::TEXT),
                (&reason as _, Type::TEXT),
                (&instance as _, Type::TEXT),
                (&lease_ms as _, Type::INT8),
                (&fire.spec_hash as _, Type::TEXT),
            ];
            let Some(row) = tx.row_opt("claim a due instant", INSERT, &params).await? else {
                return Ok(Claim::Taken);
            };
            let slot = reason.is_none().then_some(id);
            let params =
                [(&fire.job as _, Type::TEXT), (&slot as _, Type::UUID), (&fire.due_at as _, Type::TIMESTAMPTZ)];
            tx.execute("take the slot of a job", TAKE, &params).await?;
            Ok(match reason {
                Some(reason) => Claim::Skipped { id, reason },
                None => Claim::Run { id, epoch: row.get(0) },
            })
        })
    })
    .await
}

/// Records instants that passed while nobody ran them, as one row: first, last, how many, why. The
/// job's floor moves up to the last. False when the first is accounted for already: another
/// instance has looked after them.
pub async fn record_missed(
    conn: &mut Conn,
    job: &str,
    missed: Missed,
    instance: &str,
    bound: Duration,
) -> Result<bool, Error> {
    const RAISE: &str = "
        UPDATE steward.job_state SET claimed_floor = $3 WHERE job = $1 AND claimed_floor < $2";
    const SQL: &str = "
        INSERT INTO steward.job_runs
               (id, job, kind, due_at, last_due_at, missed_count, state, reason, actor, instance, attempts, finished_at)
        VALUES ($1, $2, 'missed', $3, $4, $5, 'skipped', 'misfire', 'schedule', $6, 0, clock_timestamp())
        ON CONFLICT (job, due_at) DO NOTHING";
    let id = Uuid::now_v7();
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let range = [
                (&job as _, Type::TEXT),
                (&missed.first as _, Type::TIMESTAMPTZ),
                (&missed.last as _, Type::TIMESTAMPTZ),
            ];
            if tx.execute("raise the floor of a job", RAISE, &range).await? == 0 {
                return Ok(false);
            }
            let params = [
                (&id as _, Type::UUID),
                (&job as _, Type::TEXT),
                (&missed.first as _, Type::TIMESTAMPTZ),
                (&missed.last as _, Type::TIMESTAMPTZ),
                (&missed.count as _, Type::INT4),
                (&instance as _, Type::TEXT),
            ];
            Ok(tx.execute("record missed instants", SQL, &params).await? > 0)
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
    match tx.row_opt("check the run's lease", SQL, &[(&run_id, Type::UUID), (&epoch, Type::INT8)]).await? {
        Some(_) => Ok(()),
        None => Err(Error::new(Kind::Fenced, "this run no longer holds its lease; nothing was written")),
    }
}

/// Extends the leases of these runs, and says which of them are still ours.
pub async fn renew(
    conn: &mut Conn,
    runs: &[(Uuid, i64)],
    lease: Duration,
    bound: Duration,
) -> Result<Vec<Uuid>, Error> {
    const SQL: &str = "
        UPDATE steward.job_runs r SET lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
          FROM unnest($1::uuid[], $2::bigint[]) AS n (id, epoch)
         WHERE r.id = n.id AND r.epoch = n.epoch AND r.state = 'running'
        RETURNING r.id";
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = runs.iter().copied().unzip();
    let (ids, epochs) = (&ids, &epochs);
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let params = [(ids as _, Type::UUID_ARRAY), (epochs as _, Type::INT8_ARRAY), (&lease_ms as _, Type::INT8)];
            let rows = tx.rows("renew the leases of runs", SQL, &params).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
    })
    .await
}

/// Ends a run: its state, and its slot freed, in one transaction. False when the run was no longer
/// ours to end. The row lock comes first, as in [`reap`]: it waits for a transaction of the run that
/// may still be committing, and the raised epoch refuses any that begins later.
pub async fn finish(
    conn: &mut Conn,
    job: &str,
    id: Uuid,
    epoch: i64,
    ending: &Ending,
    bound: Duration,
) -> Result<bool, Error> {
    const LOCK: &str = "
        SELECT FROM steward.job_runs WHERE id = $1 AND epoch = $2 AND state = 'running' FOR UPDATE";
    const SQL: &str = "
        UPDATE steward.job_runs
           SET epoch = epoch + 1, state = $3, reason = $4, rows_affected = $5, error = $6, detail = $7,
               finished_at = clock_timestamp(), lease_until = NULL
         WHERE id = $1 AND epoch = $2 AND state = 'running'";
    const FREE: &str = "
        UPDATE steward.job_state
           SET running_run_id = NULL,
               last_success_at = CASE WHEN $3 THEN clock_timestamp() ELSE last_success_at END
         WHERE job = $1 AND running_run_id = $2";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let run = [(&id as _, Type::UUID), (&epoch as _, Type::INT8)];
            if tx.row_opt("lock a run", LOCK, &run).await?.is_none() {
                return Ok(false);
            }
            let state = ending.state.as_str();
            let params = [
                (&id as _, Type::UUID),
                (&epoch as _, Type::INT8),
                (&state as _, Type::TEXT),
                (&ending.reason as _, Type::TEXT),
                (&ending.rows as _, Type::INT8),
                (&ending.error as _, Type::TEXT),
                (&ending.detail as _, Type::JSONB),
            ];
            tx.execute("end a run", SQL, &params).await?;
            let succeeded = ending.state == State::Succeeded;
            tx.execute(
                "free the slot of a job",
                FREE,
                &[(&job, Type::TEXT), (&id, Type::UUID), (&succeeded, Type::BOOL)],
            )
            .await?;
            Ok(true)
        })
    })
    .await
}

/// A run whose lease passed without an end: its process died or lost the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub id: Uuid,
    pub job: String,
    pub instance: String,
}

/// Ends runs whose lease has passed as `lost`, and frees their slots. The row lock comes first: a
/// plain UPDATE would pass a fenced transaction's KEY SHARE lock, and the dead run would commit
/// after being declared lost.
pub async fn reap(conn: &mut Conn, bound: Duration) -> Result<Vec<Orphan>, Error> {
    const SQL: &str = "
        WITH expired AS MATERIALIZED (
            SELECT id FROM steward.job_runs
             WHERE state = 'running' AND lease_until < clock_timestamp()
             ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED
        ), ended AS (
            UPDATE steward.job_runs r
               SET state = 'lost', reason = 'lease_expired', epoch = r.epoch + 1, lease_until = NULL,
                   finished_at = clock_timestamp(),
                   error = format('instance %s stopped renewing the lease of this run: it died, hung, or lost the database; '
                                  'what it had committed stands', r.instance)
              FROM expired WHERE r.id = expired.id
            RETURNING r.id, r.job, r.instance
        ), freed AS (
            UPDATE steward.job_state s SET running_run_id = NULL FROM ended WHERE s.running_run_id = ended.id
        )
        SELECT id, job, coalesce(instance, '') FROM ended";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            let rows = tx.rows("reap lost runs", SQL, &[]).await?;
            Ok(rows.iter().map(|row| Orphan { id: row.get(0), job: row.get(1), instance: row.get(2) }).collect())
        })
    })
    .await
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
