//! What a batch of decisions comes to in rows: runs, ranges, slots and floors.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Cause, ClaimKind, ClaimRequest, ClaimResult, Claimer, JobSlot, MissedRange, Run, SkipReason,
    Verdict, judge,
};
use crate::config::JobName;
use crate::db::{Error, Tx};

/// What is written for a batch of asks.
#[derive(Debug, Default)]
pub(super) struct ClaimBatch {
    runs: Vec<NewRun>,
    /// Queued runs that begin, and those that end as skipped.
    begun: Vec<Uuid>,
    given_up: Vec<(Uuid, SkipReason)>,
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
    missed: MissedRange,
    /// Whether it may lengthen the row before it: it follows on that.
    first: bool,
}

#[derive(Debug)]
struct StateChange {
    job: JobName,
    watermark: DateTime<Utc>,
    running: Option<Uuid>,
    /// `None` leaves it, `Some(None)` empties it.
    queued: Option<Option<Uuid>>,
    skipped: i64,
}

impl ClaimBatch {
    /// Takes in one ask. The answer's run is completed when its row is made.
    pub(super) fn settle(&mut self, ask: &ClaimRequest, slot: &JobSlot) -> ClaimResult {
        let verdict = judge(slot, ask);
        let mut change = StateChange {
            job: ask.job.clone(),
            watermark: slot.watermark,
            running: None,
            queued: None,
            skipped: 0,
        };
        let mut run = None;
        match &ask.kind {
            _ if verdict == Verdict::Stale => {}
            ClaimKind::Due { missed, fire } => {
                let skipped = match (verdict, fire) {
                    (Verdict::Skip(reason), Some(fire)) => Some(MissedRange {
                        first: fire.due_at,
                        last: fire.due_at,
                        count: 1,
                        reason,
                    }),
                    _ => None,
                };
                let before = self.ranges.len();
                // Two in a row may have one reason: then a row of its own lies between them.
                for missed in missed.iter().copied().chain(skipped) {
                    self.ranges.push(Range {
                        job: ask.job.clone(),
                        missed,
                        first: self.ranges.len() == before,
                    });
                    change.watermark = missed.last;
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
                    change.watermark = fire.due_at;
                    if queued {
                        change.queued = Some(Some(id));
                    } else {
                        change.running = Some(id);
                    }
                    run = Some(Run { id, epoch: 1, due_at: fire.due_at });
                }
            }
            ClaimKind::Queued { id, .. } => match verdict {
                Verdict::Run => {
                    self.begun.push(*id);
                    (change.running, change.queued) = (Some(*id), Some(None));
                    run = Some(Run { id: *id, epoch: 1, due_at: ask.watermark });
                }
                Verdict::Skip(reason) => {
                    self.given_up.push((*id, reason));
                    (change.queued, change.skipped) = (Some(None), 1);
                }
                _ => {}
            },
            ClaimKind::Rewind { to, cut } => {
                self.rewound.push(Rewound { job: ask.job.clone(), to: *to, cut: *cut });
                change.watermark = *to;
            }
        }
        let watermark = change.watermark;
        if watermark != slot.watermark || change.running.is_some() || change.queued.is_some() {
            self.states.push(change);
        }
        ClaimResult { job: ask.job.clone(), verdict, watermark, run }
    }

