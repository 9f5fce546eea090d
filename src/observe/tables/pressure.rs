//! What says that a bulk job should yield.

use crate::db::{Error, Tx};

/// Pressure on the server at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// The slowest standby's replay lag in seconds; none without standbys, or without `pg_monitor`.
    pub replay_lag_seconds: Option<f64>,
    /// Sessions that wait for a lock of this one.
    pub waiters: i64,
}

/// Read inside the transaction whose locks others may wait for.
pub async fn read(tx: &Tx<'_>) -> Result<Pressure, Error> {
    // pg_blocking_pids() locks the whole lock table for a moment, so it is asked only about who waits.
    let sql = "
        SELECT (SELECT extract(epoch FROM max(replay_lag))::float8 FROM pg_stat_replication),
               (SELECT count(*) FROM (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) AS w
                 WHERE pg_backend_pid() = ANY (pg_blocking_pids(w.pid)))";
    let row = tx.row("read pressure", sql, &[]).await?;
    Ok(Pressure { replay_lag_seconds: row.get(0), waiters: row.get(1) })
}
