//! SQL that somebody else wrote, and the session after it.
//!
//! What it sets, prepares, locks or listens to lives as long as the session, which is another's after
//! it. So a connection counts as soiled from before such SQL is sent ([`Conn::soil`]) until
//! [`Conn::clean`] has put everything back, and one that is still soiled is closed, not lent again.
//!
//! Behind a transaction pooler the session is a stranger's as soon as a transaction ends: there it is
//! put back inside ([`Conn::forget_inside`]), or with the `ROLLBACK` ([`Conn::forget_rolled_back`]).

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_postgres::SimpleQueryMessage;

use super::conn::Conn;
use super::error::{Error, Kind};
use super::login;

/// For putting a session back.
const CLEAN_BOUND: Duration = Duration::from_secs(5);

/// What of DISCARD ALL (which cannot stand beside other statements) takes nothing from a pooler that
/// keeps prepared statements in the session. RESET ALL leaves the roles.
const FORGET: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SET LOCAL search_path = pg_catalog, pg_temp; \
     CLOSE ALL; UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES; DISCARD PLANS";

/// Frees what was prepared by SQL: a pooler prepares by protocol messages.
const DEALLOCATE: &str = "DO $pgsteward$ DECLARE name text; BEGIN \
     FOR name IN SELECT s.name FROM pg_prepared_statement() AS s WHERE s.from_sql LOOP \
     EXECUTE format('DEALLOCATE %I', name); END LOOP; END $pgsteward$";

/// What a script did, or had done before it failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Statements that completed.
    pub statements: usize,
    /// Rows that they inserted, updated, deleted, merged or copied, by their tags. Rows that a SELECT
    /// returns are not affected by it.
    pub rows: u64,
    /// Whether one of them was a COMMIT: what came before it stays, whatever follows.
    pub committed: bool,
}

impl Conn {
    /// Sends a script as one simple query and counts what completed, also when a statement failed:
    /// run-time errors carry no position, and the count is what finds the statement. Rows that it
    /// returns are dropped one by one.
    pub async fn script(&self, what: &'static str, sql: &str) -> Result<Done, (Done, Error)> {
        let mut done = Done::default();
        let wire = &self.link.wire;
        wire.keep_tags(true);
        let run = async {
            let mut stream = std::pin::pin!(self.link.client.simple_query_raw(sql).await?);
            while let Some(message) = stream.next().await {
                if let SimpleQueryMessage::CommandComplete(rows) = message? {
                    done.statements += 1;
                    match wire.next_tag() {
                        Some(tag) if affects(&tag) => done.rows = done.rows.saturating_add(rows),
                        Some([b'C', b'O', b'M', b'M']) => done.committed = true,
                        _ => {}
                    }
                }
            }
            Ok(())
        };
        let outcome = self.measured(what, run).await;
        wire.keep_tags(false);
        outcome.map(|()| done).map_err(|error| (done, error))
    }

    /// From here on the session may hold what is not ours: the connection is closed after its use unless
    /// [`Conn::clean`] comes before.
    pub fn soil(&self) {
        self.soiled.store(true, Ordering::Release);
    }

    /// Puts the session back as the login made it, outside a transaction; one round trip. Behind a
    /// transaction pooler there is nothing to put back any more.
    ///
    /// # Errors
    /// The connection is then closed instead of being lent again.
    pub async fn clean(&self) -> Result<(), Error> {
        if self.has_session_state() {
            let settings = login::settings(self.server.statement_timeout_ms(), "");
            let sql = format!("{FORGET}; DEALLOCATE ALL; {settings}");
            let cleaning = self.batch("put the session back", &sql);
            match tokio::time::timeout(CLEAN_BOUND, cleaning).await {
                Ok(cleaned) => cleaned?,
                Err(_) => {
                    return Err(Error::new(
                        Kind::Timeout,
                        "putting the session back took too long",
                    ));
                }
            }
        }
        self.soiled.store(false, Ordering::Release);
        Ok(())
    }

    /// What to send before the end of a transaction that held a script, so that a stranger who gets the
    /// session next finds nothing of it; begins with `;`. Empty where the session is ours.
    pub fn forget_inside(&self) -> String {
        if self.has_session_state() { String::new() } else { format!("; {FORGET}; {DEALLOCATE}") }
    }

    /// Rolls back, and in the same message forgets what a rollback leaves: locks, prepared statements,
    /// sequences. For behind a transaction pooler, where the next message may go elsewhere.
    pub async fn forget_rolled_back(&self) {
        let sql = format!("ROLLBACK{}", self.forget_inside());
        if let Err(error) = self.batch("roll back", &sql).await {
            tracing::debug!(error = %error, "roll back failed; the server does it when the connection ends");
        }
    }
}

/// By how a command tag begins.
fn affects(tag: &[u8; 4]) -> bool {
    [b"INSE", b"UPDA", b"DELE", b"MERG", b"COPY"].contains(&tag)
}
