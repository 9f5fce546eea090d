//! Which instants are due, and which are not run at all. Pure: no clock of its own, no I/O.
//!
//! Everything up to and including a job's *watermark* is accounted for. Of the instants after it whose
//! time to begin has come, at most one fires now; those before it that nobody ran, or that lie
//! outside the job's windows, are given as ranges with their reason. What is neither stays due.
//!
//! ```text
//! watermark ──────●────●────●────●────●──► now      none:    fires if it is on time
//!             └── misfire, window ┘  └ newest   latest:  fires if it is within the deadline
//!             └ over the cap ┘  └────┴────┘     all:     fire one after the other
//! ```

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use crate::config::{CatchUp, Job, JobName, Schedule, Windows, Zone};
use crate::store::claims::{MissedRange, SkipReason};

/// How many instants are looked at one by one. Of a longer outage of a frequent job, those in between
/// are not: its range has its first and last instant, and counts "at least" this many.
const COUNT_MAX: usize = 10_000;

/// When a run may begin, beside its instant.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPolicy {
    /// Runs begin so much after their instant.
    pub offset: TimeDelta,
    pub catch_up: CatchUp,
    /// How many the newest are that `catch_up = "all"` runs.
    pub catch_up_max: usize,
    /// How late a run may begin.
    pub start_within: Option<TimeDelta>,
    pub zone: Zone,
    pub window: Windows,
    pub blackout: Windows,
}

impl RunPolicy {
    /// Of a job on a database.
    pub fn of(job: &Job, name: &JobName, database: &str) -> RunPolicy {
        RunPolicy {
            offset: offset(job, name, database),
            catch_up: job.catch_up,
            catch_up_max: job.catch_up_max as usize,
            start_within: job.start_within().and_then(|within| TimeDelta::from_std(within).ok()),
            zone: job.timezone,
            window: job.window.clone(),
            blackout: job.blackout.clone(),
        }
    }

    /// Whether a run may begin at this moment, by the job's windows.
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        (self.window.is_empty() || self.window.contains(at, self.zone))
            && !self.blackout.contains(at, self.zone)
    }

    /// Whether it is too late for the run of an instant to begin.
    pub fn is_expired(&self, at: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        self.start_within.is_some_and(|within| now - (at + self.offset) > within)
    }

    /// Why an instant is not run now; `None` when it fires. `newest` says that its turn has come.
    fn refuses(&self, at: DateTime<Utc>, newest: bool, now: DateTime<Utc>) -> Option<SkipReason> {
        if !self.is_open(at + self.offset) {
            Some(SkipReason::Window)
        } else if !newest {
            Some(SkipReason::Misfire)
        } else if self.is_expired(at, now) {
            Some(if self.catch_up == CatchUp::None {
                SkipReason::Misfire
            } else {
                SkipReason::Expired
            })
        } else if !self.is_open(now) {
            Some(SkipReason::Window)
        } else {
            None
        }
    }
}

/// The share of the jitter that is this job's on this database: the same on every instance and for
/// every instant, spread evenly over the jobs. In whole milliseconds.
fn offset(job: &Job, name: &JobName, database: &str) -> TimeDelta {
    let digest = Sha256::digest(format!("{database}\0{name}"));
    let hash = u64::from_be_bytes(std::array::from_fn(|i| digest[i]));
    let share = (u128::from(hash) * job.jitter.as_millis()) >> 64;
    TimeDelta::milliseconds(i64::try_from(share).unwrap_or(0))
}

/// What is due at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Instants that nobody runs, in order.
    pub missed: Vec<MissedRange>,
    /// The instant to run; it comes after all that are missed.
    pub fire: Option<DateTime<Utc>>,
    /// The first moment at which there is something to do, once this is done.
    pub next: Option<DateTime<Utc>>,
}

