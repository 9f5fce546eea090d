//! Reads the server's catalogs and statistics and returns them as plain data.
//!
//! One tick is one [`Snapshot`]. All of its parts travel as **one** simple query
//! (`BEGIN READ ONLY; SET LOCAL …; SELECT …; …; COMMIT`), so a tick costs one round trip, leaves
//! no session state (a transaction pooler may be in between) and is bounded on the server. A new
//! connection first reads its [`Capabilities`], which is a second round trip.
//!
//! Only catalogs and `pg_stat_get_*` functions are read. No user's relation is opened, so a lock
//! on a table cannot block a tick. What could not be read is part of the result
//! ([`Unavailable`]), with the reason and the remedy.
//!
//! If the server refuses a statement although its catalog has everything that the statement needs
//! (some forks answer "not supported"), the whole query fails. Then each part is sent alone once,
//! and a refused part is left out until the capabilities are read again.

/// Adds the qualified names to types with the fields `schema` and `table`.
macro_rules! qualified_names {
    ($($type:ident),*) => { $(
        impl $type {
            /// `schema.table`, for messages, labels and comparison with the configuration.
            pub fn name(&self) -> String {
                format!("{}.{}", self.schema, self.table)
            }

            /// `"schema"."table"`, quoted for SQL.
            pub fn quoted(&self) -> String {
                let quote = $crate::db::quote_ident;
                format!("{}.{}", quote(&self.schema), quote(&self.table))
            }
        }
    )* };
}

pub mod access;
mod capabilities;
mod catalog;
pub mod objects;
pub mod privileges;
pub mod sessions;
mod snapshot;
pub mod statistics;
pub mod tables;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::db::{Conn, Error, Kind};

use capabilities::Capabilities;
use catalog::Part;
pub use snapshot::{
    Archiver, Blocker, DatabaseAge, LockWait, OTHERS_SESSIONS, Partitioned, Prepared, Replica,
    Replication, Session, SessionCount, Sessions, Slot, Snapshot, Standby, Unavailable,
};

/// How long the capabilities of a connection are cached: a GRANT takes effect after this time at
/// the latest.
const CAPABILITIES_TTL: Duration = Duration::from_secs(300);

/// A partitioned table whose future partitions are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedTable {
    pub schema: String,
    pub table: String,
}

qualified_names!(WatchedTable);

/// A snapshot and the duration of its round trip.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub snapshot: Snapshot,
    pub response: Duration,
}

/// Takes snapshots and caches the capabilities of the connection between them.
#[derive(Debug, Default)]
pub struct Collector {
    cached: Option<CachedCapabilities>,
}

#[derive(Debug)]
struct CachedCapabilities {
    pid: i32,
    read_at: Instant,
    capabilities: Capabilities,
}

impl Collector {
    /// Takes one snapshot. `statement_timeout` bounds each statement on the server; the caller
    /// bounds the whole call.
    ///
    /// # Errors
    /// Returns the connection's or the server's error if a required part could not be read. The
    /// connection is then outside any transaction, or broken.
    pub async fn collect(
        &mut self,
        conn: &Conn,
        watched: &[WatchedTable],
        statement_timeout: Duration,
    ) -> Result<Observation, Error> {
        let capabilities = self.capabilities(conn, statement_timeout).await?;
        let parts: Vec<&Part> = capabilities.parts().collect();
        let started = Instant::now();
        let read = read_parts(conn, &parts, watched, statement_timeout).await;
        let response = started.elapsed();
        let results = match read {
            Err(error) if is_refusal(error.kind()) => {
                read_each(conn, &parts, watched, statement_timeout, capabilities).await?
            }
            read => read?,
        };
        let snapshot = Snapshot::parse(&results, capabilities)?;
        Ok(Observation { snapshot, response })
    }

    async fn capabilities(
        &mut self,
        conn: &Conn,
        statement_timeout: Duration,
    ) -> Result<&mut Capabilities, Error> {
        let pid = conn.announced_pid();
        let cached = match self.cached.take() {
            Some(cached) if cached.pid == pid && cached.read_at.elapsed() < CAPABILITIES_TTL => {
                cached
            }
            _ => {
                let capabilities = Capabilities::read(conn, statement_timeout).await?;
                CachedCapabilities { pid, read_at: Instant::now(), capabilities }
            }
        };
        Ok(&mut self.cached.insert(cached).capabilities)
    }
}

/// Returns whether an error concerns one statement only, so that other parts may still be read.
fn is_refusal(kind: Kind) -> bool {
    matches!(kind, Kind::Sql | Kind::Permission)
}

/// The JSON of each part by [`Part::name`]. A part is absent if its SELECT returned NULL.
type PartResults = HashMap<&'static str, String>;

/// Reads several parts in one round trip.
async fn read_parts(
    conn: &Conn,
    parts: &[&Part],
    watched: &[WatchedTable],
    statement_timeout: Duration,
) -> Result<PartResults, Error> {
    let statements = parts.iter().map(|part| part.sql(watched));
    let values = read_values(conn, "observe", statements, statement_timeout).await?;
    let named = parts.iter().zip(values).filter_map(|(part, json)| Some((part.name, json?)));
    Ok(named.collect())
}

/// Reads each part in a round trip of its own, and leaves out refused parts from now on.
async fn read_each(
    conn: &Conn,
    parts: &[&Part],
    watched: &[WatchedTable],
    statement_timeout: Duration,
    capabilities: &mut Capabilities,
) -> Result<PartResults, Error> {
    let mut results = PartResults::new();
    for part in parts {
        match read_parts(conn, &[*part], watched, statement_timeout).await {
            Ok(result) => results.extend(result),
            Err(error) if is_refusal(error.kind()) && !part.required => {
                capabilities.leave_out(part, &error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

/// Runs statements that return one value each, in one read-only transaction and one round trip.
async fn read_values(
    conn: &Conn,
    what: &'static str,
    statements: impl ExactSizeIterator<Item = impl AsRef<str>>,
    statement_timeout: Duration,
) -> Result<Vec<Option<String>>, Error> {
    let expected = statements.len();
    let sql = catalog::read_only_batch(statements, statement_timeout);
    match conn.batch_values(what, &sql).await {
        Ok(values) if values.len() == expected => Ok(values),
        Ok(values) => Err(Error::new(
            Kind::Protocol,
            format!("{what}: expected {expected} values, found {}", values.len()),
        )),
        Err(error) => {
            // The batch may have failed after its BEGIN. If the ROLLBACK fails too, the connection
            // is broken and the pool drops it.
            if !error.kind().is_connection() {
                let _ = conn.batch("roll back", "ROLLBACK").await;
            }
            Err(error)
        }
    }
}
