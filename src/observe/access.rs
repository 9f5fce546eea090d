//! Reads the privileges of the session's role on a table, its schema and its database.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, FromRow, Param};

/// The privileges from the database down to a table. Names are quoted for use in a GRANT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub in_recovery: bool,
    /// Whether transactions are read-only by default.
    pub read_only: bool,
    pub role: String,
    pub database: String,
    pub may_create_schemas: bool,
    /// `None` if the schema does not exist.
    pub schema: Option<SchemaAccess>,
}

/// The privileges on a schema and the table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaAccess {
    pub owner: String,
    pub usage: bool,
    pub create: bool,
    /// `None` if the table does not exist.
    pub table: Option<TableAccess>,
}

/// The properties of the relation with the table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableAccess {
    /// Whether it is a plain table with all requested columns.
    pub as_expected: bool,
    /// Whether the role has SELECT, INSERT, UPDATE and DELETE.
    pub writable: bool,
}

/// What untrusted roles control in a schema, as [`untrusted`] finds it. Names are quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// The session's role.
    pub role: String,
    /// The schema itself first; empty where all is trusted, or where there is no such schema.
    pub items: Vec<Untrusted>,
}

/// A part of a schema that is under the control of an untrusted role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Untrusted {
    /// The role owns the schema.
    Schema { owner: String },
    /// The role, or `PUBLIC`, may create objects in the schema.
    Grant { grantee: String },
    /// The role owns an object in the schema: `function steward.f()`.
    Object { object: String, owner: String },
}

/// Returns what untrusted roles control in a schema. Needs no privilege.
///
/// Trusted is a role that can act as the session's role anyway: the role itself, its members and
/// superusers. Trusted is also a role without login that the session's role inherits from, provided
/// that only trusted roles can act as it. Membership alone is no proof of trust, because any role
/// that may create roles, on PostgreSQL 14 even any login, can make another role its member.
pub async fn untrusted(conn: &Conn, schema: &str) -> Result<Distrust, Error> {
    // Indexes and TOAST tables have the owner of their table, array types that of their element.
    const SQL: &str = "
        WITH schema AS (
             SELECT oid, nspowner, nspacl FROM pg_catalog.pg_namespace WHERE nspname = $1),
        object (class, oid, schema, owner) AS (
             SELECT 'pg_class'::regclass, oid, relnamespace, relowner FROM pg_catalog.pg_class
              WHERE relkind <> ALL ('{i,I,t}'::\"char\"[])
             UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace, typowner
               FROM pg_catalog.pg_type
              WHERE typrelid = 0 AND typcategory <> 'A'
             UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner
               FROM pg_catalog.pg_proc
             UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace, oprowner
               FROM pg_catalog.pg_operator
             UNION ALL SELECT 'pg_opclass'::regclass, oid, opcnamespace, opcowner
               FROM pg_catalog.pg_opclass
             UNION ALL SELECT 'pg_opfamily'::regclass, oid, opfnamespace, opfowner
               FROM pg_catalog.pg_opfamily
             UNION ALL SELECT 'pg_collation'::regclass, oid, collnamespace, collowner
               FROM pg_catalog.pg_collation
             UNION ALL SELECT 'pg_conversion'::regclass, oid, connamespace, conowner
               FROM pg_catalog.pg_conversion
             UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace, stxowner
               FROM pg_catalog.pg_statistic_ext
             UNION ALL SELECT 'pg_ts_config'::regclass, oid, cfgnamespace, cfgowner
               FROM pg_catalog.pg_ts_config
             UNION ALL SELECT 'pg_ts_dict'::regclass, oid, dictnamespace, dictowner
               FROM pg_catalog.pg_ts_dict),
        found (kind, class, oid, role) AS (
             SELECT 'schema', NULL::oid, NULL::oid, nspowner FROM schema
             UNION ALL SELECT 'grant', NULL, NULL, a.grantee
               FROM schema, pg_catalog.aclexplode(nspacl) a WHERE a.privilege_type = 'CREATE'
             UNION ALL SELECT 'object', o.class, o.oid, o.owner
               FROM object o JOIN schema ON o.schema = schema.oid),
        role AS MATERIALIZED (SELECT DISTINCT f.role AS oid FROM found f),
        untrusted AS MATERIALIZED (
             SELECT role.oid FROM role LEFT JOIN pg_catalog.pg_roles r ON r.oid = role.oid
              WHERE r.oid IS NULL
                 OR NOT pg_has_role(r.oid, current_user, 'MEMBER')
                    AND NOT (NOT r.rolcanlogin AND pg_has_role(r.oid, 'USAGE')
                             AND NOT EXISTS (
                                 SELECT FROM pg_catalog.pg_roles m
                                  WHERE m.rolcanlogin AND pg_has_role(m.oid, r.oid, 'MEMBER')
                                    AND NOT pg_has_role(m.oid, current_user, 'MEMBER'))))
        SELECT quote_ident(current_user), f.kind, i.type || ' ' || i.identity,
               CASE f.role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(f.role)) END
          FROM (SELECT) AS one
          LEFT JOIN (found f JOIN untrusted u ON u.oid = f.role) ON true
          LEFT JOIN LATERAL pg_catalog.pg_identify_object(f.class, f.oid, 0) i
                 ON f.kind = 'object'
         ORDER BY f.kind = 'schema' DESC, f.kind, 3, 4";
    type Found = (String, Option<String>, Option<String>, Option<String>);
    let params = [(&schema as _, Type::TEXT)];
    let rows = conn.read::<Found>("check who controls the schema", SQL, &params).await?;
    let mut distrust = Distrust { role: String::new(), items: Vec::new() };
    for (session_role, kind, object, role) in rows {
        distrust.role = session_role;
        distrust.items.extend(match (kind.as_deref(), object, role) {
            (Some("schema"), _, Some(owner)) => Some(Untrusted::Schema { owner }),
            (Some("grant"), _, Some(grantee)) => Some(Untrusted::Grant { grantee }),
            (Some(_), Some(object), Some(owner)) => Some(Untrusted::Object { object, owner }),
            // All is trusted, or the object was dropped meanwhile.
            _ => None,
        });
    }
    Ok(distrust)
}

