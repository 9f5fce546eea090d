//! What a purge would remove, for whoever wants to know before. Changes nothing.

use serde::Serialize;

use super::purge::{Table, look_up_in};
use super::slices;
use super::targets::Target;
use crate::db::{Error, Tx, quote_ident};
use crate::observe::tables::partitions;
use crate::observe::tables::relation::leaves;

/// Rows past the cutoff that are counted, at most.
const COUNTED_MAX: i64 = 100_000;

/// What would go of one table.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Preview {
    pub table: String,
    pub column: Option<String>,
    pub keep_days: f64,
    /// Rows before it go; by the server's clock. By RFC 3339 where the column knows zones; else without one, as the
    /// column has it.
    pub cutoff: Option<String>,
    /// The oldest row, where that can be told without reading the whole table.
    pub oldest: Option<String>,
    /// Rows before the cutoff, as far as they were counted.
    pub rows_due: Option<i64>,
    /// Whether there are more of them than were counted.
    pub rows_due_at_least: bool,
    /// Partitions that would be dropped as a whole.
    pub partitions: Vec<String>,
    /// Why nothing would, with what mends it.
    pub problem: Option<String>,
}

/// Looks at one target.
///
/// # Errors
/// The connection's. What the server or the rules of purging refuse is told as [`Preview::problem`].
pub async fn look(tx: &Tx<'_>, target: &Target) -> Result<Preview, Error> {
    let keep_days = target.keep.as_secs_f64() / 86_400.0;
    let mut preview = Preview { table: target.name(), keep_days, ..Preview::default() };
    tx.batch("mark where to go back to", "SAVEPOINT preview").await?;
    if let Err(error) = fill(tx, target, &mut preview).await {
        if error.kind().is_connection() {
            return Err(error);
        }
        tx.batch("go back", "ROLLBACK TO SAVEPOINT preview").await?;
        preview.problem = Some(error.to_string());
    }
    Ok(preview)
}

async fn fill(tx: &Tx<'_>, target: &Target, preview: &mut Preview) -> Result<(), Error> {
    let table = look_up_in(tx, target).await?;
    preview.column = Some(table.column.clone());
    preview.cutoff = Some(instant(&table.cutoff));
    let parts = partitions::list(tx, &table.relation, table.stamp, &table.cutoff).await?;
    let past = parts.iter().filter(|part| part.past && part.owned && table.relation.owned);
    preview.partitions = past.map(|part| part.id.name()).collect();
    // Without an index each of these would read all rows of the table.
    let leaves = leaves(tx, &[table.relation.id.oid], &table.column).await?;
    if leaves.iter().all(|leaf| leaf.indexed || leaf.size_bytes <= super::purge::SMALL_BYTES) {
        preview.oldest = slices::oldest(tx, &table).await?.map(|(at, _)| instant(&at));
        let due = due(tx, &table).await?;
        preview.rows_due = Some(due.min(COUNTED_MAX));
        preview.rows_due_at_least = due > COUNTED_MAX;
    }
    Ok(())
}

/// `2026-08-29 07:47:03.8+00`, as PostgreSQL writes it under our settings, by RFC 3339.
fn instant(text: &str) -> String {
    let text = text.replacen(' ', "T", 1);
    text.strip_suffix("+00").map_or_else(|| text.clone(), |utc| format!("{utc}Z"))
}

async fn due(tx: &Tx<'_>, table: &Table) -> Result<i64, Error> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT FROM {relation} AS t WHERE t.{column} < $1::{stamp}{only} LIMIT {limit}) AS due",
        relation = table.relation.id.quoted(),
        column = quote_ident(&table.column),
        stamp = table.stamp.sql(),
        only = table.and_only(),
        limit = COUNTED_MAX + 1,
    );
    let params = [(&table.cutoff as _, tokio_postgres::types::Type::TEXT)];
    Ok(tx.row("count what is due", &sql, &params).await?.get(0))
}
