//! Cron by a zone's wall clock, where clocks change.
//!
//! The cron crate finds the next reading of a clock that never changes. This module finds the
//! instant of that reading in a zone, by two rules after Vixie's cron:
//!
//! - **Fixed**: a schedule that names hours fires once per reading. A reading that does not exist
//!   (clocks went forward) stands for the end of the gap, so several may stand for one instant; of
//!   two equal readings (clocks went back) the first counts.
//! - **Elapsed**: a schedule that fires in every hour fires at every instant that shows one of its
//!   readings.
//!
//! Both assume that a zone changes its offset at most once in [`REACH`], and never by more than
//! that.

use chrono::{DateTime, Duration, NaiveDateTime, Offset, SubsecRound, TimeZone, Utc};
use croner::Cron;

use crate::config::Zone;

/// Longer than any change of clocks: Samoa went forward by 24 hours in 2011.
const REACH: Duration = Duration::hours(26);

/// A bound for the loops, above what the longest repeated stretch takes second by second.
const STEPS_MAX: usize = 100_000;

/// Returns the first reading after `reading` on a clock that never changes.
pub(super) fn next_on_the_wall(cron: &Cron, reading: NaiveDateTime) -> Option<NaiveDateTime> {
    cron.find_next_occurrence(&reading.and_utc(), false).ok().map(|next| next.naive_utc())
}

/// Returns the next instant by the rule "fixed".
pub(super) fn next_fixed(cron: &Cron, after: DateTime<Utc>, tz: Zone) -> Option<DateTime<Utc>> {
    // Earlier readings stand for instants up to `after`. From here on, readings stand for instants
    // in order, so that the first one later than `after` is the next.
    let mut reading =
        after.with_timezone(&tz).naive_local().trunc_subsecs(0) - Duration::seconds(1);
    for _ in 0..STEPS_MAX {
        reading = next_on_the_wall(cron, reading)?;
        let instant = first_instant(reading, tz)?;
        if instant > after {
            return Some(instant);
        }
    }
    None
}

/// Returns the next instant by the rule "elapsed".
pub(super) fn next_elapsed(cron: &Cron, after: DateTime<Utc>, tz: Zone) -> Option<DateTime<Utc>> {
    // While the offset is constant, readings and instants advance together. `from` is no candidate.
    let mut from = after.trunc_subsecs(0);
    for _ in 0..STEPS_MAX {
        let offset = offset_at(from, tz);
        let reading = next_on_the_wall(cron, from.naive_utc() + offset)?;
        let instant = (reading - offset).and_utc();
        let horizon = instant.min(from + REACH);
        match change_between(from, horizon, tz) {
            None if instant == horizon => return Some(instant),
            // Nothing in between, whatever the offsets are: they move readings by less than this.
            None => from = horizon.max(instant - REACH),
            // Nothing up to here, but the first instant with the new offset may be one.
            Some(change) => {
                let reading = change.naive_utc() + offset_at(change, tz);
                if next_on_the_wall(cron, reading - Duration::seconds(1)) == Some(reading) {
                    return Some(change);
                }
                from = change;
            }
        }
    }
    None
}

/// Returns the instant of a reading: the first of two, or the end of the gap that contains it.
fn first_instant(reading: NaiveDateTime, tz: Zone) -> Option<DateTime<Utc>> {
    let exists = |reading: NaiveDateTime| tz.from_local_datetime(&reading).earliest();
    if let Some(instant) = exists(reading) {
        return Some(instant.with_timezone(&Utc));
    }
    let later = |seconds| exists(reading + Duration::seconds(seconds));
    let end = first_second(REACH.num_seconds(), |seconds| later(seconds).is_some());
    later(end).map(|instant| instant.with_timezone(&Utc))
}

/// Returns the first instant in `(from, to]` with another offset than `from`.
fn change_between(from: DateTime<Utc>, to: DateTime<Utc>, tz: Zone) -> Option<DateTime<Utc>> {
    let offset = offset_at(from, tz);
    if offset_at(to, tz) == offset {
        return None;
    }
    let at = |seconds| from + Duration::seconds(seconds);
    let change = first_second((to - from).num_seconds(), |s| offset_at(at(s), tz) != offset);
    Some(at(change))
}

/// Returns the first number in `1..=last` from which on `holds`, which holds for `last`.
fn first_second(last: i64, holds: impl Fn(i64) -> bool) -> i64 {
    let (mut before, mut since) = (0, last);
    while since - before > 1 {
        let middle = before + (since - before) / 2;
        if holds(middle) { since = middle } else { before = middle }
    }
    since
}

