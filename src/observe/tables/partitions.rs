//! Partitions by RANGE of one time column: their bounds, and what became of their detaching.

use tokio_postgres::types::Type;

use super::relation::Relation;
use crate::db::{Error, Tx, quote_ident};

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
    pub oid: u32,
    pub schema: String,
    pub table: String,
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
    pub comment: Option<String>,
}

impl Partition {
    /// `"schema"."table"`, for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.table))
    }

    /// `schema.table`, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
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
pub async fn list(tx: &Tx<'_>, relation: &Relation, stamp: Stamp, cutoff: &str) -> Result<Vec<Partition>, Error> {
    if relation.key.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, x.expr = 'DEFAULT', i.inhdetachpending,
                pg_has_role(c.relowner, 'USAGE'),
                CASE WHEN x.expr <> 'DEFAULT' THEN b.hi::text END,
                x.expr <> 'DEFAULT' AND b.hi <= $2::{stamp},
                b.lo < $2::{stamp},
                obj_description(c.oid, 'pg_class')
           FROM pg_inherits i
           JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           {}
          WHERE i.inhparent = $1
          ORDER BY b.lo, c.oid",
        bounds(stamp),
        stamp = stamp.sql(),
    );
    let rows = tx.rows("list partitions", &sql, &[(&relation.oid, Type::OID), (&cutoff, Type::TEXT)]).await?;
    Ok(rows
        .iter()
        .map(|row| Partition {
            oid: row.get(0),
            schema: row.get(1),
            table: row.get(2),
            is_default: row.get(3),
            detach_pending: row.get(4),
            owned: row.get(5),
            upper: row.get(6),
            past: row.get(7),
            begins_before: row.get(8),
            comment: row.get(9),
        })
        .collect())
}

/// A partition whose detaching is unfinished, whatever the type of its key.
pub async fn pending(tx: &Tx<'_>, parent: u32) -> Result<Option<Partition>, Error> {
    let sql = "
        SELECT c.oid, n.nspname::text, c.relname::text, pg_has_role(c.relowner, 'USAGE')
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE i.inhparent = $1 AND i.inhdetachpending";
    let row = tx.row_opt("look for pending detach", sql, &[(&parent, Type::OID)]).await?;
    Ok(row.map(|row| Partition {
        oid: row.get(0),
        schema: row.get(1),
        table: row.get(2),
        is_default: false,
        detach_pending: true,
        owned: row.get(3),
        upper: None,
        past: false,
        begins_before: false,
        comment: None,
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
    Ok(tx.row("count partitions ahead", &sql, &[(&schema, Type::TEXT), (&table, Type::TEXT)]).await?.get(0))
}

/// A table that was detached to be dropped, and never was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub schema: String,
    pub table: String,
    /// Its rows still lie before the cutoff.
    pub past: bool,
}

impl Orphan {
    /// `"schema"."table"`, for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.table))
    }

    /// `schema.table`, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// Tables that stand alone and whose comment is `mark` followed by the bound under which their rows lie.
pub async fn orphans(tx: &Tx<'_>, mark: &str, stamp: Stamp, cutoff: &str) -> Result<Vec<Orphan>, Error> {
    let sql = format!(
        "SELECT n.nspname::text, c.relname::text, m.bound::{stamp} <= $2::{stamp}
           FROM pg_description d
           JOIN pg_class c ON c.oid = d.objoid
           JOIN pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN LATERAL (SELECT substr(d.description, length($1) + 1)) AS m (bound)
          WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND starts_with(d.description, $1)
            AND m.bound ~ '^\\d{{4,6}}-\\d\\d-\\d\\d[ \\d:.+]*$'
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND pg_has_role(c.relowner, 'USAGE')
          ORDER BY n.nspname, c.relname",
        stamp = stamp.sql(),
    );
    let rows = tx.rows("look for detached partitions", &sql, &[(&mark, Type::TEXT), (&cutoff, Type::TEXT)]).await?;
    Ok(rows.iter().map(|row| Orphan { schema: row.get(0), table: row.get(1), past: row.get(2) }).collect())
}
