//! What the log tells of health: the loss of the database and its return, and each component's change.
//!
//! A line is a change, so that the log does not repeat itself at every probe; only an outage is told of
//! again now and then. What was last told is kept here, not what was last measured: a component that
//! could not be measured meanwhile, and is then as it was, is no news.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::health::{Component, Report, Status};

/// How often an outage that lasts is told of again.
const REMIND_AFTER: Duration = Duration::from_secs(300);

const CONNECTIVITY: &str = "connectivity";
const HEALTHY: Condition = (Status::Healthy, "ok");

/// A status and its reason.
type Condition = (Status, &'static str);

/// Whether a probe reached the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    Yes,
    No,
    /// The probe did not come to ask.
    Untold,
}

/// What the log was told.
#[derive(Debug, Default)]
pub struct Told {
    components: BTreeMap<&'static str, Condition>,
    outage: Option<Outage>,
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    since: Instant,
    told_at: Instant,
}

/// One line to log.
#[derive(Debug, PartialEq)]
pub enum News<'a> {
    Lost(&'a Component),
    Away { component: &'a Component, seconds: u64 },
    Back { seconds: u64 },
    Changed { component: &'a Component, was: Option<Status> },
}

impl Told {
    /// What a report has that was not told yet.
    pub fn news<'a>(
        &mut self,
        report: &'a Report,
        reached: Reached,
        now: Instant,
    ) -> Vec<News<'a>> {
        let mut news = Vec::new();
        if let Some(component) = report.component(CONNECTIVITY) {
            news.extend(self.outage(component, reached, now));
        }
        news.extend(report.components.iter().filter_map(|component| self.change(component)));
        news
    }

    fn outage<'a>(
        &mut self,
        component: &'a Component,
        reached: Reached,
        now: Instant,
    ) -> Option<News<'a>> {
        match (reached, &mut self.outage) {
            (Reached::No, None) => {
                self.outage = Some(Outage { since: now, told_at: now });
                Some(News::Lost(component))
            }
            (Reached::No, Some(outage)) if now - outage.told_at >= REMIND_AFTER => {
                outage.told_at = now;
                Some(News::Away { component, seconds: (now - outage.since).as_secs() })
            }
            (Reached::Yes, Some(outage)) => {
                let seconds = (now - outage.since).as_secs();
                self.outage = None;
                // That line stands for the component's recovery, which takes some more measurements.
                self.components.insert(CONNECTIVITY, HEALTHY);
                Some(News::Back { seconds })
            }
            _ => None,
        }
    }

    fn change<'a>(&mut self, component: &'a Component) -> Option<News<'a>> {
        let condition = (component.status, component.reason);
        let outage = component.name == CONNECTIVITY && self.outage.is_some();
        if outage || matches!(component.reason, "not_measured" | "recovering") {
            return None;
        }
        let was = self.components.insert(component.name, condition);
        // That all is well is told once, of the database; what is not well is told of each.
        let before = was.or((component.name != CONNECTIVITY).then_some(HEALTHY));
        (before != Some(condition))
            .then_some(News::Changed { component, was: was.map(|(status, _)| status) })
    }
}

