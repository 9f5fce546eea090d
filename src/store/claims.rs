//! Claiming what is due: one transaction for many jobs, one decision for each.
//!
//! ```text
//! lock the jobs' rows ─► judge (pure) ─► rows of runs ─► rows of ranges ─► slots and floors
//! ```
//! An [`ClaimRequest`] is made from what its asker knew: the watermark up to which the job is accounted for, and
//! the specification it goes by. Where the row says otherwise, somebody else was there first, nothing
//! is done, and the answer tells the watermark to ask from. So an instant is accounted for once, whoever
//! asks, and a plan made before a change is worth nothing after it.
//!
//! Instants in a row that are skipped for the same reason are one row (kind `missed`): a job that is
//! paused for a month leaves one line.

mod batch;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::config::{JobName, Overlap};
use crate::db::{Conn, Error, Tx, TxOptions};

use self::batch::ClaimBatch;
use super::pauses::ALL_JOBS;

/// Why an instant is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SkipReason {
    /// The run before it had not ended.
    Overlap,
    /// Nobody ran it when it was due.
    Misfire,
    /// The job, or every job, was paused.
    Paused,
    /// Outside the job's windows, or inside a blackout.
    Window,
    /// Its deadline had passed before it could begin.
    Expired,
}

impl SkipReason {
    /// The value of `job_runs.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::Overlap => "overlap",
            SkipReason::Misfire => "misfire",
            SkipReason::Paused => "paused",
            SkipReason::Window => "window",
            SkipReason::Expired => "expired",
        }
    }

    /// The same for a person who reads the log.
    pub fn describe(self) -> &'static str {
        match self {
            SkipReason::Overlap => "the run before had not ended",
            SkipReason::Misfire => {
                "nobody ran them when they were due, and catch_up leaves them out"
            }
            SkipReason::Paused => "the job was paused",
            SkipReason::Window => "outside of the job's windows, or inside a blackout",
            SkipReason::Expired => "their deadline had passed",
        }
    }
}

/// Instants in a row that are not run, for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedRange {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    pub count: i32,
    pub reason: SkipReason,
}

/// What makes a run due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The plan.
    Scheduled,
    /// Other jobs that succeeded.
    Chained,
}

impl Cause {
    /// The value of `job_runs.kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Scheduled => "scheduled",
            Cause::Chained => "chained",
        }
    }
}

/// What is wanted for one job.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimRequest {
    pub job: JobName,
    pub spec_hash: String,
    /// The watermark that the plan was made from.
    pub watermark: DateTime<Utc>,
    /// Whether the asker is paused by its local file.
    pub paused: bool,
    pub kind: ClaimKind,
}

/// See [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimKind {
    /// Instants above the watermark, in order: those that are not run, then at most one that is.
    Due { missed: Vec<MissedRange>, fire: Option<Fire> },
    /// The run that waits for the slot; or its end, for a reason.
    Queued { id: Uuid, skip: Option<SkipReason> },
    /// The watermark lies in the future, since the database's clock was set back: down to here. The range
    /// that reaches over it (see [`reaching_over`]) ends with this instant, and has so many.
    Rewind { to: DateTime<Utc>, cut: Option<(DateTime<Utc>, i32)> },
}

/// An instant to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fire {
    pub due_at: DateTime<Utc>,
    pub cause: Cause,
    pub overlap: Overlap,
}

/// How far ahead of the database's clock an instant may lie that is asked for: what is read of that
/// clock is a little old.
const AHEAD_MAX: TimeDelta = TimeDelta::seconds(60);

impl ClaimRequest {
    /// Whether it names an instant of the future: its asker goes by what the database's clock was before
    /// it was set back, and would account for a time that is still to come.
    pub fn is_ahead_of(&self, clock: DateTime<Utc>) -> bool {
        let ClaimKind::Due { missed, fire } = &self.kind else { return false };
        let last = fire.map(|fire| fire.due_at).or(missed.last().map(|missed| missed.last));
        last.is_some_and(|last| last - clock > AHEAD_MAX)
    }
}

