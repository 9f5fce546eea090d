//! Measurements held against thresholds: pure, no clock, no I/O.
//!
//! Each component has one function that returns a [`Verdict`]. The message states the finding and the
//! limit; the remedy stands in a field of its own. Thresholds come from the configuration
//! (`[health]`); the few that are fixed are constants beside the function that uses them.

mod audit;
mod replication;
mod sessions;
mod upkeep;

use std::time::Duration;

use serde_json::json;

use super::{Status, reason};
use crate::config;
use crate::db::{Error, Kind};
use crate::observe::{OTHERS_SESSIONS, Snapshot, Unavailable};

/// What a probe found.
#[derive(Debug, Clone, Copy)]
pub enum Measurement<'a> {
    /// The server answered.
    Answered {
        snapshot: &'a Snapshot,
        response: Duration,
        /// Why a fresh connect beside the open connection failed, when the last one did.
        fresh_connect: Option<&'a Error>,
    },
    /// It did not, or not with what was asked.
    Failed(&'a Error),
}

/// What others know of the database. What is absent has not been looked at yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    pub schema: Option<Schema>,
    pub partitions: Vec<PartitionsNeeded>,
    pub jobs: Option<Jobs>,
    pub audit: Option<Audit>,
}

/// How the migrations stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// The file that failed at the last attempt and why.
    pub failed: Option<String>,
    /// Whether it failed because another role controls the schema `steward`.
    pub untrusted: bool,
    /// Files whose checksum differs from what was applied, and objects that are missing. Beside `failed`: the
    /// files for which nothing more is applied.
    pub mismatches: Vec<String>,
}

/// How many partitions a table wants beyond the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionsNeeded {
    /// `schema.table`
    pub table: String,
    pub ahead: i64,
}

/// How the jobs stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jobs {
    pub failing: Vec<FailingJob>,
    /// Jobs that may do nothing of what they are for, with the GRANTs that they need.
    pub not_permitted: Vec<FailingJob>,
    /// What else jobs could not do, each with its remedy.
    pub warnings: Vec<String>,
    /// By whom all jobs are paused, when they are.
    pub paused: Option<String>,
}

/// How the audit trail stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// What audited tables lack.
    pub gaps: Vec<String>,
    /// For how long the oldest row has not been sealed.
    pub unsealed: Option<Duration>,
    /// Whether statements were lost in the last minutes.
    pub lost_lately: bool,
    /// Statements lost since the trail began.
    pub losses: i64,
    /// The number of the newest seal.
    pub seal: Option<i64>,
}

/// A job whose last run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingJob {
    pub name: String,
    pub error: String,
}

/// One component of one measurement, before hysteresis.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub name: &'static str,
    pub status: Status,
    pub reason: &'static str,
    pub message: String,
    /// The action that restores the component, where one is known.
    pub remedy: Option<String>,
    pub measured: serde_json::Value,
}