/// Looks up the privileges. The look-up itself needs none.
pub async fn to_table(
    conn: &Conn,
    schema: &str,
    table: &str,
    columns: &[&str],
) -> Result<Access, Error> {
    const SQL: &str = "
        SELECT pg_is_in_recovery() AS in_recovery,
               current_setting('transaction_read_only') = 'on' AS read_only,
               quote_ident(current_user) AS role, quote_ident(current_database()) AS database,
               has_database_privilege(current_database(), 'CREATE') AS may_create_schemas,
               -- Privileges are NULL if their object does not exist.
               quote_ident(pg_get_userbyid(n.nspowner)) AS schema_owner,
               has_schema_privilege(n.oid, 'USAGE') AS usage,
               has_schema_privilege(n.oid, 'CREATE') AS create,
               CASE WHEN c.oid IS NOT NULL THEN c.relkind = 'r' AND (
                    SELECT count(*) = cardinality($3::text[]) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND NOT a.attisdropped
                       AND a.attname = ANY ($3::text[])) END AS as_expected,
               has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
               AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
               AS writable
          FROM (SELECT) AS one
          LEFT JOIN pg_namespace n ON n.nspname = $1
          LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2";
    let params: [Param<'_>; 3] =
        [(&schema, Type::TEXT), (&table, Type::TEXT), (&columns, Type::TEXT_ARRAY)];
    conn.read_one("look up the privileges on a table", SQL, &params).await
}

impl FromRow for Access {
    fn from_row(row: &Row) -> Result<Access, tokio_postgres::Error> {
        let table = match (row.try_get("as_expected")?, row.try_get("writable")?) {
            (Some(as_expected), Some(writable)) => Some(TableAccess { as_expected, writable }),
            _ => None,
        };
        let schema = match row.try_get("schema_owner")? {
            Some(owner) => {
                let (usage, create) = (row.try_get("usage")?, row.try_get("create")?);
                Some(SchemaAccess { owner, usage, create, table })
            }
            None => None,
        };
        Ok(Access {
            in_recovery: row.try_get("in_recovery")?,
            read_only: row.try_get("read_only")?,
            role: row.try_get("role")?,
            database: row.try_get("database")?,
            may_create_schemas: row.try_get("may_create_schemas")?,
            schema,
        })
    }
}
