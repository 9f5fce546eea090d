//! Reads the counters that tell whether tables need VACUUM and ANALYZE, and what prevents VACUUM
//! from removing rows.

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;

use super::{MAINTAIN_GRANT, MAY_MAINTAIN, OWNS_DATABASE};
use crate::db::{Error, Param, Tx, from_row};

/// A table with its counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    /// Whether it is a partitioned table, which holds no rows and can only be analyzed.
    pub parent: bool,
    /// Whether this role may VACUUM it (as owner of the table or database, or by MAINTAIN).
    pub permitted: bool,
    /// The statement that grants it.
    pub grant: String,
    pub live: i64,
    pub dead: i64,
    /// The planner's estimate of the number of rows.
    pub rows: f64,
    pub changed: i64,
    pub inserted: i64,
    /// Of a partitioned table: it was never analyzed, or a partition was analyzed a day or more
    /// after it.
    pub stale_parent: bool,
    /// Whether a VACUUM of it is in progress.
    pub being_vacuumed: bool,
}

from_row!(
    Counters,
    [
        oid,
        schema,
        table,
        parent,
        permitted,
        grant,
        live,
        dead,
        rows,
        changed,
        inserted,
        stale_parent,
        being_vacuumed
    ]
);
qualified_names!(Counters);

/// The number of tables that one run considers: those with the most dead and changed rows.
const CANDIDATES_MAX: i64 = 10_000;

/// Reads the counters of the table `oid`, or of all tables that have changed.
pub async fn counters(
    tx: &Tx<'_>,
    excluded: &[String],
    oid: Option<u32>,
) -> Result<Vec<Counters>, Error> {
    // The counters of a partitioned table do not move; those of its leaves do.
    let sql = format!(
        "
        SELECT c.oid, n.nspname::text AS schema, c.relname::text AS table,
               c.relkind = 'p' AS parent,
               {MAY_MAINTAIN} OR {OWNS_DATABASE} AS permitted,
               {MAINTAIN_GRANT} AS grant,
               pg_stat_get_live_tuples(c.oid) AS live, pg_stat_get_dead_tuples(c.oid) AS dead,
               s.rows, s.changed,
               CASE WHEN c.relkind = 'p' THEN 0
                    ELSE pg_stat_get_ins_since_vacuum(c.oid) END AS inserted,
               c.relkind = 'p' AND s.rows > 0
                 AND coalesce(pg_stat_get_last_analyze_time(c.oid)
                              < least(s.analyzed, now()) - interval '1 day', true) AS stale_parent,
               EXISTS (SELECT FROM pg_stat_progress_vacuum v
                        WHERE v.relid = c.oid) AS being_vacuumed
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
               SELECT greatest(c.reltuples, 0)::float8, pg_stat_get_mod_since_analyze(c.oid),
                      NULL::timestamptz
                WHERE c.relkind <> 'p'
               UNION ALL
               SELECT sum(greatest(l.reltuples, 0, pg_stat_get_live_tuples(l.oid)))::float8,
                      sum(pg_stat_get_mod_since_analyze(l.oid))::int8,
                      max(greatest(pg_stat_get_last_analyze_time(l.oid),
                                   pg_stat_get_last_autoanalyze_time(l.oid)))
                 FROM pg_partition_tree(c.oid) AS t
                 JOIN pg_class l ON l.oid = t.relid
                WHERE c.relkind = 'p' AND t.isleaf AND l.relkind = 'r'
               HAVING count(*) > 0
               ) AS s (rows, changed, analyzed)
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
           -- A partition of a partition is covered by the outermost parent.
           AND NOT (c.relkind = 'p' AND c.relispartition)
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> ALL ($1)
           AND ($2::oid IS NULL OR c.oid = $2)
           AND ($2::oid IS NOT NULL OR pg_stat_get_dead_tuples(c.oid) > 0 OR s.changed > 0
                OR pg_stat_get_ins_since_vacuum(c.oid) > 0 OR c.relkind = 'p')
         ORDER BY pg_stat_get_dead_tuples(c.oid) + s.changed DESC
         LIMIT $3"
    );
    let params: [Param<'_>; 3] =
        [(&excluded, Type::TEXT_ARRAY), (&oid, Type::OID), (&CANDIDATES_MAX, Type::INT8)];
    tx.read("read table counters", &sql, &params).await
}

