//! Whether what pgsteward relies on is there, after migrating and at every start.

use crate::db::{Conn, Error};
use crate::observe::objects::{self, Object};

use super::source::{STEWARD, ZENTRY};

/// What the daemon's own statements need.
const STEWARD_OBJECTS: &[Object] = &[
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
    // What keeps an instant from running twice, and a job from overlapping itself.
    Object::UniqueIndex("steward.job_runs_job_due_at_key"),
    Object::UniqueIndex("steward.job_runs_running_key"),
];

/// What jobs and documentation of the bundled set rely on.
const ZENTRY_OBJECTS: &[Object] = &[
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
    // Without it the view can be refreshed only by locking its readers out.
    Object::UniqueIndex("public.user_statistics_user_id_key"),
    Object::Trigger("public.users.steward_audit_update"),
    Object::Trigger("public.projects.steward_audit_update"),
    Object::Trigger("public.vms.steward_audit_update"),
    Object::Trigger("public.vms.vms_record_transition"),
    Object::Trigger("public.billing_records.steward_audit_update"),
];

/// Names what is missing of the sets that the history says are applied.
pub async fn missing_objects(conn: &Conn, sets: &[&str]) -> Result<Vec<String>, Error> {
    let mut wanted = Vec::new();
    if sets.contains(&STEWARD) {
        wanted.extend_from_slice(STEWARD_OBJECTS);
    }
    if sets.contains(&ZENTRY) {
        wanted.extend_from_slice(ZENTRY_OBJECTS);
    }
    objects::missing(conn, &wanted).await
}
