//! pgsteward's own metrics, declared in one place: the HELP text stands beside the name.
//!
//! Names follow Prometheus' conventions (base units, `_total` on counters). Labels take their values
//! from closed sets (kinds, purposes, jobs, configured targets and tables), so the number of series
//! is bounded. A job's label is `job_name`: a scrape sets `job` and `instance` itself, and renames
//! what is in their place. Nothing here asks the database: whoever learns something sets the gauge.
//! Metrics named `pg_*` describe the server; only the observing instance exports them, under
//! postgres_exporter's names where Prometheus' conventions allow.

mod audit;
mod tls;

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use audit::Audit;
pub use tls::Tls;

/// Every family of metrics, on a registry of its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,

    // The database as seen from here.
    pub database_up: IntGaugeVec,
    pub database_down: IntGaugeVec,
    pub observer: IntGaugeVec,
    pub connect_seconds: GaugeVec,
    pub response_seconds: GaugeVec,
    pub statement_seconds: HistogramVec,
    pub statement_errors: IntCounterVec,
    pub pool_connections: IntGaugeVec,
    pub pool_max_connections: IntGaugeVec,

    // Health.
    pub health_status: IntGaugeVec,
    pub health_checked: GaugeVec,
    pub rows_dropped: IntCounterVec,
    pub spool_records: IntGaugeVec,
    pub spool_bytes: IntGaugeVec,
    pub spool_oldest: GaugeVec,
    pub spool_replayed: IntCounterVec,

    /// The audit trail and its seals.
    pub audit: Audit,
    pub tls: Tls,

    // Jobs.
    pub job_runs: IntCounterVec,
    pub job_skipped_instants: IntCounterVec,
    pub job_retries: IntCounterVec,
    pub job_catch_up: IntCounterVec,
    pub job_leases_lost: IntCounterVec,
    pub job_commits_refused: IntCounterVec,
    pub job_quarantined: IntGaugeVec,
    pub ledger_rows: IntCounterVec,
    pub ledger_wal: IntCounterVec,
    pub ledger_seconds: CounterVec,
    pub job_running: IntGaugeVec,
    pub job_last_success: GaugeVec,
    pub job_last_duration: GaugeVec,
    pub job_next_due: GaugeVec,
    pub job_due_lag: HistogramVec,
    pub paused: IntGaugeVec,
    pub partitions_ahead: IntGaugeVec,
    pub retention_rows: IntCounterVec,
    pub retention_partitions: IntCounterVec,

    // Migrations.
    pub migrations_applied: IntGaugeVec,
    pub migrations_pending: IntGaugeVec,
    pub migrations_failed: IntGaugeVec,
    pub schema_mismatches: IntGaugeVec,

    // The process.
    pub config_reload_ok: IntGauge,
    pub config_reload_time: Gauge,
    pub pipeline_advanced: GaugeVec,
    pub http_requests: IntCounterVec,
    pub http_seconds: HistogramVec,
    pub http_connections: IntGauge,
    pub http_rejected: IntCounter,
    pub http_accept_errors: IntCounter,
    pub http_auth_failures: IntCounterVec,

    // The server, by the names of postgres_exporter.
    pub pg_up: IntGaugeVec,
    pub pg_stat_activity_connections: IntGaugeVec,
    pub pg_stat_activity_max_tx_duration: GaugeVec,
    pub pg_settings_max_connections: IntGaugeVec,
    pub pg_settings_superuser_reserved_connections: IntGaugeVec,
    pub pg_replication_is_replica: IntGaugeVec,
    pub pg_database_wraparound_age: IntGaugeVec,
}

/// Upper bounds for statements and requests, 1 ms to 30 s.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds for how late a job starts.
const LAG_SECONDS: [f64; 7] = [0.1, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0];

