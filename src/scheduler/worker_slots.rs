//! Where runs take their place: so many at a time, and one place that no long run may take.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{Builtin, Job, Work};

/// The worker_slots of one database.
#[derive(Debug)]
pub struct WorkerSlots {
    all: Arc<Semaphore>,
    /// One fewer than all, where there is more than one.
    long: Arc<Semaphore>,
}

/// A place in a slot; dropping it frees it.
#[derive(Debug)]
pub struct WorkerSlot {
    _place: OwnedSemaphorePermit,
    _long: Option<OwnedSemaphorePermit>,
}

impl WorkerSlots {
    /// So many, at least one.
    pub fn new(count: u32) -> WorkerSlots {
        let count = count.max(1) as usize;
        let long = (count - 1).max(1);
        WorkerSlots { all: Arc::new(Semaphore::new(count)), long: Arc::new(Semaphore::new(long)) }
    }

    /// A place for this job, if one is free.
    pub fn take(&self, job: &Job) -> Option<WorkerSlot> {
        let long = match takes_hours(job) {
            true => Some(Arc::clone(&self.long).try_acquire_owned().ok()?),
            false => None,
        };
        let place = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(WorkerSlot { _place: place, _long: long })
    }
}

/// From this timeout on, SQL of an operator's own counts as long.
const LONG: Duration = Duration::from_secs(15 * 60);

/// Jobs over all of a table's rows. The others make what applications wait for.
fn takes_hours(job: &Job) -> bool {
    match &job.work {
        Work::Builtin(builtin) => matches!(builtin, Builtin::Vacuum | Builtin::Retention),
        Work::Sql(_) => job.timeout > LONG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stays_for_what_is_short() {
        let worker_slots = WorkerSlots::new(2);
        let vacuum = worker_slots.take(&Job::of(Builtin::Vacuum)).expect("all are free");
        assert!(
            worker_slots.take(&Job::of(Builtin::Retention)).is_none(),
            "the last slot is for short runs"
        );
        let refresh = worker_slots.take(&Job::of(Builtin::Refresh)).expect("one is left");
        assert!(worker_slots.take(&Job::of(Builtin::Partitions)).is_none(), "none is left");
        drop(vacuum);
        assert!(
            worker_slots.take(&Job::of(Builtin::Retention)).is_some(),
            "the long place is free again"
        );
        drop(refresh);
        let (_one, _two) = (
            worker_slots.take(&Job::of(Builtin::Refresh)).expect("free"),
            worker_slots.take(&Job::of(Builtin::Partitions)).expect("free"),
        );
        assert!(worker_slots.take(&Job::of(Builtin::Vacuum)).is_none(), "short runs may have both");
    }

    #[test]
    fn a_single_lane_is_for_everybody() {
        let worker_slots = WorkerSlots::new(1);
        let vacuum = worker_slots.take(&Job::of(Builtin::Vacuum));
        assert!(vacuum.is_some() && worker_slots.take(&Job::of(Builtin::Partitions)).is_none());
        drop(vacuum);
        assert!(worker_slots.take(&Job::of(Builtin::Partitions)).is_some());
    }
}
