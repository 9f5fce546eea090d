//! `GET /health/audit`: events of the audit trail. Everything for an admin, one's own for everybody else.

use std::sync::Arc;

use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::VARY;
use serde_json::json;

use super::input::{invalid, unprocessable};
use super::stream::attachment;
use crate::db::{Database, Error, Purpose};
use crate::http::api_database::StreamPermit;
use crate::http::auth::{Caller, Role};
use crate::http::negotiation::preferred;
use crate::http::response::{set_header, with_body};
use crate::http::{BodyAborted, Context, HttpError, Response};
use crate::store::audit_query::filter_args::{action, network};
use crate::store::audit_query::{
    self, AuditEvent, Cursor, EventOrder, Filter, LATEST, PageQuery, csv,
};

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
/// A page of an export is about so large; events differ in size.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNK_EVENTS: i64 = 1000;
/// A page ends here, whatever was asked for.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Which of the forms is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Ndjson,
}

/// Pages of JSON, or all of it as CSV or NDJSON.
pub async fn list(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&PARAMETERS)?;
    let (database, format) = (context.database()?, format(context)?);
    let mut filter = filter(context)?;
    let scope = restrict_to_caller(&mut filter, context.caller.as_ref())?;
    if format != Format::Json && context.query.has("limit") {
        let detail = "an export has no pages, it gives everything that since and until leave: leave out limit";
        return Err(unprocessable("no_pages", detail));
    }
    let order = match context.text("order")? {
        None if format != Format::Json => EventOrder::OldestFirst,
        None | Some("newest") => EventOrder::NewestFirst,
        Some("oldest") => EventOrder::OldestFirst,
        Some(other) => {
            return Err(invalid(format!("order: found {other:?}, wanted newest or oldest")));
        }
    };
    let after = context.text("cursor")?.map(str::parse::<Cursor>).transpose();
    let after = after.map_err(|wrong| invalid(format!("cursor: {wrong}")))?;
    let limit = context.number("limit", 100, 1, 1000)?;
    let bound = database.db.query_timeout();
    let mut conn = database.connection().await?;
    if format != Format::Json {
        // Nothing that comes after the beginning, so that there is an end.
        let reader = audit_query::reader(&mut conn, bound)
            .await
            .map_err(|error| database.http_error(&error))?;
        filter.until = filter.until.min(reader.now);
    }
    filter.resolve_prefix(&mut conn, bound).await.map_err(|error| database.http_error(&error))?;
    if format != Format::Json {
        drop(conn);
        let export = Export {
            db: Arc::clone(&database.db),
            filter,
            order,
            format,
            after,
            began: false,
            over: false,
            stop: context.state.tasks.stopping(),
            _permit: context.state.databases.stream(context.caller.as_ref())?,
        };
        return Ok(export.response());
    }
    let page = PageQuery { filter: &filter, order, behind: after, limit: limit + 1 };
    let read =
        page.fold(&mut conn, bound, |page: &mut JsonPage, event| page.take(event, limit)).await;
    let page_json = read.map_err(|error| database.http_error(&error))?;
    let next = page_json.next().map(|cursor| cursor.to_string());
    let mut bytes = format!(
        "{{\"target\":{},\"scope\":\"{scope}\",\"next\":{},\"items\":[",
        json!(database.db.name()),
        json!(next)
    )
    .into_bytes();
    bytes.extend_from_slice(&page_json.bytes);
    bytes.extend_from_slice(b"]}\n");
    let mut response = with_body(StatusCode::OK, "application/json", bytes);
    set_header(&mut response, VARY, "Accept");
    Ok(response)
}

/// Events of a page, as JSON with commas between.
#[derive(Default)]
struct JsonPage {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    more: bool,
}

impl JsonPage {
    fn take(&mut self, event: &AuditEvent<'_>, limit: i64) {
        if self.count == limit || self.bytes.len() >= PAGE_BYTES_MAX {
            self.more = true;
            return;
        }
        if self.count > 0 {
            self.bytes.push(b',');
        }
        // Into memory, of texts and JSON: it cannot fail.
        let _ = serde_json::to_writer(&mut self.bytes, event);
        self.count += 1;
        self.last = Some(event.cursor());
    }

    fn next(&self) -> Option<Cursor> {
        self.last.filter(|_| self.more)
    }
}

fn format(context: &Context<'_>) -> Result<Format, HttpError> {
    match context.text("format")? {
        Some("json") => Ok(Format::Json),
        Some("csv") => Ok(Format::Csv),
        Some("ndjson") => Ok(Format::Ndjson),
        Some(other) => Err(invalid(format!("format: found {other:?}, wanted json, csv or ndjson"))),
        None => Ok(
            match preferred(context.head, &["application/json", "application/x-ndjson", "text/csv"])
            {
                "text/csv" => Format::Csv,
                "application/x-ndjson" => Format::Ndjson,
                _ => Format::Json,
            },
        ),
    }
}

