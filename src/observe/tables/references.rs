//! Foreign keys by which deleting rows of one table reaches others.

use tokio_postgres::types::Type;

use crate::db::{Error, Tx, quote_ident};

/// What a key does to the rows that refer to a deleted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnDelete {
    /// NO ACTION and RESTRICT: the DELETE fails.
    Refuse,
    Cascade,
    SetNull,
    SetDefault,
}

impl OnDelete {
    /// From `pg_constraint.confdeltype`.
    fn from_catalog(action: &str) -> OnDelete {
        match action {
            "c" => OnDelete::Cascade,
            "n" => OnDelete::SetNull,
            "d" => OnDelete::SetDefault,
            _ => OnDelete::Refuse,
        }
    }

    /// As it stands in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            OnDelete::Refuse => "NO ACTION",
            OnDelete::Cascade => "CASCADE",
            OnDelete::SetNull => "SET NULL",
            OnDelete::SetDefault => "SET DEFAULT",
        }
    }
}

/// A key of one table that holds rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub key: String,
    /// The referring table; of a partition, the outermost parent.
    pub schema: String,
    pub table: String,
    pub on_delete: OnDelete,
    /// The table that holds the key's rows, `"schema"."table"`, for SQL.
    pub holder: String,
    pub size_bytes: i64,
    /// The key's columns, quoted.
    pub columns: String,
    /// Whether an index finds the rows that refer to a given one.
    pub indexed: bool,
}

impl Reference {
    /// `schema.table`, for people and for comparing with names of the configuration.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// The keys that refer to this table or to what lies beneath it, and on through those that cascade.
pub async fn references(tx: &Tx<'_>, oid: u32) -> Result<Vec<Reference>, Error> {
    // Of a partitioned table the server keeps a key for each partition too, on either side. An index that
    // leaves only NULLs out serves as well: NULL refers to nothing.
    let sql = "
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
        SELECT k.conname::text, rn.nspname::text, rc.relname::text, k.confdeltype::text,
               n.nspname::text, c.relname::text,
               pg_relation_size(c.oid),
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place)
                  FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
                  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum),
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                        WHERE i.indrelid = c.oid AND i.indisvalid AND m.amname IN ('btree', 'hash')
                          AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                          AND (i.indpred IS NULL
                               OR pg_get_expr(i.indpred, c.oid) IN (
                                   SELECT format('(%I IS NOT NULL)', a.attname)
                                     FROM pg_attribute a
                                    WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey))))
          FROM keys k
          JOIN pg_class c ON c.oid = k.conrelid AND c.relkind = 'r'
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_class rc ON rc.oid = coalesce(pg_partition_root(c.oid), c.oid)
          JOIN pg_namespace rn ON rn.oid = rc.relnamespace
         ORDER BY 2, 3, 1, 5, 6";
    let rows = tx.rows("look up references", sql, &[(&oid, Type::OID)]).await?;
    Ok(rows
        .iter()
        .map(|row| Reference {
            key: row.get(0),
            schema: row.get(1),
            table: row.get(2),
            on_delete: OnDelete::from_catalog(row.get(3)),
            holder: format!("{}.{}", quote_ident(row.get(4)), quote_ident(row.get(5))),
            // NULL when it was dropped a moment ago.
            size_bytes: row.get::<_, Option<i64>>(6).unwrap_or_default(),
            columns: row.get(7),
            indexed: row.get(8),
        })
        .collect())
}
