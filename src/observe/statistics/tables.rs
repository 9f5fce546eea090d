//! Tables by size, with their counters and an estimate of their bloat.

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;

use crate::db::{Error, Tx, from_row};

/// The number of tables that are listed.
pub const TABLES_MAX: i64 = 200;
/// The number of tables and partitions beneath the listed tables whose bloat is estimated.
const ESTIMATES_MAX: i64 = 1000;

/// A table, or a partitioned table with the sums over its partitions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    /// `table`, `partitioned` or `materialized_view`.
    pub kind: String,
    /// Of a partitioned table, the number of partitions that hold rows, else `None`.
    pub partitions: Option<i64>,
    /// The planner's estimate.
    pub rows_estimate: i64,
    /// Table, indexes and TOAST, as last recorded by VACUUM or ANALYZE.
    pub total_bytes: i64,
    pub table_bytes: i64,
    pub index_bytes: i64,
    pub toast_bytes: i64,
    pub live_rows: i64,
    pub dead_rows: i64,
    /// Dead rows as a share of live and dead rows; `None` if there are neither.
    pub dead_ratio: Option<f64>,
    pub changed_since_analyze: i64,
    /// An estimate of how much smaller the table (without indexes and TOAST) would be if it were
    /// rewritten, see [`BLOAT`]. `None` without statistics of its columns.
    pub bloat_bytes: Option<i64>,
    /// Of a partitioned table, this and the following times are the latest of any partition.
    pub last_vacuum: Option<DateTime<Utc>>,
    pub last_autovacuum: Option<DateTime<Utc>>,
    pub last_analyze: Option<DateTime<Utc>>,
    pub last_autoanalyze: Option<DateTime<Utc>>,
    pub seq_scans: i64,
    pub index_scans: i64,
    /// The number of transactions since the oldest unfrozen one of the table.
    pub xid_age: Option<i64>,
}

from_row!(
    Table,
    [
        schema,
        name,
        kind,
        partitions,
        rows_estimate,
        total_bytes,
        table_bytes,
        index_bytes,
        toast_bytes,
        live_rows,
        dead_rows,
        dead_ratio,
        changed_since_analyze,
        bloat_bytes,
        last_vacuum,
        last_autovacuum,
        last_analyze,
        last_autoanalyze,
        seq_scans,
        index_scans,
        xid_age
    ]
);

pub(super) struct Tables {
    pub largest: Vec<Table>,
    pub total: i64,
    /// The number of tables whose column statistics this role may not read.
    pub unreadable: i64,
}

struct TableRow {
    table: Table,
    total: i64,
    unreadable: i64,
}

from_row!(TableRow, [total, unreadable], nested table);

/// Reads the [`TABLES_MAX`] largest tables.
pub(super) async fn read(tx: &Tx<'_>) -> Result<Tables, Error> {
    let sql = format!(
        "{BY_SIZE}, examined AS MATERIALIZED (
             SELECT m.* FROM top JOIN member m USING (root)
              WHERE m.relkind <> 'p' ORDER BY m.pages DESC LIMIT $2
         ), {BLOAT}, {COUNTED}
         SELECT r.nspname::text AS schema, r.relname::text AS name,
                CASE r.relkind WHEN 'p' THEN 'partitioned' WHEN 'm' THEN 'materialized_view'
                               ELSE 'table' END AS kind,
                CASE r.relkind WHEN 'p' THEN t.leaves END AS partitions,
                coalesce(s.rows, 0) AS rows_estimate,
                t.total_pages * b.size AS total_bytes, t.pages * b.size AS table_bytes,
                t.index_pages * b.size AS index_bytes, t.toast_pages * b.size AS toast_bytes,
                coalesce(s.live, 0) AS live_rows, coalesce(s.dead, 0) AS dead_rows,
                s.dead::float8 / nullif(s.live + s.dead, 0) AS dead_ratio,
                coalesce(s.changed, 0) AS changed_since_analyze,
                e.bloat_pages * b.size AS bloat_bytes,
                s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze,
                coalesce(s.seq_scans, 0) AS seq_scans, coalesce(s.index_scans, 0) AS index_scans,
                s.xid_age, t.total, (SELECT count(*) FROM estimated WHERE unreadable) AS unreadable
           FROM top t
           JOIN rel r ON r.oid = t.root
          CROSS JOIN block b
           LEFT JOIN counted s ON s.root = t.root
           LEFT JOIN (SELECT root, sum(bloat_pages)::int8 AS bloat_pages
                        FROM estimated GROUP BY root) e ON e.root = t.root
          ORDER BY t.total_pages DESC, r.nspname, r.relname"
    );
    let params = [(&TABLES_MAX as _, Type::INT8), (&ESTIMATES_MAX as _, Type::INT8)];
    let rows: Vec<TableRow> = tx.read("read statistics of tables", &sql, &params).await?;
    let (total, unreadable) = rows.first().map_or((0, 0), |row| (row.total, row.unreadable));
    Ok(Tables { total, unreadable, largest: rows.into_iter().map(|row| row.table).collect() })
}

