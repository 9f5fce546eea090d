//! The current truth of one database, in memory.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Recent, Report, Status};

/// What every answer about a database's health is read from.
#[derive(Debug)]
pub struct Board {
    target: String,
    stale_after: Duration,
    current: Mutex<Option<(Instant, Arc<Report>)>>,
    recent: Arc<Recent>,
}

/// A report with its age, or none yet.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Absent until the first measurement.
    pub report: Option<Arc<Report>>,
    pub age: Duration,
    /// The report's status, or `unknown` when there is none or it is stale.
    pub status: Status,
    pub stale: bool,
}

impl Board {
    /// Nothing known yet.
    pub fn new(target: &str, stale_after: Duration) -> Board {
        Board {
            target: target.to_owned(),
            stale_after,
            current: Mutex::new(None),
            recent: Arc::default(),
        }
    }

    /// The database it is about.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// What was measured before it, as far as memory holds it.
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// Replaces the current truth.
    pub fn publish(&self, report: Report) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::new(report)));
    }

    /// The current truth and how old it is (by the monotonic clock).
    pub fn read(&self) -> Reading {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match current {
            None => {
                Reading { report: None, age: Duration::ZERO, status: Status::Unknown, stale: false }
            }
            Some((at, report)) => {
                let age = at.elapsed();
                let stale = age > self.stale_after;
                let status = if stale { Status::Unknown } else { report.status };
                Reading { report: Some(report), age, status, stale }
            }
        }
    }
}
