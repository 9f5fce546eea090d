//! The audit trail and its seals. Only the observer exports these.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry};

use super::{counters, floats, gauges};

/// The families of the audit trail.
#[derive(Debug)]
pub struct Audit {
    pub losses: IntGaugeVec,
    pub gaps: IntGaugeVec,
    pub seal_number: IntGaugeVec,
    pub sealed_at: GaugeVec,
    pub sealed_rows: IntCounterVec,
    pub unsealed_since: GaugeVec,
    pub published: IntGaugeVec,
    pub publish_failures: IntCounterVec,
}

impl Audit {
    pub(super) fn new(r: &Registry) -> Result<Audit, prometheus::Error> {
        Ok(Audit {
            losses: gauges(
                r,
                "pgsteward_audit_lost_statements",
                "Statements of applications that row audit could not record, as the database counts them.",
                &["target"],
            )?,
            gaps: gauges(
                r,
                "pgsteward_audit_gaps",
                "Triggers of audited tables that are missing or disabled.",
                &["target"],
            )?,
            seal_number: gauges(
                r,
                "pgsteward_audit_seal",
                "Number of the newest seal.",
                &["target"],
            )?,
            sealed_at: floats(
                r,
                "pgsteward_audit_seal_timestamp_seconds",
                "When the newest seal was made.",
                &["target"],
            )?,
            sealed_rows: counters(
                r,
                "pgsteward_audit_sealed_rows_total",
                "Rows sealed by this instance.",
                &["target"],
            )?,
            unsealed_since: floats(
                r,
                "pgsteward_audit_unsealed_oldest_timestamp_seconds",
                "When the oldest row that is not sealed yet was written; absent where none is.",
                &["target"],
            )?,
            published: gauges(
                r,
                "pgsteward_audit_published_seal",
                "Number of the newest seal whose head was given to a sink outside the database (file or webhook).",
                &["target", "sink"],
            )?,
            publish_failures: counters(
                r,
                "pgsteward_audit_publish_failures_total",
                "Attempts to give a head to a sink that failed.",
                &["target", "sink"],
            )?,
        })
    }

    /// Withdraws what only the observer knows. An error of a family says that there was no such series.
    pub fn withdraw(&self, target: &str) {
        for family in [&self.losses, &self.gaps, &self.seal_number] {
            let _ = family.remove_label_values(&[target]);
        }
        for family in [&self.sealed_at, &self.unsealed_since] {
            let _ = family.remove_label_values(&[target]);
        }
    }
}
