//! `GET /health/database/statistics`: tables and indexes, measured seldom and told often.
//!
//! What is measured is kept for `health.cache_ttl`. Whoever asks while it is being measured waits for that: a hundred
//! callers cost the database one look. The look goes on when the one who began it hangs up.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CACHE_CONTROL;
use serde_json::json;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use crate::db::{Error, Purpose};
use crate::http::response::{ok, set_header};
use crate::http::{Access, ApiDatabase, Context, HttpError, Response};
use crate::observe::statistics::{self, Statistics};

/// When it is worth trying again, at the latest.
const RETRY: Duration = Duration::from_secs(5);

/// What was measured last.
#[derive(Debug)]
pub struct StatisticsCache {
    last: Arc<Mutex<CacheState>>,
    /// Places of those who wait for a look. Readers take none from who changes something.
    waiting: Arc<Semaphore>,
}

/// So many wait for a look at a time.
const WAITERS_MAX: usize = 32;

impl Default for StatisticsCache {
    fn default() -> StatisticsCache {
        StatisticsCache { last: Arc::default(), waiting: Arc::new(Semaphore::new(WAITERS_MAX)) }
    }
}

#[derive(Debug, Default)]
struct CacheState {
    measured: Option<CachedStatistics>,
    /// Whoever waited for a look that failed is told of that one, and begins no other.
    failed: Option<(Instant, Error)>,
}

#[derive(Debug, Clone)]
struct CachedStatistics {
    at: Instant,
    statistics: Arc<Statistics>,
}

/// What is told, and why it is not newer.
struct StatisticsResult {
    measured: CachedStatistics,
    cached: bool,
    reason: Option<String>,
}

/// Tells what is known, and measures where that is too old.
pub async fn statistics(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["refresh"])?;
    let refresh = context.flag("refresh")?;
    if refresh
        && !context.caller.as_ref().is_some_and(|caller| Access::Operator.allows(caller.role))
    {
        let detail = "refresh wants the role operator; without it, the answer is as old as it says";
        return Err(HttpError::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let ttl = context.state.databases.config()?.health.cache_ttl;
    let (database, requested_at) = (context.database()?, Instant::now());
    let Ok(slot) = Arc::clone(&database.statistics.waiting).try_acquire_owned() else {
        return Err(HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "too many wait already",
        )
        .retry_after(ttl.min(RETRY)));
    };
    let (cache, measured_database) = (Arc::clone(&database.statistics.last), Arc::clone(&database));
    let measuring = async move {
        let mut last = cache.lock().await;
        let found =
            measure_if_stale(&measured_database, &mut last, refresh, requested_at, ttl).await;
        drop(slot);
        found
    };
    match context.state.tasks.spawn("statistics", measuring).await {
        Ok(found) => Ok(to_response(&database, &found?, ttl)),
        // The panic itself was logged where it happened.
        Err(_) => {
            Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the log says why"))
        }
    }
}

async fn measure_if_stale(
    database: &ApiDatabase,
    last: &mut CacheState,
    refresh: bool,
    requested_at: Instant,
    ttl: Duration,
) -> Result<StatisticsResult, HttpError> {
    // Who waited for another's look need not look again.
    let fresh = |measured: &&CachedStatistics| {
        if refresh { measured.at >= requested_at } else { measured.at.elapsed() < ttl }
    };
    if let Some(measured) = last.measured.as_ref().filter(fresh) {
        return Ok(StatisticsResult {
            measured: measured.clone(),
            cached: measured.at < requested_at,
            reason: None,
        });
    }
    let failed_since =
        last.failed.as_ref().filter(|(at, _)| *at >= requested_at).map(|(_, error)| error.clone());
    let error = match failed_since {
        Some(error) => error,
        None => {
            let measuring = async {
                let mut conn = database.db.acquire(Purpose::Api).await?;
                statistics::read(&mut conn, database.db.query_timeout()).await
            };
            match database.run_within(database.work_timeout(), measuring).await {
                Ok(statistics) => {
                    let measured =
                        CachedStatistics { at: Instant::now(), statistics: Arc::new(statistics) };
                    last.failed = None;
                    last.measured = Some(measured.clone());
                    return Ok(StatisticsResult { measured, cached: false, reason: None });
                }
                Err(error) => error,
            }
        }
    };
    let http_error = database.http_error(&error);
    last.failed = Some((Instant::now(), error));
    // Old is better than nothing, and its age is told.
    match &last.measured {
        Some(measured) => Ok(StatisticsResult {
            measured: measured.clone(),
            cached: true,
            reason: Some(http_error.detail),
        }),
        None => Err(http_error),
    }
}

fn to_response(database: &ApiDatabase, found: &StatisticsResult, ttl: Duration) -> Response {
    let measured = &found.measured;
    let age = measured.at.elapsed();
    let mut body = json!(*measured.statistics);
    body["target"] = json!(database.db.name());
    body["age_seconds"] = json!((age.as_secs_f64() * 1000.0).round() / 1000.0);
    body["cached"] = json!(found.cached);
    body["reason"] = json!(found.reason);
    let mut response = ok(&body);
    // Private: whoever has no credentials must not get it out of a cache in between.
    set_header(
        &mut response,
        CACHE_CONTROL,
        &format!("private, max-age={}", ttl.saturating_sub(age).as_secs()),
    );
    response
}
