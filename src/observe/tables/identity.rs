//! The identity of a table, compared again in each transaction that changes the table.
//!
//! A job looks a table up in one transaction and works on it by name in later ones. Between two of
//! them the table may be renamed, replaced, altered or given to another owner. So each transaction
//! first locks the table by its name, in a mode that conflicts with the ACCESS EXCLUSIVE lock which
//! RENAME, OWNER TO, ALTER COLUMN and DETACH take. Then it compares what the catalog shows of the
//! stored OID with what was checked at the look-up. A difference is an error: nothing is changed.
//!
//! The transaction must be READ COMMITTED: an older snapshot would show the catalog as it was
//! before the lock was granted.

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::db::{Error, FromRow, Kind, Param, Tx, from_row};

/// SQL: the columns of an [`Identity`], from `c` in `pg_class`, its schema `n` and its column `a`.
pub(super) const WITH_COLUMN: &str =
    "c.oid, n.nspname::text AS schema, c.relname::text AS table, c.relkind::text AS kind,
     c.relowner AS owner, pg_get_userbyid(c.relowner)::text AS owner_name,
     a.attnum AS column_number, a.attname::text AS column_name,
     format_type(a.atttypid, NULL) AS column_type";
/// SQL: the columns of an [`Identity`] without a column.
pub(super) const WITHOUT_COLUMN: &str =
    "c.oid, n.nspname::text AS schema, c.relname::text AS table, c.relkind::text AS kind,
     c.relowner AS owner, pg_get_userbyid(c.relowner)::text AS owner_name,
     NULL::int2 AS column_number, NULL::text AS column_name, NULL::text AS column_type";

/// The properties by which a transaction recognizes a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub oid: u32,
    pub schema: String,
    pub table: String,
    /// `pg_class.relkind`
    pub kind: char,
    /// The OID of the owner.
    pub owner: u32,
    /// The name of the owner, for messages. An owner that is renamed is still the same owner.
    pub owner_name: String,
    /// The column that the table is purged by.
    pub column: Option<Column>,
}

/// A column and its type, as PostgreSQL writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// `pg_attribute.attnum`
    pub number: i16,
    pub name: String,
    pub data_type: String,
}

qualified_names!(Identity);

impl FromRow for Identity {
    fn from_row(row: &Row) -> Result<Identity, tokio_postgres::Error> {
        let column = match row.try_get("column_number")? {
            None => None,
            Some(number) => {
                let (name, data_type) = (row.try_get("column_name")?, row.try_get("column_type")?);
                Some(Column { number, name, data_type })
            }
        };
        Ok(Identity {
            oid: row.try_get("oid")?,
            schema: row.try_get("schema")?,
            table: row.try_get("table")?,
            kind: row.try_get::<_, &str>("kind")?.chars().next().unwrap_or(' '),
            owner: row.try_get("owner")?,
            owner_name: row.try_get("owner_name")?,
            column,
        })
    }
}

impl Identity {
    /// Compares with the table of the same OID as it is now.
    ///
    /// # Errors
    /// [`Kind::Sql`] with each difference.
    pub fn check(&self, found: &Identity) -> Result<(), Error> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, expected: &str, found: &str| {
            differences.push(format!("expected {what} {expected}, found {found}"));
        };
        if (&self.schema, &self.table) != (&found.schema, &found.table) {
            compare("name", &self.name(), &found.name());
        }
        if self.kind != found.kind {
            compare("relkind", &self.kind.to_string(), &found.kind.to_string());
        }
        if self.owner != found.owner {
            compare("owner", &self.owner_name, &found.owner_name);
        }
        if self.column != found.column {
            compare("column", &describe(self.column.as_ref()), &describe(found.column.as_ref()));
        }
        if differences.is_empty() { Ok(()) } else { Err(self.changed(&differences.join("; "))) }
    }

    /// The error for a table that is no longer what was checked.
    fn changed(&self, differences: &str) -> Error {
        Error::new(
            Kind::Sql,
            format!(
                "table {} (OID {}) changed during the run: {differences}. The run stops work on \
                 it. Check that the configuration still names the right table and column, then run \
                 the job again",
                self.name(),
                self.oid
            ),
        )
    }
}

fn describe(column: Option<&Column>) -> String {
    match column {
        Some(column) => format!("{} {} (number {})", column.name, column.data_type, column.number),
        None => "none".to_owned(),
    }
}

