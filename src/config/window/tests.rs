use chrono::Days;

use super::*;

fn windows(texts: &[&str]) -> Windows {
    texts
        .iter()
        .map(|text| Windows::parse_one(text).unwrap_or_else(|error| panic!("{text}: {error}")))
        .collect()
}

fn zone(name: &str) -> Zone {
    Zone::named(name).unwrap()
}

/// Whether a window holds at readings of a clock in UTC.
#[track_caller]
fn holds(text: &str, readings: &[(&str, bool)]) {
    let windows = windows(&[text]);
    for (reading, inside) in readings {
        let at: DateTime<Utc> = format!("{}Z", reading.replace(' ', "T")).parse().unwrap();
        assert_eq!(
            windows.contains(at, Zone::UTC),
            *inside,
            "{text} at {reading}, a {}",
            at.weekday()
        );
    }
}

#[test]
fn the_begin_belongs_to_it_and_the_end_does_not() {
    holds(
        "08:00-18:30",
        &[
            ("2026-05-13 07:59:59.999", false),
            ("2026-05-13 08:00:00", true),
            ("2026-05-13 18:29:59.999", true),
            ("2026-05-13 18:30:00", false),
        ],
    );
    holds("8:00-9:00", &[("2026-05-13 08:00:00", true), ("2026-05-13 09:00:00", false)]);
    holds("22:00-24:00", &[("2026-05-13 23:59:59.999", true), ("2026-05-14 00:00:00", false)]);
    // Other notations.
    holds("22:00-00:00", &[("2026-05-13 23:59:59.999", true), ("2026-05-14 00:00:00", false)]);
    holds("00:00-24:00", &[("2026-05-13 00:00:00", true), ("2026-05-13 23:59:59.999", true)]);
}

#[test]
fn a_night_belongs_to_the_day_on_which_it_begins() {
    holds(
        "22:00-06:00",
        &[
            ("2026-05-13 21:59:59", false),
            ("2026-05-13 22:00:00", true),
            ("2026-05-14 05:59:59", true),
            ("2026-05-14 06:00:00", false),
        ],
    );
    // The 15th is a Friday.
    holds(
        "Mon-Fri 22:00-06:00",
        &[
            ("2026-05-11 05:00:00", false),
            ("2026-05-11 22:00:00", true),
            ("2026-05-15 23:00:00", true),
            ("2026-05-16 05:59:59", true),
            ("2026-05-16 06:00:00", false),
            ("2026-05-16 22:00:00", false),
            ("2026-05-17 23:00:00", false),
        ],
    );
    holds(
        "2026-12-31 22:00-06:00",
        &[
            ("2026-12-31 05:00:00", false),
            ("2026-12-31 22:00:00", true),
            ("2027-01-01 05:59:00", true),
            ("2027-01-01 22:00:00", false),
        ],
    );
}

#[test]
fn weekdays_hold_all_day_and_may_go_over_sunday() {
    for text in ["Sun", "sun", "SUNDAY", "Sun 00:00-24:00", "  Sun   00:00-24:00 "] {
        holds(
            text,
            &[
                ("2026-05-16 23:59:59", false),
                ("2026-05-17 00:00:00", true),
                ("2026-05-17 23:59:59", true),
                ("2026-05-18 00:00:00", false),
            ],
        );
    }
    let days = |text: &str| -> String {
        let windows = windows(&[text]);
        // From a Monday on.
        let monday: DateTime<Utc> = "2026-05-11T12:00:00Z".parse().unwrap();
        let held = |day: &u64| windows.contains(monday + Days::new(*day), Zone::UTC);
        (0..7).filter(held).map(|day| day.to_string()).collect()
    };
    for (text, expected) in [
        ("Mon-Fri", "01234"),
        ("Sat,Sun", "56"),
        ("Fri-Mon", "0456"),
        ("Sun-Sat", "0123456"),
        ("Mon-Sun", "0123456"),
        ("Mon,Wed-Thu,Sun", "0236"),
        ("tuesday-THURSDAY", "123"),
    ] {
        assert_eq!(days(text), expected, "{text}");
    }
}

