//! `steward.leases`: who observes, on the database's clock.
//!
//! A lease is a row with a holder, an epoch and an expiry. Only the database's clock is compared
//! with the expiry, so instances with wrong clocks agree; the holder itself trusts its lease by its
//! monotonic clock for a little less than the time that it was given, counted from before it asked.
//! The epoch grows at every change of holder.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;

use crate::db::{Conn, Error, TxOptions};

/// The lease of the instance that observes.
pub const LEADER_LEASE: &str = "observer";

/// What an attempt to hold a lease came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// Ours, under this epoch.
    Held { epoch: i64 },
    /// Another's, for so long at most.
    Other { holder: String, left: Duration },
}

/// A lease's state, and the database's clock when it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcquireResult {
    pub lease: Lease,
    pub clock: DateTime<Utc>,
}

/// Takes the lease if it is free, expired or ours; renews it then.
pub async fn acquire(
    conn: &mut Conn,
    name: &str,
    holder: &str,
    ttl: Duration,
    bound: Duration,
) -> Result<AcquireResult, Error> {
    const SQL: &str = "
        INSERT INTO steward.leases AS l (name, holder, epoch, acquired_at, renewed_at, expires_at)
        VALUES ($1, $2, 1, clock_timestamp(), clock_timestamp(), clock_timestamp() + $3::bigint * interval '1 ms')
        ON CONFLICT (name) DO UPDATE
           SET holder = $2,
               epoch = l.epoch + (l.holder <> $2)::int,
               acquired_at = CASE WHEN l.holder = $2 THEN l.acquired_at ELSE clock_timestamp() END,
               renewed_at = clock_timestamp(),
               expires_at = clock_timestamp() + $3::bigint * interval '1 ms'
         WHERE l.holder = $2 OR l.expires_at <= clock_timestamp()
            -- Given before the clock was set back: no lease is that long.
            OR l.expires_at > clock_timestamp() + interval '10 minutes'
        RETURNING epoch, clock_timestamp()";
    const HOLDER: &str = "
        SELECT holder, greatest(0, extract(epoch FROM expires_at - clock_timestamp()) * 1000)::bigint, clock_timestamp()
          FROM steward.leases WHERE name = $1";
    let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    let options = TxOptions::within(bound).lock_timeout(bound);
    conn.transaction(&options, |tx| {
        Box::pin(async move {
            let params =
                [(&name as _, Type::TEXT), (&holder as _, Type::TEXT), (&ttl_ms as _, Type::INT8)];
            if let Some(row) = tx.row_opt("take a lease", SQL, &params).await? {
                return Ok(AcquireResult {
                    lease: Lease::Held { epoch: row.get(0) },
                    clock: row.get(1),
                });
            }
            let row = tx.row("read a lease", HOLDER, &[(&name, Type::TEXT)]).await?;
            let left = Duration::from_millis(u64::try_from(row.get::<_, i64>(1)).unwrap_or(0));
            Ok(AcquireResult {
                lease: Lease::Other { holder: row.get(0), left },
                clock: row.get(2),
            })
        })
    })
    .await
}

/// Gives the lease up, so that another instance need not wait for its end.
pub async fn release(
    conn: &mut Conn,
    name: &str,
    holder: &str,
    bound: Duration,
) -> Result<(), Error> {
    const SQL: &str = "
        UPDATE steward.leases SET expires_at = clock_timestamp() WHERE name = $1 AND holder = $2";
    conn.transaction(&TxOptions::within(bound), |tx| {
        Box::pin(async move {
            tx.execute("release a lease", SQL, &[(&name, Type::TEXT), (&holder, Type::TEXT)])
                .await?;
            Ok(())
        })
    })
    .await
}
