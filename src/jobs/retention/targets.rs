//! Which tables are purged, and by what rule.

use std::time::Duration;

use crate::config::{Config, Mode};
use crate::jobs::maintained;
use crate::sets::Manifest;
use crate::store::partitions::SCHEMA;
use crate::store::requests::RunOptions;

/// A table to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub schema: String,
    pub table: String,
    /// The column of time; of our own tables that of the partition key.
    pub column: Option<String>,
    pub keep: Duration,
}

impl Target {
    fn own(schema: &str, table: &str, keep: Duration) -> Target {
        Target { schema: schema.to_owned(), table: table.to_owned(), column: None, keep }
    }

    /// Whether it is the audit trail.
    pub fn is_trail(&self) -> bool {
        self.schema == SCHEMA && self.table == "audit_logs"
    }

    /// `schema.table`
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// The same under what the caller of one run wants. How long the audit trail is kept at least, no caller changes.
pub fn wanted(mut targets: Vec<Target>, options: &RunOptions, min_keep: Duration) -> Vec<Target> {
    if let Some(days) = options.keep_days {
        let keep = Duration::from_secs(u64::from(days) * 86_400);
        for target in targets.iter_mut().filter(|target| options.covers(&target.name())) {
            let keep = if target.is_trail() { keep.max(min_keep) } else { keep };
            // What was asked for may have waited, and the configuration changed since.
            target.keep = if options.may_shorten { keep } else { keep.max(target.keep) };
        }
    }
    targets
}

/// The tables of the bundled sets that are applied and those of the configuration. In mode `observe`,
/// only pgsteward's own. A table that the configuration names follows the configuration.
pub fn targets(config: &Config, sets: &[&'static Manifest]) -> Vec<Target> {
    let keep = &config.retention;
    let rules = maintained(config, sets).flat_map(|set| set.retention);
    let mut targets: Vec<Target> = rules
        .filter_map(|rule| Some(Target::own(rule.schema, rule.table, keep.keep(rule.key)?)))
        .collect();
    if config.mode == Mode::Observe {
        return targets;
    }
    targets.retain(|target| !keep.tables.contains_key(&target.name()));
    for (name, table) in &keep.tables {
        let (schema, relation) = name.split_once('.').unwrap_or(("public", name));
        targets.push(Target {
            schema: schema.to_owned(),
            table: relation.to_owned(),
            column: Some(table.column.clone()),
            keep: table.keep,
        });
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sets::BUNDLED;

    #[test]
    fn every_retention_rule_of_a_set_names_a_key() {
        let keep = &Config::default().retention;
        for rule in BUNDLED.iter().flat_map(|set| set.retention) {
            assert!(keep.keep(rule.key).is_some(), "{rule:?}");
        }
    }
}
