//! The life of the process: the only spawn, one bounded drain, signals, and systemd's socket.
//!
//! Every task has a name and is counted under it, so that a drain that does not finish can say who
//! holds it up. Stopping is two-staged: [`Tasks::stop`] cancels the token that loops watch, then
//! [`Tasks::drain`] waits, for so long and no longer.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod notify;
pub mod signals;

/// The process's tasks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    stop: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<&'static str, usize>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Starts a task. A panic inside it ends that task only; the handle tells.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = Running::enter(Arc::clone(&self.inner), name);
        self.inner.tracker.spawn(async move {
            let _guard = guard;
            future.await
        })
    }

    /// Resolves when the process is to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Tells every loop to stop. Idempotent.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Waits until every task has ended, at most `bound`. Returns the names of those that have not.
    pub async fn drain(&self, bound: Duration) -> Vec<&'static str> {
        self.inner.tracker.close();
        if tokio::time::timeout(bound, self.inner.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        self.running().into_keys().collect()
    }

    /// Names and counts of the tasks that run.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts a task under its name for as long as it lives, also through a panic.
struct Running {
    inner: Arc<Inner>,
    name: &'static str,
}

impl Running {
    fn enter(inner: Arc<Inner>, name: &'static str) -> Running {
        *inner.running.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
        Running { inner, name }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}
