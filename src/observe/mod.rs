//! What the server tells about itself, as plain data.
//!
//! One tick is one [`Snapshot`]: everything that is looked at travels as **one** simple query
//! (`BEGIN READ ONLY; SET LOCAL …; SELECT …; …; COMMIT`), so that a tick costs one round trip, holds
//! no session state (a transaction pooler may stand between) and is bounded on the server. A new
//! connection first asks what may be asked ([`Capabilities`]), which is a second round trip.
//!
//! Only catalogs and `pg_stat_get_*` functions are read; no relation of a user is opened, so no lock
//! that somebody holds on a table can keep a tick waiting. What could not be seen is part of the
//! answer ([`Unseen`]), with the reason and what mends it.
//!
//! A statement that this server refuses although it should know it (forks that answer "not
//! supported") fails the whole query; then each part is asked alone once, the refused one is left
//! out for as long as the capabilities hold, and the snapshot says so.

pub mod access;
mod capabilities;
mod catalog;
pub mod objects;
pub mod privileges;
pub mod sessions;
mod snapshot;
pub mod statistics;
pub mod tables;

use std::time::{Duration, Instant};

use crate::db::{Conn, Error, Kind};

pub use capabilities::Capabilities;
use catalog::Part;
pub use snapshot::{
    Archiver, Blocker, DatabaseAge, LockWait, OTHERS_SESSIONS, Partitioned, Prepared, Replica,
    Replication, Session, SessionCount, Sessions, Slot, Snapshot, Standby, Unseen,
};

/// How long capabilities are believed on one connection: a GRANT shows after this at the latest.
const CAPABILITIES_KEEP: Duration = Duration::from_secs(300);

/// A partitioned table whose future is watched, by schema and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub schema: String,
    pub table: String,
}

impl Watched {
    /// `schema.table`, as it is named in snapshots and labels.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

/// A snapshot, and how long the round trip that brought it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub snapshot: Snapshot,
    pub response: Duration,
}

/// Takes snapshots, and remembers between them what the connection can be asked.
#[derive(Debug, Default)]
pub struct Observer {
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    pid: i32,
    at: Instant,
    capabilities: Capabilities,
}

impl Observer {
    /// Nothing known yet.
    pub fn new() -> Observer {
        Observer::default()
    }

    /// Takes one snapshot. `statement_timeout` bounds each statement on the server; the caller
    /// bounds the whole.
    ///
    /// # Errors
    /// The connection's or the server's, when the facts without which there is no snapshot could not
    /// be read; the connection is then left outside any transaction, or broken.
    pub async fn observe(
        &mut self,
        conn: &Conn,
        watched: &[Watched],
        statement_timeout: Duration,
    ) -> Result<Observation, Error> {
        let capabilities = self.capabilities(conn, statement_timeout).await?;
        let parts = capabilities.parts();
        let started = Instant::now();
        let read = ask(conn, &parts, watched, statement_timeout).await;
        let response = started.elapsed();
        let answers = match read {
            Ok(answers) => answers,
            Err(error) if refused(error.kind()) => {
                ask_each(conn, &parts, watched, statement_timeout, capabilities).await?
            }
            Err(error) => return Err(error),
        };
        let snapshot = Snapshot::read(&answers, capabilities)?;
        Ok(Observation { snapshot, response })
    }

    async fn capabilities(
        &mut self,
        conn: &Conn,
        statement_timeout: Duration,
    ) -> Result<&mut Capabilities, Error> {
        let pid = conn.announced_pid();
        let known = match self.known.take() {
            Some(known) if known.pid == pid && known.at.elapsed() < CAPABILITIES_KEEP => known,
            _ => {
                let capabilities = Capabilities::read(conn, statement_timeout).await?;
                Known { pid, at: Instant::now(), capabilities }
            }
        };
        Ok(&mut self.known.insert(known).capabilities)
    }
}

/// Whether an error is about one statement, so that the others may still be answered.
fn refused(kind: Kind) -> bool {
    matches!(kind, Kind::Sql | Kind::Permission)
}

/// What a part answered: one JSON value as text, absent where SQL gave NULL.
type Answers = Vec<(Part, Option<String>)>;

/// Asks several parts in one round trip.
async fn ask(
    conn: &Conn,
    parts: &[Part],
    watched: &[Watched],
    statement_timeout: Duration,
) -> Result<Answers, Error> {
    let sql = catalog::batch(parts, watched, statement_timeout);
    match conn.batch_values("observe", &sql).await {
        Ok(values) if values.len() == parts.len() => {
            Ok(parts.iter().copied().zip(values).collect())
        }
        Ok(values) => Err(Error::new(
            Kind::Protocol,
            format!("observe: {} answers to {} questions", values.len(), parts.len()),
        )),
        Err(error) => {
            // The batch may have failed after its BEGIN. Where this fails too, the connection is
            // broken, and the pool drops it.
            if !error.kind().is_connection() {
                let _ = conn.batch("roll back", "ROLLBACK").await;
            }
            Err(error)
        }
    }
}

/// Asks each part alone, and leaves out from now on what the server refuses.
async fn ask_each(
    conn: &Conn,
    parts: &[Part],
    watched: &[Watched],
    statement_timeout: Duration,
    capabilities: &mut Capabilities,
) -> Result<Answers, Error> {
    let mut answers = Vec::with_capacity(parts.len());
    for part in parts {
        match ask(conn, &[*part], watched, statement_timeout).await {
            Ok(answer) => answers.extend(answer),
            Err(error) if refused(error.kind()) && !part.required() => {
                capabilities.leave_out(*part, &error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(answers)
}
