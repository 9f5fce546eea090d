//! The listener: probes, health and metrics, from memory; the API, which asks the databases; the dashboard.
//!
//! A request goes `server` (limits of the connection) → `dispatch` (limits of the request, route, headers, count) →
//! `gate` (who may) → a handler over [`State`]. Open routes and the current health are answered from memory: with the
//! server down, hung or locked they answer at once, and no number of requests costs it a query. What `api` asks a
//! database for goes over connections of its own, within bounds.
//!
//! # How it fails
//! A handler that panics is a 500 and its connection goes on. Too many connections: the newest is
//! closed at once, and counted. Out of file descriptors: accepting pauses, and goes on. A client
//! that is slow to ask, to send, or to read is cut off by a time-out each.

mod response;
mod api;
pub mod auth;
mod bind;
mod body;
mod cors;
mod api_database;
mod dispatch;
mod authenticator;
mod health;
mod index;
mod negotiation;
mod page;
mod probes;
mod query;
mod routes;
mod server;
mod statistics_cache;
mod write_timeout;
pub mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config;
use crate::health::{Board, Readiness};
use crate::lifecycle::Tasks;
use crate::telemetry::Metrics;

use auth::{Caller, Role};
use tls::Tls;

pub use api_database::{ApiDatabase, ApiDatabases};
pub use authenticator::{Authenticator, Rules};
pub use bind::{BindError, Owner, bind};
pub use body::{Body, BodyAborted, ChunkStream};
pub use query::Query;
pub use response::{HttpError, Response};
pub use routes::routes;
pub use server::serve;

/// What the answers are read from.
#[derive(Debug)]
pub struct State {
    /// The current truth of each database, by target.
    pub boards: BTreeMap<String, Arc<Board>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    pub authenticator: Arc<Authenticator>,
    /// The databases themselves, once there are any to ask.
    pub databases: Arc<ApiDatabases>,
    pub tasks: Tasks,
    /// Changes under way, whether their clients are still there or not.
    pub mutation_slots: Arc<Semaphore>,
}

/// So many changes are under way at a time.
pub const MUTATIONS_MAX: usize = 32;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the listener: states and reason codes, nothing about the inside.
    Open,
    /// The same, and details for who may read them.
    OptionalAuth,
    /// Anyone with valid credentials; what is told goes by who they are.
    AnyRole,
    /// Who may read details.
    Viewer,
    /// Who may also have maintenance done.
    Operator,
    /// Who may do anything.
    Admin,
    /// Who may write events into the audit trail.
    Events,
}

impl Access {
    /// Whether a role is enough.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Access::Open | Access::OptionalAuth | Access::AnyRole => true,
            Access::Viewer => matches!(role, Role::Viewer | Role::Operator | Role::Admin),
            Access::Operator => matches!(role, Role::Operator | Role::Admin),
            Access::Admin => role == Role::Admin,
            Access::Events => matches!(role, Role::Service | Role::Admin),
        }
    }

    /// The least role that is enough, as it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Open | Access::OptionalAuth => "none",
            Access::AnyRole => "any",
            Access::Viewer => "viewer",
            Access::Operator => "operator",
            Access::Admin => "admin",
            Access::Events => "service",
        }
    }
}

/// One line of the table of routes.
#[derive(Debug, Clone)]
pub struct Route {
    /// A GET answers HEAD too.
    pub method: Method,
    /// Segments are literal, or a name in braces, which stands for any one. Also the label in metrics.
    pub path: &'static str,
    pub access: Access,
    /// How large a body may be.
    pub body: BodyLimit,
    /// One line for the index.
    pub about: &'static str,
    pub handler: Handler,
}

/// How large the body of a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimit {
    /// `http.body_limit`
    Usual,
    /// [`BATCH_MAX_BYTES`], and [`BATCHES_MAX`] of them at a time.
    Batch,
}

/// The body of a batch of events.
pub const BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;
/// So many of them are read and written at a time.
pub const BATCHES_MAX: usize = 2;

/// Answers one request. May be dropped at any await when the request's time is over.
pub type Handler =
    for<'a> fn(
        &'a Context<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Response, HttpError>> + Send + 'a>>;

/// A request, taken apart.
#[derive(Debug)]
pub struct Context<'a> {
    pub state: &'a Arc<State>,
    /// The table that the request was found in.
    pub routes: &'a [Route],
    pub head: &'a hyper::http::request::Parts,
    /// The segment that stands for the one in braces, decoded.
    pub segment: Option<String>,
    pub query: Query,
    pub body: Bytes,
    /// Always there on routes that want credentials.
    pub caller: Option<Caller>,
    pub request_id: &'a str,
    pub from: IpAddr,
    /// The place of a large body, for as long as it is worked on.
    pub batch_permit: Option<Arc<OwnedSemaphorePermit>>,
    /// By when there is to be an answer.
    pub deadline: Instant,
}

impl Context<'_> {
    /// What is left of the request's time.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// A table of routes over a state, with limits.
#[derive(Debug)]
pub struct App {
    state: Arc<State>,
    batches: Arc<Semaphore>,
    limits: config::Http,
    routes: Vec<Route>,
    drain: Duration,
    tls: Option<Arc<Tls>>,
}

impl App {
    /// The daemon's own routes.
    pub fn new(state: State, limits: &config::Http) -> App {
        App::with_routes(state, limits, routes())
    }

    /// Any table of routes; the first that matches wins.
    pub fn with_routes(state: State, limits: &config::Http, routes: Vec<Route>) -> App {
        let batches = Arc::new(Semaphore::new(BATCHES_MAX));
        App {
            state: Arc::new(state),
            batches,
            limits: limits.clone(),
            routes,
            drain: Duration::from_secs(10),
            tls: None,
        }
    }

    /// HTTPS instead of HTTP, where there is a certificate.
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> App {
        App { tls, ..self }
    }

    /// How long requests in flight may go on once the listener is told to stop. Default 10 s.
    pub fn drain_timeout(self, drain: Duration) -> App {
        App { drain, ..self }
    }
}
