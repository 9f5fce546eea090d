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

use super::api::statistics::Kept;
use super::auth::Caller;
use super::{Context, Refusal};
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
pub struct Desks(RwLock<Option<Arc<Open>>>);

#[derive(Debug)]
struct Open {
    config: watch::Receiver<Arc<Config>>,
    desks: BTreeMap<String, Arc<Desk>>,
    /// How many streams each caller has.
    streams: Mutex<BTreeMap<String, usize>>,
}

/// Answers that are made while they are sent, at a time: each asks the database again and again.
const STREAMS: usize = 16;
const STREAMS_EACH: usize = 4;

/// A place among them, given back when it is dropped.
#[derive(Debug)]
pub struct Stream {
    open: Arc<Open>,
    actor: String,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        match streams.get_mut(&self.actor) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(streams.remove(&self.actor)),
        }
    }
}

/// One database, as routes see it.
pub struct Desk {
    pub db: Arc<Database>,
    pub board: Arc<Board>,
    pub standing: Arc<RuntimeStatus>,
    pub commands: mpsc::Sender<PipelineCommand>,
    pub statistics: Kept,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Desk").field(&self.db.name()).finish()
    }
}

impl Desks {
    /// Opens them.
    pub fn open(
        &self,
        config: watch::Receiver<Arc<Config>>,
        desks: impl IntoIterator<Item = Desk>,
    ) {
        let desks =
            desks.into_iter().map(|desk| (desk.db.name().to_owned(), Arc::new(desk))).collect();
        let open = Open { config, desks, streams: Mutex::default() };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(open));
    }

    /// Closes them: their connections end with the last request that is under way.
    pub fn close(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The configuration as it is now.
    pub fn config(&self) -> Result<Arc<Config>, Refusal> {
        Ok(Arc::clone(&self.opened()?.config.borrow()))
    }

    /// The desk of `?target=`; the first one by name where there is none.
    pub fn of(&self, target: Option<&str>) -> Result<Arc<Desk>, Refusal> {
        let open = self.opened()?;
        let desks = &open.desks;
        let found = match target {
            Some(name) => desks.get(name),
            None => desks.values().next(),
        };
        found.cloned().ok_or_else(|| no_such_target(desks.keys().map(String::as_str)))
    }

    /// A place among the answers that are made while they are sent; of each caller a few at a time.
    pub fn stream(&self, caller: Option<&Caller>) -> Result<Stream, Refusal> {
        let open = self.opened()?;
        let actor = caller.map(|caller| caller.actor.clone()).unwrap_or_default();
        let mut streams = open.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let own = streams.get(&actor).copied().unwrap_or_default();
        if own >= STREAMS_EACH || streams.values().sum::<usize>() >= STREAMS {
            let detail =
                format!("{own} exports and followed runs of this caller are under way already");
            return Err(
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).later(AWAY_RETRY)
            );
        }
        streams.insert(actor.clone(), own + 1);
        drop(streams);
        Ok(Stream { open, actor })
    }

    fn opened(&self) -> Result<Arc<Open>, Refusal> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        open.ok_or_else(|| {
            let refusal = Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "starting",
                "pgsteward is starting or stopping",
            );
            refusal.later(Duration::from_secs(1))
        })
    }
}

impl Context<'_> {
    /// The database that the request is about.
    pub fn desk(&self) -> Result<Arc<Desk>, Refusal> {
        self.state.desks.of(self.query.first("target"))
    }
}

/// No database of this name.
pub fn no_such_target<'n>(known: impl Iterator<Item = &'n str>) -> Refusal {
    let known: Vec<&str> = known.collect();
    let detail = format!("no database of this name is kept here; there are: {}", known.join(", "));
    Refusal::new(StatusCode::NOT_FOUND, "no_such_target", detail)
}

impl Desk {
    /// Nothing is known of it yet.
    pub fn new(
        db: Arc<Database>,
        board: Arc<Board>,
        standing: Arc<RuntimeStatus>,
        commands: mpsc::Sender<PipelineCommand>,
    ) -> Desk {
        Desk { db, board, standing, commands, statistics: Kept::default() }
    }

    /// Bounds work on the database from here, too: a server that is frozen takes everything and bounds nothing.
    pub async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Refusal> {
        self.bounded(bound, work).await.map_err(|error| self.refusal(&error))
    }

    /// The same with the error as it is.
    pub async fn bounded<T>(
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
    pub fn patience(&self) -> Duration {
        self.db.query_timeout() + MARGIN
    }

    /// For what can be told from memory as well.
    pub fn impatience(&self) -> Duration {
        self.db.query_timeout().min(FROM_MEMORY_AFTER)
    }

    /// A connection on behalf of a caller.
    pub async fn conn(&self) -> Result<Pooled<'static>, Refusal> {
        self.db.acquire(Purpose::Api).await.map_err(|error| self.refusal(&error))
    }

    /// What to tell of an error: its kind. What the server said may name anything, and goes to the log.
    pub fn refusal(&self, error: &Error) -> Refusal {
        let (database, kind) = (self.db.name(), error.kind());
        tracing::debug!(database, kind = kind.as_str(), error = %error, "a request met an error of the database");
        if kind == Kind::PoolTimeout {
            let detail = "every connection for callers is in use (database.pool_max_size)";
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
                .later(Duration::from_secs(1));
        }
        if kind == Kind::Sql {
            // A statement of ours that the server refuses: the tables are not as they should be.
            tracing::warn!(database, error = %error, "a request's statement was refused by the database");
            let detail = "the database refused the statement; the log says why";
            return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "refused_by_database", detail);
        }
        let detail = format!("the database does not answer as it should: {}", kind.as_str());
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail)
            .with("reason", kind.as_str())
            .later(AWAY_RETRY)
    }
}
