//! What is wanted of the ledger next, for all jobs of one database. No clock and no I/O of its own:
//! it is told the time, what the ledger answered and what it heard, and says what to ask.
//!
//! ```text
//! adopt (configuration, rows) ─► look (now) ─► asks ─► [ledger] ─► answered (floors)
//!                        hear (queued, successes) ─┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::config::{
    AfterFailure, Builtin, Config, Job, JobName, Mode, Overlap, SqlWork, Trigger, Work,
};
use crate::migrate::source;
use crate::store::claims::{
    Cause, ClaimKind, ClaimRequest, ClaimResult, Fire, SkipReason, Verdict,
};
use crate::store::requests::{PendingRequests, QueuedRun};
use crate::store::runs::RegisteredJob;

use super::planner::{self, Due, RunPolicy};

/// From how far ahead of the clock on a watermark is taken back: the clock was wrong when it was raised.
/// Less than this is waited for.
const REWIND_FROM: TimeDelta = TimeDelta::seconds(60);
/// When to ask again for an instant that the ledger holds back.
const HELD_FOR: TimeDelta = TimeDelta::seconds(1);
/// How long a run that was asked for may wait for its slot and a lane.
pub const REQUEST_WAIT: TimeDelta = TimeDelta::hours(1);

/// The jobs of one database, and how far each is accounted for.
#[derive(Debug, Clone, Default)]
pub struct DueQueue {
    jobs: BTreeMap<JobName, Entry>,
    successes: BTreeMap<JobName, DateTime<Utc>>,
    /// When it was looked last.
    looked: Option<DateTime<Utc>>,
    /// These run at the next look, whatever their schedule.
    at_once: BTreeSet<JobName>,
}

#[derive(Debug, Clone)]
struct Entry {
    job: Job,
    /// Whether it runs by itself.
    active: bool,
    policy: RunPolicy,
    spec_hash: String,
    watermark: DateTime<Utc>,
    above: Vec<DateTime<Utc>>,
    queued: Option<QueuedRun>,
    /// The slot was not free for it; before then it is not asked for again, and what comes due meanwhile
    /// is recorded.
    queued_wake: Option<DateTime<Utc>>,
    /// There is nothing to ask before then.
    wake: Option<DateTime<Utc>>,
    /// The instant that is due, or will be next.
    next: Option<DateTime<Utc>>,
}

impl DueQueue {
    /// The jobs to register for a database, with their specification.
    pub fn specs(config: &Config, database: &str) -> Vec<(JobName, String)> {
        jobs_of(config, database)
            .map(|(name, job)| (name.clone(), spec_hash(job, config.mode)))
            .collect()
    }

    /// Takes in the configuration and what the ledger has of each job.
    pub fn adopt(&mut self, config: &Config, database: &str, registered: Vec<RegisteredJob>) {
        self.jobs.clear();
        for row in registered {
            let Some((name, job)) = config.jobs.all.get_key_value(row.job.as_str()) else {
                continue;
            };
            if let Some(at) = row.last_success_at {
                self.successes.insert(name.clone(), at);
            }
            let entry = Entry {
                active: job.is_active(config.mode),
                policy: RunPolicy::of(job, name, database),
                spec_hash: spec_hash(job, config.mode),
                watermark: row.watermark,
                above: row.above,
                queued: None,
                queued_wake: None,
                wake: None,
                next: None,
                job: job.clone(),
            };
            self.jobs.insert(name.clone(), entry);
        }
    }

    /// Whether nothing was adopted since the last [`DueQueue::forget`].
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// What is known of the ledger may be old; returns the names of the jobs. What was to run at once still is.
    pub fn forget(&mut self) -> Vec<JobName> {
        self.successes.clear();
        std::mem::take(&mut self.jobs).into_keys().collect()
    }

