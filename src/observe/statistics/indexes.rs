//! Indexes that cost more than they are worth: unused, invalid and duplicate ones.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;

use crate::db::{Error, Tx, from_row, quote_ident};

/// The number of indexes that are listed of each kind.
const INDEXES_MAX: i64 = 200;
/// An unused index up to this size is not worth reporting.
const UNUSED_BYTES_MIN: i64 = 64 * 1024;

/// Indexes that deserve a look, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Indexes {
    pub unused: Vec<Unused>,
    pub invalid: Vec<Invalid>,
    pub duplicate: Vec<Duplicate>,
}

/// An index that this server has not scanned since the counters were reset, although its table was
/// read. Replicas have counters of their own, so the index may be in use there. An index that keeps
/// rows unique, backs a constraint or identifies rows for replication is in use without being
/// scanned, and is never listed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unused {
    pub schema: String,
    pub table: String,
    pub name: String,
    pub bytes: i64,
    pub scans: i64,
    /// When the counters were reset; `None` if never.
    pub since: Option<DateTime<Utc>>,
}

/// An index that is maintained but never used, usually left by a failed `CREATE INDEX
/// CONCURRENTLY`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Invalid {
    pub schema: String,
    pub table: String,
    pub name: String,
    pub bytes: i64,
    /// The index is not valid yet because it is being built.
    pub being_built: bool,
    /// The statement that repairs or drops the index. `None` while it is being built.
    pub remedy: Option<String>,
}

/// Indexes of one table with the same definition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Duplicate {
    pub schema: String,
    pub table: String,
    /// The first is the one to keep.
    pub names: Vec<String>,
    /// The size of the indexes that can be dropped.
    pub bytes: i64,
    /// The statements that drop them. `None` if a constraint depends on each of them.
    pub remedy: Option<String>,
}

/// Reads the three lists. `since` is when the counters were reset; `sees_all` is whether this role
/// sees the progress of other roles' index builds.
pub(super) async fn read(
    tx: &Tx<'_>,
    since: Option<DateTime<Utc>>,
    sees_all: bool,
) -> Result<Indexes, Error> {
    let params = [
        (&INDEXES_MAX as _, Type::INT8),
        (&UNUSED_BYTES_MIN as _, Type::INT8),
        (&sees_all as _, Type::BOOL),
    ];
    let mut indexes = Indexes::default();
    let mut duplicates: BTreeMap<i64, Vec<IndexRow>> = BTreeMap::new();
    for row in tx.read::<IndexRow>("read statistics of indexes", SQL, &params).await? {
        match row.finding.as_str() {
            "unused" => indexes.unused.push(row.unused(since)),
            "invalid" => indexes.invalid.push(row.invalid()),
            _ => duplicates.entry(row.duplicate_group).or_default().push(row),
        }
    }
    indexes.duplicate = duplicates.into_values().filter_map(duplicate).collect();
    indexes.duplicate.sort_by_key(|duplicate| std::cmp::Reverse(duplicate.bytes));
    Ok(indexes)
}

