//! Answers and refusals as they go over the wire.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// A whole answer: its body is in memory.
pub type Answer = Response<Full<Bytes>>;

/// An error as RFC 9457 tells it. `code` is stable and for programs, `detail` is for a person; both
/// go to anyone who asked, so neither tells of the inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: String,
    /// The methods that would do, for a 405.
    pub allow: Option<String>,
    /// Whether the connection cannot go on, since the request was not read whole.
    pub close: bool,
}

impl Refusal {
    /// A refusal after which the connection goes on.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { status, code, detail: detail.into(), allow: None, close: false }
    }

    /// Ends the connection after the answer.
    pub fn closing(self) -> Refusal {
        Refusal { close: true, ..self }
    }

    /// Names the methods that would do.
    pub fn allowing(self, methods: String) -> Refusal {
        Refusal { allow: Some(methods), ..self }
    }

    /// The answer: `application/problem+json`.
    pub fn answer(&self, request_id: &str) -> Answer {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'static str,
            title: &'a str,
            status: u16,
            code: &'a str,
            detail: &'a str,
            request_id: &'a str,
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id,
        };
        let mut answer = json(self.status, "application/problem+json", &problem);
        if let Some(methods) = &self.allow {
            set(&mut answer, ALLOW, methods);
        }
        if self.close {
            set(&mut answer, CONNECTION, "close");
        }
        answer
    }
}

/// A body of some type.
pub fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    // Said here for HEAD, of which the body is not sent.
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Answer {
    body(status, "text/plain; charset=utf-8", text)
}

/// A JSON document, ended by a line break for those who read it in a terminal.
pub fn json(status: StatusCode, content_type: &'static str, document: &impl Serialize) -> Answer {
    match serde_json::to_vec(document) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            body(status, content_type, bytes)
        }
        // Only a map with keys that are no strings gets here, and no document has one.
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written as JSON\n"),
    }
}

/// Sets a header; a value that cannot stand in one is left out.
pub fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
