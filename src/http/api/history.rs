//! `GET /health/system` and `GET /health/connections`: what was measured, from its tables; while the database is away,
//! from what this instance remembers.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use super::input::{invalid, unprocessable};
use crate::db::{Error, Purpose};
use crate::health::Recent;
use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::store::audit_query::{Cursor, EARLIEST, LATEST};
use crate::store::measured::{BUCKETS_MAX, Filter, Page, TooManyBuckets, connections, health};

/// A week: wider buckets say nothing.
const BUCKET_SECONDS_MAX: i64 = 604_800;

/// What is asked for.
struct Asked {
    filter: Filter,
    behind: Option<Cursor>,
    limit: usize,
    bucket_seconds: Option<u32>,
}

impl Asked {
    fn of(context: &Context<'_>) -> Result<Asked, Refusal> {
        let text = |name| Ok::<_, Refusal>(context.text(name)?.map(str::to_owned));
        let filter = Filter {
            since: context.moment("since")?.unwrap_or(EARLIEST),
            until: context.moment("until")?.unwrap_or(LATEST),
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
        let behind = context.text("cursor")?.map(str::parse::<Cursor>).transpose();
        let behind = behind.map_err(|wrong| invalid(format!("cursor: {wrong}")))?;
        let limit = context.number("limit", 100, 1, 1000)?;
        let bucket = context.number("bucket", 0, 1, BUCKET_SECONDS_MAX)?;
        if bucket > 0 && (context.query.has("limit") || context.query.has("cursor")) {
            return Err(unprocessable(
                "no_pages",
                "buckets have no pages: leave out limit and cursor, or bucket",
            ));
        }
        Ok(Asked {
            filter,
            behind,
            limit: usize::try_from(limit).unwrap_or(1),
            bucket_seconds: u32::try_from(bucket).ok().filter(|bucket| *bucket > 0),
        })
    }
}

/// What was found: rows, or buckets.
enum Found<R, B> {
    Page(Page<R>),
    Buckets(Result<Vec<B>, TooManyBuckets>),
}

/// `GET /health/system`
pub async fn system(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[
        "since",
        "until",
        "component",
        "status",
        "instance",
        "limit",
        "cursor",
        "bucket",
    ])?;
    let (desk, asked) = (context.desk()?, Asked::of(context)?);
    let read = async {
        let mut conn = desk.db.acquire(Purpose::Api).await?;
        let bound = desk.impatience();
        Ok::<_, Error>(match asked.bucket_seconds {
            None => Found::Page(
                health::page(&mut conn, bound, &asked.filter, asked.behind, asked.limit).await?,
            ),
            Some(width) => {
                Found::Buckets(health::buckets(&mut conn, bound, &asked.filter, width).await?)
            }
        })
    };
    let remembered = |recent: &Recent| match asked.bucket_seconds {
        None => Found::Page(recent.health(&asked.filter, asked.behind, asked.limit)),
        Some(width) => Found::Buckets(recent.health_buckets(&asked.filter, width)),
    };
    told(&desk, &asked, desk.bounded(desk.impatience(), read).await, remembered)
}

/// `GET /health/connections`
pub async fn connections(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&["since", "until", "instance", "limit", "cursor", "bucket"])?;
    let (desk, asked) = (context.desk()?, Asked::of(context)?);
    let read = async {
        let mut conn = desk.db.acquire(Purpose::Api).await?;
        let bound = desk.impatience();
        Ok::<_, Error>(match asked.bucket_seconds {
            None => Found::Page(
                connections::page(&mut conn, bound, &asked.filter, asked.behind, asked.limit)
                    .await?,
            ),
            Some(width) => {
                Found::Buckets(connections::buckets(&mut conn, bound, &asked.filter, width).await?)
            }
        })
    };
    let remembered = |recent: &Recent| match asked.bucket_seconds {
        None => Found::Page(recent.connections(&asked.filter, asked.behind, asked.limit)),
        Some(width) => Found::Buckets(recent.connection_buckets(&asked.filter, width)),
    };
    told(&desk, &asked, desk.bounded(desk.impatience(), read).await, remembered)
}

fn told<R: Serialize, B: Serialize>(
    desk: &Desk,
    asked: &Asked,
    read: Result<Found<R, B>, Error>,
    remembered: impl FnOnce(&Recent) -> Found<R, B>,
) -> Result<Answer, Refusal> {
    let (found, source, reason) = match read {
        Ok(found) => (found, "database", None),
        Err(error) => {
            // It is logged, and the caller is told the kind.
            let refusal = desk.refusal(&error);
            (remembered(desk.board.recent()), "memory", Some(refusal.detail))
        }
    };
    let mut body = json!({ "target": desk.db.name(), "source": source, "reason": reason });
    match found {
        Found::Page(page) => {
            body["items"] = written(&page.items)?;
            body["next"] = json!(page.next.map(|next| next.to_string()));
        }
        Found::Buckets(Ok(buckets)) => {
            body["bucket_seconds"] = json!(asked.bucket_seconds);
            body["buckets"] = written(&buckets)?;
        }
        Found::Buckets(Err(too_many)) => {
            let detail = format!("bucket: {too_many}; at most {BUCKETS_MAX} are told");
            let refusal = unprocessable("too_many_buckets", detail);
            return Err(refusal.with("least_seconds", too_many.least_seconds));
        }
    }
    Ok(answer(StatusCode::OK, "application/json", &body))
}

fn written(rows: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(rows).map_err(|error| {
        tracing::error!(error = %error, "rows could not be written as JSON");
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the answer could not be written",
        )
    })
}
