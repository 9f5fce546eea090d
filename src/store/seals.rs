//! The chain of seals over the audit trail, their leaves, and to whom heads were given.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::audit_rows::SealPosition;
use crate::db::{Error, Kind, Param, Tx};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Bytes of one leaf in `audit_leaves`.
pub const LEAF_BYTES: usize = 56;

/// An entry of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub number: i64,
    pub epoch: String,
    pub what: SealContent,
    /// Of rows: the leaves under the root. Of a purge: the rows that were due.
    pub row_count: i64,
    /// The head of the entry before.
    pub previous: Option<Hash>,
    pub head: Hash,
    pub algorithm: i32,
    pub sealed_at: DateTime<Utc>,
    pub sealed_by: String,
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealContent {
    /// All rows of these transactions.
    Rows(SealedRows),
    /// Rows that no seal had when an epoch began. The transaction ids say where the next entry begins, not
    /// which rows these are.
    Adopted(SealedRows),
    /// Rows before the cutoff may be gone from here on.
    Purge { cutoff: DateTime<Utc> },
}

/// Rows under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRows {
    pub from: SealPosition,
    /// Exclusive.
    pub below: SealPosition,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    pub root: Hash,
}

impl SealContent {
    /// As in the column `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            SealContent::Rows(_) => "rows",
            SealContent::Adopted(_) => "adopted",
            SealContent::Purge { .. } => "purge",
        }
    }

    /// The rows, where it seals some.
    pub fn rows(&self) -> Option<&SealedRows> {
        match self {
            SealContent::Rows(rows) | SealContent::Adopted(rows) => Some(rows),
            SealContent::Purge { .. } => None,
        }
    }

    /// The cutoff of a purge.
    pub fn cutoff(&self) -> Option<DateTime<Utc>> {
        match self {
            SealContent::Purge { cutoff } => Some(*cutoff),
            SealContent::Rows(_) | SealContent::Adopted(_) => None,
        }
    }
}

const COLUMNS: &str =
    "number, kind, epoch, xid_from::text, id_from, xid_below::text, id_below, row_count, first_at,
                       last_at, root, cutoff, previous, head, algorithm, sealed_at, sealed_by";

fn read(row: &Row) -> Result<Seal, Error> {
    let malformed = || {
        let number: i64 = row.get(0);
        Error::new(Kind::Protocol, format!("entry {number} of steward.audit_seals is malformed"))
    };
    let hash =
        |column: usize| -> Option<Hash> { row.get::<_, Option<&[u8]>>(column)?.try_into().ok() };
    let place = |column: usize| -> Option<SealPosition> {
        let xid = row.get::<_, Option<&str>>(column)?.parse().ok()?;
        Some(SealPosition { xid, id: row.get::<_, Option<_>>(column + 1)? })
    };
    let rows = || {
        Some(SealedRows {
            from: place(3)?,
            below: place(5)?,
            first_at: row.get::<_, Option<_>>(8)?,
            last_at: row.get::<_, Option<_>>(9)?,
            root: hash(10)?,
        })
    };
    let what = match row.get(1) {
        "rows" => SealContent::Rows(rows().ok_or_else(malformed)?),
        "adopted" => SealContent::Adopted(rows().ok_or_else(malformed)?),
        "purge" => {
            SealContent::Purge { cutoff: row.get::<_, Option<_>>(11).ok_or_else(malformed)? }
        }
        _ => return Err(malformed()),
    };
    Ok(Seal {
        number: row.get(0),
        epoch: row.get(2),
        what,
        row_count: row.get(7),
        previous: hash(12),
        head: hash(13).ok_or_else(malformed)?,
        algorithm: row.get(14),
        sealed_at: row.get(15),
        sealed_by: row.get(16),
    })
}

/// Keeps others from appending until the end of the transaction: a sealer and a purge would take the same
/// number. Readers go on.
pub async fn lock_for_append(tx: &Tx<'_>) -> Result<(), Error> {
    let sql = "LOCK TABLE steward.audit_seals IN SHARE ROW EXCLUSIVE MODE";
    tx.batch("wait for whoever appends to the chain of seals", sql).await
}

/// The newest entry.
pub async fn last(tx: &Tx<'_>) -> Result<Option<Seal>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM steward.audit_seals ORDER BY number DESC LIMIT 1");
    tx.row_opt("read the newest seal", &sql, &[]).await?.as_ref().map(read).transpose()
}

