//! Connects to the receiver over TCP, within the remaining time of the attempt.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::WebhookError;
use super::url::Endpoint;

/// Addresses beyond this number are ignored. A name with thousands of them would leave none of them
/// enough time.
const ADDRESSES_MAX: usize = 16;

/// One attempt to deliver, and the time that it has.
pub(super) struct Attempt<'a> {
    endpoint: &'a Endpoint,
    started: Instant,
    timeout: Duration,
}

impl Attempt<'_> {
    pub(super) fn start(endpoint: &Endpoint, timeout: Duration) -> Attempt<'_> {
        Attempt { endpoint, started: Instant::now(), timeout }
    }

    /// Runs a step of the attempt for as long as the attempt has time left.
    pub(super) async fn run<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, WebhookError> {
        let to = self.endpoint;
        timeout(self.time_left(), work).await.map_err(|_| WebhookError::Timeout {
            to: to.to_string(),
            timeout: self.timeout,
            step,
        })
    }

    /// Connects to the first address of the host that accepts. Each address gets an equal share of
    /// the remaining time, so that a silent one leaves time for the next.
    pub(super) async fn connect(&self) -> Result<TcpStream, WebhookError> {
        let to = || self.endpoint.to_string();
        let addresses = self
            .run("looking up its host", resolve(self.endpoint))
            .await?
            .map_err(|source| WebhookError::Resolve { to: to(), source })?;
        let mut attempts = Vec::new();
        // There are at least one and at most ADDRESSES_MAX of them.
        let shares = (1..=addresses.len() as u32).rev();
        for (address, shares) in addresses.into_iter().zip(shares) {
            let share = self.time_left() / shares;
            let silent = |_| {
                let message = format!("no answer within {share:.1?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            };
            match timeout(share, TcpStream::connect(address)).await.unwrap_or_else(silent) {
                Ok(stream) => return Ok(stream),
                Err(error) => attempts.push((address, error)),
            }
        }
        Err(WebhookError::Connect { to: to(), attempts })
    }

    fn time_left(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }
}

async fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await?;
    // A resolver that maps localhost to another machine would make us send plain text over a network.
    let allowed = found.filter(|address| endpoint.tls || address.ip().to_canonical().is_loopback());
    let addresses: Vec<_> = allowed.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        let message = if endpoint.tls {
            "its name has no address"
        } else {
            "its name has no loopback address"
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    Ok(addresses)
}
