//! Times and durations as people read them, and columns.

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use std::fmt::Display;

/// An instant in a zone, to the second.
pub fn instant<Z: TimeZone>(at: DateTime<Utc>, zone: &Z) -> String
where
    Z::Offset: Display,
{
    at.with_timezone(zone).format("%Y-%m-%d %H:%M:%S %Z").to_string()
}

/// In the largest unit of which there is more than one: `850 ms`, `2.4 s`, `12 min`, `5 h`, `3 d`.
pub fn duration(ms: f64) -> String {
    match ms {
        ..1_000.0 => format!("{ms:.0} ms"),
        ..120_000.0 => format!("{:.1} s", ms / 1_000.0),
        ..7_200_000.0 => format!("{:.0} min", ms / 60_000.0),
        ..172_800_000.0 => format!("{:.0} h", ms / 3_600_000.0),
        _ => format!("{:.0} d", ms / 86_400_000.0),
    }
}

/// How long ago, to the second.
pub fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let since = (now - at).max(TimeDelta::zero());
    match since.num_seconds() {
        0 => "now".to_owned(),
        seconds @ 1..120 => format!("{seconds} s ago"),
        _ => format!("{} ago", duration(since.num_milliseconds() as f64)),
    }
}

/// The first line of a text, of which the rest is told elsewhere.
pub fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Lines of cells under a head, each column as wide as its widest cell.
pub fn columns<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let cells: Vec<String> =
            cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(line(head)).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_a_unit_that_fits() {
        for (ms, said) in [
            (0.0, "0 ms"),
            (850.4, "850 ms"),
            (2_440.0, "2.4 s"),
            (119_900.0, "119.9 s"),
            (720_000.0, "12 min"),
            (18_000_000.0, "5 h"),
            (259_200_000.0, "3 d"),
        ] {
            assert_eq!(duration(ms), said);
        }
    }

    #[test]
    fn what_lies_ahead_by_another_clock_is_now() {
        let now = Utc::now();
        assert_eq!(ago(now + TimeDelta::seconds(3), now), "now");
        assert_eq!(ago(now - TimeDelta::seconds(90), now), "90 s ago");
        assert_eq!(ago(now - TimeDelta::hours(5), now), "5 h ago");
    }

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let rows = [["a".to_owned(), "long cell".to_owned()], ["bcd".to_owned(), String::new()]];
        assert_eq!(columns(["x", "y"], &rows), ["x    y", "a    long cell", "bcd"]);
    }
}
