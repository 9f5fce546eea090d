//! pgsteward's metrics, declared once: an entry of the table below is the field, the registration
//! and the HELP text of a family.
//!
//! Names follow the Prometheus conventions (base units, `_total` on counters). Label values come from
//! closed sets (error kinds, purposes, jobs, configured targets and tables), which bounds the number
//! of series. The label of a job is `job_name`, because a scrape sets `job` and `instance` itself and
//! would rename ours. No scrape queries the database: the code that learns a value sets the metric.
//!
//! Families named `pg_*` describe the server. Only the leader exports them, under the names of
//! postgres_exporter where these follow the conventions.

mod family;

use chrono::Utc;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, TextEncoder,
};

pub use family::Family;
use family::{Families, Metric, metrics};

/// Bucket bounds for statements and requests.
const SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Bucket bounds for the delay between the due instant of a run and its start.
const DELAY_SECONDS: [f64; 7] = [0.1, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0];

metrics! {
    prefix "pgsteward_" {
        /// Always 1, with the version of pgsteward as a label.
        build_info: IntGaugeVec["version"];

        // Connections to the database

        /// Whether the last probe reached the database.
        database_up: IntGaugeVec["target"];
        /// 1 for the kind of error that keeps the database unreachable, 0 for every other kind.
        database_down: IntGaugeVec["target", "kind"];
        /// Whether this instance is the leader: it measures the database and runs its jobs.
        leader: IntGaugeVec["target"];
        /// Duration of each step of the last new connection.
        connect_seconds: GaugeVec["target", "step"];
        /// Duration of the last round trip on an open connection.
        response_seconds: GaugeVec["target"];
        /// Duration of statements sent by pgsteward.
        statement_duration_seconds: HistogramVec["target", "purpose"] buckets SECONDS;
        /// Total number of failed statements and connection attempts, by kind of error.
        statement_errors_total: IntCounterVec["target", "purpose", "kind"];
        /// Number of open connections, by purpose and state (idle or busy).
        pool_connections: IntGaugeVec["target", "purpose", "state"];
        /// Maximum number of open connections, by purpose.
        pool_max_connections: IntGaugeVec["target", "purpose"];

        // Health, and the spool of measurements

        /// Status of each component: 0 healthy, 1 degraded, 2 unhealthy, 3 unknown.
        health_status: IntGaugeVec["target", "component"];
        /// Unix timestamp of the last health check.
        health_last_check_timestamp_seconds: GaugeVec["target"];
        /// Total number of rows of pgsteward's own tables that were dropped instead of written.
        rows_dropped_total: IntCounterVec["target", "table", "reason"];
        /// Number of rows in the spool, waiting for the database or their table.
        spool_records: IntGaugeVec["target"];
        /// Size of the spool.
        spool_bytes: IntGaugeVec["target"];
        /// Unix timestamp of the oldest row in the spool. Absent while the spool is empty.
        spool_oldest_timestamp_seconds: GaugeVec["target"];
        /// Total number of rows written from the spool.
        spool_replayed_total: IntCounterVec["target", "table"];

        // Jobs

        /// Total number of finished job runs, by outcome.
        job_runs_total: IntCounterVec["target", "job_name", "outcome"];
        /// Total number of due instants at which the job did not run, by reason.
        job_skipped_instants_total: IntCounterVec["target", "job_name", "reason"];
        /// Total number of retried attempts.
        job_retries_total: IntCounterVec["target", "job_name"];
        /// Total number of runs that started more than a minute after they were due.
        job_catch_up_runs_total: IntCounterVec["target", "job_name"];
        /// Total number of runs that lost their lease to another instance.
        job_leases_lost_total: IntCounterVec["target"];
        /// Total number of transactions refused because the lease of their run had expired.
        job_commits_refused_total: IntCounterVec["target"];
        /// Number of jobs that wait for the server process of an earlier run to end.
        jobs_quarantined: IntGaugeVec["target"];
        /// Whether the job is running on this instance.
        job_running: IntGaugeVec["target", "job_name"];
        /// Unix timestamp of the last successful run. Absent until a run succeeds.
        job_last_success_timestamp_seconds: GaugeVec["target", "job_name"];
        /// Duration of the last run.
        job_last_duration_seconds: GaugeVec["target", "job_name"];
        /// Unix timestamp at which the job is due next.
        job_next_due_timestamp_seconds: GaugeVec["target", "job_name"];
        /// Delay between the instant at which a run was due and its start.
        job_start_delay_seconds: HistogramVec["target"] buckets DELAY_SECONDS;
        /// Whether all jobs are paused, in the database or by the file PAUSE.
        paused: IntGaugeVec["target"];
        /// Total number of rows of the run ledger that were written or deleted.
        ledger_rows_written_total: IntCounterVec["target"];
        /// Total time spent on calls that maintain the run ledger and the leases.
        ledger_seconds_total: CounterVec["target"];

        // Partitions and retention

        /// Number of partitions after the current one.
        partitions_ahead: IntGaugeVec["target", "table"];
        /// Total number of rows deleted by retention, without the rows of dropped partitions.
        retention_rows_deleted_total: IntCounterVec["target", "table"];
        /// Total number of partitions dropped by retention.
        retention_partitions_dropped_total: IntCounterVec["target", "table"];

        // Migrations

        /// Number of applied migrations.
        migrations_applied: IntGaugeVec["target", "set"];
        /// Number of pending migrations.
        migrations_pending: IntGaugeVec["target", "set"];
        /// Whether the last attempt to migrate failed.
        migration_failed: IntGaugeVec["target"];
        /// Number of applied migrations whose file changed, plus number of missing objects.
        schema_mismatches: IntGaugeVec["target"];

        // Audit log and seals, exported by the leader only

        /// Number of application statements that row audit failed to record.
        audit_lost_statements: IntGaugeVec["target"];
        /// Number of missing or disabled audit triggers.
        audit_gaps: IntGaugeVec["target"];
        /// Number of the last seal.
        audit_last_seal_number: IntGaugeVec["target"];
        /// Unix timestamp of the last seal.
        audit_last_seal_timestamp_seconds: GaugeVec["target"];
        /// Total number of rows sealed by this instance.
        audit_sealed_rows_total: IntCounterVec["target"];
        /// Unix timestamp of the oldest unsealed row. Absent while every row is sealed.
        audit_oldest_unsealed_timestamp_seconds: GaugeVec["target"];
        /// Number of the last seal whose head was published outside the database, by sink (file or
        /// webhook).
        audit_last_published_seal_number: IntGaugeVec["target", "sink"];
        /// Total number of failed attempts to publish a head.
        audit_publish_failures_total: IntCounterVec["target", "sink"];

        // The process and its HTTP server

        /// Whether the last configuration reload was successful.
        config_last_reload_successful: IntGauge;
        /// Unix timestamp of the last successful configuration reload.
        config_last_reload_success_timestamp_seconds: Gauge;
        /// Unix timestamp of the last iteration of the pipeline. A stalled pipeline stops the watchdog.
        pipeline_last_iteration_timestamp_seconds: GaugeVec["target"];
        /// Total number of HTTP requests, by route and status code.
        http_requests_total: IntCounterVec["route", "code"];
        /// Duration of HTTP requests.
        http_request_duration_seconds: HistogramVec["route"] buckets SECONDS;
        /// Number of open HTTP connections.
        http_connections: IntGauge;
        /// Total number of connections closed because the connection limit was reached.
        http_connections_rejected_total: IntCounter;
        /// Total number of failures to accept a connection, for lack of file descriptors or memory.
        http_accept_errors_total: IntCounter;
        /// Total number of requests with invalid credentials, by reason.
        http_auth_failures_total: IntCounterVec["reason"];
        /// Total number of attempts to reload a changed TLS certificate, by outcome.
        http_tls_reloads_total: IntCounterVec["outcome"];
        /// Whether the last reload of the TLS certificate was successful. Absent without TLS.
        http_tls_last_reload_successful: IntGaugeVec[];
    }

    // The server, exported by the leader only
    prefix "" {
        /// Whether the last measurement reached the server.
        pg_up: IntGaugeVec["target"];
        /// Number of client connections, by database and state.
        pg_stat_activity_connections: IntGaugeVec["target", "datname", "state"];
        /// Age of the oldest open transaction in seconds.
        pg_stat_activity_max_tx_duration: GaugeVec["target"];
        /// Value of max_connections.
        pg_settings_max_connections: IntGaugeVec["target"];
        /// Value of superuser_reserved_connections.
        pg_settings_superuser_reserved_connections: IntGaugeVec["target"];
        /// Whether the server is a standby.
        pg_replication_is_replica: IntGaugeVec["target"];
        /// Number of transactions since the oldest unfrozen transaction of the database.
        pg_database_wraparound_age_transactions: IntGaugeVec["target", "datname"];
    }
}

