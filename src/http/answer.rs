//! Answers and refusals as they go over the wire.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::body::{Body, Pieces};

/// An answer.
pub type Answer = Response<Body>;

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
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// Members of the problem beside the common ones.
    pub members: Map<String, Value>,
}

impl Refusal {
    /// A refusal after which the connection goes on.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal {
            status,
            code,
            detail: detail.into(),
            allow: None,
            close: false,
            retry_after: None,
            members: Map::new(),
        }
    }

    /// Ends the connection after the answer.
    pub fn closing(self) -> Refusal {
        Refusal { close: true, ..self }
    }

    /// Names the methods that would do.
    pub fn allowing(self, methods: String) -> Refusal {
        Refusal { allow: Some(methods), ..self }
    }

    /// Says when it is worth trying again.
    pub fn later(self, after: Duration) -> Refusal {
        Refusal { retry_after: Some(after), ..self }
    }

    /// Adds a member to the problem.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Refusal {
        self.members.insert(name.to_owned(), value.into());
        self
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
        let mut answer = json(self.status, "application/problem+json", &problem);
        if let Some(methods) = &self.allow {
            set(&mut answer, ALLOW, methods);
        }
        if self.close {
            set(&mut answer, CONNECTION, "close");
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, and never too early.
            set(&mut answer, RETRY_AFTER, &(after.as_millis().div_ceil(1000).max(1)).to_string());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            set(&mut answer, WWW_AUTHENTICATE, "Bearer");
        }
        answer
    }
}

/// A body of some type.
pub fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    // Said here for HEAD, of which the body is not sent.
    let length = HeaderValue::from(body.len());
    let mut answer = Response::new(Body::whole(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(CONTENT_LENGTH, length);
    answer
}

/// A body that is made while it is sent: its length is not known before its end.
pub fn pieces(content_type: &'static str, pieces: Pieces) -> Answer {
    let mut answer = Response::new(Body::Pieces(pieces));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
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
        Err(_) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written as JSON\n")
        }
    }
}

/// Sets a header; a value that cannot stand in one is left out.
pub fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}
