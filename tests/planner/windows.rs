//! Windows against a list of every stretch of wall time that they stand for.

use std::collections::BTreeSet;

use chrono::{Datelike, Duration, NaiveDate, NaiveDateTime};
use fastrand::Rng;
use pgsteward::config::Windows;

use super::zones::{Change, ODD, changes, day, each, zone};

const SEED: u64 = 0x5eed_0003;

const WEEKDAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// A window as text, and each stretch of it on the wall around some day.
struct Drawn {
    text: String,
    stretches: Vec<(NaiveDateTime, NaiveDateTime)>,
}

/// The days that are looked at: enough for a week before and after.
fn days_around(near: NaiveDate) -> impl Iterator<Item = NaiveDate> {
    (-9..=9).map(move |days| near + Duration::days(days))
}

fn draw(rng: &mut Rng, near: NaiveDate) -> Drawn {
    let (days, held) = draw_days(rng, near);
    let (times, begin, end) = draw_times(rng);
    let midnight = |day: NaiveDate| day.and_hms_opt(0, 0, 0).unwrap();
    let stretches =
        held.into_iter().map(|day| (midnight(day) + begin, midnight(day) + end)).collect();
    let text = [days, times].join(" ");
    // Neither days nor times: a whole day, every day.
    let text = if text.trim().is_empty() { "00:00-24:00".to_owned() } else { text };
    Drawn { text, stretches }
}

fn draw_days(rng: &mut Rng, near: NaiveDate) -> (String, BTreeSet<NaiveDate>) {
    let first = near + Duration::days(rng.i64(-3..=2));
    let length = rng.i64(0..=4);
    let dates: BTreeSet<NaiveDate> = (0..=length).map(|day| first + Duration::days(day)).collect();
    let last = *dates.last().unwrap();
    match rng.u8(0..5) {
        0 => (String::new(), days_around(near).collect()),
        1 => {
            let names: BTreeSet<&str> = dates.iter().map(|day| name(*day)).collect();
            let text = if length == 0 || length == 4 {
                names.iter().copied().collect::<Vec<_>>().join(",")
            } else {
                format!("{}-{}", name(first), name(last))
            };
            (text, days_around(near).filter(|day| names.contains(name(*day))).collect())
        }
        2 if length == 0 => (first.format("%F").to_string(), dates),
        2 | 3 => (format!("{}..{}", first.format("%F"), last.format("%F")), dates),
        _ if length == 0 => (first.format("%m-%d").to_string(), dates),
        _ => (format!("{}..{}", first.format("%m-%d"), last.format("%m-%d")), dates),
    }
}

fn name(day: NaiveDate) -> &'static str {
    WEEKDAYS[day.weekday().num_days_from_monday() as usize]
}

/// A begin and an end, counted from the midnight of the day.
fn draw_times(rng: &mut Rng) -> (String, Duration, Duration) {
    if rng.u8(0..4) == 0 {
        return (String::new(), Duration::zero(), Duration::days(1));
    }
    // Mostly at the hours at which clocks change.
    let hour = |rng: &mut Rng| if rng.bool() { rng.i64(0..=4) } else { rng.i64(0..=23) };
    let begin = hour(rng) * 60 + rng.i64(0..60);
    let end = if rng.u8(0..8) == 0 { 1440 } else { hour(rng) * 60 + rng.i64(0..60) };
    let end = if end == begin { 1440 } else { end };
    let text = format!("{:02}:{:02}-{:02}:{:02}", begin / 60, begin % 60, end / 60, end % 60);
    let over_midnight = if end < begin { 1440 } else { 0 };
    (text, Duration::minutes(begin), Duration::minutes(end + over_midnight))
}

#[test]
fn windows_hold_what_the_wall_shows_on_days_of_change() {
    let changes: Vec<Change> = ODD
        .iter()
        .flat_map(|name| changes(zone(name), day("1990-01-01"), day("2028-01-01")))
        .filter(Change::is_whole)
        .collect();
    assert!(changes.len() > 500, "{}", changes.len());
    let inside = each(&changes, |index, change| {
        let seed = SEED + index;
        let mut rng = Rng::with_seed(seed);
        let near = change.reading_before();
        let drawn: Vec<Drawn> = (0..rng.u8(1..=3)).map(|_| draw(&mut rng, near.date())).collect();
        let windows: Windows = drawn
            .iter()
            .map(|drawn| {
                Windows::parse_one(&drawn.text)
                    .unwrap_or_else(|error| panic!("{}: {error}", drawn.text))
            })
            .collect();
        let mut inside = 0;
        let reach = change.size() + Duration::hours(26);
        for minute in -reach.num_minutes()..=reach.num_minutes() {
            let at =
                change.at + Duration::minutes(minute) + Duration::milliseconds(rng.i64(0..60_000));
            let reading = at.with_timezone(&change.tz).naive_local();
            let stretches = drawn.iter().flat_map(|drawn| &drawn.stretches);
            let expected =
                stretches.into_iter().any(|(begin, end)| (*begin..*end).contains(&reading));
            let texts: Vec<&str> = windows.texts().collect();
            let found = windows.contains(at, change.tz);
            assert_eq!(
                found, expected,
                "{texts:?} in {} at {at}, {reading} (seed {seed:#x})",
                change.tz
            );
            inside += usize::from(found);
        }
        inside
    });
    assert!(inside > 500_000, "{inside} minutes inside are too few to tell");
}
