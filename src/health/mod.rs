//! Measurements judged into a status, and the board that holds the current truth.
//!
//! ```text
//! Measurement ─ judge (pure) ─► Verdict per component ─ History (hysteresis) ─► Report ─► Board
//! ```
//! A probe returns a measurement, also when the database is away: then the kind of error is what was
//! measured. [`judge`](judge::judge) holds it against thresholds; [`History`] lets a component
//! worsen at once and improve only after several good measurements in a row. The [`Board`] keeps the
//! [`Report`] that every answer is given from, and is updated before the row is written: what is
//! shown never waits for the database. A row that cannot be written waits in the [`spool`].

pub mod board;
pub mod history;
pub mod judge;
pub mod reason;
pub mod readiness;
pub mod server;
pub mod recent;
pub mod spool;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::observe::Unavailable;

pub use board::Board;
pub use history::History;
pub use judge::{Audit, FailingJob, Inputs, Jobs, Measurement, PartitionsNeeded, Schema, Verdict};
pub use readiness::{Check, Readiness};
pub use recent::Recent;
pub use server::{ConnectMs, Server};

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Healthy,
    Degraded,
    Unhealthy,
    /// Not measured yet, not permitted, not supported, or too old to be believed.
    Unknown,
}

impl Status {
    /// The label used in JSON and in `system_health.status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Healthy => "healthy",
            Status::Degraded => "degraded",
            Status::Unhealthy => "unhealthy",
            Status::Unknown => "unknown",
        }
    }

    /// The value of `pgsteward_health_status`.
    pub fn as_gauge(self) -> i64 {
        match self {
            Status::Healthy => 0,
            Status::Degraded => 1,
            Status::Unhealthy => 2,
            Status::Unknown => 3,
        }
    }

    /// The status of the whole: the worst of its parts, where one `unknown` counts as `degraded`.
    /// `unknown` when nothing at all is known.
    pub fn overall(parts: impl IntoIterator<Item = Status>) -> Status {
        let (mut worst, mut known, mut unknown) = (Status::Healthy, false, false);
        for part in parts {
            match part {
                Status::Unknown => unknown = true,
                part => {
                    known = true;
                    if part.as_gauge() > worst.as_gauge() {
                        worst = part;
                    }
                }
            }
        }
        match (known, unknown, worst) {
            (false, _, _) => Status::Unknown,
            (true, true, Status::Healthy) => Status::Degraded,
            (true, _, worst) => worst,
        }
    }
}

/// One thing that is watched, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// `connectivity`, `response`, `connections`, `transactions`, `locks`, `replication`,
    /// `wraparound`, `schema`, `partitions`, `jobs`, `audit`.
    pub name: &'static str,
    pub status: Status,
    /// A stable code, `ok` when healthy: `refused`, `connections_high`, `not_permitted` …
    pub reason: &'static str,
    /// The finding and the limit, in one sentence.
    pub message: String,
    /// The action that restores the component, where one is known.
    pub remedy: Option<String>,
    /// Since when it has this status.
    pub since: DateTime<Utc>,
    /// What was measured: shape depends on the component.
    pub measured: serde_json::Value,
}

/// The health of one database at one instant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub target: String,
    /// The worst of the components; `unknown` counts as `degraded` beside others.
    pub status: Status,
    /// When it was measured.
    pub checked_at: DateTime<Utc>,
    /// How long the server took to answer, where it did.
    pub response_ms: Option<f64>,
    pub components: Vec<Component>,
    /// What the server said of itself, where it answered the observer.
    #[serde(skip)]
    pub server: Option<Server>,
    /// What could not be read, with the remedy.
    #[serde(skip)]
    pub unavailable: Vec<Unavailable>,
    /// How long the last fresh connect took.
    #[serde(skip)]
    pub connect_ms: Option<ConnectMs>,
}

impl Report {
    /// Components alone, with the worst of them as the status of the whole.
    pub fn new(
        target: &str,
        status: Status,
        checked_at: DateTime<Utc>,
        response_ms: Option<f64>,
        components: Vec<Component>,
    ) -> Report {
        let target = target.to_owned();
        let (server, unavailable, connect_ms) = (None, Vec::new(), None);
        Report {
            target,
            status,
            checked_at,
            response_ms,
            components,
            server,
            unavailable,
            connect_ms,
        }
    }

    /// A component by name.
    pub fn component(&self, name: &str) -> Option<&Component> {
        self.components.iter().find(|component| component.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{self, *};

    #[test]
    fn the_whole_is_as_bad_as_its_worst_part() {
        for (parts, whole) in [
            (&[][..], Unknown),
            (&[Unknown, Unknown], Unknown),
            (&[Healthy, Healthy], Healthy),
            (&[Healthy, Unknown], Degraded),
            (&[Healthy, Degraded, Unknown], Degraded),
            (&[Degraded, Unhealthy, Healthy], Unhealthy),
            (&[Unhealthy, Unknown], Unhealthy),
        ] {
            assert_eq!(Status::overall(parts.iter().copied()), whole, "{parts:?}");
        }
    }
}
