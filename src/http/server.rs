//! Accepting connections, within limits, until told to stop.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::IntGauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::write_timeout::WriteTimeout;
use super::{App, dispatch};
use crate::lifecycle::Tasks;

/// Of a request's head: 431 beyond. hyper's own default is 400 KiB for each connection.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Between two attempts to accept while the process is out of file descriptors or memory.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(1);

/// Answers on `listener` until `stop` is cancelled; then closes it, lets requests in flight finish
/// within the app's bound, and returns. Connections are tasks of their own, by the name of `http`.
pub async fn serve(listener: TcpListener, app: App, tasks: Tasks, stop: CancellationToken) {
    accept_all(listener, Arc::new(app), tasks, stop).await;
}

/// Where connections come from.
trait Accept {
    async fn accept(&self) -> io::Result<TcpStream>;
}

impl Accept for TcpListener {
    async fn accept(&self) -> io::Result<TcpStream> {
        TcpListener::accept(self).await.map(|(stream, _)| stream)
    }
}

async fn accept_all(listener: impl Accept, app: Arc<App>, tasks: Tasks, stop: CancellationToken) {
    // More is nothing that a semaphore can count, or a process hold.
    let most = app.limits.max_connections.clamp(1, 1 << 20);
    let slots = Arc::new(Semaphore::new(most));
    let mut pause = PAUSE_FIRST;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if of_the_connection(&error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a connection ended before it was accepted"
                );
                continue;
            }
            Err(error) => {
                app.state.metrics.http_accept_errors_total.inc();
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    pause_ms = pause.as_millis(),
                    "connections cannot be accepted at the moment"
                );
                // The cause is the process's, and accepting again at once would only burn the core.
                tokio::select! { () = stop.cancelled() => break, () = sleep(pause) => {} }
                pause = (pause * 2).min(PAUSE_MOST);
                continue;
            }
        };
        pause = PAUSE_FIRST;
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            app.state.metrics.http_connections_rejected_total.inc();
            tracing::debug!(most, "a connection was closed at once: http.max_connections are open");
            continue;
        };
        let guard = ConnectionGuard::new(&app.state.metrics.http_connections, slot);
        tasks.spawn("http", connection(stream, Arc::clone(&app), stop.clone(), guard));
    }
    drop(listener);
    // All slots free: all connections over. Each bounds itself; the second is for that to be seen.
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    if timeout(app.drain + Duration::from_secs(1), slots.acquire_many(all)).await.is_err() {
        tracing::warn!("connections are left open after the drain");
    }
}

/// Errors that tell of one connection which is no more; see accept(2).
fn of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::ConnectionRefused
    )
}

/// One connection: its slot, and its place in the count.
struct ConnectionGuard {
    gauge: IntGauge,
    _slot: OwnedSemaphorePermit,
}

impl ConnectionGuard {
    fn new(gauge: &IntGauge, slot: OwnedSemaphorePermit) -> ConnectionGuard {
        gauge.inc();
        ConnectionGuard { gauge: gauge.clone(), _slot: slot }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

async fn connection(
    stream: TcpStream,
    app: Arc<App>,
    stop: CancellationToken,
    guard: ConnectionGuard,
) {
    // Answers are written whole: nothing to gain from waiting to fill a segment.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "TCP_NODELAY is not set");
    }
    // Without one it is gone already.
    let Ok(peer) = stream.peer_addr() else { return };
    // Who only connects gets no buffers yet, of which HTTP has 16 KiB and TLS more.
    let begins = async { timeout(app.limits.header_timeout, stream.peek(&mut [0])).await };
    tokio::select! {
        begun = begins => if !matches!(begun, Ok(Ok(length)) if length > 0) { return },
        () = stop.cancelled() => return,
    }
    Box::pin(handshake(stream, peer, app, stop, guard)).await;
}

async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    app: Arc<App>,
    stop: CancellationToken,
    guard: ConnectionGuard,
) {
    let Some(tls) = app.tls.clone() else {
        return serve_http(stream, peer, app, stop, guard).await;
    };
    // The handshake is the head of the first request's head, and has its bound.
    let shaken = tokio::select! {
        shaken = timeout(app.limits.header_timeout, tls.accept(stream)) => shaken,
        () = stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => serve_http(stream, peer, app, stop, guard).await,
        Ok(Err(error)) => {
            app.state.metrics.http_requests_total.with_label_values(&["handshake", "none"]).inc();
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a connection did not come to TLS");
        }
        Err(_) => tracing::debug!(%peer, "a connection took too long over its TLS handshake"),
    }
}