/// Works out what is due of a schedule at `now`: everything up to `watermark` is accounted for, and of
/// what comes after it the instants in `above`, which are in order.
///
/// A clock that stepped back finds nothing due until it has caught up with the watermark.
pub fn due(
    schedule: &Schedule,
    policy: &RunPolicy,
    watermark: DateTime<Utc>,
    above: &[DateTime<Utc>],
    now: DateTime<Utc>,
) -> Due {
    let passed = Passed::new(schedule, policy, watermark, now - policy.offset);
    let mut due = settle(policy, &passed, above, now);
    let last = due.fire.or(passed.instants.last().copied()).unwrap_or(watermark);
    due.next = schedule.next_after(last, policy.zone).map(|next| next + policy.offset);
    due
}

/// What is due of a job that follows others: once, when each of them has succeeded since its watermark. No
/// plan puts that inside the job's windows, so it waits for one to open, up to its deadline.
pub fn due_after(
    policy: &RunPolicy,
    watermark: DateTime<Utc>,
    successes: &[Option<DateTime<Utc>>],
    now: DateTime<Utc>,
) -> Due {
    let each: Option<Vec<DateTime<Utc>>> =
        successes.iter().map(|at| at.filter(|at| *at > watermark)).collect();
    let Some(at) = each.and_then(|each| each.into_iter().max()) else { return Due::default() };
    if at + policy.offset > now {
        return Due { next: Some(at + policy.offset), ..Due::default() };
    }
    let mut due = Due::default();
    if policy.is_expired(at, now) {
        due.missed.push(MissedRange { first: at, last: at, count: 1, reason: SkipReason::Expired });
    } else if policy.is_open(now) {
        due.fire = Some(at);
    }
    due
}

/// The next instants at which a schedule runs, with their offset, as its windows allow.
pub fn upcoming(
    schedule: &Schedule,
    policy: &RunPolicy,
    now: DateTime<Utc>,
    count: usize,
) -> Vec<DateTime<Utc>> {
    let instants =
        std::iter::successors(schedule.next_after(now - policy.offset, policy.zone), |at| {
            schedule.next_after(*at, policy.zone)
        });
    instants
        .take(COUNT_MAX)
        .map(|at| at + policy.offset)
        .filter(|at| policy.is_open(*at))
        .take(count)
        .collect()
}

/// The last instant of a schedule from `first` up to `until`, and how many there are (at most what is
/// counted one by one).
pub fn count(
    schedule: &Schedule,
    zone: Zone,
    first: DateTime<Utc>,
    until: DateTime<Utc>,
) -> (DateTime<Utc>, i32) {
    let later = std::iter::successors(schedule.next_after(first, zone), |at| {
        schedule.next_after(*at, zone)
    });
    later
        .take_while(|at| *at <= until)
        .take(COUNT_MAX)
        .fold((first, 1), |(_, count), at| (at, count + 1))
}

/// The instants that have passed since the watermark.
struct Passed {
    instants: Vec<DateTime<Utc>>,
    /// Whether none was left out in the middle.
    whole: bool,
}

