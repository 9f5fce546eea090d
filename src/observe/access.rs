//! What the session's role may do with a table, and with what it stands in.

use tokio_postgres::types::Type;

use crate::db::{Conn, Error};

/// The way from a session to a table of a schema. Names are quoted, ready for a GRANT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub in_recovery: bool,
    /// Transactions are read-only, as the role or the server has it by default.
    pub read_only: bool,
    pub role: String,
    pub database: String,
    pub may_create_schemas: bool,
    /// Absent where there is no such schema.
    pub schema: Option<SchemaAccess>,
}

/// A schema, and the table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaAccess {
    pub owner: String,
    pub usage: bool,
    pub create: bool,
    /// Absent where there is no such table.
    pub table: Option<TableAccess>,
}

/// A relation by the table's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableAccess {
    /// A plain table with all the columns asked for.
    pub as_expected: bool,
    /// SELECT, INSERT, UPDATE and DELETE.
    pub writable: bool,
}

/// Looks it up; needs no privilege itself.
pub async fn to_table(
    conn: &Conn,
    schema: &str,
    table: &str,
    columns: &[&str],
) -> Result<Access, Error> {
    const SQL: &str = "
        SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on',
               quote_ident(current_user), quote_ident(current_database()),
               has_database_privilege(current_database(), 'CREATE'),
               quote_ident(pg_get_userbyid(n.nspowner)),
               has_schema_privilege(n.oid, 'USAGE'), has_schema_privilege(n.oid, 'CREATE'),
               CASE WHEN c.oid IS NOT NULL THEN c.relkind = 'r' AND (
                    SELECT count(*) = cardinality($3::text[]) FROM pg_attribute a
                     WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attname = ANY ($3::text[])) END,
               has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
               AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
          FROM (SELECT) AS one
          LEFT JOIN pg_namespace n ON n.nspname = $1
          LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2";
    let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&schema, Type::TEXT), (&table, Type::TEXT), (&columns, Type::TEXT_ARRAY)];
    let row = conn.row("look up the privileges on a table", SQL, &params).await?;
    let owner: Option<String> = row.get(5);
    // A privilege is NULL exactly where its object is missing.
    let as_expected: Option<bool> = row.get(8);
    let flag = |column: usize| row.get::<_, Option<bool>>(column).unwrap_or(false);
    Ok(Access {
        in_recovery: row.get(0),
        read_only: row.get(1),
        role: row.get(2),
        database: row.get(3),
        may_create_schemas: row.get(4),
        schema: owner.map(|owner| SchemaAccess {
            owner,
            usage: flag(6),
            create: flag(7),
            table: as_expected.map(|as_expected| TableAccess { as_expected, writable: flag(9) }),
        }),
    })
}
