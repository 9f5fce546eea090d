//! Reads one relation, its time column, and the tables beneath it that hold rows.

use tokio_postgres::types::Type;

use super::identity::{Identity, WITH_COLUMN};
use super::partitions::TimeType;
use crate::db::{Error, Kind, Param, Tx, from_row};

/// A relation as the catalog shows it to this role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The identity with the requested column, or else the partition key.
    pub id: Identity,
    pub temporary: bool,
    /// Whether this role may act as the owner.
    pub owned: bool,
    /// Whether this role may SELECT and DELETE.
    pub deletable: bool,
    /// The name of this role, quoted for SQL.
    pub role: String,
    /// The only column of its RANGE partition key.
    pub key: Option<String>,
    /// Whether it has a default partition.
    pub default_partition: bool,
}

from_row!(Relation, [temporary, owned, deletable, role, key, default_partition], nested id);

/// Finds a relation by its exact name, with `column` or else the column of its partition key.
///
/// # Errors
/// [`Kind::Sql`] if no relation has that name.
pub async fn find(
    tx: &Tx<'_>,
    schema: &str,
    table: &str,
    column: Option<&str>,
) -> Result<Relation, Error> {
    let sql = format!(
        "
        SELECT {WITH_COLUMN},
               c.relpersistence = 't' AS temporary,
               pg_has_role(c.relowner, 'USAGE') AS owned,
               has_table_privilege(c.oid, 'SELECT')
                 AND has_table_privilege(c.oid, 'DELETE') AS deletable,
               quote_ident(current_user) AS role,
               k.attname::text AS key,
               coalesce(p.partdefid, 0) <> 0 AS default_partition
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
          LEFT JOIN pg_attribute k
            ON k.attrelid = c.oid AND k.attnum = p.partattrs[0]
           AND p.partstrat = 'r' AND p.partnatts = 1
          LEFT JOIN pg_attribute a
            ON a.attrelid = c.oid AND a.attname = coalesce($3, k.attname)
           AND a.attnum > 0 AND NOT a.attisdropped
         WHERE n.nspname = $1 AND c.relname = $2"
    );
    let params: [Param<'_>; 3] =
        [(&schema, Type::TEXT), (&table, Type::TEXT), (&column, Type::TEXT)];
    tx.read_opt("look up table", &sql, &params).await?.ok_or_else(|| {
        Error::new(
            Kind::Sql,
            format!(
                "table {schema}.{table} does not exist (names are compared exactly, case included)"
            ),
        )
    })
}

/// A table that holds rows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The identity with the column.
    pub id: Identity,
    pub size_bytes: i64,
    /// Whether a whole (not partial), usable B-tree index begins with the column.
    pub indexed: bool,
}

from_row!(Leaf, [size_bytes, indexed], nested id);

/// Lists the tables that hold rows among these roots and their partitions and children.
pub async fn leaves(tx: &Tx<'_>, roots: &[u32], column: &str) -> Result<Vec<Leaf>, Error> {
    let sql = format!(
        "
        WITH RECURSIVE tree (oid) AS (
            SELECT unnest($1::oid[])
            UNION
            SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
             WHERE NOT i.inhdetachpending
        )
        SELECT {WITH_COLUMN},
               -- The size is NULL if the table was dropped concurrently.
               CASE WHEN c.relkind = 'f' THEN 0
                    ELSE coalesce(pg_relation_size(c.oid), 0) END AS size_bytes,
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
                          AND m.amname = 'btree' AND a.attname = $2) AS indexed
          FROM tree
          JOIN pg_class c ON c.oid = tree.oid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_attribute a
            ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind <> 'p'
         ORDER BY n.nspname, c.relname"
    );
    let params = [(&roots as _, Type::OID_ARRAY), (&column as _, Type::TEXT)];
    tx.read("look up tables beneath", &sql, &params).await
}

/// Computes the cutoff: the server's time from which on rows are kept, in the column's own type.
///
/// A column without time zone holds local times of an unknown zone: that of whichever session wrote
/// the row. The cutoff is therefore the local time in the westernmost zone, UTC-12. A writer's
/// clock there shows the earliest local time, so no row younger than `keep` lies before that
/// cutoff. Of dates, only days that ended before the cutoff count as past. A day of `keep` is 24
/// hours.
pub async fn cutoff(
    tx: &Tx<'_>,
    time_type: TimeType,
    keep: std::time::Duration,
) -> Result<String, Error> {
    let expression = match time_type {
        TimeType::TimestampTz => "k.cutoff",
        TimeType::Timestamp => "k.cutoff AT TIME ZONE interval '-12 hours'",
        TimeType::Date => "(k.cutoff AT TIME ZONE interval '-12 hours')::date",
    };
    let sql = format!(
        "SELECT ({expression})::text FROM (SELECT now() - make_interval(secs => $1)) AS k (cutoff)"
    );
    tx.read_one("compute cutoff", &sql, &[(&keep.as_secs_f64(), Type::FLOAT8)]).await
}