impl Passed {
    fn new(
        schedule: &Schedule,
        policy: &RunPolicy,
        watermark: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Passed {
        let mut passed = Passed { instants: Vec::new(), whole: true };
        let mut at = watermark;
        while let Some(next) = schedule.next_after(at, policy.zone).filter(|next| *next <= until) {
            passed.instants.push(next);
            at = next;
            if passed.whole && passed.instants.len() == COUNT_MAX {
                // Close to now, so that the loop is bounded whatever the outage.
                let keep = if policy.catch_up == CatchUp::All { policy.catch_up_max } else { 1 };
                at = close_to(schedule, policy.zone, next, until, keep + 1);
                passed.whole = at == next;
            }
        }
        passed
    }
}

/// The latest moment, to the second, from which at least `keep` instants remain until then.
fn close_to(
    schedule: &Schedule,
    zone: Zone,
    at: DateTime<Utc>,
    until: DateTime<Utc>,
    keep: usize,
) -> DateTime<Utc> {
    let enough_after = |moment: DateTime<Utc>| {
        let later = std::iter::successors(schedule.next_after(moment, zone), |at| {
            schedule.next_after(*at, zone)
        });
        later.take_while(|at| *at <= until).take(keep).count() == keep
    };
    let (mut enough, mut few) = (at, until);
    while few - enough > TimeDelta::seconds(1) {
        let middle = enough + (few - enough) / 2;
        if enough_after(middle) { enough = middle } else { few = middle }
    }
    enough
}

fn settle(policy: &RunPolicy, passed: &Passed, above: &[DateTime<Utc>], now: DateTime<Utc>) -> Due {
    let keep = if policy.catch_up == CatchUp::All { policy.catch_up_max } else { 1 };
    let first_kept = passed.instants.len().saturating_sub(keep);
    let mut due = Due::default();
    let mut together = false;
    for (place, at) in passed.instants.iter().enumerate() {
        if above.binary_search(at).is_ok() {
            together = false;
            continue;
        }
        let Some(reason) = policy.refuses(*at, place >= first_kept, now) else {
            due.fire = Some(*at);
            break;
        };
        // Where instants were left out, one range covers them too.
        let reason = if passed.whole || place >= first_kept { reason } else { SkipReason::Misfire };
        match due.missed.last_mut() {
            Some(range) if together && range.reason == reason => {
                range.last = *at;
                range.count = range.count.saturating_add(1);
            }
            _ => due.missed.push(MissedRange { first: *at, last: *at, count: 1, reason }),
        }
        together = true;
    }
    due
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Builtin;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(text: &str) -> Schedule {
        Schedule::parse(text).unwrap()
    }

    fn policy(change: impl FnOnce(&mut Job)) -> RunPolicy {
        let mut job = Job::of(Builtin::Retention);
        change(&mut job);
        RunPolicy::of(&job, &Builtin::Retention.into(), "main")
    }

    fn windows(texts: &[&str]) -> Windows {
        texts.iter().map(|text| Windows::parse_one(text).unwrap()).collect()
    }

    /// Ranges as `reason first..last xcount`, then what fires.
    fn shown(due: &Due) -> Vec<String> {
        let time = |at: DateTime<Utc>| at.format("%dT%H:%M").to_string();
        let ranges = due.missed.iter().map(|range| {
            format!(
                "{} {}..{} x{}",
                range.reason.as_str(),
                time(range.first),
                time(range.last),
                range.count
            )
        });
        ranges.chain(due.fire.map(|at| format!("fire {}", time(at)))).collect()
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let due = due(
            &schedule("17 3 * * *"),
            &policy(|_| {}),
            at("2026-11-22T03:17:00Z"),
            &[],
            at("2026-11-23T03:16:59Z"),
        );
        assert_eq!(due, Due { next: Some(at("2026-11-23T03:17:00Z")), ..Due::default() });
    }

    #[test]
    fn what_passed_unrun_is_caught_up_with_as_the_job_says() {
        let watermark = at("2026-11-22T00:00:00Z");
        let now = at("2026-11-22T05:00:30Z");
        let hourly = schedule("@hourly");
        for (catch_up, cap, deadline, expected) in [
            (CatchUp::Latest, 100, None, vec!["misfire 22T01:00..22T04:00 x4", "fire 22T05:00"]),
            (CatchUp::None, 100, None, vec!["misfire 22T01:00..22T04:00 x4", "fire 22T05:00"]),
            (CatchUp::All, 100, None, vec!["fire 22T01:00"]),
            (CatchUp::All, 2, None, vec!["misfire 22T01:00..22T03:00 x3", "fire 22T04:00"]),
            (
                CatchUp::All,
                4,
                Some(7200),
                vec![
                    "misfire 22T01:00..22T01:00 x1",
                    "expired 22T02:00..22T03:00 x2",
                    "fire 22T04:00",
                ],
            ),
            (
                CatchUp::Latest,
                100,
                Some(20),
                vec!["misfire 22T01:00..22T04:00 x4", "expired 22T05:00..22T05:00 x1"],
            ),
            (CatchUp::None, 100, Some(20), vec!["misfire 22T01:00..22T05:00 x5"]),
        ] {
            let policy = policy(|job| {
                (job.catch_up, job.catch_up_max, job.deadline) =
                    (catch_up, cap, deadline.map(Duration::from_secs));
            });
            let due = due(&hourly, &policy, watermark, &[], now);
            assert_eq!(shown(&due), expected, "{catch_up:?} {cap} {deadline:?}");
            if due.fire != Some(at("2026-11-22T05:00:00Z")) && due.fire.is_some() {
                assert!(due.next.unwrap() <= now, "the one after it is due at once");
            }
        }
        // A minute late is not on time any more.
        let late = due(
            &hourly,
            &policy(|job| job.catch_up = CatchUp::None),
            watermark,
            &[],
            at("2026-11-22T05:01:01Z"),
        );
        assert_eq!(shown(&late), ["misfire 22T01:00..22T05:00 x5"]);
    }

    #[test]
    fn a_clock_that_stepped_back_fires_nothing_twice() {
        let due = due(
            &schedule("@hourly"),
            &policy(|_| {}),
            at("2026-11-22T05:00:00Z"),
            &[],
            at("2026-11-22T04:10:00Z"),
        );
        assert_eq!((due.fire, due.missed.len()), (None, 0));
    }

    #[test]
    fn instants_that_are_accounted_for_above_the_floor_are_left_alone() {
        let above = [at("2026-11-22T02:00:00Z"), at("2026-11-22T05:00:00Z")];
        let due = due(
            &schedule("@hourly"),
            &policy(|_| {}),
            at("2026-11-22T00:00:00Z"),
            &above,
            at("2026-11-22T05:30:00Z"),
        );
        assert_eq!(shown(&due), ["misfire 22T01:00..22T01:00 x1", "misfire 22T03:00..22T04:00 x2"]);
        assert_eq!(due.next, Some(at("2026-11-22T06:00:00Z")));
    }

    #[test]
    fn runs_begin_inside_their_windows_only() {
        let policy = policy(|job| {
            (job.window, job.blackout) = (windows(&["22:00-04:00"]), windows(&["00:00-01:00"]));
        });
        let hourly = schedule("30 * * * *");
        let open =
            |watermark: &str, now: &str| shown(&due(&hourly, &policy, at(watermark), &[], at(now)));
        assert_eq!(
            open("2026-11-22T20:35:00Z", "2026-11-22T21:30:00Z"),
            ["window 22T21:30..22T21:30 x1"]
        );
        assert_eq!(open("2026-11-22T21:35:00Z", "2026-11-22T22:30:00Z"), ["fire 22T22:30"]);
        assert_eq!(
            open("2026-11-22T23:35:00Z", "2026-11-23T00:30:00Z"),
            ["window 23T00:30..23T00:30 x1"]
        );
        assert_eq!(
            open("2026-11-22T21:00:00Z", "2026-11-23T05:00:00Z"),
            [
                "window 22T21:30..22T21:30 x1",
                "misfire 22T22:30..22T23:30 x2",
                "window 23T00:30..23T00:30 x1",
                "misfire 23T01:30..23T03:30 x3",
                "window 23T04:30..23T04:30 x1"
            ],
            "what would not have run anyway is not missed, and what is late does not run outside"
        );
        assert_eq!(
            upcoming(&hourly, &policy, at("2026-11-22T23:35:00Z"), 2),
            [at("2026-11-23T01:30:00Z"), at("2026-11-23T02:30:00Z")]
        );
    }

    #[test]
    fn jitter_is_stable_and_within_its_bound() {
        let job = Job { jitter: Duration::from_secs(600), ..Job::of(Builtin::Retention) };
        let offsets: Vec<TimeDelta> =
            (0..1000).map(|i| offset(&job, &JobName::new(&format!("job-{i}")), "main")).collect();
        assert!(offsets.iter().all(|offset| (0..600_000).contains(&offset.num_milliseconds())));
        let mean = offsets.iter().sum::<TimeDelta>() / 1000;
        assert!((270..330).contains(&mean.num_seconds()), "{mean}");
        assert_eq!(offset(&job, &JobName::new("job-1"), "main"), offsets[1]);
        assert_ne!(offset(&job, &JobName::new("job-1"), "other"), offsets[1]);

        let mut policy = policy(|_| {});
        policy.offset = TimeDelta::seconds(90);
        let hourly = schedule("@hourly");
        let (watermark, due_at) = (at("2026-11-22T00:00:00Z"), at("2026-11-22T01:00:00Z"));
        let before = due(&hourly, &policy, watermark, &[], at("2026-11-22T01:01:29Z"));
        assert_eq!((before.fire, before.next), (None, Some(due_at + policy.offset)));
        assert_eq!(
            due(&hourly, &policy, watermark, &[], due_at + policy.offset).fire,
            Some(due_at)
        );
    }

    #[test]
    fn a_follower_is_due_when_each_leader_has_succeeded_again() {
        let watermark = at("2026-11-22T01:00:00Z");
        let now = at("2026-11-22T03:00:00Z");
        let (one, two) = (Some(at("2026-11-22T02:00:00Z")), Some(at("2026-11-22T02:30:00Z")));
        assert_eq!(due_after(&policy(|_| {}), watermark, &[one, two], now).fire, two);
        assert_eq!(due_after(&policy(|_| {}), watermark, &[one, None], now), Due::default());
        assert_eq!(
            due_after(&policy(|_| {}), watermark, &[one, Some(watermark)], now),
            Due::default()
        );
        let shut = policy(|job| job.window = windows(&["22:00-06:00"]));
        assert_eq!(
            due_after(&shut, watermark, &[one, two], at("2026-11-22T12:00:00Z")),
            Due::default(),
            "it waits"
        );
        assert_eq!(
            due_after(&shut, watermark, &[one, two], at("2026-11-22T22:00:00Z")).fire,
            two,
            "for its window"
        );
        let late = due_after(
            &policy(|job| job.deadline = Some(Duration::from_secs(60))),
            watermark,
            &[one, two],
            now,
        );
        assert_eq!(shown(&late), ["expired 22T02:30..22T02:30 x1"]);
    }

    #[test]
    fn a_long_outage_of_a_frequent_job_is_bounded() {
        let watermark = at("2016-01-01T00:00:00Z");
        let now = at("2026-01-01T00:00:00Z");
        let latest = due(&schedule("@every 1s"), &policy(|_| {}), watermark, &[], now);
        assert_eq!(latest.fire, Some(now));
        let [missed] = latest.missed[..] else { panic!("{latest:?}") };
        assert_eq!(
            (missed.first, missed.last),
            (at("2016-01-01T00:00:01Z"), at("2025-12-31T23:59:59Z"))
        );
        let least = i32::try_from(COUNT_MAX).unwrap() - 1;
        assert!(missed.count >= least && missed.count < least + 100, "{}", missed.count);

        let all = due(
            &schedule("@every 1s"),
            &policy(|job| job.catch_up = CatchUp::All),
            watermark,
            &[],
            now,
        );
        assert_eq!(all.fire, Some(at("2025-12-31T23:58:21Z")), "the newest hundred");
        assert_eq!(all.missed.last().unwrap().last, at("2025-12-31T23:58:20Z"));
        assert_eq!(all.missed.len(), 1);
    }
}