impl Verdict {
    fn new(
        name: &'static str,
        status: Status,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Verdict {
        Verdict { name, status, reason, message: message.into(), remedy: None, measured: json!({}) }
    }

    fn healthy(name: &'static str, message: impl Into<String>) -> Verdict {
        Verdict::new(name, Status::Healthy, "ok", message)
    }

    fn degraded(name: &'static str, reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict::new(name, Status::Degraded, reason, message)
    }

    fn unhealthy(name: &'static str, reason: &'static str, message: impl Into<String>) -> Verdict {
        Verdict::new(name, Status::Unhealthy, reason, message)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Verdict {
        self.remedy = Some(remedy.into());
        self
    }

    fn measured(mut self, measured: serde_json::Value) -> Verdict {
        self.measured = measured;
        self
    }
}

/// Components that are judged from a snapshot alone.
const FROM_SNAPSHOT: [&str; 6] =
    ["response", "connections", "transactions", "locks", "replication", "wraparound"];

/// Judges every component.
pub fn judge(
    measurement: Measurement<'_>,
    inputs: &Inputs,
    limits: &config::Health,
) -> Vec<Verdict> {
    let mut verdicts = vec![connectivity(measurement)];
    match measurement {
        Measurement::Answered { snapshot, response, .. } => {
            verdicts.push(self::response(response, limits));
            verdicts.push(sessions::connections(snapshot, limits));
            verdicts.push(sessions::transactions(snapshot, limits));
            verdicts.push(sessions::locks(snapshot, limits));
            verdicts.push(replication::replication(snapshot, limits));
            verdicts.push(upkeep::wraparound(snapshot, limits));
            verdicts.push(upkeep::schema(inputs.schema.as_ref()));
            verdicts.push(upkeep::partitions(snapshot, &inputs.partitions));
        }
        Measurement::Failed(_) => {
            verdicts.extend(FROM_SNAPSHOT.into_iter().map(not_measured));
            verdicts.push(upkeep::schema(inputs.schema.as_ref()));
            verdicts.push(not_measured("partitions"));
        }
    }
    verdicts.push(upkeep::jobs(inputs.jobs.as_ref()));
    verdicts.push(audit::audit(inputs.audit.as_ref()));
    verdicts
}

/// Whether the database can be reached: by the open connection, and by a new one.
pub fn connectivity(measurement: Measurement<'_>) -> Verdict {
    const NAME: &str = "connectivity";
    match measurement {
        Measurement::Answered { fresh_connect: None, response, .. } => answers(response),
        Measurement::Answered { fresh_connect: Some(error), .. } => Verdict::degraded(
            NAME,
            error.kind().as_str(),
            format!("an open connection answers, but a new one fails: {error}"),
        )
        .remedy(reason::remedy(error.kind()))
        .measured(json!({ "fresh_connect": error.kind() })),
        Measurement::Failed(error) => {
            let kind = error.kind();
            let (status, found) = match kind {
                // Our own connection is busy: that says nothing of the server.
                Kind::PoolTimeout => (Status::Unknown, "not measured"),
                kind if reason::reached(kind) => {
                    (Status::Degraded, "the server answers, but cannot be measured")
                }
                _ => (Status::Unhealthy, "the database cannot be reached"),
            };
            Verdict::new(NAME, status, kind.as_str(), format!("{found}: {error}"))
                .remedy(reason::remedy(kind))
                .measured(json!({ "error": kind }))
        }
    }
}

/// The connectivity of a server that answered.
pub fn answers(response: Duration) -> Verdict {
    Verdict::healthy("connectivity", "the server answers")
        .measured(json!({ "response_ms": millis(response) }))
}

fn not_measured(name: &'static str) -> Verdict {
    Verdict::new(name, Status::Unknown, "not_measured", "not measured: see connectivity")
}

fn response(response: Duration, limits: &config::Health) -> Verdict {
    const NAME: &str = "response";
    let (took, limit) = (millis(response), millis(limits.response_degraded));
    let verdict = if response >= limits.response_degraded {
        Verdict::degraded(
            NAME,
            "slow",
            format!("the server took {took:.0} ms to answer, the limit is {limit:.0} ms"),
        )
        .remedy("look for load, slow I/O or a slow network")
    } else {
        Verdict::healthy(NAME, format!("the server answered in {took:.1} ms"))
    };
    verdict.measured(json!({ "response_ms": took }))
}

fn unavailable(name: &'static str, snapshot: &Snapshot, parts: &[&str]) -> Verdict {
    match snapshot.unavailable.iter().find(|unavailable| parts.contains(&unavailable.what.as_str()))
    {
        Some(found) => unknown(name, found),
        None => not_measured(name),
    }
}

fn unknown(name: &'static str, unavailable: &Unavailable) -> Verdict {
    let Unavailable { what, reason, remedy, .. } = unavailable;
    Verdict::new(
        name,
        Status::Unknown,
        unavailable.code,
        format!("{what} is not available: {reason}"),
    )
    .remedy(remedy)
    .measured(json!({ "unavailable": unavailable }))
}

fn not_permitted(name: &'static str, snapshot: &Snapshot, count: i64) -> Verdict {
    let unavailable =
        snapshot.unavailable.iter().find(|unavailable| unavailable.what == OTHERS_SESSIONS);
    Verdict::new(
        name,
        Status::Unknown,
        "not_permitted",
        format!("details of {count} sessions are hidden from this role"),
    )
    .remedy(unavailable.map_or("grant pg_monitor to the role", |unavailable| &unavailable.remedy))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A duration for a person: two units at most.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} m {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests;
