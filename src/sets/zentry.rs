//! The schema of Zentry Cloud: users, projects, virtual machines and billing.

use super::{Manifest, Object, PartitionedTable, Period, RetentionRule, files};

const SCHEMA: &str = "public";

/// The set of the application Zentry Cloud.
pub static ZENTRY: Manifest = Manifest {
    name: "zentry",
    schema: SCHEMA,
    files: files!(
        "zentry":
        "001_initial_schema",
        "002_add_indexes_and_constraints",
        "003_add_audit_and_logging",
    ),
    partitioned: &[PartitionedTable {
        schema: SCHEMA,
        table: "vm_metrics",
        period: Period::Month,
        ahead: 3,
    }],
    retention: &[RetentionRule { schema: SCHEMA, table: "vm_metrics", key: "vm_metrics" }],
    views: &["public.user_statistics"],
    objects: &[
        Object::Table("public.users"),
        Object::Table("public.projects"),
        Object::Table("public.vms"),
        Object::Table("public.billing_records"),
        Object::Table("public.vm_metrics"),
        Object::Table("public.vm_state_transitions"),
        Object::View("public.user_statistics"),
        Object::View("public.audit_logs"),
        Object::View("public.system_health"),
        Object::View("public.connection_metrics"),
        // Without it, a refresh of the view locks out its readers.
        Object::UniqueIndex("public.user_statistics_user_id_key"),
        Object::Trigger("public.users.steward_audit_update"),
        Object::Trigger("public.projects.steward_audit_update"),
        Object::Trigger("public.vms.steward_audit_update"),
        Object::Trigger("public.vms.vms_record_transition"),
        Object::Trigger("public.billing_records.steward_audit_update"),
    ],
};
