//! The wake-up: once a second, by `tokio-cron-scheduler`. The only file that names that crate.
//!
//! It does not decide anything: it is known to lose activations, to freeze a time zone at an offset
//! and to know nothing of overlap or missed runs, so it only says "look again", and what is due is
//! the planner's business. A lost or doubled wake-up therefore does no harm.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

/// Wakes whoever waits on `wake`, each second, until `stop`.
pub struct Ticker {
    scheduler: JobScheduler,
}

impl Ticker {
    /// Starts ticking.
    pub async fn start(
        wake: Arc<Notify>,
        stop: CancellationToken,
    ) -> Result<Ticker, JobSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        let job = Job::new("* * * * * *", move |_, _| {
            // One more tick may fire after shutdown() has returned.
            if !stop.is_cancelled() {
                wake.notify_waiters();
            }
        })?;
        scheduler.add(job).await?;
        scheduler.start().await?;
        Ok(Ticker { scheduler })
    }

    /// Stops ticking. Its own tasks end with the runtime.
    pub async fn stop(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::debug!(error = %error, "the ticker did not stop");
        }
    }
}
