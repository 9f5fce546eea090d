//! When a job is due, as text that was checked.

use std::time::Duration;

/// A schedule: cron with five or six fields, or an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    text: String,
    kind: Kind,
}

/// What a schedule means.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Every so often, counted from the Unix epoch so that all instances agree.
    Every(Duration),
    /// By the wall clock of the job's time zone.
    Cron(Box<croner::Cron>),
}

impl Schedule {
    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}
