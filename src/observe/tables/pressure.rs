//! What says that a bulk job should yield.

use crate::db::{Error, Tx};

/// Pressure on the server at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// The slowest standby's replay lag in seconds; none without standbys, where none lags, or where
    /// it is hidden.
    pub replay_lag_seconds: Option<f64>,
    /// There are standbys, and this role may not see how far behind they are.
    pub lag_hidden: bool,
    /// WAL is not being archived: the last attempt failed.
    pub archiving_fails: bool,
    /// Sessions that wait for a lock of this one.
    pub waiters: i64,
}

/// Read inside the transaction whose locks others may wait for.
pub async fn read(tx: &Tx<'_>) -> Result<Pressure, Error> {
    // Without pg_read_all_stats a standby's row is there, and all but its process id NULL. The archiver's
    // counters outlive archiving itself. pg_blocking_pids() locks the whole lock table for a moment, so it
    // is asked only about who waits.
    let sql = "
        SELECT (SELECT extract(epoch FROM max(replay_lag))::float8 FROM pg_stat_replication),
               NOT pg_has_role('pg_read_all_stats', 'USAGE') AND EXISTS (SELECT FROM pg_stat_replication),
               current_setting('archive_mode') <> 'off'
                 AND (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false)
                        FROM pg_stat_archiver),
               (SELECT count(*) FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) AS w
                 WHERE pg_backend_pid() = ANY (pg_blocking_pids(w.pid)))";
    let row = tx.row("read pressure", sql, &[]).await?;
    Ok(Pressure {
        replay_lag_seconds: row.get(0),
        lag_hidden: row.get(1),
        archiving_fails: row.get(2),
        waiters: row.get(3),
    })
}
