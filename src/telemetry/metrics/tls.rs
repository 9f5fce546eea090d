//! The listener's certificate.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::{counters, gauges};

/// The families of the listener's TLS.
#[derive(Debug)]
pub struct Tls {
    pub reloads: IntCounterVec,
    /// Without labels, and without a series where the listener has no certificate.
    pub last_reload_successful: IntGaugeVec,
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
            last_reload_successful: gauges(
                r,
                "pgsteward_http_tls_last_reload_successful",
                "Whether certificate and key on the disk are those in use.",
                &[],
            )?,
        })
    }
}