/// Locks a table by its name in this mode, without the tables beneath it.
///
/// # Errors
/// [`Kind::Sql`] if no table has that name any more, [`Kind::LockTimeout`], and other errors of the
/// server.
pub async fn lock(tx: &Tx<'_>, table: &Identity, mode: &str) -> Result<(), Error> {
    let sql = format!("LOCK TABLE ONLY {} IN {mode} MODE", table.quoted());
    tx.batch("lock table", &sql).await.map_err(|error| match error.sqlstate() {
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => {
            table.changed("expected a table of this name, found none")
        }
        _ => error,
    })
}

/// Compares a table that this transaction has locked with what was checked of it. With `root`, it
/// must also be `root` itself or lie beneath it.
///
/// # Errors
/// [`Kind::Sql`] with each difference.
pub async fn compare(
    tx: &Tx<'_>,
    expected: &Identity,
    root: Option<&Identity>,
) -> Result<(), Error> {
    let beneath = match root {
        None => "true",
        Some(_) => {
            "$3 IN (WITH RECURSIVE above (oid) AS (
                 SELECT c.oid
                 UNION
                 SELECT i.inhparent FROM pg_inherits i JOIN above ON i.inhrelid = above.oid
                  WHERE NOT i.inhdetachpending)
             SELECT above.oid FROM above)"
        }
    };
    let sql = format!(
        "SELECT {WITH_COLUMN}, {beneath} AS beneath_root
           FROM pg_class c
           JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_attribute a
             ON a.attrelid = c.oid AND a.attnum = $2 AND NOT a.attisdropped
          WHERE c.oid = $1"
    );
    let number = expected.column.as_ref().map(|column| column.number);
    let root_oid = root.map(|root| root.oid);
    let params: [Param<'_>; 3] =
        [(&expected.oid, Type::OID), (&number, Type::INT2), (&root_oid, Type::OID)];
    let params = if root.is_some() { &params[..] } else { &params[..2] };
    let Some(found) = tx.read_opt::<ComparedTable>("compare table", &sql, params).await? else {
        return Err(expected.changed("expected a table of this OID, found none"));
    };
    expected.check(&found.id)?;
    match root {
        Some(root) if !found.beneath_root => Err(expected
            .changed(&format!("expected it beneath {}, found it detached from it", root.name()))),
        _ => Ok(()),
    }
}

struct ComparedTable {
    id: Identity,
    beneath_root: bool,
}

from_row!(ComparedTable, [beneath_root], nested id);

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Identity {
        Identity {
            oid: 7,
            schema: "public".to_owned(),
            table: "events".to_owned(),
            kind: 'r',
            owner: 10,
            owner_name: "alice".to_owned(),
            column: Some(Column {
                number: 1,
                name: "ts".to_owned(),
                data_type: "timestamp with time zone".to_owned(),
            }),
        }
    }

    #[test]
    fn each_difference_is_named() {
        fn column(table: &mut Identity) -> &mut Column {
            table.column.as_mut().expect("it has one")
        }
        type Alter = fn(&mut Identity);
        let cases: [(Alter, Option<&str>); 9] = [
            (|_| {}, None),
            (|table| table.owner_name = "renamed".to_owned(), None),
            (
                |table| table.table = "old".to_owned(),
                Some("expected name public.events, found public.old"),
            ),
            (
                |table| table.schema = "archive".to_owned(),
                Some("expected name public.events, found archive.events"),
            ),
            (|table| table.kind = 'p', Some("expected relkind r, found p")),
            (
                |table| (table.owner, table.owner_name) = (11, "bob".to_owned()),
                Some("expected owner alice, found bob"),
            ),
            (
                |table| column(table).name = "seen".to_owned(),
                Some("found seen timestamp with time zone (number 1)"),
            ),
            (
                |table| column(table).data_type = "date".to_owned(),
                Some(
                    "expected column ts timestamp with time zone (number 1), \
                     found ts date (number 1)",
                ),
            ),
            (|table| table.column = None, Some("(number 1), found none")),
        ];
        for (change, expected) in cases {
            let mut found = events();
            change(&mut found);
            match (events().check(&found), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                }
                (checked, _) => panic!("{found:?}: {checked:?}"),
            }
        }
    }
}
