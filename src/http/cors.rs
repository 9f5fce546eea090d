//! Pages of other origins: only those that the configuration names may read answers.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;

use super::response::set_header;
use super::{Authenticator, Response};

/// Lets the page read this answer, where its origin is one of the configured. Credentials are sent in a header by
/// the page itself, never by the browser on its own, so none are allowed for.
pub fn mark(response: &mut Response, head: &Parts, authenticator: &Authenticator) {
    let rules = authenticator.rules();
    if rules.cors_origins.is_empty() {
        return;
    }
    response.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) =
        origin(head).filter(|origin| rules.cors_origins.iter().any(|known| known == origin))
    {
        set_header(response, ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set_header(
            response,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            "content-disposition, idempotency-replayed, location, preference-applied, retry-after, x-request-id",
        );
    }
}

/// The answer to a browser that asks beforehand.
pub fn allow(response: &mut Response, head: &Parts, authenticator: &Authenticator, methods: &str) {
    let asks = head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if asks
        && origin(head).is_some_and(|origin| {
            authenticator.rules().cors_origins.iter().any(|known| known == origin)
        })
    {
        set_header(response, ACCESS_CONTROL_ALLOW_METHODS, methods);
        let headers = "apikey, authorization, content-type, idempotency-key, prefer, x-request-id";
        set_header(response, ACCESS_CONTROL_ALLOW_HEADERS, headers);
        set_header(response, ACCESS_CONTROL_MAX_AGE, "600");
    }
}

fn origin(head: &Parts) -> Option<&str> {
    head.headers.get(ORIGIN)?.to_str().ok()
}