/// The newest entry over rows.
pub async fn last_of_rows(tx: &Tx<'_>) -> Result<Option<Seal>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_seals WHERE kind <> 'purge' ORDER BY number DESC LIMIT 1"
    );
    tx.row_opt("read the newest seal over rows", &sql, &[]).await?.as_ref().map(read).transpose()
}

/// The entry of a number.
pub async fn numbered(tx: &Tx<'_>, number: i64) -> Result<Option<Seal>, Error> {
    let sql = format!("SELECT {COLUMNS} FROM steward.audit_seals WHERE number = $1");
    tx.row_opt("read a seal", &sql, &[(&number, Type::INT8)]).await?.as_ref().map(read).transpose()
}

/// Up to `limit` entries after a number, in order.
pub async fn after(tx: &Tx<'_>, number: i64, limit: i64) -> Result<Vec<Seal>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_seals WHERE number > $1 ORDER BY number LIMIT $2"
    );
    let rows = tx.rows("read seals", &sql, &[(&number, Type::INT8), (&limit, Type::INT8)]).await?;
    rows.iter().map(read).collect()
}

/// Adds an entry. Its number is refused where another sealer was first.
pub async fn append(tx: &Tx<'_>, seal: &Seal) -> Result<(), Error> {
    let sql = "
        INSERT INTO steward.audit_seals
               (number, kind, epoch, xid_from, id_from, xid_below, id_below, row_count, first_at, last_at, root, cutoff,
                previous, head, algorithm, sealed_at, sealed_by)
        VALUES ($1, $2, $3, $4::text::xid8, $5, $6::text::xid8, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    let rows = seal.what.rows();
    let (kind, cutoff) = (seal.what.kind(), seal.what.cutoff());
    let xid_from = rows.map(|rows| rows.from.xid.to_string());
    let xid_below = rows.map(|rows| rows.below.xid.to_string());
    let (id_from, id_below) = (rows.map(|rows| rows.from.id), rows.map(|rows| rows.below.id));
    let (first_at, last_at) = (rows.map(|rows| rows.first_at), rows.map(|rows| rows.last_at));
    let root = rows.map(|rows| rows.root.as_slice());
    let (previous, head) = (seal.previous.as_ref().map(Hash::as_slice), seal.head.as_slice());
    let params: [Param<'_>; 17] = [
        (&seal.number, Type::INT8),
        (&kind, Type::TEXT),
        (&seal.epoch, Type::TEXT),
        (&xid_from, Type::TEXT),
        (&id_from, Type::UUID),
        (&xid_below, Type::TEXT),
        (&id_below, Type::UUID),
        (&seal.row_count, Type::INT8),
        (&first_at, Type::TIMESTAMPTZ),
        (&last_at, Type::TIMESTAMPTZ),
        (&root, Type::BYTEA),
        (&cutoff, Type::TIMESTAMPTZ),
        (&previous, Type::BYTEA),
        (&head, Type::BYTEA),
        (&seal.algorithm, Type::INT4),
        (&seal.sealed_at, Type::TIMESTAMPTZ),
        (&seal.sealed_by, Type::TEXT),
    ];
    tx.execute("append to the chain of seals", sql, &params).await?;
    Ok(())
}

/// Entries beside those of this epoch whose rows may lie in this range: of other epochs, and adopted ones. Where
/// nothing was ever adopted, no ids began anew, and there are none.
pub async fn overlapping(
    tx: &Tx<'_>,
    epoch: &str,
    from: SealPosition,
    below: SealPosition,
) -> Result<Vec<i64>, Error> {
    const ADOPTED: &str = "SELECT EXISTS (SELECT FROM steward.audit_seals WHERE kind = 'adopted')";
    let adopted: bool = tx.row("look for adopted rows", ADOPTED, &[]).await?.get(0);
    if !adopted {
        return Ok(Vec::new());
    }
    let sql = "
        SELECT number FROM steward.audit_seals
         WHERE kind = 'adopted'
            OR (kind = 'rows' AND epoch <> $1 AND (xid_from, id_from) < ($4::text::xid8, $5)
                AND (xid_below, id_below) > ($2::text::xid8, $3))
         ORDER BY number";
    let (xid_from, xid_below) = (from.xid.to_string(), below.xid.to_string());
    let params: [Param<'_>; 5] = [
        (&epoch, Type::TEXT),
        (&xid_from, Type::TEXT),
        (&from.id, Type::UUID),
        (&xid_below, Type::TEXT),
        (&below.id, Type::UUID),
    ];
    let rows = tx.rows("find seals beside this epoch's", sql, &params).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Entries that may hold the row of this place: by their range, or because they adopted rows of any.
pub async fn candidates_for(tx: &Tx<'_>, place: SealPosition) -> Result<Vec<Seal>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM steward.audit_seals
          WHERE kind = 'adopted' OR (kind = 'rows' AND (xid_from, id_from) <= ($1::text::xid8, $2)
                                     AND (xid_below, id_below) > ($1::text::xid8, $2))
          ORDER BY number"
    );
    let params: [Param<'_>; 2] = [(&place.xid.to_string(), Type::TEXT), (&place.id, Type::UUID)];
    let rows = tx.rows("find the seals of a row", &sql, &params).await?;
    rows.iter().map(read).collect()
}

/// Writes the leaves of an entry.
pub async fn write_leaves(tx: &Tx<'_>, seal: i64, leaves: &[u8]) -> Result<(), Error> {
    let sql = "INSERT INTO steward.audit_leaves (seal, leaves) VALUES ($1, $2)";
    tx.execute("write leaves", sql, &[(&seal, Type::INT8), (&leaves, Type::BYTEA)]).await?;
    Ok(())
}

/// The leaves of an entry. None where they are gone with a purge, or where it has none.
pub async fn leaves(tx: &Tx<'_>, seal: i64) -> Result<Option<Vec<u8>>, Error> {
    let sql = "SELECT leaves FROM steward.audit_leaves WHERE seal = $1";
    Ok(tx.row_opt("read leaves", sql, &[(&seal, Type::INT8)]).await?.map(|row| row.get(0)))
}

/// The cutoff of the latest purge.
pub async fn purged_before(tx: &Tx<'_>) -> Result<Option<DateTime<Utc>>, Error> {
    let sql = "SELECT max(cutoff) FROM steward.audit_seals WHERE kind = 'purge'";
    Ok(tx.row("read the purges", sql, &[]).await?.get(0))
}

/// Looks at up to `limit` entries after a number whose rows all lie before the latest purge, and deletes the
/// leaves of those that have no row left: roots remain. Returns the last entry that it looked at; none where
/// there is none to look at any more.
pub async fn prune_leaves(tx: &Tx<'_>, after: i64, limit: i64) -> Result<Option<i64>, Error> {
    // Rows that a hold has kept are in their places still.
    let sql = "
        WITH past AS MATERIALIZED (
            SELECT s.number, s.first_at, s.last_at FROM steward.audit_seals s
             WHERE s.number > $1
               AND s.last_at < (SELECT max(cutoff) FROM steward.audit_seals WHERE kind = 'purge')
               AND EXISTS (SELECT FROM steward.audit_leaves l WHERE l.seal = s.number)
             ORDER BY s.number LIMIT $2),
        deleted AS (
            DELETE FROM steward.audit_leaves l USING past p
             WHERE l.seal = p.number
               AND NOT EXISTS (SELECT FROM steward.audit_sealed_ids(p.number) i (id)
                                 JOIN steward.audit_logs a
                                   ON a.id = i.id AND a.created_at BETWEEN p.first_at AND p.last_at))
        SELECT max(number) FROM past";
    let params: [Param<'_>; 2] = [(&after, Type::INT8), (&limit, Type::INT8)];
    Ok(tx.row("forget leaves of purged rows", sql, &params).await?.get(0))
}

/// The newest entry that a sink was given; 0 for none.
pub async fn published(tx: &Tx<'_>, sink: &str) -> Result<i64, Error> {
    let sql = "SELECT seal FROM steward.audit_publications WHERE sink = $1";
    Ok(tx
        .row_opt("read a publication", sql, &[(&sink, Type::TEXT)])
        .await?
        .map_or(0, |row| row.get(0)))
}

/// Notes that a sink was given an entry's head.
pub async fn note_published(tx: &Tx<'_>, sink: &str, seal: i64) -> Result<(), Error> {
    let sql = "
        INSERT INTO steward.audit_publications (sink, seal) VALUES ($1, $2)
        ON CONFLICT (sink) DO UPDATE SET seal = excluded.seal, published_at = excluded.published_at";
    tx.execute("note a publication", sql, &[(&sink, Type::TEXT), (&seal, Type::INT8)]).await?;
    Ok(())
}
