//! Reads the catalog entries of the tables that jobs work on.
//!
//! Each function is one bounded read inside the caller's transaction and returns plain data. Times
//! are ISO text in UTC (the caller's transaction sets `datestyle` and `timezone`), not a Rust type,
//! so that `infinity`, microseconds and dates before Christ survive the round trip.

pub mod identity;
pub mod partitions;
pub mod pressure;
pub mod references;
pub mod relation;
pub mod vacuum;
pub mod views;

/// SQL: whether this role may ANALYZE, REFRESH or (without a database owner's rights) VACUUM the
/// relation `c`. MAINTAIN exists since 17 and is an error before; CASE prevents its evaluation.
pub(super) const MAY_MAINTAIN: &str = "
    (pg_has_role(c.relowner, 'USAGE')
     OR CASE WHEN current_setting('server_version_num')::int >= 170000
             THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END)";

/// SQL: whether this role owns the current database, which permits VACUUM of every table in it.
pub(super) const OWNS_DATABASE: &str = "
    pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE')";

/// SQL: the statement that permits this role to VACUUM or REFRESH the relation `c` of the schema
/// `n`. It never suggests membership in a superuser.
pub(super) const MAINTAIN_GRANT: &str = "
    CASE WHEN current_setting('server_version_num')::int >= 170000
         THEN format('GRANT MAINTAIN ON %I.%I TO %I', n.nspname, c.relname, current_user)
         WHEN (SELECT o.rolsuper FROM pg_roles o WHERE o.oid = c.relowner)
         THEN format('ALTER %s %I.%I OWNER TO %I',
                     CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
                     n.nspname, c.relname, current_user)
         ELSE format('GRANT %I TO %I', pg_get_userbyid(c.relowner), current_user) END";