impl News<'_> {
    /// Writes the line.
    pub fn log(&self, database: &str) {
        match self {
            News::Lost(Component { status, reason, message, remedy, .. }) => {
                tracing::error!(
                    database,
                    component = CONNECTIVITY,
                    status = status.as_str(),
                    reason,
                    remedy,
                    "{message}"
                );
            }
            News::Away { component, seconds } => tracing::warn!(
                database,
                component = CONNECTIVITY,
                status = component.status.as_str(),
                reason = component.reason,
                remedy = component.remedy,
                away_seconds = seconds,
                "the database is still away, for {seconds} s: {}",
                component.message
            ),
            News::Back { seconds } => tracing::info!(
                database,
                component = CONNECTIVITY,
                away_seconds = seconds,
                "the database is back after {seconds} s"
            ),
            News::Changed {
                component: Component { name, status, reason, message, remedy, .. },
                was,
            } => {
                let (component, was) = (*name, was.map(Status::as_str));
                match status {
                    Status::Healthy => {
                        tracing::info!(
                            database,
                            component,
                            status = status.as_str(),
                            was,
                            "{message}"
                        );
                    }
                    Status::Degraded | Status::Unknown => {
                        tracing::warn!(
                            database,
                            component,
                            status = status.as_str(),
                            was,
                            reason,
                            remedy,
                            "{message}"
                        );
                    }
                    Status::Unhealthy => {
                        tracing::error!(
                            database,
                            component,
                            status = status.as_str(),
                            was,
                            reason,
                            remedy,
                            "{message}"
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    type Part = (&'static str, Status, &'static str);

    fn report(parts: &[Part]) -> Report {
        let component = |&(name, status, reason): &Part| Component {
            name,
            status,
            reason,
            message: reason.to_owned(),
            remedy: None,
            since: Utc::now(),
            measured: serde_json::json!({}),
        };
        Report::new(
            "main",
            Status::Healthy,
            Utc::now(),
            None,
            parts.iter().map(component).collect(),
        )
    }

    /// What is told of a report, a word or two a line.
    fn told(told: &mut Told, parts: &[Part], reached: Reached, now: Instant) -> Vec<String> {
        let line = |news: &News<'_>| match news {
            News::Lost(component) => format!("lost {}", component.reason),
            News::Away { component, seconds } => format!("away {} {seconds}", component.reason),
            News::Back { seconds } => format!("back {seconds}"),
            News::Changed { component, was } => {
                let was = was.map_or("-", Status::as_str);
                format!(
                    "{} {was} {} {}",
                    component.name,
                    component.status.as_str(),
                    component.reason
                )
            }
        };
        told.news(&report(parts), reached, now).iter().map(line).collect()
    }

    #[test]
    fn each_change_of_a_component_is_told_once_and_what_is_well_at_first_is_not() {
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        let (mut state, now) = (Told::default(), Instant::now());
        let fine = (CONNECTIVITY, Healthy, "ok");
        let table: [(Part, &[&str]); 9] = [
            (("jobs", Unknown, "not_measured"), &["connectivity - healthy ok"]),
            (("jobs", Healthy, "ok"), &[]),
            (("jobs", Degraded, "jobs_failing"), &["jobs healthy degraded jobs_failing"]),
            (("jobs", Degraded, "jobs_failing"), &[]),
            (("jobs", Unknown, "not_measured"), &[]),
            (("jobs", Degraded, "jobs_failing"), &[]),
            (("jobs", Degraded, "recovering"), &[]),
            (("jobs", Healthy, "ok"), &["jobs degraded healthy ok"]),
            (("schema", Unhealthy, "migration_failed"), &["schema - unhealthy migration_failed"]),
        ];
        for (part, expected) in table {
            assert_eq!(told(&mut state, &[fine, part], Reached::Yes, now), expected, "{part:?}");
        }
    }

    #[test]
    fn an_outage_is_told_when_it_begins_now_and_then_and_when_it_is_over() {
        use Status::{Degraded, Healthy, Unhealthy, Unknown};
        let (mut state, start) = (Told::default(), Instant::now());
        let table: [(u64, Reached, Status, &'static str, &[&str]); 11] = [
            (0, Reached::No, Unhealthy, "refused", &["lost refused"]),
            (15, Reached::No, Unhealthy, "refused", &[]),
            (299, Reached::Untold, Unknown, "pool_timeout", &[]),
            (300, Reached::No, Unhealthy, "starting_up", &["away starting_up 300"]),
            (599, Reached::No, Unhealthy, "starting_up", &[]),
            (601, Reached::No, Unhealthy, "refused", &["away refused 601"]),
            (610, Reached::Yes, Unhealthy, "recovering", &["back 610"]),
            (625, Reached::Yes, Healthy, "ok", &[]),
            (640, Reached::Yes, Degraded, "auth", &["connectivity healthy degraded auth"]),
            (655, Reached::No, Unhealthy, "auth", &["lost auth"]),
            (670, Reached::Yes, Unhealthy, "recovering", &["back 15"]),
        ];
        for (second, reached, status, reason, expected) in table {
            let now = start + Duration::from_secs(second);
            assert_eq!(
                told(&mut state, &[(CONNECTIVITY, status, reason)], reached, now),
                expected,
                "at {second} s"
            );
        }
    }
}
