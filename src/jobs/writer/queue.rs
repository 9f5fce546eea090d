//! The spool, asked from a task: on a thread that may block, within a bound.
//!
//! The daemon has a single worker, and few threads for what blocks. A disk that hangs (a network file
//! system, a stalled volume) may hold up neither: one call at a time waits for it, and those that come
//! meanwhile are told so at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use tokio::time::Instant;

use crate::health::spool::{Depth, Limits, Place, Reason, Spool, Table};

use super::Destination;

/// How long a call waits for the disk; what it asked for is still done when the disk goes on.
const DISK_BOUND: Duration = Duration::from_secs(2);
/// How often a folder that does not serve is tried again while nothing is to be kept.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(60);
/// How often the log repeats that rows were lost.
const WARN_EVERY: Duration = Duration::from_secs(300);

/// One database's spool.
#[derive(Debug)]
pub(super) struct Queue {
    /// Opened at the first use.
    spool: Arc<Mutex<Option<Spool>>>,
    state_dir: Option<PathBuf>,
    pub limits: Limits,
    /// As of the last call; none before the first.
    pub depth: Option<Depth>,
    /// When to try the folder again, where it does not serve: another process may have left rows in it.
    look_again: Option<Instant>,
    /// Since the log last told.
    lost: u64,
    warned: Option<Instant>,
}

/// What came of asking the spool.
pub(super) enum Asked<T> {
    Answered(T),
    /// It goes on with it.
    Slow,
    /// It was not asked: it is still at what it was asked before.
    Busy,
}

impl<T: Default> Asked<T> {
    pub fn unwrap_or_default(self) -> T {
        if let Asked::Answered(answer) = self { answer } else { T::default() }
    }
}

impl Queue {
    /// Touches no file yet.
    pub fn new(state_dir: Option<PathBuf>, limits: Limits) -> Queue {
        Queue {
            spool: Arc::default(),
            state_dir,
            limits,
            depth: None,
            look_again: None,
            lost: 0,
            warned: None,
        }
    }

    /// Whether nothing is known of it, or its folder is to be tried again.
    pub fn wants_a_look(&self) -> bool {
        self.depth.is_none() || self.look_again.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether rows of this table are known to wait.
    pub fn waits(&self, table: Table) -> bool {
        self.depth.is_some_and(|depth| depth.tables[table as usize] > 0)
    }

    /// Opens it, or its folder again. The depth when more waits than was known.
    pub async fn look(&mut self, to: &Destination<'_>) -> Option<Depth> {
        let before = self.depth.map_or(0, |depth| depth.records());
        self.look_again = None;
        let found = self.ask(to, |spool| {
            spool.retry_disk();
            spool.depth()
        });
        match found.await {
            Asked::Answered(depth) => Some(depth).filter(|depth| depth.records() > before),
            Asked::Slow | Asked::Busy => None,
        }
    }

    /// Asks the spool something, on a thread that may block where there are files.
    pub async fn ask<T: Send + 'static>(
        &mut self,
        to: &Destination<'_>,
        ask: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Asked<T> {
        let (spool, dir, limits) = (Arc::clone(&self.spool), self.state_dir.clone(), self.limits);
        let (target, files) = (to.db.name().to_owned(), self.state_dir.is_some());
        let work = move || {
            let mut spool = match spool.try_lock() {
                Ok(spool) => spool,
                // A panic inside would be a defect; the queue itself is whole after every step.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The last call still waits for the disk: waiting behind it would use up the threads.
                Err(TryLockError::WouldBlock) => return None,
            };
            let spool = spool.get_or_insert_with(|| Spool::open(dir.as_deref(), &target, limits));
            spool.set_limits(limits);
            let answer = ask(spool);
            Some((answer, spool.depth(), spool.take_drops(), spool.place()))
        };
        let answered = if files {
            match tokio::time::timeout(DISK_BOUND, tokio::task::spawn_blocking(work)).await {
                Ok(Ok(answered)) => answered,
                Ok(Err(_)) => None,
                Err(_) => {
                    tracing::warn!(
                        database = to.db.name(),
                        "the disk of state_dir does not answer"
                    );
                    return Asked::Slow;
                }
            }
        } else {
            work()
        };
        let Some((answer, depth, drops, place)) = answered else { return Asked::Busy };
        self.depth = Some(depth);
        self.look_again = match place {
            Place::Memory if files => {
                self.look_again.or_else(|| Some(Instant::now() + LOOK_AGAIN_EVERY))
            }
            _ => None,
        };
        export(to, depth);
        for (table, reason, rows) in drops {
            self.lose(to, table, reason, rows);
        }
        Asked::Answered(answer)
    }

    /// Counts rows that are lost for good, and says so now and then.
    pub fn lose(&mut self, to: &Destination<'_>, table: Option<Table>, reason: Reason, rows: u64) {
        let name = table.map_or("unknown", Table::as_str);
        to.metrics
            .rows_dropped_total
            .with_label_values(&[to.db.name(), name, reason.as_str()])
            .inc_by(rows);
        self.lost += rows;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            tracing::warn!(
                database = to.db.name(),
                rows = self.lost,
                table = name,
                reason = reason.as_str(),
                "measurements were lost; said again every {} minutes at most",
                WARN_EVERY.as_secs() / 60
            );
            self.warned = Some(Instant::now());
            self.lost = 0;
        }
    }
}

fn export(to: &Destination<'_>, depth: Depth) {
    let labels = [to.db.name()];
    let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    to.metrics.spool_records.with_label_values(&labels).set(gauge(depth.records()));
    to.metrics.spool_bytes.with_label_values(&labels).set(gauge(depth.bytes));
    match depth.oldest {
        Some(at) => to
            .metrics
            .spool_oldest_timestamp_seconds
            .with_label_values(&labels)
            .set(at.timestamp_micros() as f64 / 1e6),
        // An error says that there was no such series.
        None => drop(to.metrics.spool_oldest_timestamp_seconds.remove_label_values(&labels)),
    }
}
