//! Response bodies: complete in memory, or produced in chunks while the client reads.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

/// The body of a response.
pub enum Body {
    Full(Option<Bytes>),
    /// Polled for the next chunk when the last one is sent, so that a slow client holds one chunk in
    /// memory. Dropped with the connection.
    Chunks(ChunkStream),
}

/// The chunks of a body. An error closes the connection, so that the client notices that the body is
/// incomplete.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyAborted>> + Send>>;

/// The body is incomplete. The log has the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response could not be completed")]
pub struct BodyAborted;

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyAborted>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Chunks(chunks) => chunks.as_mut().poll_next(cx).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Body::Chunks(_) => SizeHint::default(),
        }
    }
}

impl Body {
    /// Creates a body from bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body::Full((!bytes.is_empty()).then_some(bytes))
    }
}
