//! Sizes and use of tables and indexes, and indexes that can go.
//!
//! The statistics are read by one read-only transaction of three statements over catalogs and
//! `pg_stat_get_*`. No relation is opened, so nothing here waits for a lock on a table. Sizes are
//! therefore those that the last VACUUM or ANALYZE recorded (`pg_class.relpages`): 0 for a table
//! that neither has processed; only VACUUM records the size of TOAST. Only the size of the database
//! is measured at once, which walks the database's files without opening them.
//!
//! A partitioned table counts as one table: its outermost parent, with the sums over its
//! partitions, which are not listed themselves. The same holds for its indexes. System schemas and
//! temporary tables are left out.

mod indexes;
mod tables;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::snapshot::Unavailable;
use crate::db::{Conn, Error, Tx, TxOptions, from_row, quote_ident};

pub use indexes::{Duplicate, Indexes, Invalid, Unused};
pub use tables::{TABLES_MAX, Table};

/// For locks on catalogs, which are the only relations opened. Only `VACUUM FULL` holds them
/// longer.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Statistics of one database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// The time on the server's clock.
    pub measured_at: DateTime<Utc>,
    /// The size of the whole database. `None` without CONNECT on it.
    pub size_bytes: Option<i64>,
    /// The [`TABLES_MAX`] largest tables, largest first.
    pub tables: Vec<Table>,
    pub tables_total: i64,
    pub tables_left_out: i64,
    pub indexes: Indexes,
    /// When the counters were reset; `None` if never.
    pub stats_reset_at: Option<DateTime<Utc>>,
    pub unavailable: Vec<Unavailable>,
}

/// Reads the statistics. `statement_timeout` bounds each statement on the server; the caller bounds
/// the whole call.
///
/// # Errors
/// Returns the connection's or the server's error.
pub async fn read(conn: &mut Conn, statement_timeout: Duration) -> Result<Statistics, Error> {
    let options = TxOptions {
        prelude: "SET LOCAL jit = off;".to_owned(),
        ..TxOptions::within(statement_timeout).read_only().lock_timeout(LOCK_TIMEOUT)
    };
    conn.transaction(&options, |tx| Box::pin(read_in(tx))).await
}

async fn read_in(tx: &Tx<'_>) -> Result<Statistics, Error> {
    let database: Database =
        tx.read_one("read the size of the database", DATABASE_SQL, &[]).await?;
    let tables::Tables { largest, total, unreadable } = tables::read(tx).await?;
    let indexes = indexes::read(tx, database.stats_reset_at, database.sees_all).await?;
    Ok(Statistics {
        measured_at: database.time,
        size_bytes: database.size_bytes,
        tables_total: total,
        tables_left_out: total - largest.len() as i64,
        tables: largest,
        indexes,
        stats_reset_at: database.stats_reset_at,
        unavailable: unavailable(&database, unreadable),
    })
}

const DATABASE_SQL: &str = "
SELECT clock_timestamp() AS time, current_user::text AS role, d.datname::text AS name,
       CASE WHEN has_database_privilege(d.oid, 'CONNECT')
                 OR pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_database_size(d.oid) END AS size_bytes,
       pg_stat_get_db_stat_reset_time(d.oid) AS stats_reset_at,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all
  FROM pg_database d
 WHERE d.datname = current_database()";

struct Database {
    time: DateTime<Utc>,
    role: String,
    name: String,
    size_bytes: Option<i64>,
    stats_reset_at: Option<DateTime<Utc>>,
    /// Whether the activity of other roles is visible to this role.
    sees_all: bool,
}

from_row!(Database, [time, role, name, size_bytes, stats_reset_at, sees_all]);

/// Lists what is hidden from this role, with the remedies.
fn unavailable(database: &Database, unreadable: i64) -> Vec<Unavailable> {
    let role = quote_ident(&database.role);
    let mut unavailable = Vec::new();
    let mut hidden = |what, reason, remedy| {
        unavailable.push(Unavailable::not_permitted(what, reason, remedy));
    };
    if database.size_bytes.is_none() {
        hidden(
            "size of the database",
            format!("role {role} lacks CONNECT"),
            format!("GRANT CONNECT ON DATABASE {} TO {role}", quote_ident(&database.name)),
        );
    }
    if !database.sees_all {
        hidden(
            "indexes being built",
            format!(
                "role {role} lacks pg_read_all_stats, so an invalid index counts as being built \
                 while a session holds a lock on its table that a build would hold"
            ),
            format!("GRANT pg_monitor TO {role}"),
        );
    }
    if unreadable > 0 {
        hidden(
            "bloat",
            format!("role {role} may not read the column statistics of {unreadable} large tables"),
            format!("GRANT pg_read_all_data TO {role}"),
        );
    }
    unavailable
}
