//! Notifies systemd of readiness, reloads and the stop, and feeds its watchdog.

use std::time::{Duration, Instant};

use crate::health::Readiness;
use crate::lifecycle::notify::Notifier;

/// How often to check that the pipelines advance if systemd sets no watchdog.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

const STATUS: &str = "running";

pub(super) struct Systemd {
    notifier: Notifier,
    started: Instant,
    /// Whether `READY=1` was sent.
    ready: bool,
    /// When to feed the watchdog next.
    watchdog_due: Instant,
}

impl Systemd {
    /// `started` is the start of the process, for the time until ready that is logged.
    pub(super) fn new(started: Instant) -> Systemd {
        let notifier = Notifier::new(|name| std::env::var_os(name)).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "cannot notify systemd");
            Notifier::default()
        });
        Systemd { notifier, started, ready: false, watchdog_due: started }
    }

    /// Sends `READY=1` once, and feeds the watchdog if that is due and every pipeline advances.
    /// Returns when to call again.
    pub(super) fn update(&mut self, readiness: &Readiness) -> Instant {
        let now = Instant::now();
        if !self.ready && readiness.ready(now) {
            self.ready = true;
            let took_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(took_ms, "ready");
            log_failure(self.notifier.ready(STATUS));
        }
        if now >= self.watchdog_due {
            self.watchdog_due = now + self.notifier.watchdog_interval().unwrap_or(CHECK_INTERVAL);
            match readiness.pipeline(now).outcome {
                Ok(()) => log_failure(self.notifier.watchdog()),
                Err(reason) => {
                    tracing::error!(reason, "pipeline is stalled, not feeding the watchdog");
                }
            }
        }
        self.watchdog_due
    }

    /// A reload ends with `READY=1`, so systemd learns of one only if it has been ready before.
    pub(super) fn reloading(&self) {
        if self.ready {
            log_failure(self.notifier.reloading());
        }
    }

    pub(super) fn reloaded(&self) {
        if self.ready {
            log_failure(self.notifier.ready(STATUS));
        }
    }

    pub(super) fn stopping(&self) {
        log_failure(self.notifier.stopping());
    }
}

/// The daemon works without systemd, so a failed notification is only logged.
fn log_failure(result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(error = %error, "cannot notify systemd");
    }
}
