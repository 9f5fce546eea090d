//! Tables by size, with their counters and an estimate of their bloat.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::db::{Error, Tx};

/// So many tables are told of.
pub const TABLES_MAX: i64 = 200;
/// Of so many tables and partitions beneath these, the largest, the bloat is estimated.
const ESTIMATES_MAX: i64 = 1000;

/// A table, or a partitioned table with the sums over its partitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub kind: Kind,
    /// Of a partitioned table, how many partitions hold rows; else absent.
    pub partitions: Option<i64>,
    /// As the planner believes.
    pub rows_estimate: i64,
    /// Table, indexes and TOAST, as last noted by VACUUM or ANALYZE.
    pub total_bytes: i64,
    pub table_bytes: i64,
    pub index_bytes: i64,
    pub toast_bytes: i64,
    pub live_rows: i64,
    pub dead_rows: i64,
    /// Of live and dead rows; absent where there are neither.
    pub dead_ratio: Option<f64>,
    pub changed_since_analyze: i64,
    /// What the table (without indexes and TOAST) could be smaller if it were written anew: an estimate, see
    /// [`BLOAT`]. Absent without statistics of its columns.
    pub bloat_bytes: Option<i64>,
    /// Of a partitioned table here and below: of the partition where it was last.
    pub last_vacuum: Option<DateTime<Utc>>,
    pub last_autovacuum: Option<DateTime<Utc>>,
    pub last_analyze: Option<DateTime<Utc>>,
    pub last_autoanalyze: Option<DateTime<Utc>>,
    pub seq_scans: i64,
    pub index_scans: i64,
    /// Transactions since the oldest unfrozen one of the table.
    pub xid_age: Option<i64>,
}

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Table,
    Partitioned,
    MaterializedView,
}

pub(super) struct Tables {
    pub largest: Vec<Table>,
    pub total: i64,
    /// Tables whose statistics of columns this role may not read.
    pub unreadable: i64,
}

pub(super) async fn read(tx: &Tx<'_>) -> Result<Tables, Error> {
    let sql = format!(
        "{BY_SIZE}, looked AS MATERIALIZED (
             SELECT m.* FROM top JOIN member m USING (root) WHERE m.relkind <> 'p' ORDER BY m.pages DESC LIMIT $2
         ), {BLOAT}, {COUNTED}
         SELECT r.nspname::text, r.relname::text, r.relkind::text, t.leaves,
                coalesce(s.rows, 0), t.pages * b.size, t.index_pages * b.size, t.toast_pages * b.size,
                coalesce(s.live, 0), coalesce(s.dead, 0), coalesce(s.changed, 0), e.bloat_pages * b.size,
                s.vacuumed, s.autovacuumed, s.analyzed, s.autoanalyzed,
                coalesce(s.seq_scans, 0), coalesce(s.index_scans, 0), s.xid_age, t.tables, (SELECT count(*) FROM estimated WHERE unreadable)
           FROM top t
           JOIN rel r ON r.oid = t.root
          CROSS JOIN block b
           LEFT JOIN counted s ON s.root = t.root
           LEFT JOIN (SELECT root, sum(bloat_pages)::int8 AS bloat_pages FROM estimated GROUP BY root) e
             ON e.root = t.root
          ORDER BY t.pages + t.index_pages + t.toast_pages DESC, r.nspname, r.relname"
    );
    let params = [(&TABLES_MAX as _, Type::INT8), (&ESTIMATES_MAX as _, Type::INT8)];
    let rows = tx.rows("read statistics of tables", &sql, &params).await?;
    let count = |column: usize| rows.first().map_or(0, |row| row.get(column));
    Ok(Tables {
        total: count(19),
        unreadable: count(20),
        largest: rows.iter().map(table).collect(),
    })
}

/// Every table with the outermost parent that it counts to (itself, where it is no partition), and the largest of
/// these. (The parents themselves hold no pages; ANALYZE notes -1 there.) Partitions of other hands (foreign tables) hold nothing here.
const BY_SIZE: &str = "
WITH RECURSIVE block AS (
  SELECT current_setting('block_size')::int8 AS size
), rel AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, greatest(c.relpages, 0)::int8 AS pages, c.reltuples::float8,
         c.reltoastrelid, c.relfrozenxid, c.reloptions
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
     AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
), tree (root, oid) AS (
  SELECT oid, oid FROM rel WHERE relkind = 'p' AND NOT relispartition
   UNION ALL
  SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
), indexed AS MATERIALIZED (
  SELECT i.indrelid, sum(x.relpages)::int8 AS pages
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
   GROUP BY i.indrelid
), member AS MATERIALIZED (
  SELECT coalesce(t.root, r.oid) AS root, r.*, coalesce(i.pages, 0) AS index_pages,
         coalesce(toast.relpages, 0) + coalesce(ti.pages, 0) AS toast_pages
    FROM rel r
    LEFT JOIN tree t ON t.oid = r.oid
    LEFT JOIN indexed i ON i.indrelid = r.oid
    LEFT JOIN pg_class toast ON toast.oid = r.reltoastrelid
    LEFT JOIN indexed ti ON ti.indrelid = r.reltoastrelid
), summed AS (
  SELECT root, sum(pages)::int8 AS pages, sum(index_pages)::int8 AS index_pages,
         sum(toast_pages)::int8 AS toast_pages, count(*) FILTER (WHERE relkind <> 'p') AS leaves
    FROM member GROUP BY root
), top AS MATERIALIZED (
  SELECT *, count(*) OVER () AS tables
    FROM summed ORDER BY pages + index_pages + toast_pages DESC, root LIMIT $1
)";

