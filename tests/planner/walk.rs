//! The oracle that walks: each minute (or second) around a change, read off the wall, held against
//! the rule as config.example.toml states it.
//!
//! A wall time that does not exist fires once, at the end of the gap; one that comes twice fires
//! once, at the first; what fires in every hour follows elapsed time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use fastrand::Rng;
use pgsteward::config::{Schedule, Zone};

use super::drawn::{Cron, Days};
use super::zones::{Change, ODD, changes, changes_everywhere, day, each, zone};

const SEED: u64 = 0x5eed_0001;

/// What a stretch of time shows on the wall, step by step.
struct Walk {
    tz: Zone,
    begin: DateTime<Utc>,
    end: DateTime<Utc>,
    step: Duration,
    shown: Vec<(DateTime<Utc>, NaiveDateTime)>,
}

impl Walk {
    fn new(tz: Zone, begin: DateTime<Utc>, end: DateTime<Utc>, step: Duration) -> Walk {
        let mut shown = Vec::new();
        let mut at = begin;
        while at <= end {
            shown.push((at, at.with_timezone(&tz).naive_local()));
            at += step;
        }
        Walk { tz, begin, end, step, shown }
    }

    /// A stretch in which what is skipped or repeated lies whole, with some time on both sides.
    fn around(change: &Change, step: Duration) -> Walk {
        let beside =
            if step == Duration::minutes(1) { Duration::hours(16) } else { Duration::minutes(70) };
        let reach = change.size() + beside;
        let whole = |at: DateTime<Utc>| at - Duration::seconds(at.timestamp().rem_euclid(60));
        Walk::new(change.tz, whole(change.at - reach), whole(change.at + reach), step)
    }

    /// The instants of a line, by definition.
    fn fires(&self, cron: &Cron) -> BTreeSet<DateTime<Utc>> {
        if cron.every_hour() {
            return self
                .shown
                .iter()
                .filter(|(_, reading)| cron.names(*reading))
                .map(|(at, _)| *at)
                .collect();
        }
        // What each wall time of the stretch stands for.
        let mut stands_for = BTreeMap::new();
        let mut last: Option<NaiveDateTime> = None;
        for (at, reading) in &self.shown {
            // Skipped: the end of the gap.
            let mut skipped = last.map_or(*reading, |last| last + self.step);
            while skipped < *reading {
                stands_for.insert(skipped, *at);
                skipped += self.step;
            }
            // Repeated: the first.
            stands_for.entry(*reading).or_insert(*at);
            last = Some(*reading);
        }
        stands_for
            .into_iter()
            .filter(|(reading, _)| cron.names(*reading))
            .map(|(_, at)| at)
            .collect()
    }

    /// Asks the schedule from one moment on, a number of times.
    fn hold(
        &self,
        schedule: &Schedule,
        fires: &BTreeSet<DateTime<Utc>>,
        from: DateTime<Utc>,
        seed: u64,
    ) {
        const FIRES: usize = 10;
        let mut after = from;
        let told = |after: DateTime<Utc>| {
            format!("{:?} in {} after {after} (seed {seed:#x})", schedule.text(), self.tz)
        };
        for _ in 0..FIRES {
            let next = schedule.next_after(after, self.tz);
            match fires.range((Bound::Excluded(after), Bound::Unbounded)).next() {
                Some(expected) => assert_eq!(next, Some(*expected), "{}", told(after)),
                None => {
                    assert!(next.unwrap() > self.end, "{}: {next:?}", told(after));
                    return;
                }
            }
            after = next.unwrap();
        }
    }

    /// Draws a line and holds the schedule to it, from the begin, from moments anywhere, and from
    /// right around the change. Gives how many instants the line has here.
    fn check(&self, change: &Change, seed: u64, six: bool) -> usize {
        let mut rng = Rng::with_seed(seed);
        let cron = Cron::draw(&mut rng, change.reading_before(), six, Days::Both);
        let text = cron.text();
        let schedule = Schedule::parse(&text)
            .unwrap_or_else(|error| panic!("{text} (seed {seed:#x}): {error}"));
        let fires = self.fires(&cron);
        let within = |rng: &mut Rng, reach: Duration| {
            change.at
                + Duration::milliseconds(
                    rng.i64(-reach.num_milliseconds()..=reach.num_milliseconds()),
                )
        };
        let near = within(&mut rng, change.size());
        let anywhere = within(&mut rng, change.at - self.begin);
        for from in [self.begin, near, anywhere, change.at - Duration::nanoseconds(1), change.at] {
            self.hold(&schedule, &fires, from, seed);
        }
        fires.len()
    }
}

