//! The status of the whole, from one measurement to the next: what the audit trail tells of it.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::health::{Report, Status};
use crate::store::audit::{Event, EventRow};
use crate::store::measurements::MeasurementRow;

/// What the observer last found.
#[derive(Debug, Default)]
pub struct Transitions {
    last: Option<Status>,
}

impl Transitions {
    /// Takes what the observer found. A row where it is not what it was; at the first, where it is not healthy.
    pub fn observed(
        &mut self,
        report: &Report,
        at: DateTime<Utc>,
        instance: &str,
    ) -> Option<MeasurementRow> {
        let before = self.last.replace(report.status);
        let changed =
            before.map_or(report.status != Status::Healthy, |before| before != report.status);
        changed.then(|| row(before, report, at, instance))
    }

    /// Takes what was found while no lease could be had. That the database is down is true whoever observes; how it
    /// is otherwise, connectivity alone does not say.
    pub fn unobserved(
        &mut self,
        report: &Report,
        at: DateTime<Utc>,
        instance: &str,
    ) -> Option<MeasurementRow> {
        let observed = self.last.is_some() && report.status == Status::Unhealthy;
        if observed { self.observed(report, at, instance) } else { None }
    }

    /// Another instance observes now.
    pub fn forget(&mut self) {
        self.last = None;
    }
}

fn row(
    before: Option<Status>,
    report: &Report,
    at: DateTime<Utc>,
    instance: &str,
) -> MeasurementRow {
    let bad = report.components.iter().filter(|component| component.status != Status::Healthy);
    let reasons: Map<String, Value> =
        bad.map(|bad| (bad.name.to_owned(), bad.reason.into())).collect();
    let old = before.map(|status| json!({ "status": status }));
    let new = json!({ "status": report.status, "components": reasons });
    let event = Event {
        actor: &format!("instance:{instance}"),
        action: "health.changed",
        resource_type: "database",
        resource_id: &report.target,
        old_values: old.as_ref(),
        new_values: Some(&new),
        details: None,
        origin: None,
    };
    MeasurementRow::Event(Box::new(EventRow::new(at, &event)))
}

#[cfg(test)]
mod tests {
    use super::Status::{Degraded, Healthy, Unhealthy};
    use super::*;

    fn report(status: Status) -> Report {
        Report::new("main", status, DateTime::UNIX_EPOCH, None, Vec::new())
    }

    /// Whether each measurement in turn left a row; `true` of those taken as the observer.
    fn left(measured: &[(bool, Status)]) -> Vec<bool> {
        let mut transitions = Transitions::default();
        let taken = measured.iter().map(|(observer, status)| {
            let (report, at) = (report(*status), DateTime::UNIX_EPOCH);
            match observer {
                true => transitions.observed(&report, at, "i").is_some(),
                false => transitions.unobserved(&report, at, "i").is_some(),
            }
        });
        taken.collect()
    }

    #[test]
    fn a_change_leaves_a_row_and_a_first_healthy_measurement_none() {
        let observed =
            |all: &[Status]| left(&all.iter().map(|status| (true, *status)).collect::<Vec<_>>());
        assert_eq!(
            observed(&[Healthy, Healthy, Unhealthy, Unhealthy, Healthy]),
            [false, false, true, false, true]
        );
        assert_eq!(observed(&[Degraded, Degraded, Healthy]), [true, false, true]);
    }

    #[test]
    fn without_a_lease_only_the_end_of_what_was_observed_counts() {
        assert_eq!(
            left(&[(false, Unhealthy), (true, Healthy)]),
            [false, false],
            "it never observed"
        );
        let outage = [
            (true, Healthy),
            (false, Unhealthy),
            (false, Unhealthy),
            (false, Healthy),
            (true, Healthy),
        ];
        assert_eq!(left(&outage), [false, true, false, false, true]);
    }
}
