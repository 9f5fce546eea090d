//! Finds the foreign keys through which deleting rows of one table affects others.

use std::error::Error as StdError;

use tokio_postgres::types::{FromSql, Type};

use crate::db::{Error, Tx, from_row, quote_ident};

/// The action of a foreign key on rows that refer to a deleted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnDelete {
    /// NO ACTION or RESTRICT: the DELETE fails.
    Refuse,
    Cascade,
    SetNull,
    SetDefault,
}

/// Reads `pg_constraint.confdeltype`.
impl<'a> FromSql<'a> for OnDelete {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<OnDelete, Box<dyn StdError + Sync + Send>> {
        Ok(match raw {
            b"c" => OnDelete::Cascade,
            b"n" => OnDelete::SetNull,
            b"d" => OnDelete::SetDefault,
            _ => OnDelete::Refuse,
        })
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::CHAR
    }
}

impl OnDelete {
    /// The action as written in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            OnDelete::Refuse => "NO ACTION",
            OnDelete::Cascade => "CASCADE",
            OnDelete::SetNull => "SET NULL",
            OnDelete::SetDefault => "SET DEFAULT",
        }
    }
}

/// A foreign key of one table that holds rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The name of the constraint.
    pub key: String,
    /// The referring table, or the outermost parent if that is a partition.
    pub schema: String,
    pub table: String,
    pub on_delete: OnDelete,
    /// The table that holds the referring rows: `table` itself or a partition of it.
    pub leaf_schema: String,
    pub leaf_table: String,
    pub size_bytes: i64,
    /// The key's columns, quoted and separated by commas.
    pub columns: String,
    /// Whether an index finds the rows that refer to a given one.
    pub indexed: bool,
}

from_row!(
    Reference,
    [key, schema, table, on_delete, leaf_schema, leaf_table, size_bytes, columns, indexed]
);
qualified_names!(Reference);

impl Reference {
    /// The table that holds the referring rows as `"schema"."table"`, quoted for SQL.
    pub fn leaf(&self) -> String {
        format!("{}.{}", quote_ident(&self.leaf_schema), quote_ident(&self.leaf_table))
    }
}

/// Lists the foreign keys that refer to the table `oid` or to its partitions and children, and
/// transitively those that refer to tables reached by ON DELETE CASCADE.
pub async fn references(tx: &Tx<'_>, oid: u32) -> Result<Vec<Reference>, Error> {
    // The server keeps a key for each partition too, on either side. A partial index that excludes
    // only NULLs serves as well, because NULL refers to nothing.
    const SQL: &str = "
        WITH RECURSIVE reached (oid) AS (
            SELECT $1::oid
            UNION
            SELECT n.oid
              FROM reached r
             CROSS JOIN LATERAL (
                   SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.oid
                   UNION ALL
                   SELECT k.conrelid FROM pg_constraint k
                    WHERE k.contype = 'f' AND k.confrelid = r.oid AND k.confdeltype = 'c'
                   ) AS n (oid)
        ), keys AS (
            SELECT DISTINCT k.conname, k.conrelid, k.conkey, k.confdeltype
              FROM reached r
              JOIN pg_constraint k ON k.contype = 'f' AND k.confrelid = r.oid
        )
        SELECT k.conname::text AS key, rn.nspname::text AS schema, rc.relname::text AS table,
               k.confdeltype AS on_delete,
               n.nspname::text AS leaf_schema, c.relname::text AS leaf_table,
               -- NULL if the table was dropped concurrently.
               coalesce(pg_relation_size(c.oid), 0) AS size_bytes,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.position)
                  FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, position)
                  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum) AS columns,
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                        WHERE i.indrelid = c.oid AND i.indisvalid
                          AND m.amname IN ('btree', 'hash')
                          AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                          AND (i.indpred IS NULL
                               OR pg_get_expr(i.indpred, c.oid) IN (
                                   SELECT format('(%I IS NOT NULL)', a.attname)
                                     FROM pg_attribute a
                                    WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey))))
               AS indexed
          FROM keys k
          JOIN pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class rc ON rc.oid = coalesce(pg_partition_root(c.oid), c.oid)
          JOIN pg_namespace rn ON rn.oid = rc.relnamespace
         ORDER BY 2, 3, 1, 5, 6";
    tx.read("look up references", SQL, &[(&oid, Type::OID)]).await
}
