//! What stands between us and the server, found by behaviour.
//!
//! A pooler announces a process id of its own at login, which is not that of the process that answers.
//! Whether it pools sessions or transactions shows only with two connections A and B: A reads its
//! process id; B begins a transaction and reads its own; A reads again. Two clients on one process, or
//! one client on two, are possible in transaction mode only.
//!
//! The answer is remembered for as long as the program runs: a pooler that changes its mode under us
//! needs a restart, or `pooler = "transaction"`.

use std::time::Duration;

use tokio_postgres::{Client, SimpleQueryMessage};

use super::error::{Error, Kind};

/// For the whole test: a pool of one connection would wait for ever.
pub(super) const DETECT_BOUND: Duration = Duration::from_secs(2);

/// In transaction mode under load, B may draw other processes than A had; each round is a new chance.
const ROUNDS: usize = 8;

/// What stands between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    Nothing,
    /// A session is ours until we leave.
    SessionPooler,
    /// A session is ours for one transaction.
    TransactionPooler,
}

impl Between {
    /// The label used in logs and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Between::Nothing => "none",
            Between::SessionPooler => "session_pooler",
            Between::TransactionPooler => "transaction_pooler",
        }
    }

    /// Whether a SET outlives its transaction for us alone.
    pub fn has_session_state(self) -> bool {
        self != Between::TransactionPooler
    }
}

/// Tells the two kinds of pooler apart. `first` is the process that answered `a` before.
pub(super) async fn detect(a: &Client, first: i32, b: &Client) -> Result<Between, Error> {
    for _ in 0..ROUNDS {
        let other = pid(b, "BEGIN; SELECT pg_catalog.pg_backend_pid()").await?;
        // In a pool of one, A would wait for B: not asked where B's answer decides.
        let shared = other == first || pid(a, "SELECT pg_catalog.pg_backend_pid()").await? != first;
        b.batch_execute("ROLLBACK")
            .await
            .map_err(|error| Error::from_pg("look for a pooler", error))?;
        // A pooler that lends what came back last gives B the same process in each round; after B has
        // let it go, A draws it.
        if shared || pid(a, "SELECT pg_catalog.pg_backend_pid()").await? != first {
            return Ok(Between::TransactionPooler);
        }
    }
    Ok(Between::SessionPooler)
}

async fn pid(client: &Client, sql: &str) -> Result<i32, Error> {
    let answer = client
        .simple_query(sql)
        .await
        .map_err(|error| Error::from_pg("look for a pooler", error))?;
    answer
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        })
        .ok_or_else(|| Error::new(Kind::Protocol, "the server did not say which process it is"))
}
