//! From what is due to what runs: claims instants for the observer, a lane each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::config::{self, Config, JobName};
use crate::db::Error;
use crate::migrate::source;
use crate::store::runs::{Claim, Missed, State};

use super::lanes::{Lane, Lanes};
use super::planner;
use super::runner::{Order, Runner};

/// How long one look may go on claiming; what is left stays due for the next.
const LOOK_BOUND: Duration = Duration::from_secs(20);

/// Claims and starts what is due of one database.
pub struct Dispatcher {
    runner: Arc<Runner>,
    lanes: Lanes,
    /// Up to which instant each job is accounted for; empty until registered.
    floors: BTreeMap<JobName, DateTime<Utc>>,
    specs: BTreeMap<JobName, String>,
    /// Partitions are looked after as soon as this instance observes: writes of the next hour may
    /// need one.
    partitions_at_once: bool,
    /// The database's clock less this instance's, as last read.
    skew: TimeDelta,
}

/// What holds for everything that is fired in one round.
#[derive(Debug, Clone, Copy)]
pub struct Conditions<'a> {
    pub config: &'a Arc<Config>,
    /// Whether the bundled set is applied.
    pub zentry: bool,
    /// Whether this instance is paused by its local file or the database's flag.
    pub paused: bool,
}

impl Dispatcher {
    /// With so many lanes.
    pub fn new(runner: Arc<Runner>, lanes: u32) -> Dispatcher {
        let (floors, specs) = (BTreeMap::new(), BTreeMap::new());
        let skew = TimeDelta::zero();
        Dispatcher { runner, lanes: Lanes::new(lanes), floors, specs, partitions_at_once: true, skew }
    }

    /// Reads the ledger again before the next claim: the configuration changed.
    pub fn forget(&mut self) {
        self.floors.clear();
    }

    /// Due instants follow the database's clock, by which floors and leases go too: an instance whose
    /// own clock is ahead would claim instants that are not due, and nobody could run them after.
    pub fn set_clock(&mut self, clock: DateTime<Utc>) {
        self.skew = clock - Utc::now();
    }

    fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.skew
    }

    /// This instance observes no more; what is due next is the observer's to say.
    pub fn stand_down(&mut self) {
        for name in std::mem::take(&mut self.specs).into_keys() {
            self.withdraw(name);
        }
        self.forget();
    }

    fn withdraw(&self, name: JobName) {
        // An error says that there was no such series.
        let _ = self.runner.metrics.job_next_due.remove_label_values(&[self.target(), name.as_str()]);
        self.runner.standing.update(name, |standing| standing.next_due = None);
    }

    /// This instance observes since now; what it knew of the ledger is old.
    pub fn take_over(&mut self) {
        self.forget();
        self.partitions_at_once = true;
    }

    /// Claims and starts everything that is due. An instant for which no lane is free stays due.
    pub async fn fire_due(&mut self, now: Conditions<'_>) -> Result<(), Error> {
        let begun = Instant::now();
        if self.floors.is_empty() {
            self.register(now.config).await?;
        }
        if self.partitions_at_once {
            let enabled = is_enabled(now.config, JobName::Partitions);
            // Above the floor, which a job that is new has at this very moment.
            let floor = self.floors.get(&JobName::Partitions).copied().unwrap_or_default();
            let at = self.now().trunc_subsecs(3).max(floor.trunc_subsecs(3) + TimeDelta::milliseconds(1));
            self.partitions_at_once = enabled && !self.fire(now, JobName::Partitions, at, None).await?;
        }
        for (name, floor) in self.longest_waiting_first() {
            let Some(job) = now.config.jobs.builtin.get(&name).filter(|job| job.enabled) else {
                self.withdraw(name);
                continue;
            };
            let due = planner::due(&job.schedule, job.timezone, floor, self.now());
            if let Some(next) = due.next {
                self.announce(name, next);
            }
            if let Some(due_at) = due.fire
                && begun.elapsed() < LOOK_BOUND
            {
                self.fire(now, name, due_at, due.missed).await?;
            }
        }
        Ok(())
    }

    /// So that a frequent job does not take the lane from another each time.
    fn longest_waiting_first(&self) -> Vec<(JobName, DateTime<Utc>)> {
        let mut floors: Vec<_> = self.floors.iter().map(|(name, floor)| (*name, *floor)).collect();
        floors.sort_by_key(|(_, floor)| *floor);
        floors
    }

    /// Claims an instant, after recording those before it that nobody ran. False when no lane is free.
    async fn fire(
        &mut self,
        now: Conditions<'_>,
        name: JobName,
        due_at: DateTime<Utc>,
        missed: Option<Missed>,
    ) -> Result<bool, Error> {
        let (Some(spec), Some(floor)) = (self.specs.get(&name), self.floors.get(&name)) else { return Ok(true) };
        if due_at <= *floor {
            return Ok(true);
        }
        let Some(lane) = self.lanes.take(name) else { return Ok(false) };
        if let Some(missed) = missed {
            if self.runner.ledger.missed(name, missed).await? {
                tracing::warn!(database = self.target(), job = name.as_str(), first = %missed.first,
                    last = %missed.last, count = missed.count, "instants passed that nobody ran");
            }
            self.floors.insert(name, missed.last);
        }
        let claim = self.runner.ledger.claim(name, due_at, spec, now.paused).await?;
        self.floors.insert(name, due_at);
        self.act(now, name, due_at, claim, lane);
        Ok(true)
    }

    fn act(&self, now: Conditions<'_>, job: JobName, due_at: DateTime<Utc>, claim: Claim, lane: Lane) {
        match claim {
            Claim::Run { id, epoch } => {
                let (config, zentry) = (Arc::clone(now.config), now.zentry);
                self.runner.start(Order { job, id, epoch, due_at, config, zentry }, lane);
            }
            Claim::Skipped { reason, .. } => {
                tracing::info!(database = self.target(), job = job.as_str(), due_at = %due_at, reason, "instant skipped");
                let labels = [self.target(), job.as_str(), State::Skipped.as_str()];
                self.runner.metrics.job_runs.with_label_values(&labels).inc();
            }
            Claim::Taken => {}
        }
    }

    /// Makes the jobs known to the ledger, and remembers how their last runs ended.
    async fn register(&mut self, config: &Config) -> Result<(), Error> {
        self.specs = config
            .jobs
            .builtin
            .iter()
            .filter(|(name, _)| !matches!(name, JobName::HealthProbe | JobName::ConnectionMetrics))
            .map(|(name, job)| (*name, spec_hash(job)))
            .collect();
        let jobs: Vec<(JobName, String)> = self.specs.iter().map(|(name, hash)| (*name, hash.clone())).collect();
        let floors = self.runner.ledger.register(&jobs).await?;
        for last in self.runner.ledger.last_runs().await? {
            let Ok(job) = last.job.parse::<JobName>() else { continue };
            if let Some(at) = last.last_success_at {
                let gauge = &self.runner.metrics.job_last_success;
                gauge.with_label_values(&[self.target(), job.as_str()]).set(seconds(at));
            }
            self.runner.standing.update(job, |standing| {
                standing.last_success_at = last.last_success_at;
                standing.last_finished_at = Some(last.finished_at);
                standing.failures = u32::try_from(last.failures).unwrap_or(u32::MAX);
                standing.last_error = (standing.failures > 0).then_some(last.error).flatten();
            });
        }
        self.floors = floors.into_iter().collect();
        Ok(())
    }

    fn announce(&self, job: JobName, next: DateTime<Utc>) {
        self.runner.metrics.job_next_due.with_label_values(&[self.target(), job.as_str()]).set(seconds(next));
        self.runner.standing.update(job, |standing| standing.next_due = Some(next));
    }

    fn target(&self) -> &str {
        self.runner.db.name()
    }
}

fn is_enabled(config: &Config, name: JobName) -> bool {
    config.jobs.builtin.get(&name).is_some_and(|job| job.enabled)
}

/// Names a job's specification, so that instances with another one stand aside.
fn spec_hash(job: &config::Job) -> String {
    let text = format!("{} {} {}", job.schedule.text(), job.timezone, job.timeout.as_millis());
    source::checksum(text.as_bytes())[..16].to_owned()
}

/// For gauges.
pub(super) fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
