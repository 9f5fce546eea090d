//! The only door for outgoing HTTP: sends one JSON document to one URL.
//!
//! A POST goes through `url` (parsed when the configuration is read), `dial` (tries the addresses of
//! the host in turn), `tls`, and one request on a new connection. No connection is kept open, because
//! documents are minutes apart.
//!
//! # Failure
//! A call makes one attempt within one timeout. The caller decides when to retry, so a receiver may
//! see a document twice: after a timeout or a broken connection nobody knows whether it arrived.
//! Redirects are not followed, because they would carry the document and the credentials to a host
//! that nobody configured. Proxies of the environment (`HTTPS_PROXY`) are not used.

mod dial;
mod error;
mod tls;
mod url;

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::lifecycle::Tasks;

use dial::Attempt;
pub use error::WebhookError;
use url::Endpoint;

/// Limit for the head of a response; also the size of the write buffer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How much of the body of a response is read. It is discarded: reading it only saves the receiver
/// from a reset connection while it still writes.
const BODY_BYTES_MAX: usize = 64 * 1024;

const AGENT: &str = concat!("pgsteward/", env!("CARGO_PKG_VERSION"));

/// A receiver of documents. Display and Debug show scheme, host and port, never userinfo, path or
/// query: the path of many webhooks is their password.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    endpoint: Endpoint,
    /// Value of the `Host` header.
    host: HeaderValue,
    /// Path and query.
    target: Uri,
    authorization: Option<HeaderValue>,
    /// DER certificates trusted in addition to the roots of the system.
    roots: Vec<Vec<u8>>,
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", self.endpoint)
    }
}

impl Webhook {
    /// Parses `https://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY]`. Accepts `http://` to a loopback
    /// address only, because anyone on the network could read and answer what is sent in plain text.
    ///
    /// # Errors
    /// [`WebhookError::Url`], which quotes no secret.
    pub fn parse(url: &str) -> Result<Webhook, WebhookError> {
        url::parse(url)
    }

    /// Trusts these roots (X.509, DER) in addition to those of the system.
    #[must_use]
    pub fn with_roots(mut self, roots: Vec<Vec<u8>>) -> Webhook {
        self.roots = roots;
        self
    }

    /// Sends a JSON document in one attempt, within `timeout`. Returns once a status of 2xx was read,
    /// whatever happens to the rest of the response.
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// Every kind but [`WebhookError::Url`]. After `Timeout` and `Protocol` the document may have
    /// arrived.
    pub async fn post(
        &self,
        tasks: &Tasks,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(), WebhookError> {
        let attempt = Attempt::start(&self.endpoint, timeout);
        let stream = attempt.connect().await?;
        if !self.endpoint.tls {
            return self.exchange(tasks, &attempt, stream, body).await;
        }
        let handshake = tls::handshake(&self.endpoint.host, stream, &self.roots);
        let stream = attempt
            .run("negotiating TLS", handshake)
            .await?
            .map_err(|source| WebhookError::Tls { to: self.to_string(), source })?;
        self.exchange(tasks, &attempt, stream, body).await
    }

    async fn exchange<S>(
        &self,
        tasks: &Tasks,
        attempt: &Attempt<'_>,
        stream: S,
        body: Vec<u8>,
    ) -> Result<(), WebhookError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |source| WebhookError::Protocol { to: self.to_string(), source };
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(failed)?;
        // Closes the connection when this function returns, even if it is still writing.
        let _connection = AbortOnDropHandle::new(tasks.spawn("webhook", connection));
        let request = sender.send_request(self.request(body));
        let response = attempt.run("waiting for the response", request).await?.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(WebhookError::Status { to: self.to_string(), status: status.as_u16() });
        }
        // The status confirms the delivery. A body that is late, too long or broken does not undo it.
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect();
        let _ = attempt.run("reading the response", body).await;
        Ok(())
    }

    fn request(&self, body: Vec<u8>) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }
}
