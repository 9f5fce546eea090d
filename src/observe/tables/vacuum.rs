//! What the counters say about the need for VACUUM and ANALYZE, and who stands in their way.

use tokio_postgres::types::Type;

use super::relation::MAINTAIN_GRANT;
use crate::db::{Error, Tx, quote_ident};

/// A table with its counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    /// A parent of partitions: it holds no rows and can only be analyzed.
    pub parent: bool,
    /// Whether this role may VACUUM it (the owner, the database's owner, or MAINTAIN).
    pub permitted: bool,
    /// The statement that would let it.
    pub grant: String,
    pub live: i64,
    pub dead: i64,
    /// Rows in all, as the planner believes.
    pub rows: f64,
    pub changed: i64,
    pub inserted: i64,
    /// Of a parent: a partition was analyzed a day or more after it, or it never was.
    pub stale_parent: bool,
    /// VACUUM runs on it now.
    pub being_vacuumed: bool,
}

impl Counters {
    /// `"schema"."table"`, for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.table))
    }

    /// `schema.table`, for people.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// At most this many tables are looked at in one run, those with the most dead and changed rows.
const CANDIDATES_MAX: i64 = 10_000;

/// The counters of one table (`oid`), or of all that changed at all.
pub async fn counters(
    tx: &Tx<'_>,
    excluded: &[String],
    oid: Option<u32>,
) -> Result<Vec<Counters>, Error> {
    // MAINTAIN exists since 17 and is an error before; CASE keeps it from being asked. A parent's own
    // counters do not move: its leaves' do.
    let sql = format!(
        "
        SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p',
               pg_has_role(c.relowner, 'USAGE')
                 OR pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
                 OR CASE WHEN current_setting('server_version_num')::int >= 170000
                         THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
               pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid),
               s.rows, s.changed,
               CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_stat_get_ins_since_vacuum(c.oid) END,
               c.relkind = 'p' AND s.rows > 0
                 AND coalesce(pg_stat_get_last_analyze_time(c.oid) < s.analyzed - interval '1 day', true)
                 AND coalesce(pg_stat_get_last_analyze_time(c.oid) < now() - interval '1 day', true),
               EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.relid = c.oid),
               {MAINTAIN_GRANT}
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
               SELECT greatest(c.reltuples, 0)::float8, pg_stat_get_mod_since_analyze(c.oid), NULL::timestamptz
                WHERE c.relkind <> 'p'
               UNION ALL
               SELECT sum(greatest(l.reltuples, 0, pg_stat_get_live_tuples(l.oid)))::float8,
                      sum(pg_stat_get_mod_since_analyze(l.oid))::int8,
                      max(greatest(pg_stat_get_last_analyze_time(l.oid), pg_stat_get_last_autoanalyze_time(l.oid)))
                 FROM pg_partition_tree(c.oid) AS t
                 JOIN pg_class l ON l.oid = t.relid
                WHERE c.relkind = 'p' AND t.isleaf AND l.relkind = 'r'
               HAVING count(*) > 0
               ) AS s (rows, changed, analyzed)
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't'
           -- A partition of a partition is reached through the outermost parent.
           AND NOT (c.relkind = 'p' AND c.relispartition)
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> ALL ($1)
           AND ($2::oid IS NULL OR c.oid = $2)
           AND ($2::oid IS NOT NULL OR pg_stat_get_dead_tuples(c.oid) > 0 OR s.changed > 0
                OR pg_stat_get_ins_since_vacuum(c.oid) > 0 OR c.relkind = 'p')
         ORDER BY pg_stat_get_dead_tuples(c.oid) + s.changed DESC
         LIMIT $3"
    );
    let params: [crate::db::Param<'_>; 3] =
        [(&excluded, Type::TEXT_ARRAY), (&oid, Type::OID), (&CANDIDATES_MAX, Type::INT8)];
    let rows = tx.rows("read counters", &sql, &params).await?;
    Ok(rows
        .iter()
        .map(|row| Counters {
            oid: row.get(0),
            schema: row.get(1),
            table: row.get(2),
            parent: row.get(3),
            permitted: row.get(4),
            live: row.get(5),
            dead: row.get(6),
            rows: row.get(7),
            changed: row.get(8),
            inserted: row.get(9),
            stale_parent: row.get(10),
            being_vacuumed: row.get(11),
            grant: row.get(12),
        })
        .collect())
}

