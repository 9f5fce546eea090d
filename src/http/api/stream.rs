//! Responses that are produced while they are sent.

use hyper::header::{CONTENT_DISPOSITION, HeaderName};

use crate::http::Response;
use crate::http::body::ChunkStream;
use crate::http::response::{chunked, set_header};

/// Makes nginx forward each event as it arrives.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns server-sent events.
pub fn event_stream(stream: ChunkStream) -> Response {
    let mut response = chunked("text/event-stream", stream);
    set_header(&mut response, ACCEL_BUFFERING, "no");
    response
}

/// Returns a file that a browser saves under this name.
pub fn attachment(content_type: &'static str, name: &str, stream: ChunkStream) -> Response {
    let mut response = chunked(content_type, stream);
    set_header(&mut response, CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""));
    response
}
