//! pgsteward's partitioned tables, and the function that makes their partitions.

use tokio_postgres::types::Type;

use crate::db::{Error, Tx};
use crate::sets::PartitionedTable;

/// The schema of pgsteward's own tables.
pub const SCHEMA: &str = "steward";

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
pub async fn ensure(tx: &Tx<'_>, table: &PartitionedTable) -> Result<EnsureResult, Error> {
    ensure_from(tx, table, 0).await
}

/// The same, and so many before the current one (0 to 400): for rows that are written late.
///
/// # Errors
/// As [`ensure`].
pub async fn ensure_from(
    tx: &Tx<'_>,
    table: &PartitionedTable,
    behind: i32,
) -> Result<EnsureResult, Error> {
    let sql = "SELECT created, problems FROM steward.ensure_partitions(format('%I.%I', $1, $2)::regclass, $3, $4, $5)";
    let period = table.period.as_str();
    let params: [crate::db::Param<'_>; 5] = [
        (&table.schema, Type::TEXT),
        (&table.table, Type::TEXT),
        (&period, Type::TEXT),
        (&table.ahead, Type::INT4),
        (&behind, Type::INT4),
    ];
    let row = tx.row("make partitions", sql, &params).await?;
    Ok(EnsureResult { created: row.get(0), problems: row.get(1) })
}
