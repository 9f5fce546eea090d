//! Jobs: the built-in ones, and those that run an operator's own SQL.
//!
//! Both are one struct with one set of keys; they differ in their [`Work`]. The probe and the
//! sample are measurements that run on every tick and stand outside the ledger, so that they take
//! only the keys in [`MEASURED`].

mod read;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::keys::{IDENTIFIER_MAX, KEEP_MAX, connection_string};
use super::table::{table, words};
use super::value::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};
use super::{Mode, Schedule, SecretSource, Windows, Zone};

/// How late an instant may run under `catch_up = "none"` without a `deadline`: longer than another
/// instance needs to take over, shorter than anybody would call late.
pub const ON_TIME: Duration = MINUTE;

/// The keys of a measurement.
const MEASURED: &[&str] = &["enabled", "schedule", "timezone", "timeout"];

table! {
    /// `[jobs]`
    Jobs {
        "max_concurrent" max_concurrent: u32 = 2, integer(1, 8), restart;
        /// Of the leader and of each run, on the database's clock.
        "lease" lease: Duration = 15 * SECOND, duration(5 * SECOND, 5 * MINUTE), restart;
        /// How long `job_runs` keeps rows; failures are kept twice as long.
        "history_keep" history_keep: Duration = 30 * DAY, duration(DAY, KEEP_MAX), live;
        /// How many rows of one job are kept that succeeded or were skipped, and as many that
        /// failed.
        "history_max" history_max: u32 = 2000, integer(10, 1_000_000), live;
        /// `[jobs.NAME]`: the built-in jobs and the operator's own.
        "NAME" all: BTreeMap<JobName, Job> = built_in(), custom(read::jobs), live;
    }
}

table! {
    /// `[jobs.NAME]`
    Job {
        /// For own SQL, the keys of [`SqlWork`].
        "sql" work: Work = Work::Sql(SqlWork::default()), custom(read::work), live;
        "enabled" enabled: bool = true, boolean(), live;
        /// Where the job runs; empty means on every database.
        "databases" databases: Vec<String> = Vec::new(),
            list("names of databases", read::any), live;
        /// `schedule` or `after`. A job of own SQL may have neither and then runs on request.
        "schedule" trigger: Trigger = Trigger::Request, custom(read::trigger), live;
        /// The IANA time zone of schedule and windows.
        "timezone" timezone: Zone = Zone::UTC, parsed(read::ZONE, read::zone), live;
        /// Bounds all attempts of a run together; then the server cancels it.
        "timeout" timeout: Duration = 10 * MINUTE, duration(SECOND, 7 * DAY), live;
        /// Attempts after the first that failed for a transient reason.
        "retries" retries: u32 = 2, integer(0, 10), live;
        "overlap" overlap: Overlap = Overlap::default(), choice(), live;
        "catch_up" catch_up: CatchUp = CatchUp::default(), choice(), live;
        /// The newest missed instants that `catch_up = "all"` runs.
        "catch_up_max" catch_up_max: u32 = 100, integer(1, 1_000), live;
        /// How late a run may begin.
        "deadline" deadline: Option<Duration> = None, duration(SECOND, 366 * DAY), live;
        /// Delays each run by a fixed share of this, drawn from the names of job and database.
        "jitter" jitter: Duration = Duration::ZERO, duration(Duration::ZERO, DAY), live;
        /// A run begins only inside one of these; without any, at any time.
        "window" window: Windows = Windows::default(), custom(read::window), live;
        /// No run begins inside any of these.
        "blackout" blackout: Windows = Windows::default(), custom(read::blackout), live;
        "on_failure" on_failure: AfterFailure = AfterFailure::default(), choice(), live;
    }
}

table! {
    /// The keys of `[jobs.NAME]` that only a job of the operator's own SQL takes.
    SqlWork {
        /// Whether all of the SQL is one transaction, recorded together with its effect. False for
        /// statements that PostgreSQL refuses there: VACUUM, CONCURRENTLY, a procedure that
        /// commits.
        "transaction" transaction: bool = true, boolean(), live;
        /// One or several statements, or a CALL.
        "sql" sql: String = String::new(), custom(read::sql), live;
        /// SET ROLE around the SQL. Not a sandbox: the SQL can RESET it.
        "role" role: Option<String> = None, text(IDENTIFIER_MAX), live;
        /// A login of its own instead of the daemon's.
        "login_url" login: Option<SecretSource> = None, secret(connection_string), live;
        "search_path" search_path: String = "public".to_owned(), text(1_024), live;
        /// Bounded, because others queue behind a statement that waits for a lock.
        "lock_timeout" lock_timeout: Duration = SECOND, duration(MILLISECOND, HOUR), live;
    }
}

