//! Answers that are made while they are sent.

use hyper::header::{CONTENT_DISPOSITION, HeaderName};

use crate::http::Response;
use crate::http::body::ChunkStream;
use crate::http::response::{chunked, set_header};

/// Tells nginx to pass on each piece as it comes.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Server-sent events.
pub fn event_stream(stream: ChunkStream) -> Response {
    let mut response = chunked("text/event-stream", stream);
    set_header(&mut response, ACCEL_BUFFERING, "no");
    response
}

/// A file to be saved under this name.
pub fn attachment(content_type: &'static str, name: &str, stream: ChunkStream) -> Response {
    let mut response = chunked(content_type, stream);
    set_header(&mut response, CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""));
    response
}
