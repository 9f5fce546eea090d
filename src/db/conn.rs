//! One connection, and the statements that go over it.
//!
//! Statements use the unnamed prepared statement with types given, so that they need one round trip
//! and work behind a transaction pooler; a result column of a type that is not built in must be cast
//! to `text` in the SQL.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, TryStreamExt as _};
use hyper::body::Bytes;
use prometheus::Histogram;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Row, SimpleQueryMessage};

use super::connect::{ConnectTimings, Plan, Server};
use super::dial::Address;
use super::error::Error;
use super::login::{Facts, Link};
use super::pooler::Between;
use super::session::Canceller;
use super::{Purpose, Route};

/// How long to wait after an error for the ReadyForQuery that follows it.
const SETTLE_BOUND: Duration = Duration::from_secs(1);

/// A parameter with its type.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// An open connection.
///
/// Dropped while a statement runs or a transaction is open, it is cut, so that the server ends both.
pub struct Conn {
    pub(super) link: Link,
    pub(super) facts: Facts,
    pub(super) server: Arc<Server>,
    address: Address,
    purpose: Purpose,
    route: Route,
    between: Between,
    timings: ConnectTimings,
    statement_seconds: Histogram,
    /// Whether somebody else's SQL may have left something in the session.
    pub(super) soiled: AtomicBool,
}

impl Conn {
    pub(super) fn new(
        server: Arc<Server>,
        plan: &Plan,
        link: Link,
        address: Address,
        facts: Facts,
        between: Between,
        timings: ConnectTimings,
    ) -> Conn {
        let labels = [server.name.as_str(), plan.purpose.as_str()];
        let statement_seconds =
            server.metrics.statement_duration_seconds.with_label_values(&labels);
        let (purpose, route) = (plan.purpose, plan.route);
        Conn {
            link,
            facts,
            server,
            address,
            purpose,
            route,
            between,
            timings,
            statement_seconds,
            soiled: AtomicBool::new(false),
        }
    }

    /// Runs a statement and returns its rows. `what` is a bare verb phrase for the error.
    pub async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.measured(what, self.link.client.query_typed(sql, params)).await
    }

    /// Runs a statement that returns at most one row.
    pub async fn row_opt(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Error> {
        self.measured(what, self.link.client.query_typed_opt(sql, params)).await
    }

    /// Runs a statement that returns one row.
    pub async fn row(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Row, Error> {
        self.measured(what, self.link.client.query_typed_one(sql, params)).await
    }

    /// Runs a statement and gives its rows one by one, as they come: for more than fit into memory. The first error
    /// of `with` ends it.
    pub async fn each_row(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
        mut with: impl FnMut(Row) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let streamed = async {
            let params = params.iter().map(|(value, kind)| (*value, kind.clone()));
            let rows = self.link.client.query_typed_raw(sql, params).await?;
            let mut rows = std::pin::pin!(rows);
            while let Some(row) = rows.try_next().await? {
                if let Err(error) = with(row) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        };
        self.measured(what, streamed).await?
    }

    /// Runs a statement and returns how many rows it touched.
    pub async fn execute(
        &self,
        what: &'static str,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, Error> {
        self.measured(what, self.link.client.execute_typed(sql, params)).await
    }

    /// Runs `COPY … FROM STDIN` in the text format. Returns how many rows were taken. To be called inside a
    /// transaction: the statement is a named one, and a transaction pooler keeps no such names between two.
    pub async fn copy_in(&self, what: &'static str, sql: &str, rows: Bytes) -> Result<u64, Error> {
        let copied = async {
            let sink = self.link.client.copy_in::<_, Bytes>(sql).await?;
            let mut sink = std::pin::pin!(sink);
            sink.send(rows).await?;
            sink.finish().await
        };
        self.measured(what, copied).await
    }

    /// Sends one or several statements as one simple query.
    pub async fn batch(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.measured(what, self.link.client.batch_execute(sql)).await
    }

    pub(super) async fn measured<T>(
        &self,
        what: &'static str,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let flight = self.link.wire.begin();
        let started = Instant::now();
        let outcome = statement.await;
        self.statement_seconds.observe(started.elapsed().as_secs_f64());
        let outcome = match outcome {
            Ok(value) => Ok(value),
            Err(error) => {
                // It arrives before the server is ready again; until then the connection would look
                // busy to the pool.
                self.link.wire.settled(SETTLE_BOUND).await;
                let error = Error::from_pg(what, error);
                self.server.count_error(self.purpose, error.kind());
                Err(error)
            }
        };
        flight.done();
        outcome
    }

    /// Sends several statements as one simple query, which is one round trip and needs no session
    /// state. Returns the first column of every row of every statement, as text.
    pub async fn batch_values(
        &self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<Option<String>>, Error> {
        let messages = self.measured(what, self.link.client.simple_query(sql)).await?;
        let values = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
            _ => None,
        });
        Ok(values.collect())
    }

    /// What cancels the statements of this connection, from outside.
    pub fn canceller(&self) -> Canceller {
        let backend = (self.facts.pid == self.announced_pid()).then_some(self.facts);
        Canceller::new(&self.server, &self.link, self.address.clone(), self.route, backend)
    }

    /// Whether another may use it: open, no transaction, nothing under way, nothing left behind.
    pub(super) fn is_reusable(&self) -> bool {
        !self.is_closed() && self.link.wire.is_idle() && !self.soiled.load(Ordering::Acquire)
    }

    /// How long each step of its connect took.
    pub fn timings(&self) -> ConnectTimings {
        self.timings
    }

    /// What stands between us and the server.
    pub fn between(&self) -> Between {
        self.between
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.link.client.is_closed()
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The process id that the server (or a pooler) announced at login.
    pub fn announced_pid(&self) -> i32 {
        self.link.wire.backend_pid()
    }

    /// The server process that works for this connection alone: its id, and when it began, in
    /// microseconds since 1970. `None` behind a pooler.
    pub fn process(&self) -> Option<(i32, i64)> {
        let ours = self.facts.pid == self.announced_pid() && self.facts.backend_start_us > 0;
        ours.then_some((self.facts.pid, self.facts.backend_start_us))
    }

    /// Whether a SET outlives its transaction for us alone; false behind a transaction pooler.
    pub fn has_session_state(&self) -> bool {
        self.between.has_session_state()
    }

    /// Messages below ERROR that the server sent since the last call, oldest first. Bounded: the
    /// oldest are dropped.
    pub fn take_notices(&self) -> Vec<String> {
        self.link.wire.take_notices()
    }

    /// How many of these were dropped since this was asked last.
    pub fn take_lost_notices(&self) -> u32 {
        self.link.wire.take_lost()
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn")
            .field("purpose", &self.purpose)
            .field("route", &self.route)
            .field("pid", &self.announced_pid())
            .field("between", &self.between)
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
