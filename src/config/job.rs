//! Jobs: the built-in ones, and those of an operator's own SQL.
//!
//! Both are one struct with one set of keys; what differs is the [`Work`]. The probe and the sample
//! are measured on every tick and stand outside the ledger, so that they know only when and how long.

pub(super) mod table;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Mode, Schedule, SecretSource, Windows, Zone};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// How late an instant may be run under `catch_up = "none"` where no `deadline` is said: longer than
/// another instance needs to take over, shorter than what anybody would call late.
pub const ON_TIME: Duration = MINUTE;

/// The name of a job, as in `[jobs.NAME]`, in logs, labels and the ledger. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(Arc<str>);

impl JobName {
    /// Takes any text: a ledger may hold names that no configuration knows any more.
    pub fn new(name: &str) -> JobName {
        JobName(name.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for JobName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for JobName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl From<Builtin> for JobName {
    fn from(builtin: Builtin) -> JobName {
        JobName::new(builtin.as_str())
    }
}

/// The built-in jobs. In text: `health-probe`, `connection-metrics` …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Builtin {
    /// Measures the server, judges, writes `system_health`.
    HealthProbe,
    /// Samples the connections, writes `connection_metrics`.
    ConnectionMetrics,
    /// Makes partitions ahead.
    Partitions,
    /// Purges what is past its retention.
    Retention,
    /// VACUUM and ANALYZE by need.
    Vacuum,
    /// Refreshes materialized views.
    Refresh,
    /// Seals the audit trail.
    AuditSeal,
}

impl Builtin {
    /// All of them, in the order in which a day begins: measure, then keep, then tidy.
    pub const ALL: [Builtin; 7] = [
        Builtin::HealthProbe,
        Builtin::ConnectionMetrics,
        Builtin::Partitions,
        Builtin::Retention,
        Builtin::Vacuum,
        Builtin::Refresh,
        Builtin::AuditSeal,
    ];

    /// As in `[jobs.NAME]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Builtin::HealthProbe => "health-probe",
            Builtin::ConnectionMetrics => "connection-metrics",
            Builtin::Partitions => "partitions",
            Builtin::Retention => "retention",
            Builtin::Vacuum => "vacuum",
            Builtin::Refresh => "refresh",
            Builtin::AuditSeal => "audit-seal",
        }
    }

    /// Whether it is a measurement: taken on every tick of the observer, without a row in the ledger.
    pub fn is_measured(self) -> bool {
        matches!(self, Builtin::HealthProbe | Builtin::ConnectionMetrics)
    }
}

/// `[jobs.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What it does.
    pub work: Work,
    /// `enabled`, default true.
    pub enabled: bool,
    /// `databases`: on which it runs; empty (the default) means on all.
    pub databases: Vec<String>,
    /// `schedule` or `after`; a job of one's own SQL may have neither, and runs when it is asked for.
    pub trigger: Trigger,
    /// `timezone`: an IANA name, default `UTC`.
    pub timezone: Zone,
    /// `timeout`: after which the run is cancelled on the server, all its attempts together.
    pub timeout: Duration,
    /// `retries`, 0..=10: attempts after the first, when that failed for a passing reason.
    pub retries: u32,
    /// `overlap`, default `skip`.
    pub overlap: Overlap,
    /// `catch_up`, default `latest`.
    pub catch_up: CatchUp,
    /// `catch_up_max`, default 100, 1..=1000: the newest that `catch_up = "all"` runs.
    pub catch_up_max: u32,
    /// `deadline`: how late a run may begin. Default none.
    pub deadline: Option<Duration>,
    /// `jitter`, default 0: runs begin up to so much later, by the job's and the database's name.
    pub jitter: Duration,
    /// `window`: a run begins only inside one of them. Default: always.
    pub window: Windows,
    /// `blackout`: no run begins inside any of them.
    pub blackout: Windows,
    /// `on_failure`, default `report`.
    pub on_failure: AfterFailure,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Builtin(Builtin),
    Sql(SqlWork),
}

/// An operator's own SQL.
#[derive(Debug, Clone, PartialEq)]
pub struct SqlWork {
    /// `sql`: one or several statements, or a CALL.
    pub sql: String,
    /// `transaction`, default true: all of it as one transaction, recorded with its effect. False for
    /// what PostgreSQL refuses there: VACUUM, CONCURRENTLY, a procedure that commits.
    pub transaction: bool,
    /// `role`: SET ROLE around the SQL. No sandbox: the SQL can RESET it.
    pub role: Option<String>,
    /// `login_url` or `login_url_file`: a login of its own instead of the daemon's.
    pub login: Option<SecretSource>,
    /// `search_path`, default `public`.
    pub search_path: String,
    /// `lock_timeout`, default 1 s: others queue behind whoever waits for a lock.
    pub lock_timeout: Duration,
}

