//! Indexes that cost more than they give: unused, invalid, duplicate.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::db::{Error, Tx, quote_ident};

/// So many of each are told of, the largest.
const INDEXES_MAX: i64 = 200;
/// An index that is as small costs nothing worth a word.
const UNUSED_LEAST_BYTES: i64 = 64 * 1024;

/// Indexes to look at, the largest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Indexes {
    pub unused: Vec<Unused>,
    pub invalid: Vec<Invalid>,
    pub duplicate: Vec<Duplicate>,
}

/// An index that this server has not read since its counters began, while its table was. Replicas count for
/// themselves: it may be in use there. One that keeps rows unique, backs a constraint or identifies rows for
/// replication is in use without being read, and never here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unused {
    pub schema: String,
    pub table: String,
    pub name: String,
    pub bytes: i64,
    pub scans: i64,
    /// When the counters began; absent where they were never reset.
    pub since: Option<DateTime<Utc>>,
}

/// An index that is written and never read, mostly left by a `CREATE INDEX CONCURRENTLY` that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Invalid {
    pub schema: String,
    pub table: String,
    pub name: String,
    pub bytes: i64,
    /// It is not valid yet.
    pub being_built: bool,
    /// Absent while it is being built.
    pub mend: Option<String>,
}

/// Indexes of one table that are the same.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Duplicate {
    pub schema: String,
    pub table: String,
    /// First the one to keep.
    pub names: Vec<String>,
    /// Of those that can go.
    pub bytes: i64,
    /// What lets them go; absent where each backs a constraint of its own.
    pub mend: Option<String>,
}

pub(super) async fn read(
    tx: &Tx<'_>,
    since: Option<DateTime<Utc>>,
    sees_all: bool,
) -> Result<Indexes, Error> {
    let params = [
        (&INDEXES_MAX as _, Type::INT8),
        (&UNUSED_LEAST_BYTES as _, Type::INT8),
        (&sees_all as _, Type::BOOL),
    ];
    let mut indexes = Indexes::default();
    let mut same: BTreeMap<i64, Vec<Found>> = BTreeMap::new();
    for row in tx.rows("read statistics of indexes", SQL, &params).await? {
        let found = Found::of(&row);
        match row.get(0) {
            "unused" => indexes.unused.push(found.unused(since)),
            "invalid" => indexes.invalid.push(found.invalid()),
            _ => same.entry(row.get(1)).or_default().push(found),
        }
    }
    indexes.duplicate = same.into_values().map(duplicate).collect();
    indexes.duplicate.sort_by_key(|duplicate| std::cmp::Reverse(duplicate.bytes));
    Ok(indexes)
}