    pub(super) async fn start_queued(
        &mut self,
        tx: &Tx<'_>,
        claimer: Claimer<'_>,
        answers: &mut [ClaimResult],
    ) -> Result<(), Error> {
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
            let begun: Vec<Run> = rows
                .iter()
                .map(|row| Run { id: row.get(0), epoch: row.get(1), due_at: row.get(2) })
                .collect();
            let begun = |id: Uuid| begun.iter().find(|run| run.id == id).copied();
            let is_gone = |id: &Uuid| self.begun.contains(id) && begun(*id).is_none();
            for answer in answers.iter_mut() {
                match answer.run {
                    // The row waits no more, since it was changed by hand: the job has no use of its slot.
                    Some(run) if is_gone(&run.id) => {
                        (answer.run, answer.verdict) = (None, Verdict::Stale);
                    }
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

    pub(super) async fn insert(
        &mut self,
        tx: &Tx<'_>,
        claimer: Claimer<'_>,
        answers: &mut [ClaimResult],
    ) -> Result<(), Error> {
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
        let made: Vec<Uuid> = tx
            .rows("claim due instants", SQL, &params)
            .await?
            .iter()
            .map(|row| row.get(0))
            .collect();
        // The instant of any other has a row already: it was accounted for above the watermark.
        let is_taken = |id: &Uuid| ids.contains(id) && !made.contains(id);
        for answer in
            answers.iter_mut().filter(|answer| answer.run.is_some_and(|run| is_taken(&run.id)))
        {
            (answer.run, answer.verdict) = (None, Verdict::Stale);
        }
        for state in &mut self.states {
            state.running.take_if(|id| is_taken(id));
            state.queued.take_if(|id| id.is_some_and(|id| is_taken(&id)));
        }
        Ok(())
    }

    pub(super) async fn record(&self, tx: &Tx<'_>, claimer: Claimer<'_>) -> Result<(), Error> {
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
                RETURNING n.id
            )
            INSERT INTO steward.job_runs
                   (id, job, kind, due_at, last_due_at, missed_count, state, reason, actor, instance, finished_at)
            SELECT id, job, 'missed', first, last, count, 'skipped', reason, 'schedule', $8, clock_timestamp()
              -- Not by `newest`: that row may have been pruned at this moment.
              FROM n WHERE NOT EXISTS (SELECT FROM lengthened WHERE lengthened.id = n.id)
            ON CONFLICT (job, due_at) DO NOTHING";
        if self.ranges.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.ranges.iter().map(|_| Uuid::now_v7()).collect();
        let jobs: Vec<&str> = self.ranges.iter().map(|range| range.job.as_str()).collect();
        let firsts: Vec<DateTime<Utc>> =
            self.ranges.iter().map(|range| range.missed.first).collect();
        let lasts: Vec<DateTime<Utc>> = self.ranges.iter().map(|range| range.missed.last).collect();
        let counts: Vec<i32> = self.ranges.iter().map(|range| range.missed.count).collect();
        let reasons: Vec<&str> =
            self.ranges.iter().map(|range| range.missed.reason.as_str()).collect();
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
    pub(super) async fn rewind(&self, tx: &Tx<'_>) -> Result<(), Error> {
        const DROP: &str = "
            DELETE FROM steward.job_runs WHERE job = $1 AND kind = 'missed' AND due_at > $2";
        const CUT: &str = "
            UPDATE steward.job_runs SET last_due_at = $3, missed_count = $4
             WHERE job = $1 AND kind = 'missed' AND due_at <= $2 AND last_due_at > $2";
        // A success of the future would count once more for the jobs that follow.
        const SUCCESS: &str = "
            UPDATE steward.job_state SET last_success_at = $2 WHERE job = $1 AND last_success_at > $2";
        for Rewound { job, to, cut } in &self.rewound {
            let job = job.as_str();
            tx.execute(
                "drop ranges that lie in the future",
                DROP,
                &[(&job, Type::TEXT), (to, Type::TIMESTAMPTZ)],
            )
            .await?;
            tx.execute(
                "take back a success of the future",
                SUCCESS,
                &[(&job, Type::TEXT), (to, Type::TIMESTAMPTZ)],
            )
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

    /// Writes the slots and watermarks.
    pub(super) async fn update(&self, tx: &Tx<'_>) -> Result<(), Error> {
        const SQL: &str = "
            UPDATE steward.job_state s
               SET claimed_floor = n.watermark,
                   running_run_id = coalesce(n.running, s.running_run_id),
                   running_since = CASE WHEN n.running IS NULL THEN s.running_since ELSE clock_timestamp() END,
                   queued_run_id = CASE WHEN n.requeue THEN n.queued ELSE s.queued_run_id END,
                   skipped_total = s.skipped_total + n.skipped
              FROM unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::boolean[], $5::uuid[], $6::bigint[])
                   AS n (job, watermark, running, requeue, queued, skipped)
             WHERE s.job = n.job";
        if self.states.is_empty() {
            return Ok(());
        }
        let jobs: Vec<&str> = self.states.iter().map(|state| state.job.as_str()).collect();
        let floors: Vec<DateTime<Utc>> = self.states.iter().map(|state| state.watermark).collect();
        let running: Vec<Option<Uuid>> = self.states.iter().map(|state| state.running).collect();
        let requeue: Vec<bool> = self.states.iter().map(|state| state.queued.is_some()).collect();
        let queued: Vec<Option<Uuid>> =
            self.states.iter().map(|state| state.queued.flatten()).collect();
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
