//! Measurements judged into a status, and the board that holds the current truth.
//!
//! A probe returns a measurement; [`judge`] (pure) turns it into a [`Component`] by thresholds; the
//! [`board`] keeps the [`Report`] that every answer is given from. The board is updated before the
//! row is written: what is shown never waits for the database.

pub mod board;
pub mod readiness;

use chrono::{DateTime, Utc};
use serde::Serialize;

pub use board::Board;
pub use readiness::{Check, Readiness};

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
}

/// One thing that is watched, as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Component {
    /// `connectivity`, `connections`, `transactions`, `locks`, `replication`, `wraparound`,
    /// `schema`, `partitions`, `jobs`.
    pub name: &'static str,
    pub status: Status,
    /// A stable code, `ok` when healthy: `refused`, `connections_high`, `not_permitted` …
    pub reason: &'static str,
    /// One sentence for a person: what was found, what the limit is, what mends it.
    pub message: String,
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
}