/// Partitions of an index are summed up in the outermost one: they are neither made nor dropped by themselves. A
/// partitioned index that is invalid lacks partitions, which is a matter of attaching them, and is not told of.
///
/// Expressions are compared as the catalog stores them, less the place in the text where each began:
/// `pg_get_expr` would open the table, and wait for whoever has locked it. Whether NULLs are distinct is asked through
/// JSON, since the column exists from 15 on.
///
/// A role that may not see what others build takes any lock that a concurrent build holds on the table for one.
const SQL: &str = "
WITH RECURSIVE idx AS MATERIALIZED (
  SELECT i.indexrelid AS oid, i.indrelid, n.nspname, t.relname AS table_name, x.relname AS name, x.relkind,
         x.relispartition, x.relpages, x.relam, i.indisunique, i.indisprimary, i.indisexclusion, i.indisreplident,
         i.indisvalid, i.indislive, i.indkey::text AS columns
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
), whole AS MATERIALIZED (
  SELECT coalesce(t.root, i.oid) AS root, sum(greatest(i.relpages, 0))::int8 * current_setting('block_size')::int8 AS bytes,
         coalesce(sum(pg_stat_get_numscans(i.oid)), 0)::int8 AS scans,
         coalesce(bool_or(pg_stat_get_numscans(i.indrelid) > 0), false) AS read_whole
    FROM idx i LEFT JOIN tree t ON t.oid = i.oid
   GROUP BY 1
), found AS MATERIALIZED (
  SELECT i.*, w.bytes, w.scans, w.read_whole,
         EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.oid) AS backs_constraint
    FROM idx i JOIN whole w ON w.root = i.oid
), read_by_index AS (
  SELECT indrelid FROM found GROUP BY indrelid HAVING sum(scans) > 0
), twin AS MATERIALIZED (
  SELECT t.*, row(t.indrelid, t.columns, t.relam, i.indnkeyatts, i.indclass::text, i.indcollation::text,
                  i.indoption::text, i.indimmediate, to_jsonb(i) ->> 'indnullsnotdistinct',
                  regexp_replace(i.indexprs::text, ':location -?[0-9]+', '', 'g'),
                  regexp_replace(i.indpred::text, ':location -?[0-9]+', '', 'g'))::text AS key
    FROM (SELECT f.oid, f.indrelid, f.columns, f.relam, f.bytes,
                 count(*) OVER (PARTITION BY f.indrelid, f.columns) AS twins
            FROM found f
           WHERE f.indisvalid AND f.indislive AND NOT f.indisexclusion) AS t
    JOIN pg_index i ON i.indexrelid = t.oid
   WHERE t.twins > 1
), same AS (
  SELECT oid, bytes, dense_rank() OVER (ORDER BY key) AS place, count(*) OVER (PARTITION BY key) AS members FROM twin
), builds AS MATERIALIZED (
  SELECT index_relid AS oid FROM pg_stat_progress_create_index WHERE index_relid <> 0
), locks AS MATERIALIZED (
  SELECT relation FROM pg_locks
   WHERE NOT $3 AND locktype = 'relation' AND mode = 'ShareUpdateExclusiveLock' AND pid <> pg_backend_pid()
     AND database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), told AS (
  (SELECT 'unused' AS what, 0::int8 AS place, f.oid, false AS being_built FROM found f
    WHERE f.scans = 0 AND f.bytes > $2 AND f.indisvalid AND f.indislive
      AND NOT (f.indisunique OR f.indisprimary OR f.indisexclusion OR f.indisreplident OR f.backs_constraint)
      AND (f.read_whole OR f.indrelid IN (SELECT indrelid FROM read_by_index))
    ORDER BY f.bytes DESC LIMIT $1)
   UNION ALL
  (SELECT 'invalid', 0, f.oid, f.oid IN (SELECT oid FROM builds) OR f.indrelid IN (SELECT relation FROM locks)
     FROM found f
    WHERE NOT f.indisvalid AND f.relkind = 'i'
    ORDER BY f.bytes DESC LIMIT $1)
   UNION ALL
  (SELECT 'same', s.place, s.oid, false FROM same s WHERE s.members > 1 ORDER BY s.bytes DESC, s.place LIMIT 2 * $1)
)
SELECT t.what, t.place, f.nspname::text, f.table_name::text, f.name::text, f.bytes, f.scans, t.being_built,
       f.relkind = 'I', f.indisprimary, f.backs_constraint OR f.indisreplident, f.indisunique
  FROM told t JOIN found f ON f.oid = t.oid
 ORDER BY f.bytes DESC, f.nspname, f.name";

#[derive(Debug, Clone, Default)]
struct Found {
    schema: String,
    table: String,
    name: String,
    bytes: i64,
    scans: i64,
    being_built: bool,
    partitioned: bool,
    primary: bool,
    /// A constraint or replication needs this very index.
    needed: bool,
    unique: bool,
}

impl Found {
    fn of(row: &Row) -> Found {
        Found {
            schema: row.get(2),
            table: row.get(3),
            name: row.get(4),
            bytes: row.get(5),
            scans: row.get(6),
            being_built: row.get(7),
            partitioned: row.get(8),
            primary: row.get(9),
            needed: row.get(10),
            unique: row.get(11),
        }
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }

