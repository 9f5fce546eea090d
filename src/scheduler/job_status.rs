//! What the configuration plans for each job, together with what the ledger says of it. Pure.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::{Config, Job, JobName, Trigger, Work, Zone};
use crate::scheduler::due_queue::DueQueue;
use crate::scheduler::planner::{self, RunPolicy};
use crate::store::overview::{self, Overview};

/// How many instants ahead are told.
const NEXT: usize = 5;

/// A job, as configured and as it stands.
#[derive(Debug, Serialize)]
pub struct JobStatus {
    pub name: String,
    /// `builtin` or `sql`; absent where the configuration does not have it.
    pub work: Option<&'static str>,
    pub state: State,
    pub schedule: Option<String>,
    /// The jobs that it follows.
    pub after: Vec<JobName>,
    pub timezone: Option<&'static str>,
    /// The next instants in the job's zone, where it runs by a schedule and by itself.
    pub next: Vec<DateTime<Zone>>,
    /// Whether the instances go by another specification than this configuration's.
    pub config_differs: bool,
    #[serde(flatten)]
    pub ledger: Option<overview::JobSummary>,
}

/// What matters most of how a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Enabled,
    Running,
    Queued,
    Paused,
    Quarantined,
    Disabled,
    Measured,
    NotConfigured,
    /// The ledger could not be asked.
    Unknown,
}

impl State {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Enabled => "enabled",
            State::Running => "running",
            State::Queued => "queued",
            State::Paused => "paused",
            State::Quarantined => "quarantined",
            State::Disabled => "disabled",
            State::Measured => "measured",
            State::NotConfigured => "not_configured",
            State::Unknown => "unknown",
        }
    }
}

/// All jobs of a database: the configured ones by name, then those that only the ledger knows. Without
/// an overview the ledger could not be read, and there is the plan alone: how an enabled job stands is unknown.
pub fn merge(
    config: &Config,
    database: &str,
    overview: Option<&Overview>,
    now: DateTime<Utc>,
) -> Vec<JobStatus> {
    let specs = DueQueue::specs(config, database);
    let all_paused = overview.is_some_and(|overview| overview.paused.is_some());
    let of_ledger = |name: &str| overview?.jobs.iter().find(|job| job.name == name);
    let configured =
        config.jobs.all.iter().filter(|(_, job)| job.is_for(database)).map(|(name, job)| {
            let ledger = of_ledger(name.as_str());
            let ours = specs.iter().find(|(spec, _)| spec == name).map(|(_, hash)| hash);
            let theirs = ledger.and_then(|job| job.spec_hash.as_ref());
            let active = job.is_active(config.mode);
            planned(name, job, database, active, now).with(
                ledger,
                all_paused,
                ours.zip(theirs).is_some_and(|(a, b)| a != b),
            )
        });
    let mut listed: Vec<JobStatus> = configured.collect();
    let is_known = |name: &str| listed.iter().any(|job| job.name == name);
    let strangers: Vec<JobStatus> = overview
        .map(|overview| overview.jobs.as_slice())
        .unwrap_or_default()
        .iter()
        .filter(|job| !is_known(&job.name))
        .map(stranger)
        .collect();
    listed.extend(strangers);
    if overview.is_none() {
        // It may be paused, or run.
        let enabled = listed.iter_mut().filter(|job| job.state == State::Enabled);
        enabled.for_each(|job| job.state = State::Unknown);
    }
    listed
}

