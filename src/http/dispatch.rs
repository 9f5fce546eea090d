//! One request, from its head to its answer: limits, route, access, count.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, EXPECT, HOST, HeaderName, X_CONTENT_TYPE_OPTIONS};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Version};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{set, text};
use super::gate::{Admitted, Call};
use super::query::Query;
use super::routes::{Found, allow, find};
use super::{Answer, App, BATCH_MAX_BYTES, BodyLimit, Context, Refusal, cors};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of path and query. None of ours comes near.
const TARGET_MAX: usize = 4096;
/// Of a body that is too large, this much is read and thrown away, so that the client is done
/// sending when it is told; a client that goes on loses the answer with the connection.
const DISCARD_MAX: usize = 1 << 20;
const DISCARD_FOR: Duration = Duration::from_secs(1);
/// A large body that is sent slowly holds a place among few; a small one holds none.
const BATCH_WITHIN: Duration = Duration::from_secs(10);

/// Answers a request. Never fails: what goes wrong is an answer too.
pub async fn answer(app: &App, request: Request<Incoming>, peer: SocketAddr) -> Answer {
    let begun = Instant::now();
    let (head, body) = request.into_parts();
    let request_id = request_id(&head);
    let found = if head.uri.path() == "*" {
        Found::Nothing
    } else {
        find(&app.routes, &head.method, head.uri.path())
    };
    let label = match &found {
        Found::Route { route, .. } => route.path,
        Found::OtherMethods { path, .. } => path,
        Found::Nothing | Found::Malformed => "unmatched",
    };
    let asked = Asked { head: &head, request_id: &request_id, peer, begun };
    let mut answer = match respond(app, &asked, body, found).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(&request_id),
    };
    set(&mut answer, REQUEST_ID, &request_id);
    if !answer.headers().contains_key(CACHE_CONTROL) {
        set(&mut answer, CACHE_CONTROL, "no-store");
    }
    set(&mut answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
    cors::mark(&mut answer, &head, &app.state.gate);

    let seconds = begun.elapsed().as_secs_f64();
    let code = answer.status();
    let metrics = &app.state.metrics;
    metrics.http_requests_total.with_label_values(&[label, code.as_str()]).inc();
    metrics.http_request_duration_seconds.with_label_values(&[label]).observe(seconds);
    tracing::debug!(method = %head.method, route = label, code = code.as_u16(), seconds, request_id, "request");
    answer
}

/// A request without its body.
struct Asked<'a> {
    head: &'a Parts,
    request_id: &'a str,
    peer: SocketAddr,
    begun: Instant,
}

