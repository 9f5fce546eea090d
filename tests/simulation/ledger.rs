//! The ledger in memory: what the SQL of `store/` does, statement by statement, on a clock that is set
//! from outside. What becomes of an ask is decided by the daemon's own `judge`.
//!
//! A constraint that the server would refuse to break is noted as a breach instead.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use pgsteward::config::JobName;
use pgsteward::store::claims::{
    Cause, ClaimKind, ClaimRequest, ClaimResult, JobSlot, MissedRange, Run, SkipReason, Verdict,
    judge,
};
use pgsteward::store::requests::{LastSuccess, PendingRequests, QueuedRun};
use pgsteward::store::runs::RegisteredJob;
use uuid::Uuid;

pub type Time = DateTime<Utc>;

/// `ABOVE_MAX` of `store/runs.rs`.
const ABOVE_MAX: usize = 10_000;

/// A ledger that is not the real one, to see that the invariants notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weakness {
    #[default]
    None,
    /// Plans are believed whatever the watermark has become since.
    ForgetsFloors,
    /// An effect commits whoever holds the run.
    ForgetsEpochs,
    /// A run that nobody renews is never ended.
    NeverReaps,
    /// The slot of a job that runs is given again.
    IgnoresSlots,
    /// Floors move without the row of what was skipped.
    LosesRanges,
    /// Going back leaves the ranges of the future where they are.
    KeepsRanges,
    /// Who registers is not told of rows above the watermark.
    HidesAbove,
    /// The watermark is not taken back.
    NeverRewinds,
    /// A leader's success counts again for its followers.
    RepeatsSuccesses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Scheduled,
    Chained,
    Manual,
    Missed,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub id: Uuid,
    pub kind: Kind,
    pub due_at: Time,
    pub last_due_at: Option<Time>,
    pub count: i32,
    pub state: &'static str,
    pub reason: Option<&'static str>,
    pub epoch: i64,
    pub lease_until: Option<Time>,
    /// How often its effect was committed.
    pub effects: u32,
}

#[derive(Debug, Clone)]
pub struct JobRow {
    pub watermark: Time,
    pub spec_hash: String,
    pub last_success_at: Option<Time>,
    pub running: Option<(Uuid, Time)>,
    pub queued: Option<Uuid>,
    pub paused: bool,
    pub rows: BTreeMap<Time, Row>,
    /// Which schedule counts from where on, oldest first; for who checks.
    pub spans: Vec<Span>,
    /// Whether its watermark was ever taken back.
    pub rewound: u32,
}

/// An event that chains go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Succeeded,
    /// A follower's turn came, whether it ran or was skipped.
    Followed,
    /// Its watermark was taken back with the clock, and its last success.
    TakenBack,
}

/// A stretch in which one specification counts.
#[derive(Debug, Clone)]
pub struct Span {
    pub from: Time,
    /// What lay after it when another came is that one's.
    pub until: Option<Time>,
    pub hash: String,
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub clock: Time,
    pub jobs: BTreeMap<JobName, JobRow>,
    pub all_paused: bool,
    observer: Option<(String, i64, Time)>,
    /// Running rows.
    open: BTreeMap<Uuid, (JobName, Time)>,
    ids: u128,
    weakness: Weakness,
    pub breaches: Vec<String>,
    /// What matters for chains, in the order of its commits.
    pub story: Vec<(JobName, Told)>,
}

impl Ledger {
    pub fn new(weakness: Weakness) -> Ledger {
        Ledger { weakness, ..Ledger::default() }
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(self.ids)
    }

    /// `leases::acquire`: the epoch when it is ours now.
    pub fn observe(&mut self, holder: &str, lease: TimeDelta) -> Result<i64, TimeDelta> {
        let clock = self.clock;
        let (was, epoch, expires) = self.observer.clone().unwrap_or((holder.to_owned(), 1, clock));
        if was != holder && expires > clock && expires <= clock + TimeDelta::minutes(10) {
            return Err(expires - clock);
        }
        let epoch = epoch + i64::from(was != holder);
        self.observer = Some((holder.to_owned(), epoch, clock + lease));
        Ok(epoch)
    }

