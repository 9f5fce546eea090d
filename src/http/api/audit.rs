//! `GET /health/audit`: events of the audit log. All of them for an admin, the caller's own for others.

use std::sync::Arc;

use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::VARY;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::stream::attachment;
use crate::db::{Database, Error, Purpose};
use crate::http::api_database::StreamPermit;
use crate::http::auth::{Caller, Role};
use crate::http::negotiation::preferred;
use crate::http::response::{set_header, with_body};
use crate::http::{BodyAborted, Context, HttpError, Response};
use crate::store::audit_query::filter_args::{action, network};
use crate::store::audit_query::{self, AuditEvent, Cursor, EventOrder, Filter, PageQuery, csv};

const PARAMETERS: [&str; 14] = [
    "user_id",
    "actor",
    "action",
    "resource_type",
    "resource_id",
    "source",
    "ip",
    "request_id",
    "since",
    "until",
    "limit",
    "cursor",
    "order",
    "format",
];
/// A chunk of an export ends at the first of these limits.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNK_EVENTS: i64 = 1000;
/// A page of JSON ends here, whatever its limit.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Ndjson,
}

/// Returns a page as JSON, or all events as CSV or NDJSON.
pub async fn list(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&PARAMETERS)?;
    let (database, format) = (context.database()?, format(context)?);
    let mut filter = filter(context)?;
    let scope = restrict_to_caller(&mut filter, context.caller.as_ref())?;
    if format != Format::Json && context.query.has("limit") {
        let detail = "an export has no pages: omit limit, and use since and until";
        return Err(HttpError::unprocessable("pagination_not_supported", detail));
    }
    let orders = [("newest", EventOrder::NewestFirst), ("oldest", EventOrder::OldestFirst)];
    let default =
        if format == Format::Json { EventOrder::NewestFirst } else { EventOrder::OldestFirst };
    let order = context.one_of("order", &orders)?.unwrap_or(default);
    let (cursor, limit) = (context.cursor()?, context.limit()?);
    let bound = database.db.query_timeout();
    let mut conn = database.connection().await?;
    let http_error = |error: Error| database.http_error(&error);
    if format != Format::Json {
        // Leaves out events that are recorded later, so that the export ends.
        let reader = audit_query::reader(&mut conn, bound).await.map_err(http_error)?;
        filter.until = filter.until.min(reader.now);
    }
    filter.resolve_prefix(&mut conn, bound).await.map_err(http_error)?;
    if format != Format::Json {
        drop(conn);
        let export = Export {
            db: Arc::clone(&database.db),
            filter,
            order,
            format,
            cursor,
            started: false,
            finished: false,
            stop: context.state.tasks.stopping(),
            _permit: context.state.databases.stream(context.caller.as_ref())?,
        };
        return Ok(export.response());
    }
    let page = PageQuery { filter: &filter, order, behind: cursor, limit: limit + 1 };
    let items = page
        .fold(&mut conn, bound, |items: &mut JsonItems, event| items.push(event, limit))
        .await
        .map_err(http_error)?;
    let next = items.last.filter(|_| items.more).map(|cursor| cursor.to_string());
    let head = json!({ "target": database.db.name(), "scope": scope, "next": next }).to_string();
    // The events are JSON already. `items` follows the other members of the object.
    let mut bytes = head.strip_suffix('}').unwrap_or_default().as_bytes().to_vec();
    bytes.extend_from_slice(b",\"items\":[");
    bytes.extend_from_slice(&items.bytes);
    bytes.extend_from_slice(b"]}\n");
    let mut response = with_body(StatusCode::OK, "application/json", bytes);
    set_header(&mut response, VARY, "Accept");
    Ok(response)
}

/// Events of a page as JSON, separated by commas.
#[derive(Default)]
struct JsonItems {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    /// Whether there are more events than fit.
    more: bool,
}

impl JsonItems {
    fn push(&mut self, event: &AuditEvent<'_>, limit: i64) {
        if self.count == limit || self.bytes.len() >= PAGE_BYTES_MAX {
            self.more = true;
            return;
        }
        if self.count > 0 {
            self.bytes.push(b',');
        }
        // Writing text and JSON to memory cannot fail.
        let _ = serde_json::to_writer(&mut self.bytes, event);
        self.count += 1;
        self.last = Some(event.cursor());
    }
}

fn format(context: &Context<'_>) -> Result<Format, HttpError> {
    let formats = [("json", Format::Json), ("csv", Format::Csv), ("ndjson", Format::Ndjson)];
    let media_types = ["application/json", "application/x-ndjson", "text/csv"];
    Ok(match context.one_of("format", &formats)? {
        Some(format) => format,
        None => match preferred(context.head, &media_types) {
            "text/csv" => Format::Csv,
            "application/x-ndjson" => Format::Ndjson,
            _ => Format::Json,
        },
    })
}