impl Metrics {
    /// Registers every family. Fails if a declaration is invalid.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let metrics = Metrics::register()?;
        #[cfg(target_os = "linux")]
        metrics
            .families
            .registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.config_last_reload_successful.set(1);
        Ok(metrics)
    }

    /// Records that the configuration was loaded now.
    pub fn set_reloaded(&self) {
        self.config_last_reload_successful.set(1);
        self.config_last_reload_success_timestamp_seconds.set(Utc::now().timestamp() as f64);
    }

    /// Every declared family, also those that have no series yet.
    pub fn families(&self) -> &[Family] {
        &self.families.declared
    }

    /// Starts the counters of a target and of its jobs at 0, so that `increase()` sees their first
    /// event.
    pub fn init_counters<'a>(&self, target: &str, jobs: impl Iterator<Item = &'a str>) {
        self.create_counters(&["target"], &[target]);
        jobs.for_each(|job| self.create_counters(&["target", "job_name"], &[target, job]));
    }

    /// Removes the series of the audit log that only the leader exports.
    pub fn remove_audit(&self, target: &str) {
        // Removal fails if there is no such series.
        for family in [&self.audit_lost_statements, &self.audit_gaps, &self.audit_last_seal_number]
        {
            let _ = family.remove_label_values(&[target]);
        }
        for family in
            [&self.audit_last_seal_timestamp_seconds, &self.audit_oldest_unsealed_timestamp_seconds]
        {
            let _ = family.remove_label_values(&[target]);
        }
    }

    /// Renders every series in the Prometheus text format 0.0.4.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut page = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.families.registry.gather(), &mut page)?;
        Ok(page)
    }
}
