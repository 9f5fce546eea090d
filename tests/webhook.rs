//! POSTs to receivers that respond correctly, wrongly, late or never.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsteward::lifecycle::Tasks;
use pgsteward::webhook::{Webhook, WebhookError};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const BODY: &str = r#"{"head":"7:c0ffee"}"#;

/// Far longer than any exchange takes.
const SOON: Duration = Duration::from_secs(20);

/// For exchanges that are expected to time out.
const SHORT: Duration = Duration::from_millis(300);

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A URL with a secret in each part that may hold one.
fn hook(scheme: &str, host: &str, port: u16) -> Webhook {
    Webhook::parse(&format!("{scheme}://hunter1:hunter2@{host}:{port}/hunter3?to=hunter4")).unwrap()
}

async fn post(hook: &Webhook, tasks: &Tasks, bound: Duration) -> Result<(), WebhookError> {
    let started = Instant::now();
    let result = hook.post(tasks, BODY.into(), bound).await;
    assert!(started.elapsed() < bound + SOON, "bounded");
    if let Err(error) = &result {
        assert!(!format!("{error} {error:?} {hook} {hook:?}").contains("hunter"), "{error:?}");
        assert!(error.to_string().contains(&hook.to_string()), "names the receiver: {error}");
    }
    result
}

/// Reads one request, head and body.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(BODY.as_bytes()) {
        assert_ne!(
            stream.read_buf(&mut bytes).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads one request, answers it, and returns it after the sender has disconnected.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let request = request(&mut stream).await;
    stream.write_all(answer.as_bytes()).await.unwrap();
    until_cut(&mut stream).await;
    request
}

/// Waits until the sender closes or resets the connection.
async fn until_cut(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

/// A receiver of one request over plain TCP.
async fn receiver(tasks: &Tasks, says: &'static str) -> (u16, JoinHandle<String>) {
    let (listener, port) = listen().await;
    let receiver = tasks
        .spawn("receiver", async move { answer(listener.accept().await.unwrap().0, says).await });
    (port, receiver)
}

/// A DER certificate for `localhost`, and an acceptor that uses it.
fn certified() -> (Vec<u8>, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![made.cert.der().clone()], key)
    .unwrap();
    (made.cert.der().to_vec(), TlsAcceptor::from(Arc::new(config)))
}

/// Asserts that no task outlives an attempt.
async fn drained(tasks: &Tasks) {
    assert_eq!(tasks.drain(SOON).await, Vec::<&str>::new());
}

#[tokio::test]
async fn a_status_of_2xx_is_a_delivery() {
    for says in [
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhunter5",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        // An error after the status does not undo the delivery.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter5\r\n",
    ] {
        let tasks = Tasks::new();
        let (port, receiver) = receiver(&tasks, says).await;
        post(&hook("http", "127.0.0.1", port), &tasks, SOON)
            .await
            .unwrap_or_else(|error| panic!("{says}: {error}"));
        drained(&tasks).await;
        receiver.await.unwrap();
    }
}

#[tokio::test]
async fn the_request_is_what_a_receiver_expects() {
    let tasks = Tasks::new();
    let (port, receiver) = receiver(&tasks, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    post(&hook("http", "127.0.0.1", port), &tasks, SOON).await.unwrap();
    let request = receiver.await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, BODY);
    assert!(head.starts_with("POST /hunter3?to=hunter4 HTTP/1.1\r\n"), "{head}");
    for line in [
        format!("host: 127.0.0.1:{port}"),
        format!("content-length: {}", BODY.len()),
        "content-type: application/json".to_owned(),
        format!("user-agent: pgsteward/{}", env!("CARGO_PKG_VERSION")),
        "authorization: Basic aHVudGVyMTpodW50ZXIy".to_owned(),
    ] {
        assert!(head.lines().any(|found| found == line), "{line}: {head}");
    }
}

#[tokio::test]
async fn any_other_status_is_an_error() {
    for (says, expected) in [
        ("HTTP/1.1 500 hunter5\r\nContent-Length: 7\r\n\r\nhunter5", 500),
        ("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=hunter5\r\n\r\n", 401),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", 304),
        (
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: hunter5\r\n\r\n",
            101,
        ),
    ] {
        let tasks = Tasks::new();
        let (port, _receiver) = receiver(&tasks, says).await;
        let error = post(&hook("http", "127.0.0.1", port), &tasks, SOON).await.unwrap_err();
        assert!(
            matches!(error, WebhookError::Status { status, .. } if status == expected),
            "{says}: {error}"
        );
        drained(&tasks).await;
    }
}

#[tokio::test]
async fn a_redirect_is_reported_and_not_followed() {
    let tasks = Tasks::new();
    let (elsewhere, to) = listen().await;
    let (listener, port) = listen().await;
    tasks.spawn("receiver", async move {
        let says = format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{to}/hunter5\r\n\r\n");
        answer(listener.accept().await.unwrap().0, &says).await
    });
    let error = post(&hook("http", "127.0.0.1", port), &tasks, SOON).await.unwrap_err();
    assert!(matches!(error, WebhookError::Status { status: 302, .. }), "{error}");
    assert!(error.to_string().contains("redirects are not followed"), "{error}");
    drained(&tasks).await;
    let nobody = elsewhere.into_std().unwrap().accept().unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "it was followed");
}