/// A job's row, as it is locked.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSlot {
    pub watermark: DateTime<Utc>,
    pub spec_hash: Option<String>,
    /// It, or every job.
    pub paused: bool,
    pub running_since: Option<DateTime<Utc>>,
    pub queued: Option<Uuid>,
    /// A former run may still work on the server.
    pub quarantined: bool,
}

/// What becomes of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It runs, and takes the slot.
    Run,
    /// It waits for the slot.
    Queue,
    /// It is recorded as skipped.
    Skip(SkipReason),
    /// It stays due: the run that holds the slot began after it was due, or the job's row is locked.
    Defer,
    /// There is only what comes before it to be recorded.
    Record,
    /// The asker's plan is old.
    Stale,
}

/// Decides on an ask. Pure.
pub fn judge(slot: &JobSlot, ask: &ClaimRequest) -> Verdict {
    // A row without a specification was made by who paused or ran the job before any instance knew it.
    if slot.watermark != ask.watermark
        || slot.spec_hash.as_ref().is_some_and(|hash| *hash != ask.spec_hash)
    {
        return Verdict::Stale;
    }
    let paused = slot.paused || ask.paused;
    let busy = slot.running_since.is_some() || slot.quarantined;
    match &ask.kind {
        ClaimKind::Due { fire: None, .. } | ClaimKind::Rewind { .. } => Verdict::Record,
        ClaimKind::Due { .. } if paused => Verdict::Skip(SkipReason::Paused),
        ClaimKind::Due { fire: Some(fire), .. } => match (slot.running_since, slot.queued) {
            (Some(since), _) if fire.due_at < since => Verdict::Defer,
            // What waits goes first; then this came due before it began.
            (None, Some(_)) if !busy => Verdict::Defer,
            (_, None) if busy && fire.overlap == Overlap::Queue => Verdict::Queue,
            _ if busy => Verdict::Skip(SkipReason::Overlap),
            _ => Verdict::Run,
        },
        ClaimKind::Queued { id, .. } if slot.queued != Some(*id) => Verdict::Stale,
        ClaimKind::Queued { skip: Some(reason), .. } => Verdict::Skip(*reason),
        ClaimKind::Queued { .. } if paused => Verdict::Skip(SkipReason::Paused),
        ClaimKind::Queued { .. } if busy => Verdict::Defer,
        ClaimKind::Queued { .. } => Verdict::Run,
    }
}

/// What an ask came to.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimResult {
    pub job: JobName,
    pub verdict: Verdict,
    /// Up to which the job is accounted for now.
    pub watermark: DateTime<Utc>,
    /// The run, where one was made or taken.
    pub run: Option<Run>,
}

impl ClaimResult {
    /// How many rows were written for it.
    pub fn rows_written(&self) -> u64 {
        match self.verdict {
            Verdict::Stale | Verdict::Defer => 0,
            // The run's or the range's, and the job's.
            _ => 2,
        }
    }
}

/// A run that was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub id: Uuid,
    pub epoch: i64,
    pub due_at: DateTime<Utc>,
}

/// Who claims, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Claimer<'a> {
    pub instance: &'a str,
    pub lease: Duration,
}

/// Settles asks, at most one per job, in a transaction of their own.
pub async fn claim(
    conn: &mut Conn,
    claimer: Claimer<'_>,
    asks: &[ClaimRequest],
    bound: Duration,
) -> Result<Vec<ClaimResult>, Error> {
    conn.transaction(&TxOptions::within(bound), |tx| Box::pin(claim_in(tx, claimer, asks))).await
}

