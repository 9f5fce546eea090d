//! `GET /health/database/statistics`: tables and indexes.
//!
//! The result is cached for `health.cache_ttl`. A read continues if the client that started it
//! disconnects.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::CACHE_CONTROL;
use serde_json::json;
use tokio::time::Instant;

use crate::db::Purpose;
use crate::http::response::{ok, set_header};
use crate::http::statistics_cache::{Freshness, Lookup};
use crate::http::{Access, ApiDatabase, Context, HttpError, Response};
use crate::observe::statistics;

const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

pub async fn statistics(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["refresh"])?;
    let refresh = context.flag("refresh")?;
    if refresh
        && !context.caller.as_ref().is_some_and(|caller| Access::Operator.allows(caller.role))
    {
        let detail = "refresh requires the role operator; omit it to get cached statistics";
        return Err(HttpError::forbidden(detail));
    }
    let ttl = context.state.databases.config()?.health.cache_ttl;
    let freshness = Freshness { requested_at: Instant::now(), refresh, ttl };
    let database = context.database()?;
    let lookup = {
        let database = Arc::clone(&database);
        async move {
            // Without a limit, slow reads would collect requests until all tasks wait here.
            let Ok(_permit) = database.statistics.waiters.try_acquire() else {
                let detail = "too many requests wait for statistics";
                return Err(HttpError::busy(detail).retry_after(ttl.min(RETRY_AFTER_MAX)));
            };
            let read = database.run_within(database.work_timeout(), async {
                let mut conn = database.db.acquire(Purpose::Api).await?;
                statistics::read(&mut conn, database.db.query_timeout()).await
            });
            let lookup = database.statistics.get(freshness, read).await;
            lookup.map_err(|error| database.http_error(&error))
        }
    };
    match context.state.tasks.spawn("statistics", lookup).await {
        Ok(lookup) => Ok(to_response(&database, &lookup?, ttl)),
        // The task has already logged its panic.
        Err(_) => Err(HttpError::internal()),
    }
}

fn to_response(database: &ApiDatabase, lookup: &Lookup, ttl: Duration) -> Response {
    let age = lookup.read_at.elapsed();
    let mut body = json!(*lookup.statistics);
    body["target"] = json!(database.db.name());
    body["age_seconds"] = json!((age.as_secs_f64() * 1000.0).round() / 1000.0);
    body["cached"] = json!(lookup.cached);
    body["reason"] = json!(lookup.error.as_ref().map(|error| database.http_error(error).detail));
    let mut response = ok(&body);
    // Private, because a shared cache would also serve it to clients without credentials.
    let max_age = ttl.saturating_sub(age).as_secs();
    set_header(&mut response, CACHE_CONTROL, &format!("private, max-age={max_age}"));
    response
}
