//! A moment as people say it: an instant, a date, or how long ago.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::audit_query::{EARLIEST, LATEST};

const WANTED: &str = "wanted an instant such as 2026-11-27T09:30:00Z, a date such as 2026-11-27, or an age such as 2h";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeArg {
    At(DateTime<Utc>),
    Ago(TimeDelta),
}

impl TimeArg {
    /// Reads one.
    ///
    /// # Errors
    /// What was found, and what is wanted.
    pub fn parse(text: &str) -> Result<TimeArg, String> {
        let found = instant(text)
            .or_else(|| date(text))
            .map(TimeArg::At)
            .or_else(|| age(text).map(TimeArg::Ago));
        match found {
            Some(TimeArg::At(at)) if !(EARLIEST..LATEST).contains(&at) => {
                Err(format!("found {text:?}, wanted a year from 1 to 9999"))
            }
            Some(moment) => Ok(moment),
            None => Err(format!("found {text:?}, {WANTED}")),
        }
    }

    /// The instant, by a clock that says `now`. Ages that reach beyond the first year end there.
    pub fn resolve(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            TimeArg::At(at) => at,
            TimeArg::Ago(age) => {
                now.checked_sub_signed(age).map_or(EARLIEST, |at| at.max(EARLIEST))
            }
        }
    }
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

fn date(text: &str) -> Option<DateTime<Utc>> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_time(NaiveTime::MIN).and_utc())
}

fn age(text: &str) -> Option<TimeDelta> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let number = number.parse::<i64>().ok().filter(|_| digits)?;
    TimeDelta::try_seconds(number.checked_mul(seconds)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_three_forms() {
        let now: DateTime<Utc> = "2026-11-27T12:00:00Z".parse().unwrap();
        for (text, at) in [
            ("2026-11-27T09:30:00Z", "2026-11-27T09:30:00Z"),
            ("2026-11-27T09:30:00.123456+02:00", "2026-11-27T07:30:00.123456Z"),
            ("2026-11-27", "2026-11-27T00:00:00Z"),
            ("0001-01-01", "0001-01-01T00:00:00Z"),
            ("0s", "2026-11-27T12:00:00Z"),
            ("90s", "2026-11-27T11:58:30Z"),
            ("15m", "2026-11-27T11:45:00Z"),
            ("2h", "2026-11-27T10:00:00Z"),
            ("30d", "2026-10-28T12:00:00Z"),
            ("4w", "2026-10-30T12:00:00Z"),
            ("999999999d", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(
                TimeArg::parse(text).map(|moment| moment.resolve(now)),
                Ok(at.parse().unwrap()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "h",
            "2",
            "2 h",
            "-2h",
            "+2h",
            "1.5h",
            "2y",
            "2µ",
            "yesterday",
            "2026-02-30",
            "2026-11",
            "2026-11-27T09:30:00",
            "2026-11-27 09:30",
            "0000-01-01",
            "10000-01-01",
            "9999-12-31T23:59:59-01:00",
            "99999999999999999999d",
            "9223372036854775807w",
        ] {
            let refused = TimeArg::parse(text);
            assert!(
                refused.as_ref().is_err_and(|why| why.contains("found") && why.contains("wanted")),
                "{refused:?}"
            );
        }
    }
}
