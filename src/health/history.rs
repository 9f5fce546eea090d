//! Hysteresis: a component worsens at once, and improves after several good measurements in a row.
//!
//! `unknown` is shown at once too, and leaves what was last known in force: a component that was
//! degraded, then unseen, then good once has still to prove itself.

use chrono::{DateTime, Utc};

use super::judge::Verdict;
use super::{Component, Report, Status};

/// What each component of one database was last known as.
#[derive(Debug, Clone)]
pub struct History {
    recover_after: u32,
    tracks: Vec<Track>,
}

#[derive(Debug, Clone)]
struct Track {
    name: &'static str,
    shown: Status,
    since: DateTime<Utc>,
    /// The last status that was not `unknown`.
    known: Option<Status>,
    /// Measurements in a row that were better than `known`, and the worst of them.
    better: u32,
    worst_of_better: Status,
}

impl History {
    /// Nothing known yet. `recover_after` is how many better measurements in a row an improvement
    /// takes; 0 and 1 mean "at once".
    pub fn new(recover_after: u32) -> History {
        History { recover_after: recover_after.max(1), tracks: Vec::new() }
    }

    /// Takes a change of the configuration.
    pub fn set_recover_after(&mut self, recover_after: u32) {
        self.recover_after = recover_after.max(1);
    }

    /// Turns one measurement's verdicts into a report.
    pub fn report(
        &mut self,
        target: &str,
        now: DateTime<Utc>,
        response_ms: Option<f64>,
        verdicts: Vec<Verdict>,
    ) -> Report {
        let components: Vec<Component> =
            verdicts.into_iter().map(|verdict| self.component(now, verdict)).collect();
        let status = Status::overall(components.iter().map(|component| component.status));
        Report::new(target, status, now, response_ms, components)
    }

    fn component(&mut self, now: DateTime<Utc>, verdict: Verdict) -> Component {
        let recover_after = self.recover_after;
        let index =
            self.tracks.iter().position(|track| track.name == verdict.name).unwrap_or_else(|| {
                self.tracks.push(Track {
                    name: verdict.name,
                    shown: verdict.status,
                    since: now,
                    known: None,
                    better: 0,
                    worst_of_better: Status::Healthy,
                });
                self.tracks.len() - 1
            });
        let track = &mut self.tracks[index];
        let shown = track.take(verdict.status, recover_after);
        if shown != track.shown {
            track.shown = shown;
            track.since = now;
        }
        let recovering = track.better > 0;
        let (reason, message) = if recovering {
            let message = format!(
                "{}; better in {} of {recover_after} measurements before it counts as {}",
                verdict.message,
                track.better,
                verdict.status.as_str()
            );
            ("recovering", message)
        } else {
            (verdict.reason, verdict.message)
        };
        Component {
            name: verdict.name,
            status: shown,
            reason,
            message,
            remedy: verdict.remedy,
            since: track.since,
            measured: verdict.measured,
        }
    }
}

impl Track {
    /// The status to show after a measurement.
    fn take(&mut self, measured: Status, recover_after: u32) -> Status {
        if measured == Status::Unknown {
            self.better = 0;
            return Status::Unknown;
        }
        match self.known {
            Some(known) if measured.as_gauge() < known.as_gauge() => {
                self.worst_of_better = match self.better {
                    0 => measured,
                    _ if measured.as_gauge() > self.worst_of_better.as_gauge() => measured,
                    _ => self.worst_of_better,
                };
                self.better += 1;
                if self.better < recover_after {
                    return known;
                }
                self.better = 0;
                self.known = Some(self.worst_of_better);
                self.worst_of_better
            }
            _ => {
                self.better = 0;
                self.known = Some(measured);
                measured
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Degraded as D, Healthy as H, Unhealthy as U, Unknown as X};
    use super::*;

    fn shown(recover_after: u32, measured: &[Status]) -> Vec<Status> {
        let mut history = History::new(recover_after);
        let verdict = |status| Verdict {
            name: "locks",
            status,
            reason: "r",
            message: "m".into(),
            remedy: None,
            measured: serde_json::json!({}),
        };
        measured
            .iter()
            .map(|status| history.report("t", Utc::now(), None, vec![verdict(*status)]).status)
            .collect()
    }

    #[test]
    fn worsens_at_once_and_improves_after_enough_good_measurements() {
        assert_eq!(shown(2, &[H, D, U]), [H, D, U]);
        assert_eq!(shown(2, &[U, H, H, H]), [U, U, H, H]);
        assert_eq!(
            shown(3, &[U, H, H, U, H, H, H]),
            [U, U, U, U, U, U, H],
            "a bad one starts the count again"
        );
        assert_eq!(shown(1, &[U, H]), [U, H]);
        assert_eq!(shown(0, &[U, H]), [U, H]);
    }

    #[test]
    fn improves_no_further_than_the_worst_of_the_good_ones() {
        assert_eq!(shown(2, &[U, D, H, H, H]), [U, U, D, D, H]);
        assert_eq!(shown(2, &[U, H, D, H, H]), [U, U, D, D, H]);
    }

    #[test]
    fn unknown_shows_at_once_and_forgets_nothing() {
        assert_eq!(shown(2, &[X, H]), [X, H], "the first knowledge needs no proof");
        assert_eq!(shown(2, &[H, X, H]), [H, X, H]);
        assert_eq!(shown(2, &[U, X, H, H]), [U, X, U, H]);
        assert_eq!(shown(2, &[U, H, X, H, H]), [U, U, X, U, H], "only measurements in a row count");
    }

    #[test]
    fn since_is_kept_while_the_status_holds_and_recovery_says_so() {
        let mut history = History::new(2);
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let verdict = |status| Verdict {
            name: "locks",
            status,
            reason: "lock_wait",
            message: "m".into(),
            remedy: None,
            measured: serde_json::json!({}),
        };
        let mut take = |second, status| {
            let report = history.report("t", at(second), None, vec![verdict(status)]);
            let component = report.components[0].clone();
            (component.since, component.reason, component.message)
        };
        assert_eq!(take(1, D), (at(1), "lock_wait", "m".into()));
        assert_eq!(take(2, D).0, at(1));
        let (since, reason, message) = take(3, H);
        assert_eq!((since, reason), (at(1), "recovering"));
        assert_eq!(message, "m; better in 1 of 2 measurements before it counts as healthy");
        assert_eq!(take(4, H), (at(4), "lock_wait", "m".into()));
    }
}
