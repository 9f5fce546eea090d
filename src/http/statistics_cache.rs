//! Keeps the statistics of a database that were read last.
//!
//! Concurrent requests share one read: those that arrive while it is in progress wait for it, and
//! get its result or its error.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::db::Error;
use crate::observe::statistics::Statistics;

/// Requests that wait for a read at a time.
const WAITERS_MAX: usize = 32;

#[derive(Debug)]
pub struct StatisticsCache {
    last: Mutex<Last>,
    pub waiters: Semaphore,
}

impl Default for StatisticsCache {
    fn default() -> StatisticsCache {
        StatisticsCache { last: Mutex::default(), waiters: Semaphore::new(WAITERS_MAX) }
    }
}

#[derive(Debug, Default)]
struct Last {
    read: Option<(Instant, Arc<Statistics>)>,
    failed: Option<(Instant, Error)>,
}

/// The result of a lookup.
#[derive(Debug)]
pub struct Lookup {
    pub read_at: Instant,
    pub statistics: Arc<Statistics>,
    /// Whether they were read before the request arrived.
    pub cached: bool,
    /// Why they could not be read again, although they are older than the TTL.
    pub error: Option<Error>,
}

/// Which statistics a request accepts.
#[derive(Debug, Clone, Copy)]
pub struct Freshness {
    pub requested_at: Instant,
    /// Accepts only statistics that are read after `requested_at`.
    pub refresh: bool,
    pub ttl: Duration,
}

impl Freshness {
    fn accepts(&self, read_at: Instant) -> bool {
        if self.refresh { read_at >= self.requested_at } else { read_at.elapsed() < self.ttl }
    }
}

impl StatisticsCache {
    /// Returns cached statistics that are fresh, or calls `read`. If that fails, returns older
    /// statistics with the error, and fails if there are none.
    pub async fn get(
        &self,
        freshness: Freshness,
        read: impl Future<Output = Result<Statistics, Error>>,
    ) -> Result<Lookup, Error> {
        let mut last = self.last.lock().await;
        let lookup = |(read_at, statistics): &(Instant, Arc<Statistics>), error| Lookup {
            read_at: *read_at,
            statistics: Arc::clone(statistics),
            cached: *read_at < freshness.requested_at,
            error,
        };
        if let Some(fresh) = last.read.as_ref().filter(|(at, _)| freshness.accepts(*at)) {
            return Ok(lookup(fresh, None));
        }
        // A request that waited for a read that failed gets its error, and starts no other read.
        let failed = last.failed.as_ref().filter(|(at, _)| *at >= freshness.requested_at);
        let error = match failed {
            Some((_, error)) => error.clone(),
            None => match read.await {
                Ok(statistics) => {
                    last.failed = None;
                    let read = last.read.insert((Instant::now(), Arc::new(statistics)));
                    return Ok(lookup(read, None));
                }
                Err(error) => {
                    last.failed = Some((Instant::now(), error.clone()));
                    error
                }
            },
        };
        match &last.read {
            Some(stale) => Ok(lookup(stale, Some(error))),
            None => Err(error),
        }
    }
}
