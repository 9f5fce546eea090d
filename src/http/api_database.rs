//! The databases, for handlers that query them.
//!
//! A handler takes a connection of the purpose `api`, of which there are at most `pool_max_size`,
//! holds it for one short transaction and returns it. If no connection is free in time, or the
//! database is unavailable, the response is a 503 that says so.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::auth::Caller;
use super::statistics_cache::StatisticsCache;
use super::{Context, HttpError};
use crate::config::Config;
use crate::db::{Database, Error, Kind, Pooled, Purpose};
use crate::health::Board;
use crate::scheduler::RuntimeStatus;
use crate::scheduler::pipeline::PipelineCommand;

/// `Retry-After` while a database is unavailable.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);
/// The time of an operation beside that of its statements.
const WORK_MARGIN: Duration = Duration::from_secs(20);
/// Time after which a handler responds from memory instead, if it can.
const READ_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// Streamed responses at a time, in total and for each caller. Each reads the database repeatedly.
const STREAMS_MAX: usize = 16;
const CALLER_STREAMS_MAX: usize = 4;

/// All databases: none before they are opened, and none after they are closed.
#[derive(Debug, Default)]
pub struct ApiDatabases(RwLock<Option<Arc<OpenDatabases>>>);

#[derive(Debug)]
struct OpenDatabases {
    config: watch::Receiver<Arc<Config>>,
    databases: BTreeMap<String, Arc<ApiDatabase>>,
    /// The number of streams of each caller.
    streams: Mutex<BTreeMap<String, usize>>,
}

/// Permission for one streamed response, returned on drop.
#[derive(Debug)]
pub struct StreamPermit {
    open: Arc<OpenDatabases>,
    actor: String,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut streams = self.open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(&self.actor) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(streams.remove(&self.actor)),
        }
    }
}

/// One database, as handlers see it.
pub struct ApiDatabase {
    pub db: Arc<Database>,
    pub board: Arc<Board>,
    pub status: Arc<RuntimeStatus>,
    pub commands: mpsc::Sender<PipelineCommand>,
    pub statistics: StatisticsCache,
}

impl fmt::Debug for ApiDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiDatabase").field(&self.db.name()).finish()
    }
}

impl ApiDatabases {
    pub fn open(
        &self,
        config: watch::Receiver<Arc<Config>>,
        databases: impl IntoIterator<Item = ApiDatabase>,
    ) {
        let named = |database: ApiDatabase| (database.db.name().to_owned(), Arc::new(database));
        let databases = databases.into_iter().map(named).collect();
        let open = OpenDatabases { config, databases, streams: Mutex::default() };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(open));
    }

    /// Closes all databases. Their connections end with the last request in progress.
    pub fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Returns the current configuration.
    pub fn config(&self) -> Result<Arc<Config>, HttpError> {
        Ok(Arc::clone(&self.opened()?.config.borrow()))
    }

    /// Returns the database of this name, and the first one by name for `None`.
    pub fn get(&self, target: Option<&str>) -> Result<Arc<ApiDatabase>, HttpError> {
        let open = self.opened()?;
        let found = match target {
            Some(name) => open.databases.get(name),
            None => open.databases.values().next(),
        };
        found.cloned().ok_or_else(|| HttpError::no_such_target(open.databases.keys()))
    }

    /// Permits one more streamed response to a caller.
    pub fn stream(&self, caller: Option<&Caller>) -> Result<StreamPermit, HttpError> {
        let open = self.opened()?;
        let actor = caller.map(|caller| caller.actor.clone()).unwrap_or_default();
        let mut streams = open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let own = streams.get(&actor).copied().unwrap_or_default();
        if own >= CALLER_STREAMS_MAX || streams.values().sum::<usize>() >= STREAMS_MAX {
            let detail = format!("{own} exports and followed runs of this caller are in progress");
            return Err(HttpError::busy(detail).retry_after(UNAVAILABLE_RETRY));
        }
        streams.insert(actor.clone(), own + 1);
        drop(streams);
        Ok(StreamPermit { open, actor })
    }

    fn opened(&self) -> Result<Arc<OpenDatabases>, HttpError> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(|| {
            let detail = "pgsteward is starting or stopping";
            HttpError::unavailable("starting", detail, Duration::from_secs(1))
        })
    }
}

impl Context<'_> {
    /// Returns the database of the parameter `target`.
    pub fn database(&self) -> Result<Arc<ApiDatabase>, HttpError> {
        self.state.databases.get(self.query.first("target"))
    }
}

impl ApiDatabase {
    pub fn new(
        db: Arc<Database>,
        board: Arc<Board>,
        status: Arc<RuntimeStatus>,
        commands: mpsc::Sender<PipelineCommand>,
    ) -> ApiDatabase {
        ApiDatabase { db, board, status, commands, statistics: StatisticsCache::default() }
    }

    /// Runs work on the database with a timeout, as [`ApiDatabase::run_within`] does.
    pub async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, HttpError> {
        self.run_within(bound, work).await.map_err(|error| self.http_error(&error))
    }

    /// Runs work on the database with a timeout on this side of the connection. A server that hangs
    /// does not enforce `statement_timeout`.
    pub async fn run_within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout(bound, work).await.unwrap_or_else(|_| {
            let message = format!("no response within {} ms", bound.as_millis());
            Err(Error::new(Kind::Timeout, message))
        })
    }

    /// The timeout of an operation of several statements, each of which the server limits too.
    pub fn work_timeout(&self) -> Duration {
        self.db.query_timeout() + WORK_MARGIN
    }

    /// The timeout of a read whose response can come from memory instead.
    pub fn read_timeout(&self) -> Duration {
        self.db.query_timeout().min(READ_TIMEOUT_MAX)
    }

    /// Returns a connection for a caller's request.
    pub async fn connection(&self) -> Result<Pooled<'static>, HttpError> {
        self.db.acquire(Purpose::Api).await.map_err(|error| self.http_error(&error))
    }

    /// Returns the response for an error of the database. It has the kind of the error only: the
    /// server's message may contain private names and values, and goes to the log.
    pub fn http_error(&self, error: &Error) -> HttpError {
        let (database, kind) = (self.db.name(), error.kind());
        tracing::debug!(database, kind = kind.as_str(), error = %error, "request failed");
        match kind {
            Kind::PoolTimeout => {
                HttpError::busy("all connections for requests are in use (database.pool_max_size)")
            }
            // The server rejects a statement of ours: the schema is not as expected.
            Kind::Sql => {
                tracing::warn!(database, error = %error, "database rejected a statement of a request");
                let detail = "the database rejected a statement; see the log for the cause";
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                HttpError::new(status, "refused_by_database", detail)
            }
            kind => {
                let detail = format!("the database is unavailable: {}", kind.as_str());
                HttpError::unavailable("database_unavailable", detail, UNAVAILABLE_RETRY)
                    .with("reason", kind.as_str())
            }
        }
    }
}