/// Minute by minute: each change that there is anywhere, and each third one of every zone.
#[test]
fn every_zone_fires_by_the_rule_around_its_changes() {
    let (mut seen, mut zones, mut index) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut some = changes_everywhere();
    some.retain(|change| {
        index += 1;
        seen.insert((change.at, change.before, change.after)) | zones.insert(change.tz.name())
            || index % 3 == 0
    });
    let counted = each(&some, |index, change| {
        assert!(change.is_whole(), "{} changes at {} within a minute", change.tz, change.at);
        Walk::around(change, Duration::minutes(1)).check(change, SEED + index, false)
    });
    assert!(counted > 300_000, "{counted} instants are too few to tell");
}

/// And from the sixties on where more has happened than summer time; by the second where an offset
/// is no whole minute.
#[test]
fn zones_with_a_past_fire_by_the_rule_too() {
    let past: Vec<Change> = ODD
        .iter()
        .flat_map(|name| changes(zone(name), day("1960-01-01"), day("2019-01-01")))
        .collect();
    let has = |tz, from: &str, to: &str| {
        past.iter().any(|c| c.tz == tz && day(from) <= c.at && c.at <= day(to))
    };
    assert!(has(zone("Pacific/Apia"), "2011-12-30", "2011-12-31"), "the day that Samoa skipped");
    assert!(
        has(zone("Pacific/Kwajalein"), "1969-09-29", "1969-10-02"),
        "the day that Kwajalein had twice"
    );
    assert!(
        has(zone("Pacific/Kiritimati"), "1994-12-30", "1995-01-01"),
        "the day that Kiritimati skipped"
    );
    assert!(
        has(zone("America/Caracas"), "2007-12-08", "2007-12-10"),
        "the half hour that Caracas repeated"
    );
    assert!(past.iter().any(|change| !change.is_whole()), "Monrovia, 1972");
    let counted = each(&past, |index, change| {
        let seed = SEED + 0x1_0000 + index;
        if change.is_whole() {
            Walk::around(change, Duration::minutes(1)).check(change, seed, false)
        } else {
            Walk::around(change, Duration::seconds(1)).check(change, seed, false)
        }
    });
    assert!(counted > 200_000, "{counted} instants are too few to tell");
}

/// Second by second, for lines with seconds: one change of each zone.
#[test]
fn lines_with_seconds_fire_by_the_rule() {
    let mut seen = BTreeSet::new();
    let mut some = changes_everywhere();
    Rng::with_seed(SEED).shuffle(&mut some);
    some.retain(|change| seen.insert(change.tz.name()));
    let counted = each(&some, |index, change| {
        Walk::around(change, Duration::seconds(1)).check(change, SEED + 0x2_0000 + index, true)
    });
    assert!(counted > 100_000, "{counted} instants are too few to tell");
}

/// Where clocks never change, for years: days, weekdays, months and leap days alone.
#[test]
fn days_weekdays_and_months_come_as_named() {
    let (begin, end) = (day("2026-01-01"), day("2033-01-01"));
    let noons = Walk::new(Zone::UTC, begin + Duration::hours(12), end, Duration::days(1));
    let seeds: Vec<u64> = (0..400).map(|index| SEED + 0x3_0000 + index).collect();
    let counted = each(&seeds, |_, seed| {
        let mut rng = Rng::with_seed(*seed);
        let near = noons.shown[rng.usize(..noons.shown.len())].1;
        let mut cron = Cron::draw(&mut rng, near, false, Days::Both);
        for (field, number) in [(&mut cron.minute, 0), (&mut cron.hour, 12)] {
            field.text = number.to_string();
            field.numbers = BTreeSet::from([number]);
        }
        let fires = noons.fires(&cron);
        let schedule = Schedule::parse(&cron.text()).unwrap();
        for from in [noons.begin, noons.shown[rng.usize(..noons.shown.len())].0] {
            noons.hold(&schedule, &fires, from, *seed);
        }
        fires.len()
    });
    assert!(counted > 200_000, "{counted} instants are too few to tell");
}
