//! Schedules: the instants at which a job is due.
//!
//! There are three forms: cron with five fields (`minute hour day month weekday`) or six (a field
//! of seconds before them), `@every 15s`, and the names `@hourly`, `@daily` (or `@midnight`),
//! `@weekly`,
//! `@monthly`, `@yearly`. Cron is Vixie's: `*`, numbers, names of months and weekdays, ranges,
//! lists and steps. If both day and weekday are restricted, either is enough. The text is checked
//! here, field by field, and passed on as bare numbers, because the errors of the cron crate name
//! no field and it takes more than most users expect (`L`, `W`, `#`, `?`, `+`).
//!
//! `schedule/wall.rs` converts readings of the wall clock to instants where clocks change.

mod fields;
mod wall;

use std::time::Duration;

use chrono::{DateTime, Utc};
use croner::parser::{CronParser, Seconds, Year};

use super::{Zone, value};
use fields::FIELDS;

/// The form of a schedule, for error messages.
pub(super) const SCHEDULE: &str = r#"a schedule such as "17 3 * * *", "@every 15s" or "@daily""#;

/// The scheduler wakes once a second.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A schedule: cron with five or six fields, or an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    text: String,
    kind: Kind,
    /// Whether the hour field holds every hour, so that the schedule follows elapsed time.
    every_hour: bool,
}

/// The meaning of a schedule.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// At a fixed interval, counted from the Unix epoch so that all instances agree.
    Every(Duration),
    /// By the wall clock of the job's time zone.
    Cron(Box<croner::Cron>),
}