    /// The jobs that others follow.
    pub fn upstream_jobs(&self) -> Vec<String> {
        let after = |entry: &Entry| match &entry.job.trigger {
            Trigger::After(upstream_jobs) if entry.active => upstream_jobs.clone(),
            _ => Vec::new(),
        };
        let mut upstream_jobs: Vec<String> =
            self.jobs.values().flat_map(after).map(|name| name.as_str().to_owned()).collect();
        upstream_jobs.sort();
        upstream_jobs.dedup();
        upstream_jobs
    }

    /// Takes in what waits in the ledger.
    pub fn poll_requests(&mut self, heard: &PendingRequests) {
        for (name, entry) in &mut self.jobs {
            let queued = heard.queued.iter().find(|queued| queued.job == name.as_str());
            if queued.map(|queued| queued.id) != entry.queued.as_ref().map(|queued| queued.id) {
                (entry.queued, entry.queued_wake) = (queued.cloned(), None);
            }
        }
        for success in &heard.succeeded {
            let leader = JobName::new(&success.job);
            if self.successes.insert(leader.clone(), success.at) == Some(success.at) {
                continue;
            }
            // What followers waited for may have been a success of a time that the clock went back from.
            for entry in self.jobs.values_mut() {
                if matches!(&entry.job.trigger, Trigger::After(upstream_jobs) if upstream_jobs.contains(&leader))
                {
                    entry.wake = None;
                }
            }
        }
    }

    /// The job runs at the next look, as if an instant of it were due.
    pub fn at_once(&mut self, builtin: Builtin) {
        self.at_once.insert(builtin.into());
        if let Some(entry) = self.jobs.get_mut(builtin.as_str()) {
            entry.wake = None;
        }
    }

    /// What to ask of the ledger: what only records first, then what waits longest, so that a frequent
    /// job does not take the lane from another each time.
    pub fn look(&mut self, now: DateTime<Utc>, paused: bool) -> Vec<ClaimRequest> {
        let mut asks: Vec<(Option<DateTime<Utc>>, ClaimRequest)> = Vec::new();
        if self.looked.replace(now).is_some_and(|before| now < before) {
            // The clock was set back, maybe behind the floors: nothing that was waited for stands.
            self.jobs.values_mut().for_each(|entry| (entry.wake, entry.queued_wake) = (None, None));
        }
        let successes = &self.successes;
        for (name, entry) in &mut self.jobs {
            let waits = |wake: Option<DateTime<Utc>>| wake.is_some_and(|wake| wake > now);
            if waits(entry.wake) && (entry.queued.is_none() || waits(entry.queued_wake)) {
                continue;
            }
            let at_once = self.at_once.contains(name);
            let Some((since, wanted)) = entry.wanted(successes, at_once, now) else { continue };
            let (job, spec_hash) = (name.clone(), entry.spec_hash.clone());
            asks.push((
                since,
                ClaimRequest { job, spec_hash, watermark: entry.watermark, paused, kind: wanted },
            ));
        }
        asks.sort_by_key(|(since, _)| *since);
        asks.into_iter().map(|(_, ask)| ask).collect()
    }

