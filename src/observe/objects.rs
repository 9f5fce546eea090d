//! Whether objects exist, by name.

use tokio_postgres::types::Type;

use crate::db::{Conn, Error};

/// An object that something relies on, with its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A table, partitioned or not.
    Table(&'static str),
    /// A view, materialized or not.
    View(&'static str),
    /// A function of any arguments.
    Function(&'static str),
    /// A unique index that is valid.
    UniqueIndex(&'static str),
    /// `schema.table.trigger`, not disabled.
    Trigger(&'static str),
}

/// Names those that are missing, are something else or are out of service, in the order given.
pub async fn missing(conn: &Conn, wanted: &[Object]) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        SELECT w.kind || ' ' || w.name
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (kind, name, position)
         WHERE NOT CASE w.kind
               WHEN 'function' THEN EXISTS (
                    SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = split_part(w.name, '.', 1) AND p.proname = split_part(w.name, '.', 2))
               WHEN 'unique index' THEN EXISTS (
                    SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = split_part(w.name, '.', 1) AND c.relname = split_part(w.name, '.', 2)
                       AND i.indisunique AND i.indisvalid)
               WHEN 'trigger' THEN EXISTS (
                    SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = split_part(w.name, '.', 1) AND c.relname = split_part(w.name, '.', 2)
                       AND t.tgname = split_part(w.name, '.', 3) AND t.tgenabled <> 'D')
               ELSE EXISTS (
                    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = split_part(w.name, '.', 1) AND c.relname = split_part(w.name, '.', 2)
                       AND c.relkind = ANY (CASE w.kind WHEN 'table' THEN '{r,p}' ELSE '{v,m}' END::\"char\"[]))
               END
         ORDER BY w.position";
    let (kinds, names): (Vec<&str>, Vec<&str>) = wanted
        .iter()
        .map(|object| match object {
            Object::Table(name) => ("table", *name),
            Object::View(name) => ("view", *name),
            Object::Function(name) => ("function", *name),
            Object::UniqueIndex(name) => ("unique index", *name),
            Object::Trigger(name) => ("trigger", *name),
        })
        .unzip();
    let rows = conn
        .rows("verify the schema", SQL, &[(&kinds, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
