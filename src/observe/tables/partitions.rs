//! Partitions by RANGE of one time column: their bounds, and what became of their detaching.

use tokio_postgres::types::Type;

use super::identity::{COLUMNS, Identity, WITHOUT_COLUMN};
use super::relation::Relation;
use crate::db::{Error, Tx};

/// The types of a column of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    TimestampTz,
    Timestamp,
    Date,
}

impl Stamp {
    /// From the name that `format_type` gives.
    pub fn from_type(data_type: &str) -> Option<Stamp> {
        match data_type {
            "timestamp with time zone" => Some(Stamp::TimestampTz),
            "timestamp without time zone" => Some(Stamp::Timestamp),
            "date" => Some(Stamp::Date),
            _ => None,
        }
    }

    /// The type's name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Stamp::TimestampTz => "timestamptz",
            Stamp::Timestamp => "timestamp",
            Stamp::Date => "date",
        }
    }
}

/// A direct partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub id: Identity,
    pub is_default: bool,
    /// A DETACH CONCURRENTLY was cut off: only FINALIZE moves it now.
    pub detach_pending: bool,
    pub owned: bool,
    /// Exclusive upper bound.
    pub upper: Option<String>,
    /// Every row it can hold lies before the cutoff.
    pub past: bool,
    /// It may hold rows before the cutoff.
    pub begins_before: bool,
}

/// The bounds `lo` and `hi` of partition `c`, read from the one place that has them.
fn bounds(stamp: Stamp) -> String {
    let of = |pattern: &str, open: &str| {
        format!("coalesce(substring(x.expr FROM $re${pattern}$re$)::{}, '{open}')", stamp.sql())
    };
    format!(
        "CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS x (expr)
         CROSS JOIN LATERAL (SELECT {} AS lo, {} AS hi) AS b",
        of("FROM \\('([^']+)'\\)", "-infinity"),
        of("TO \\('([^']+)'\\)", "infinity"),
    )
}

/// The direct partitions, earliest first; none for a table that is not partitioned by RANGE of a time.
pub async fn list(
    tx: &Tx<'_>,
    relation: &Relation,
    stamp: Stamp,
    cutoff: &str,
) -> Result<Vec<Partition>, Error> {
    read(tx, relation, stamp, cutoff, None).await
}

/// One table, if it is a direct partition at this moment.
pub async fn attached(
    tx: &Tx<'_>,
    relation: &Relation,
    stamp: Stamp,
    cutoff: &str,
    oid: u32,
) -> Result<Option<Partition>, Error> {
    Ok(read(tx, relation, stamp, cutoff, Some(oid)).await?.pop())
}

async fn read(
    tx: &Tx<'_>,
    relation: &Relation,
    stamp: Stamp,
    cutoff: &str,
    only: Option<u32>,
) -> Result<Vec<Partition>, Error> {
    if relation.key.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {WITHOUT_COLUMN}, x.expr = 'DEFAULT', i.inhdetachpending,
                pg_has_role(c.relowner, 'USAGE'),
                CASE WHEN x.expr <> 'DEFAULT' THEN b.hi::text END,
                x.expr <> 'DEFAULT' AND b.hi <= $2::{stamp},
                b.lo < $2::{stamp}
           FROM pg_inherits i
           JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           {}
          WHERE i.inhparent = $1 AND ($3::oid IS NULL OR c.oid = $3)
          ORDER BY b.lo, c.oid",
        bounds(stamp),
        stamp = stamp.sql(),
    );
    let params: [crate::db::Param<'_>; 3] =
        [(&relation.id.oid, Type::OID), (&cutoff, Type::TEXT), (&only, Type::OID)];
    let rows = tx.rows("list partitions", &sql, &params).await?;
    Ok(rows
        .iter()
        .map(|row| Partition {
            id: Identity::read(row),
            is_default: row.get(COLUMNS),
            detach_pending: row.get(COLUMNS + 1),
            owned: row.get(COLUMNS + 2),
            upper: row.get(COLUMNS + 3),
            past: row.get(COLUMNS + 4),
            begins_before: row.get(COLUMNS + 5),
        })
        .collect())
}

/// A partition whose detaching is unfinished, whatever the type of its key.
pub async fn pending(tx: &Tx<'_>, parent: u32) -> Result<Option<Partition>, Error> {
    let sql = format!(
        "
        SELECT {WITHOUT_COLUMN}, pg_has_role(c.relowner, 'USAGE')
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.inhparent = $1 AND i.inhdetachpending"
    );
    let row = tx.row_opt("look for pending detach", &sql, &[(&parent, Type::OID)]).await?;
    Ok(row.map(|row| Partition {
        id: Identity::read(&row),
        is_default: false,
        detach_pending: true,
        owned: row.get(COLUMNS),
        upper: None,
        past: false,
        begins_before: false,
    }))
}

/// How many partitions begin after now, without a gap from the one that now falls into.
pub async fn ahead(tx: &Tx<'_>, schema: &str, table: &str) -> Result<i64, Error> {
    let sql = format!(
        "WITH parts AS (
             SELECT b.lo, b.hi, lag(b.hi) OVER (ORDER BY b.lo) AS before
               FROM pg_inherits i
               JOIN pg_class c ON c.oid = i.inhrelid
               {}
              WHERE i.inhparent = (SELECT p.oid FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace
                                    WHERE n.nspname = $1 AND p.relname = $2)
                AND x.expr <> 'DEFAULT' AND NOT i.inhdetachpending AND b.hi > now()
         )
         SELECT count(*) FILTER (WHERE lo > now())
           FROM parts
          WHERE lo < coalesce((SELECT min(lo) FROM parts WHERE lo > now() AND before IS DISTINCT FROM lo), 'infinity')",
        bounds(Stamp::TimestampTz),
    );
    Ok(tx
        .row("count partitions ahead", &sql, &[(&schema, Type::TEXT), (&table, Type::TEXT)])
        .await?
        .get(0))
}

/// A table that was a partition once, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    pub id: Identity,
    /// It is a partition or inherits, be it of another table.
    pub attached: bool,
    pub owned: bool,
    /// The bound that its rows had lies at or before the cutoff.
    pub past: bool,
}

/// Looks a table up by its OID; `upper` is the exclusive bound that it had as a partition.
pub async fn former(
    tx: &Tx<'_>,
    oid: u32,
    stamp: Stamp,
    upper: &str,
    cutoff: &str,
) -> Result<Option<Former>, Error> {
    let sql = format!(
        "SELECT {WITHOUT_COLUMN},
                c.relispartition OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid),
                pg_has_role(c.relowner, 'USAGE'),
                $2::{stamp} <= $3::{stamp}
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = $1 AND c.relkind IN ('r', 'p')",
        stamp = stamp.sql(),
    );
    let params: [crate::db::Param<'_>; 3] =
        [(&oid, Type::OID), (&upper, Type::TEXT), (&cutoff, Type::TEXT)];
    Ok(tx.row_opt("look for a detached partition", &sql, &params).await?.map(|row| Former {
        id: Identity::read(&row),
        attached: row.get(COLUMNS),
        owned: row.get(COLUMNS + 1),
        past: row.get(COLUMNS + 2),
    }))
}