/// The counters of the largest; a partitioned table without partitions has none.
const COUNTED: &str = "counted AS MATERIALIZED (
  SELECT root,
         sum(CASE WHEN m.reltuples < 0 THEN pg_stat_get_live_tuples(m.oid) ELSE m.reltuples END)::int8 AS rows,
         sum(pg_stat_get_live_tuples(m.oid))::int8 AS live,
         sum(pg_stat_get_dead_tuples(m.oid))::int8 AS dead,
         sum(pg_stat_get_mod_since_analyze(m.oid))::int8 AS changed,
         max(pg_stat_get_last_vacuum_time(m.oid)) AS vacuumed,
         max(pg_stat_get_last_autovacuum_time(m.oid)) AS autovacuumed,
         max(pg_stat_get_last_analyze_time(m.oid)) AS analyzed,
         max(pg_stat_get_last_autoanalyze_time(m.oid)) AS autoanalyzed,
         sum(pg_stat_get_numscans(m.oid))::int8 AS seq_scans,
         sum((SELECT sum(pg_stat_get_numscans(i.indexrelid)) FROM pg_index i WHERE i.indrelid = m.oid))::int8
           AS index_scans,
         max(age(nullif(m.relfrozenxid::text, '0')::xid))::int8 AS xid_age
    FROM top JOIN member m USING (root)
   WHERE m.relkind <> 'p'
   GROUP BY root
)";

/// Pages more than the rows would need, after the widely used estimate of ioguix/pgsql-bloat-estimation
/// (`table_bloat.sql`): a row takes a line pointer, its header with a map of NULLs where a column has any, and the mean
/// width of its columns, both padded to 8 bytes; a page has 24 bytes of its own, and rows fill it up to the fillfactor.
///
/// Its limits: mean widths are of a sample, padding between columns is not known, so some percent of a table without
/// any bloat show as bloat or as none; a table whose last ANALYZE is long past is estimated as it was then; TOAST and
/// indexes are not looked at. Absent where a column has no statistics, or none that this role may read.
pub(super) const BLOAT: &str = "estimated AS MATERIALIZED (
  SELECT l.root,
         CASE WHEN s.columns >= a.columns AND l.reltuples >= 0
              THEN greatest(l.pages - ceil(l.reltuples * w.bytes * 100 / (((SELECT size FROM block) - 24) * f.fill)), 0)
         END AS bloat_pages,
         s.columns < a.columns AND l.reltuples > 0
           AND (NOT has_table_privilege(l.oid, 'SELECT') OR row_security_active(l.oid)) AS unreadable
    FROM looked l
   CROSS JOIN LATERAL (
         SELECT count(*), 23 + CASE WHEN max(null_frac) > 0 THEN (7 + count(*)) / 8 ELSE 0 END,
                coalesce(ceil(sum((1 - null_frac) * avg_width)), 0)::int8
           FROM pg_stats
          WHERE schemaname = l.nspname AND tablename = l.relname AND NOT inherited) AS s (columns, header, data)
   CROSS JOIN LATERAL (
         SELECT count(*) FROM pg_attribute
          WHERE attrelid = l.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v') AS a (columns)
   CROSS JOIN LATERAL (SELECT 4 + (s.header + 7) / 8 * 8 + (s.data + 7) / 8 * 8) AS w (bytes)
   CROSS JOIN LATERAL (
         SELECT coalesce(substring(array_to_string(l.reloptions, ' ') FROM 'fillfactor=([0-9]+)')::int, 100)) AS f (fill)
)";

fn table(row: &Row) -> Table {
    let [table_bytes, index_bytes, toast_bytes]: [i64; 3] = [row.get(5), row.get(6), row.get(7)];
    let (live_rows, dead_rows): (i64, i64) = (row.get(8), row.get(9));
    let kind = match row.get(2) {
        "p" => Kind::Partitioned,
        "m" => Kind::MaterializedView,
        _ => Kind::Table,
    };
    Table {
        schema: row.get(0),
        name: row.get(1),
        kind,
        partitions: (kind == Kind::Partitioned).then(|| row.get(3)),
        rows_estimate: row.get(4),
        total_bytes: table_bytes + index_bytes + toast_bytes,
        table_bytes,
        index_bytes,
        toast_bytes,
        live_rows,
        dead_rows,
        dead_ratio: (live_rows + dead_rows > 0)
            .then(|| dead_rows as f64 / (live_rows + dead_rows) as f64),
        changed_since_analyze: row.get(10),
        bloat_bytes: row.get(11),
        last_vacuum: row.get(12),
        last_autovacuum: row.get(13),
        last_analyze: row.get(14),
        last_autoanalyze: row.get(15),
        seq_scans: row.get(16),
        index_scans: row.get(17),
        xid_age: row.get(18),
    }
}
