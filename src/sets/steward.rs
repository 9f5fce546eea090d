//! pgsteward's own tables.

use super::{Manifest, Object, PartitionedTable, Period, RetentionRule, files};

const SCHEMA: &str = "steward";

/// The set that every database has.
pub static STEWARD: Manifest = Manifest {
    name: "steward",
    schema: SCHEMA,
    files: files!(
        "steward":
        "001_ledger",
        "002_health",
        "003_audit",
        "004_row_audit",
        "005_audit_seals",
        "006_idempotency",
    ),
    partitioned: &[
        daily("system_health"),
        daily("connection_metrics"),
        PartitionedTable { schema: SCHEMA, table: "audit_logs", period: Period::Month, ahead: 3 },
    ],
    retention: &[rule("audit_logs"), rule("system_health"), rule("connection_metrics")],
    views: &[],
    objects: &[
        Object::Table("steward.schema_migrations"),
        Object::Table("steward.leases"),
        Object::Table("steward.job_runs"),
        Object::Table("steward.job_state"),
        Object::Table("steward.retirements"),
        Object::Table("steward.system_health"),
        Object::Table("steward.connection_metrics"),
        Object::Table("steward.audit_logs"),
        Object::Table("steward.audit_seals"),
        Object::Table("steward.idempotency_keys"),
        Object::Function("steward.ensure_partitions"),
        Object::Function("steward.log_audit_event"),
        Object::Function("steward.audit_table"),
        Object::Function("steward.audit_row"),
        // These two keep an instant from running twice, and a job from overlapping itself.
        Object::UniqueIndex("steward.job_runs_job_due_at_key"),
        Object::UniqueIndex("steward.job_runs_running_key"),
    ],
};

const fn daily(table: &'static str) -> PartitionedTable {
    PartitionedTable { schema: SCHEMA, table, period: Period::Day, ahead: 14 }
}

const fn rule(table: &'static str) -> RetentionRule {
    RetentionRule { schema: SCHEMA, table, key: table }
}
