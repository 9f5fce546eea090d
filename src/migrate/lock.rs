//! One migrator at a time.
//!
//! The lock is `pg_try_advisory_xact_lock` in a transaction of its own on a connection of its own,
//! sent by the simple protocol and polled. An open transaction keeps its server connection behind a
//! transaction pooler; a simple query leaves no portal, hence no snapshot, so that CREATE INDEX
//! CONCURRENTLY of another session never waits for us; the lock ends with the client.

use std::time::{Duration, Instant};

use crate::db::{Database, Error, Kind, Pooled, Purpose};
use crate::observe;

/// "pgstewar" as a big-endian integer: the same for every version of pgsteward.
const KEY: i64 = i64::from_be_bytes(*b"pgstewar");
/// After this the log says who holds the lock.
const NAME_HOLDER_AFTER: Duration = Duration::from_secs(2);
const POLL_FIRST: Duration = Duration::from_millis(50);
const POLL_CAP: Duration = Duration::from_secs(1);

/// Held until dropped; the connection is closed then, not reused.
pub struct Lock {
    conn: Pooled<'static>,
}

impl Lock {
    /// Waits for the lock, at most `bound`.
    pub async fn acquire(db: &Database, bound: Duration) -> Result<Lock, Error> {
        let conn = db.acquire(Purpose::Migrate).await?;
        let begun = Instant::now();
        let mut poll = POLL_FIRST;
        let mut named = false;
        loop {
            if try_lock(&conn).await? {
                return Ok(Lock { conn });
            }
            if begun.elapsed() >= bound {
                let holder = holder(&conn).await;
                return Err(Error::new(
                    Kind::LockTimeout,
                    format!(
                        "waited {:.1} s (migrations.lock_budget) for another migrator ({holder}); try again when it \
                         is done",
                        begun.elapsed().as_secs_f64()
                    ),
                ));
            }
            if !named && begun.elapsed() >= NAME_HOLDER_AFTER {
                named = true;
                let holder = holder(&conn).await;
                tracing::info!(database = db.name(), holder, "waiting for another migrator");
            }
            tokio::time::sleep(poll).await;
            poll = (poll * 2).min(POLL_CAP);
        }
    }

    /// Whether the connection that holds the lock is still open. Checked before each file: the
    /// history's primary key fences the rest.
    pub fn is_held(&self) -> bool {
        !self.conn.is_closed()
    }

    /// Gives the lock back at once, instead of when the server notices the closed connection.
    pub async fn release(self) {
        if let Err(error) = self.conn.batch("release the migration lock", "ROLLBACK").await {
            tracing::debug!(error = %error, "the lock ends with its connection");
        }
    }
}

async fn try_lock(conn: &Pooled<'static>) -> Result<bool, Error> {
    // A host that vanishes would keep the lock for the two hours of the system's keepalive; over a
    // Unix socket these settings do nothing. The isolation is said, since under a default of REPEATABLE READ the snapshot would stay; the
    // bound on whole transactions came with PostgreSQL 17.
    let sql = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = '10s'; \
         SET LOCAL tcp_keepalives_idle = 15; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 3; \
         SELECT pg_catalog.set_config('transaction_timeout', '0', true) \
          WHERE pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL; \
         SELECT pg_catalog.pg_try_advisory_xact_lock({KEY})"
    );
    let values = conn.batch_values("take the migration lock", &sql).await?;
    if values.last().and_then(Option::as_deref) == Some("t") {
        return Ok(true);
    }
    conn.batch("roll back", "ROLLBACK").await?;
    Ok(false)
}

async fn holder(conn: &Pooled<'static>) -> String {
    match observe::sessions::advisory_lock_holder(conn, KEY).await {
        Ok(Some(holder)) => holder,
        Ok(None) => "its session is not visible to this role".to_owned(),
        Err(error) => format!("its session could not be looked up: {error}"),
    }
}
