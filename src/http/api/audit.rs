//! `GET /health/audit`: events of the audit trail. Everything for an admin, one's own for everybody else.

use std::sync::Arc;

use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::VARY;
use serde_json::json;

use super::input::{invalid, unprocessable};
use super::stream::file;
use crate::db::{Database, Error, Purpose};
use crate::http::answer::{body, set};
use crate::http::auth::{Caller, Role};
use crate::http::desk::Stream;
use crate::http::negotiation::preferred;
use crate::http::{Answer, Context, Cut, Refusal};
use crate::store::audit_query::asked::{action, network};
use crate::store::audit_query::{self, Cursor, Filter, LATEST, Order, Page, Recorded, csv};

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
const PIECE_BYTES: usize = 256 * 1024;
const PIECE_EVENTS: i64 = 1000;
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
pub async fn list(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&PARAMETERS)?;
    let (desk, format) = (context.desk()?, format(context)?);
    let mut filter = filter(context)?;
    let scope = narrow(&mut filter, context.caller.as_ref())?;
    if format != Format::Json && context.query.has("limit") {
        let detail = "an export has no pages, it gives everything that since and until leave: leave out limit";
        return Err(unprocessable("no_pages", detail));
    }
    let order = match context.text("order")? {
        None if format != Format::Json => Order::OldestFirst,
        None | Some("newest") => Order::NewestFirst,
        Some("oldest") => Order::OldestFirst,
        Some(other) => {
            return Err(invalid(format!("order: found {other:?}, wanted newest or oldest")));
        }
    };
    let behind = context.text("cursor")?.map(str::parse::<Cursor>).transpose();
    let behind = behind.map_err(|wrong| invalid(format!("cursor: {wrong}")))?;
    let limit = context.number("limit", 100, 1, 1000)?;
    let bound = desk.db.query_timeout();
    let mut conn = desk.conn().await?;
    if format != Format::Json {
        // Nothing that comes after the beginning, so that there is an end.
        let reader =
            audit_query::reader(&mut conn, bound).await.map_err(|error| desk.refusal(&error))?;
        filter.until = filter.until.min(reader.now);
    }
    filter.settle(&mut conn, bound).await.map_err(|error| desk.refusal(&error))?;
    if format != Format::Json {
        drop(conn);
        let export = Export {
            db: Arc::clone(&desk.db),
            filter,
            order,
            format,
            behind,
            began: false,
            over: false,
            stop: context.state.tasks.stopping(),
            _place: context.state.desks.stream(context.caller.as_ref())?,
        };
        return Ok(export.answer());
    }
    let page = Page { filter: &filter, order, behind, limit: limit + 1 };
    let read = page.fold(&mut conn, bound, |page: &mut Taken, event| page.take(event, limit)).await;
    let taken = read.map_err(|error| desk.refusal(&error))?;
    let next = taken.next().map(|cursor| cursor.to_string());
    let mut bytes = format!(
        "{{\"target\":{},\"scope\":\"{scope}\",\"next\":{},\"items\":[",
        json!(desk.db.name()),
        json!(next)
    )
    .into_bytes();
    bytes.extend_from_slice(&taken.bytes);
    bytes.extend_from_slice(b"]}\n");
    let mut answer = body(StatusCode::OK, "application/json", bytes);
    set(&mut answer, VARY, "Accept");
    Ok(answer)
}

/// Events of a page, as JSON with commas between.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    more: bool,
}

impl Taken {
    fn take(&mut self, event: &Recorded<'_>, limit: i64) {
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

fn format(context: &Context<'_>) -> Result<Format, Refusal> {
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

fn filter(context: &Context<'_>) -> Result<Filter, Refusal> {
    let text = |name| Ok::<_, Refusal>(context.text(name)?.map(str::to_owned));
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
        since: context.moment("since")?.unwrap_or(audit_query::EARLIEST),
        until: context.moment("until")?.unwrap_or(LATEST),
    };
    if filter.since >= filter.until {
        return Err(unprocessable("empty_range", "wanted since to be before until"));
    }
    Ok(filter)
}

/// Leaves of the events those that the caller may see: all for an admin, else those of the user that the caller is, or
/// of its own acts here.
fn narrow(filter: &mut Filter, caller: Option<&Caller>) -> Result<&'static str, Refusal> {
    let Some(caller) = caller else {
        return Err(Refusal::new(
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
            Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail))
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
    order: Order,
    format: Format,
    behind: Option<Cursor>,
    began: bool,
    over: bool,
    stop: tokio_util::sync::CancellationToken,
    _place: Stream,
}

/// A piece of an export.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    count: i64,
    last: Option<Cursor>,
    full: bool,
}

impl Export {
    fn answer(self) -> Answer {
        let (kind, name) = match self.format {
            Format::Csv => ("text/csv; charset=utf-8; header=present", "audit.csv"),
            Format::Json | Format::Ndjson => ("application/x-ndjson", "audit.ndjson"),
        };
        let pieces = stream::unfold(self, |mut export| async move {
            let piece = export.piece().await?;
            Some((piece, export))
        });
        let mut answer = file(kind, name, Box::pin(pieces));
        set(&mut answer, VARY, "Accept");
        answer
    }

    /// `None` at the end.
    async fn piece(&mut self) -> Option<Result<Bytes, Cut>> {
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
                return Some(Err(Cut));
            }
            read = self.read() => read,
        };
        match read {
            Ok(piece) => {
                self.over = !piece.full && piece.count < PIECE_EVENTS;
                self.behind = piece.last.or(self.behind);
                bytes.extend_from_slice(&piece.bytes);
                // An empty piece is no piece: of an export without events there is none.
                if bytes.is_empty() { None } else { Some(Ok(bytes.into())) }
            }
            Err(error) => {
                tracing::warn!(database = self.db.name(), error = %error, "an export was cut off");
                self.over = true;
                Some(Err(Cut))
            }
        }
    }

    async fn read(&self) -> Result<Piece, Error> {
        let mut conn = self.db.acquire(Purpose::Api).await?;
        let page = Page {
            filter: &self.filter,
            order: self.order,
            behind: self.behind,
            limit: PIECE_EVENTS,
        };
        let format = self.format;
        page.fold(&mut conn, self.db.query_timeout(), |piece: &mut Piece, event| {
            piece.take(event, format);
        })
        .await
    }
}

impl Piece {
    fn take(&mut self, event: &Recorded<'_>, format: Format) {
        self.full = self.full || self.bytes.len() >= PIECE_BYTES;
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