    /// Takes in what became of an ask. False when what is known of the ledger is too old to go on with,
    /// so that it has to be read again: a watermark went back, and what lies above it is not known here.
    pub fn answered(
        &mut self,
        ask: &ClaimRequest,
        answer: &ClaimResult,
        now: DateTime<Utc>,
    ) -> bool {
        let Some(entry) = self.jobs.get_mut(&answer.job) else { return true };
        // With the watermark as it was, another specification is registered, maybe by who observed before.
        let not_by_floor = answer.verdict == Verdict::Stale && answer.watermark == ask.watermark;
        let went_back = answer.watermark < ask.watermark
            || matches!(ask.kind, ClaimKind::Rewind { .. })
            || not_by_floor && matches!(ask.kind, ClaimKind::Due { .. });
        entry.watermark = answer.watermark;
        entry.above.retain(|at| *at > answer.watermark);
        match (answer.verdict, &ask.kind) {
            (Verdict::Defer, ClaimKind::Due { .. }) => entry.wake = Some(now + HELD_FOR),
            (verdict, ClaimKind::Due { fire, .. }) => {
                entry.wake = None;
                // Without a lane for it, only what came before was asked for.
                if verdict != Verdict::Stale && fire.is_some() {
                    self.at_once.remove(&answer.job);
                }
                if let (Verdict::Queue, Some(run)) = (verdict, answer.run) {
                    let job = answer.job.as_str().to_owned();
                    entry.queued =
                        Some(QueuedRun { job, id: run.id, due_at: run.due_at, manual: false });
                    entry.queued_wake = Some(now + HELD_FOR);
                }
            }
            (Verdict::Defer, ClaimKind::Queued { .. }) => entry.queued_wake = Some(now + HELD_FOR),
            (_, ClaimKind::Queued { .. }) => (entry.queued, entry.queued_wake) = (None, None),
            (_, ClaimKind::Rewind { .. }) => entry.wake = None,
        }
        !went_back
    }

    /// A run of the job has ended: what was held back for it can be asked for.
    pub fn freed(&mut self, job: &JobName) {
        if let Some(entry) = self.jobs.get_mut(job) {
            (entry.wake, entry.queued_wake) = (None, None);
        }
    }

    /// When there is something to ask again, at the earliest; only known after a look. What was due at
    /// that look already waits for a lane, not for a time.
    pub fn next(&self) -> Option<DateTime<Utc>> {
        let queued = |entry: &Entry| entry.queued.as_ref().and(entry.queued_wake);
        let wakes = self.jobs.values().flat_map(|entry| [entry.wake, queued(entry)]).flatten();
        wakes.filter(|wake| self.looked.is_none_or(|looked| *wake > looked)).min()
    }

    /// When each job is due next, or has been due since; `None` for one that does not run by itself, or
    /// is not known yet.
    pub fn next_of_each(&self) -> impl Iterator<Item = (&JobName, Option<DateTime<Utc>>)> {
        self.jobs.iter().map(|(name, entry)| (name, entry.next))
    }

    /// How a range ends that reaches over an instant to which the watermark goes back.
    pub fn cut(
        &self,
        job: &JobName,
        first: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Option<(DateTime<Utc>, i32)> {
        let entry = self.jobs.get(job)?;
        Some(planner::count(entry.job.schedule()?, entry.policy.zone, first, to))
    }

    /// What the ledger's answer means for the job: its configuration, and by how much its runs are put off.
    pub fn job(&self, name: &JobName) -> Option<(&Job, TimeDelta)> {
        self.jobs.get(name).map(|entry| (&entry.job, entry.policy.offset))
    }
}

impl Entry {
    /// What to ask for, and since when it waits where it needs a lane.
    fn wanted(
        &mut self,
        successes: &BTreeMap<JobName, DateTime<Utc>>,
        at_once: bool,
        now: DateTime<Utc>,
    ) -> Option<(Option<DateTime<Utc>>, ClaimKind)> {
        if let Some(queued) =
            self.queued.as_ref().filter(|_| self.queued_wake.is_none_or(|wake| wake <= now))
        {
            let skip = self.too_late(queued, now);
            let since = skip.is_none().then_some(queued.due_at);
            return Some((since, ClaimKind::Queued { id: queued.id, skip }));
        }
        if self.wake.is_some_and(|wake| wake > now) {
            return None;
        }
        if self.watermark - now > REWIND_FROM {
            return Some((None, ClaimKind::Rewind { to: now.trunc_subsecs(3), cut: None }));
        }
        let Due { missed, mut fire, next } = self.due(successes, now);
        self.next = fire.or(next);
        let cause = match self.job.trigger {
            Trigger::After(_) => Cause::Chained,
            Trigger::Schedule(_) | Trigger::Request => Cause::Scheduled,
        };
        if at_once && self.active && fire.is_none() && self.policy.is_open(now) {
            // As an instant whose time to begin is now: those that jitter still holds back come after it.
            let after_all =
                missed.last().map_or(self.watermark, |range| range.last.max(self.watermark));
            let begins = (now - self.policy.offset).trunc_subsecs(3);
            fire = Some(begins.max(after_all.trunc_subsecs(3) + TimeDelta::milliseconds(1)));
        }
        if missed.is_empty() && fire.is_none() {
            // A follower waits for its upstream_jobs, of whom the ledger tells.
            self.wake = next;
            return None;
        }
        let overlap = self.job.overlap;
        let fire = fire.map(|due_at| Fire { due_at, cause, overlap });
        Some((fire.map(|fire| fire.due_at), ClaimKind::Due { missed, fire }))
    }

