//! What passes over the socket, as far as we need to know it and tokio-postgres does not say.
//!
//! [`Tracked`] stands between tokio-postgres and the stream (above TLS) and follows the frames of
//! both directions, a header at a time; bodies are skipped, not copied. It learns the process id
//! that was announced at login, whether the server has answered everything that was asked
//! (each Query, Sync and FunctionCall is answered by one ReadyForQuery), and in which transaction
//! state it said so. On that rest three decisions: whether a connection may go back to its pool,
//! whether a cancelled statement has really ended, and which process to end when it has not.
//!
//! It is meant to err towards "busy": `COPY … FROM STDIN` by the extended protocol has one Sync that
//! is never answered, and leaves a connection that is closed instead of being used again.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_postgres::tls::{ChannelBinding, TlsStream};

const NOTICES_MAX: usize = 64;
/// Of one notice, in bytes: a statement can raise megabytes.
const NOTICE_MAX: usize = 8 * 1024;
/// Tags kept; who asks for them takes each as it comes.
const TAGS_MAX: usize = 64 * 1024;

/// ReadyForQuery's status for "no transaction open".
const IDLE: u8 = b'I';

/// What is known of a connection from its frames.
#[derive(Debug)]
pub struct Wire {
    /// From BackendKeyData; 0 until then.
    pid: AtomicI32,
    /// From the last ReadyForQuery: `I`, `T` or `E`; 0 until then.
    status: AtomicU8,
    /// Frames sent (or the startup packet) that a ReadyForQuery has yet to answer.
    outstanding: AtomicU32,
    /// Statements begun by [`Wire::begin`] whose answer was not received whole.
    in_flight: AtomicU32,
    closed: AtomicBool,
    changed: Notify,
    notices: Mutex<VecDeque<String>>,
    /// Notices that were dropped.
    lost: AtomicU32,
    /// How the tags of completed statements begin, while somebody wants to know.
    tags: Mutex<Option<VecDeque<[u8; 4]>>>,
}

impl Default for Wire {
    fn default() -> Wire {
        Wire {
            pid: AtomicI32::new(0),
            status: AtomicU8::new(0),
            // The login ends with a ReadyForQuery of its own.
            outstanding: AtomicU32::new(1),
            in_flight: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            changed: Notify::new(),
            notices: Mutex::new(VecDeque::new()),
            lost: AtomicU32::new(0),
            tags: Mutex::new(None),
        }
    }
}