    /// A partitioned index cannot be dropped without locking its table.
    fn drop(&self) -> String {
        let how = if self.partitioned { "" } else { " CONCURRENTLY" };
        format!("DROP INDEX{how} {}", self.quoted())
    }

    fn unused(self, since: Option<DateTime<Utc>>) -> Unused {
        let Found { schema, table, name, bytes, scans, .. } = self;
        Unused { schema, table, name, bytes, scans, since }
    }

    fn invalid(self) -> Invalid {
        let mend = if is_remnant(&self.name) {
            self.drop()
        } else {
            // Or dropped and made again: what it was to be is known to its maker alone.
            format!("REINDEX INDEX CONCURRENTLY {}", self.quoted())
        };
        let mend = (!self.being_built).then_some(mend);
        let Found { schema, table, name, bytes, being_built, .. } = self;
        Invalid { schema, table, name, bytes, being_built, mend }
    }
}

/// Whether a `REINDEX CONCURRENTLY` that failed left it beside the index that it was to replace.
fn is_remnant(name: &str) -> bool {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with("_ccnew") || name.ends_with("_ccold")
}

/// Keeps the one that is needed most; of the others can go those that nothing needs, unless they alone keep rows
/// unique.
fn duplicate(mut same: Vec<Found>) -> Duplicate {
    same.sort_by(|a, b| {
        let need = |found: &Found| (found.primary, found.needed, found.unique, found.scans);
        need(b).cmp(&need(a)).then_with(|| a.name.cmp(&b.name))
    });
    let unique_is_kept = same.first().is_some_and(|kept| kept.unique);
    let can_go = |found: &&Found| !found.needed && (!found.unique || unique_is_kept);
    let going: Vec<&Found> = same.iter().skip(1).filter(can_go).collect();
    let mend: Vec<String> = going.iter().map(|found| found.drop()).collect();
    let (schema, table) =
        same.first().map(|kept| (kept.schema.clone(), kept.table.clone())).unwrap_or_default();
    Duplicate {
        schema,
        table,
        bytes: going.iter().map(|found| found.bytes).sum(),
        mend: (!mend.is_empty()).then(|| mend.join("; ")),
        names: same.into_iter().map(|found| found.name).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str, properties: &str) -> Found {
        let has = |property: &str| properties.contains(property);
        Found {
            schema: "s".into(),
            table: "t".into(),
            name: name.into(),
            bytes: 10,
            scans: i64::from(has("read")),
            partitioned: has("partitioned"),
            primary: has("primary"),
            needed: has("needed") || has("primary"),
            unique: has("unique") || has("primary"),
            ..Found::default()
        }
    }

    #[test]
    fn of_the_same_indexes_the_needed_one_is_kept() {
        for (same, names, bytes, mend) in [
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
            // Identifies rows for replication, and is not unique by itself: cannot be, but nothing unique goes for it.
            (vec![index("a", "needed"), index("b", "unique")], "a b", 0, None),
        ] {
            let duplicate = duplicate(same);
            assert_eq!(duplicate.names.join(" "), names);
            assert_eq!((duplicate.bytes, duplicate.mend.as_deref()), (bytes, mend), "{names}");
        }
    }

    #[test]
    fn what_a_failed_reindex_left_is_dropped() {
        for (name, remnant) in
            [("a_ccnew", true), ("a_ccnew1", true), ("a_ccold2", true), ("a", false), ("a1", false)]
        {
            assert_eq!(is_remnant(name), remnant, "{name}");
        }
        let mend = |found: Found| found.invalid().mend;
        assert_eq!(
            mend(index("a_ccnew", "")).as_deref(),
            Some(r#"DROP INDEX CONCURRENTLY "s"."a_ccnew""#)
        );
        assert_eq!(mend(index("a", "")).as_deref(), Some(r#"REINDEX INDEX CONCURRENTLY "s"."a""#));
        assert_eq!(mend(Found { being_built: true, ..index("a", "") }), None);
    }
}
