//! One connection, and the statements that go over it.
//!
//! Statements use the unnamed prepared statement with types given, so that they need one round trip
//! and work behind a transaction pooler; a result column of a type that is not built in must be cast
//! to `text` in the SQL.

use std::sync::Arc;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::connect::Server;
use super::error::Error;
use super::wire::Wire;
use super::{Purpose, Route};

/// A parameter with its type.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// An open connection.
pub struct Conn {
    pub(super) client: Client,
    pub(super) wire: Arc<Wire>,
    pub(super) server: Arc<Server>,
    pub(super) purpose: Purpose,
    pub(super) route: Route,
    /// Whether a SET outlives its transaction for us alone (false behind a transaction pooler).
    pub(super) session_state: bool,
}

impl Conn {
    /// Runs a statement and returns its rows. `what` is a bare verb phrase for the error.
    pub async fn rows(&self, what: &'static str, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>, Error> {
        self.client.query_typed(sql, params).await.map_err(|error| Error::from_pg(what, error))
    }

    /// Runs a statement that returns at most one row.
    pub async fn row_opt(&self, what: &'static str, sql: &str, params: &[Param<'_>]) -> Result<Option<Row>, Error> {
        self.client.query_typed_opt(sql, params).await.map_err(|error| Error::from_pg(what, error))
    }

    /// Runs a statement that returns one row.
    pub async fn row(&self, what: &'static str, sql: &str, params: &[Param<'_>]) -> Result<Row, Error> {
        self.client.query_typed_one(sql, params).await.map_err(|error| Error::from_pg(what, error))
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute(&self, what: &'static str, sql: &str, params: &[Param<'_>]) -> Result<u64, Error> {
        self.client.execute_typed(sql, params).await.map_err(|error| Error::from_pg(what, error))
    }

    /// Sends one or several statements as one simple query.
    pub async fn batch(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|error| Error::from_pg(what, error))
    }

    /// Sends several statements as one simple query, which is one round trip and needs no session
    /// state. Returns the first column of every row of every statement, as text.
    pub async fn batch_values(&self, what: &'static str, sql: &str) -> Result<Vec<Option<String>>, Error> {
        let messages = self.client.simple_query(sql).await.map_err(|error| Error::from_pg(what, error))?;
        let values = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        Ok(values.collect())
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The process id that the server (or a pooler) announced at login.
    pub fn announced_pid(&self) -> i32 {
        self.wire.backend_pid()
    }

    /// Whether a SET outlives its transaction for us alone; false behind a transaction pooler.
    pub fn has_session_state(&self) -> bool {
        self.session_state
    }

    /// Messages below ERROR that the server sent since the last call, oldest first. Bounded: the
    /// oldest are dropped.
    pub fn take_notices(&self) -> Vec<String> {
        self.wire.take_notices()
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("purpose", &self.purpose)
            .field("route", &self.route)
            .field("pid", &self.announced_pid())
            .finish_non_exhaustive()
    }
}

/// An identifier, quoted: the only way one from configuration or the catalog enters SQL.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string constant, quoted, for the few statements that take no parameters (SET, VACUUM).
pub fn quote_literal(text: &str) -> String {
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}