fn planned(
    name: &JobName,
    job: &Job,
    database: &str,
    active: bool,
    now: DateTime<Utc>,
) -> JobStatus {
    let next = match job.schedule().filter(|_| active) {
        Some(schedule) => {
            planner::upcoming(schedule, &RunPolicy::of(job, name, database), now, NEXT)
        }
        None => Vec::new(),
    };
    JobStatus {
        name: name.as_str().to_owned(),
        work: Some(if matches!(job.work, Work::Builtin(_)) { "builtin" } else { "sql" }),
        state: match (active, job.is_measured()) {
            (false, _) => State::Disabled,
            (true, true) => State::Measured,
            (true, false) => State::Enabled,
        },
        schedule: job.schedule().map(|schedule| schedule.text().to_owned()),
        after: match &job.trigger {
            Trigger::After(upstream_jobs) => upstream_jobs.clone(),
            Trigger::Schedule(_) | Trigger::Request => Vec::new(),
        },
        timezone: Some(job.timezone.name()),
        next: next.into_iter().map(|at| at.with_timezone(&job.timezone)).collect(),
        config_differs: false,
        ledger: None,
    }
}

fn stranger(job: &overview::JobSummary) -> JobStatus {
    JobStatus {
        name: job.name.clone(),
        work: None,
        state: State::NotConfigured,
        schedule: None,
        after: Vec::new(),
        timezone: None,
        next: Vec::new(),
        config_differs: false,
        ledger: Some(job.clone()),
    }
}

impl JobStatus {
    fn with(
        mut self,
        ledger: Option<&overview::JobSummary>,
        all_paused: bool,
        config_differs: bool,
    ) -> JobStatus {
        let paused = all_paused || ledger.is_some_and(|job| job.paused.is_some());
        // A disabled job runs when it is asked to, and its pause matters then only.
        self.state = match ledger {
            _ if self.state == State::Measured => self.state,
            Some(job) if job.running.is_some() => State::Running,
            Some(job) if job.quarantined.is_some() => State::Quarantined,
            Some(job) if job.queued.is_some() => State::Queued,
            _ if paused && self.state == State::Enabled => State::Paused,
            _ => self.state,
        };
        self.config_differs = config_differs;
        self.ledger = ledger.cloned();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Builtin, SqlWork};
    use crate::store::overview::OpenRun;
    use crate::store::pauses::Pause;
    use uuid::Uuid;

    fn row(name: &str) -> overview::JobSummary {
        overview::JobSummary {
            name: name.to_owned(),
            spec_hash: None,
            paused: None,
            running: None,
            queued: None,
            quarantined: None,
            last: None,
            last_success_at: None,
            consecutive_failures: 0,
            succeeded_total: 0,
            failed_total: 0,
            skipped_total: 0,
            average_ms: None,
            p95_ms: None,
        }
    }

    fn now() -> DateTime<Utc> {
        "2026-03-28T12:00:00Z".parse().unwrap()
    }

    fn pause() -> Option<Pause> {
        Some(Pause { by: "me".to_owned(), at: now(), reason: None })
    }

    fn open() -> Option<OpenRun> {
        Some(OpenRun { id: Uuid::nil(), since: now(), instance: None, actor: None })
    }

    fn state(config: &Config, overview: &Overview, name: &str) -> State {
        merge(config, "main", Some(overview), now())
            .iter()
            .find(|job| job.name == name)
            .unwrap()
            .state
    }

    #[test]
    fn what_matters_most_is_the_state() {
        let config = Config::default();
        let of = |change: fn(&mut overview::JobSummary)| {
            let mut job = row("retention");
            change(&mut job);
            state(&config, &Overview { jobs: vec![job], ..Overview::default() }, "retention")
        };
        assert_eq!(of(|_| ()), State::Enabled);
        assert_eq!(of(|job| job.paused = pause()), State::Paused);
        assert_eq!(of(|job| (job.paused, job.queued) = (pause(), open())), State::Queued);
        assert_eq!(
            of(|job| (job.queued, job.quarantined) = (open(), Some(Uuid::nil()))),
            State::Quarantined
        );
        assert_eq!(
            of(|job| (job.running, job.quarantined) = (open(), Some(Uuid::nil()))),
            State::Running
        );
        let all = Overview { paused: pause(), ..Overview::default() };
        assert_eq!(state(&config, &all, "vacuum"), State::Paused);
        assert_eq!(
            state(&config, &all, "health-probe"),
            State::Measured,
            "measuring goes on while jobs are paused"
        );
    }

