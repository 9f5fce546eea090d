//! What holds when nothing is said. The jobs' own defaults stand with them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
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
            audit: Audit::default(),
            auth: Auth::default(),
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
            tls: None,
            allow_plain_http: false,
            cors_origins: Vec::new(),
            trusted_proxies: Vec::new(),
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
            history_max: 2000,
            all: Builtin::ALL
                .into_iter()
                .map(|builtin| (builtin.into(), Job::of(builtin)))
                .collect(),
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
        Vacuum {
            dead_ratio: 0.1,
            dead_rows_min: 1000,
            changed_ratio: 0.1,
            tables_max: 50,
            schemas_exclude: Vec::new(),
        }
    }
}

impl Default for Refresh {
    fn default() -> Refresh {
        Refresh { views: Vec::new(), max_staleness: HOUR }
    }
}

impl Jobs {
    /// A built-in job, where it is enabled.
    pub fn enabled(&self, builtin: Builtin) -> Option<&Job> {
        self.all.get(builtin.as_str()).filter(|job| job.enabled)
    }
}
