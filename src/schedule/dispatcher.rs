//! From what is due to what runs: claims instants for the observer, a lane each.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{self, Config, JobName};
use crate::db::Error;
use crate::migrate::source;
use crate::store::runs::{Claim, State};

use super::planner;
use super::runner::{Order, Runner};

/// Claims and starts what is due of one database.
pub struct Dispatcher {
    runner: Arc<Runner>,
    lanes: Arc<Semaphore>,
    /// Up to which instant each job is accounted for; empty until registered.
    floors: BTreeMap<JobName, DateTime<Utc>>,
    specs: BTreeMap<JobName, String>,
}

impl Dispatcher {
    /// With so many lanes.
    pub fn new(runner: Arc<Runner>, lanes: u32) -> Dispatcher {
        let lanes = Arc::new(Semaphore::new(lanes as usize));
        Dispatcher { runner, lanes, floors: BTreeMap::new(), specs: BTreeMap::new() }
    }

    /// Reads the ledger again before the next claim: this instance was not the observer meanwhile,
    /// or the configuration changed.
    pub fn forget(&mut self) {
        self.floors.clear();
    }

    /// Claims and starts everything that is due. An instant for which no lane is free stays due.
    pub async fn fire_due(&mut self, config: &Arc<Config>, zentry: bool, paused: bool) -> Result<(), Error> {
        if self.floors.is_empty() {
            self.register(config).await?;
            // Partitions are looked after at once: writes of the next hour may need one.
            self.fire(config, JobName::Partitions, Utc::now().trunc_subsecs(3), zentry, paused).await?;
        }
        let now = Utc::now();
        for (name, floor) in self.floors.clone() {
            let Some(job) = config.jobs.builtin.get(&name).filter(|job| job.enabled) else { continue };
            let due = planner::due(&job.schedule, job.timezone, floor, now);
            if let Some(next) = due.next {
                self.announce(name, next);
            }
            let Some(due_at) = due.fire else { continue };
            if let Some(missed) = &due.missed {
                tracing::warn!(database = self.target(), job = name.as_str(), first = %missed.first, last = %missed.last,
                    count = missed.count, "instants passed while nobody ran");
                self.runner.ledger.missed(name, missed).await?;
            }
            self.fire(config, name, due_at, zentry, paused).await?;
        }
        Ok(())
    }

    async fn fire(
        &mut self,
        config: &Arc<Config>,
        name: JobName,
        due_at: DateTime<Utc>,
        zentry: bool,
        paused: bool,
    ) -> Result<(), Error> {
        let (Some(spec), Some(floor)) = (self.specs.get(&name), self.floors.get(&name)) else { return Ok(()) };
        if due_at <= *floor {
            return Ok(());
        }
        let Ok(lane) = Arc::clone(&self.lanes).try_acquire_owned() else { return Ok(()) };
        let claim = self.runner.ledger.claim(name, due_at, spec, paused).await?;
        self.floors.insert(name, due_at);
        self.act(config, name, due_at, zentry, claim, lane);
        Ok(())
    }

    fn act(
        &self,
        config: &Arc<Config>,
        job: JobName,
        due_at: DateTime<Utc>,
        zentry: bool,
        claim: Claim,
        lane: OwnedSemaphorePermit,
    ) {
        match claim {
            Claim::Run { id, epoch } => {
                self.runner.start(Order { job, id, epoch, due_at, config: Arc::clone(config), zentry }, lane);
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

/// Names a job's specification, so that instances with another one stand aside.
fn spec_hash(job: &config::Job) -> String {
    let text = format!("{} {} {}", job.schedule.text(), job.timezone, job.timeout.as_millis());
    source::checksum(text.as_bytes())[..16].to_owned()
}

/// For gauges.
pub(super) fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
