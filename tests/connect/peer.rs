//! Why the pools have a connection manager of their own: bb8-postgres returns connections with an
//! open transaction to the pool, and the next borrower continues it.

use std::sync::Arc;

use bb8_postgres::PostgresConnectionManager;
use pgsteward::db::{Database, Purpose};
use pgsteward::lifecycle::Tasks;
use pgsteward::telemetry::Metrics;
use tokio_postgres::NoTls;

use crate::config;
use crate::server::shared;

const LEFT_OPEN: &str = "BEGIN; SET LOCAL application_name = 'left open'";

#[tokio::test]
async fn bb8_postgres_hands_an_open_transaction_on() {
    let parameters = shared().tcp("worker").parse().unwrap();
    let manager = PostgresConnectionManager::new(parameters, NoTls);
    let pool = bb8::Pool::builder().max_size(1).build(manager).await.unwrap();
    pool.get().await.unwrap().batch_execute(LEFT_OPEN).await.unwrap();
    let next = pool.get().await.unwrap();
    let name: String = next.query_one("SHOW application_name", &[]).await.unwrap().get(0);
    assert_eq!(name, "left open");
}

#[tokio::test]
async fn our_pool_closes_the_connection_instead() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let db = Database::new("main", &config(&shared().tcp("worker")), 2, &Tasks::new(), &metrics);
    let first = db.acquire(Purpose::Control).await.unwrap();
    let sql = "SELECT pg_backend_pid()";
    let pid: i32 = first.row("read the pid", sql, &[]).await.unwrap().get(0);
    first.batch("leave a transaction open", LEFT_OPEN).await.unwrap();
    drop(first);
    let next = db.acquire(Purpose::Control).await.unwrap();
    let other: i32 = next.row("read the pid", sql, &[]).await.unwrap().get(0);
    assert_ne!(other, pid);
    let name: String =
        next.row("read the name", "SHOW application_name", &[]).await.unwrap().get(0);
    assert_ne!(name, "left open");
}
