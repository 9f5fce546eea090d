//! Claiming what is due: one transaction for many jobs, one decision for each.
//!
//! ```text
//! lock the jobs' rows ─► judge (pure) ─► rows of runs ─► rows of ranges ─► slots and floors
//! ```
//! An [`Ask`] is made from what its asker knew: the floor up to which the job is accounted for, and
//! the specification it goes by. Where the row says otherwise, somebody else was there first, nothing
//! is done, and the answer tells the floor to ask from. So an instant is accounted for once, whoever
//! asks, and a plan made before a change is worth nothing after it.
//!
//! Instants in a row that are skipped for the same reason are one row (kind `missed`): a job that is
//! paused for a month leaves one line.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::config::{JobName, Overlap};
use crate::db::{Conn, Error, Tx, TxOptions};

use super::pauses::ALL_JOBS;

/// Why an instant is not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Skip {
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

impl Skip {
    /// The value of `job_runs.reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Skip::Overlap => "overlap",
            Skip::Misfire => "misfire",
            Skip::Paused => "paused",
            Skip::Window => "window",
            Skip::Expired => "expired",
        }
    }
}

/// Instants in a row that are not run, for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    pub count: i32,
    pub reason: Skip,
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
pub struct Ask {
    pub job: JobName,
    pub spec_hash: String,
    /// The floor that the plan was made from.
    pub floor: DateTime<Utc>,
    /// Whether the asker is paused by its local file.
    pub paused: bool,
    pub wanted: Wanted,
}

/// See [`Ask`].
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// Instants above the floor, in order: those that are not run, then at most one that is.
    Due { missed: Vec<Missed>, fire: Option<Fire> },
    /// The run that waits for the slot; or its end, for a reason.
    Queued { id: Uuid, skip: Option<Skip> },
    /// The floor lies in the future, since the database's clock was set back: down to here. The range
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

/// A job's row, as it is locked.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    pub floor: DateTime<Utc>,
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
    Skip(Skip),
    /// It stays due: the run that holds the slot began after it was due, or the job's row is locked.
    Hold,
    /// There is only what comes before it to be recorded.
    Record,
    /// The asker's plan is old.
    Stale,
}

/// Decides on an ask. Pure.
pub fn judge(slot: &Slot, ask: &Ask) -> Verdict {
    if slot.floor != ask.floor || slot.spec_hash.as_deref() != Some(&ask.spec_hash) {
        return Verdict::Stale;
    }
    let paused = slot.paused || ask.paused;
    let busy = slot.running_since.is_some() || slot.quarantined;
    match &ask.wanted {
        Wanted::Due { fire: None, .. } | Wanted::Rewind { .. } => Verdict::Record,
        Wanted::Due { .. } if paused => Verdict::Skip(Skip::Paused),
        Wanted::Due { fire: Some(fire), .. } => match (slot.running_since, slot.queued) {
            (Some(since), _) if fire.due_at < since => Verdict::Hold,
            // What waits goes first; then this came due before it began.
            (None, Some(_)) if !busy => Verdict::Hold,
            (_, None) if busy && fire.overlap == Overlap::Queue => Verdict::Queue,
            _ if busy => Verdict::Skip(Skip::Overlap),
            _ => Verdict::Run,
        },
        Wanted::Queued { id, .. } if slot.queued != Some(*id) => Verdict::Stale,
        Wanted::Queued { skip: Some(reason), .. } => Verdict::Skip(*reason),
        Wanted::Queued { .. } if paused => Verdict::Skip(Skip::Paused),
        Wanted::Queued { .. } if busy => Verdict::Hold,
        Wanted::Queued { .. } => Verdict::Run,
    }
}

/// What an ask came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub job: JobName,
    pub verdict: Verdict,
    /// Up to which the job is accounted for now.
    pub floor: DateTime<Utc>,
    /// The run, where one was made or taken.
    pub run: Option<Run>,
}

