//! `GET /health/`: the databases' own truth, from the boards.
//!
//! 503 when a database is unhealthy, 200 otherwise, with the doubt (`unknown`, `stale`) in the body.
//! Whoever asks without credentials is told statuses, codes and times; messages and measurements
//! may name hosts, tables and statements, and are left out.
//!
//! `Accept: application/health+json` gets the shape of draft-inadarei-api-health-check-06.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::StatusCode;
use hyper::header::VARY;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::negotiation::preferred;
use super::response::{self, set_header};
use super::{Access, Context, HttpError, Response};
use crate::health::board::Reading;
use crate::health::{Component, Status};

/// What one board says, in short.
#[derive(Debug)]
pub struct HealthSummary {
    pub target: String,
    pub status: Status,
    pub reason: &'static str,
    since: Option<DateTime<Utc>>,
    reading: Reading,
}

impl HealthSummary {
    pub fn new(target: &str, reading: Reading) -> HealthSummary {
        let worst = reading.report.as_ref().and_then(|report| worst(&report.components));
        let (reason, since) = match (&reading.report, worst) {
            (None, _) => ("not_measured", None),
            (Some(_), worst) if reading.stale => ("stale", worst.map(|_| stale_since(&reading))),
            (Some(_), Some(component)) => (component.reason, Some(component.since)),
            (Some(_), None) => ("ok", None),
        };
        HealthSummary { target: target.to_owned(), status: reading.status, reason, since, reading }
    }

    /// What every answer about a database begins with.
    pub fn members(&self) -> Map<String, Value> {
        match json!(target_health(self, false)) {
            Value::Object(mut members) => {
                members.remove("components");
                members
            }
            // A struct is written as an object.
            _ => Map::new(),
        }
    }

    /// Status and reason for a line of text.
    pub fn words(&self) -> String {
        match self.status {
            Status::Healthy => self.status.as_str().to_owned(),
            _ => format!("{} ({})", self.status.as_str(), self.reason),
        }
    }

    fn components(&self) -> &[Component] {
        self.reading.report.as_ref().map_or(&[], |report| &report.components)
    }

    fn checked_at(&self) -> Option<String> {
        self.reading.report.as_ref().map(|report| rfc3339(report.checked_at))
    }
}

/// The component that the whole is as bad as; among equals the one that has been so longest.
fn worst(components: &[Component]) -> Option<&Component> {
    components
        .iter()
        .min_by_key(|component| (std::cmp::Reverse(severity(component.status)), component.since))
}

/// The last measurement is believed for a while; the doubt is as old as it at least.
fn stale_since(reading: &Reading) -> DateTime<Utc> {
    reading.report.as_ref().map_or_else(Utc::now, |report| report.checked_at)
}

fn severity(status: Status) -> u8 {
    match status {
        Status::Healthy => 0,
        Status::Unknown => 1,
        Status::Degraded => 2,
        Status::Unhealthy => 3,
    }
}

/// All databases, or the one of `?target=`.
pub fn summaries(context: &Context<'_>) -> Result<Vec<HealthSummary>, HttpError> {
    let wanted = context.query.first("target");
    let boards =
        context.state.boards.iter().filter(|(name, _)| wanted.is_none_or(|target| target == *name));
    let summaries: Vec<HealthSummary> =
        boards.map(|(name, board)| HealthSummary::new(name, board.read())).collect();
    if summaries.is_empty() && wanted.is_some() {
        return Err(HttpError::no_such_target(context.state.boards.keys()));
    }
    Ok(summaries)
}

/// The status of all together: the worst; one that is unknown beside others makes it degraded.
fn overall(summaries: &[HealthSummary]) -> Status {
    let any = |status| summaries.iter().any(|summary| summary.status == status);
    let unknown = any(Status::Unknown);
    if any(Status::Unhealthy) {
        Status::Unhealthy
    } else if any(Status::Degraded) || (unknown && any(Status::Healthy)) {
        Status::Degraded
    } else if unknown || summaries.is_empty() {
        Status::Unknown
    } else {
        Status::Healthy
    }
}

const DRAFT: &str = "application/health+json";
const FORMS: [&str; 2] = ["application/json", DRAFT];

/// `GET /health/`
pub fn health(context: &Context<'_>) -> Result<Response, HttpError> {
    let summaries = summaries(context)?;
    let status = overall(&summaries);
    let code =
        if status == Status::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut response = if preferred(context.head, &FORMS) == DRAFT {
        response::json(code, DRAFT, &draft_health(status, &summaries))
    } else {
        let details =
            context.caller.as_ref().is_some_and(|caller| Access::Viewer.allows(caller.role));
        let targets = summaries
            .iter()
            .map(|summary| (summary.target.as_str(), target_health(summary, details)))
            .collect();
        response::json(
            code,
            "application/json",
            &HealthReply { status, version: env!("CARGO_PKG_VERSION"), targets },
        )
    };
    set_header(&mut response, VARY, "Accept");
    Ok(response)
}

#[derive(Serialize)]
struct HealthReply<'a> {
    status: Status,
    version: &'static str,
    targets: BTreeMap<&'a str, TargetHealth<'a>>,
}