/// Returns how far a zone's clocks are ahead of UTC.
fn offset_at(instant: DateTime<Utc>, tz: Zone) -> Duration {
    Duration::seconds(i64::from(
        tz.offset_from_utc_datetime(&instant.naive_utc()).fix().local_minus_utc(),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::Timelike;

    use super::super::Schedule;
    use super::*;

    fn zone(name: &str) -> Zone {
        Zone::named(name).unwrap()
    }

    /// The next instants of a schedule, as readings with offset.
    fn fires(text: &str, tz: Zone, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(text).unwrap();
        let mut after: DateTime<Utc> = from.parse().unwrap();
        let mut fires = Vec::new();
        for _ in 0..count {
            after = schedule.next_after(after, tz).unwrap();
            fires.push(after.with_timezone(&tz).format("%m-%d %H:%M%:z").to_string());
        }
        fires
    }

    #[test]
    fn a_nightly_job_runs_once_a_night() {
        let (berlin, new_york, lord_howe) =
            (zone("Europe/Berlin"), zone("America/New_York"), zone("Australia/Lord_Howe"));
        for (text, tz, from, expected) in [
            // Forward at 02:00 to 03:00 on March 29th, 2026.
            (
                "30 2 * * *",
                berlin,
                "2026-03-27T12:00:00Z",
                ["03-28 02:30+01:00", "03-29 03:00+02:00", "03-30 02:30+02:00"],
            ),
            (
                "0 3 * * *",
                berlin,
                "2026-03-27T12:00:00Z",
                ["03-28 03:00+01:00", "03-29 03:00+02:00", "03-30 03:00+02:00"],
            ),
            // Back at 03:00 to 02:00 on October 25th, 2026.
            (
                "30 2 * * *",
                berlin,
                "2026-10-23T12:00:00Z",
                ["10-24 02:30+02:00", "10-25 02:30+02:00", "10-26 02:30+01:00"],
            ),
            (
                "0 3 * * *",
                berlin,
                "2026-10-23T12:00:00Z",
                ["10-24 03:00+02:00", "10-25 03:00+01:00", "10-26 03:00+01:00"],
            ),
            // Forward on March 8th, back on November 1st, 2026.
            (
                "15 2 * * *",
                new_york,
                "2026-03-07T00:00:00Z",
                ["03-07 02:15-05:00", "03-08 03:00-04:00", "03-09 02:15-04:00"],
            ),
            (
                "30 1 * * *",
                new_york,
                "2026-10-31T00:00:00Z",
                ["10-31 01:30-04:00", "11-01 01:30-04:00", "11-02 01:30-05:00"],
            ),
            // By half an hour: forward at 02:00 to 02:30 on October 4th, back at 02:00 to 01:30 on
            // April 5th.
            (
                "15 2 * * *",
                lord_howe,
                "2026-10-02T12:00:00Z",
                ["10-03 02:15+10:30", "10-04 02:30+11:00", "10-05 02:15+11:00"],
            ),
            (
                "45 1 * * *",
                lord_howe,
                "2026-04-03T12:00:00Z",
                ["04-04 01:45+11:00", "04-05 01:45+11:00", "04-06 01:45+10:30"],
            ),
        ] {
            assert_eq!(fires(text, tz, from, 3), expected, "{text} in {tz}");
        }
    }

    #[test]
    fn readings_in_a_gap_fire_once() {
        let expected =
            ["03-29 01:40+01:00", "03-29 03:00+02:00", "03-29 03:20+02:00", "03-29 03:40+02:00"];
        assert_eq!(
            fires("*/20 1-3 * * *", zone("Europe/Berlin"), "2026-03-29T00:20:00Z", 4),
            expected
        );
        // A whole day: Samoa had no December 30th in 2011.
        let expected = ["12-29 09:00-10:00", "12-31 00:00+14:00", "12-31 09:00+14:00"];
        assert_eq!(fires("0 9 * * *", zone("Pacific/Apia"), "2011-12-29T12:00:00Z", 3), expected);
    }

    #[test]
    fn schedules_that_name_hours_ignore_the_repeated_hour() {
        let expected = ["10-25 02:40+02:00", "10-25 03:00+01:00", "10-25 03:20+01:00"];
        assert_eq!(
            fires("*/20 1-3 * * *", zone("Europe/Berlin"), "2026-10-25T00:20:00Z", 3),
            expected
        );
        // Asked from within it.
        assert_eq!(
            fires("*/20 1-3 * * *", zone("Europe/Berlin"), "2026-10-25T01:30:00Z", 1),
            ["10-25 03:00+01:00"]
        );
        // By the second, all of an hour is passed over.
        assert_eq!(
            fires("* * 1-3 * * *", zone("Europe/Berlin"), "2026-10-25T01:00:00Z", 1),
            ["10-25 03:00+01:00"]
        );
    }

    #[test]
    fn hourly_jobs_follow_elapsed_time() {
        let (berlin, lord_howe) = (zone("Europe/Berlin"), zone("Australia/Lord_Howe"));
        for (text, tz, from, expected) in [
            (
                "0 * * * *",
                berlin,
                "2026-03-29T00:00:00Z",
                vec!["03-29 03:00+02:00", "03-29 04:00+02:00"],
            ),
            (
                "30 * * * *",
                berlin,
                "2026-03-29T00:00:00Z",
                vec!["03-29 01:30+01:00", "03-29 03:30+02:00"],
            ),
            (
                "0 * * * *",
                berlin,
                "2026-10-24T23:30:00Z",
                vec!["10-25 02:00+02:00", "10-25 02:00+01:00", "10-25 03:00+01:00"],
            ),
            (
                "*/30 * * * *",
                berlin,
                "2026-10-25T00:00:00Z",
                vec!["10-25 02:30+02:00", "10-25 02:00+01:00"],
            ),
            // From within the repeated hour.
            (
                "*/30 * * * *",
                berlin,
                "2026-10-25T01:05:00Z",
                vec!["10-25 02:30+01:00", "10-25 03:00+01:00"],
            ),
            // Half an hour more or less.
            (
                "*/15 * * * *",
                lord_howe,
                "2026-10-03T15:15:00Z",
                vec!["10-04 02:30+11:00", "10-04 02:45+11:00"],
            ),
            (
                "45 * * * *",
                lord_howe,
                "2026-04-04T14:00:00Z",
                vec!["04-05 01:45+11:00", "04-05 01:45+10:30", "04-05 02:45+10:30"],
            ),
            // A stretch without any fire, over a change: from a Sunday in winter to one in summer.
            (
                "0 * * 4 *",
                berlin,
                "2026-01-01T00:00:00Z",
                vec!["04-01 00:00+02:00", "04-01 01:00+02:00"],
            ),
        ] {
            assert_eq!(fires(text, tz, from, expected.len()), expected, "{text} in {tz}");
        }
    }

    /// Both rules against their definitions, minute by minute over days in which clocks change.
    #[test]
    fn rules_hold_around_every_change() {
        let minutes =
            |text: &str| -> BTreeSet<u32> { text.split(',').map(|n| n.parse().unwrap()).collect() };
        for (tz, day) in [
            (zone("Europe/Berlin"), "2026-03-28T12:00:00Z"),
            (zone("Europe/Berlin"), "2026-10-24T12:00:00Z"),
            (zone("America/New_York"), "2026-03-07T12:00:00Z"),
            (zone("America/New_York"), "2026-10-31T12:00:00Z"),
            (zone("Australia/Lord_Howe"), "2026-04-04T00:00:00Z"),
            (zone("Australia/Lord_Howe"), "2026-10-03T00:00:00Z"),
            // At midnight, so that a day begins in the gap, or comes back.
            (zone("America/Sao_Paulo"), "2018-11-03T12:00:00Z"),
            (zone("America/Sao_Paulo"), "2018-02-17T12:00:00Z"),
        ] {
            let start: DateTime<Utc> = day.parse().unwrap();
            let walls: Vec<(DateTime<Utc>, NaiveDateTime)> = (0..36 * 60)
                .map(|minute| start + Duration::minutes(minute))
                .map(|instant| (instant, instant.with_timezone(&tz).naive_local()))
                .collect();
            for (minute_field, hour_field) in [
                ("0", "*"),
                ("7,45", "*"),
                ("0", "2"),
                ("7,30,59", "1,2,3"),
                ("30", "0,23"),
                ("0,15", "0,1,2,22,23"),
            ] {
                let (minute_set, every) = (minutes(minute_field), hour_field == "*");
                let hour_set = if every { (0..24).collect() } else { minutes(hour_field) };
                let named = |at: &NaiveDateTime| {
                    minute_set.contains(&at.minute()) && hour_set.contains(&at.hour())
                };
                let expected: BTreeSet<DateTime<Utc>> = if every {
                    walls
                        .iter()
                        .filter(|(_, wall)| named(wall))
                        .map(|(instant, _)| *instant)
                        .collect()
                } else {
                    // Each reading that is named, at the first instant that shows it or a later
                    // one.
                    (0..38 * 60)
                        .map(|minute| walls[0].1 + Duration::minutes(minute))
                        .filter(named)
                        .filter_map(|reading| {
                            walls
                                .iter()
                                .find(|(_, wall)| *wall >= reading)
                                .map(|(instant, _)| *instant)
                        })
                        .collect()
                };
                let schedule =
                    Schedule::parse(&format!("{minute_field} {hour_field} * * *")).unwrap();
                let end = walls[walls.len() - 1].0;
                for (after, _) in walls.iter().step_by(3) {
                    let next = schedule.next_after(*after, tz).unwrap();
                    let first = expected
                        .range((std::ops::Bound::Excluded(*after), std::ops::Bound::Unbounded))
                        .next();
                    match first {
                        Some(first) => {
                            assert_eq!(next, *first, "{} in {tz} after {after}", schedule.text());
                        }
                        None => {
                            assert!(
                                next > end,
                                "{} in {tz} after {after}: {next}",
                                schedule.text()
                            );
                        }
                    }
                }
            }
        }
    }
}