/// What makes a job due.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// `schedule`: cron with five or six fields, `@every 15s`, `@hourly`, `@daily` …
    Schedule(Schedule),
    /// `after`: when each of these has succeeded since this job ran last.
    After(Vec<JobName>),
    /// Only who asks for it.
    Request,
}

/// What becomes of an instant at which the job's last run is still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It is recorded as skipped.
    #[default]
    Skip,
    /// One waits for the end of the run; those after it are recorded as skipped.
    Queue,
}

/// What becomes of instants that passed while nobody ran them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// None runs.
    None,
    /// The newest runs, the others are recorded as missed.
    #[default]
    Latest,
    /// All run, in order, up to `catch_up_max` and not later than `deadline`.
    All,
}

/// What a failed run means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterFailure {
    /// It counts in health, metrics and log.
    #[default]
    Report,
    /// The job is also paused, until somebody resumes it.
    Pause,
    /// It is recorded, and health does not count it.
    Ignore,
}

impl Job {
    /// A built-in job's defaults. Minutes are odd so that not everything in the world, nor here,
    /// starts at the full hour.
    pub fn of(builtin: Builtin) -> Job {
        let (schedule, timeout) = match builtin {
            Builtin::HealthProbe => ("@every 15s", 10 * SECOND),
            Builtin::ConnectionMetrics => ("@every 60s", 10 * SECOND),
            Builtin::Partitions => ("@hourly", 5 * MINUTE),
            Builtin::Retention => ("17 3 * * *", 2 * HOUR),
            Builtin::Vacuum => ("41 * * * *", 6 * HOUR),
            Builtin::Refresh => ("*/15 * * * *", HOUR),
            Builtin::AuditSeal => ("@every 60s", 10 * MINUTE),
        };
        #[expect(clippy::expect_used, reason = "constants, and a test reads them all")]
        let schedule = Schedule::parse(schedule).expect("a built-in schedule parses");
        let retries = if builtin.is_measured() { 0 } else { 2 };
        Job {
            retries,
            trigger: Trigger::Schedule(schedule),
            timeout,
            ..Job::with(Work::Builtin(builtin))
        }
    }

    /// The defaults of a job of one's own SQL. What may have been done in part is not repeated by
    /// itself.
    pub fn sql(work: SqlWork) -> Job {
        let retries = if work.transaction { 2 } else { 0 };
        Job { retries, ..Job::with(Work::Sql(work)) }
    }

    fn with(work: Work) -> Job {
        Job {
            work,
            enabled: true,
            databases: Vec::new(),
            trigger: Trigger::Request,
            timezone: Zone::UTC,
            timeout: 10 * MINUTE,
            retries: 0,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            catch_up_max: 100,
            deadline: None,
            jitter: Duration::ZERO,
            window: Windows::default(),
            blackout: Windows::default(),
            on_failure: AfterFailure::default(),
        }
    }

    /// Its schedule, where it goes by one.
    pub fn schedule(&self) -> Option<&Schedule> {
        match &self.trigger {
            Trigger::Schedule(schedule) => Some(schedule),
            Trigger::After(_) | Trigger::Request => None,
        }
    }

    /// How late a run may begin.
    pub fn start_within(&self) -> Option<Duration> {
        self.deadline.or((self.catch_up == CatchUp::None).then_some(ON_TIME))
    }

    /// Whether it runs by itself: enabled, and none of an operator's own SQL where nothing is to be changed.
    pub fn is_active(&self, mode: Mode) -> bool {
        self.enabled && (mode == Mode::Maintain || matches!(self.work, Work::Builtin(_)))
    }

    /// Whether it is a measurement, which stands outside the ledger.
    pub fn is_measured(&self) -> bool {
        matches!(self.work, Work::Builtin(builtin) if builtin.is_measured())
    }

    /// Whether it runs on the database of this name.
    pub fn is_for(&self, database: &str) -> bool {
        self.databases.is_empty() || self.databases.iter().any(|name| name == database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_job_has_defaults_and_a_name() {
        for builtin in Builtin::ALL {
            let job = Job::of(builtin);
            assert!(job.enabled && job.schedule().is_some());
            assert_eq!(JobName::from(builtin).as_str(), builtin.as_str());
        }
        assert_eq!(super::super::Jobs::default().all.len(), Builtin::ALL.len());
    }

    #[test]
    fn without_catching_up_an_instant_is_run_only_on_time() {
        let job = Job::of(Builtin::Retention);
        assert_eq!(job.start_within(), None);
        let job = Job { catch_up: CatchUp::None, ..job };
        assert_eq!(job.start_within(), Some(ON_TIME));
        assert_eq!(Job { deadline: Some(HOUR), ..job }.start_within(), Some(HOUR));
    }
}
