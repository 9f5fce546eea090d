//! Checks by name whether objects of a schema exist.

use tokio_postgres::types::Type;

use crate::db::{Conn, Error};
use crate::sets::Object;

/// Returns the objects that do not exist, have another kind, or are invalid or disabled, in order.
pub async fn missing(conn: &Conn, expected: &[Object]) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        SELECT w.kind || ' ' || w.name
          FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (kind, name, position)
         CROSS JOIN LATERAL string_to_array(w.name, '.') AS part
         WHERE NOT CASE w.kind
               WHEN 'function' THEN EXISTS (
                    SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                     WHERE n.nspname = part[1] AND p.proname = part[2])
               WHEN 'unique index' THEN EXISTS (
                    SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = part[1] AND c.relname = part[2]
                       AND i.indisunique AND i.indisvalid)
               WHEN 'trigger' THEN EXISTS (
                    SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
                      JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = part[1] AND c.relname = part[2]
                       AND t.tgname = part[3] AND t.tgenabled <> 'D')
               ELSE EXISTS (
                    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE n.nspname = part[1] AND c.relname = part[2]
                       AND c.relkind = ANY (CASE w.kind WHEN 'table' THEN '{r,p}'
                                                        ELSE '{v,m}' END::\"char\"[]))
               END
         ORDER BY w.position";
    let (kinds, names): (Vec<&str>, Vec<&str>) = expected
        .iter()
        .map(|object| match object {
            Object::Table(name) => ("table", *name),
            Object::View(name) => ("view", *name),
            Object::Function(name) => ("function", *name),
            Object::UniqueIndex(name) => ("unique index", *name),
            Object::Trigger(name) => ("trigger", *name),
        })
        .unzip();
    let params = [(&kinds as _, Type::TEXT_ARRAY), (&names as _, Type::TEXT_ARRAY)];
    conn.read("verify the schema", SQL, &params).await
}
