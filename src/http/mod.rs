//! The HTTP listener: probes, current health and metrics from memory, the API, and the dashboard.
//!
//! A request passes `server` (limits of the connection), `dispatch` (limits of the request, lookup
//! of the route, headers, metrics), `authenticator`, and a handler over [`State`]. Public routes and
//! the current health respond from memory: they work while the server is down, hangs or is locked,
//! and cost it no query. The API queries databases on connections of its own, with timeouts.
//!
//! # Failure
//! A handler that panics responds 500, and its connection stays open. If too many connections are
//! open, a new one is closed and counted. Without file descriptors, accepting pauses and continues.
//! Timeouts limit how long a client takes to send a request and to read a response.

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

/// The state that handlers read.
#[derive(Debug)]
pub struct State {
    /// The current health of each database, by name.
    pub boards: BTreeMap<String, Arc<Board>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    pub authenticator: Arc<Authenticator>,
    /// The databases, after they are opened.
    pub databases: Arc<ApiDatabases>,
    pub tasks: Tasks,
    /// Limits mutations that run at a time. A mutation continues after its client disconnects.
    pub mutation_slots: Arc<Semaphore>,
}

/// Mutations at a time.
pub const MUTATIONS_MAX: usize = 32;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every client. The response has states and reason codes only.
    Open,
    /// Every client. Viewers get details, too.
    OptionalAuth,
    /// Every role. The response depends on the caller.
    AnyRole,
    /// Roles that may read details.
    Viewer,
    /// Roles that may also run maintenance.
    Operator,
    /// Admins.
    Admin,
    /// Roles that may record events in the audit log.
    Events,
}

impl Access {
    /// Whether the role has access.
    pub fn allows(self, role: Role) -> bool {
        match self {
            Access::Open | Access::OptionalAuth | Access::AnyRole => true,
            Access::Viewer => matches!(role, Role::Viewer | Role::Operator | Role::Admin),
            Access::Operator => matches!(role, Role::Operator | Role::Admin),
            Access::Admin => role == Role::Admin,
            Access::Events => matches!(role, Role::Service | Role::Admin),
        }
    }

    /// Returns the least role with access, by its name in the configuration.
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

/// A row of the table of routes.
#[derive(Debug, Clone)]
pub struct Route {
    /// GET also serves HEAD.
    pub method: Method,
    /// The path, and the label in metrics. A segment in braces matches any segment.
    pub path: &'static str,
    pub access: Access,
    pub body: BodyLimit,
    /// The line in the list of endpoints.
    pub about: &'static str,
    pub handler: Handler,
}

/// The limit of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLimit {
    /// `http.body_limit`
    Usual,
    /// [`BATCH_MAX_BYTES`], and [`BATCHES_MAX`] of them at a time.
    Batch,
}

/// Bytes of a batch of events.
pub const BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Batches that are read and written at a time.
pub const BATCHES_MAX: usize = 2;

/// Handles a request. It is dropped at an await point when the request times out.
pub type Handler =
    for<'a> fn(
        &'a Context<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<Response, HttpError>> + Send + 'a>>;

/// A parsed request.
#[derive(Debug)]
pub struct Context<'a> {
    pub state: &'a Arc<State>,
    /// The table of routes, for the list of endpoints.
    pub routes: &'a [Route],
    pub head: &'a hyper::http::request::Parts,
    /// The segment at the place of the one in braces, decoded.
    pub segment: Option<String>,
    pub query: Query,
    pub body: Bytes,
    /// `Some` on routes that require credentials.
    pub caller: Option<Caller>,
    pub request_id: &'a str,
    pub from: IpAddr,
    /// Held while a large body is in memory.
    pub batch_permit: Option<Arc<OwnedSemaphorePermit>>,
    /// When the request times out.
    pub deadline: Instant,
}

impl Context<'_> {
    /// Returns the time until the request times out.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// The routes with their state and limits.
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
    /// Creates an app with the routes of the daemon.
    pub fn new(state: State, limits: &config::Http) -> App {
        App::with_routes(state, limits, routes())
    }

    /// Creates an app with other routes. The first match wins.
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

    /// Serves HTTPS instead of HTTP, if there is a certificate.
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> App {
        App { tls, ..self }
    }

    /// Sets how long requests may continue after the listener stops. Default: 10 s.
    pub fn drain_timeout(self, drain: Duration) -> App {
        App { drain, ..self }
    }
}