    /// `runs::register`.
    pub fn register(&mut self, jobs: &[(JobName, String)]) -> Vec<RegisteredJob> {
        let clock = self.clock;
        for (job, hash) in jobs {
            let row = self.jobs.entry(job.clone()).or_insert_with(|| JobRow {
                watermark: clock,
                spec_hash: hash.clone(),
                last_success_at: None,
                running: None,
                queued: None,
                paused: false,
                rows: BTreeMap::new(),
                spans: vec![Span { from: clock, until: None, hash: hash.clone() }],
                rewound: 0,
            });
            if row.spec_hash != *hash {
                let when = |hash: &str| hash.split('-').next().map(str::to_owned);
                if when(&row.spec_hash) != when(hash) {
                    row.spans.last_mut().unwrap().until = Some(row.watermark);
                    row.watermark = row.watermark.max(clock);
                    row.spans.push(Span { from: row.watermark, until: None, hash: hash.clone() });
                }
                row.spec_hash.clone_from(hash);
            }
        }
        let known = jobs.iter().filter_map(|(job, _)| self.jobs.get_key_value(job));
        known
            .map(|(job, row)| {
                let above = row
                    .rows
                    .range((std::ops::Bound::Excluded(row.watermark), std::ops::Bound::Unbounded));
                let above = above
                    .filter(|(_, row)| row.kind != Kind::Manual)
                    .map(|(at, _)| *at)
                    .take(ABOVE_MAX);
                let above = if self.weakness == Weakness::HidesAbove {
                    Vec::new()
                } else {
                    above.collect()
                };
                let (job, watermark) = (job.as_str().to_owned(), row.watermark);
                RegisteredJob { job, watermark, last_success_at: row.last_success_at, above }
            })
            .collect()
    }

    /// `requests::hear`.
    pub fn poll_requests(&self, upstream_jobs: &[String]) -> PendingRequests {
        let mut heard = PendingRequests::default();
        for (job, state) in &self.jobs {
            if let Some(row) =
                state.queued.and_then(|id| state.rows.values().rev().find(|row| row.id == id))
            {
                let (job, manual) = (job.as_str().to_owned(), row.kind == Kind::Manual);
                heard.queued.push(QueuedRun { job, id: row.id, due_at: row.due_at, manual });
            }
            if let Some(at) = state
                .last_success_at
                .filter(|_| upstream_jobs.iter().any(|leader| leader == job.as_str()))
            {
                let at = if self.weakness == Weakness::RepeatsSuccesses { self.clock } else { at };
                heard.succeeded.push(LastSuccess { job: job.as_str().to_owned(), at });
            }
        }
        heard
    }

    /// `claims::reaching_over`.
    pub fn reaching_over(&self, job: &JobName, at: Time) -> Option<Time> {
        let rows = self.jobs.get(job)?.rows.range(..=at);
        rows.rev()
            .find(|(_, row)| row.last_due_at.is_some_and(|last| last > at))
            .map(|(first, _)| *first)
    }

    /// `claims::claim_in`: one transaction.
    pub fn claim(&mut self, lease: TimeDelta, asks: &[ClaimRequest]) -> Vec<ClaimResult> {
        asks.iter().map(|ask| self.settle(lease, ask)).collect()
    }