/// Partitions of an index are summed up in the outermost index, because they are not created or
/// dropped alone. An invalid partitioned index lacks attached partitions; it is not listed.
///
/// Expressions are compared as the catalog stores them, without their positions in the statement.
/// `pg_get_expr` would open the table and wait for locks on it. `indnullsnotdistinct` is read
/// through JSON because the column exists only since 15.
///
/// A role that may not see the progress of other roles' builds treats every lock of the kind that a
/// concurrent build takes on the table as a build.
const SQL: &str = "
WITH RECURSIVE idx AS MATERIALIZED (
  SELECT i.indexrelid AS oid, i.indrelid, n.nspname, t.relname AS table_name, x.relname AS name,
         x.relkind, x.relispartition, x.relpages, x.relam, i.indisunique, i.indisprimary,
         i.indisexclusion, i.indisreplident, i.indisvalid, i.indislive, i.indkey::text AS columns
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
   WHERE t.relkind IN ('r', 'm', 'p') AND t.relpersistence <> 't'
     AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
), tree (root, oid) AS (
  SELECT oid, oid FROM idx WHERE relkind = 'I' AND NOT relispartition
   UNION ALL
  SELECT t.root, h.inhrelid FROM tree t JOIN pg_inherits h ON h.inhparent = t.oid
), summed AS MATERIALIZED (
  SELECT coalesce(t.root, i.oid) AS root,
         sum(greatest(i.relpages, 0))::int8 * current_setting('block_size')::int8 AS bytes,
         coalesce(sum(pg_stat_get_numscans(i.oid)), 0)::int8 AS scans,
         coalesce(bool_or(pg_stat_get_numscans(i.indrelid) > 0), false) AS table_scanned
    FROM idx i LEFT JOIN tree t ON t.oid = i.oid
   GROUP BY 1
), found AS MATERIALIZED (
  SELECT i.*, w.bytes, w.scans, w.table_scanned,
         EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.oid) AS backs_constraint
    FROM idx i JOIN summed w ON w.root = i.oid
), read_by_index AS (
  SELECT indrelid FROM found GROUP BY indrelid HAVING sum(scans) > 0
), definition AS MATERIALIZED (
  SELECT t.*, row(t.indrelid, t.columns, t.relam, i.indnkeyatts, i.indclass::text,
                  i.indcollation::text, i.indoption::text, i.indimmediate,
                  to_jsonb(i) ->> 'indnullsnotdistinct',
                  regexp_replace(i.indexprs::text, ':location -?[0-9]+', '', 'g'),
                  regexp_replace(i.indpred::text, ':location -?[0-9]+', '', 'g'))::text AS key
    FROM (SELECT f.oid, f.indrelid, f.columns, f.relam, f.bytes,
                 count(*) OVER (PARTITION BY f.indrelid, f.columns) AS candidates
            FROM found f
           WHERE f.indisvalid AND f.indislive AND NOT f.indisexclusion) AS t
    JOIN pg_index i ON i.indexrelid = t.oid
   WHERE t.candidates > 1
), duplicate AS (
  SELECT oid, bytes, dense_rank() OVER (ORDER BY key) AS duplicate_group,
         count(*) OVER (PARTITION BY key) AS members
    FROM definition
), builds AS MATERIALIZED (
  SELECT index_relid AS oid FROM pg_stat_progress_create_index WHERE index_relid <> 0
), locks AS MATERIALIZED (
  SELECT relation FROM pg_locks
   WHERE NOT $3 AND locktype = 'relation' AND mode = 'ShareUpdateExclusiveLock'
     AND pid <> pg_backend_pid()
     AND database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), listed AS (
  (SELECT 'unused' AS finding, 0::int8 AS duplicate_group, f.oid, false AS being_built FROM found f
    WHERE f.scans = 0 AND f.bytes > $2 AND f.indisvalid AND f.indislive
      AND NOT (f.indisunique OR f.indisprimary OR f.indisexclusion OR f.indisreplident
               OR f.backs_constraint)
      AND (f.table_scanned OR f.indrelid IN (SELECT indrelid FROM read_by_index))
    ORDER BY f.bytes DESC LIMIT $1)
   UNION ALL
  (SELECT 'invalid', 0, f.oid,
          f.oid IN (SELECT oid FROM builds) OR f.indrelid IN (SELECT relation FROM locks)
     FROM found f
    WHERE NOT f.indisvalid AND f.relkind = 'i'
    ORDER BY f.bytes DESC LIMIT $1)
   UNION ALL
  (SELECT 'duplicate', d.duplicate_group, d.oid, false FROM duplicate d
    WHERE d.members > 1
    ORDER BY d.bytes DESC, d.duplicate_group LIMIT 2 * $1)
)
SELECT l.finding, l.duplicate_group, f.nspname::text AS schema, f.table_name::text AS table,
       f.name::text AS name, f.bytes, f.scans, l.being_built, f.relkind = 'I' AS partitioned,
       f.indisprimary AS primary, f.backs_constraint OR f.indisreplident AS needed,
       f.indisunique AS unique
  FROM listed l JOIN found f ON f.oid = l.oid
 ORDER BY f.bytes DESC, f.nspname, f.name";

/// One row of [`SQL`].
#[derive(Debug, Clone, Default)]
struct IndexRow {
    /// `unused`, `invalid` or `duplicate`.
    finding: String,
    /// Duplicates of each other have the same number.
    duplicate_group: i64,
    schema: String,
    table: String,
    name: String,
    bytes: i64,
    scans: i64,
    being_built: bool,
    partitioned: bool,
    primary: bool,
    /// A constraint or logical replication depends on this index.
    needed: bool,
    unique: bool,
}

from_row!(
    IndexRow,
    [
        finding,
        duplicate_group,
        schema,
        table,
        name,
        bytes,
        scans,
        being_built,
        partitioned,
        primary,
        needed,
        unique
    ]
);

impl IndexRow {
    fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// The statement that drops the index. A partitioned index cannot be dropped CONCURRENTLY.
    fn drop_sql(&self) -> String {
        let concurrently = if self.partitioned { "" } else { " CONCURRENTLY" };
        format!("DROP INDEX{concurrently} {}", self.quoted())
    }

    fn unused(self, since: Option<DateTime<Utc>>) -> Unused {
        let IndexRow { schema, table, name, bytes, scans, .. } = self;
        Unused { schema, table, name, bytes, scans, since }
    }

