//! Reads whether materialized views can be refreshed and whether the data they read has changed.

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;

use super::{MAINTAIN_GRANT, MAY_MAINTAIN};
use crate::db::{Error, Tx, from_row};

/// A materialized view, or another relation by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub oid: u32,
    pub schema: String,
    /// The name of the view.
    pub table: String,
    pub materialized: bool,
    pub populated: bool,
    /// Whether this role may refresh it.
    pub permitted: bool,
    /// The statement that grants it.
    pub grant: String,
    /// Whether a unique index covers all rows by plain columns, as REFRESH CONCURRENTLY requires.
    pub unique_index: bool,
}

from_row!(View, [oid, schema, table, materialized, populated, permitted, grant, unique_index]);
qualified_names!(View);

/// Finds a relation by its exact name.
pub async fn find(tx: &Tx<'_>, schema: &str, name: &str) -> Result<Option<View>, Error> {
    let sql = format!(
        "
        SELECT c.oid, n.nspname::text AS schema, c.relname::text AS table,
               c.relkind = 'm' AS materialized, c.relispopulated AS populated,
               {MAY_MAINTAIN} AS permitted,
               {MAINTAIN_GRANT} AS grant,
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate
                          AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
                          AND m.amname = 'btree') AS unique_index
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2"
    );
    tx.read_opt("look up view", &sql, &[(&schema, Type::TEXT), (&name, Type::TEXT)]).await
}

/// The state of the data that a view reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceState {
    /// Why equal fingerprints do not prove that a refresh would change nothing. `None` if they do.
    pub unprovable: Option<String>,
    /// Changes whenever the rows that the view reads may have changed. Made from the file and the
    /// counters of each table, and from the definitions.
    pub fingerprint: String,
    /// The server's time of reading.
    pub now: DateTime<Utc>,
}

from_row!(SourceState, [unprovable, fingerprint, now]);

/// Reads the state of the data that the view `oid` reads, directly and through other views.
///
/// Equal fingerprints prove an equal result only if the definition is a pure function of its
/// tables: every function must be immutable and built in, and no node may depend on the clock, the
/// session, a sequence or a random number. This is read from the stored query tree, because
/// `pg_depend` does not record built-in functions. TRUNCATE changes no counter, but the table's
/// file; a reset of the counters changes the database's `stats_reset`. Sessions report their
/// counters up to a minute late and a crash loses them, so callers must refresh from time to time
/// in spite of equal fingerprints.
pub async fn source_state(tx: &Tx<'_>, oid: u32) -> Result<SourceState, Error> {
    const SQL: &str = r"
        WITH RECURSIVE reached (oid) AS (
            SELECT $1::oid
            UNION
            SELECT n.oid
              FROM reached r
             CROSS JOIN LATERAL (
                   SELECT d.refobjid
                     FROM pg_rewrite w
                     JOIN pg_class v ON v.oid = w.ev_class AND (v.relkind = 'v' OR v.oid = $1)
                     JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                                     AND d.refclassid = 'pg_class'::regclass
                    WHERE w.ev_class = r.oid
                   UNION ALL
                   SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.oid
                   ) AS n (oid)
        ), relations AS (
            SELECT c.* FROM reached r JOIN pg_class c ON c.oid = r.oid WHERE c.oid <> $1
        ), trees AS (
            SELECT w.ev_class, w.ev_action::text AS tree
              FROM pg_rewrite w
              JOIN reached r ON r.oid = w.ev_class
              JOIN pg_class v ON v.oid = w.ev_class
             WHERE v.relkind = 'v' OR v.oid = $1
        ), functions AS (
            SELECT m[2]::oid AS oid
              FROM trees CROSS JOIN LATERAL
                   regexp_matches(tree, ':(funcid|aggfnoid|winfnoid) (\d+)', 'g') AS m
            UNION
            SELECT o.oprcode::oid
              FROM trees CROSS JOIN LATERAL regexp_matches(tree, ':opno (\d+)', 'g') AS m
              JOIN pg_operator o ON o.oid = m[1]::oid
        ), obstacles (what) AS (
            SELECT 'function ' || coalesce(f.oid::regprocedure::text, '?')
                   || ' is not immutable and built in'
              FROM functions f
              LEFT JOIN pg_proc p ON p.oid = f.oid
             WHERE p.provolatile IS DISTINCT FROM 'i'
                OR p.pronamespace <> 'pg_catalog'::regnamespace
            UNION ALL
            SELECT 'its definition has a node ' || m[1]
              FROM trees CROSS JOIN LATERAL regexp_matches(
                   tree, '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO|TABLESAMPLECLAUSE|XMLEXPR'
                         '|JSON\w*)\M', 'g') AS m
            UNION ALL
            SELECT format('%s is a %s', oid::regclass,
                          CASE relkind WHEN 'f' THEN 'foreign table'
                                       ELSE 'relation of kind ' || relkind::text END)
              FROM relations WHERE relkind NOT IN ('r', 'p', 'v', 'm')
            UNION ALL
            -- Policies apply to the view's owner unless that role owns the table or bypasses them.
            SELECT format('%s has row-level security', c.oid::regclass)
              FROM relations c, pg_class v JOIN pg_roles o ON o.oid = v.relowner
             WHERE v.oid = $1 AND c.relrowsecurity AND NOT (o.rolsuper OR o.rolbypassrls)
               AND (c.relforcerowsecurity OR NOT pg_has_role(v.relowner, c.relowner, 'USAGE'))
            UNION ALL
            -- pg_depend does not record system tables either. A subquery has relid 0 since 16.
            SELECT format('it reads %s, whose changes are not counted', m[1]::oid::regclass)
              FROM trees CROSS JOIN LATERAL regexp_matches(tree, ':relid ([1-9]\d*)', 'g') AS m
             WHERE m[1]::oid NOT IN (SELECT oid FROM reached)
                OR m[1]::oid IN (SELECT oid FROM relations
                                  WHERE relnamespace = 'pg_catalog'::regnamespace)
        )
        SELECT (SELECT what FROM obstacles ORDER BY what LIMIT 1) AS unprovable,
               md5(concat_ws(' ',
                   (SELECT string_agg(concat_ws(',', c.oid, c.relfilenode,
                                                pg_stat_get_tuples_inserted(c.oid),
                                                pg_stat_get_tuples_updated(c.oid),
                                                pg_stat_get_tuples_deleted(c.oid)),
                                      ';' ORDER BY c.oid)
                      FROM relations c),
                   (SELECT string_agg(md5(tree), ';' ORDER BY ev_class) FROM trees),
                   pg_stat_get_db_stat_reset_time(d.oid), pg_postmaster_start_time(), $1))
                 AS fingerprint,
               now()
          FROM pg_database d
         WHERE d.datname = current_database()";
    tx.read_one("read the state of a view's sources", SQL, &[(&oid, Type::OID)]).await
}
