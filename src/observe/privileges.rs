//! What this role may not do, asked once at start: before the jobs that need it find out.

use tokio_postgres::types::Type;

use super::tables::relation::MAINTAIN_GRANT;
use crate::db::{Conn, Error, quote_ident};

/// Something that a job is not permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The job, or `measurements`.
    pub job: String,
    pub what: String,
    /// The statement that mends it, or the first of them.
    pub mend: String,
}

/// Whether the sessions of other roles can be looked into.
pub async fn measurements(conn: &Conn) -> Result<Option<Lack>, Error> {
    const SQL: &str = "
        SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), format('GRANT pg_monitor TO %I', current_user)";
    let row = conn.row("look up what this role may see", SQL, &[]).await?;
    let lack = || Lack {
        job: "measurements".to_owned(),
        what: "the sessions of other roles cannot be seen".to_owned(),
        mend: row.get(1),
    };
    Ok((!row.get::<_, bool>(0)).then(lack))
}

/// Tables and materialized views that VACUUM would only warn about.
pub async fn vacuum(conn: &Conn, excluded: &[String]) -> Result<Option<Lack>, Error> {
    let sql = format!(
        "
        SELECT count(*) FILTER (WHERE relkind = 'r'), count(*) FILTER (WHERE relkind = 'm'),
               (array_agg(format('%I.%I', nspname, relname) ORDER BY relpages DESC))[1],
               (array_agg(mend ORDER BY relpages DESC))[1]
          FROM (SELECT n.nspname, c.relname, c.relkind, c.relpages, {MAINTAIN_GRANT} AS mend
                  FROM pg_class c
                  JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
                   AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> ALL ($1)
                   AND NOT pg_has_role(c.relowner, 'USAGE')
                   AND NOT pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')
                   AND NOT CASE WHEN current_setting('server_version_num')::int >= 170000
                                THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END) AS t"
    );
    let row = conn
        .row("look up what this role may vacuum", &sql, &[(&excluded, Type::TEXT_ARRAY)])
        .await?;
    let (tables, views): (i64, i64) = (row.get(0), row.get(1));
    if tables + views == 0 {
        return Ok(None);
    }
    let first: String = row.get(2);
    let found: Vec<String> = [(tables, "table"), (views, "materialized view")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
        .collect();
    Ok(Some(Lack {
        job: "vacuum".to_owned(),
        what: format!("{} cannot be vacuumed, {first} first", found.join(" and ")),
        mend: row.get(3),
    }))
}

/// Materialized views of these names (`schema.view`) that this role may not refresh.
pub async fn refresh(conn: &Conn, views: &[String]) -> Result<Vec<Lack>, Error> {
    let sql = format!(
        "
        SELECT format('%I.%I', n.nspname, c.relname), {MAINTAIN_GRANT}
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'm' AND format('%s.%s', n.nspname, c.relname) = ANY ($1)
           AND NOT pg_has_role(c.relowner, 'USAGE')
           AND NOT CASE WHEN current_setting('server_version_num')::int >= 170000
                        THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END
         ORDER BY 1"
    );
    let rows = conn
        .rows("look up what this role may refresh", &sql, &[(&views, Type::TEXT_ARRAY)])
        .await?;
    let lack = |name: String, mend| Lack {
        job: "refresh".to_owned(),
        what: format!("{name} cannot be refreshed"),
        mend,
    };
    Ok(rows.iter().map(|row| lack(row.get(0), row.get(1))).collect())
}

/// Tables of these names (`schema.table`) that this role may not purge.
pub async fn retention(conn: &Conn, tables: &[String]) -> Result<Vec<Lack>, Error> {
    const SQL: &str = "
        SELECT format('%I.%I', n.nspname, c.relname),
               format('GRANT SELECT, DELETE ON %I.%I TO %I', n.nspname, c.relname, current_user)
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND format('%s.%s', n.nspname, c.relname) = ANY ($1)
           AND NOT (has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                    AND has_table_privilege(c.oid, 'DELETE'))
         ORDER BY 1";
    let rows =
        conn.rows("look up what this role may purge", SQL, &[(&tables, Type::TEXT_ARRAY)]).await?;
    let lack = |name: String, mend| Lack {
        job: "retention".to_owned(),
        what: format!("{name} cannot be purged"),
        mend,
    };
    Ok(rows.iter().map(|row| lack(row.get(0), row.get(1))).collect())
}

/// Which of these roles this login may not take by SET ROLE, with the job that wants it.
pub async fn roles(conn: &Conn, wanted: &[(String, String)]) -> Result<Vec<Lack>, Error> {
    const SQL: &str = "
        SELECT w.job, w.role, r.oid IS NOT NULL, current_user::text
          FROM unnest($1::text[], $2::text[]) AS w (job, role) LEFT JOIN pg_roles r ON r.rolname = w.role
         WHERE r.oid IS NULL OR NOT pg_has_role(current_user, r.oid, 'MEMBER')";
    let (jobs, roles): (Vec<&str>, Vec<&str>) =
        wanted.iter().map(|(job, role)| (job.as_str(), role.as_str())).unzip();
    let params = [(&jobs as _, Type::TEXT_ARRAY), (&roles as _, Type::TEXT_ARRAY)];
    let rows = conn.rows("look for the roles of jobs", SQL, &params).await?;
    let lack = |row: &tokio_postgres::Row| {
        let (job, role, exists, login): (String, String, bool, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (role, login) = (quote_ident(&role), quote_ident(&login));
        let mend = match exists {
            true => format!("GRANT {role} TO {login}"),
            false => format!(
                "CREATE ROLE {role}; GRANT {role} TO {login}; or another `role` in [jobs.{job}]"
            ),
        };
        let what = match exists {
            true => format!("job {job} cannot take the role {role}"),
            false => format!("job {job} cannot take the role {role}, which does not exist"),
        };
        Lack { job, what, mend }
    };
    Ok(rows.iter().map(lack).collect())
}