/// Every table with its outermost parent (itself if it is not a partition), and the largest of
/// these parents. Parents themselves hold no pages; ANALYZE records -1 for them. Foreign partitions
/// hold nothing on this server.
const BY_SIZE: &str = "
WITH RECURSIVE block AS (
  SELECT current_setting('block_size')::int8 AS size
), rel AS MATERIALIZED (
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition,
         greatest(c.relpages, 0)::int8 AS pages, c.reltuples::float8, c.reltoastrelid,
         c.relfrozenxid, c.reloptions
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
         sum(toast_pages)::int8 AS toast_pages,
         sum(pages + index_pages + toast_pages)::int8 AS total_pages,
         count(*) FILTER (WHERE relkind <> 'p') AS leaves
    FROM member GROUP BY root
), top AS MATERIALIZED (
  SELECT *, count(*) OVER () AS total FROM summed ORDER BY total_pages DESC, root LIMIT $1
)";

/// The counters of the largest tables. A partitioned table without partitions has none.
const COUNTED: &str = "counted AS MATERIALIZED (
  SELECT root,
         sum(CASE WHEN m.reltuples < 0 THEN pg_stat_get_live_tuples(m.oid)
                  ELSE m.reltuples END)::int8 AS rows,
         sum(pg_stat_get_live_tuples(m.oid))::int8 AS live,
         sum(pg_stat_get_dead_tuples(m.oid))::int8 AS dead,
         sum(pg_stat_get_mod_since_analyze(m.oid))::int8 AS changed,
         max(pg_stat_get_last_vacuum_time(m.oid)) AS last_vacuum,
         max(pg_stat_get_last_autovacuum_time(m.oid)) AS last_autovacuum,
         max(pg_stat_get_last_analyze_time(m.oid)) AS last_analyze,
         max(pg_stat_get_last_autoanalyze_time(m.oid)) AS last_autoanalyze,
         sum(pg_stat_get_numscans(m.oid))::int8 AS seq_scans,
         sum((SELECT sum(pg_stat_get_numscans(i.indexrelid))
                FROM pg_index i WHERE i.indrelid = m.oid))::int8 AS index_scans,
         max(age(nullif(m.relfrozenxid::text, '0')::xid))::int8 AS xid_age
    FROM top JOIN member m USING (root)
   WHERE m.relkind <> 'p'
   GROUP BY root
)";

/// Estimates how many pages a table has beyond those that its rows need, as the widely used
/// `table_bloat.sql` of ioguix/pgsql-bloat-estimation does. A row takes a line pointer, its header
/// (with a bitmap of NULLs if a column has any) and the mean width of its columns, header and data
/// padded to 8 bytes each. A page header takes 24 bytes, and rows fill a page up to the fillfactor.
///
/// Limits: mean widths come from a sample and padding between columns is unknown, so the estimate
/// is off by some percent of the table; a table with an old ANALYZE is estimated as it was then;
/// TOAST and indexes are not included. The estimate is NULL if a column has no statistics or this
/// role may not read them.
const BLOAT: &str = "estimated AS MATERIALIZED (
  SELECT l.root,
         CASE WHEN s.columns >= a.columns AND l.reltuples >= 0
              THEN greatest(l.pages - ceil(l.reltuples * w.bytes * 100
                                           / (((SELECT size FROM block) - 24) * f.fill)), 0)
         END AS bloat_pages,
         s.columns < a.columns AND l.reltuples > 0
           AND (NOT has_table_privilege(l.oid, 'SELECT') OR row_security_active(l.oid))
           AS unreadable
    FROM examined l
   CROSS JOIN LATERAL (
         SELECT count(*), 23 + CASE WHEN max(null_frac) > 0 THEN (7 + count(*)) / 8 ELSE 0 END,
                coalesce(ceil(sum((1 - null_frac) * avg_width)), 0)::int8
           FROM pg_stats
          WHERE schemaname = l.nspname AND tablename = l.relname AND NOT inherited
         ) AS s (columns, header, data)
   CROSS JOIN LATERAL (
         SELECT count(*) FROM pg_attribute
          WHERE attrelid = l.oid AND attnum > 0 AND NOT attisdropped AND attgenerated <> 'v'
         ) AS a (columns)
   CROSS JOIN LATERAL (SELECT 4 + (s.header + 7) / 8 * 8 + (s.data + 7) / 8 * 8) AS w (bytes)
   CROSS JOIN LATERAL (
         SELECT coalesce(substring(array_to_string(l.reloptions, ' ')
                                   FROM 'fillfactor=([0-9]+)')::int, 100)) AS f (fill)
)";