fn filter(context: &Context<'_>) -> Result<Filter, HttpError> {
    let text = |name| Ok::<_, HttpError>(context.text(name)?.map(str::to_owned));
    let wrong = |name: &str| {
        let name = name.to_owned();
        move |wrong| invalid(format!("{name}: {wrong}"))
    };
    let source = text("source")?;
    if source
        .as_deref()
        .is_some_and(|source| !matches!(source, "pgsteward" | "application" | "trigger"))
    {
        return Err(invalid("source: wanted pgsteward, application or trigger"));
    }
    let filter = Filter {
        user_id: text("user_id")?,
        actor: text("actor")?,
        action: context.text("action")?.map(action).transpose().map_err(wrong("action"))?,
        resource_type: text("resource_type")?,
        resource_id: text("resource_id")?,
        source,
        ip_address: context.text("ip")?.map(network).transpose().map_err(wrong("ip"))?,
        request_id: text("request_id")?,
        since: context.time("since")?.unwrap_or(audit_query::EARLIEST),
        until: context.time("until")?.unwrap_or(LATEST),
    };
    if filter.since >= filter.until {
        return Err(unprocessable("empty_range", "wanted since to be before until"));
    }
    Ok(filter)
}

/// Leaves of the events those that the caller may see: all for an admin, else those of the user that the caller is, or
/// of its own acts here.
fn restrict_to_caller(
    filter: &mut Filter,
    caller: Option<&Caller>,
) -> Result<&'static str, HttpError> {
    let Some(caller) = caller else {
        return Err(HttpError::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "this endpoint wants credentials",
        ));
    };
    if caller.role == Role::Admin {
        return Ok("all");
    }
    // A user of the application is told of by others; whoever else calls is known here as an actor.
    let (place, own, name) = match &caller.user {
        Some(user) if caller.role == Role::User => (&mut filter.user_id, user, "user_id"),
        _ => (&mut filter.actor, &caller.actor, "actor"),
    };
    match place {
        Some(other) if other != own => {
            let detail = format!("these credentials see events of {name} {own:?} only");
            Err(HttpError::new(StatusCode::FORBIDDEN, "forbidden", detail))
        }
        _ => {
            *place = Some(own.clone());
            Ok("own")
        }
    }
}

/// All events of a filter, piece by piece. Between two pieces no connection is held: a client that reads slowly
/// keeps nobody from anything.
struct Export {
    db: Arc<Database>,
    filter: Filter,
    order: EventOrder,
    format: Format,
    after: Option<Cursor>,
    began: bool,
    over: bool,
    stop: tokio_util::sync::CancellationToken,
    _permit: StreamPermit,
}

/// A piece of an export.
#[derive(Default)]
struct ExportChunk {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    full: bool,
}

impl Export {
    fn response(self) -> Response {
        let (kind, name) = match self.format {
            Format::Csv => ("text/csv; charset=utf-8; header=present", "audit.csv"),
            Format::Json | Format::Ndjson => ("application/x-ndjson", "audit.ndjson"),
        };
        let chunks = stream::unfold(self, |mut export| async move {
            let chunk = export.chunk().await?;
            Some((chunk, export))
        });
        let mut response = attachment(kind, name, Box::pin(chunks));
        set_header(&mut response, VARY, "Accept");
        response
    }

    /// `None` at the end.
    async fn chunk(&mut self) -> Option<Result<Bytes, BodyAborted>> {
        if self.over {
            return None;
        }
        let mut bytes = Vec::new();
        if !std::mem::replace(&mut self.began, true) && self.format == Format::Csv {
            csv::header(&mut bytes);
        }
        let read = tokio::select! {
            () = self.stop.cancelled() => {
                self.over = true;
                return Some(Err(BodyAborted));
            }
            read = self.read() => read,
        };
        match read {
            Ok(chunk) => {
                self.over = !chunk.full && chunk.count < CHUNK_EVENTS;
                self.after = chunk.last.or(self.after);
                bytes.extend_from_slice(&chunk.bytes);
                // An empty piece is no piece: of an export without events there is none.
                if bytes.is_empty() { None } else { Some(Ok(bytes.into())) }
            }
            Err(error) => {
                tracing::warn!(database = self.db.name(), error = %error, "an export was cut off");
                self.over = true;
                Some(Err(BodyAborted))
            }
        }
    }

    async fn read(&self) -> Result<ExportChunk, Error> {
        let mut conn = self.db.acquire(Purpose::Api).await?;
        let page = PageQuery {
            filter: &self.filter,
            order: self.order,
            behind: self.after,
            limit: CHUNK_EVENTS,
        };
        let format = self.format;
        page.fold(&mut conn, self.db.query_timeout(), |chunk: &mut ExportChunk, event| {
            chunk.take(event, format);
        })
        .await
    }
}

impl ExportChunk {
    fn take(&mut self, event: &AuditEvent<'_>, format: Format) {
        self.full = self.full || self.bytes.len() >= CHUNK_BYTES;
        if self.full {
            return;
        }
        match format {
            Format::Csv => csv::event(&mut self.bytes, event),
            Format::Json | Format::Ndjson => {
                // Into memory, of texts and JSON: it cannot fail.
                let _ = serde_json::to_writer(&mut self.bytes, event);
                self.bytes.push(b'\n');
            }
        }
        self.count += 1;
        self.last = Some(event.cursor());
    }
}
