//! Handles a request from its head to its response: limits, route, access, metrics.

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

use super::authenticator::{AuthRequest, Authenticated};
use super::query::Query;
use super::response::{set_header, text};
use super::routes::{RouteMatch, allow, find_route};
use super::{App, BATCH_MAX_BYTES, BodyLimit, Context, HttpError, Response, cors};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of path and query. All valid ones are much shorter.
const TARGET_MAX: usize = 4096;
/// Of a body that is too large, this much is read and thrown away, so that the client is done
/// sending when it is told; a client that goes on loses the answer with the connection.
const DISCARD_MAX: usize = 1 << 20;
const DISCARD_FOR: Duration = Duration::from_secs(1);
/// A large body that is sent slowly holds a place among few; a small one holds none.
const BATCH_WITHIN: Duration = Duration::from_secs(10);

/// Handles a request. Errors become responses.
pub async fn response(app: &App, request: Request<Incoming>, peer: SocketAddr) -> Response {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let request_id = request_id(&head);
    let route_match = if head.uri.path() == "*" {
        RouteMatch::Nothing
    } else {
        find_route(&app.routes, &head.method, head.uri.path())
    };
    let label = match &route_match {
        RouteMatch::Route { route, .. } => route.path,
        RouteMatch::OtherMethods { path, .. } => path,
        RouteMatch::Nothing | RouteMatch::Malformed => "unmatched",
    };
    let info = RequestInfo { head: &head, request_id: &request_id, peer, started };
    let mut response = match respond(app, &info, body, route_match).await {
        Ok(response) => response,
        Err(error) => error.response(&request_id),
    };
    set_header(&mut response, REQUEST_ID, &request_id);
    if !response.headers().contains_key(CACHE_CONTROL) {
        set_header(&mut response, CACHE_CONTROL, "no-store");
    }
    set_header(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    cors::mark(&mut response, &head, &app.state.authenticator);

    let seconds = started.elapsed().as_secs_f64();
    let code = response.status();
    let metrics = &app.state.metrics;
    metrics.http_requests_total.with_label_values(&[label, code.as_str()]).inc();
    metrics.http_request_duration_seconds.with_label_values(&[label]).observe(seconds);
    tracing::debug!(method = %head.method, route = label, code = code.as_u16(), seconds, request_id, "request");
    response
}

/// A request without its body.
struct RequestInfo<'a> {
    head: &'a Parts,
    request_id: &'a str,
    peer: SocketAddr,
    started: Instant,
}

async fn respond(
    app: &App,
    info: &RequestInfo<'_>,
    body: Incoming,
    route_match: RouteMatch<'_>,
) -> Result<Response, HttpError> {
    let head = info.head;
    check_head(head)?;
    let (route, segment) = match route_match {
        // What a path allows, or, by `OPTIONS *`, any.
        RouteMatch::OtherMethods { allow, .. } if head.method == Method::OPTIONS => {
            let mut response = options(&allow);
            cors::allow(&mut response, head, &app.state.authenticator, &allow);
            return Ok(response);
        }
        RouteMatch::Nothing if head.method == Method::OPTIONS && head.uri.path() == "*" => {
            return Ok(options(&allow(app.routes.iter().map(|route| &route.method))));
        }
        RouteMatch::Route { route, segment } => (route, segment),
        RouteMatch::OtherMethods { allow, .. } => {
            let detail = format!("this endpoint has the methods {allow}");
            return Err(HttpError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                detail,
            )
            .allow_methods(allow));
        }
        RouteMatch::Nothing => {
            return Err(HttpError::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "no such endpoint; GET / lists them",
            ));
        }
        RouteMatch::Malformed => return Err(malformed("the path is not percent-encoded UTF-8")),
    };
    let auth_request =
        AuthRequest { head, peer: info.peer, access: route.access, route: route.path };
    let Authenticated { caller, from } =
        app.state.authenticator.authenticate(auth_request, &app.state.metrics)?;
    let query = head.uri.query().unwrap_or_default();
    let query =
        Query::parse(query).ok_or_else(|| malformed("the query is not percent-encoded UTF-8"))?;
    let deadline = info.started + app.limits.request_timeout;
    let expects = head.headers.contains_key(EXPECT);
    let usual = app.limits.body_limit_bytes;
    let small = body
        .size_hint()
        .exact()
        .is_some_and(|length| usize::try_from(length).is_ok_and(|bytes| bytes <= usual));
    let (batch_permit, most, until) = match route.body {
        BodyLimit::Batch if !small => {
            let batch_permit = Some(Arc::new(acquire_batch_permit(app, deadline).await?));
            (batch_permit, BATCH_MAX_BYTES, deadline.min(Instant::now() + BATCH_WITHIN))
        }
        BodyLimit::Usual | BodyLimit::Batch => (None, usual, deadline),
    };
    let body = match timeout_at(until, read(body, most, expects)).await {
        Ok(body) => body?,
        Err(_) => {
            let detail = "the body did not arrive in time (http.request_timeout)";
            return Err(HttpError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
                .close_connection());
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
        request_id: info.request_id,
        from,
        batch_permit,
        deadline,
    };
    match timeout_at(deadline, catch_panic(async { (route.handler)(&context).await })).await {
        Ok(Ok(outcome)) => outcome,
        // The panic itself was logged where it happened.
        Ok(Err(_)) => {
            let detail = "the request failed; see the log for the cause";
            Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
        Err(_) => {
            let detail = "the request timed out (http.request_timeout); try again later";
            Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail)
                .retry_after(Duration::from_secs(1)))
        }
    }
}

/// What RFC 9112 section 3.2 demands of a request, and our own limit.
fn check_head(head: &Parts) -> Result<(), HttpError> {
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
        return Err(malformed("HTTP/1.1 requires exactly one Host header"));
    }
    let length = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > TARGET_MAX {
        let detail =
            format!("expected path and query of at most {TARGET_MAX} bytes, found {length}");
        return Err(HttpError::new(StatusCode::URI_TOO_LONG, "uri_too_long", detail));
    }
    Ok(())
}

fn malformed(detail: &str) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

/// A place among those whose large bodies are read at a time: together they must not fill the memory.
async fn acquire_batch_permit(
    app: &App,
    deadline: Instant,
) -> Result<OwnedSemaphorePermit, HttpError> {
    match timeout_at(deadline, Arc::clone(&app.batches).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        // It is never closed.
        Ok(Err(_)) | Err(_) => {
            let detail = "too many batches are being written at the moment";
            let error = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
            Err(error.retry_after(Duration::from_secs(1)).close_connection())
        }
    }
}

fn options(allow: &str) -> Response {
    let mut response = text(StatusCode::NO_CONTENT, "");
    response.headers_mut().remove(hyper::header::CONTENT_TYPE);
    response.headers_mut().remove(hyper::header::CONTENT_LENGTH);
    set_header(&mut response, ALLOW, allow);
    response
}

/// The whole body, of at most `limit` bytes.
async fn read(mut body: Incoming, limit: usize, expects: bool) -> Result<Bytes, HttpError> {
    let too_large = || {
        let detail = format!("the body is larger than {limit} bytes");
        HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).close_connection()
    };
    if usize::try_from(body.size_hint().lower()).is_ok_and(|announced| announced <= limit) {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|_| malformed("the body is malformed or ends early").close_connection())?;
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
async fn catch_panic<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    // What a handler reads is behind locks that survive poisoning, or is never changed.
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}
