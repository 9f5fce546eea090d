//! `GET /health/database/statistics`: tables and indexes, measured seldom and told often.
//!
//! What is measured is kept for `health.cache_ttl`. Whoever asks while it is being measured waits for that: a hundred
//! callers cost the database one look. The look goes on when the one who began it hangs up.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CACHE_CONTROL;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::db::{Error, Purpose};
use crate::http::answer::{json as answer, set};
use crate::http::{Access, Answer, Context, Desk, Refusal};
use crate::observe::statistics::{self, Statistics};

/// What was measured last.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Option<Measured>>>);

#[derive(Debug, Clone)]
struct Measured {
    at: Instant,
    statistics: Arc<Statistics>,
}

/// Tells what is known, and measures where that is too old.
pub async fn statistics(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&["refresh"])?;
    let refresh = context.flag("refresh")?;
    if refresh && !context.caller.as_ref().is_some_and(|caller| Access::Operator.allows(caller.role)) {
        let detail = "refresh wants the role operator; without it, the answer is as old as it says";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail));
    }
    let ttl = context.state.desks.config()?.health.cache_ttl;
    let (desk, asked) = (context.desk()?, Instant::now());
    let kept = desk.statistics.0.clone().lock_owned();
    let db = Arc::clone(&desk.db);
    let measuring = async move {
        let mut kept = kept.await;
        // Who waited for another's look need not look again.
        let fresh = |measured: &Measured| if refresh { measured.at >= asked } else { measured.at.elapsed() < ttl };
        if let Some(measured) = kept.as_ref().filter(|measured| fresh(measured)) {
            return Ok((measured.clone(), measured.at < asked));
        }
        let mut conn = db.acquire(Purpose::Api).await?;
        let statistics = Arc::new(statistics::read(&mut conn, db.query_timeout()).await?);
        let measured = kept.insert(Measured { at: Instant::now(), statistics });
        Ok::<_, Error>((measured.clone(), false))
    };
    let (measured, cached) = match context.state.tasks.spawn("statistics", measuring).await {
        Ok(outcome) => outcome.map_err(|error| desk.refusal(&error))?,
        // The panic itself was logged where it happened.
        Err(_) => return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the log says why")),
    };
    Ok(told(&desk, &measured, cached, ttl))
}

fn told(desk: &Desk, measured: &Measured, cached: bool, ttl: Duration) -> Answer {
    let age = measured.at.elapsed();
    let mut body = json!(*measured.statistics);
    body["target"] = json!(desk.db.name());
    body["age_seconds"] = json!((age.as_secs_f64() * 1000.0).round() / 1000.0);
    body["cached"] = json!(cached);
    let mut answer = answer(StatusCode::OK, "application/json", &body);
    // Private: whoever has no credentials must not get it out of a cache in between.
    set(&mut answer, CACHE_CONTROL, &format!("private, max-age={}", ttl.saturating_sub(age).as_secs()));
    answer
}
