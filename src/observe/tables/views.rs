//! Materialized views: whether they can be refreshed, and whether what lies beneath has changed.

use tokio_postgres::types::Type;

use super::relation::MAINTAIN_GRANT;
use crate::db::{Error, Tx, quote_ident};

/// A materialized view as the catalog shows it to this role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`; a materialized view is `m`.
    pub kind: char,
    pub populated: bool,
    /// Whether this role may refresh it.
    pub permitted: bool,
    /// The statement that would let it.
    pub grant: String,
    /// Whether a unique index covers all rows by plain columns, as CONCURRENTLY wants.
    pub unique_index: bool,
}

impl View {
    /// `"schema"."view"`, for SQL.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

/// Finds a relation by its exact name.
pub async fn find(tx: &Tx<'_>, schema: &str, name: &str) -> Result<Option<View>, Error> {
    let sql = format!(
        "
        SELECT c.oid,
               {MAINTAIN_GRANT},
               c.relkind::text, c.relispopulated,
               pg_has_role(c.relowner, 'USAGE')
                 OR CASE WHEN current_setting('server_version_num')::int >= 170000
                         THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END,
               EXISTS (SELECT FROM pg_index i
                         JOIN pg_class x ON x.oid = i.indexrelid
                         JOIN pg_am m ON m.oid = x.relam
                        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
                          AND i.indpred IS NULL AND i.indexprs IS NULL AND m.amname = 'btree')
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2"
    );
    let row =
        tx.row_opt("look up view", &sql, &[(&schema, Type::TEXT), (&name, Type::TEXT)]).await?;
    Ok(row.map(|row| View {
        oid: row.get(0),
        schema: schema.to_owned(),
        name: name.to_owned(),
        grant: row.get(1),
        kind: row.get::<_, String>(2).chars().next().unwrap_or(' '),
        populated: row.get(3),
        permitted: row.get(4),
        unique_index: row.get(5),
    }))
}

/// What lies beneath a view, read before it is refreshed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beneath {
    /// Why it cannot be known whether a refresh would change anything; none where it can.
    pub unprovable: Option<String>,
    /// Moves whenever the rows beneath may have: per table its file and counters, and the definitions.
    pub fingerprint: String,
    /// The server's clock at that moment.
    pub now: chrono::DateTime<chrono::Utc>,
}

/// Reads [`Beneath`].
///
/// The same fingerprint twice means the same result only where the definition is a pure function of
/// its tables. That is read from the stored query tree, since a built-in function leaves no trace in
/// `pg_depend`: every function must be immutable and PostgreSQL's own, and no node may depend on the
/// clock, the session, a sequence or chance. TRUNCATE moves no counter but the table's file; a reset of
/// the counters moves the database's `stats_reset`. A session reports its counters up to a minute late
/// and a crash forgets them: both are why a caller must refresh now and then all the same.
pub async fn beneath(tx: &Tx<'_>, oid: u32) -> Result<Beneath, Error> {
    let sql = r"
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
            SELECT 'function ' || coalesce(f.oid::regprocedure::text, '?') || ' is not immutable and built in'
              FROM functions f
              LEFT JOIN pg_proc p ON p.oid = f.oid
             WHERE p.provolatile IS DISTINCT FROM 'i' OR p.pronamespace <> 'pg_catalog'::regnamespace
            UNION ALL
            SELECT 'its definition has a node ' || m[1]
              FROM trees CROSS JOIN LATERAL regexp_matches(
                   tree, '\{(SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO|TABLESAMPLECLAUSE|XMLEXPR|JSON\w*)\M', 'g')
                   AS m
            UNION ALL
            SELECT format('%s is a %s', oid::regclass,
                          CASE relkind WHEN 'f' THEN 'foreign table' ELSE 'relation of kind ' || relkind::text END)
              FROM relations WHERE relkind NOT IN ('r', 'p', 'v', 'm')
            UNION ALL
            -- Policies hold for the view's owner unless he owns the table or bypasses them.
            SELECT format('%s has row-level security', c.oid::regclass)
              FROM relations c, pg_class v JOIN pg_roles o ON o.oid = v.relowner
             WHERE v.oid = $1 AND c.relrowsecurity AND NOT (o.rolsuper OR o.rolbypassrls)
               AND (c.relforcerowsecurity OR NOT pg_has_role(v.relowner, c.relowner, 'USAGE'))
            UNION ALL
            -- pg_depend knows nothing of the system's own tables either. A subquery has the number 0, since 16.
            SELECT format('it reads %s, whose changes are not counted', m[1]::oid::regclass)
              FROM trees CROSS JOIN LATERAL regexp_matches(tree, ':relid ([1-9]\d*)', 'g') AS m
             WHERE m[1]::oid NOT IN (SELECT oid FROM reached)
                OR m[1]::oid IN (SELECT oid FROM relations WHERE relnamespace = 'pg_catalog'::regnamespace)
        )
        SELECT (SELECT what FROM obstacles ORDER BY what LIMIT 1),
               md5(concat_ws(' ',
                   (SELECT string_agg(concat_ws(',', c.oid, c.relfilenode, pg_stat_get_tuples_inserted(c.oid),
                                                pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)),
                                      ';' ORDER BY c.oid)
                      FROM relations c),
                   (SELECT string_agg(md5(tree), ';' ORDER BY ev_class) FROM trees),
                   pg_stat_get_db_stat_reset_time(d.oid), pg_postmaster_start_time(), $1)),
               now()
          FROM pg_database d
         WHERE d.datname = current_database()";
    let row = tx.row("read what lies beneath a view", sql, &[(&oid, Type::OID)]).await?;
    Ok(Beneath { unprovable: row.get(0), fingerprint: row.get(1), now: row.get(2) })
}
