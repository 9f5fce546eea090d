//! What an answer carries: whole in memory, or made piece by piece as the client takes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

/// A body of an answer.
pub enum Body {
    Full(Option<Bytes>),
    /// Asked for the next piece when the last one has gone out, so a client that is slow holds nothing but the
    /// piece under way; dropped with the connection.
    Chunks(ChunkStream),
}

/// Pieces of a body. An error cuts the connection off, so that nobody takes a part for the whole.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyAborted>> + Send>>;

/// The body ends before its end. The log says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer could not be given whole")]
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
    /// Of bytes; none at all where there are none.
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body::Full((!bytes.is_empty()).then_some(bytes))
    }
}
