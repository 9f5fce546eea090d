//! Reads the signs that a bulk job should slow down.

use crate::db::{Error, Tx, from_row};

/// Load on the server at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Replay lag of the slowest standby. `None` without standbys, if none lags, or if the lag is
    /// hidden from this role.
    pub replay_lag_seconds: Option<f64>,
    /// There are standbys, and this role may not see their lag.
    pub lag_hidden: bool,
    /// The last attempt to archive WAL failed.
    pub archiving_fails: bool,
    /// Number of sessions that wait for a lock held by this session.
    pub waiters: i64,
}

from_row!(Pressure, [replay_lag_seconds, lag_hidden, archiving_fails, waiters]);

/// Reads the pressure. `waiters` counts sessions that wait for locks of this transaction.
pub async fn read(tx: &Tx<'_>) -> Result<Pressure, Error> {
    // Without pg_read_all_stats the row of a standby is visible, but only its process id is set.
    // The archiver's counters remain after archiving was switched off. pg_blocking_pids() locks the
    // whole lock table for a moment, so it is called only for sessions that wait.
    const SQL: &str = "
        SELECT (SELECT extract(epoch FROM max(replay_lag))::float8
                  FROM pg_stat_replication) AS replay_lag_seconds,
               NOT pg_has_role('pg_read_all_stats', 'USAGE')
                 AND EXISTS (SELECT FROM pg_stat_replication) AS lag_hidden,
               current_setting('archive_mode') <> 'off'
                 AND (SELECT coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'),
                                      false)
                        FROM pg_stat_archiver) AS archiving_fails,
               (SELECT count(*)
                  FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) AS w
                 WHERE pg_backend_pid() = ANY (pg_blocking_pids(w.pid))) AS waiters";
    tx.read_one("read pressure", SQL, &[]).await
}