/// When a table was last vacuumed and analyzed by a command (not by autovacuum), and its dead rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LastMaintenance {
    pub vacuumed: Option<DateTime<Utc>>,
    pub analyzed: Option<DateTime<Utc>>,
    pub dead: i64,
}

from_row!(LastMaintenance, [vacuumed, analyzed, dead]);

/// Reads [`LastMaintenance`] of one table.
pub async fn last_maintenance(tx: &Tx<'_>, oid: u32) -> Result<LastMaintenance, Error> {
    const SQL: &str = "
        SELECT pg_stat_get_last_vacuum_time($1) AS vacuumed,
               pg_stat_get_last_analyze_time($1) AS analyzed,
               coalesce(pg_stat_get_dead_tuples($1), 0) AS dead";
    tx.read_one("read the last maintenance of a table", SQL, &[(&oid, Type::OID)]).await
}

/// Returns whether VACUUM accepts BUFFER_USAGE_LIMIT (since 16).
pub async fn has_buffer_usage_limit(tx: &Tx<'_>) -> Result<bool, Error> {
    const SQL: &str = "SELECT current_setting('vacuum_buffer_usage_limit', true) IS NOT NULL";
    tx.read_one("read settings", SQL, &[]).await
}

/// Describes the session, prepared transaction or replication slot that holds the oldest xmin and
/// so keeps dead rows from being removed. Returns `None` if no holder is visible.
pub async fn xmin_holder(tx: &Tx<'_>) -> Result<Option<String>, Error> {
    const SQL: &str = "
        SELECT what || ', ' || age || ' transactions old' FROM (
            SELECT format('session %s of %s (%s, %s since %s)', pid, usename, application_name,
                          coalesce(state, backend_type),
                          coalesce(xact_start, backend_start)::timestamptz(0)),
                   age(backend_xmin)
              FROM pg_stat_activity
             WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
               AND (datname = current_database() OR datname IS NULL)
            UNION ALL
            SELECT format('prepared transaction %L of %s since %s',
                          gid, owner, prepared::timestamptz(0)),
                   age(transaction)
              FROM pg_prepared_xacts WHERE database = current_database()
            UNION ALL
            SELECT format('replication slot %I', slot_name), age(xmin)
              FROM pg_replication_slots WHERE xmin IS NOT NULL
        ) AS h (what, age)
        ORDER BY age DESC
        LIMIT 1";
    tx.read_opt("find the xmin holder", SQL, &[]).await
}

/// Looks up named tables (`schema.table`). Returns for each name, in order, why VACUUM and ANALYZE
/// never process it, or `None` if they do.
pub async fn ineligible(
    tx: &Tx<'_>,
    names: &[String],
    excluded: &[String],
) -> Result<Vec<Option<String>>, Error> {
    const SQL: &str = "
        SELECT CASE WHEN c.oid IS NULL THEN 'table does not exist'
                    WHEN c.relkind NOT IN ('r', 'm', 'p') THEN 'it is not a table'
                    WHEN c.relpersistence = 't' THEN 'it is a temporary table'
                    WHEN n.nspname = 'information_schema' OR n.nspname ~ '^pg_'
                         OR n.nspname = ANY ($2)
                    THEN 'its schema is excluded (vacuum.schemas_exclude)' END
          FROM unnest($1::text[]) WITH ORDINALITY AS w (name, position)
          LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
            ON n.nspname = split_part(w.name, '.', 1)
           AND c.relname = substr(w.name, strpos(w.name, '.') + 1)
         ORDER BY w.position";
    let params = [(&names as _, Type::TEXT_ARRAY), (&excluded as _, Type::TEXT_ARRAY)];
    tx.read("look up tables by name", SQL, &params).await
}
