//! A TCP connection to the receiver, within what is left of the attempt's time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::WebhookError;
use super::url::Place;

/// More than any receiver has; a name with thousands would leave no address a share worth having.
const ADDRESSES_MAX: usize = 16;

/// The time of one attempt, from its beginning.
pub(super) struct Budget<'a> {
    place: &'a Place,
    started: Instant,
    bound: Duration,
}

impl Budget<'_> {
    pub(super) fn new(place: &Place, bound: Duration) -> Budget<'_> {
        Budget { place, started: Instant::now(), bound }
    }

    /// Does a step of the attempt, if there is time for it.
    pub(super) async fn within<T>(
        &self,
        step: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, WebhookError> {
        let late =
            |_| WebhookError::Timeout { to: self.place.to_string(), bound: self.bound, step };
        timeout(self.left(), work).await.map_err(late)
    }

    fn left(&self) -> Duration {
        self.bound.saturating_sub(self.started.elapsed())
    }
}

/// Connects to the first of the host's addresses that lets us in. Each has an equal share of the
/// time that those before it left, so that a silent one does not use up what the next would need.
pub(super) async fn connect(place: &Place, budget: &Budget<'_>) -> Result<TcpStream, WebhookError> {
    let failed = |source| WebhookError::Resolve { to: place.to_string(), source };
    let addresses = budget.within("looking up its host", resolve(place)).await?.map_err(failed)?;
    let mut tried = Vec::new();
    // At most ADDRESSES_MAX of them, and never none.
    let shares = (1..=addresses.len() as u32).rev();
    for (address, shares) in addresses.into_iter().zip(shares) {
        let share = budget.left() / shares;
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => tried.push((address, error)),
            Err(_) => tried.push((address, silent(share))),
        }
    }
    Err(WebhookError::Connect { to: place.to_string(), tried })
}

fn silent(share: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {share:.1?}"))
}

async fn resolve(place: &Place) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((place.host.as_str(), place.port)).await?;
    // A resolver that sends localhost elsewhere would have us speak in the clear over a network.
    let usable = found.filter(|address| place.tls || address.ip().to_canonical().is_loopback());
    let addresses: Vec<_> = usable.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        let what = if place.tls {
            "its name has no address"
        } else {
            "its name has no address of this machine"
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    Ok(addresses)
}
