//! Cancelling a statement, and proving that it has ended.
//!
//! ```text
//! each second      a CancelRequest by a fresh stream, over the way that the connection took;
//!                  then wait for our own ReadyForQuery: the best proof, also through a pooler
//! after half of    on a direct connection: pg_terminate_backend by process id *and* start, from a
//! the bound        second connection, until pg_stat_activity no longer shows it
//! else             Unconfirmed
//! ```
//! Nobody is terminated through a pooler: the process that served us may serve a stranger by now.
//!
//! The stream of a CancelRequest is read to its end before it is closed. PgBouncer 1.18 crashes when
//! the client leaves first (pgbouncer#801), and the end tells that the signal was sent, so that it
//! cannot arrive late and hit the next statement.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use tokio_postgres::types::Type;

use super::connect::Server;
use super::dial::{Address, Progress, Ready};
use super::error::Error;
use super::login::{Facts, Link};
use super::wire::Wire;
use super::{Purpose, Route};

/// How often the request is repeated: a statement can miss one, between two checks for interrupts.
const REPEAT: Duration = Duration::from_secs(1);
/// For one request, from dialling to the end of its stream.
const REQUEST_BOUND: Duration = Duration::from_secs(2);
/// Between two looks at `pg_stat_activity`.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How a cancel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOutcome {
    /// The server has answered everything: nothing of ours runs. A transaction may still be open.
    Ended,
    /// The process was ended and is no longer there.
    Terminated,
    /// It may still be running.
    Unconfirmed,
}

/// Cancels the statements of one connection; usable while the connection is.
#[derive(Clone)]
pub struct Canceller {
    inner: Arc<Inner>,
}

struct Inner {
    server: Arc<Server>,
    token: CancelToken,
    wire: Arc<Wire>,
    address: Address,
    route: Route,
    /// The process behind the connection, where it is known not to be a pooler's.
    backend: Option<Facts>,
}

impl Canceller {
    pub(super) fn new(
        server: &Arc<Server>,
        link: &Link,
        address: Address,
        route: Route,
        backend: Option<Facts>,
    ) -> Canceller {
        let (token, wire) = (link.client.cancel_token(), Arc::clone(&link.wire));
        Canceller {
            inner: Arc::new(Inner {
                server: Arc::clone(server),
                token,
                wire,
                address,
                route,
                backend,
            }),
        }
    }

    /// Cancels what runs, and says how that ended, within `bound`.
    pub async fn cancel(&self, bound: Duration) -> CancelOutcome {
        let inner = &*self.inner;
        let deadline = Instant::now() + bound;
        let ask_until = if inner.backend.is_some() { Instant::now() + bound / 2 } else { deadline };
        if inner.ask(ask_until).await {
            return CancelOutcome::Ended;
        }
        let Some(backend) = inner.backend else { return CancelOutcome::Unconfirmed };
        match tokio::time::timeout_at(deadline, inner.terminate(backend)).await {
            Ok(Ok(true)) => CancelOutcome::Terminated,
            Ok(Ok(false)) | Err(_) => inner.last_look(),
            Ok(Err(error)) => {
                tracing::warn!(pid = backend.pid, error = %error, "cannot end the process of a statement that ignores its cancel");
                inner.last_look()
            }
        }
    }
}

impl Inner {
    /// Asks again and again. True when the server has answered everything.
    async fn ask(&self, until: Instant) -> bool {
        loop {
            let now = Instant::now();
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return false;
            }
            // Asked once even if nothing seems to run: what was begun a moment ago may not have
            // reached the wire yet.
            match timeout(REQUEST_BOUND.min(left), self.request()).await {
                Ok(Ok(())) => {}
                outcome => {
                    // The request may still be under way, and hit whatever runs when it arrives.
                    self.wire.taint();
                    if let Ok(Err(error)) = outcome {
                        tracing::debug!(error = %error, "cancel request failed");
                    }
                }
            }
            let wait = (now + REPEAT).min(until).saturating_duration_since(Instant::now());
            if self.wire.settled(wait).await {
                return true;
            }
            if self.wire.is_closed() {
                // Whoever had the connection may have closed it as soon as the answer was there.
                return self.wire.is_answered();
            }
        }
    }

    async fn request(&self) -> Result<(), Error> {
        let stream = self.address.dial(&mut Progress::default()).await?;
        self.token
            .cancel_query_raw(UntilEnd(stream), Ready)
            .await
            .map_err(|error| Error::from_pg("cancel", error))
    }

    /// Ends the process. True when it was seen, and is gone; or was gone with our stream.
    async fn terminate(&self, backend: Facts) -> Result<bool, Error> {
        const PROCESS: &str = "FROM pg_catalog.pg_stat_activity AS a \
             WHERE a.pid = $1 AND (EXTRACT(epoch FROM a.backend_start) * 1000000)::pg_catalog.int8 = $2";
        // By the same address: the next host of a list has processes of its own.
        let conn = self.server.connect_to(&self.address, Purpose::Check, self.route).await?;
        if conn.announced_pid() != conn.facts.pid {
            return Ok(false);
        }
        let params =
            [(&backend.pid as _, Type::INT4), (&backend.backend_start_us as _, Type::INT8)];
        let ended = format!("SELECT pg_catalog.pg_terminate_backend(a.pid) {PROCESS}");
        let seen = !conn
            .rows("end the process of a cancelled statement", &ended, &params)
            .await?
            .is_empty();
        let present = format!("SELECT 1 {PROCESS}");
        // Bounded by the caller.
        while !conn.rows("look for an ended process", &present, &params).await?.is_empty() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(seen || self.wire.is_closed())
    }

    fn last_look(&self) -> CancelOutcome {
        if self.wire.is_answered() { CancelOutcome::Ended } else { CancelOutcome::Unconfirmed }
    }
}

/// A stream that is closed only when the other side has closed.
struct UntilEnd<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for UntilEnd<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UntilEnd<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut scratch = [0; 64];
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // However it ended, it has; a server closes TLS here without saying so.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: TlsStream + Unpin> TlsStream for UntilEnd<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.channel_binding()
    }
}