impl Answer {
    /// How many rows were written for it.
    pub fn rows_written(&self) -> u64 {
        match self.verdict {
            Verdict::Stale | Verdict::Hold => 0,
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
pub async fn claim(conn: &mut Conn, claimer: Claimer<'_>, asks: &[Ask], bound: Duration) -> Result<Vec<Answer>, Error> {
    conn.transaction(&TxOptions::within(bound), |tx| Box::pin(claim_in(tx, claimer, asks))).await
}

/// The same, as part of a transaction.
pub async fn claim_in(tx: &Tx<'_>, claimer: Claimer<'_>, asks: &[Ask]) -> Result<Vec<Answer>, Error> {
    let slots = lock(tx, asks).await?;
    let mut plan = Settlement::default();
    let mut answers: Vec<Answer> = asks
        .iter()
        .map(|ask| {
            let slot = slots.iter().find(|(job, _)| *job == ask.job.as_str()).map(|(_, slot)| slot);
            plan.settle(ask, slot)
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

/// The rows of the jobs, locked in the order of their names. One that is locked is left out: a run of
/// that job is recording its end, and may take as long over its commit as deferred constraints or a
/// stand-by do; the other jobs do not wait for it.
async fn lock(tx: &Tx<'_>, asks: &[Ask]) -> Result<Vec<(String, Slot)>, Error> {
    const SQL: &str = "
        SELECT s.job, s.claimed_floor, s.spec_hash, s.running_since, s.queued_run_id,
               s.quarantined_run_id IS NOT NULL,
               s.paused_at IS NOT NULL
               OR EXISTS (SELECT FROM steward.job_state a WHERE a.job = $2 AND a.paused_at IS NOT NULL)
          FROM steward.job_state s WHERE s.job = ANY ($1) ORDER BY s.job FOR UPDATE OF s SKIP LOCKED";
    let jobs: Vec<&str> = asks.iter().map(|ask| ask.job.as_str()).collect();
    let rows = tx.rows("lock the rows of jobs", SQL, &[(&jobs, Type::TEXT_ARRAY), (&ALL_JOBS, Type::TEXT)]).await?;
    Ok(rows
        .iter()
        .map(|row| {
            let slot = Slot {
                floor: row.get(1),
                spec_hash: row.get(2),
                running_since: row.get(3),
                queued: row.get(4),
                quarantined: row.get(5),
                paused: row.get(6),
            };
            (row.get(0), slot)
        })
        .collect())
}

/// What is written for a batch of asks.
#[derive(Debug, Default)]
struct Settlement {
    runs: Vec<NewRun>,
    /// Queued runs that begin, and those that end as skipped.
    begun: Vec<Uuid>,
    given_up: Vec<(Uuid, Skip)>,
    ranges: Vec<Range>,
    states: Vec<StateChange>,
    rewound: Vec<Rewound>,
}

#[derive(Debug)]
struct Rewound {
    job: JobName,
    to: DateTime<Utc>,
    cut: Option<(DateTime<Utc>, i32)>,
}

#[derive(Debug)]
struct NewRun {
    id: Uuid,
    job: JobName,
    cause: Cause,
    due_at: DateTime<Utc>,
    queued: bool,
    spec_hash: String,
}

#[derive(Debug)]
struct Range {
    job: JobName,
    missed: Missed,
    /// Whether it may lengthen the row before it: it follows on that.
    first: bool,
}

#[derive(Debug)]
struct StateChange {
    job: JobName,
    floor: DateTime<Utc>,
    running: Option<Uuid>,
    /// `None` leaves it, `Some(None)` empties it.
    queued: Option<Option<Uuid>>,
    skipped: i64,
}

impl Settlement {
    /// Takes in one ask. The answer's run is completed when its row is made.
    fn settle(&mut self, ask: &Ask, slot: Option<&Slot>) -> Answer {
        let Some(slot) = slot else {
            // Or it is gone; whoever registers again makes it.
            return Answer { job: ask.job.clone(), verdict: Verdict::Hold, floor: ask.floor, run: None };
        };
        let verdict = judge(slot, ask);
        let mut change =
            StateChange { job: ask.job.clone(), floor: slot.floor, running: None, queued: None, skipped: 0 };
        let mut run = None;
        match &ask.wanted {
            _ if verdict == Verdict::Stale => {}
            Wanted::Due { missed, fire } => {
                let skipped = match (verdict, fire) {
                    (Verdict::Skip(reason), Some(fire)) => {
                        Some(Missed { first: fire.due_at, last: fire.due_at, count: 1, reason })
                    }
                    _ => None,
                };
                let before = self.ranges.len();
                for missed in missed.iter().copied().chain(skipped) {
                    self.range(&ask.job, missed, before);
                    change.floor = missed.last;
                    change.skipped += i64::from(missed.count);
                }
                if let (Verdict::Run | Verdict::Queue, Some(fire)) = (verdict, fire) {
                    let (id, queued) = (Uuid::now_v7(), verdict == Verdict::Queue);
                    self.runs.push(NewRun {
                        id,
                        job: ask.job.clone(),
                        cause: fire.cause,
                        due_at: fire.due_at,
                        queued,
                        spec_hash: ask.spec_hash.clone(),
                    });
                    change.floor = fire.due_at;
                    if queued {
                        change.queued = Some(Some(id))
                    } else {
                        change.running = Some(id)
                    }
                    run = Some(Run { id, epoch: 1, due_at: fire.due_at });
                }
            }
            Wanted::Queued { id, .. } => match verdict {
                Verdict::Run => {
                    self.begun.push(*id);
                    (change.running, change.queued) = (Some(*id), Some(None));
                    run = Some(Run { id: *id, epoch: 1, due_at: ask.floor });
                }
                Verdict::Skip(reason) => {
                    self.given_up.push((*id, reason));
                    (change.queued, change.skipped) = (Some(None), 1);
                }
                _ => {}
            },
            Wanted::Rewind { to, cut } => {
                self.rewound.push(Rewound { job: ask.job.clone(), to: *to, cut: *cut });
                change.floor = *to;
            }
        }
        let floor = change.floor;
        if floor != slot.floor || change.running.is_some() || change.queued.is_some() {
            self.states.push(change);
        }
        Answer { job: ask.job.clone(), verdict, floor, run }
    }

    /// Adds a range to those since `before`, as one with the last where both have the same reason.
    fn range(&mut self, job: &JobName, missed: Missed, before: usize) {
        if self.ranges.len() > before
            && let Some(last) = self.ranges.last_mut()
            && last.missed.reason == missed.reason
        {
            last.missed.last = missed.last;
            last.missed.count = last.missed.count.saturating_add(missed.count);
            return;
        }
        self.ranges.push(Range { job: job.clone(), missed, first: self.ranges.len() == before });
    }

    async fn start_queued(&mut self, tx: &Tx<'_>, claimer: Claimer<'_>, answers: &mut [Answer]) -> Result<(), Error> {
        const BEGIN: &str = "
            UPDATE steward.job_runs
               SET state = 'running', instance = $2, attempts = 1, started_at = clock_timestamp(),
                   lease_until = clock_timestamp() + $3::bigint * interval '1 ms'
             WHERE id = ANY ($1) AND state = 'queued'
            RETURNING id, epoch, due_at";
        const GIVE_UP: &str = "
            UPDATE steward.job_runs r
               SET state = 'skipped', reason = n.reason, instance = $3, finished_at = clock_timestamp()
              FROM unnest($1::uuid[], $2::text[]) AS n (id, reason)
             WHERE r.id = n.id AND r.state = 'queued'";
        if !self.begun.is_empty() {
            let params = [
                (&self.begun as _, Type::UUID_ARRAY),
                (&claimer.instance as _, Type::TEXT),
                (&millis(claimer.lease) as _, Type::INT8),
            ];
            let rows = tx.rows("begin queued runs", BEGIN, &params).await?;
            let begun: Vec<Run> =
                rows.iter().map(|row| Run { id: row.get(0), epoch: row.get(1), due_at: row.get(2) }).collect();
            let begun = |id: Uuid| begun.iter().find(|run| run.id == id).copied();
            let is_gone = |id: &Uuid| self.begun.contains(id) && begun(*id).is_none();
            for answer in answers.iter_mut() {
                match answer.run {
                    // The row waits no more, since it was changed by hand: the job has no use of its slot.
                    Some(run) if is_gone(&run.id) => (answer.run, answer.verdict) = (None, Verdict::Stale),
                    Some(run) => answer.run = begun(run.id).or(answer.run),
                    None => {}
                }
            }
            for state in &mut self.states {
                state.running.take_if(|id| is_gone(id));
            }
        }
        if !self.given_up.is_empty() {
            let (ids, reasons): (Vec<Uuid>, Vec<&str>) =
                self.given_up.iter().map(|(id, reason)| (*id, reason.as_str())).unzip();
            let params = [
                (&ids as _, Type::UUID_ARRAY),
                (&reasons as _, Type::TEXT_ARRAY),
                (&claimer.instance as _, Type::TEXT),
            ];
            tx.execute("give queued runs up", GIVE_UP, &params).await?;
        }
        Ok(())
    }

    async fn insert(&mut self, tx: &Tx<'_>, claimer: Claimer<'_>, answers: &mut [Answer]) -> Result<(), Error> {
        const SQL: &str = "
            INSERT INTO steward.job_runs
                   (id, job, kind, due_at, state, actor, instance, attempts, lease_until, started_at, spec_hash)
            SELECT id, job, kind, due_at, CASE WHEN queued THEN 'queued' ELSE 'running' END, 'schedule', $7,
                   CASE WHEN queued THEN 0 ELSE 1 END,
                   CASE WHEN NOT queued THEN clock_timestamp() + $8::bigint * interval '1 ms' END,
                   CASE WHEN NOT queued THEN clock_timestamp() END, spec_hash
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::boolean[], $6::text[])
                   AS n (id, job, kind, due_at, queued, spec_hash)
            ON CONFLICT (job, due_at) DO NOTHING RETURNING id";
        if self.runs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.runs.iter().map(|run| run.id).collect();
        let jobs: Vec<&str> = self.runs.iter().map(|run| run.job.as_str()).collect();
        let kinds: Vec<&str> = self.runs.iter().map(|run| run.cause.as_str()).collect();
        let due: Vec<DateTime<Utc>> = self.runs.iter().map(|run| run.due_at).collect();
        let queued: Vec<bool> = self.runs.iter().map(|run| run.queued).collect();
        let specs: Vec<&str> = self.runs.iter().map(|run| run.spec_hash.as_str()).collect();
        let params = [
            (&ids as _, Type::UUID_ARRAY),
            (&jobs as _, Type::TEXT_ARRAY),
            (&kinds as _, Type::TEXT_ARRAY),
            (&due as _, Type::TIMESTAMPTZ_ARRAY),
            (&queued as _, Type::BOOL_ARRAY),
            (&specs as _, Type::TEXT_ARRAY),
            (&claimer.instance as _, Type::TEXT),
            (&millis(claimer.lease) as _, Type::INT8),
        ];
        let made: Vec<Uuid> = tx.rows("claim due instants", SQL, &params).await?.iter().map(|row| row.get(0)).collect();
        // The instant of any other has a row already: it was accounted for above the floor.
        let is_taken = |id: &Uuid| ids.contains(id) && !made.contains(id);
        for answer in answers.iter_mut().filter(|answer| answer.run.is_some_and(|run| is_taken(&run.id))) {
            (answer.run, answer.verdict) = (None, Verdict::Stale);
        }
        for state in &mut self.states {
            state.running.take_if(|id| is_taken(id));
            state.queued.take_if(|id| id.is_some_and(|id| is_taken(&id)));
        }
        Ok(())
    }

    async fn record(&self, tx: &Tx<'_>, claimer: Claimer<'_>) -> Result<(), Error> {
        const SQL: &str = "
            WITH n AS (
                SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[],
                                     $6::text[], $7::boolean[]) AS n (id, job, first, last, count, reason, follows)
            ), newest AS (
                SELECT n.id, l.id AS run_id
                  FROM n CROSS JOIN LATERAL (
                       SELECT r.id, r.kind, r.reason, r.last_due_at FROM steward.job_runs r
                        WHERE r.job = n.job AND r.due_at < n.first ORDER BY r.due_at DESC LIMIT 1) l
                 WHERE n.follows AND l.kind = 'missed' AND l.reason = n.reason AND l.last_due_at < n.first
            ), lengthened AS (
                UPDATE steward.job_runs r
                   SET last_due_at = n.last, finished_at = clock_timestamp(),
                       missed_count = least(r.missed_count::bigint + n.count, 2147483647)::integer
                  FROM n JOIN newest ON newest.id = n.id
                 WHERE r.id = newest.run_id
            )
            INSERT INTO steward.job_runs
                   (id, job, kind, due_at, last_due_at, missed_count, state, reason, actor, instance, finished_at)
            SELECT id, job, 'missed', first, last, count, 'skipped', reason, 'schedule', $8, clock_timestamp()
              FROM n WHERE NOT EXISTS (SELECT FROM newest WHERE newest.id = n.id)
            ON CONFLICT (job, due_at) DO NOTHING";
        if self.ranges.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.ranges.iter().map(|_| Uuid::now_v7()).collect();
        let jobs: Vec<&str> = self.ranges.iter().map(|range| range.job.as_str()).collect();
        let firsts: Vec<DateTime<Utc>> = self.ranges.iter().map(|range| range.missed.first).collect();
        let lasts: Vec<DateTime<Utc>> = self.ranges.iter().map(|range| range.missed.last).collect();
        let counts: Vec<i32> = self.ranges.iter().map(|range| range.missed.count).collect();
        let reasons: Vec<&str> = self.ranges.iter().map(|range| range.missed.reason.as_str()).collect();
        let follows: Vec<bool> = self.ranges.iter().map(|range| range.first).collect();
        let params = [
            (&ids as _, Type::UUID_ARRAY),
            (&jobs as _, Type::TEXT_ARRAY),
            (&firsts as _, Type::TIMESTAMPTZ_ARRAY),
            (&lasts as _, Type::TIMESTAMPTZ_ARRAY),
            (&counts as _, Type::INT4_ARRAY),
            (&reasons as _, Type::TEXT_ARRAY),
            (&follows as _, Type::BOOL_ARRAY),
            (&claimer.instance as _, Type::TEXT),
        ];
        tx.execute("record skipped instants", SQL, &params).await?;
        Ok(())
    }

    /// What of ranges lies in a future that will come again is due again.
    async fn rewind(&self, tx: &Tx<'_>) -> Result<(), Error> {
        const DROP: &str = "
            DELETE FROM steward.job_runs WHERE job = $1 AND kind = 'missed' AND due_at > $2";
        const CUT: &str = "
            UPDATE steward.job_runs SET last_due_at = $3, missed_count = $4
             WHERE job = $1 AND kind = 'missed' AND due_at <= $2 AND last_due_at > $2";
        for Rewound { job, to, cut } in &self.rewound {
            let job = job.as_str();
            tx.execute("drop ranges that lie in the future", DROP, &[(&job, Type::TEXT), (to, Type::TIMESTAMPTZ)])
                .await?;
            if let Some((last, count)) = cut {
                let params = [
                    (&job as _, Type::TEXT),
                    (to as _, Type::TIMESTAMPTZ),
                    (last as _, Type::TIMESTAMPTZ),
                    (count as _, Type::INT4),
                ];
                tx.execute("cut a range that reaches into the future", CUT, &params).await?;
            }
        }
        Ok(())
    }

    async fn update(&self, tx: &Tx<'_>) -> Result<(), Error> {
        const SQL: &str = "
            UPDATE steward.job_state s
               SET claimed_floor = n.floor,
                   running_run_id = coalesce(n.running, s.running_run_id),
                   running_since = CASE WHEN n.running IS NULL THEN s.running_since ELSE clock_timestamp() END,
                   queued_run_id = CASE WHEN n.requeue THEN n.queued ELSE s.queued_run_id END,
                   skipped_total = s.skipped_total + n.skipped
              FROM unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::boolean[], $5::uuid[], $6::bigint[])
                   AS n (job, floor, running, requeue, queued, skipped)
             WHERE s.job = n.job";
        if self.states.is_empty() {
            return Ok(());
        }
        let jobs: Vec<&str> = self.states.iter().map(|state| state.job.as_str()).collect();
        let floors: Vec<DateTime<Utc>> = self.states.iter().map(|state| state.floor).collect();
        let running: Vec<Option<Uuid>> = self.states.iter().map(|state| state.running).collect();
        let requeue: Vec<bool> = self.states.iter().map(|state| state.queued.is_some()).collect();
        let queued: Vec<Option<Uuid>> = self.states.iter().map(|state| state.queued.flatten()).collect();
        let skipped: Vec<i64> = self.states.iter().map(|state| state.skipped).collect();
        let params = [
            (&jobs as _, Type::TEXT_ARRAY),
            (&floors as _, Type::TIMESTAMPTZ_ARRAY),
            (&running as _, Type::UUID_ARRAY),
            (&requeue as _, Type::BOOL_ARRAY),
            (&queued as _, Type::UUID_ARRAY),
            (&skipped as _, Type::INT8_ARRAY),
        ];
        tx.execute("take the slots of jobs", SQL, &params).await?;
        Ok(())
    }
}

fn millis(lease: Duration) -> i64 {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX)
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
            Ok(tx.row_opt("find the range that reaches into the future", SQL, &params).await?.map(|row| row.get(0)))
        })
    })
    .await
}

#[cfg(test)]
mod tests;
