//! Which tables are purged, and by what rule.

use std::time::Duration;

use crate::config::{Config, Mode};
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

/// Our own tables; where pgsteward may maintain, also the bundled set's and those of the configuration.
/// A table that the configuration names follows the configuration.
pub fn targets(config: &Config, zentry: bool) -> Vec<Target> {
    let keep = &config.retention;
    let mut targets = vec![
        Target::own(SCHEMA, "audit_logs", keep.audit_logs.max(keep.min_keep)),
        Target::own(SCHEMA, "system_health", keep.system_health),
        Target::own(SCHEMA, "connection_metrics", keep.connection_metrics),
    ];
    if config.mode == Mode::Observe {
        return targets;
    }
    if zentry && !keep.tables.contains_key("public.vm_metrics") {
        targets.push(Target::own("public", "vm_metrics", keep.vm_metrics));
    }
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