#[derive(Serialize)]
struct TargetHealth<'a> {
    status: Status,
    reason: &'static str,
    since: Option<String>,
    checked_at: Option<String>,
    /// Of the measurement, by the monotonic clock.
    age_seconds: Option<f64>,
    stale: bool,
    response_ms: Option<f64>,
    /// As last measured, also when that is stale.
    components: BTreeMap<&'a str, ComponentHealth<'a>>,
}

#[derive(Serialize)]
struct ComponentHealth<'a> {
    status: Status,
    reason: &'static str,
    since: String,
    /// For who may read details, here and below.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'a Value>,
}

fn target_health(summary: &HealthSummary, details: bool) -> TargetHealth<'_> {
    let part = |c| component_health(c, details);
    TargetHealth {
        status: summary.status,
        reason: summary.reason,
        since: summary.since.map(rfc3339),
        checked_at: summary.checked_at(),
        age_seconds: summary.reading.report.as_ref().map(|_| seconds(summary.reading.age)),
        stale: summary.reading.stale,
        response_ms: summary.reading.report.as_ref().and_then(|report| report.response_ms),
        components: summary.components().iter().map(|c| (c.name, part(c))).collect(),
    }
}

fn component_health(c: &Component, details: bool) -> ComponentHealth<'_> {
    ComponentHealth {
        status: c.status,
        reason: c.reason,
        since: rfc3339(c.since),
        message: details.then_some(c.message.as_str()),
        remedy: c.remedy.as_deref().filter(|_| details),
        measured: details.then_some(&c.measured),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DraftHealth {
    status: &'static str,
    release_id: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    checks: BTreeMap<String, [DraftCheck; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DraftCheck {
    component_id: String,
    component_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_unit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'static str>,
}

fn draft_health(status: Status, summaries: &[HealthSummary]) -> DraftHealth {
    let mut checks = BTreeMap::new();
    for summary in summaries {
        let check = || DraftCheck {
            component_id: summary.target.clone(),
            component_type: "datastore",
            observed_value: None,
            observed_unit: None,
            status: None,
            time: summary.checked_at(),
            output: None,
        };
        for c in summary.components() {
            // What is stale passes for nothing.
            let status = if summary.reading.stale { Status::Unknown } else { c.status };
            let output = (status != Status::Healthy).then_some(if summary.reading.stale {
                "stale"
            } else {
                c.reason
            });
            let check = DraftCheck { status: Some(draft_status(status)), output, ..check() };
            checks.insert(format!("{}:{}", summary.target, c.name), [check]);
        }
        if let Some(ms) = summary.reading.report.as_ref().and_then(|report| report.response_ms) {
            let check =
                DraftCheck { observed_value: Some(ms), observed_unit: Some("ms"), ..check() };
            checks.insert(format!("{}:responseTime", summary.target), [check]);
        }
    }
    let doubtful = summaries.iter().filter(|summary| summary.status == Status::Unknown);
    DraftHealth {
        status: draft_status(status),
        release_id: env!("CARGO_PKG_VERSION"),
        description: "health of the databases that pgsteward keeps",
        notes: doubtful.map(|summary| format!("{}: {}", summary.target, summary.reason)).collect(),
        checks,
    }
}

/// The draft knows pass and warn, which must be 2xx, and fail, which must not.
fn draft_status(status: Status) -> &'static str {
    match status {
        Status::Healthy => "pass",
        Status::Degraded | Status::Unknown => "warn",
        Status::Unhealthy => "fail",
    }
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn seconds(age: Duration) -> f64 {
    (age.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Board, Report};

    fn summary(status: Status) -> HealthSummary {
        let reading = Reading { report: None, age: Duration::ZERO, status, stale: false };
        HealthSummary::new("main", reading)
    }

    #[test]
    fn several_databases_are_as_well_as_the_worst() {
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        let table: [(&[Status], Status); 8] = [
            (&[Healthy, Healthy], Healthy),
            (&[Healthy, Degraded], Degraded),
            (&[Unhealthy, Unknown, Degraded], Unhealthy),
            (&[Healthy, Unknown], Degraded),
            (&[Unknown, Unknown], Unknown),
            (&[Unknown, Degraded], Degraded),
            (&[Unknown], Unknown),
            (&[], Unknown),
        ];
        for (statuses, expected) in table {
            let summaries: Vec<HealthSummary> = statuses.iter().copied().map(summary).collect();
            assert_eq!(overall(&summaries), expected, "{statuses:?}");
        }
    }

    fn component(
        name: &'static str,
        status: Status,
        reason: &'static str,
        since: i64,
    ) -> Component {
        Component {
            name,
            status,
            reason,
            message: String::new(),
            remedy: None,
            since: DateTime::from_timestamp(since, 0).unwrap(),
            measured: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_reason_is_that_of_the_worst_component_for_the_longest_time() {
        let board = Board::new("main", Duration::from_secs(60));
        let components = vec![
            component("connectivity", Status::Healthy, "ok", 1),
            component("locks", Status::Degraded, "lock_wait", 20),
            component("connections", Status::Degraded, "connections_high", 10),
            component("replication", Status::Unknown, "not_permitted", 5),
        ];
        board.publish(Report::new("main", Status::Degraded, Utc::now(), None, components));
        let summary = HealthSummary::new("main", board.read());
        assert_eq!(
            (summary.reason, summary.since.map(|s| s.timestamp())),
            ("connections_high", Some(10))
        );
        assert_eq!(summary.words(), "degraded (connections_high)");
    }
}