#[test]
fn dates_include_their_last_day() {
    holds(
        "2026-12-24..2027-01-02",
        &[
            ("2026-12-23 23:59:59", false),
            ("2026-12-24 00:00:00", true),
            ("2027-01-02 23:59:59", true),
            ("2027-01-03 00:00:00", false),
            ("2027-12-24 12:00:00", false),
        ],
    );
    for text in ["2026-12-24", "2026-12-24..2026-12-24"] {
        holds(
            text,
            &[
                ("2026-12-23 23:00:00", false),
                ("2026-12-24 12:00:00", true),
                ("2026-12-25 00:00:00", false),
            ],
        );
    }
    holds(
        "2026-12-24..2026-12-26 08:00-18:00",
        &[
            ("2026-12-24 07:59:00", false),
            ("2026-12-25 12:00:00", true),
            ("2026-12-25 18:00:00", false),
            ("2026-12-26 17:59:00", true),
            ("2026-12-27 12:00:00", false),
        ],
    );
}

#[test]
fn dates_without_a_year_come_every_year() {
    for year in [1999, 2026, 2027, 2096] {
        let at = |rest: &str, year: i32| format!("{year}-{rest}");
        let (eve, first, last, after) = (
            at("12-23 23:59:59", year),
            at("12-24 00:00:00", year),
            at("01-02 23:59:59", year + 1),
            at("01-03 00:00:00", year + 1),
        );
        holds("12-24..01-02", &[(&eve, false), (&first, true), (&last, true), (&after, false)]);
        holds(
            "06-01..08-31",
            &[
                (&eve, false),
                (&at("06-01 00:00:00", year), true),
                (&at("08-31 23:00:00", year), true),
            ],
        );
        holds(
            "12-31 23:00-01:00",
            &[
                (&at("12-31 22:59:59", year), false),
                (&at("01-01 00:59:59", year + 1), true),
                (&at("01-01 01:00:00", year + 1), false),
                (&at("01-01 23:30:00", year), false),
            ],
        );
    }
    // A day that does not come every year.
    holds(
        "02-29",
        &[
            ("2028-02-29 12:00:00", true),
            ("2027-02-28 12:00:00", false),
            ("2027-03-01 12:00:00", false),
        ],
    );
    holds("02-29 22:00-02:00", &[("2028-03-01 01:00:00", true), ("2027-03-01 01:00:00", false)]);
}

#[test]
fn the_wall_clock_of_the_zone_decides() {
    let (berlin, new_york) = (zone("Europe/Berlin"), zone("America/New_York"));
    let minutes = |text: &str, tz: Zone, day: &str| -> usize {
        let windows = windows(&[text]);
        let begin: DateTime<Utc> = format!("{day}T00:00:00Z").parse().unwrap();
        (0..24 * 60)
            .filter(|minute| windows.contains(begin + chrono::Duration::minutes(*minute), tz))
            .count()
    };
    assert_eq!(minutes("02:00-03:00", berlin, "2026-03-28"), 60);
    // Forward from 02:00 to 03:00, and back from 03:00 to 02:00.
    assert_eq!(minutes("02:00-03:00", berlin, "2026-03-29"), 0);
    assert_eq!(minutes("02:00-03:00", berlin, "2026-10-25"), 120);
    assert_eq!(minutes("02:00-04:00", berlin, "2026-03-29"), 60);
    assert_eq!(minutes("02:00-04:00", berlin, "2026-10-25"), 180);
    // One moment, two walls.
    let at = "2026-05-15T22:30:00Z".parse().unwrap();
    assert!(windows(&["Sat"]).contains(at, berlin) && windows(&["Fri"]).contains(at, new_york));
    // A day that a zone never had: what its date line skipped, no window finds.
    let readings =
        |at: &str| windows(&["2011-12-30"]).contains(at.parse().unwrap(), zone("Pacific/Apia"));
    assert!(!readings("2011-12-30T09:59:59Z") && !readings("2011-12-30T10:00:00Z"));
}

