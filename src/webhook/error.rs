//! Why a POST was not delivered.
//!
//! No variant holds userinfo, path, query, or anything that the receiver answered beyond its status:
//! a path is often the receiver's only password, and an answer may echo what it was sent.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Why a URL was not taken, or an attempt failed. Display prints every cause once.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL itself; trying again is useless.
    #[error("the webhook's URL: found {found}; wanted {wanted}")]
    Url { found: String, wanted: &'static str },
    /// The host's name has no address, or none that may be used.
    #[error("cannot look up the host of {to}{}", Causes(source))]
    Resolve { to: String, source: io::Error },
    /// No address let us in; silence for an address' share of the time is among the reasons.
    #[error("cannot connect to {to}{}", Tried(tried))]
    Connect { to: String, tried: Vec<(SocketAddr, io::Error)> },
    /// The handshake failed, or the certificate is not trusted or for another name.
    #[error("TLS with {to} failed{}", Causes(source))]
    Tls { to: String, source: io::Error },
    /// The whole attempt's time was over. What was sent may have arrived.
    #[error("{to} did not finish within {bound:?}, while {step}")]
    Timeout { to: String, bound: Duration, step: &'static str },
    /// The receiver answered, but not with 2xx.
    #[error("{to} answered with status {status}{}", redirect(*status))]
    Status { to: String, status: u16 },
    /// The connection ended early, or what came is no HTTP. What was sent may have arrived.
    #[error("the exchange with {to} failed{}", Causes(source))]
    Protocol { to: String, source: hyper::Error },
}

fn redirect(status: u16) -> &'static str {
    if (300..400).contains(&status) {
        "; redirects are not followed: configure the URL that it leads to"
    } else {
        ""
    }
}

/// An error and its causes, each after a colon.
struct Causes<'a>(&'a (dyn StdError + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause = Some(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Each address with what became of it.
struct Tried<'a>(&'a [(SocketAddr, io::Error)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (address, error)) in self.0.iter().enumerate() {
            let before = if at == 0 { ':' } else { ';' };
            write!(f, "{before} {address}{}", Causes(error))?;
        }
        Ok(())
    }
}
