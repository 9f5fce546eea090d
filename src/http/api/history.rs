//! `GET /health/system` and `GET /health/connections`: what was measured, from its tables; while the database is away,
//! from what this instance remembers.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::input::{invalid, unprocessable};
use crate::db::{Error, Purpose};
use crate::health::Recent;
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::store::audit_query::{Cursor, EARLIEST, LATEST};
use crate::store::measurement_query::{
    BUCKETS_MAX, Filter, Page, TooManyBuckets, connections, health,
};

/// A week: wider buckets say nothing.
const BUCKET_SECONDS_MAX: i64 = 604_800;

/// What is asked for.
struct HistoryQuery {
    filter: Filter,
    after: Option<Cursor>,
    limit: usize,
    bucket_seconds: Option<u32>,
}

impl HistoryQuery {
    fn of(context: &Context<'_>) -> Result<HistoryQuery, HttpError> {
        let text = |name| Ok::<_, HttpError>(context.text(name)?.map(str::to_owned));
        let filter = Filter {
            since: context.time("since")?.unwrap_or(EARLIEST),
            until: context.time("until")?.unwrap_or(LATEST),
            component: text("component")?,
            status: text("status")?,
            instance: text("instance")?,
        };
        if filter.since >= filter.until {
            return Err(unprocessable("empty_range", "wanted since to be before until"));
        }
        if filter
            .status
            .as_deref()
            .is_some_and(|s| !matches!(s, "healthy" | "degraded" | "unhealthy" | "unknown"))
        {
            return Err(invalid("status: wanted healthy, degraded, unhealthy or unknown"));
        }
        let after = context.text("cursor")?.map(str::parse::<Cursor>).transpose();
        let after = after.map_err(|wrong| invalid(format!("cursor: {wrong}")))?;
        let limit = context.number("limit", 100, 1, 1000)?;
        let bucket = context.number("bucket", 0, 1, BUCKET_SECONDS_MAX)?;
        if bucket > 0 && (context.query.has("limit") || context.query.has("cursor")) {
            return Err(unprocessable(
                "no_pages",
                "buckets have no pages: leave out limit and cursor, or bucket",
            ));
        }
        Ok(HistoryQuery {
            filter,
            after,
            limit: usize::try_from(limit).unwrap_or(1),
            bucket_seconds: u32::try_from(bucket).ok().filter(|bucket| *bucket > 0),
        })
    }
}

/// What was found: rows, or buckets.
enum HistoryResult<R, B> {
    Page(Page<R>),
    Buckets(Result<Vec<B>, TooManyBuckets>),
}

/// `GET /health/system`
pub async fn system(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[
        "since",
        "until",
        "component",
        "status",
        "instance",
        "limit",
        "cursor",
        "bucket",
    ])?;
    let (database, query) = (context.database()?, HistoryQuery::of(context)?);
    let read = async {
        let mut conn = database.db.acquire(Purpose::Api).await?;
        let bound = database.read_timeout();
        Ok::<_, Error>(match query.bucket_seconds {
            None => HistoryResult::Page(
                health::page(&mut conn, bound, &query.filter, query.after, query.limit).await?,
            ),
            Some(width) => HistoryResult::Buckets(
                health::buckets(&mut conn, bound, &query.filter, width).await?,
            ),
        })
    };
    let remembered = |recent: &Recent| match query.bucket_seconds {
        None => HistoryResult::Page(recent.health(&query.filter, query.after, query.limit)),
        Some(width) => HistoryResult::Buckets(recent.health_buckets(&query.filter, width)),
    };
    to_response(
        &database,
        &query,
        database.run_within(database.read_timeout(), read).await,
        remembered,
    )
}

/// `GET /health/connections`
pub async fn connections(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["since", "until", "instance", "limit", "cursor", "bucket"])?;
    let (database, query) = (context.database()?, HistoryQuery::of(context)?);
    let read = async {
        let mut conn = database.db.acquire(Purpose::Api).await?;
        let bound = database.read_timeout();
        Ok::<_, Error>(match query.bucket_seconds {
            None => HistoryResult::Page(
                connections::page(&mut conn, bound, &query.filter, query.after, query.limit)
                    .await?,
            ),
            Some(width) => HistoryResult::Buckets(
                connections::buckets(&mut conn, bound, &query.filter, width).await?,
            ),
        })
    };
    let remembered = |recent: &Recent| match query.bucket_seconds {
        None => HistoryResult::Page(recent.connections(&query.filter, query.after, query.limit)),
        Some(width) => HistoryResult::Buckets(recent.connection_buckets(&query.filter, width)),
    };
    to_response(
        &database,
        &query,
        database.run_within(database.read_timeout(), read).await,
        remembered,
    )
}

fn to_response<R: Serialize, B: Serialize>(
    database: &ApiDatabase,
    query: &HistoryQuery,
    read: Result<HistoryResult<R, B>, Error>,
    remembered: impl FnOnce(&Recent) -> HistoryResult<R, B>,
) -> Result<Response, HttpError> {
    let (found, source, reason) = match read {
        Ok(found) => (found, "database", None),
        Err(error) => {
            // It is logged, and the caller is told the kind.
            let error = database.http_error(&error);
            (remembered(database.board.recent()), "memory", Some(error.detail))
        }
    };
    let mut body = json!({ "target": database.db.name(), "source": source, "reason": reason });
    match found {
        HistoryResult::Page(page) => {
            body["items"] = to_value(&page.items)?;
            body["next"] = json!(page.next.map(|next| next.to_string()));
        }
        HistoryResult::Buckets(Ok(buckets)) => {
            body["bucket_seconds"] = json!(query.bucket_seconds);
            body["buckets"] = to_value(&buckets)?;
        }
        HistoryResult::Buckets(Err(too_many)) => {
            let detail = format!("bucket: {too_many}; at most {BUCKETS_MAX} are told");
            let error = unprocessable("too_many_buckets", detail);
            return Err(error.with("least_seconds", too_many.least_seconds));
        }
    }
    Ok(ok(&body))
}

fn to_value(rows: &impl Serialize) -> Result<Value, HttpError> {
    serde_json::to_value(rows).map_err(|error| {
        tracing::error!(error = %error, "rows could not be written as JSON");
        HttpError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the answer could not be written",
        )
    })
}
