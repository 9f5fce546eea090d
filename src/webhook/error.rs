//! Why a POST was not delivered.
//!
//! No variant holds userinfo, path, query, or anything of the response beyond its status: the path
//! is often the receiver's only password, and a response may echo the request.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::telemetry::log::chain;

/// Why a URL was refused or an attempt failed. Display includes every cause.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The URL is invalid. Retrying is useless.
    #[error("webhook URL: expected {expected}, found {found}")]
    Url { expected: &'static str, found: String },
    /// The name of the host has no address, or none that is allowed.
    #[error("cannot look up the host of {to}: {}", chain(source))]
    Resolve { to: String, source: io::Error },
    /// No address accepted a connection. Each attempt has its own timeout.
    #[error("cannot connect to {to}: {}", list(attempts))]
    Connect { to: String, attempts: Vec<(SocketAddr, io::Error)> },
    /// The handshake failed: the certificate is untrusted or for another name, for example.
    #[error("TLS with {to} failed: {}", chain(source))]
    Tls { to: String, source: io::Error },
    /// The time of the whole attempt ran out. The request may have arrived.
    #[error("{to} did not finish within {timeout:?}, while {step}")]
    Timeout { to: String, timeout: Duration, step: &'static str },
    /// The response has a status other than 2xx.
    #[error("{to} answered with status {status}{}", redirect(*status))]
    Status { to: String, status: u16 },
    /// The connection ended early, or the response is not HTTP. The request may have arrived.
    #[error("the exchange with {to} failed: {}", chain(source))]
    Protocol { to: String, source: hyper::Error },
}

fn redirect(status: u16) -> &'static str {
    if (300..400).contains(&status) {
        "; redirects are not followed: configure the URL that it leads to"
    } else {
        ""
    }
}

fn list(attempts: &[(SocketAddr, io::Error)]) -> String {
    let attempts = attempts.iter().map(|(address, error)| format!("{address}: {}", chain(error)));
    attempts.collect::<Vec<_>>().join("; ")
}