#[test]
fn any_one_of_several_is_enough() {
    let several = windows(&["Sat,Sun", "22:00-06:00"]);
    let inside = |at: &str| several.contains(at.parse().unwrap(), Zone::UTC);
    assert!(
        inside("2026-05-16T12:00:00Z")
            && inside("2026-05-13T23:00:00Z")
            && !inside("2026-05-13T12:00:00Z")
    );
    assert_eq!(several.texts().collect::<Vec<_>>(), ["Sat,Sun", "22:00-06:00"]);
    assert!(!several.is_empty());
    let none = Windows::default();
    assert!(none.is_empty() && !none.contains(DateTime::UNIX_EPOCH, Zone::UTC));
}

#[test]
fn refusals_name_the_part() {
    let hours =
        "hours from 00 to 23 and minutes from 00 to 59, as \"22:00\" (24:00 only as an end)";
    for (text, expected) in [
        ("25:00-26:00", &*format!("{hours}, in the time (\"25:00\")")),
        ("24:00-06:00", "as an end), in the time (\"24:00\")"),
        ("22:00-24:01", "in the time (\"24:01\")"),
        ("22:60-23:00", "in the time (\"22:60\")"),
        ("22:00-6", "in the time (\"6\")"),
        ("22:0-06:00", "in the time (\"22:0\")"),
        ("022:00-06:00", "in the time (\"022:00\")"),
        ("+2:00-06:00", "in the time (\"+2:00\")"),
        ("22:00:00-23:00:00", "in the time (\"22:00:00\")"),
        ("22:00-", "in the time (\"\")"),
        ("10pm-6:00am", "in the time (\"10pm\")"),
        (
            "08:00-08:00",
            "an end other than the begin, or \"00:00-24:00\" for a whole day, in the times \
             (\"08:00-08:00\")",
        ),
        ("00:00-00:00", "an end other than the begin"),
        ("22:00", "a begin and an end, as \"22:00-06:00\", in the times (\"22:00\")"),
        ("Mon 22:00", "a begin and an end, as \"22:00-06:00\", in the times (\"22:00\")"),
        ("Mon Tue", "a begin and an end, as \"22:00-06:00\", in the times (\"Tue\")"),
        (
            "2027-01-02..2026-12-24",
            "a last day that is not before the first, in the dates (\"2027-01-02..2026-12-24\")",
        ),
        (
            "2026-12-24..01-02",
            "both days with a year or both without, in the dates (\"2026-12-24..01-02\")",
        ),
        (
            "2026-02-30",
            "a day that exists, as \"2026-12-24\", or as \"12-24\" for every year, in the date \
             (\"2026-02-30\")",
        ),
        ("2027-02-29", "in the date (\"2027-02-29\")"),
        ("02-30", "in the date (\"02-30\")"),
        ("13-01", "in the date (\"13-01\")"),
        ("2026-1-02", "in the date (\"2026-1-02\")"),
        ("2026-12-24-2027-01-02", "in the date (\"2026-12-24-2027-01-02\")"),
        ("2026-12-24..", "in the date (\"\")"),
        ("2026-12-24..2026-12-25..2026-12-26", "in the date (\"2026-12-25..2026-12-26\")"),
        ("Mno", "names such as \"Mon\", in the weekdays (\"Mno\")"),
        ("Mon-Thurday", "names such as \"Thursday\", in the weekdays (\"Thurday\")"),
        (
            "holidays",
            "names such as \"Mon\", \"Mon-Fri\" or \"Sat,Sun\", in the weekdays (\"holidays\")",
        ),
        ("Mon-Mon", "two different days around the \"-\", in the weekdays (\"Mon-Mon\")"),
        ("Mon,,Tue", "in the weekdays (\"\")"),
        ("Mon..Fri", "in the weekdays (\"Mon..Fri\")"),
        ("-5", "in the weekdays (\"\")"),
        ("Mon 08:00-10:00 12:00-14:00", "a window such as"),
        ("22:00 - 06:00", "a window such as"),
        ("", "a window such as"),
    ] {
        let error = Windows::parse_one(text).expect_err(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
}
