//! How large tables and indexes are, how they are used, and which indexes are of no use.
//!
//! One read-only transaction of three statements over catalogs and `pg_stat_get_*`: no relation is opened, so nothing
//! here waits for a lock on a table. Sizes are therefore those that the last VACUUM or ANALYZE noted
//! (`pg_class.relpages`), of a table that neither has seen 0; TOAST is noted by VACUUM alone. Only the size of the
//! database is measured now: it walks over the database's files, and opens none.
//!
//! A partitioned table is one table: its outermost parent, with the sums over its partitions, which are not listed
//! themselves. The same holds for its indexes. Schemas of the system and temporary tables are left out.

mod indexes;
mod tables;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::snapshot::Unseen;
use crate::db::{Conn, Error, Tx, TxOptions, quote_ident};

pub use indexes::{Duplicate, Indexes, Invalid, Unused};
pub use tables::{Kind, TABLES_MAX, Table};

/// For locks on catalogs, which alone are opened: far more than any but `VACUUM FULL` holds them.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Statistics of one database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// The server's clock.
    pub measured_at: DateTime<Utc>,
    /// Of the whole database. Absent without CONNECT on it.
    pub size_bytes: Option<i64>,
    /// The [`TABLES_MAX`] largest, largest first.
    pub tables: Vec<Table>,
    pub tables_total: i64,
    pub tables_left_out: i64,
    pub indexes: Indexes,
    /// Since when the counters count; absent where they were never reset.
    pub stats_reset_at: Option<DateTime<Utc>>,
    pub unseen: Vec<Unseen>,
}

/// Reads them. `statement_timeout` bounds each statement on the server; the caller bounds the whole.
///
/// # Errors
/// The connection's or the server's.
pub async fn read(conn: &mut Conn, statement_timeout: Duration) -> Result<Statistics, Error> {
    let options = TxOptions {
        prelude: "SET LOCAL jit = off;".to_owned(),
        ..TxOptions::within(statement_timeout).read_only().lock_timeout(LOCK_TIMEOUT)
    };
    conn.transaction(&options, |tx| Box::pin(read_in(tx))).await
}

async fn read_in(tx: &Tx<'_>) -> Result<Statistics, Error> {
    let database = database(tx).await?;
    let tables = tables::read(tx).await?;
    let indexes = indexes::read(tx, database.stats_reset_at, database.sees_all).await?;
    Ok(Statistics {
        measured_at: database.time,
        size_bytes: database.size_bytes,
        tables_total: tables.total,
        tables_left_out: tables.total - tables.largest.len() as i64,
        indexes,
        stats_reset_at: database.stats_reset_at,
        unseen: unseen(&database, tables.unreadable),
        tables: tables.largest,
    })
}

struct Database {
    time: DateTime<Utc>,
    role: String,
    name: String,
    size_bytes: Option<i64>,
    stats_reset_at: Option<DateTime<Utc>>,
    /// Whether what other roles do can be looked into.
    sees_all: bool,
}

async fn database(tx: &Tx<'_>) -> Result<Database, Error> {
    const SQL: &str = "
        SELECT clock_timestamp(), current_user::text, d.datname::text,
               CASE WHEN has_database_privilege(d.oid, 'CONNECT') OR pg_has_role('pg_read_all_stats', 'USAGE')
                    THEN pg_database_size(d.oid) END,
               pg_stat_get_db_stat_reset_time(d.oid), pg_has_role('pg_read_all_stats', 'USAGE')
          FROM pg_database d
         WHERE d.datname = current_database()";
    let row = tx.row("read the size of the database", SQL, &[]).await?;
    Ok(Database {
        time: row.get(0),
        role: row.get(1),
        name: row.get(2),
        size_bytes: row.get(3),
        stats_reset_at: row.get(4),
        sees_all: row.get(5),
    })
}

/// What this role does not see, with what mends it.
fn unseen(database: &Database, unreadable: i64) -> Vec<Unseen> {
    let role = quote_ident(&database.role);
    let mut unseen = Vec::new();
    if database.size_bytes.is_none() {
        unseen.push(Unseen::not_permitted(
            "size of the database",
            format!("role {role} lacks CONNECT"),
            format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(&database.name)),
        ));
    }
    if !database.sees_all {
        unseen.push(Unseen::not_permitted(
            "indexes being built",
            format!(
                "role {role} lacks pg_read_all_stats: an invalid index counts as being built while anything that \
                 might build it holds a lock on its table"
            ),
            format!("GRANT pg_monitor TO {role}"),
        ));
    }
    if unreadable > 0 {
        unseen.push(Unseen::not_permitted(
            "bloat",
            format!(
                "{unreadable} of the largest tables show the statistics of their columns only to who may read them"
            ),
            format!("GRANT pg_read_all_data TO {role}"),
        ));
    }
    unseen
}
