//! Durations and sizes with units, as text and back.
//!
//! A bare number is refused everywhere: some readers take `timeout = 30` for seconds, others for
//! milliseconds.

use std::time::Duration;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);
/// 24 hours.
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const GIB: usize = 1 << 30;

/// The form of a duration, for error messages.
pub(super) const DURATION: &str = r#"a duration such as "30s", "5m", "24h" or "90d""#;
/// The form of a size, for error messages.
pub(super) const SIZE: &str = r#"a size such as "64KiB" or "1MiB""#;

/// Units of time in milliseconds, largest first. A day is 24 hours.
const TIME_UNITS: [(&str, u64); 6] = [
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Units of size in bytes, largest first.
const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads `30s`, `1h30m`, `250ms`: whole numbers with units, each unit at most once, larger ones
/// first.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    parse_units(text, &TIME_UNITS).map(Duration::from_millis)
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest unit that is exact.
pub(super) fn print_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // Weeks are read but not written: 90d is easier to compare than 12w6d.
    let units = &TIME_UNITS[1..];
    units.iter().find(|(_, unit)| millis > 0 && millis % unit == 0).map_or_else(
        || format!("{}s", millis / 1_000),
        |(name, unit)| format!("{}{name}", millis / unit),
    )
}

/// Reads `64KiB`, `1MiB`, `512B`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse_units(text, &SIZE_UNITS)
}

/// Writes a size so that [`parse_size`] reads it back.
pub(super) fn print_size(bytes: u64) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn parse_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    let mut next_unit = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let index =
            units.iter().position(|(name, _)| *name == unit).filter(|index| *index >= next_unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(units[index].1)?)?;
        next_unit = index + 1;
        rest = tail.trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units_only() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("250ms", Some(250)),
            ("5m", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("90d", Some(90 * 86_400_000)),
            ("2w", Some(14 * 86_400_000)),
            ("1h30m", Some(5_400_000)),
            (" 1h 30 m ", Some(5_400_000)),
            ("0s", Some(0)),
            ("30", None),
            ("", None),
            (" ", None),
            ("s", None),
            ("5 parsecs", None),
            ("1.5h", None),
            ("-5s", None),
            ("30m1h", None),
            ("1s1s", None),
            ("1M", None),
            ("5µs", None),
            ("99999999999999999999s", None),
            ("9999999999999999w", None),
        ] {
            assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn durations_print_as_they_are_read() {
        for text in ["0s", "20ms", "1500ms", "30s", "90s", "5m", "24d", "90d", "36h"] {
            assert_eq!(print_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(print_duration(parse_duration("2w").unwrap()), "14d");
    }

    #[test]
    fn sizes_are_binary_and_say_so() {
        for (text, bytes) in [
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("512B", Some(512)),
            ("1 GiB", Some(1 << 30)),
            ("64KB", None),
            ("64k", None),
            ("64", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
        for text in ["0B", "64KiB", "1MiB", "1536B", "3GiB"] {
            assert_eq!(print_size(parse_size(text).unwrap()), text);
        }
    }
}
