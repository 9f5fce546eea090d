//! The listener's certificate.

use prometheus::{IntCounterVec, Registry};

use super::counters;

/// The families of the listener's TLS.
#[derive(Debug)]
pub struct Tls {
    pub reloads: IntCounterVec,
}

impl Tls {
    pub(super) fn new(r: &Registry) -> Result<Tls, prometheus::Error> {
        Ok(Tls {
            reloads: counters(
                r,
                "pgsteward_http_tls_reloads_total",
                "Changes of certificate or key on the disk, by outcome: taken, or refused while the one before goes on.",
                &["outcome"],
            )?,
        })
    }
}