words! {
    /// What happens at an instant while the job's last run is still running.
    #[derive(Default)]
    Overlap {
        /// The instant is recorded as skipped.
        #[default]
        Skip = "skip",
        /// One instant waits for the end of the run; later ones are recorded as skipped.
        Queue = "queue",
    }
}

words! {
    /// What happens to instants that were missed.
    #[derive(Default)]
    CatchUp {
        /// None of them runs.
        None = "none",
        /// The newest runs, the others are recorded as missed.
        #[default]
        Latest = "latest",
        /// All run, in order, up to `catch_up_max` and not later than `deadline`.
        All = "all",
    }
}

words! {
    /// The consequence of a failed run.
    #[derive(Default)]
    AfterFailure {
        /// It counts in health, metrics and log.
        #[default]
        Report = "report",
        /// The job is also paused until somebody resumes it.
        Pause = "pause",
        /// It is recorded, but does not count in health.
        Ignore = "ignore",
    }
}

words! {
    /// The built-in jobs, in the order in which a day begins: measure, then keep, then tidy.
    Builtin {
        /// Measures the server, assesses it, writes `system_health`.
        HealthProbe = "health-probe",
        /// Samples the connections, writes `connection_metrics`.
        ConnectionMetrics = "connection-metrics",
        /// Creates partitions ahead of time.
        Partitions = "partitions",
        /// Deletes expired rows.
        Retention = "retention",
        /// VACUUM and ANALYZE of the tables that need it.
        Vacuum = "vacuum",
        /// Refreshes materialized views.
        Refresh = "refresh",
        /// Seals the audit log.
        AuditSeal = "audit-seal",
    }
}

impl Builtin {
    /// All of them.
    pub const ALL: [Builtin; 7] = [
        Builtin::HealthProbe,
        Builtin::ConnectionMetrics,
        Builtin::Partitions,
        Builtin::Retention,
        Builtin::Vacuum,
        Builtin::Refresh,
        Builtin::AuditSeal,
    ];

    /// Whether it is a measurement: taken by the leader on every tick, without a row in the ledger.
    pub fn is_measured(self) -> bool {
        matches!(self, Builtin::HealthProbe | Builtin::ConnectionMetrics)
    }
}

fn built_in() -> BTreeMap<JobName, Job> {
    Builtin::ALL.map(|builtin| (builtin.into(), Job::of(builtin))).into()
}

impl Jobs {
    /// A built-in job, if it is enabled.
    pub fn enabled(&self, builtin: Builtin) -> Option<&Job> {
        self.all.get(builtin.as_str()).filter(|job| job.enabled)
    }
}

/// The name of a job, as in `[jobs.NAME]`, in logs, labels and the ledger. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobName(Arc<str>);

impl JobName {
    /// Takes any text: a ledger may hold names that no configuration has any more.
    pub fn new(name: &str) -> JobName {
        JobName(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for JobName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Borrow<str> for JobName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Builtin> for JobName {
    fn from(builtin: Builtin) -> JobName {
        JobName::new(builtin.as_str())
    }
}

/// What a job does.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    Builtin(Builtin),
    Sql(SqlWork),
}

/// What makes a job due.
#[derive(Debug, Clone, PartialEq)]
pub enum Trigger {
    /// `schedule`: cron with five or six fields, `@every 15s`, `@hourly`, `@daily` …
    Schedule(Schedule),
    /// `after`: each of these has succeeded since this job ran last.
    After(Vec<JobName>),
    /// Nothing but a request.
    Request,
}

impl Job {
    /// A built-in job's defaults. The minutes are odd so that it does not start together with
    /// everything else on the full hour.
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
        Job {
            work: Work::Builtin(builtin),
            trigger: Trigger::Schedule(schedule),
            timeout,
            retries: if builtin.is_measured() { 0 } else { 2 },
            ..Job::default()
        }
    }

    /// The defaults of a job of own SQL. Without a transaction a failed attempt may have done a
    /// part, so it is not retried.
    pub fn sql(work: SqlWork) -> Job {
        let retries = if work.transaction { 2 } else { 0 };
        Job { retries, work: Work::Sql(work), ..Job::default() }
    }

    /// Its schedule, if it has one.
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

    /// Whether it runs by itself: it is enabled, and not own SQL while the mode is observe.
    pub fn is_active(&self, mode: Mode) -> bool {
        self.enabled && (mode == Mode::Maintain || matches!(self.work, Work::Builtin(_)))
    }

    /// Whether it is a measurement, which has no row in the ledger.
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