    fn due(&self, successes: &BTreeMap<JobName, DateTime<Utc>>, now: DateTime<Utc>) -> Due {
        match &self.job.trigger {
            _ if !self.active => Due::default(),
            Trigger::Schedule(schedule) => {
                planner::due(schedule, &self.policy, self.watermark, &self.above, now)
            }
            Trigger::After(upstream_jobs) => {
                let each: Vec<_> =
                    upstream_jobs.iter().map(|leader| successes.get(leader).copied()).collect();
                planner::due_after(&self.policy, self.watermark, &each, now)
            }
            Trigger::Request => Due::default(),
        }
    }

    fn too_late(&self, queued: &QueuedRun, now: DateTime<Utc>) -> Option<SkipReason> {
        let expired = match queued.manual {
            true => now - queued.due_at > REQUEST_WAIT,
            false => self.policy.is_expired(queued.due_at, now),
        };
        // Who asks for a run means now, window or not.
        match () {
            () if expired => Some(SkipReason::Expired),
            () if !queued.manual && !self.policy.is_open(now) => Some(SkipReason::Window),
            () => None,
        }
    }
}

/// The jobs of the ledger on a database.
pub fn jobs_of<'a>(
    config: &'a Config,
    database: &'a str,
) -> impl Iterator<Item = (&'a JobName, &'a Job)> {
    config.jobs.all.iter().filter(move |(_, job)| !job.is_measured() && job.is_for(database))
}

/// Names a job's specification, so that instances with another one stand aside. What stands before the
/// dash is its schedule: when that changes, the new one counts from then on.
fn spec_hash(job: &Job, mode: Mode) -> String {
    let trigger = match &job.trigger {
        Trigger::Schedule(schedule) => schedule.text().to_owned(),
        Trigger::After(upstream_jobs) => format!("after {upstream_jobs:?}"),
        Trigger::Request => String::new(),
    };
    let when = format!("{} {trigger} {}", job.is_active(mode), job.timezone);
    let work = match &job.work {
        Work::Builtin(builtin) => builtin.as_str().to_owned(),
        Work::Sql(work) => {
            let SqlWork { sql, transaction, role, login, search_path, lock_timeout } = work;
            format!("{transaction} {role:?} {login:?} {search_path:?} {lock_timeout:?} {sql}")
        }
    };
    let windows = |windows: &crate::config::Windows| windows.texts().collect::<Vec<_>>().join(",");
    let how = format!(
        "{:?} {} {} {:?} {:?} {} {:?} {:?} {} {} {work}",
        job.timeout,
        job.retries,
        job.overlap == Overlap::Queue,
        job.catch_up,
        job.deadline,
        job.catch_up_max,
        job.jitter,
        (windows(&job.window), windows(&job.blackout)),
        job.on_failure == AfterFailure::Pause,
        job.on_failure == AfterFailure::Ignore,
    );
    format!(
        "{}-{}",
        &source::checksum(when.as_bytes())[..12],
        &source::checksum(how.as_bytes())[..12]
    )
}

#[cfg(test)]
mod tests;