impl Wire {
    /// The process id announced at login: the backend's, or one that a pooler made up.
    pub fn backend_pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// No transaction open, no answer outstanding, no statement abandoned halfway, still open.
    pub fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
            && self.is_settled()
            && self.status.load(Ordering::Relaxed) == IDLE
    }

    /// Everything that was sent has been answered; a transaction may be open.
    pub fn is_settled(&self) -> bool {
        self.is_answered() && !self.is_closed()
    }

    /// Everything that was sent has been answered, though the stream may have ended since: nothing of it
    /// runs any more.
    pub fn is_answered(&self) -> bool {
        self.outstanding.load(Ordering::Acquire) == 0
    }

    /// The stream has ended, or is no longer held by anyone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Waits for [`Wire::is_settled`], at most `bound`. False when the bound passed or the stream
    /// ended first.
    pub async fn settled(&self, bound: Duration) -> bool {
        let settled = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so that no change falls between.
                changed.as_mut().enable();
                if self.is_settled() || self.is_closed() {
                    return self.is_settled();
                }
                changed.await;
            }
        };
        tokio::time::timeout(bound, settled).await.unwrap_or(false)
    }

    /// Marks a statement as begun. One whose guard is dropped without [`InFlight::done`] was
    /// abandoned: it may still be queued inside tokio-postgres, unseen by the frames, so the
    /// connection never counts as idle again.
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight { wire: self }
    }

    /// Makes the connection unfit for another use.
    pub fn taint(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub fn push_notice(&self, mut notice: String) {
        if notice.len() > NOTICE_MAX {
            notice.truncate(notice.floor_char_boundary(NOTICE_MAX));
            notice.push('…');
        }
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() == NOTICES_MAX {
            notices.pop_front();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        notices.push_back(notice);
    }

    /// How many notices were dropped since this was asked last.
    pub fn take_lost(&self) -> u32 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Keeps the tags of what completes from here on, or no more.
    pub fn keep_tags(&self, keep: bool) {
        *self.tags.lock().unwrap_or_else(PoisonError::into_inner) = keep.then(VecDeque::new);
    }

    /// How the tag of the oldest completed statement begins (`INSE`, `SELE`), once for each. It is
    /// here before tokio-postgres hands the completion out, which does not tell the tag.
    pub fn next_tag(&self) -> Option<[u8; 4]> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.pop_front()
    }

    pub fn take_notices(&self) -> Vec<String> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn sent(&self, event: Event) {
        if let Event::Begun(b'Q' | b'S' | b'F') = event {
            self.outstanding.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn received(&self, event: Event) {
        match event {
            Event::Ended { tag: b'K', body } => {
                self.pid.store(i32::from_be_bytes(body), Ordering::Relaxed);
            }
            Event::Ended { tag: b'Z', body: [status, ..] } => {
                self.status.store(status, Ordering::Relaxed);
                // Never below zero, whatever the peer sends.
                let _ = self.outstanding.fetch_update(
                    Ordering::AcqRel,
                    Ordering::Acquire,
                    |outstanding| outstanding.checked_sub(1),
                );
                self.changed.notify_waiters();
            }
            Event::Ended { tag: b'C', body } => {
                let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tags) = tags.as_mut().filter(|tags| tags.len() < TAGS_MAX) {
                    tags.push_back(body);
                }
            }
            Event::Begun(_) | Event::Ended { .. } => {}
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }
}

/// A statement under way; see [`Wire::begin`].
#[derive(Debug)]
#[must_use = "dropping it means that the statement was abandoned"]
pub struct InFlight<'a> {
    wire: &'a Wire,
}

impl InFlight<'_> {
    /// The statement's answer, good or bad, has been received.
    pub fn done(self) {
        self.wire.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a [`Framer`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The first byte of a message.
    Begun(u8),
    /// The last byte of a message, with the first bytes of its body (zero where it has fewer).
    Ended { tag: u8, body: [u8; 4] },
}

/// Follows one direction: type byte, length (its own four bytes included), body. The client's very
/// first message has no type byte.
#[derive(Debug)]
struct Framer {
    untyped: bool,
    tag: u8,
    length: [u8; 4],
    length_have: usize,
    typed: bool,
    body: [u8; 4],
    body_have: usize,
    body_left: usize,
}

impl Framer {
    fn new(untyped_first: bool) -> Framer {
        Framer {
            untyped: untyped_first,
            tag: 0,
            length: [0; 4],
            length_have: 0,
            typed: false,
            body: [0; 4],
            body_have: 0,
            body_left: 0,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Event)) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.length_have < self.length.len() {
                if !self.typed && !self.untyped {
                    self.typed = true;
                    self.tag = byte;
                    seen(Event::Begun(byte));
                } else {
                    self.length[self.length_have] = byte;
                    self.length_have += 1;
                    if self.length_have == self.length.len() {
                        self.body_left =
                            (u32::from_be_bytes(self.length) as usize).saturating_sub(4);
                        self.end_if_whole(&mut seen);
                    }
                }
                bytes = rest;
            } else {
                let (part, rest) = bytes.split_at(self.body_left.min(bytes.len()));
                let kept = part.len().min(self.body.len() - self.body_have);
                self.body[self.body_have..self.body_have + kept].copy_from_slice(&part[..kept]);
                self.body_have += kept;
                self.body_left -= part.len();
                self.end_if_whole(&mut seen);
                bytes = rest;
            }
        }
    }

    fn end_if_whole(&mut self, seen: &mut impl FnMut(Event)) {
        if self.body_left == 0 {
            seen(Event::Ended { tag: self.tag, body: self.body });
            *self = Framer::new(false);
        }
    }
}

/// A stream whose frames are followed.
#[derive(Debug)]
pub struct Tracked<S> {
    stream: S,
    wire: Arc<Wire>,
    reads: Framer,
    writes: Framer,
}

impl<S> Tracked<S> {
    /// Follows `stream`, over which nothing of the protocol's own has passed yet (TLS has).
    pub fn new(stream: S, wire: Arc<Wire>) -> Tracked<S> {
        Tracked { stream, wire, reads: Framer::new(false), writes: Framer::new(true) }
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.writes.feed(bytes, |event| self.wire.sent(event));
    }
}

impl<S> Drop for Tracked<S> {
    fn drop(&mut self) {
        self.wire.close();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &outcome {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.reads.feed(&buf.filled()[before..], |event| this.wire.received(event));
            }
            Poll::Ready(Ok(())) if buf.remaining() == 0 => {}
            Poll::Ready(_) => this.wire.close(),
            Poll::Pending => {}
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = outcome {
            self.wrote(&buf[..written]);
        }
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut written)) = outcome {
            for buf in bufs {
                let part = written.min(buf.len());
                self.wrote(&buf[..part]);
                written -= part;
            }
        }
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Tracked<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

#[cfg(test)]
mod tests;
