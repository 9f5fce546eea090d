//! The oracle of the zones themselves: chrono-tz, which compiles IANA's sources by a way of its own.
//!
//! Each zone is walked from 1970 to 2100, where chrono-tz's tables end: the same changes at the same
//! second, and around each of them the same offset and abbreviation of every instant, and the same
//! answer for every reading, skipped and repeated ones among them.

use std::collections::BTreeSet;
use std::sync::Mutex;

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::{IANA_TZDB_VERSION, TZ_VARIANTS, Tz};

use super::zones::{Step, day, each, steps, zone};

/// What IANA has released since the data of chrono-tz, 2025b. A stretch that is no longer told in two
/// ways fails here too, so that this list ends with its reason.
struct Since {
    zones: &'static [&'static str],
    /// From this day on, up to the other.
    from: &'static str,
    until: &'static str,
    why: &'static str,
}

const SINCE: &[Since] = &[
    Since {
        zones: &["Africa/Casablanca", "Africa/El_Aaiun"],
        from: "2026-09-20",
        until: "2100-01-01",
        why: "Morocco is at +00 for good, Ramadan or not",
    },
    Since {
        zones: &["America/Vancouver", "Canada/Pacific"],
        from: "2026-11-01",
        until: "2100-01-01",
        why: "British Columbia is at -07 for good",
    },
    Since {
        zones: &["America/Edmonton", "America/Inuvik", "America/Yellowknife", "Canada/Mountain"],
        from: "2026-11-01",
        until: "2100-01-01",
        why: "Alberta and the Northwest Territories are at -06 for good",
    },
    Since {
        zones: &["America/Rainy_River", "America/Winnipeg", "Canada/Central"],
        from: "2026-11-01",
        until: "2100-01-01",
        why: "Manitoba is at -05 for good",
    },
    Since {
        zones: &["America/Havana", "Cuba"],
        from: "2026-11-01",
        until: "2027-03-15",
        why: "Cuba keeps summer time through one winter",
    },
    Since {
        zones: &["Europe/Chisinau", "Europe/Tiraspol"],
        from: "2022-03-27",
        until: "2100-01-01",
        why: "Moldova changes its clocks when the European Union does, an hour later than before",
    },
    Since {
        zones: &["America/Ensenada", "America/Santa_Isabel", "America/Tijuana", "Mexico/BajaNorte"],
        from: "1970-04-26",
        until: "1975-10-27",
        why: "Baja California had the summer time of California",
    },
    Since {
        zones: &["America/Bogota"],
        from: "1992-05-02",
        until: "1992-05-04",
        why: "Colombia's summer time began a day earlier",
    },
    Since {
        zones: &["Asia/Tehran", "Iran"],
        from: "1979-05-25",
        until: "1979-05-28",
        why: "Iran's summer time began a day earlier",
    },
];

/// An offset in seconds, and its abbreviation.
type Shown = (i32, String);

fn shown<O: Offset + std::fmt::Display>(offset: &O) -> Shown {
    (offset.fix().local_minus_utc(), offset.to_string())
}

fn at_instant<Z: TimeZone<Offset: std::fmt::Display>>(zone: &Z, at: DateTime<Utc>) -> Shown {
    shown(&zone.offset_from_utc_datetime(&at.naive_utc()))
}

fn at_reading<Z: TimeZone<Offset: std::fmt::Display>>(
    zone: &Z,
    reading: NaiveDateTime,
) -> LocalResult<Shown> {
    zone.offset_from_local_datetime(&reading).map(|offset| shown(&offset))
}

/// Compares one zone; gives how many readings were compared, or what is otherwise.
fn compare(theirs: Tz) -> Result<usize, String> {
    let name = theirs.name();
    let ours = zone(name);
    let since = SINCE.iter().find(|since| since.zones.contains(&name));
    let is_since = |at: DateTime<Utc>| {
        since.is_some_and(|since| (day(since.from)..day(since.until)).contains(&at))
    };
    let (from, to) = (day("1970-01-01"), day("2100-01-01"));
    let our_steps = BTreeSet::from_iter(steps(&ours, from, to));
    let their_steps = BTreeSet::from_iter(steps(&theirs, from, to));
    let (known, news): (Vec<Step>, Vec<Step>) = our_steps
        .symmetric_difference(&their_steps)
        .copied()
        .partition(|step: &Step| is_since(step.0));
    if let (Some(first), Some(last)) = (news.first(), news.last()) {
        return Err(format!(
            "{name}: {} changes in one only, from {first:?} to {last:?}",
            news.len()
        ));
    }
    if let (Some(since), true) = (since, known.is_empty()) {
        return Err(format!("{name}: both say now: {}", since.why));
    }
    // As it stands in the specification of a job; and for zones whose clocks never change.
    assert_eq!(ours.to_string(), theirs.to_string());
    assert_eq!(at_instant(&ours, from), at_instant(&theirs, from), "{name} at {from}");
    let mut compared = 0;
    for (at, before, after) in our_steps.into_iter().filter(|step| !is_since(step.0)) {
        let [before, after] = [before, after].map(Duration::seconds);
        let half = (after - before) / 2;
        for beside in [Duration::zero(), half, -half, after - before, before - after] {
            for beside in [-1, 0, 1].map(|second| beside + Duration::seconds(second)) {
                let instant = at + beside;
                assert_eq!(
                    at_instant(&ours, instant),
                    at_instant(&theirs, instant),
                    "{name} at {instant}"
                );
                for reading in [before, after].map(|ahead| instant.naive_utc() + ahead) {
                    let (our, their) = (at_reading(&ours, reading), at_reading(&theirs, reading));
                    assert_eq!(our, their, "{name} at the reading {reading}");
                    compared += 1;
                }
            }
        }
    }
    Ok(compared)
}

#[test]
fn chrono_tz_says_the_same_of_every_zone() {
    let otherwise = Mutex::new(BTreeSet::new());
    let compared = each(&TZ_VARIANTS, |_, theirs| {
        compare(*theirs).unwrap_or_else(|said| {
            otherwise.lock().unwrap().insert(said);
            0
        })
    });
    let otherwise = otherwise.into_inner().unwrap();
    assert!(
        otherwise.is_empty(),
        "ours against chrono-tz's of {IANA_TZDB_VERSION}: {otherwise:#?}"
    );
    assert!(compared > 1_000_000, "{compared} readings are too few to tell");
}

#[test]
fn chrono_tz_knows_the_same_names() {
    let theirs: BTreeSet<&str> = TZ_VARIANTS.iter().map(|theirs| theirs.name()).collect();
    let ours: BTreeSet<&str> = pgsteward::config::Zone::names().collect();
    assert_eq!(ours, theirs);
}
