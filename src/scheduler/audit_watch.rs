//! What the observer knows of the audit trail: looked at now and then, for health and metrics.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatcher::seconds;
use super::ledger::Ledger;
use crate::db::Error;
use crate::health;
use crate::store::audit::{AuditStatus, TriggerGap};
use crate::telemetry::Metrics;

/// How often it is looked at. Each look reads the catalog's triggers.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// For how long a loss shows in health: it cannot be undone, only known.
const LOSS_SHOWS: Duration = Duration::from_secs(15 * 60);

/// The trail of one database.
#[derive(Debug, Default)]
pub struct Trail {
    looked_at: Option<Instant>,
    losses: Option<i64>,
    lost_at: Option<Instant>,
    standing: Option<health::Audit>,
}

impl Trail {
    /// Looks where it is time to.
    pub async fn look(
        &mut self,
        ledger: &Arc<Ledger>,
        metrics: &Metrics,
        target: &str,
    ) -> Result<(), Error> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Ok(());
        }
        let found = ledger.audit().await?;
        self.looked_at = Some(Instant::now());
        let lost = self.losses.replace(found.losses).map_or(0, |before| found.losses - before);
        if lost > 0 {
            self.lost_at = Some(Instant::now());
            tracing::error!(
                database = target,
                lost,
                "statements of applications are missing from the audit trail"
            );
        }
        metrics.audit_lost_statements.with_label_values(&[target]).set(found.losses);
        metrics.audit_gaps.with_label_values(&[target]).set(found.gaps.len() as i64);
        if let Some((number, at)) = found.seal {
            metrics.audit_last_seal_number.with_label_values(&[target]).set(number);
            metrics.audit_last_seal_timestamp_seconds.with_label_values(&[target]).set(seconds(at));
        }
        match found.unsealed_since {
            Some(at) => metrics
                .audit_oldest_unsealed_timestamp_seconds
                .with_label_values(&[target])
                .set(seconds(at)),
            // An error says that there was no such series.
            None => {
                drop(
                    metrics.audit_oldest_unsealed_timestamp_seconds.remove_label_values(&[target]),
                );
            }
        }
        self.standing =
            Some(judged(&found, self.lost_at.is_some_and(|at| at.elapsed() < LOSS_SHOWS)));
        Ok(())
    }

    /// What was found; none until it was looked at.
    pub fn standing(&self) -> Option<health::Audit> {
        self.standing.clone()
    }

    /// Forgets: another instance observes.
    pub fn forget(&mut self) {
        *self = Trail::default();
    }
}

/// What was read, as health judges it.
pub fn judged(found: &AuditStatus, lost_lately: bool) -> health::Audit {
    health::Audit {
        gaps: found.gaps.iter().map(gap).collect(),
        unsealed: found
            .unsealed_since
            .map(|since| (found.now - since).to_std().unwrap_or_default()),
        lost_lately,
        losses: found.losses,
        seal: found.seal.map(|(number, _)| number),
    }
}

fn gap(gap: &TriggerGap) -> String {
    match &gap.trigger {
        Some(trigger) => format!("{} of {} is {}", trigger, gap.relation, gap.problem),
        None => format!("{} ({}) is gone", gap.table, gap.relation),
    }
}
