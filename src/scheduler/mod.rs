//! When jobs run, who runs them, and how they ended.
//!
//! ```text
//! ticker (each second) ─► pipeline ─► planner: what is due?           pure
//!                            │     ─► worker_slots:   is there room?         a long run leaves one
//!                            │     ─► ledger:  claim (job, instant)   one row, one slot
//!                            │     ─► runner:  run it                 deadline, proven cancel, outcome
//!                            └─► lease: who observes                  on the database's clock
//! ```
//! One [`pipeline`] per database. Only the observer claims; the ledger's unique row keeps an instant
//! from running twice even while two instances believe that they observe.

pub mod due_queue;
pub mod dispatcher;
pub mod local_run;
pub mod worker_slots;
pub mod ledger;
pub mod job_status;
pub mod measure;
pub mod migrations;
pub mod pending_audit;
pub mod commands;
pub mod pause;
pub mod pipeline;
pub mod planner;
pub mod role;
pub mod runner;
pub mod schema;
pub mod ticker;
pub mod audit_watch;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::JobName;
use crate::jobs::progress::Progresses;
use crate::store::runs::RunState;

use migrations::Migrations;
use pause::Paused;

/// What is known here about each job: for health, metrics and answers.
#[derive(Debug, Default)]
pub struct RuntimeStatus {
    jobs: Mutex<BTreeMap<JobName, JobRuntimeStatus>>,
    /// How far the runs have come that are under way here.
    pub progress: Progresses,
    /// What this instance is to the database.
    role: Mutex<LeadershipStatus>,
    /// How the migrations stand.
    pub migrations: Migrations,
}

/// What this instance is to a database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LeadershipStatus {
    /// Whether it takes measurements and runs jobs.
    pub observer: bool,
    /// Who does, where another instance does.
    pub holder: Option<String>,
    /// By whom all jobs are paused, when they are.
    pub paused: Option<Paused>,
}

/// One job, as it stands.
#[derive(Debug, Clone, Default, Serialize)]
pub struct JobRuntimeStatus {
    pub last_state: Option<RunState>,
    /// Why the last run did not succeed.
    pub last_error: Option<String>,
    pub last_finished_at: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Runs in a row that failed, timed out or were lost.
    pub failures: u32,
    /// Whether its failures are nobody's concern but the ledger's.
    pub ignored: bool,
    pub next_due: Option<DateTime<Utc>>,
    /// What the last run could not do for want of a privilege or an index, with what mends it.
    pub warnings: Vec<String>,
    /// Set when that was everything there was to do.
    pub not_permitted: Option<String>,
    /// What the log told of it since it failed last, and when; reasons are a closed set.
    #[serde(skip)]
    said: BTreeMap<String, Instant>,
}

/// How often the log says the same of a job that runs often. Less than a minute, by more than a run of a job
/// of each minute may be early or late: of that one each run is told.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(50);

impl RuntimeStatus {
    /// Forgets the jobs that are no more.
    pub fn retain(&self, keeps: impl Fn(&JobName) -> bool) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| keeps(name));
    }

    /// Notes what is to be said of a job; false when the same was said a moment ago. A job that runs
    /// each second would else fill the log with its successes.
    pub fn is_news(&self, job: &JobName, what: &str) -> bool {
        self.jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(job.clone())
            .or_default()
            .is_news(what, Instant::now())
    }

    /// What this instance is to the database.
    pub fn role(&self) -> LeadershipStatus {
        self.role.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in what it is now.
    pub fn set_role(&self, role: LeadershipStatus) {
        *self.role.lock().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// A copy of everything.
    pub fn read(&self) -> BTreeMap<JobName, JobRuntimeStatus> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is known of one job.
    pub fn update(&self, job: &JobName, change: impl FnOnce(&mut JobRuntimeStatus)) {
        change(
            self.jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(job.clone())
                .or_default(),
        );
    }
}

impl JobRuntimeStatus {
    /// Notes what is to be said of the job; false when the same was said a moment ago.
    fn is_news(&mut self, what: &str, now: Instant) -> bool {
        let news = self
            .said
            .get(what)
            .is_none_or(|at| now.saturating_duration_since(*at) >= SAY_AGAIN_AFTER);
        if news {
            self.said.insert(what.to_owned(), now);
        }
        news
    }

    /// Takes in what a run that ended by itself could not do. True when that is not what was known.
    pub fn limited(&mut self, warnings: &[String], not_permitted: Option<&str>) -> bool {
        let changed = self.warnings != warnings || self.not_permitted.as_deref() != not_permitted;
        self.warnings = warnings.to_vec();
        self.not_permitted = not_permitted.map(str::to_owned);
        changed
    }

    /// Takes in how a run ended.
    pub fn ended(&mut self, state: RunState, error: Option<String>, at: DateTime<Utc>) {
        self.last_state = Some(state);
        self.last_finished_at = Some(at);
        match state {
            RunState::Succeeded => {
                self.failures = 0;
                self.last_success_at = Some(at);
                self.last_error = None;
            }
            RunState::Failed | RunState::TimedOut | RunState::Lost => {
                self.failures += 1;
                self.last_error = error;
                self.said.clear();
            }
            // Neither a success nor a failure: what was known before still holds.
            RunState::Skipped | RunState::Cancelled => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many runs are told of, each `millis` after the one before.
    fn told(millis: impl Fn(u64) -> u64, runs: u64) -> usize {
        let (mut standing, start) = (JobRuntimeStatus::default(), Instant::now());
        (0..runs)
            .filter(|run| {
                standing.is_news("succeeded", start + Duration::from_millis(millis(*run)))
            })
            .count()
    }

    #[test]
    fn each_run_of_a_job_of_each_minute_is_told_and_few_of_one_of_each_second() {
        // Now early, now late: what a run takes is not always the same.
        assert_eq!(told(|run| run * 60_000 + run % 2 * 4_000, 60), 60);
        assert_eq!(told(|run| run * 60_000 - run.min(1) * (run % 3) * 700, 60), 60);
        assert_eq!(told(|run| run * 1_000, 600), 12);
    }
}
