//! The databases themselves, for the routes that ask them.
//!
//! A route takes a connection of the purpose `api`, of which there are `pool_max_size` at most, holds it for one
//! short transaction and gives it back. Where there is none in time, or the database is away, the answer says so.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::api::statistics::StatisticsCache;
use super::auth::Caller;
use super::{Context, HttpError};
use crate::config::Config;
use crate::db::{Database, Error, Kind, Pooled, Purpose};
use crate::health::Board;
use crate::scheduler::RuntimeStatus;
use crate::scheduler::pipeline::PipelineCommand;

/// When it is worth trying again, where a database is away.
const AWAY_RETRY: Duration = Duration::from_secs(5);
/// What work may take beside its statements.
const MARGIN: Duration = Duration::from_secs(20);
/// Who asks what memory knows as well does not wait longer for the database.
const FROM_MEMORY_AFTER: Duration = Duration::from_secs(8);

/// All databases: none until they are opened, and none once they are closed.
#[derive(Debug, Default)]
pub struct ApiDatabases(RwLock<Option<Arc<OpenDatabases>>>);

#[derive(Debug)]
struct OpenDatabases {
    config: watch::Receiver<Arc<Config>>,
    databases: BTreeMap<String, Arc<ApiDatabase>>,
    /// How many streams each caller has.
    streams: Mutex<BTreeMap<String, usize>>,
}

/// Answers that are made while they are sent, at a time: each asks the database again and again.
const STREAMS: usize = 16;
const STREAMS_EACH: usize = 4;

/// A place among them, given back when it is dropped.
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

/// One database, as routes see it.
pub struct ApiDatabase {
    pub db: Arc<Database>,
    pub board: Arc<Board>,
    pub status: Arc<RuntimeStatus>,
    pub commands: mpsc::Sender<PipelineCommand>,
    pub statistics: StatisticsCache,
}

impl fmt::Debug for ApiDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.db.name()).finish()
    }
}

impl ApiDatabases {
    /// Opens them.
    pub fn open(
        &self,
        config: watch::Receiver<Arc<Config>>,
        databases: impl IntoIterator<Item = ApiDatabase>,
    ) {
        let databases = databases
            .into_iter()
            .map(|database| (database.db.name().to_owned(), Arc::new(database)))
            .collect();
        let open = OpenDatabases { config, databases, streams: Mutex::default() };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(open));
    }

    /// Closes them: their connections end with the last request that is under way.
    pub fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Result<Arc<Config>, HttpError> {
        Ok(Arc::clone(&self.open_databases()?.config.borrow()))
    }

    /// The desk of `?target=`; the first one by name where there is none.
    pub fn of(&self, target: Option<&str>) -> Result<Arc<ApiDatabase>, HttpError> {
        let open = self.open_databases()?;
        let databases = &open.databases;
        let found = match target {
            Some(name) => databases.get(name),
            None => databases.values().next(),
        };
        found.cloned().ok_or_else(|| no_such_target(databases.keys().map(String::as_str)))
    }

    /// A place among the answers that are made while they are sent; of each caller a few at a time.
    pub fn stream(&self, caller: Option<&Caller>) -> Result<StreamPermit, HttpError> {
        let open = self.open_databases()?;
        let actor = caller.map(|caller| caller.actor.clone()).unwrap_or_default();
        let mut streams = open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let own = streams.get(&actor).copied().unwrap_or_default();
        if own >= STREAMS_EACH || streams.values().sum::<usize>() >= STREAMS {
            let detail =
                format!("{own} exports and followed runs of this caller are under way already");
            return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .retry_after(AWAY_RETRY));
        }
        streams.insert(actor.clone(), own + 1);
        drop(streams);
        Ok(StreamPermit { open, actor })
    }

    fn open_databases(&self) -> Result<Arc<OpenDatabases>, HttpError> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(|| {
            let error = HttpError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                "pgsteward is starting or stopping",
            );
            error.retry_after(Duration::from_secs(1))
        })
    }
}

impl Context<'_> {
    /// The database that the request is about.
    pub fn database(&self) -> Result<Arc<ApiDatabase>, HttpError> {
        self.state.databases.of(self.query.first("target"))
    }
}

/// No database of this name.
pub fn no_such_target<'n>(known: impl Iterator<Item = &'n str>) -> HttpError {
    let known: Vec<&str> = known.collect();
    let detail = format!("no database of this name is kept here; there are: {}", known.join(", "));
    HttpError::new(StatusCode::NOT_FOUND, "no_such_target", detail)
}

impl ApiDatabase {
    /// Nothing is known of it yet.
    pub fn new(
        db: Arc<Database>,
        board: Arc<Board>,
        status: Arc<RuntimeStatus>,
        commands: mpsc::Sender<PipelineCommand>,
    ) -> ApiDatabase {
        ApiDatabase { db, board, status, commands, statistics: StatisticsCache::default() }
    }

    /// Bounds work on the database from here, too: a server that is frozen takes everything and bounds nothing.
    pub async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, HttpError> {
        self.run_within(bound, work).await.map_err(|error| self.http_error(&error))
    }

    /// The same with the error as it is.
    pub async fn run_within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match timeout(bound, work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(Error::new(Kind::Timeout, format!("no answer within {} ms", bound.as_millis())))
            }
        }
    }

    /// For a whole piece of work: its statements have bounds of their own on the server.
    pub fn work_timeout(&self) -> Duration {
        self.db.query_timeout() + MARGIN
    }

    /// For what can be told from memory as well.
    pub fn read_timeout(&self) -> Duration {
        self.db.query_timeout().min(FROM_MEMORY_AFTER)
    }

    /// A connection on behalf of a caller.
    pub async fn connection(&self) -> Result<Pooled<'static>, HttpError> {
        self.db.acquire(Purpose::Api).await.map_err(|error| self.http_error(&error))
    }

    /// What to tell of an error: its kind. What the server said may name anything, and goes to the log.
    pub fn http_error(&self, error: &Error) -> HttpError {
        let (database, kind) = (self.db.name(), error.kind());
        tracing::debug!(database, kind = kind.as_str(), error = %error, "a request met an error of the database");
        if kind == Kind::PoolTimeout {
            let detail = "every connection for callers is in use (database.pool_max_size)";
            return HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .retry_after(Duration::from_secs(1));
        }
        if kind == Kind::Sql {
            // A statement of ours that the server refuses: the tables are not as they should be.
            tracing::warn!(database, error = %error, "a request's statement was refused by the database");
            let detail = "the database refused the statement; the log says why";
            return HttpError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "refused_by_database",
                detail,
            );
        }
        let detail = format!("the database does not answer as it should: {}", kind.as_str());
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail)
            .with("reason", kind.as_str())
            .retry_after(AWAY_RETRY)
    }
}
