//! A plain connection for a test to look with.

use std::ops::{Deref, DerefMut};

use tokio::task::AbortHandle;
use tokio_postgres::{Client, NoTls};

use super::BOUND;

/// A tokio-postgres client that takes its connection task along when dropped.
pub struct TestClient {
    client: Client,
    connection: AbortHandle,
}

/// Connects without TLS.
pub async fn connect(url: &str) -> Result<TestClient, tokio_postgres::Error> {
    let connecting = tokio::time::timeout(BOUND, tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.expect("connecting took too long")?;
    let task = tokio::spawn(async move {
        // The client's next call reports how it ended.
        let _ = connection.await;
    });
    Ok(TestClient { client, connection: task.abort_handle() })
}

impl TestClient {
    /// The single value of a query's single row, as text.
    pub async fn text(&self, sql: &str) -> String {
        let messages =
            self.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        row.unwrap_or_else(|| panic!("no row: {sql}")).get(0).unwrap_or("NULL").to_owned()
    }

    /// The same, as a number.
    pub async fn number(&self, sql: &str) -> i64 {
        let text = self.text(sql).await;
        text.parse().unwrap_or_else(|_| panic!("no whole number: {text:?}: {sql}"))
    }
}

impl Deref for TestClient {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for TestClient {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for TestClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