async fn respond(
    app: &App,
    asked: &Asked<'_>,
    body: Incoming,
    found: Found<'_>,
) -> Result<Answer, Refusal> {
    let head = asked.head;
    acceptable(head)?;
    let (route, segment) = match found {
        // What a path allows, or, by `OPTIONS *`, any.
        Found::OtherMethods { allow, .. } if head.method == Method::OPTIONS => {
            let mut answer = options(&allow);
            cors::allow(&mut answer, head, &app.state.gate, &allow);
            return Ok(answer);
        }
        Found::Nothing if head.method == Method::OPTIONS && head.uri.path() == "*" => {
            return Ok(options(&allow(app.routes.iter().map(|route| &route.method))));
        }
        Found::Route { route, segment } => (route, segment),
        Found::OtherMethods { allow, .. } => {
            let detail = format!("this endpoint answers {allow}");
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                .allowing(allow));
        }
        Found::Nothing => {
            return Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such endpoint; GET / lists them",
            ));
        }
        Found::Malformed => return Err(malformed("the path is not percent-encoded UTF-8")),
    };
    let call = Call { head, peer: asked.peer, access: route.access, route: route.path };
    let Admitted { caller, from } = app.state.gate.admit(call, &app.state.metrics)?;
    let query = head.uri.query().unwrap_or_default();
    let query =
        Query::parse(query).ok_or_else(|| malformed("the query is not percent-encoded UTF-8"))?;
    let deadline = asked.begun + app.limits.request_timeout;
    let expects = head.headers.contains_key(EXPECT);
    let usual = app.limits.body_limit_bytes;
    let small = body
        .size_hint()
        .exact()
        .is_some_and(|length| usize::try_from(length).is_ok_and(|bytes| bytes <= usual));
    let (place, most, until) = match route.body {
        BodyLimit::Batch if !small => {
            let place = Some(Arc::new(batch(app, deadline).await?));
            (place, BATCH_MAX_BYTES, deadline.min(Instant::now() + BATCH_WITHIN))
        }
        BodyLimit::Usual | BodyLimit::Batch => (None, usual, deadline),
    };
    let body = match timeout_at(until, read(body, most, expects)).await {
        Ok(body) => body?,
        Err(_) => {
            let detail = "the body did not arrive in time (http.request_timeout)";
            return Err(
                Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail).closing()
            );
        }
    };
    let context = Context {
        state: &app.state,
        routes: &app.routes,
        head,
        segment,
        query,
        body,
        caller,
        request_id: asked.request_id,
        from,
        place,
        deadline,
    };
    match timeout_at(deadline, unpanicked(async { (route.handler)(&context).await })).await {
        Ok(Ok(outcome)) => outcome,
        // The panic itself was logged where it happened.
        Ok(Err(_)) => {
            let detail = "the request could not be answered; the log says why";
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
        Err(_) => {
            let detail = "there was no answer in time (http.request_timeout); try again later";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail)
                .later(Duration::from_secs(1)))
        }
    }
}

/// What RFC 9112 section 3.2 demands of a request, and our own limit.
fn acceptable(head: &Parts) -> Result<(), Refusal> {
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        return Err(malformed("HTTP/1.1 wants exactly one Host header"));
    }
    let length = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > TARGET_MAX {
        let detail = format!("path and query have {length} bytes; at most {TARGET_MAX} are taken");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, "uri_too_long", detail));
    }
    Ok(())
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

/// A place among those whose large bodies are read at a time: together they must not fill the memory.
async fn batch(app: &App, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
    match timeout_at(deadline, Arc::clone(&app.batches).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        // It is never closed.
        Ok(Err(_)) | Err(_) => {
            let detail = "too many batches are being written at the moment";
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
            Err(refusal.later(Duration::from_secs(1)).closing())
        }
    }
}

fn options(allow: &str) -> Answer {
    let mut answer = text(StatusCode::NO_CONTENT, "");
    answer.headers_mut().remove(hyper::header::CONTENT_TYPE);
    answer.headers_mut().remove(hyper::header::CONTENT_LENGTH);
    set(&mut answer, ALLOW, allow);
    answer
}

/// The whole body, of at most `limit` bytes.
async fn read(mut body: Incoming, limit: usize, expects: bool) -> Result<Bytes, Refusal> {
    let too_large = || {
        let detail = format!("the body is larger than {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).closing()
    };
    if usize::try_from(body.size_hint().lower()).is_ok_and(|announced| announced <= limit) {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| malformed("the body is malformed or ends early").closing())?;
            // Trailers are of no use here.
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limit {
                discard(&mut body).await;
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        return Ok(bytes.into());
    }
    // A client that waits for "100 Continue" has sent nothing yet, and need not.
    if !expects {
        discard(&mut body).await;
    }
    Err(too_large())
}

async fn discard(body: &mut Incoming) {
    let mut left = DISCARD_MAX;
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Out of time or not: either way this is as far as it goes.
    let _ = timeout(DISCARD_FOR, read).await;
}

/// The client's name for the request where it is fit for a log line, else one of ours.
fn request_id(head: &Parts) -> String {
    let sane = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let given = head.headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// Runs a future; a panic in it is an error.
async fn unpanicked<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    // What a handler reads is behind locks that survive poisoning, or is never changed.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
