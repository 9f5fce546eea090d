//! The partitions that retention is taking off: which, and whether it was pgsteward who detached them.
//!
//! ```text
//! announce ─► DETACH … CONCURRENTLY ─► confirm ─► take, with the DROP
//!       └──── not begun: forget
//! ```
//! DETACH … CONCURRENTLY cannot share a transaction with its record. Only a confirmed row allows the table
//! to be dropped; whatever else is found standing alone may be somebody's who wants to keep it.

use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::db::{Error, Tx};

/// A partition on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retirement {
    pub partition: u32,
    /// `"schema"."table"`, as it was when announced.
    pub name: String,
    /// Exclusive bound of its rows, as text of the key's type.
    pub upper: String,
    /// Whether it is known that the DETACH was ours.
    pub detached: bool,
}

/// What is about to be detached, with `"schema"."table"` names.
#[derive(Debug, Clone, Copy)]
pub struct NewRetirement<'a> {
    pub partition: u32,
    pub partition_name: &'a str,
    pub parent: u32,
    pub parent_name: &'a str,
    pub upper: &'a str,
    pub run_id: Uuid,
}

/// Writes the intent down. What is left of an earlier one for the same table counts no more.
pub async fn announce(tx: &Tx<'_>, intent: &NewRetirement<'_>) -> Result<(), Error> {
    let sql = "
        INSERT INTO steward.retirements (partition, partition_name, parent, parent_name, upper_bound, run_id)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (partition) DO UPDATE
           SET (partition_name, parent, parent_name, upper_bound, run_id, detached, created_at)
             = (excluded.partition_name, excluded.parent, excluded.parent_name, excluded.upper_bound,
                excluded.run_id, false, excluded.created_at)";
    let params: [crate::db::Param<'_>; 6] = [
        (&intent.partition, Type::OID),
        (&intent.partition_name, Type::TEXT),
        (&intent.parent, Type::OID),
        (&intent.parent_name, Type::TEXT),
        (&intent.upper, Type::TEXT),
        (&intent.run_id, Type::UUID),
    ];
    tx.execute("announce the retirement of a partition", sql, &params).await?;
    Ok(())
}

/// Says that the announced DETACH was done or begun by us; nothing where none was announced.
pub async fn confirm(tx: &Tx<'_>, partition: u32) -> Result<(), Error> {
    let sql =
        "UPDATE steward.retirements SET detached = true WHERE partition = $1 AND NOT detached";
    tx.execute("confirm the detach of a partition", sql, &[(&partition, Type::OID)]).await?;
    Ok(())
}

/// Takes the row away together with the table. False where there is none that allows the DROP.
pub async fn complete(tx: &Tx<'_>, partition: u32) -> Result<bool, Error> {
    let sql = "DELETE FROM steward.retirements WHERE partition = $1 AND detached";
    Ok(tx.execute("end the retirement of a partition", sql, &[(&partition, Type::OID)]).await? > 0)
}

/// Takes the row away: the table is not ours to drop.
pub async fn cancel(tx: &Tx<'_>, partition: u32) -> Result<(), Error> {
    let sql = "DELETE FROM steward.retirements WHERE partition = $1";
    tx.execute("forget the retirement of a partition", sql, &[(&partition, Type::OID)]).await?;
    Ok(())
}

/// What was announced for partitions of this table, the earliest first.
pub async fn list(tx: &Tx<'_>, parent: u32) -> Result<Vec<Retirement>, Error> {
    let sql = "
        SELECT partition, partition_name, upper_bound, detached
          FROM steward.retirements WHERE parent = $1 ORDER BY created_at, partition";
    let rows = tx.rows("read retirements", sql, &[(&parent, Type::OID)]).await?;
    Ok(rows
        .iter()
        .map(|row| Retirement {
            partition: row.get(0),
            name: row.get(1),
            upper: row.get(2),
            detached: row.get(3),
        })
        .collect())
}
