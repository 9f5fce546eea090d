//! How far the runs of this process have come: told by jobs, read by whoever shows it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::store::runs::Progress;

/// The progress of each run under way here.
#[derive(Debug, Default)]
pub struct Progresses(Mutex<HashMap<Uuid, Told>>);

#[derive(Debug, Default)]
struct Told {
    step: Option<Progress>,
    /// Whether it has changed since it was last taken for the run's row.
    news: bool,
}

impl Progresses {
    /// Makes a place for a run.
    pub fn begin(&self, run: Uuid) {
        self.lock().insert(run, Told::default());
    }

    /// Forgets a run.
    pub fn end(&self, run: Uuid) {
        self.lock().remove(&run);
    }

    /// Keeps the newest step of a run that has a place.
    pub fn tell(&self, run: Uuid, step: Progress) {
        if let Some(told) = self.lock().get_mut(&run) {
            *told = Told { step: Some(step), news: true };
        }
    }

    /// The newest step.
    pub fn of(&self, run: Uuid) -> Option<Progress> {
        self.lock().get(&run)?.step.clone()
    }

    /// The newest step, once.
    pub fn take_news(&self, run: Uuid) -> Option<Progress> {
        let mut told = self.lock();
        let told = told.get_mut(&run).filter(|told| told.news)?;
        told.news = false;
        told.step.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
