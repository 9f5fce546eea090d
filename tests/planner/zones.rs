//! Where the world's clocks change, found by asking day by day.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Duration, NaiveDateTime, Offset, TimeZone, Utc};
use pgsteward::config::Zone;

/// A zone's clocks going forward or back.
pub struct Change {
    pub tz: Zone,
    /// The first instant under the new offset.
    pub at: DateTime<Utc>,
    /// What the clocks were ahead of UTC, in seconds, and are from then on.
    pub before: i64,
    pub after: i64,
}

impl Change {
    /// What is skipped or repeated.
    pub fn size(&self) -> Duration {
        Duration::seconds((self.after - self.before).abs())
    }

    /// Whether minutes are whole here on both sides.
    pub fn is_whole(&self) -> bool {
        [self.at.timestamp(), self.before, self.after].iter().all(|seconds| seconds % 60 == 0)
    }

    /// What the wall clock would have shown had nobody touched it.
    pub fn reading_before(&self) -> NaiveDateTime {
        self.at.naive_utc() + Duration::seconds(self.before)
    }
}

/// Zones with a past: date lines crossed, months without summer time, hours and half hours given
/// up, offsets that are no whole minutes.
pub const ODD: [&str; 24] = [
    "Africa/Cairo",
    "Africa/Casablanca",
    "Africa/El_Aaiun",
    "Africa/Monrovia",
    "America/Caracas",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Antarctica/Casey",
    "Antarctica/Troll",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Europe/Dublin",
    "Europe/Istanbul",
    "Europe/Moscow",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Fakaofo",
    "Pacific/Kanton",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
    "Pacific/Norfolk",
];

pub fn day(text: &str) -> DateTime<Utc> {
    format!("{text}T00:00:00Z").parse().unwrap()
}

pub fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap()
}

fn offset<Z: TimeZone>(tz: &Z, at: DateTime<Utc>) -> i64 {
    i64::from(tz.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc())
}

/// The first instant under an offset, what it was before, and what it is from then on.
pub type Step = (DateTime<Utc>, i64, i64);

/// The changes of a zone of whichever crate. Two within a day that undo each other would go unseen.
pub fn steps<Z: TimeZone>(tz: &Z, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Step> {
    let mut found = Vec::new();
    let (mut since, mut before) = (from, offset(tz, from));
    while since < to {
        let next = since + Duration::days(1);
        let after = offset(tz, next);
        if after != before {
            // The first second of the day with the new offset.
            let (mut old, mut new) = (0, 86_400);
            while new - old > 1 {
                let middle = (old + new) / 2;
                if offset(tz, since + Duration::seconds(middle)) == before {
                    old = middle;
                } else {
                    new = middle;
                }
            }
            found.push((since + Duration::seconds(new), before, after));
        }
        (since, before) = (next, after);
    }
    found
}

/// The changes of a zone.
pub fn changes(tz: Zone, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Change> {
    steps(&tz, from, to)
        .into_iter()
        .map(|(at, before, after)| Change { tz, at, before, after })
        .collect()
}

/// Those of every zone from 2019 to 2027.
pub fn changes_everywhere() -> Vec<Change> {
    let changes: Vec<Change> = Zone::names()
        .flat_map(|name| changes(zone(name), day("2019-01-01"), day("2028-01-01")))
        .collect();
    assert!(changes.len() > 3_000, "{} changes are too few for the world", changes.len());
    changes
}

/// Runs a check on each of many cases, on all cores; gives how many the checks counted in all.
pub fn each<T: Sync>(cases: &[T], check: impl Fn(u64, &T) -> usize + Sync) -> usize {
    let (next, counted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(case) = cases.get(index) else { return };
        counted.fetch_add(check(index as u64, case), Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    counted.into_inner()
}