/// The same, as part of a transaction.
pub async fn claim_in(
    tx: &Tx<'_>,
    claimer: Claimer<'_>,
    asks: &[ClaimRequest],
) -> Result<Vec<ClaimResult>, Error> {
    let slots = lock(tx, asks).await?;
    let there = if slots.len() < asks.len() { known(tx, asks).await? } else { Vec::new() };
    let mut plan = ClaimBatch::default();
    let mut answers: Vec<ClaimResult> = asks
        .iter()
        .map(|ask| match slots.iter().find(|locked| locked.job == ask.job.as_str()) {
            Some(locked) if !ask.is_ahead_of(locked.clock) => plan.settle(ask, &locked.slot),
            Some(locked) => ClaimResult::without(ask, Verdict::Stale, locked.slot.watermark),
            None if there.iter().any(|job| job == ask.job.as_str()) => {
                ClaimResult::without(ask, Verdict::Defer, ask.watermark)
            }
            // Its row is gone; whoever registers again makes it.
            None => ClaimResult::without(ask, Verdict::Stale, ask.watermark),
        })
        .collect();
    plan.start_queued(tx, claimer, &mut answers).await?;
    // Before the runs: a range lengthens the newest row, which a run would be.
    plan.record(tx, claimer).await?;
    plan.insert(tx, claimer, &mut answers).await?;
    plan.rewind(tx).await?;
    plan.update(tx).await?;
    Ok(answers)
}

impl ClaimResult {
    fn without(ask: &ClaimRequest, verdict: Verdict, watermark: DateTime<Utc>) -> ClaimResult {
        ClaimResult { job: ask.job.clone(), verdict, watermark, run: None }
    }
}

struct Locked {
    job: String,
    slot: JobSlot,
    /// The database's clock.
    clock: DateTime<Utc>,
}

/// The rows of the jobs, locked in the order of their names. One that is locked is left out: a run of
/// that job is recording its end, and may take as long over its commit as deferred constraints or a
/// stand-by do; the other jobs do not wait for it.
async fn lock(tx: &Tx<'_>, asks: &[ClaimRequest]) -> Result<Vec<Locked>, Error> {
    const SQL: &str = "
        SELECT s.job, s.claimed_floor, s.spec_hash, s.running_since, s.queued_run_id,
               s.quarantined_run_id IS NOT NULL,
               s.paused_at IS NOT NULL
               OR EXISTS (SELECT FROM steward.job_state a WHERE a.job = $2 AND a.paused_at IS NOT NULL),
               clock_timestamp()
          FROM steward.job_state s WHERE s.job = ANY ($1) ORDER BY s.job FOR UPDATE OF s SKIP LOCKED";
    let jobs: Vec<&str> = asks.iter().map(|ask| ask.job.as_str()).collect();
    let rows = tx
        .rows("lock the rows of jobs", SQL, &[(&jobs, Type::TEXT_ARRAY), (&ALL_JOBS, Type::TEXT)])
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            let slot = JobSlot {
                watermark: row.get(1),
                spec_hash: row.get(2),
                running_since: row.get(3),
                queued: row.get(4),
                quarantined: row.get(5),
                paused: row.get(6),
            };
            Locked { job: row.get(0), slot, clock: row.get(7) }
        })
        .collect())
}

/// Which of the jobs have a row at all.
async fn known(tx: &Tx<'_>, asks: &[ClaimRequest]) -> Result<Vec<String>, Error> {
    const SQL: &str = "SELECT job FROM steward.job_state WHERE job = ANY ($1)";
    let jobs: Vec<&str> = asks.iter().map(|ask| ask.job.as_str()).collect();
    let rows = tx.rows("look for the rows of jobs", SQL, &[(&jobs, Type::TEXT_ARRAY)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The first instant of the range that begins up to `at` and ends after it.
pub async fn reaching_over(
    conn: &mut Conn,
    job: &str,
    at: DateTime<Utc>,
    bound: Duration,
) -> Result<Option<DateTime<Utc>>, Error> {
    const SQL: &str = "
        SELECT due_at FROM steward.job_runs
         WHERE job = $1 AND kind = 'missed' AND due_at <= $2 AND last_due_at > $2
         ORDER BY due_at DESC LIMIT 1";
    conn.transaction(&TxOptions::within(bound).read_only(), |tx| {
        Box::pin(async move {
            let params = [(&job as _, Type::TEXT), (&at as _, Type::TIMESTAMPTZ)];
            Ok(tx
                .row_opt("find the range that reaches into the future", SQL, &params)
                .await?
                .map(|row| row.get(0)))
        })
    })
    .await
}

#[cfg(test)]
mod tests;