#[tokio::test]
async fn silence_times_out_and_closes_the_connection() {
    for (scheme, step) in [("http", "waiting for the response"), ("https", "negotiating TLS")] {
        let tasks = Tasks::new();
        let (listener, port) = listen().await;
        tasks.spawn(
            "receiver",
            async move { until_cut(&mut listener.accept().await.unwrap().0).await },
        );
        let error = post(&hook(scheme, "127.0.0.1", port), &tasks, SHORT).await.unwrap_err();
        assert!(matches!(error, WebhookError::Timeout { .. }), "{error}");
        assert!(error.to_string().ends_with(&format!("within 300ms, while {step}")), "{error}");
        drained(&tasks).await;
    }
}

#[tokio::test]
async fn an_endless_response_is_cut_off() {
    for (head, delivered) in
        [("HTTP/1.1 200 OK\r\n\r\n", true), ("HTTP/1.1 200 OK\r\nX-Endless: ", false)]
    {
        let tasks = Tasks::new();
        let (listener, port) = listen().await;
        let receiver = tasks.spawn("receiver", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
        });
        let result = post(&hook("http", "127.0.0.1", port), &tasks, SOON).await;
        match result {
            Ok(()) => assert!(delivered, "{head}"),
            Err(error) => {
                assert!(!delivered && matches!(error, WebhookError::Protocol { .. }), "{error}");
            }
        }
        receiver.await.unwrap();
        drained(&tasks).await;
    }
}

#[tokio::test]
async fn an_incomplete_body_is_awaited_within_the_timeout() {
    let tasks = Tasks::new();
    let (port, receiver) =
        receiver(&tasks, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    post(&hook("http", "127.0.0.1", port), &tasks, SHORT).await.unwrap();
    receiver.await.unwrap();
    drained(&tasks).await;
}

#[tokio::test]
async fn a_response_that_is_not_http_is_a_protocol_error() {
    for says in
        ["", "SSH-2.0-hunter5\r\n", "HTTP/1.1 hunter5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-"]
    {
        let tasks = Tasks::new();
        let (listener, port) = listen().await;
        tasks.spawn("receiver", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            if !says.is_empty() {
                request(&mut stream).await;
                stream.write_all(says.as_bytes()).await.unwrap();
            }
            // And closes at once.
        });
        let error = post(&hook("http", "127.0.0.1", port), &tasks, SOON).await.unwrap_err();
        assert!(matches!(error, WebhookError::Protocol { .. }), "{says:?}: {error}");
        drained(&tasks).await;
    }
}

#[tokio::test]
async fn addresses_are_tried_in_turn() {
    // Where localhost is [::1] first, nothing listens there.
    let tasks = Tasks::new();
    let (port, receiver) = receiver(&tasks, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    post(&hook("http", "localhost", port), &tasks, SOON).await.unwrap();
    assert!(receiver.await.unwrap().contains(&format!("host: localhost:{port}\r\n")));

    let (listener, port) = listen().await;
    drop(listener);
    let error = post(&hook("http", "127.0.0.1", port), &tasks, SOON).await.unwrap_err();
    assert!(
        matches!(&error, WebhookError::Connect { attempts, .. } if attempts.len() == 1),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!(": 127.0.0.1:{port}: Connection refused")),
        "{error}"
    );

    // The resolver rejects a label that is too long without a query.
    let error = post(&hook("https", &format!("{}.test", "x".repeat(64)), 443), &tasks, SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, WebhookError::Resolve { .. }), "{error}");
    drained(&tasks).await;
}

#[tokio::test]
async fn a_certificate_is_trusted_only_by_a_root_and_for_its_name() {
    let (der, acceptor) = certified();
    let other = certified().0;
    for (host, roots, says) in [
        ("localhost", vec![der.clone()], None),
        ("LOCALHOST", vec![other.clone(), der.clone()], None),
        ("localhost", vec![], Some("UnknownIssuer")),
        ("localhost", vec![other], Some("BadSignature")),
        ("127.0.0.1", vec![der], Some("not valid for name")),
    ] {
        let tasks = Tasks::new();
        let (listener, port) = listen().await;
        let receiver = tasks.spawn("receiver", accept_tls(listener, acceptor.clone()));
        let result = post(&hook("https", host, port).with_roots(roots), &tasks, SOON).await;
        match (says, result) {
            (None, result) => {
                result.unwrap_or_else(|error| panic!("{host}: {error}"));
                assert!(
                    receiver
                        .await
                        .unwrap()
                        .unwrap()
                        .contains("authorization: Basic aHVudGVyMTpodW50ZXIy\r\n")
                );
            }
            (Some(says), result) => {
                let error = result.unwrap_err();
                assert!(matches!(error, WebhookError::Tls { .. }), "{host}, {says}: {error}");
                assert_eq!(receiver.await.unwrap(), None, "nothing was sent");
            }
        }
        drained(&tasks).await;
    }
}

/// Returns one request over TLS, or none if the handshake fails.
async fn accept_tls(listener: TcpListener, acceptor: TlsAcceptor) -> Option<String> {
    let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
    let stream = acceptor.accept(stream).await.ok()?;
    Some(answer(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await)
}

#[tokio::test]
async fn plain_text_instead_of_tls_is_an_error() {
    let tasks = Tasks::new();
    let (listener, port) = listen().await;
    tasks.spawn("receiver", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        until_cut(&mut stream).await;
    });
    let error = post(&hook("https", "localhost", port), &tasks, SOON).await.unwrap_err();
    assert!(matches!(error, WebhookError::Tls { .. }), "{error}");
    drained(&tasks).await;
}