fn filter(context: &Context<'_>) -> Result<Filter, HttpError> {
    let invalid =
        |name: &'static str| move |error: String| HttpError::invalid(format!("{name}: {error}"));
    let (since, until) = context.time_range()?;
    let sources = ["pgsteward", "application", "trigger"].map(|source| (source, source));
    Ok(Filter {
        user_id: context.owned_text("user_id")?,
        actor: context.owned_text("actor")?,
        action: context.text("action")?.map(action).transpose().map_err(invalid("action"))?,
        resource_type: context.owned_text("resource_type")?,
        resource_id: context.owned_text("resource_id")?,
        source: context.one_of("source", &sources)?.map(str::to_owned),
        ip_address: context.text("ip")?.map(network).transpose().map_err(invalid("ip"))?,
        request_id: context.owned_text("request_id")?,
        since,
        until,
    })
}

/// Restricts the filter to the events that the caller may read: all events for an admin, the events
/// about this user for a user of the application, and the caller's own actions for other callers.
fn restrict_to_caller(
    filter: &mut Filter,
    caller: Option<&Caller>,
) -> Result<&'static str, HttpError> {
    let caller = caller.ok_or_else(HttpError::unauthenticated)?;
    if caller.role == Role::Admin {
        return Ok("all");
    }
    let (field, own, name) = match &caller.user {
        Some(user) if caller.role == Role::User => (&mut filter.user_id, user, "user_id"),
        _ => (&mut filter.actor, &caller.actor, "actor"),
    };
    if field.as_ref().is_some_and(|requested| requested != own) {
        let detail = format!("these credentials may only read events of {name} {own:?}");
        return Err(HttpError::forbidden(detail));
    }
    *field = Some(own.clone());
    Ok("own")
}

/// Sends all events of a filter in chunks. Holds no connection between two chunks, so that a client
/// that reads slowly blocks no other request.
struct Export {
    db: Arc<Database>,
    filter: Filter,
    order: EventOrder,
    format: Format,
    cursor: Option<Cursor>,
    started: bool,
    finished: bool,
    stop: CancellationToken,
    _permit: StreamPermit,
}

#[derive(Default)]
struct ExportChunk {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    full: bool,
}

impl Export {
    fn response(self) -> Response {
        let (media_type, name) = match self.format {
            Format::Csv => ("text/csv; charset=utf-8; header=present", "audit.csv"),
            Format::Json | Format::Ndjson => ("application/x-ndjson", "audit.ndjson"),
        };
        let chunks = stream::unfold(self, |mut export| async move {
            let chunk = export.next_chunk().await?;
            Some((chunk, export))
        });
        let mut response = attachment(media_type, name, Box::pin(chunks));
        set_header(&mut response, VARY, "Accept");
        response
    }

    /// Reads the next chunk. Returns `None` at the end.
    async fn next_chunk(&mut self) -> Option<Result<Bytes, BodyAborted>> {
        if self.finished {
            return None;
        }
        let mut bytes = Vec::new();
        if !std::mem::replace(&mut self.started, true) && self.format == Format::Csv {
            csv::header(&mut bytes);
        }
        let read = tokio::select! {
            () = self.stop.cancelled() => {
                self.finished = true;
                return Some(Err(BodyAborted));
            }
            read = self.read() => read,
        };
        match read {
            Ok(chunk) => {
                self.finished = !chunk.full && chunk.count < CHUNK_EVENTS;
                self.cursor = chunk.last.or(self.cursor);
                bytes.extend_from_slice(&chunk.bytes);
                // An export without events has no chunk.
                if bytes.is_empty() { None } else { Some(Ok(bytes.into())) }
            }
            Err(error) => {
                tracing::warn!(database = self.db.name(), error = %error, "audit export aborted");
                self.finished = true;
                Some(Err(BodyAborted))
            }
        }
    }

    async fn read(&self) -> Result<ExportChunk, Error> {
        let mut conn = self.db.acquire(Purpose::Api).await?;
        let (filter, order, format) = (&self.filter, self.order, self.format);
        let page = PageQuery { filter, order, behind: self.cursor, limit: CHUNK_EVENTS };
        page.fold(&mut conn, self.db.query_timeout(), |chunk: &mut ExportChunk, event| {
            chunk.push(event, format);
        })
        .await
    }
}

impl ExportChunk {
    fn push(&mut self, event: &AuditEvent<'_>, format: Format) {
        self.full = self.full || self.bytes.len() >= CHUNK_BYTES;
        if self.full {
            return;
        }
        match format {
            Format::Csv => csv::event(&mut self.bytes, event),
            Format::Json | Format::Ndjson => {
                // Writing text and JSON to memory cannot fail.
                let _ = serde_json::to_writer(&mut self.bytes, event);
                self.bytes.push(b'\n');
            }
        }
        self.count += 1;
        self.last = Some(event.cursor());
    }
}