impl Schedule {
    /// Parses a schedule.
    ///
    /// # Errors
    /// The expected text, and in which field.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        match text.strip_prefix('@') {
            Some(name) => Schedule::named(text, name),
            None => Schedule::cron(text, text),
        }
    }

    fn named(text: &str, name: &str) -> Result<Schedule, String> {
        if let Some(interval) =
            name.strip_prefix("every").filter(|rest| rest.starts_with(char::is_whitespace))
        {
            let interval = value::parse_duration(interval)
                .ok_or_else(|| format!("@every followed by {}", value::DURATION))?;
            if !(EVERY_MIN..=EVERY_MAX).contains(&interval) {
                return Err("@every with an interval from 1s to 366d".to_owned());
            }
            let (text, kind) = (text.to_owned(), Kind::Every(interval));
            return Ok(Schedule { text, kind, every_hour: true });
        }
        let expected =
            "@every <duration>, @hourly, @daily, @midnight, @weekly, @monthly or @yearly";
        let cron = match name {
            "hourly" => "0 * * * *",
            "daily" | "midnight" => "0 0 * * *",
            "weekly" => "0 0 * * 0",
            "monthly" => "0 0 1 * *",
            "yearly" | "annually" => "0 0 1 1 *",
            _ => return Err(expected.to_owned()),
        };
        Schedule::cron(text, cron)
    }

    fn cron(text: &str, fields: &str) -> Result<Schedule, String> {
        let mut fields: Vec<&str> = fields.split_whitespace().collect();
        match fields.len() {
            5 => fields.insert(0, "0"),
            6 => {}
            0 => return Err(SCHEDULE.to_owned()),
            count => {
                return Err(format!(
                    "five fields (minute hour day month weekday) or six (second first), not \
                     {count}; or @every, @daily …"
                ));
            }
        }
        let mut numbers = Vec::with_capacity(6);
        let mut every_hour = false;
        for (field, text) in FIELDS.iter().zip(&fields) {
            let values = field.parse(text)?;
            if field.name == "hour" {
                every_hour = (0..24).all(|hour| values.contains(hour));
            }
            // A star stays one, because for days and weekdays it means "not restricted".
            let star = matches!(*text, "*" | "*/1");
            numbers.push(if star { "*".to_owned() } else { values.print() });
        }
        let parser =
            CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build();
        let cron =
            parser.parse(&numbers.join(" ")).map_err(|error| format!("{SCHEDULE} ({error})"))?;
        if wall::next_on_the_wall(&cron, DateTime::UNIX_EPOCH.naive_utc()).is_none() {
            return Err("a day that exists in one of the months".to_owned());
        }
        Ok(Schedule { text: text.to_owned(), kind: Kind::Cron(Box::new(cron)), every_hour })
    }

    /// The text of the schedule.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its meaning.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The first instant after `after` at which this is due; `None` only near the end of time.
    ///
    /// Intervals ignore the zone. Cron goes by the wall clock there. Where clocks change:
    /// - a schedule that names hours fires once at the end of a gap for all readings in the gap,
    ///   and at
    ///   the first of two equal readings;
    /// - a schedule that fires in every hour fires whenever the clock shows one of its readings, so
    ///   that it fires in both of two repeated hours, and not at all for a skipped one.
    pub fn next_after(&self, after: DateTime<Utc>, tz: Zone) -> Option<DateTime<Utc>> {
        match &self.kind {
            Kind::Every(interval) => {
                let interval = i64::try_from(interval.as_millis()).ok()?;
                let passed = after.timestamp_millis().div_euclid(interval);
                DateTime::from_timestamp_millis(passed.checked_add(1)?.checked_mul(interval)?)
            }
            Kind::Cron(cron) if self.every_hour => wall::next_elapsed(cron, after, tz),
            Kind::Cron(cron) => wall::next_fixed(cron, after, tz),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_accepted() {
        for text in [
            "* * * * *",
            "*/15 * * * *",
            "17 3 * * *",
            "0 17 3 * * *",
            "0 9-17 * * MON-FRI",
            "0 9-17/2 1,15 jan,jul *",
            "0 0 * * fri-sun",
            "0 0 * * 7",
            "0 0 29 2 *",
            "00 03 * * *",
            "  5   4  * * * ",
            "@every 15s",
            "@every 1h30m",
            "@hourly",
            "@daily",
            "@midnight",
            "@weekly",
            "@monthly",
            "@yearly",
        ] {
            let schedule = Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(schedule.text(), text.trim());
        }
    }

    #[test]
    fn refusals_name_the_field() {
        for (text, expected) in [
            (
                "61 * * * *",
                r#"numbers from 0 to 59, as "*", "59", "0-59", "*/2" or a list, in the field minute ("61")"#,
            ),
            (
                "* 24 * * *",
                "numbers from 0 to 23, as \"*\", \"23\", \"0-23\", \"*/2\" or a list, in the \
                 field hour (\"24\")",
            ),
            ("* * 0 * *", "or a list, in the field day (\"0\")"),
            ("* * * 13 *", "numbers from 1 to 12 or names such as JAN, as \"*\""),
            (
                "* * * * MOON",
                "numbers from 0 to 7 or names such as SUN, as \"*\", \"7\", \"0-7\", \"*/2\" or \
                 a list, in the field weekday (\"MOON\")",
            ),
            ("60 * * * * *", "in the field second (\"60\")"),
            ("5/10 * * * *", "in the field minute (\"5/10\")"),
            ("*/60 * * * *", "in the field minute (\"*/60\")"),
            ("*/0 * * * *", "in the field minute (\"*/0\")"),
            ("30-10 * * * *", "in the field minute (\"30-10\")"),
            ("1,,2 * * * *", "in the field minute (\"1,,2\")"),
            ("+5 * * * *", "in the field minute (\"+5\")"),
            ("-5 * * * *", "in the field minute (\"-5\")"),
            ("* * L * *", "in the field day (\"L\")"),
            ("* * 15W * *", "in the field day (\"15W\")"),
            ("* * ? * *", "in the field day (\"?\")"),
            ("* * * * 5#3", "in the field weekday (\"5#3\")"),
            ("* * * * +1", "in the field weekday (\"+1\")"),
            ("0 0 30 2 *", "a day that exists in one of the months"),
            ("* * * *", "five fields (minute hour day month weekday) or six (second first), not 4"),
            ("* * * * * * 2030", "or six (second first), not 7"),
            ("", "a schedule such as"),
            ("@every 500ms", "@every with an interval from 1s to 366d"),
            ("@every 400d", "@every with an interval from 1s to 366d"),
            ("@every 15", "@every followed by a duration such as"),
            ("@every", "@every <duration>, @hourly"),
            ("@every15s", "@every <duration>, @hourly"),
            ("@fortnightly", "@every <duration>, @hourly"),
            ("@reboot", "@every <duration>, @hourly"),
        ] {
            let error = Schedule::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn days_and_weekdays_restrict_as_in_cron() {
        let next = |text: &str, after: &str| {
            let after: DateTime<Utc> = after.parse().unwrap();
            Schedule::parse(text)
                .unwrap()
                .next_after(after, Zone::UTC)
                .unwrap()
                .format("%F %T %a")
                .to_string()
        };
        // The 13th or a Friday, whichever comes first.
        assert_eq!(next("0 0 13 * FRI", "2026-05-08T00:00:00Z"), "2026-05-13 00:00:00 Wed");
        assert_eq!(next("0 0 13 * FRI", "2026-05-13T00:00:00Z"), "2026-05-15 00:00:00 Fri");
        assert_eq!(next("0 0 * * 5", "2026-05-13T00:00:00Z"), "2026-05-15 00:00:00 Fri");
        assert_eq!(next("0 0 */1 * FRI", "2026-05-13T00:00:00Z"), "2026-05-15 00:00:00 Fri");
        assert_eq!(next("0 0 * * SAT-SUN", "2026-05-16T00:00:00Z"), "2026-05-17 00:00:00 Sun");
        assert_eq!(next("0 0 * * 0", "2026-05-16T00:00:00Z"), "2026-05-17 00:00:00 Sun");
        assert_eq!(next("0 0 * * */2", "2026-05-16T00:00:00Z"), "2026-05-17 00:00:00 Sun");
        assert_eq!(next("0 0 29 2 *", "2026-05-16T00:00:00Z"), "2028-02-29 00:00:00 Tue");
        assert_eq!(next("10,20-22 * * * * *", "2026-05-16T00:00:20Z"), "2026-05-16 00:00:21 Sat");
        assert_eq!(next("@weekly", "2026-05-16T00:00:00Z"), "2026-05-17 00:00:00 Sun");
        assert_eq!(next("@yearly", "2026-05-16T00:00:00Z"), "2027-01-01 00:00:00 Fri");
    }

    #[test]
    fn intervals_count_from_the_epoch_in_every_zone() {
        let after: DateTime<Utc> = "2026-05-16T00:00:07.250Z".parse().unwrap();
        for tz in [Zone::UTC, Zone::named("Australia/Lord_Howe").unwrap()] {
            let next = |text: &str, after| {
                Schedule::parse(text).unwrap().next_after(after, tz).unwrap().to_rfc3339()
            };
            assert_eq!(next("@every 15s", after), "2026-05-16T00:00:15+00:00");
            assert_eq!(
                next("@every 15s", "2026-05-16T00:00:15Z".parse().unwrap()),
                "2026-05-16T00:00:30+00:00"
            );
            assert_eq!(next("@every 1500ms", after), "2026-05-16T00:00:07.500+00:00");
            assert_eq!(
                next("@every 15s", "1969-12-31T23:59:59Z".parse().unwrap()),
                "1970-01-01T00:00:00+00:00"
            );
        }
    }
}
