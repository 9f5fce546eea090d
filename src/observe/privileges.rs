//! Looks up privileges that jobs lack, so that start reports them before the first run fails.

use tokio_postgres::types::Type;

use super::tables::{MAINTAIN_GRANT, MAY_MAINTAIN, OWNS_DATABASE};
use crate::db::{Conn, Error, from_row};

/// A privilege that a job needs and this role does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPrivilege {
    /// The job, or `measurements`.
    pub job: String,
    pub problem: String,
    /// The statement that grants it.
    pub remedy: String,
}

from_row!(MissingPrivilege, [job, problem, remedy]);

/// Checks whether this role sees the sessions of other roles.
pub async fn measurements(conn: &Conn) -> Result<Vec<MissingPrivilege>, Error> {
    const SQL: &str = "
        SELECT 'measurements' AS job,
               'sessions of other roles are hidden from this role' AS problem,
               format('GRANT pg_monitor TO %I', current_user) AS remedy
         WHERE NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')";
    conn.read("look up whether this role sees other sessions", SQL, &[]).await
}

/// Counts the tables and materialized views that this role may not VACUUM (VACUUM only warns about
/// them), and names the largest. Ignores the schemas in `excluded`.
pub async fn vacuum(conn: &Conn, excluded: &[String]) -> Result<Vec<MissingPrivilege>, Error> {
    let sql = format!(
        "
        SELECT 'vacuum' AS job,
               format('this role may not VACUUM %s tables or materialized views, the largest is %s',
                      count(*), (array_agg(name ORDER BY pages DESC))[1]) AS problem,
               (array_agg(remedy ORDER BY pages DESC))[1] AS remedy
          FROM (SELECT format('%I.%I', n.nspname, c.relname), c.relpages, {MAINTAIN_GRANT}
                  FROM pg_class c
                  JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
                   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
                   AND n.nspname <> ALL ($1)
                   AND NOT {MAY_MAINTAIN} AND NOT {OWNS_DATABASE}) AS t (name, pages, remedy)
        HAVING count(*) > 0"
    );
    let params = [(&excluded as _, Type::TEXT_ARRAY)];
    conn.read("look up tables that this role may not vacuum", &sql, &params).await
}

/// Finds those of the materialized views `views` (`schema.view`) that this role may not refresh.
pub async fn refresh(conn: &Conn, views: &[String]) -> Result<Vec<MissingPrivilege>, Error> {
    let sql = format!(
        "
        SELECT 'refresh' AS job,
               format('this role may not refresh %I.%I', n.nspname, c.relname) AS problem,
               {MAINTAIN_GRANT} AS remedy
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'm' AND format('%s.%s', n.nspname, c.relname) = ANY ($1)
           AND NOT {MAY_MAINTAIN}
         ORDER BY 2"
    );
    let params = [(&views as _, Type::TEXT_ARRAY)];
    conn.read("look up views that this role may not refresh", &sql, &params).await
}

/// Finds those of the tables `tables` (`schema.table`) that this role may not delete from.
pub async fn retention(conn: &Conn, tables: &[String]) -> Result<Vec<MissingPrivilege>, Error> {
    const SQL: &str = "
        SELECT 'retention' AS job,
               format('this role may not delete from %I.%I', n.nspname, c.relname) AS problem,
               format('GRANT SELECT, DELETE ON %I.%I TO %I',
                      n.nspname, c.relname, current_user) AS remedy
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND format('%s.%s', n.nspname, c.relname) = ANY ($1)
           AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                    AND has_table_privilege(c.oid, 'DELETE'))
         ORDER BY 2";
    let params = [(&tables as _, Type::TEXT_ARRAY)];
    conn.read("look up tables that this role may not delete from", SQL, &params).await
}

/// Finds those of the pairs of job and role whose role this login may not SET.
pub async fn roles(
    conn: &Conn,
    jobs_and_roles: &[(String, String)],
) -> Result<Vec<MissingPrivilege>, Error> {
    const SQL: &str = "
        SELECT w.job,
               CASE WHEN r.oid IS NULL
                    THEN format('job %s needs the role %I, which does not exist', w.job, w.role)
                    ELSE format('job %s may not SET ROLE %I', w.job, w.role) END AS problem,
               CASE WHEN r.oid IS NULL
                    THEN format('CREATE ROLE %I; GRANT %1$I TO %I; '
                                'or set another `role` in [jobs.%s]', w.role, current_user, w.job)
                    ELSE format('GRANT %I TO %I', w.role, current_user) END AS remedy
          FROM unnest($1::text[], $2::text[]) AS w (job, role)
          LEFT JOIN pg_roles r ON r.rolname = w.role
         WHERE r.oid IS NULL OR NOT pg_has_role(current_user, r.oid, 'MEMBER')";
    let (jobs, roles): (Vec<&str>, Vec<&str>) =
        jobs_and_roles.iter().map(|(job, role)| (job.as_str(), role.as_str())).unzip();
    let params = [(&jobs as _, Type::TEXT_ARRAY), (&roles as _, Type::TEXT_ARRAY)];
    conn.read("look up roles that this login may not set", SQL, &params).await
}
