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
use crate::http::answer::{json as answer, set};
use crate::http::{Access, Answer, Context, Desk, Refusal};
use crate::observe::statistics::{self, Statistics};

/// When it is worth trying again, at the latest.
const RETRY: Duration = Duration::from_secs(5);

/// What was measured last.
#[derive(Debug)]
pub struct Kept {
    last: Arc<Mutex<Last>>,
    /// Places of those who wait for a look. Readers take none from who changes something.
    waiting: Arc<Semaphore>,
}

/// So many wait for a look at a time.
const WAITING: usize = 32;

impl Default for Kept {
    fn default() -> Kept {
        Kept { last: Arc::default(), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

#[derive(Debug, Default)]
struct Last {
    measured: Option<Measured>,
    /// Whoever waited for a look that failed is told of that one, and begins no other.
    failed: Option<(Instant, Error)>,
}

#[derive(Debug, Clone)]
struct Measured {
    at: Instant,
    statistics: Arc<Statistics>,
}

/// What is told, and why it is not newer.
struct Found {
    measured: Measured,
    cached: bool,
    reason: Option<String>,
}

/// Tells what is known, and measures where that is too old.
pub async fn statistics(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&["refresh"])?;
    let refresh = context.flag("refresh")?;
    if refresh
        && !context.caller.as_ref().is_some_and(|caller| Access::Operator.allows(caller.role))
    {
        let detail = "refresh wants the role operator; without it, the answer is as old as it says";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let ttl = context.state.desks.config()?.health.cache_ttl;
    let (desk, asked) = (context.desk()?, Instant::now());
    let Ok(slot) = Arc::clone(&desk.statistics.waiting).try_acquire_owned() else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many wait already")
            .later(ttl.min(RETRY)));
    };
    let (kept, looking) = (Arc::clone(&desk.statistics.last), Arc::clone(&desk));
    let measuring = async move {
        let mut last = kept.lock().await;
        let found = look(&looking, &mut last, refresh, asked, ttl).await;
        drop(slot);
        found
    };
    match context.state.tasks.spawn("statistics", measuring).await {
        Ok(found) => Ok(told(&desk, &found?, ttl)),
        // The panic itself was logged where it happened.
        Err(_) => {
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the log says why"))
        }
    }
}

async fn look(
    desk: &Desk,
    last: &mut Last,
    refresh: bool,
    asked: Instant,
    ttl: Duration,
) -> Result<Found, Refusal> {
    // Who waited for another's look need not look again.
    let fresh = |measured: &&Measured| {
        if refresh { measured.at >= asked } else { measured.at.elapsed() < ttl }
    };
    if let Some(measured) = last.measured.as_ref().filter(fresh) {
        return Ok(Found { measured: measured.clone(), cached: measured.at < asked, reason: None });
    }
    let failed_since =
        last.failed.as_ref().filter(|(at, _)| *at >= asked).map(|(_, error)| error.clone());
    let error = match failed_since {
        Some(error) => error,
        None => {
            let measuring = async {
                let mut conn = desk.db.acquire(Purpose::Api).await?;
                statistics::read(&mut conn, desk.db.query_timeout()).await
            };
            match desk.bounded(desk.patience(), measuring).await {
                Ok(statistics) => {
                    let measured =
                        Measured { at: Instant::now(), statistics: Arc::new(statistics) };
                    last.failed = None;
                    last.measured = Some(measured.clone());
                    return Ok(Found { measured, cached: false, reason: None });
                }
                Err(error) => error,
            }
        }
    };
    let refusal = desk.refusal(&error);
    last.failed = Some((Instant::now(), error));
    // Old is better than nothing, and its age is told.
    match &last.measured {
        Some(measured) => {
            Ok(Found { measured: measured.clone(), cached: true, reason: Some(refusal.detail) })
        }
        None => Err(refusal),
    }
}

fn told(desk: &Desk, found: &Found, ttl: Duration) -> Answer {
    let measured = &found.measured;
    let age = measured.at.elapsed();
    let mut body = json!(*measured.statistics);
    body["target"] = json!(desk.db.name());
    body["age_seconds"] = json!((age.as_secs_f64() * 1000.0).round() / 1000.0);
    body["cached"] = json!(found.cached);
    body["reason"] = json!(found.reason);
    let mut answer = answer(StatusCode::OK, "application/json", &body);
    // Private: whoever has no credentials must not get it out of a cache in between.
    set(
        &mut answer,
        CACHE_CONTROL,
        &format!("private, max-age={}", ttl.saturating_sub(age).as_secs()),
    );
    answer
}