impl Metrics {
    /// Makes the counters of jobs that begin at 0: the first event is seen by `increase()` then.
    pub fn declare_jobs<'a>(&self, target: &str, jobs: impl Iterator<Item = &'a str>) {
        for job in jobs {
            self.job_retries.with_label_values(&[target, job]);
            self.job_catch_up.with_label_values(&[target, job]);
        }
        self.job_leases_lost.with_label_values(&[target]);
        self.job_commits_refused.with_label_values(&[target]);
    }

    /// Registers every family.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let r = Registry::new();
        #[cfg(target_os = "linux")]
        r.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let metrics = Metrics {
            database_up: gauges(
                &r,
                "pgsteward_database_up",
                "Whether the last measurement reached the database (1) or not (0).",
                &["target"],
            )?,
            database_down: gauges(
                &r,
                "pgsteward_database_down",
                "1 for the kind of error that keeps the database from being reached, 0 for all others.",
                &["target", "kind"],
            )?,
            observer: gauges(
                &r,
                "pgsteward_observer",
                "Whether this instance observes the database and runs its jobs.",
                &["target"],
            )?,
            connect_seconds: floats(
                &r,
                "pgsteward_connect_seconds",
                "Duration of each step of the last fresh connect.",
                &["target", "step"],
            )?,
            response_seconds: floats(
                &r,
                "pgsteward_response_seconds",
                "Duration of the last round trip on an open connection.",
                &["target"],
            )?,
            statement_seconds: seconds(
                &r,
                "pgsteward_statement_duration_seconds",
                "Duration of pgsteward's own statements.",
                &["target", "purpose"],
                &SECONDS,
            )?,
            statement_errors: counters(
                &r,
                "pgsteward_statement_errors_total",
                "pgsteward's own statements and connects that failed, by kind of error.",
                &["target", "purpose", "kind"],
            )?,
            pool_connections: gauges(
                &r,
                "pgsteward_pool_connections",
                "Connections that pgsteward holds, by purpose and state (idle or busy).",
                &["target", "purpose", "state"],
            )?,
            pool_max_connections: gauges(
                &r,
                "pgsteward_pool_max_connections",
                "Connections that pgsteward may hold, by purpose.",
                &["target", "purpose"],
            )?,
            health_status: gauges(
                &r,
                "pgsteward_health_status",
                "Status by component: 0 healthy, 1 degraded, 2 unhealthy, 3 unknown.",
                &["target", "component"],
            )?,
            health_checked: floats(
                &r,
                "pgsteward_health_checked_timestamp_seconds",
                "When the database's health was last judged.",
                &["target"],
            )?,
            rows_dropped: counters(
                &r,
                "pgsteward_rows_dropped_total",
                "Rows of pgsteward's own tables that are lost for good, by table and reason.",
                &["target", "table", "reason"],
            )?,
            spool_records: gauges(
                &r,
                "pgsteward_spool_records",
                "Rows that wait to be written.",
                &["target"],
            )?,
            spool_bytes: gauges(
                &r,
                "pgsteward_spool_bytes",
                "Size of the rows that wait to be written.",
                &["target"],
            )?,
            spool_oldest: floats(
                &r,
                "pgsteward_spool_oldest_timestamp_seconds",
                "When the oldest row that waits was measured; absent where none waits.",
                &["target"],
            )?,
            spool_replayed: counters(
                &r,
                "pgsteward_spool_replayed_total",
                "Rows that were written after they had waited, by table.",
                &["target", "table"],
            )?,
            audit: Audit::new(&r)?,
            tls: Tls::new(&r)?,
            job_runs: counters(
                &r,
                "pgsteward_job_runs_total",
                "Runs of jobs that ended here, by outcome.",
                &["target", "job_name", "outcome"],
            )?,
            job_skipped_instants: counters(
                &r,
                "pgsteward_job_skipped_instants_total",
                "Due instants at which the job was not run, by reason.",
                &["target", "job_name", "reason"],
            )?,
            job_retries: counters(
                &r,
                "pgsteward_job_retries_total",
                "Attempts after the first, by job.",
                &["target", "job_name"],
            )?,
            job_catch_up: counters(
                &r,
                "pgsteward_job_catch_up_runs_total",
                "Runs of instants that were due more than a minute before.",
                &["target", "job_name"],
            )?,
            job_leases_lost: counters(
                &r,
                "pgsteward_job_leases_lost_total",
                "Runs that another instance took over while they ran here.",
                &["target"],
            )?,
            job_commits_refused: counters(
                &r,
                "pgsteward_job_commits_refused_total",
                "Transactions of runs that were refused because the run's lease had passed.",
                &["target"],
            )?,
            job_quarantined: gauges(
                &r,
                "pgsteward_jobs_quarantined",
                "Jobs that wait for the server process of a former run to be gone.",
                &["target"],
            )?,
            ledger_rows: counters(
                &r,
                "pgsteward_ledger_rows_written_total",
                "Rows written and deleted to keep the ledger of runs.",
                &["target"],
            )?,
            ledger_wal: counters(
                &r,
                "pgsteward_ledger_wal_bytes_total",
                "WAL for these rows, estimated by the least that a row was seen to cost.",
                &["target"],
            )?,
            ledger_seconds: float_counters(
                &r,
                "pgsteward_ledger_seconds_total",
                "Time spent in calls that keep the ledger and the leases.",
                &["target"],
            )?,
            job_running: gauges(
                &r,
                "pgsteward_job_running",
                "Whether the job runs here now.",
                &["target", "job_name"],
            )?,
            job_last_success: floats(
                &r,
                "pgsteward_job_last_success_timestamp_seconds",
                "When the job last succeeded; absent where it never has.",
                &["target", "job_name"],
            )?,
            job_last_duration: floats(
                &r,
                "pgsteward_job_last_duration_seconds",
                "How long the job's last run took.",
                &["target", "job_name"],
            )?,
            job_next_due: floats(
                &r,
                "pgsteward_job_next_due_timestamp_seconds",
                "When the job is due next.",
                &["target", "job_name"],
            )?,
            job_due_lag: seconds(
                &r,
                "pgsteward_job_due_lag_seconds",
                "From the instant that a run was due to its start.",
                &["target"],
                &LAG_SECONDS,
            )?,
            paused: gauges(
                &r,
                "pgsteward_paused",
                "Whether all jobs are paused, in the database or by the local file.",
                &["target"],
            )?,
            partitions_ahead: gauges(
                &r,
                "pgsteward_partitions_ahead",
                "Partitions that exist beyond the current one.",
                &["target", "table"],
            )?,
            retention_rows: counters(
                &r,
                "pgsteward_retention_rows_deleted_total",
                "Rows deleted by retention, by table; rows of dropped partitions are not counted.",
                &["target", "table"],
            )?,
            retention_partitions: counters(
                &r,
                "pgsteward_retention_partitions_dropped_total",
                "Partitions dropped by retention, by table.",
                &["target", "table"],
            )?,
            migrations_applied: gauges(
                &r,
                "pgsteward_migrations_applied",
                "Migrations that the history holds, by set.",
                &["target", "set"],
            )?,
            migrations_pending: gauges(
                &r,
                "pgsteward_migrations_pending",
                "Migrations that wait to be applied, by set.",
                &["target", "set"],
            )?,
            migrations_failed: gauges(
                &r,
                "pgsteward_migrations_failed",
                "1 when the last attempt to migrate failed.",
                &["target"],
            )?,
            schema_mismatches: gauges(
                &r,
                "pgsteward_schema_mismatches",
                "Applied migrations whose file differs, and objects that are missing.",
                &["target"],
            )?,
            config_reload_ok: gauge(
                &r,
                "pgsteward_config_last_reload_successful",
                "Whether the last reload of the configuration was accepted.",
            )?,
            config_reload_time: float(
                &r,
                "pgsteward_config_last_reload_success_timestamp_seconds",
                "When the configuration was last loaded.",
            )?,
            pipeline_advanced: floats(
                &r,
                "pgsteward_pipeline_advanced_timestamp_seconds",
                "When the scheduler last went round; the watchdog is fed from it.",
                &["target"],
            )?,
            http_requests: counters(
                &r,
                "pgsteward_http_requests_total",
                "Requests answered, by route and status code.",
                &["route", "code"],
            )?,
            http_seconds: seconds(
                &r,
                "pgsteward_http_request_duration_seconds",
                "Duration of requests, by route.",
                &["route"],
                &SECONDS,
            )?,
            http_connections: gauge(
                &r,
                "pgsteward_http_connections",
                "Open connections to the listener.",
            )?,
            http_rejected: counter(
                &r,
                "pgsteward_http_connections_rejected_total",
                "Connections closed at once because the limit was reached.",
            )?,
            http_accept_errors: counter(
                &r,
                "pgsteward_http_accept_errors_total",
                "Failures to accept connections, for want of file descriptors or memory.",
            )?,
            http_auth_failures: counters(
                &r,
                "pgsteward_http_auth_failures_total",
                "Requests whose credentials were not accepted, by reason.",
                &["reason"],
            )?,
            pg_up: gauges(
                &r,
                "pg_up",
                "Whether the last measurement reached the server.",
                &["target"],
            )?,
            pg_stat_activity_connections: gauges(
                &r,
                "pg_stat_activity_connections",
                "Client connections by database and state.",
                &["target", "datname", "state"],
            )?,
            pg_stat_activity_max_tx_duration: floats(
                &r,
                "pg_stat_activity_max_tx_duration",
                "Age of the oldest open transaction in seconds.",
                &["target"],
            )?,
            pg_settings_max_connections: gauges(
                &r,
                "pg_settings_max_connections",
                "The server's max_connections.",
                &["target"],
            )?,
            pg_settings_superuser_reserved_connections: gauges(
                &r,
                "pg_settings_superuser_reserved_connections",
                "The server's superuser_reserved_connections.",
                &["target"],
            )?,
            pg_replication_is_replica: gauges(
                &r,
                "pg_replication_is_replica",
                "Whether the server is a standby.",
                &["target"],
            )?,
            pg_database_wraparound_age: gauges(
                &r,
                "pg_database_wraparound_age_transactions",
                "Transactions since the oldest unfrozen one of the database.",
                &["target", "datname"],
            )?,
            registry: r,
        };
        let build = gauges(
            &metrics.registry,
            "pgsteward_build_info",
            "Always 1; the version is in the label.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.config_reload_ok.set(1);
        Ok(metrics)
    }

    /// The page for Prometheus, text format 0.0.4.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut page = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(page)
    }
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let family = IntGauge::new(name, help)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn float(r: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    let family = Gauge::new(name, help)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let family = IntCounter::new(name, help)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn floats(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    let family = GaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn float_counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<CounterVec, prometheus::Error> {
    let family = CounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}

fn seconds(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    let family =
        HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
    r.register(Box::new(family.clone()))?;
    Ok(family)
}
