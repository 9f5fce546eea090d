//! The only door for outgoing HTTP: one JSON document to one URL.
//!
//! A POST goes `url` (taken apart when the configuration is read) → `dial` (the host's addresses in
//! turn) → `tls` → one request on a connection of its own → the status. Nothing is kept open: heads
//! are minutes apart.
//!
//! # How it fails
//! One attempt, within one bound, and an error with its kind; whoever calls decides when to try
//! again. A receiver may then see a document twice: after a time-out or a cut nobody knows whether
//! it arrived. Redirects are not followed: they would carry the document, and who sends it, to a
//! host that nobody configured. Proxies of the environment (`HTTPS_PROXY`) are not asked.

mod dial;
mod error;
mod tls;
mod url;

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use crate::lifecycle::Tasks;

use dial::Budget;
pub use error::WebhookError;
use url::Place;

/// As much of an answer's head as is kept; also the room for what is written.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// As much of an answer's body as is read. It is thrown away: reading it only spares the receiver a
/// connection that is reset while it still writes.
const BODY_BYTES_MAX: usize = 64 * 1024;

const AGENT: &str = concat!("pgsteward/", env!("CARGO_PKG_VERSION"));

/// Where documents are sent. Shows its scheme, host and port, and never userinfo, path or query:
/// with many receivers the path is the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    place: Place,
    /// The `Host` header.
    host: HeaderValue,
    /// Path and query.
    target: Uri,
    authorization: Option<HeaderValue>,
    /// Roots besides the system's, as DER.
    roots: Vec<Vec<u8>>,
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Webhook({})", self.place)
    }
}

impl Webhook {
    /// Takes `https://[USER[:PASSWORD]@]HOST[:PORT][/PATH][?QUERY]`; `http://` to this machine only,
    /// since anyone on the way could read, and answer, what is sent in the clear.
    ///
    /// # Errors
    /// [`WebhookError::Url`], which says what was found and what was wanted, and quotes no secret.
    pub fn parse(url: &str) -> Result<Webhook, WebhookError> {
        url::parse(url)
    }

    /// Trusts these roots (X.509, DER) besides the system's.
    #[must_use]
    pub fn with_roots(mut self, roots: Vec<Vec<u8>>) -> Webhook {
        self.roots = roots;
        self
    }

    /// Sends a JSON document: done when a status of 2xx was read, whatever becomes of the rest of
    /// the answer. One attempt, all of it within `bound`.
    ///
    /// Dropping the future cuts the connection.
    ///
    /// # Errors
    /// Every kind but [`WebhookError::Url`]. After `Timeout` and `Protocol` it may have arrived.
    pub async fn post(
        &self,
        tasks: &Tasks,
        body: Vec<u8>,
        bound: Duration,
    ) -> Result<(), WebhookError> {
        let budget = Budget::new(&self.place, bound);
        let stream = dial::connect(&self.place, &budget).await?;
        if !self.place.tls {
            return self.exchange(tasks, &budget, stream, body).await;
        }
        let failed = |source| WebhookError::Tls { to: self.to_string(), source };
        let handshake = tls::handshake(&self.place.host, stream, &self.roots);
        let stream = budget.within("agreeing on TLS", handshake).await?.map_err(failed)?;
        self.exchange(tasks, &budget, stream, body).await
    }

    async fn exchange<S>(
        &self,
        tasks: &Tasks,
        budget: &Budget<'_>,
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
        // What is still on its way when this function ends is cut, not waited for.
        let _connection = AbortOnDropHandle::new(tasks.spawn("webhook", connection));
        let asked = sender.send_request(self.request(body));
        let answer = budget.within("waiting for its answer", asked).await?.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(WebhookError::Status {
                to: self.to_string(),
                status: answer.status().as_u16(),
            });
        }
        // It said that it has the document: a body that is late, long or broken takes nothing back.
        let _ = budget.within("reading its answer", discard(answer)).await;
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

async fn discard(answer: Response<Incoming>) {
    // What it holds, or why it ended, changes nothing.
    let _ = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
}
