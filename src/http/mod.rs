//! The listener: probes, health and metrics, from memory.
//!
//! A request goes `server` (limits of the connection) → `dispatch` (limits of the request, route,
//! access, headers, count) → a handler over [`State`]. No handler asks a database for what the
//! routes here answer: with the server down, hung or locked they answer at once, and no number of
//! requests costs it a query.
//!
//! # How it fails
//! A handler that panics is a 500 and its connection goes on. Too many connections: the newest is
//! closed at once, and counted. Out of file descriptors: accepting pauses, and goes on. A client
//! that is slow to ask, to send, or to read is cut off by a time-out each.

mod answer;
pub mod auth;
mod bind;
mod dispatch;
mod health;
mod index;
mod probes;
mod query;
mod routes;
mod server;
mod stall;
pub mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;

use crate::config;
use crate::health::{Board, Readiness};
use crate::telemetry::Metrics;

pub use answer::{Answer, Refusal};
pub use bind::{BindError, Owner, bind};
pub use query::Query;
pub use routes::routes;
pub use server::serve;

/// What the answers are read from.
#[derive(Debug)]
pub struct State {
    /// The current truth of each database, by target.
    pub boards: BTreeMap<String, Arc<Board>>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the listener: states and reason codes, nothing about the inside.
    Open,
    /// Who may read details. Nobody, as long as no credentials can be configured.
    Viewer,
}

/// One line of the table of routes.
#[derive(Debug, Clone)]
pub struct Route {
    /// A GET answers HEAD too.
    pub method: Method,
    /// Segments are literal, or `{check}`, which stands for any one. Also the label in metrics.
    pub path: &'static str,
    pub access: Access,
    /// One line for the index.
    pub about: &'static str,
    pub handler: Handler,
}

/// Answers one request. May be dropped at any await when the request's time is over.
pub type Handler = for<'a> fn(&'a Context<'a>) -> Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send + 'a>>;

/// A request, taken apart.
#[derive(Debug)]
pub struct Context<'a> {
    pub state: &'a State,
    /// The table that the request was found in.
    pub routes: &'a [Route],
    pub head: &'a hyper::http::request::Parts,
    /// The segment that stands for `{check}`, decoded.
    pub check: Option<String>,
    pub query: Query,
    /// At most `http.body_limit`.
    pub body: Bytes,
}

/// A table of routes over a state, with limits.
#[derive(Debug)]
pub struct App {
    state: State,
    limits: config::Http,
    routes: Vec<Route>,
    drain: Duration,
}

impl App {
    /// The daemon's own routes.
    pub fn new(state: State, limits: &config::Http) -> App {
        App::with_routes(state, limits, routes())
    }

    /// Any table of routes; the first that matches wins.
    pub fn with_routes(state: State, limits: &config::Http, routes: Vec<Route>) -> App {
        App { state, limits: limits.clone(), routes, drain: Duration::from_secs(10) }
    }

    /// How long requests in flight may go on once the listener is told to stop. Default 10 s.
    pub fn drain_within(self, drain: Duration) -> App {
        App { drain, ..self }
    }
}
