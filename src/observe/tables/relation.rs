//! One relation, its column of time, and the tables beneath it that hold rows.

use tokio_postgres::types::Type;

use super::identity::{COLUMNS, Identity, WITH_COLUMN};
use super::partitions::Stamp;
use crate::db::{Error, Kind, Tx};

/// A relation as the catalog shows it to this role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// With the column that was asked for, or else the key.
    pub id: Identity,
    pub temporary: bool,
    /// Whether this role may act as the owner.
    pub owned: bool,
    /// Whether this role may SELECT and DELETE.
    pub deletable: bool,
    /// This role, as SQL quotes it: who is to be granted what is lacking.
    pub role: String,
    /// The only column of its RANGE partition key.
    pub key: Option<String>,
    /// Whether it has a default partition.
    pub default_partition: bool,
}

/// Finds a relation by its exact name, with `column` or else the column of its partition key.
///
/// # Errors
/// [`Kind::Sql`] when there is none of that name.
pub async fn find(
    tx: &Tx<'_>,
    schema: &str,
    table: &str,
    column: Option<&str>,
) -> Result<Relation, Error> {
    let sql = format!(
        "
        SELECT {WITH_COLUMN},
               c.relpersistence = 't',
               pg_has_role(c.relowner, 'USAGE'),
               has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE'),
               k.attname::text,
               coalesce(p.partdefid, 0) <> 0,
               quote_ident(current_user)
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
          LEFT JOIN pg_attribute k
            ON k.attrelid = c.oid AND k.attnum = p.partattrs[0] AND p.partstrat = 'r' AND p.partnatts = 1
          LEFT JOIN pg_attribute a
            ON a.attrelid = c.oid AND a.attname = coalesce($3, k.attname) AND a.attnum > 0 AND NOT a.attisdropped
         WHERE n.nspname = $1 AND c.relname = $2"
    );
    let row = tx
        .row_opt(
            "look up table",
            &sql,
            &[(&schema, Type::TEXT), (&table, Type::TEXT), (&column, Type::TEXT)],
        )
        .await?
        .ok_or_else(|| {
            let what = format!(
                "there is no table {schema}.{table} (names are compared exactly, case included)"
            );
            Error::new(Kind::Sql, what)
        })?;
    Ok(Relation {
        id: Identity::read(&row),
        temporary: row.get(COLUMNS),
        owned: row.get(COLUMNS + 1),
        deletable: row.get(COLUMNS + 2),
        key: row.get(COLUMNS + 3),
        default_partition: row.get(COLUMNS + 4),
        role: row.get(COLUMNS + 5),
    })
}

/// SQL for the statement that would let this role VACUUM or REFRESH the relation `c` of the schema `n`.
/// Nobody is told to become a member of a superuser.
pub(in crate::observe) const MAINTAIN_GRANT: &str = "
    CASE WHEN current_setting('server_version_num')::int >= 170000
         THEN format('GRANT MAINTAIN ON %I.%I TO %I', n.nspname, c.relname, current_user)
         WHEN (SELECT o.rolsuper FROM pg_roles o WHERE o.oid = c.relowner)
         THEN format('ALTER %s %I.%I OWNER TO %I', CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
                     n.nspname, c.relname, current_user)
         ELSE format('GRANT %I TO %I', pg_get_userbyid(c.relowner), current_user) END";

/// A table that holds rows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// With the column.
    pub id: Identity,
    pub size_bytes: i64,
    /// Whether a whole (not partial), usable B-tree index begins with the column.
    pub indexed: bool,
}

/// The tables at and beneath these roots, through partitions and inheritance, that hold rows.
pub async fn leaves(tx: &Tx<'_>, roots: &[u32], column: &str) -> Result<Vec<Leaf>, Error> {
    let sql = format!(
        "
        WITH RECURSIVE tree (oid) AS (
            SELECT unnest($1::oid[])
            UNION
            SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid WHERE NOT i.inhdetachpending
        )
        SELECT {WITH_COLUMN},
               CASE WHEN c.relkind = 'f' THEN 0 ELSE pg_relation_size(c.oid) END,
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
                          AND m.amname = 'btree' AND a.attname = $2)
          FROM tree
          JOIN pg_class c ON c.oid = tree.oid
          JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN pg_attribute a
            ON a.attrelid = c.oid AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relkind <> 'p'
         ORDER BY n.nspname, c.relname"
    );
    let rows = tx
        .rows("look up tables beneath", &sql, &[(&roots, Type::OID_ARRAY), (&column, Type::TEXT)])
        .await?;
    Ok(rows
        .iter()
        .map(|row| Leaf {
            id: Identity::read(row),
            // NULL when it was dropped a moment ago.
            size_bytes: row.get::<_, Option<i64>>(COLUMNS).unwrap_or_default(),
            indexed: row.get(COLUMNS + 1),
        })
        .collect())
}

/// The server's instant from which on rows are kept, in the column's own type.
///
/// A column without time zone holds local times of an unknown zone: that of whichever session wrote
/// the row. The cutoff is therefore the local time in the westernmost zone, UTC-12. A writer's clock
/// there shows the earliest local time, so no row younger than `keep` lies before that cutoff. Of
/// dates, only days that ended before the cutoff count as past. A day of `keep` is 24 hours.
pub async fn cutoff(tx: &Tx<'_>, stamp: Stamp, keep: std::time::Duration) -> Result<String, Error> {
    let expression = match stamp {
        Stamp::TimestampTz => "k.cutoff",
        Stamp::Timestamp => "k.cutoff AT TIME ZONE interval '-12 hours'",
        Stamp::Date => "(k.cutoff AT TIME ZONE interval '-12 hours')::date",
    };
    let sql = format!(
        "SELECT ({expression})::text FROM (SELECT now() - make_interval(secs => $1)) AS k (cutoff)"
    );
    Ok(tx.row("fix cutoff", &sql, &[(&keep.as_secs_f64(), Type::FLOAT8)]).await?.get(0))
}