    /// `Settlement::settle` and the statements that write it, for one job: no two jobs share a row.
    fn settle(&mut self, lease: TimeDelta, ask: &ClaimRequest) -> ClaimResult {
        let all_paused = self.all_paused;
        let Some(state) = self.jobs.get(&ask.job) else {
            return ClaimResult {
                job: ask.job.clone(),
                verdict: Verdict::Stale,
                watermark: ask.watermark,
                run: None,
            };
        };
        if ask.is_ahead_of(self.clock) {
            return ClaimResult {
                job: ask.job.clone(),
                verdict: Verdict::Stale,
                watermark: state.watermark,
                run: None,
            };
        }
        let weak = |weakness| self.weakness == weakness;
        let slot = JobSlot {
            watermark: if weak(Weakness::ForgetsFloors) { ask.watermark } else { state.watermark },
            spec_hash: Some(state.spec_hash.clone()),
            paused: state.paused || all_paused,
            running_since: state
                .running
                .map(|(_, since)| since)
                .filter(|_| !weak(Weakness::IgnoresSlots)),
            queued: state.queued,
            quarantined: false,
        };
        let mut verdict = judge(&slot, ask);
        let mut watermark = state.watermark;
        let mut run = None;
        match &ask.kind {
            _ if verdict == Verdict::Stale => {}
            ClaimKind::Due { missed, fire } => {
                if let (Verdict::Run | Verdict::Queue, Some(fire)) = (verdict, fire) {
                    watermark = fire.due_at;
                    run =
                        self.insert(lease, ask, fire.due_at, fire.cause, verdict == Verdict::Queue);
                    verdict = if run.is_some() { verdict } else { Verdict::Stale };
                }
                let skipped = match (verdict, fire) {
                    (Verdict::Skip(reason), Some(fire)) => {
                        if reason == SkipReason::Overlap && slot.running_since.is_none() {
                            self.breaches.push(format!("{}: an overlap with nothing", ask.job));
                        }
                        Some(MissedRange {
                            first: fire.due_at,
                            last: fire.due_at,
                            count: 1,
                            reason,
                        })
                    }
                    _ => None,
                };
                let ranges: Vec<MissedRange> = missed.iter().copied().chain(skipped).collect();
                watermark = ranges.last().map_or(watermark, |range| watermark.max(range.last));
                if matches!((verdict, fire), (Verdict::Skip(_), Some(fire)) if fire.cause == Cause::Chained)
                {
                    self.story.push((ask.job.clone(), Told::Followed));
                }
                for (place, range) in ranges.iter().enumerate() {
                    self.record(&ask.job, range, place == 0);
                }
            }
            ClaimKind::Queued { id, .. } => match verdict {
                Verdict::Run => run = self.begin(lease, &ask.job, *id),
                Verdict::Skip(reason) => self.end_queued(&ask.job, *id, "skipped", reason.as_str()),
                _ => {}
            },
            ClaimKind::Rewind { to, cut } => {
                self.rewind(&ask.job, *to, *cut);
                watermark = *to;
            }
        }
        if let Some(state) = self.jobs.get_mut(&ask.job) {
            state.watermark = if self.weakness == Weakness::NeverRewinds {
                state.watermark.max(watermark)
            } else {
                watermark
            };
            watermark = state.watermark;
        }
        ClaimResult { job: ask.job.clone(), verdict, watermark, run }
    }

    /// `Settlement::insert`, and its part of `update`; nothing where the instant has a row.
    fn insert(
        &mut self,
        lease: TimeDelta,
        ask: &ClaimRequest,
        due_at: Time,
        cause: Cause,
        queued: bool,
    ) -> Option<Run> {
        let (id, clock) = (self.id(), self.clock);
        let state = self.jobs.get_mut(&ask.job)?;
        if state.rows.contains_key(&due_at) {
            return None;
        }
        let kind = if cause == Cause::Chained { Kind::Chained } else { Kind::Scheduled };
        let mut row = Row::new(id, kind, due_at, "queued");
        if queued {
            if state.queued.replace(id).is_some() {
                self.breaches.push(format!("{}: two rows wait", ask.job));
            }
        } else {
            (row.state, row.lease_until) = ("running", Some(clock + lease));
            if state.running.replace((id, clock)).is_some() {
                self.breaches.push(format!("{}: two rows run", ask.job));
            }
            self.open.insert(id, (ask.job.clone(), due_at));
        }
        state.rows.insert(due_at, row);
        if kind == Kind::Chained {
            self.story.push((ask.job.clone(), Told::Followed));
        }
        Some(Run { id, epoch: 1, due_at })
    }