/// When a table was last vacuumed and analyzed by hand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub vacuumed: Option<chrono::DateTime<chrono::Utc>>,
    pub analyzed: Option<chrono::DateTime<chrono::Utc>>,
    pub dead: i64,
}

/// Reads [`Done`] of one table.
pub async fn done(tx: &Tx<'_>, oid: u32) -> Result<Done, Error> {
    let sql = "SELECT pg_stat_get_last_vacuum_time($1), pg_stat_get_last_analyze_time($1), pg_stat_get_dead_tuples($1)";
    let row = tx.row("read what VACUUM did", sql, &[(&oid, Type::OID)]).await?;
    Ok(Done {
        vacuumed: row.get(0),
        analyzed: row.get(1),
        dead: row.get::<_, Option<i64>>(2).unwrap_or_default(),
    })
}

/// Whether VACUUM takes BUFFER_USAGE_LIMIT here (since 16).
pub async fn buffer_limit_known(tx: &Tx<'_>) -> Result<bool, Error> {
    let sql = "SELECT current_setting('vacuum_buffer_usage_limit', true) IS NOT NULL";
    Ok(tx.row("read settings", sql, &[]).await?.get(0))
}

/// Who keeps the oldest row version from being removed, in a sentence; none where nobody is seen.
pub async fn xmin_holder(tx: &Tx<'_>) -> Result<Option<String>, Error> {
    let sql = "
        SELECT what || ', ' || age || ' transactions old' FROM (
            SELECT format('session %s of %s (%s, %s since %s)', pid, usename, application_name,
                          coalesce(state, backend_type), coalesce(xact_start, backend_start)::timestamptz(0)),
                   age(backend_xmin)
              FROM pg_stat_activity
             WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
               AND (datname = current_database() OR datname IS NULL)
            UNION ALL
            SELECT format('prepared transaction %L of %s since %s', gid, owner, prepared::timestamptz(0)),
                   age(transaction)
              FROM pg_prepared_xacts WHERE database = current_database()
            UNION ALL
            SELECT format('replication slot %I', slot_name), age(xmin)
              FROM pg_replication_slots WHERE xmin IS NOT NULL
        ) AS h (what, age)
        ORDER BY age DESC
        LIMIT 1";
    Ok(tx.row_opt("look for the xmin holder", sql, &[]).await?.map(|row| row.get(0)))
}

/// Why a name stands for nothing that VACUUM or ANALYZE would look at; `None` where it does. In the order given.
pub async fn unfit(
    tx: &Tx<'_>,
    names: &[String],
    excluded: &[String],
) -> Result<Vec<Option<&'static str>>, Error> {
    const SQL: &str = "
        SELECT CASE WHEN c.oid IS NULL THEN 'absent'
                    WHEN c.relkind NOT IN ('r', 'm', 'p') THEN 'kind'
                    WHEN c.relpersistence = 't' THEN 'temporary'
                    WHEN n.nspname = 'information_schema' OR n.nspname ~ '^pg_' OR n.nspname = ANY ($2) THEN 'excluded'
                    ELSE 'fit' END
          FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place)
          LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
            ON n.nspname = split_part(w.name, '.', 1) AND c.relname = substr(w.name, strpos(w.name, '.') + 1)
         ORDER BY w.place";
    let rows = tx
        .rows("look up names", SQL, &[(&names, Type::TEXT_ARRAY), (&excluded, Type::TEXT_ARRAY)])
        .await?;
    let told = |row: &tokio_postgres::Row| match row.get(0) {
        "absent" => Some("there is no such table"),
        "kind" => Some("it is not a table"),
        "temporary" => Some("it is a temporary table"),
        "excluded" => Some("its schema is left out (vacuum.schemas_exclude)"),
        _ => None,
    };
    Ok(rows.iter().map(told).collect())
}
