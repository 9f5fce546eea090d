//! Which instants are due. Pure: no clock of its own, no I/O.
//!
//! Everything up to and including a job's *floor* is accounted for. Of the instants after it and not
//! after now, the newest fires (so that a daily job that was due while nobody ran is made up for,
//! once) and those before it are *missed*: recorded as one range, not run.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::config::Schedule;
use crate::store::runs::Missed;

/// How many instants are counted one by one; a longer outage of a frequent job is reported as "at
/// least" this many, and its range still has its first and last instant.
const COUNT_MAX: i32 = 10_000;

/// What is due at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Instants that nobody will run.
    pub missed: Option<Missed>,
    /// The instant to run.
    pub fire: Option<DateTime<Utc>>,
    /// The next instant after now.
    pub next: Option<DateTime<Utc>>,
}

/// Works out what is due of a schedule at `now`, everything up to `floor` being accounted for.
///
/// A clock that stepped back finds nothing due until it has caught up with the floor.
pub fn due(schedule: &Schedule, zone: Tz, floor: DateTime<Utc>, now: DateTime<Utc>) -> Due {
    let mut due = Due::default();
    let mut at = floor;
    let mut counted = 0;
    loop {
        match schedule.next_after(at, zone) {
            Some(next) if next <= now => {
                if let Some(earlier) = due.fire.replace(next) {
                    let missed = due.missed.get_or_insert(Missed { first: earlier, last: earlier, count: 0 });
                    missed.last = earlier;
                    missed.count += 1;
                }
                counted += 1;
                // Close to now again, so that the loop is bounded whatever the outage.
                at = if counted == COUNT_MAX { newest_before(schedule, zone, next, now) } else { next };
            }
            next => {
                due.next = next;
                return due;
            }
        }
    }
}

/// An instant from which only few instants remain until `now`, and at least two (the one that fires
/// and the last that is missed): half the way again and again, as long as the later half has two.
fn newest_before(schedule: &Schedule, zone: Tz, mut at: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    loop {
        let middle = at + (now - at) / 2;
        let next = |after| schedule.next_after(after, zone).filter(|next| *next <= now);
        if middle == at || next(middle).and_then(next).is_none() {
            return at;
        }
        at = middle;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text).unwrap()
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let due = due(&schedule("17 3 * * *"), Tz::UTC, at("2026-11-22T03:17:00Z"), at("2026-11-23T03:16:59Z"));
        assert_eq!(due, Due { missed: None, fire: None, next: Some(at("2026-11-23T03:17:00Z")) });
    }

    #[test]
    fn the_newest_instant_fires_and_those_before_it_are_missed() {
        let due = due(&schedule("@hourly"), Tz::UTC, at("2026-11-22T00:00:00Z"), at("2026-11-22T05:30:00Z"));
        assert_eq!(due.fire, Some(at("2026-11-22T05:00:00Z")));
        let missed = due.missed.unwrap();
        assert_eq!((missed.first, missed.last), (at("2026-11-22T01:00:00Z"), at("2026-11-22T04:00:00Z")));
        assert_eq!(missed.count, 4);
        assert_eq!(due.next, Some(at("2026-11-22T06:00:00Z")));
    }

    #[test]
    fn a_clock_that_stepped_back_fires_nothing_twice() {
        let due = due(&schedule("@hourly"), Tz::UTC, at("2026-11-22T05:00:00Z"), at("2026-11-22T04:10:00Z"));
        assert_eq!((due.fire, due.missed), (None, None));
    }

    #[test]
    fn a_long_outage_of_a_frequent_job_is_bounded() {
        let due = due(&schedule("@every 1s"), Tz::UTC, at("2016-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(due.fire, Some(at("2026-01-01T00:00:00Z")));
        let missed = due.missed.unwrap();
        assert_eq!(missed.first, at("2016-01-01T00:00:01Z"));
        assert_eq!(missed.last, at("2025-12-31T23:59:59Z"));
        assert!(missed.count >= COUNT_MAX - 1 && missed.count < COUNT_MAX + 100, "{}", missed.count);
    }
}
