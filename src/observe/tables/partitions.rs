//! Reads partitions by RANGE of one time column: their bounds and whether they are detached.

use tokio_postgres::types::Type;

use super::identity::{Identity, WITHOUT_COLUMN};
use super::relation::Relation;
use crate::db::{Error, Param, Tx, from_row};

/// The data type of a time column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeType {
    TimestampTz,
    Timestamp,
    Date,
}

impl TimeType {
    /// Parses a name as `format_type` returns it.
    pub fn from_type(data_type: &str) -> Option<TimeType> {
        match data_type {
            "timestamp with time zone" => Some(TimeType::TimestampTz),
            "timestamp without time zone" => Some(TimeType::Timestamp),
            "date" => Some(TimeType::Date),
            _ => None,
        }
    }

    /// The name of the type in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            TimeType::TimestampTz => "timestamptz",
            TimeType::Timestamp => "timestamp",
            TimeType::Date => "date",
        }
    }
}

/// A direct partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub id: Identity,
    pub is_default: bool,
    /// A DETACH CONCURRENTLY was interrupted: only FINALIZE can complete it.
    pub detach_pending: bool,
    pub owned: bool,
    /// The exclusive upper bound.
    pub upper: Option<String>,
    /// Whether all rows that it can hold are before the cutoff.
    pub past: bool,
    /// Whether it may hold rows before the cutoff.
    pub begins_before: bool,
}

from_row!(Partition, [is_default, detach_pending, owned, upper, past, begins_before], nested id);

/// SQL: joins the bounds `lo` and `hi` of partition `c`. Only the text of `relpartbound` has them.
fn bounds(time_type: TimeType) -> String {
    let of = |pattern: &str, open: &str| {
        format!("coalesce(substring(x.expr FROM $re${pattern}$re$)::{}, '{open}')", time_type.sql())
    };
    format!(
        "CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS x (expr)
         CROSS JOIN LATERAL (SELECT {} AS lo, {} AS hi) AS b",
        of("FROM \\('([^']+)'\\)", "-infinity"),
        of("TO \\('([^']+)'\\)", "infinity"),
    )
}

/// Lists the direct partitions, earliest first. Returns none for a table that is not partitioned by
/// RANGE of a time column.
pub async fn list(
    tx: &Tx<'_>,
    relation: &Relation,
    time_type: TimeType,
    cutoff: &str,
) -> Result<Vec<Partition>, Error> {
    read(tx, relation, time_type, cutoff, None).await
}

/// Reads one table if it is a direct partition now.
pub async fn attached(
    tx: &Tx<'_>,
    relation: &Relation,
    time_type: TimeType,
    cutoff: &str,
    oid: u32,
) -> Result<Option<Partition>, Error> {
    Ok(read(tx, relation, time_type, cutoff, Some(oid)).await?.pop())
}

async fn read(
    tx: &Tx<'_>,
    relation: &Relation,
    time_type: TimeType,
    cutoff: &str,
    only: Option<u32>,
) -> Result<Vec<Partition>, Error> {
    if relation.key.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT {WITHOUT_COLUMN}, x.expr = 'DEFAULT' AS is_default,
                i.inhdetachpending AS detach_pending, pg_has_role(c.relowner, 'USAGE') AS owned,
                CASE WHEN x.expr <> 'DEFAULT' THEN b.hi::text END AS upper,
                x.expr <> 'DEFAULT' AND b.hi <= $2::{time_type} AS past,
                b.lo < $2::{time_type} AS begins_before
           FROM pg_inherits i
           JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           {}
          WHERE i.inhparent = $1 AND ($3::oid IS NULL OR c.oid = $3)
          ORDER BY b.lo, c.oid",
        bounds(time_type),
        time_type = time_type.sql(),
    );
    let params: [Param<'_>; 3] =
        [(&relation.id.oid, Type::OID), (&cutoff, Type::TEXT), (&only, Type::OID)];
    tx.read("list partitions", &sql, &params).await
}

/// Finds a partition with an unfinished DETACH, whatever the type of its key.
pub async fn pending(tx: &Tx<'_>, parent: u32) -> Result<Option<Partition>, Error> {
    let sql = format!(
        "
        SELECT {WITHOUT_COLUMN}, false AS is_default, true AS detach_pending,
               pg_has_role(c.relowner, 'USAGE') AS owned, NULL AS upper, false AS past,
               false AS begins_before
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.inhparent = $1 AND i.inhdetachpending"
    );
    tx.read_opt("find an unfinished DETACH", &sql, &[(&parent, Type::OID)]).await
}

/// Counts the partitions that follow the current one without a gap.
pub async fn ahead(tx: &Tx<'_>, schema: &str, table: &str) -> Result<i64, Error> {
    let sql = format!(
        "WITH parts AS (
             SELECT b.lo, b.hi, lag(b.hi) OVER (ORDER BY b.lo) AS before
               FROM pg_inherits i
               JOIN pg_class c ON c.oid = i.inhrelid
               {}
              WHERE i.inhparent = (
                        SELECT p.oid FROM pg_class p JOIN pg_namespace n ON n.oid = p.relnamespace
                         WHERE n.nspname = $1 AND p.relname = $2)
                AND x.expr <> 'DEFAULT' AND NOT i.inhdetachpending AND b.hi > now()
         )
         SELECT count(*) FILTER (WHERE lo > now())
           FROM parts
          WHERE lo < coalesce((SELECT min(lo) FROM parts
                                WHERE lo > now() AND before IS DISTINCT FROM lo), 'infinity')",
        bounds(TimeType::TimestampTz),
    );
    let params = [(&schema as _, Type::TEXT), (&table as _, Type::TEXT)];
    tx.read_one("count partitions ahead", &sql, &params).await
}

/// The current state of a table that was a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerPartition {
    pub id: Identity,
    /// Whether it is a partition or child again, of this or another table.
    pub attached: bool,
    pub owned: bool,
    /// Whether its former upper bound is at or before the cutoff.
    pub past: bool,
}

from_row!(FormerPartition, [attached, owned, past], nested id);

/// Looks up a former partition by its OID. `upper` is its former exclusive upper bound.
pub async fn former(
    tx: &Tx<'_>,
    oid: u32,
    time_type: TimeType,
    upper: &str,
    cutoff: &str,
) -> Result<Option<FormerPartition>, Error> {
    let sql = format!(
        "SELECT {WITHOUT_COLUMN},
                c.relispartition
                  OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS attached,
                pg_has_role(c.relowner, 'USAGE') AS owned,
                $2::{time_type} <= $3::{time_type} AS past
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.oid = $1 AND c.relkind IN ('r', 'p')",
        time_type = time_type.sql(),
    );
    let params: [Param<'_>; 3] = [(&oid, Type::OID), (&upper, Type::TEXT), (&cutoff, Type::TEXT)];
    tx.read_opt("find a detached partition", &sql, &params).await
}
