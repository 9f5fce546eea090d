//! What the process tells the audit trail of each database: reloads of the configuration, attempts to call it with
//! credentials that are not accepted.
//!
//! It happens whether the database is there or not. Its row has its id and instant from then on, waits in memory, and
//! is written at the next upkeep that finds the tables. Of configurations only names are told: values may be secret.

use std::collections::{BTreeSet, VecDeque};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::ledger::Ledger;
use crate::config::{Config, Problems};
use crate::db::Error;
use crate::store::audit::{Event, EventRow, Origin};

/// Rows that wait; the oldest go first, of refused calls before all others.
const WAITING_MAX: usize = 512;
const REFUSED: &str = "auth.failed";
/// Keys that a row names, and how long each may be.
const KEYS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 100;

/// Something that the process has to tell.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditNotice {
    action: &'static str,
    resource_type: &'static str,
    /// The database itself where there is none.
    resource_id: Option<String>,
    details: Value,
    origin: Origin,
}

impl AuditNotice {
    /// Somebody called with credentials that are not accepted.
    pub fn refused_call(route: String, origin: Origin, details: Value) -> AuditNotice {
        AuditNotice {
            action: REFUSED,
            resource_type: "route",
            resource_id: Some(route),
            details,
            origin,
        }
    }

    /// It was valid, and something that it names could not be used; what was before stays.
    pub fn unusable(table: &str) -> AuditNotice {
        AuditNotice::of_configuration("config.rejected", json!({ "problems": 1, "keys": [table] }))
    }

    /// Whether it is worth an upkeep of its own. Anybody who reaches the listener can make the others.
    pub fn is_urgent(&self) -> bool {
        self.action != REFUSED
    }

    fn of_configuration(action: &'static str, details: Value) -> AuditNotice {
        AuditNotice {
            action,
            resource_type: "configuration",
            resource_id: None,
            details,
            origin: Origin::default(),
        }
    }

    /// It was taken in, in place of what was read before.
    pub fn adopted(before: &Config, after: &Config) -> AuditNotice {
        AuditNotice::of_configuration(
            "config.reloaded",
            json!({ "changed": before.changed(after) }),
        )
    }

    /// It was invalid, and the one before stays.
    pub fn rejected(problems: &Problems) -> AuditNotice {
        let keys: BTreeSet<String> = problems
            .iter()
            // jsonb holds no such character.
            .map(|problem| {
                problem.key.chars().filter(|c| *c != '\0').take(KEY_CHARS_MAX).collect::<String>()
            })
            .filter(|key| !key.is_empty())
            .collect();
        let keys: Vec<String> = keys.into_iter().take(KEYS_MAX).collect();
        AuditNotice::of_configuration(
            "config.rejected",
            json!({ "problems": problems.len(), "keys": keys }),
        )
    }
}

/// The rows of one database that are not written yet.
#[derive(Debug, Default)]
pub struct PendingAudit {
    waiting: VecDeque<EventRow>,
}

impl PendingAudit {
    /// Takes a notice of this instant, by the database's clock.
    pub fn take(&mut self, notice: &AuditNotice, at: DateTime<Utc>, instance: &str, target: &str) {
        let actor = format!("instance:{instance}");
        if self.waiting.len() == WAITING_MAX {
            let refused = self.waiting.iter().position(|row| row.action == REFUSED);
            self.waiting.remove(refused.unwrap_or(0));
            tracing::warn!(
                database = target,
                "too many notices wait for the audit trail; the oldest is not told"
            );
        }
        let resource_id = notice.resource_id.as_deref().unwrap_or(target);
        let event =
            Event::new(&actor, notice.action, notice.resource_type, resource_id, &notice.details);
        let event = event.from(&notice.origin);
        self.waiting.push_back(EventRow::new(at, &event));
    }

    /// Writes what waits. After an error it waits on; what had arrived all the same is not doubled.
    pub async fn write(&mut self, ledger: &Ledger) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            ledger.tell_trail(self.waiting.make_contiguous()).await?;
            self.waiting.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let (mut notices, notice) =
            (PendingAudit::default(), AuditNotice::adopted(&Config::default(), &Config::default()));
        let at = |second| DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second);
        (0..518).for_each(|second| notices.take(&notice, at(second), "i", "main"));
        assert_eq!((notices.waiting.len(), notices.waiting[0].created_at), (WAITING_MAX, at(6)));
        let refused = AuditNotice::refused_call("/x".to_owned(), Origin::default(), json!({}));
        notices.take(&refused, at(600), "i", "main");
        notices.take(&notice, at(601), "i", "main");
        assert!(
            notices.waiting.iter().all(|row| row.action != REFUSED),
            "nobody pushes a reload out"
        );
    }
}
