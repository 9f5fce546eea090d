//! Where the world's clocks change, found by asking day by day.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Duration, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};

/// A zone's clocks going forward or back.
pub struct Change {
    pub tz: Tz,
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
pub const ODD: [Tz; 24] = [
    Tz::Africa__Cairo,
    Tz::Africa__Casablanca,
    Tz::Africa__El_Aaiun,
    Tz::Africa__Monrovia,
    Tz::America__Caracas,
    Tz::America__Sao_Paulo,
    Tz::America__St_Johns,
    Tz::Antarctica__Casey,
    Tz::Antarctica__Troll,
    Tz::Asia__Gaza,
    Tz::Asia__Kathmandu,
    Tz::Asia__Pyongyang,
    Tz::Asia__Tehran,
    Tz::Australia__Lord_Howe,
    Tz::Europe__Dublin,
    Tz::Europe__Istanbul,
    Tz::Europe__Moscow,
    Tz::Pacific__Apia,
    Tz::Pacific__Chatham,
    Tz::Pacific__Fakaofo,
    Tz::Pacific__Kanton,
    Tz::Pacific__Kiritimati,
    Tz::Pacific__Kwajalein,
    Tz::Pacific__Norfolk,
];

pub fn day(text: &str) -> DateTime<Utc> {
    format!("{text}T00:00:00Z").parse().unwrap()
}

fn offset(tz: Tz, at: DateTime<Utc>) -> i64 {
    i64::from(tz.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc())
}

/// The changes of a zone. Two within a day that undo each other would go unseen.
pub fn changes(tz: Tz, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Change> {
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
                if offset(tz, since + Duration::seconds(middle)) == before { old = middle } else { new = middle }
            }
            found.push(Change { tz, at: since + Duration::seconds(new), before, after });
        }
        (since, before) = (next, after);
    }
    found
}

/// Those of every zone from 2019 to 2027.
pub fn changes_everywhere() -> Vec<Change> {
    let changes: Vec<Change> =
        TZ_VARIANTS.iter().flat_map(|tz| changes(*tz, day("2019-01-01"), day("2028-01-01"))).collect();
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
