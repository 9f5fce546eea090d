//! A stream with a timeout for writes.
//!
//! hyper bounds how long a request's head may take to arrive; that an answer is taken is left to
//! the stream. Without a bound, a client that asks and never reads would hold its connection for
//! ever. The clock starts when a write cannot go on and stops when all is flushed, so reading a
//! byte now and then does not help.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Wraps a stream; a stalled write fails with [`io::ErrorKind::TimedOut`].
pub struct WriteTimeout<S> {
    stream: S,
    bound: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Bounds the writes on `stream`.
    pub fn new(stream: S, bound: Duration) -> WriteTimeout<S> {
        WriteTimeout { stream, bound, timer: None }
    }

    /// Starts the clock where it does not run, and fails where it has run out.
    fn waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let bound = self.bound;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(bound)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read the response",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.waiting(cx),
            ready => ready,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, slices) {
            Poll::Pending => self.waiting(cx),
            ready => ready,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Pending => self.waiting(cx),
            ready => {
                self.timer = None;
                ready
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Pending => self.waiting(cx),
            ready => ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_reader_that_takes_a_byte_now_and_then_is_cut_off() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = WriteTimeout::new(near, Duration::from_millis(200));
        let drip = async {
            while far.read_u8().await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let write = async { near.write_all(&[0; 4096]).await };
        let ended = tokio::select! { ended = write => ended, () = drip => Ok(()) };
        assert_eq!(ended.map_err(|e| e.kind()), Err(io::ErrorKind::TimedOut));
    }

    #[tokio::test]
    async fn a_reader_that_keeps_up_is_not_timed_over_several_answers() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = WriteTimeout::new(near, Duration::from_millis(500));
        let write = async {
            for _ in 0..8 {
                near.write_all(&[0; 64]).await?;
                near.flush().await?;
                sleep(Duration::from_millis(100)).await;
            }
            near.shutdown().await
        };
        let mut taken = Vec::new();
        let (written, read) = tokio::join!(write, far.read_to_end(&mut taken));
        written.unwrap();
        assert_eq!(read.unwrap(), 512);
    }
}
