//! Reads rows into Rust values. A column that is missing, or has another type than expected, is an
//! error of kind [`Kind::Protocol`](super::Kind::Protocol), never a panic.
//!
//! A struct is read by the names of its columns ([`from_row!`]), a tuple by position, and a single
//! value from the first column.

use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use super::conn::{Conn, Param};
use super::error::Error;

/// A value that can be read from a row.
pub trait FromRow: Sized {
    /// Fails if a column is missing or cannot be converted.
    fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error>;
}

/// Implements [`FromRow`] for a struct: each field is read from the column of the same name. A
/// field after `nested` is a struct that is read from the columns of the same row.
macro_rules! from_row {
    ($name:ident, [$($field:ident),* $(,)?] $(, nested $nested:ident)?) => {
        impl $crate::db::FromRow for $name {
            fn from_row(row: &tokio_postgres::Row) -> Result<Self, tokio_postgres::Error> {
                Ok($name {
                    $($nested: $crate::db::FromRow::from_row(row)?,)?
                    $($field: row.try_get(stringify!($field))?,)*
                })
            }
        }
    };
}
pub(crate) use from_row;

macro_rules! tuple_from_row {
    ($($type:ident $index:tt),*) => {
        impl<$($type: FromSqlOwned),*> FromRow for ($($type,)*) {
            fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
                Ok(($(row.try_get::<_, $type>($index)?,)*))
            }
        }
    };
}
tuple_from_row!(A 0, B 1);
tuple_from_row!(A 0, B 1, C 2);
tuple_from_row!(A 0, B 1, C 2, D 3);
tuple_from_row!(A 0, B 1, C 2, D 3, E 4);

macro_rules! value_from_row {
    ($($type:ty),*) => { $(
        impl FromRow for $type {
            fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
                row.try_get(0)
            }
        }
        impl FromRow for Option<$type> {
            fn from_row(row: &Row) -> Result<Self, tokio_postgres::Error> {
                row.try_get(0)
            }
        }
    )* };
}
value_from_row!(bool, i32, i64, f64, u32, String, uuid::Uuid, chrono::DateTime<chrono::Utc>);

impl Conn {
    /// Runs a statement and reads its rows. `what` is a bare verb phrase for the error.
    pub async fn read<T: FromRow>(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<T>, Error> {
        let rows = self.rows(what, sql, params).await?;
        rows.iter().map(T::from_row).collect::<Result<_, _>>().map_err(|e| Error::from_pg(what, e))
    }

    /// Runs a statement that returns at most one row, and reads that.
    pub async fn read_opt<T: FromRow>(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<T>, Error> {
        let row = self.row_opt(what, sql, params).await?;
        row.as_ref().map(T::from_row).transpose().map_err(|error| Error::from_pg(what, error))
    }

    /// Runs a statement that returns exactly one row, and reads that.
    pub async fn read_one<T: FromRow>(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<T, Error> {
        let row = self.row(what, sql, params).await?;
        T::from_row(&row).map_err(|error| Error::from_pg(what, error))
    }
}
