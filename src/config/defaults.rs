//! What holds when nothing is said, and the names of the built-in jobs.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// The database that `[database]` and `DATABASE_URL` speak of.
pub const MAIN: &str = "main";

impl Default for Config {
    fn default() -> Config {
        Config {
            environment: Environment::default(),
            mode: Mode::default(),
            state_dir: None,
            ephemeral: false,
            databases: BTreeMap::from([(MAIN.to_owned(), Database::default())]),
            migrations: Migrations::default(),
            http: Http::default(),
            log: Log::default(),
            health: Health::default(),
            jobs: Jobs::default(),
            retention: Retention::default(),
            vacuum: Vacuum::default(),
            refresh: Refresh::default(),
            spool: Spool::default(),
        }
    }
}

impl Default for Database {
    fn default() -> Database {
        Database {
            url: None,
            direct_url: None,
            password: None,
            supabase: None,
            pooler: Pooler::default(),
            pool_min_size: 0,
            pool_max_size: 2,
            query_timeout: 30 * SECOND,
            connect_timeout: 5 * SECOND,
        }
    }
}

impl Default for Migrations {
    fn default() -> Migrations {
        Migrations {
            sets: Vec::new(),
            dir: None,
            on_failure: OnFailure::default(),
            search_path: "public".to_owned(),
            role: None,
            statement_timeout: HOUR,
            lock_timeout: 20 * MILLISECOND,
            lock_budget: 10 * MINUTE,
        }
    }
}

impl Default for Http {
    fn default() -> Http {
        Http {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8432)),
            max_connections: 64,
            header_timeout: 5 * SECOND,
            request_timeout: 30 * SECOND,
            body_limit_bytes: 64 * 1024,
        }
    }
}

impl Default for Health {
    fn default() -> Health {
        Health {
            cache_ttl: 5 * MINUTE,
            stale_after: MINUTE,
            recover_after: 2,
            response_degraded: 500 * MILLISECOND,
            connections_degraded: 0.8,
            connections_unhealthy: 0.95,
            transaction_age_degraded: 15 * MINUTE,
            lock_wait_degraded: MINUTE,
            replication_lag_degraded: 30 * SECOND,
            wraparound_degraded: 0.5,
            wraparound_unhealthy: 0.75,
        }
    }
}

impl Default for Jobs {
    fn default() -> Jobs {
        Jobs {
            max_concurrent: 2,
            lease: 15 * SECOND,
            history_keep: 30 * DAY,
            builtin: JobName::ALL.into_iter().map(|name| (name, Job::of(name))).collect(),
        }
    }
}

impl Default for Spool {
    fn default() -> Spool {
        Spool { max_size_bytes: 16 * 1024 * 1024, max_age: 7 * DAY }
    }
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            audit_logs: 90 * DAY,
            system_health: 45 * DAY,
            connection_metrics: 30 * DAY,
            vm_metrics: 60 * DAY,
            min_keep: 30 * DAY,
            slice_target: 200 * MILLISECOND,
            duty: 0.5,
            tables: BTreeMap::new(),
        }
    }
}

impl Default for Vacuum {
    fn default() -> Vacuum {
        Vacuum { dead_ratio: 0.1, dead_rows_min: 1000, changed_ratio: 0.1, tables_max: 50, schemas_exclude: Vec::new() }
    }
}

impl Default for Refresh {
    fn default() -> Refresh {
        Refresh { views: Vec::new(), max_staleness: HOUR }
    }
}

impl JobName {
    /// All of them, in the order in which a day begins: measure, then keep, then tidy.
    pub const ALL: [JobName; 6] = [
        JobName::HealthProbe,
        JobName::ConnectionMetrics,
        JobName::Partitions,
        JobName::Retention,
        JobName::Vacuum,
        JobName::Refresh,
    ];

    /// As in `[jobs.NAME]`, in logs, labels and the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            JobName::HealthProbe => "health-probe",
            JobName::ConnectionMetrics => "connection-metrics",
            JobName::Partitions => "partitions",
            JobName::Retention => "retention",
            JobName::Vacuum => "vacuum",
            JobName::Refresh => "refresh",
        }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of no built-in job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no built-in job has this name; there are health-probe, connection-metrics, partitions, retention, vacuum and refresh"
)]
pub struct UnknownJob;

impl FromStr for JobName {
    type Err = UnknownJob;

    fn from_str(text: &str) -> Result<JobName, UnknownJob> {
        JobName::ALL.into_iter().find(|name| name.as_str() == text).ok_or(UnknownJob)
    }
}

impl Job {
    /// A built-in job's defaults. Minutes are odd so that not everything in the world, nor here,
    /// starts at the full hour.
    pub fn of(name: JobName) -> Job {
        let (schedule, timeout) = match name {
            JobName::HealthProbe => ("@every 15s", 10 * SECOND),
            JobName::ConnectionMetrics => ("@every 60s", 10 * SECOND),
            JobName::Partitions => ("@hourly", 5 * MINUTE),
            JobName::Retention => ("17 3 * * *", 2 * HOUR),
            JobName::Vacuum => ("41 * * * *", 6 * HOUR),
            JobName::Refresh => ("*/15 * * * *", HOUR),
        };
        #[expect(clippy::expect_used, reason = "constants, and a test reads them all")]
        let schedule = Schedule::parse(schedule).expect("a built-in schedule parses");
        Job { enabled: true, schedule, timezone: chrono_tz::Tz::UTC, timeout }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_defaults_and_a_name_that_reads_back() {
        for name in JobName::ALL {
            assert_eq!(name.as_str().parse(), Ok(name));
            assert!(Job::of(name).enabled);
        }
        assert_eq!(Jobs::default().builtin.len(), JobName::ALL.len());
        assert_eq!("health_probe".parse::<JobName>(), Err(UnknownJob));
    }
}
