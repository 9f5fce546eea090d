//! Transactions that roll back by themselves.
//!
//! ```text
//! conn.transaction(&options, |tx| Box::pin(async move { tx.execute(…).await })).await
//!   BEGIN; SET LOCAL …        one round trip
//!   the closure               Err: ROLLBACK, the error is returned
//!                             panic or drop: the connection is not given back but closed, and the
//!                             server rolls back when it sees that
//!   SELECT 1; COMMIT          one round trip; in a failed transaction the SELECT makes it an error,
//!                             where a bare COMMIT would roll back and report success
//! ```
//! A serialization failure or a deadlock runs the closure again, at most `attempts` times.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use super::conn::Conn;
use super::error::Error;
use super::retry::Backoff;

/// See [`TxOptions::idle_timeout`].
const IDLE_LEAST: Duration = Duration::from_secs(5);
const IDLE_MOST: Duration = Duration::from_secs(30);

/// How a transaction runs.
#[derive(Debug, Clone)]
pub struct TxOptions {
    /// For each statement, on the server. Every transaction has one.
    pub statement_timeout: Duration,
    /// For each lock. Default 5 s.
    pub lock_timeout: Duration,
    /// The session is ended when it idles inside the transaction for longer: then this process is frozen
    /// or cut off, and others wait for what the transaction has locked. Default as long as a statement,
    /// within 5 s and 30 s.
    pub idle_timeout: Duration,
    /// Refuses writes.
    pub read_only: bool,
    /// How often the closure may run when it meets a conflict. Default 3.
    pub attempts: u32,
    /// More statements for the opening batch, each ended by `;`. No input of a user's.
    pub prelude: String,
}

impl TxOptions {
    /// The defaults, with this bound for each statement.
    pub fn within(statement_timeout: Duration) -> TxOptions {
        TxOptions {
            statement_timeout,
            lock_timeout: Duration::from_secs(5),
            idle_timeout: statement_timeout.clamp(IDLE_LEAST, IDLE_MOST),
            read_only: false,
            attempts: 3,
            prelude: String::new(),
        }
    }

    /// The same, refusing writes.
    pub fn read_only(mut self) -> TxOptions {
        self.read_only = true;
        self
    }

    /// The same, where each statement sees what was committed before it, whatever isolation level
    /// the database has by default.
    pub fn read_committed(mut self) -> TxOptions {
        self.prelude.push_str("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ");
        self
    }

    /// The same, with this bound for each lock.
    pub fn lock_timeout(mut self, lock_timeout: Duration) -> TxOptions {
        self.lock_timeout = lock_timeout;
        self
    }

    /// `BEGIN` and the settings, as one batch. `search_path` is pinned, so that no object of a
    /// user's schema can stand in for a system one.
    fn begin(&self) -> String {
        format!(
            "BEGIN{}; \
             SET LOCAL search_path = pg_catalog, pg_temp; \
             SET LOCAL statement_timeout = {}; \
             SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = {}; {}",
            if self.read_only { " READ ONLY" } else { "" },
            millis(self.statement_timeout),
            millis(self.lock_timeout),
            millis(self.idle_timeout),
            self.prelude,
        )
    }
}

/// A time-out as PostgreSQL wants it: whole milliseconds, at least 1 (0 would mean none).
fn millis(bound: Duration) -> u128 {
    bound.as_millis().clamp(1, i32::MAX as u128)
}

/// An open transaction. Statements go through the connection it derefs to.
#[derive(Debug)]
pub struct Tx<'a> {
    conn: &'a Conn,
}

impl Deref for Tx<'_> {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        self.conn
    }
}

/// What the closure of a transaction returns: `|tx| Box::pin(async move { … })`.
///
/// A boxed future, since a generic one could not be proven `Send` inside a spawned task.
pub type TxFuture<'t, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 't>>;

impl Conn {
    /// Runs `work` in a transaction; see the module. Values that `work` uses must be borrowed before
    /// (`let name = &name;`), since it may run more than once.
    pub async fn transaction<'c, T, F>(
        &'c mut self,
        options: &TxOptions,
        mut work: F,
    ) -> Result<T, Error>
    where
        F: for<'t> FnMut(&'t Tx<'c>) -> TxFuture<'t, T>,
    {
        let conn: &'c Conn = self;
        let mut backoff = Backoff::conflict();
        let mut attempt = 1;
        loop {
            match conn.attempt(options, &mut work).await {
                Err(error) if error.kind().is_conflict() && attempt < options.attempts => {
                    tracing::debug!(attempt, error = %error, "transaction conflicted; running it again");
                    tokio::time::sleep(backoff.next_delay()).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt<'c, T, F>(&'c self, options: &TxOptions, work: &mut F) -> Result<T, Error>
    where
        F: for<'t> FnMut(&'t Tx<'c>) -> TxFuture<'t, T>,
    {
        if let Err(error) = self.batch("begin", &options.begin()).await {
            // The batch may have failed after its BEGIN.
            self.roll_back().await;
            return Err(error);
        }
        let value = match work(&Tx { conn: self }).await {
            Ok(value) => value,
            Err(error) => {
                self.roll_back().await;
                return Err(error);
            }
        };
        match self.batch("commit", "SELECT 1; COMMIT").await {
            Ok(()) => Ok(value),
            Err(error) => {
                self.roll_back().await;
                Err(error)
            }
        }
    }

    /// Best effort: where it fails the connection is broken, and the pool drops it.
    async fn roll_back(&self) {
        if let Err(error) = self.batch("roll back", "ROLLBACK").await {
            tracing::debug!(error = %error, "roll back failed; the server does it when the connection ends");
        }
    }
}