    /// `Settlement::start_queued`.
    fn begin(&mut self, lease: TimeDelta, job: &JobName, id: Uuid) -> Option<Run> {
        let clock = self.clock;
        let state = self.jobs.get_mut(job)?;
        let row =
            state.rows.values_mut().rev().find(|row| row.id == id && row.state == "queued")?;
        (row.state, row.lease_until) = ("running", Some(clock + lease));
        state.queued = None;
        if state.running.replace((id, clock)).is_some() {
            self.breaches.push(format!("{job}: two rows run"));
        }
        self.open.insert(id, (job.clone(), row.due_at));
        Some(Run { id, epoch: row.epoch, due_at: row.due_at })
    }

    /// `Settlement::record`: lengthens the newest row where it can.
    fn record(&mut self, job: &JobName, range: &MissedRange, follows: bool) {
        let id = self.id();
        if self.weakness == Weakness::LosesRanges {
            return;
        }
        let Some(state) = self.jobs.get_mut(job) else { return };
        let newest = state.rows.values_mut().next_back().filter(|row| {
            follows
                && row.kind == Kind::Missed
                && row.reason == Some(range.reason.as_str())
                && row.last_due_at.is_some_and(|last| last < range.first)
        });
        if let Some(row) = newest {
            (row.last_due_at, row.count) = (Some(range.last), row.count + range.count);
            return;
        }
        let row = Row {
            last_due_at: Some(range.last),
            count: range.count,
            reason: Some(range.reason.as_str()),
            ..Row::new(id, Kind::Missed, range.first, "skipped")
        };
        state.rows.entry(range.first).or_insert(row);
    }

    /// `Settlement::rewind`.
    fn rewind(&mut self, job: &JobName, to: Time, cut: Option<(Time, i32)>) {
        let Some(state) = self.jobs.get_mut(job) else { return };
        state.rewound += 1;
        state.last_success_at = state.last_success_at.map(|at| at.min(to));
        self.story.push((job.clone(), Told::TakenBack));
        if self.weakness == Weakness::KeepsRanges {
            return;
        }
        state.rows.retain(|at, row| row.kind != Kind::Missed || *at <= to);
        if let Some((last, count)) = cut {
            for row in state.rows.range_mut(..=to).map(|(_, row)| row) {
                if row.last_due_at.is_some_and(|last| last > to) {
                    (row.last_due_at, row.count) = (Some(last), count);
                }
            }
        }
        // The schedule that counts now counts from there on, and no other after it.
        if let Some(now) = state.spans.pop_if(|span| span.from > to) {
            state.spans.retain(|span| span.from < to);
            state
                .spans
                .iter_mut()
                .for_each(|span| span.until = span.until.map(|until| until.min(to)));
            state.spans.push(Span { from: to, ..now });
        }
    }

    /// `runs::renew`: which of these are still ours.
    pub fn renew(&mut self, lease: TimeDelta, runs: &[(Uuid, i64)]) -> BTreeSet<Uuid> {
        let until = self.clock + lease;
        let ours = |ledger: &mut Ledger, id: Uuid, epoch: i64| {
            ledger.running(id, epoch).map(|row| row.lease_until = Some(until)).is_some()
        };
        runs.iter().filter(|(id, epoch)| ours(self, *id, *epoch)).map(|(id, _)| *id).collect()
    }

    fn running(&mut self, id: Uuid, epoch: i64) -> Option<&mut Row> {
        let weak = self.weakness == Weakness::ForgetsEpochs;
        let (job, due_at) = self.open.get(&id)?.clone();
        self.jobs
            .get_mut(&job)?
            .rows
            .get_mut(&due_at)
            .filter(|row| weak || row.epoch == epoch && row.state == "running")
    }

    /// `runs::fence`, and the effect in the same transaction.
    pub fn effect(&mut self, id: Uuid, epoch: i64) -> bool {
        let clock = self.clock;
        let weak = self.weakness == Weakness::ForgetsEpochs;
        match self.running(id, epoch) {
            Some(row) if weak || row.lease_until.is_some_and(|until| until > clock) => {
                row.effects += 1;
                true
            }
            _ => false,
        }
    }

