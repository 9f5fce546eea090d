//! The life of the process: the only spawn, a bounded drain, signals, and the socket of systemd.
//!
//! Every task has a name, so that a drain that runs out of time can report which tasks are left.
//! Stopping has two steps: [`Tasks::stop`] cancels the token that loops watch, then
//! [`Tasks::drain`] waits for the tasks to end, up to a timeout.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod notify;
pub mod signals;

/// The tasks of the process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
    running: Arc<Running>,
}

impl Tasks {
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Starts a task. A panic ends only this task; the handle returns it.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = RunningGuard::new(&self.running, name);
        self.tracker.spawn(async move {
            let _guard = guard;
            future.await
        })
    }

    /// Returns the token that [`Tasks::stop`] cancels.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks every task to stop. Idempotent.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until every task has ended, for at most `timeout`. Returns the names of the tasks that
    /// are left.
    pub async fn drain(&self, timeout: Duration) -> Vec<&'static str> {
        self.tracker.close();
        if tokio::time::timeout(timeout, self.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        self.running.with(|counts| {
            counts.iter().filter(|(_, count)| **count > 0).map(|(name, _)| *name).collect()
        })
    }
}

/// How many tasks of each name are running.
#[derive(Debug, Default)]
struct Running(Mutex<BTreeMap<&'static str, usize>>);

impl Running {
    fn with<T>(&self, access: impl FnOnce(&mut BTreeMap<&'static str, usize>) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts a task for as long as it lives; a panic drops it too.
struct RunningGuard {
    running: Arc<Running>,
    name: &'static str,
}

impl RunningGuard {
    fn new(running: &Arc<Running>, name: &'static str) -> RunningGuard {
        running.with(|counts| *counts.entry(name).or_default() += 1);
        RunningGuard { running: Arc::clone(running), name }
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.with(|counts| *counts.entry(self.name).or_default() -= 1);
    }
}
