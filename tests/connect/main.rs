//! Reaching a server, against a real one: forms of address, refusals, TLS, several hosts, poolers,
//! cancels and transactions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod cancel;
#[path = "../harness/mod.rs"]
mod harness;
mod hosts;
mod peer;
mod pgbouncer;
mod refusals;
mod server;
mod tls;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use pgsteward::config::{Database, Pooler, Secret, SecretSource};
use pgsteward::db::{Conn, Error, Purpose, Route, Server};
use pgsteward::lifecycle::Tasks;
use pgsteward::telemetry::Metrics;

/// Settings with a short bound, so that silence is quick to show.
pub fn config(url: &str) -> Database {
    Database {
        url: Some(SecretSource::Inline(Secret::new(url))),
        direct_url: None,
        password: None,
        supabase: None,
        pooler: Pooler::Auto,
        pool_min_size: 0,
        pool_max_size: 2,
        query_timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(10),
    }
}

pub fn server_of(config: Database) -> Arc<Server> {
    Server::new("main", config, Tasks::new(), Arc::new(Metrics::new().unwrap()))
}

pub async fn try_connect(url: &str) -> Result<Conn, Error> {
    server_of(config(url)).connect(Purpose::Check, Route::Pooled).await
}

#[track_caller]
pub fn connect(url: &str) -> impl Future<Output = Conn> {
    let caller = std::panic::Location::caller();
    let url = url.to_owned();
    async move { try_connect(&url).await.unwrap_or_else(|error| panic!("{caller}: {url}: {error}")) }
}

/// The first column of the first row, as text.
pub async fn text(conn: &Conn, sql: &str) -> String {
    conn.row("test", &format!("SELECT ({sql})::text"), &[]).await.unwrap().get(0)
}

/// Waits for a state, not for a time.
pub async fn wait_until(what: &str, condition: impl AsyncFnMut() -> bool) {
    harness::wait_until(what, harness::BOUND, condition).await;
}