    /// `runs::finish_in`.
    pub fn finish(&mut self, id: Uuid, epoch: i64, to: &'static str) -> bool {
        let clock = self.clock;
        let weak = self.weakness;
        let Some(row) = self.running(id, epoch) else { return false };
        (row.state, row.lease_until, row.epoch) = (to, None, row.epoch + 1);
        if weak != Weakness::ForgetsEpochs {
            self.free(id, clock, to);
        } else if let Some((job, _)) = self.open.get(&id).cloned()
            && let Some(state) = self.jobs.get_mut(&job)
        {
            state.running.take_if(|(running, _)| *running == id);
        }
        true
    }

    fn free(&mut self, id: Uuid, clock: Time, to: &'static str) {
        let Some((job, _)) = self.open.remove(&id) else { return };
        let Some(state) = self.jobs.get_mut(&job) else { return };
        state.running.take_if(|(running, _)| *running == id);
        if to == "succeeded" {
            state.last_success_at = Some(clock);
            self.story.push((job, Told::Succeeded));
        }
    }

    /// `orphans::reap`.
    pub fn reap(&mut self) -> usize {
        let clock = self.clock;
        if self.weakness == Weakness::NeverReaps {
            return 0;
        }
        let far = clock + TimeDelta::minutes(10);
        let mut lost = Vec::new();
        for (id, (job, due_at)) in &self.open {
            let row = self.jobs.get_mut(job).and_then(|state| state.rows.get_mut(due_at));
            if let Some(row) = row.filter(|row| row.state == "running")
                && row.lease_until.is_some_and(|until| until < clock || until > far)
            {
                (row.state, row.reason, row.lease_until) = ("lost", Some("lease_expired"), None);
                row.epoch += 1;
                lost.push(*id);
            }
        }
        for id in &lost {
            if self.weakness == Weakness::ForgetsEpochs {
                // It stays known, so that its zombie finds it.
                let (job, _) = self.open[id].clone();
                self.jobs.get_mut(&job).unwrap().running.take_if(|(running, _)| running == id);
            } else {
                self.free(*id, clock, "lost");
            }
        }
        lost.len()
    }

    /// `requests::enqueue`.
    pub fn ask(&mut self, job: &JobName) {
        // The server's clock is finer than the simulation's.
        let (id, due_at) = (self.id(), self.clock + TimeDelta::microseconds(137));
        let all_paused = self.all_paused;
        let Some(state) = self.jobs.get_mut(job) else { return };
        if state.queued.is_none()
            && !state.paused
            && !all_paused
            && !state.rows.contains_key(&due_at)
        {
            state.rows.insert(due_at, Row::new(id, Kind::Manual, due_at, "queued"));
            state.queued = Some(id);
        }
    }

    /// `requests::cancel` of what waits.
    pub fn cancel(&mut self, job: &JobName) {
        if let Some(id) = self.jobs.get(job).and_then(|state| state.queued) {
            self.end_queued(job, id, "cancelled", "requested");
        }
    }

    fn end_queued(&mut self, job: &JobName, id: Uuid, to: &'static str, reason: &'static str) {
        let Some(state) = self.jobs.get_mut(job) else { return };
        state.queued.take_if(|queued| *queued == id);
        if let Some(row) =
            state.rows.values_mut().rev().find(|row| row.id == id && row.state == "queued")
        {
            (row.state, row.reason) = (to, Some(reason));
        }
    }
}

impl Row {
    fn new(id: Uuid, kind: Kind, due_at: Time, state: &'static str) -> Row {
        let (last_due_at, count, reason, epoch) = (None, 0, None, 1);
        Row {
            id,
            kind,
            due_at,
            last_due_at,
            count,
            state,
            reason,
            epoch,
            lease_until: None,
            effects: 0,
        }
    }
}
