//! `GET /health/system` and `GET /health/connections`: past measurements. From the database, or from
//! the memory of this instance while the database is unavailable.

use serde::Serialize;
use serde_json::{Value, json};

use crate::db::{Error, Purpose};
use crate::health::Recent;
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::store::audit_query::Cursor;
use crate::store::measurement_query::{
    BUCKETS_MAX, Filter, Page, TooManyBuckets, connections, health,
};

/// A week.
const BUCKET_SECONDS_MAX: i64 = 604_800;
const STATUSES: [(&str, &str); 4] = [
    ("healthy", "healthy"),
    ("degraded", "degraded"),
    ("unhealthy", "unhealthy"),
    ("unknown", "unknown"),
];

struct HistoryQuery {
    filter: Filter,
    cursor: Option<Cursor>,
    limit: usize,
    /// The width of buckets. `None`: rows in pages.
    bucket_seconds: Option<u32>,
}

impl HistoryQuery {
    fn read(context: &Context<'_>) -> Result<HistoryQuery, HttpError> {
        let (since, until) = context.time_range()?;
        let filter = Filter {
            since,
            until,
            component: context.owned_text("component")?,
            status: context.one_of("status", &STATUSES)?.map(str::to_owned),
            instance: context.owned_text("instance")?,
        };
        let (cursor, limit) = (context.cursor()?, context.limit()?);
        let bucket = context.number("bucket", 0, 1, BUCKET_SECONDS_MAX)?;
        if bucket > 0 && (context.query.has("limit") || context.query.has("cursor")) {
            let detail = "buckets have no pages: omit limit and cursor, or omit bucket";
            return Err(HttpError::unprocessable("pagination_not_supported", detail));
        }
        Ok(HistoryQuery {
            filter,
            cursor,
            limit: usize::try_from(limit).unwrap_or(1),
            bucket_seconds: u32::try_from(bucket).ok().filter(|bucket| *bucket > 0),
        })
    }
}

/// Rows or buckets.
enum History<R, B> {
    Page(Page<R>),
    Buckets(Result<Vec<B>, TooManyBuckets>),
}

/// Both endpoints read the same way; `$store` and the methods of [`Recent`] differ.
macro_rules! respond {
    ($context:ident, $store:ident, $page:ident, $buckets:ident) => {{
        let (database, query) = ($context.database()?, HistoryQuery::read($context)?);
        let HistoryQuery { filter, cursor, limit, bucket_seconds } = &query;
        let bound = database.read_timeout();
        let read = async {
            let mut conn = database.db.acquire(Purpose::Api).await?;
            Ok::<_, Error>(match bucket_seconds {
                None => {
                    History::Page($store::page(&mut conn, bound, filter, *cursor, *limit).await?)
                }
                Some(width) => {
                    History::Buckets($store::buckets(&mut conn, bound, filter, *width).await?)
                }
            })
        };
        let read = database.run_within(bound, read).await;
        to_response(&database, *bucket_seconds, read, |recent| match bucket_seconds {
            None => History::Page(recent.$page(filter, *cursor, *limit)),
            Some(width) => History::Buckets(recent.$buckets(filter, *width)),
        })
    }};
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
    respond!(context, health, health, health_buckets)
}

/// `GET /health/connections`
pub async fn connections(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["since", "until", "instance", "limit", "cursor", "bucket"])?;
    respond!(context, connections, connections, connection_buckets)
}

fn to_response<R: Serialize, B: Serialize>(
    database: &ApiDatabase,
    bucket_seconds: Option<u32>,
    read: Result<History<R, B>, Error>,
    remembered: impl FnOnce(&Recent) -> History<R, B>,
) -> Result<Response, HttpError> {
    let (history, source, reason) = match read {
        Ok(history) => (history, "database", None),
        Err(error) => {
            let reason = database.http_error(&error).detail;
            (remembered(database.board.recent()), "memory", Some(reason))
        }
    };
    let mut body = json!({ "target": database.db.name(), "source": source, "reason": reason });
    match history {
        History::Page(page) => {
            body["items"] = to_value(&page.items)?;
            body["next"] = json!(page.next.map(|next| next.to_string()));
        }
        History::Buckets(Ok(buckets)) => {
            body["bucket_seconds"] = json!(bucket_seconds);
            body["buckets"] = to_value(&buckets)?;
        }
        History::Buckets(Err(too_many)) => {
            let detail = format!("bucket: {too_many}; at most {BUCKETS_MAX} are returned");
            return Err(HttpError::unprocessable("too_many_buckets", detail)
                .with("min_bucket_seconds", too_many.least_seconds));
        }
    }
    Ok(ok(&body))
}

fn to_value(rows: &impl Serialize) -> Result<Value, HttpError> {
    serde_json::to_value(rows).map_err(|error| {
        tracing::error!(error = %error, "cannot write rows as JSON");
        HttpError::internal()
    })
}