    #[test]
    fn what_does_not_run_by_itself_has_no_next_instant() {
        let mut config = Config::default();
        config.jobs.all.get_mut(Builtin::Vacuum.as_str()).unwrap().enabled = false;
        let work = SqlWork {
            sql: "SELECT 1".to_owned(),
            transaction: true,
            role: None,
            login: None,
            search_path: "public".to_owned(),
            lock_timeout: std::time::Duration::from_secs(1),
        };
        let job = Job { trigger: Job::of(Builtin::Vacuum).trigger, ..Job::sql(work) };
        config.jobs.all.insert(JobName::new("tally"), job);
        let listed = |config: &Config, name: &str| {
            let overview = Overview::default();
            let job = merge(config, "main", Some(&overview), now())
                .into_iter()
                .find(|job| job.name == name)
                .unwrap();
            (job.state, job.next.len())
        };
        assert_eq!(listed(&config, "vacuum"), (State::Disabled, 0));
        assert_eq!(listed(&config, "tally"), (State::Enabled, 5));
        config.mode = crate::config::Mode::Observe;
        assert_eq!(
            listed(&config, "tally"),
            (State::Disabled, 0),
            "it changes nothing of the user's"
        );
        assert_eq!(
            listed(&config, "retention"),
            (State::Enabled, 5),
            "it keeps pgsteward's own tables"
        );
    }

    #[test]
    fn without_the_ledger_an_enabled_job_may_stand_in_any_way() {
        let mut config = Config::default();
        config.jobs.all.get_mut("vacuum").unwrap().enabled = false;
        let listed = merge(&config, "main", None, now());
        let state = |name: &str| listed.iter().find(|job| job.name == name).unwrap().state;
        assert_eq!(state("retention"), State::Unknown);
        assert_eq!((state("vacuum"), state("health-probe")), (State::Disabled, State::Measured));
    }

    #[test]
    fn instants_are_told_in_the_zone_of_the_job_through_its_changes() {
        let mut config = Config::default();
        config.jobs.all.get_mut("retention").unwrap().timezone =
            Zone::named("Europe/Berlin").unwrap();
        let listed = merge(&config, "main", None, now());
        let retention = listed.iter().find(|job| job.name == "retention").unwrap();
        let next: Vec<String> = retention.next.iter().take(2).map(DateTime::to_rfc3339).collect();
        assert_eq!(next, ["2026-03-29T03:17:00+02:00", "2026-03-30T03:17:00+02:00"]);
    }

    #[test]
    fn what_only_the_ledger_knows_comes_last_and_by_its_name() {
        let overview =
            Overview { jobs: vec![row("abandoned"), row("retention")], ..Overview::default() };
        let listed = merge(&Config::default(), "main", Some(&overview), now());
        assert_eq!(listed.len(), Builtin::ALL.len() + 1);
        let last = listed.last().unwrap();
        assert_eq!((last.name.as_str(), last.state), ("abandoned", State::NotConfigured));
    }

    #[test]
    fn another_specification_is_told() {
        let config = Config::default();
        let hash = DueQueue::specs(&config, "main")
            .into_iter()
            .find(|(name, _)| name.as_str() == "refresh")
            .unwrap()
            .1;
        for (theirs, config_differs) in
            [(None, false), (Some(hash), false), (Some("other".to_owned()), true)]
        {
            let job = overview::JobSummary { spec_hash: theirs, ..row("refresh") };
            let overview = Overview { jobs: vec![job], ..Overview::default() };
            let listed = merge(&config, "main", Some(&overview), now());
            assert_eq!(
                listed.iter().find(|job| job.name == "refresh").unwrap().config_differs,
                config_differs
            );
        }
    }
}