/// Requests and answers over one connection, until it ends.
async fn serve_http<S>(
    stream: S,
    peer: SocketAddr,
    app: Arc<App>,
    stop: CancellationToken,
    guard: ConnectionGuard,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(WriteTimeout::new(stream, app.limits.request_timeout));
    let service = service_fn(|request| {
        let app = Arc::clone(&app);
        // hyper keeps room for this in each connection: a box is small while nothing is asked.
        Box::pin(async move { Ok::<_, Infallible>(dispatch::response(&app, request, peer).await) })
    });
    let mut builder = http1::Builder::new();
    builder
        // Without a timer hyper has no time-outs. This one also bounds how long an idle connection
        // may wait before its next request.
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.header_timeout)
        .max_buf_size(HEAD_MAX_BYTES)
        // A client may close its side once it has asked.
        .half_close(true);
    let mut serving = pin!(builder.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            match timeout(app.drain, serving).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("a request was cut off: it did not end within the drain");
                    return;
                }
            }
        }
    };
    drop(guard);
    let Err(error) = ended else { return };
    if error.is_parse() {
        // hyper has refused it without asking us; count it by the code that hyper gave.
        let code = if error.is_parse_too_large() { "431" } else { "400" };
        app.state.metrics.http_requests_total.with_label_values(&["malformed", code]).inc();
    }
    // A client that leaves, is late, or talks nonsense is the client's affair.
    tracing::debug!(error = &error as &dyn std::error::Error, "a connection ended early");
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config;
    use crate::health::Readiness;
    use crate::http::{Authenticator, Rules, State};
    use crate::telemetry::Metrics;

    /// A listener that fails so many times first.
    struct FailingListener {
        listener: TcpListener,
        errors: Mutex<VecDeque<i32>>,
    }

    impl Accept for FailingListener {
        async fn accept(&self) -> io::Result<TcpStream> {
            let error = self.errors.lock().unwrap().pop_front();
            match error {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => Accept::accept(&self.listener).await,
            }
        }
    }

    #[tokio::test]
    async fn accepting_goes_on_after_running_out_of_descriptors() {
        const EMFILE: i32 = 24;
        const ECONNABORTED: i32 = if cfg!(target_os = "linux") { 103 } else { 53 };
        let limits = config::Http {
            listen: ([127, 0, 0, 1], 0).into(),
            max_connections: 4,
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            body_limit_bytes: 1024,
            ..config::Http::default()
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let readiness = Arc::new(Readiness::new([], Duration::from_secs(60)));
        let state = State {
            boards: BTreeMap::new(),
            readiness,
            metrics: Arc::clone(&metrics),
            authenticator: Arc::new(Authenticator::new(Rules::default())),
            databases: Arc::default(),
            tasks: Tasks::new(),
            mutation_slots: Arc::new(Semaphore::new(1)),
        };
        let listener = TcpListener::bind(limits.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let errors = Mutex::new([EMFILE, ECONNABORTED, EMFILE, EMFILE].into());
        let tasks = Tasks::new();
        let serving = accept_all(
            FailingListener { listener, errors },
            Arc::new(App::new(state, &limits)),
            tasks.clone(),
            tasks.stopping(),
        );
        let ask = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            tasks.stop();
            response
        };
        let ((), response) =
            timeout(Duration::from_secs(10), async { tokio::join!(serving, ask) }).await.unwrap();
        assert!(response.starts_with("HTTP/1.0 200"), "{response}");
        assert_eq!(metrics.http_accept_errors_total.get(), 3);
    }
}
