//! pgsteward's partitioned tables, and the function that makes their partitions.

use tokio_postgres::types::Type;

use crate::db::{Error, Tx};

/// The schema of pgsteward's own tables.
pub const SCHEMA: &str = "steward";

/// A partitioned table that pgsteward keeps supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManagedTable {
    pub schema: &'static str,
    pub table: &'static str,
    pub every: PartitionWidth,
    /// Partitions beyond the current one.
    pub ahead: i32,
}

/// The width of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionWidth {
    Day,
    Month,
}

impl PartitionWidth {
    /// As `steward.ensure_partitions` takes it.
    fn as_str(self) -> &'static str {
        match self {
            PartitionWidth::Day => "day",
            PartitionWidth::Month => "month",
        }
    }
}

/// pgsteward's own.
pub const OWN_TABLES: [ManagedTable; 3] = [
    ManagedTable { schema: SCHEMA, table: "system_health", every: PartitionWidth::Day, ahead: 14 },
    ManagedTable {
        schema: SCHEMA,
        table: "connection_metrics",
        every: PartitionWidth::Day,
        ahead: 14,
    },
    ManagedTable { schema: SCHEMA, table: "audit_logs", every: PartitionWidth::Month, ahead: 3 },
];

/// The bundled application set's.
pub const VM_METRICS: ManagedTable =
    ManagedTable { schema: "public", table: "vm_metrics", every: PartitionWidth::Month, ahead: 3 };

impl ManagedTable {
    /// `schema.table`, for labels and reports.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// What came of making partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnsureResult {
    pub created: i32,
    /// Why a partition could not be made, each with what mends it.
    pub problems: Vec<String>,
}

/// Makes the partitions that are missing: the current one and those ahead.
///
/// # Errors
/// A lock time-out: a partition needs a lock on the parent, and where there is a default partition the
/// strongest one on that.
pub async fn ensure(tx: &Tx<'_>, table: ManagedTable) -> Result<EnsureResult, Error> {
    ensure_from(tx, table, 0).await
}

/// The same, and so many before the current one (0 to 400): for rows that are written late.
///
/// # Errors
/// As [`ensure`].
pub async fn ensure_from(
    tx: &Tx<'_>,
    table: ManagedTable,
    behind: i32,
) -> Result<EnsureResult, Error> {
    let sql = "SELECT created, problems FROM steward.ensure_partitions(format('%I.%I', $1, $2)::regclass, $3, $4, $5)";
    let every = table.every.as_str();
    let params: [crate::db::Param<'_>; 5] = [
        (&table.schema, Type::TEXT),
        (&table.table, Type::TEXT),
        (&every, Type::TEXT),
        (&table.ahead, Type::INT4),
        (&behind, Type::INT4),
    ];
    let row = tx.row("make partitions", sql, &params).await?;
    Ok(EnsureResult { created: row.get(0), problems: row.get(1) })
}
