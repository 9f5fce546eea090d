//! Responses and errors as they go over the wire.

use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::body::{Body, ChunkStream};

/// A response of any handler.
pub type Response = hyper::Response<Body>;

/// An error response: `application/problem+json` by RFC 9457.
///
/// `code` is stable and for programs, `detail` is for people. Both go to any caller, so neither
/// contains what the server or the configuration keeps private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpError {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    /// The methods that the path has, for a 405.
    allow: Option<String>,
    /// Closes the connection, because the request was not read to its end.
    close: bool,
    retry_after: Option<Duration>,
    /// Members of the problem beside the common ones.
    members: Map<String, Value>,
}

impl HttpError {
    /// Creates an error that leaves the connection open.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> HttpError {
        HttpError {
            status,
            code,
            detail: detail.into(),
            allow: None,
            close: false,
            retry_after: None,
            members: Map::new(),
        }
    }

    /// 400: the request cannot be parsed.
    pub fn invalid(detail: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 401: the request has no credentials.
    pub fn unauthenticated() -> HttpError {
        let detail = "this endpoint requires credentials: Authorization: Bearer TOKEN";
        HttpError::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// 403: the caller's role does not permit the request.
    pub fn forbidden(detail: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 404: no database has the name of the parameter `target`.
    pub fn no_such_target<'n>(known: impl Iterator<Item = &'n String>) -> HttpError {
        let known: Vec<&str> = known.map(String::as_str).collect();
        let detail = format!("target: expected one of {}", known.join(", "));
        HttpError::new(StatusCode::NOT_FOUND, "no_such_target", detail)
    }

    /// 409: the state of the database does not permit the request.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::CONFLICT, code, detail)
    }

    /// 422: the request can be parsed, but its values are not valid together.
    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 500: the cause is in the log.
    pub fn internal() -> HttpError {
        let detail = "the request failed; see the log for the cause";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    /// 503 with `Retry-After`.
    pub fn unavailable(
        code: &'static str,
        detail: impl Into<String>,
        retry_after: Duration,
    ) -> HttpError {
        let retry_after = Some(retry_after);
        let error = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        HttpError { retry_after, ..error }
    }

    /// 503: a limit on concurrent work is reached. The caller may retry after a second.
    pub fn busy(detail: impl Into<String>) -> HttpError {
        HttpError::unavailable("busy", detail, Duration::from_secs(1))
    }

    /// Closes the connection after the response.
    pub fn close_connection(self) -> HttpError {
        HttpError { close: true, ..self }
    }

    /// Adds the header `Allow`.
    pub fn allow_methods(self, methods: String) -> HttpError {
        HttpError { allow: Some(methods), ..self }
    }

    /// Adds the header `Retry-After`.
    pub fn retry_after(self, after: Duration) -> HttpError {
        HttpError { retry_after: Some(after), ..self }
    }

    /// Adds a member to the problem.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> HttpError {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Returns the response for this error.
    pub fn response(&self, request_id: &str) -> Response {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'static str,
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            request_id: &'a str,
            #[serde(flatten)]
            members: &'a Map<String, Value>,
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id,
            members: &self.members,
        };
        let mut response = json(self.status, "application/problem+json", &problem);
        if let Some(methods) = &self.allow {
            set_header(&mut response, ALLOW, methods);
        }
        if self.close {
            set_header(&mut response, CONNECTION, "close");
        }
        if let Some(after) = self.retry_after {
            // The header has whole seconds. Rounded up, so that nobody retries too early.
            let seconds = after.as_millis().div_ceil(1000).max(1);
            set_header(&mut response, RETRY_AFTER, &seconds.to_string());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            set_header(&mut response, WWW_AUTHENTICATE, "Bearer");
        }
        response
    }
}

/// Returns a response with this body.
pub fn with_body(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response {
    let body = body.into();
    // Set here, because the body of a response to HEAD is not sent.
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

/// Returns a response whose body is produced while it is sent, so that its length is unknown.
pub fn chunked(content_type: &'static str, chunks: ChunkStream) -> Response {
    let mut response = Response::new(Body::Chunks(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    with_body(status, "text/plain; charset=utf-8", text)
}

/// Returns 200 with a JSON document.
pub fn ok(document: &impl Serialize) -> Response {
    json(StatusCode::OK, "application/json", document)
}

/// Returns a JSON document. It ends with a line break for those who read it in a terminal.
pub fn json(status: StatusCode, content_type: &'static str, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            with_body(status, content_type, bytes)
        }
        // Serializing fails only for maps with keys that are not strings. No document has one.
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "cannot write the response as JSON\n"),
    }
}

/// Sets a header. A value that is not valid in a header is left out.
pub fn set_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