    fn invalid(self) -> Invalid {
        let remedy = if is_reindex_remnant(&self.name) {
            self.drop_sql()
        } else {
            format!("REINDEX INDEX CONCURRENTLY {}", self.quoted())
        };
        let remedy = (!self.being_built).then_some(remedy);
        let IndexRow { schema, table, name, bytes, being_built, .. } = self;
        Invalid { schema, table, name, bytes, being_built, remedy }
    }
}

/// Returns whether a failed `REINDEX CONCURRENTLY` left this index beside the one it should
/// replace.
fn is_reindex_remnant(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with("_ccnew") || name.ends_with("_ccold")
}

/// Keeps the index that is needed most. The others can be dropped, except those that a constraint
/// depends on and those that alone keep rows unique.
fn duplicate(mut indexes: Vec<IndexRow>) -> Option<Duplicate> {
    indexes.sort_by(|a, b| {
        let need = |index: &IndexRow| (index.primary, index.needed, index.unique, index.scans);
        need(b).cmp(&need(a)).then_with(|| a.name.cmp(&b.name))
    });
    let (kept, others) = indexes.split_first()?;
    let can_go = |index: &&IndexRow| !index.needed && (!index.unique || kept.unique);
    let droppable: Vec<&IndexRow> = others.iter().filter(can_go).collect();
    let drops: Vec<String> = droppable.iter().map(|index| index.drop_sql()).collect();
    Some(Duplicate {
        schema: kept.schema.clone(),
        table: kept.table.clone(),
        bytes: droppable.iter().map(|index| index.bytes).sum(),
        remedy: (!drops.is_empty()).then(|| drops.join("; ")),
        names: indexes.iter().map(|index| index.name.clone()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str, properties: &str) -> IndexRow {
        let has = |property: &str| properties.contains(property);
        IndexRow {
            schema: "s".into(),
            table: "t".into(),
            name: name.into(),
            bytes: 10,
            scans: i64::from(has("read")),
            partitioned: has("partitioned"),
            primary: has("primary"),
            needed: has("needed") || has("primary"),
            unique: has("unique") || has("primary"),
            ..IndexRow::default()
        }
    }

    #[test]
    fn the_needed_one_of_duplicate_indexes_is_kept() {
        for (indexes, names, bytes, remedy) in [
            (
                vec![index("a", ""), index("b", "")],
                "a b",
                10,
                Some(r#"DROP INDEX CONCURRENTLY "s"."b""#),
            ),
            (
                vec![index("a", ""), index("b", "read")],
                "b a",
                10,
                Some(r#"DROP INDEX CONCURRENTLY "s"."a""#),
            ),
            (
                vec![index("a", "read"), index("b", "unique")],
                "b a",
                10,
                Some(r#"DROP INDEX CONCURRENTLY "s"."a""#),
            ),
            (
                vec![index("a", "unique"), index("b", "primary")],
                "b a",
                10,
                Some(r#"DROP INDEX CONCURRENTLY "s"."a""#),
            ),
            (vec![index("a", "needed unique"), index("b", "primary")], "b a", 0, None),
            (
                vec![
                    index("a", "partitioned"),
                    index("b", "partitioned"),
                    index("c", "partitioned needed"),
                ],
                "c a b",
                20,
                Some(r#"DROP INDEX "s"."a"; DROP INDEX "s"."b""#),
            ),
            // A replica identity that is not unique cannot exist, but a unique index is never
            // dropped for it.
            (vec![index("a", "needed"), index("b", "unique")], "a b", 0, None),
        ] {
            let duplicate = duplicate(indexes).unwrap();
            assert_eq!(duplicate.names.join(" "), names);
            assert_eq!((duplicate.bytes, duplicate.remedy.as_deref()), (bytes, remedy), "{names}");
        }
    }

    #[test]
    fn a_remnant_of_a_failed_reindex_is_dropped() {
        for (name, remnant) in
            [("a_ccnew", true), ("a_ccnew1", true), ("a_ccold2", true), ("a", false), ("a1", false)]
        {
            assert_eq!(is_reindex_remnant(name), remnant, "{name}");
        }
        let remedy = |index: IndexRow| index.invalid().remedy;
        assert_eq!(
            remedy(index("a_ccnew", "")).as_deref(),
            Some(r#"DROP INDEX CONCURRENTLY "s"."a_ccnew""#)
        );
        let reindex = r#"REINDEX INDEX CONCURRENTLY "s"."a""#;
        assert_eq!(remedy(index("a", "")).as_deref(), Some(reindex));
        assert_eq!(remedy(IndexRow { being_built: true, ..index("a", "") }), None);
    }
}
