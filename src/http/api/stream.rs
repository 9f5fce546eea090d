//! Answers that are made while they are sent.

use hyper::header::{CONTENT_DISPOSITION, HeaderName};

use crate::http::Answer;
use crate::http::answer::{pieces, set};
use crate::http::body::Pieces;

/// Tells nginx to pass on each piece as it comes.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Server-sent events.
pub fn events(stream: Pieces) -> Answer {
    let mut answer = pieces("text/event-stream", stream);
    set(&mut answer, ACCEL_BUFFERING, "no");
    answer
}

/// A file to be saved under this name.
pub fn file(content_type: &'static str, name: &str, stream: Pieces) -> Answer {
    let mut answer = pieces(content_type, stream);
    set(&mut answer, CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""));
    answer
}
