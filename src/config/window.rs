//! Windows of wall-clock time in which runs may begin, or must not.
//!
//! The text of a window is days, times, or days and then times:
//!
//! ```text
//! 22:00-06:00                          every day
//! Mon-Fri 22:00-06:00                  by weekday; also "Sat,Sun", and "Sun" for the whole day
//! 2026-12-24..2027-01-02               by date, both days included; also one date
//! 12-24..01-02                         the same days every year
//! 2026-12-24..2026-12-26 08:00-18:00   these hours of each of these days
//! ```
//!
//! The begin of the times belongs to the window, the end does not. Times whose end is before their
//! begin go past midnight and belong to the day on which they begin: `Fri 22:00-06:00` ends at six
//! on Saturday.
//!
//! **Where clocks change**, only the reading of the wall clock decides. `02:00-03:00` is never open
//! on a day on which clocks go from 02:00 to 03:00, and is open for two hours on a day on which
//! they go back from 03:00 to 02:00. A window that must have a certain length has to avoid the
//! hours at which clocks change.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc, Weekday};

use super::Zone;
use super::problem::nearest;
use super::read::in_part;

/// The form of a window, for error messages.
const WINDOW: &str = "a window such as \"22:00-06:00\", \"Sat,Sun\", \"Mon-Fri 22:00-06:00\", \
                      \"2026-12-24..2027-01-02\" or \"12-24 08:00-18:00\"";

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const MINUTES_OF_DAY: u32 = 24 * 60;

/// A leap year: it has every date that any year has.
const LEAP_YEAR: i32 = 2024;

/// Windows of which one is enough. If there is none, no instant is inside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows(Vec<Window>);

/// One window.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    text: String,
    days: DaySet,
    times: Times,
}

/// The days on which a window begins.
#[derive(Debug, Clone, PartialEq)]
enum DaySet {
    EveryDay,
    /// Indexed by the number of days from Monday.
    Weekdays([bool; 7]),
    /// Both included.
    Dates(NaiveDate, NaiveDate),
    /// Month and day, both included; past New Year if the last is before the first.
    Yearly((u32, u32), (u32, u32)),
}

/// In minutes of the day; past midnight if the end is before the begin.
#[derive(Debug, Clone, PartialEq)]
struct Times {
    begin: u32,
    end: u32,
}

impl Windows {
    /// Parses the text of one window.
    ///
    /// # Errors
    /// The expected text, and in which part.
    pub fn parse_one(text: &str) -> Result<Window, String> {
        let text = text.trim();
        let (days, times) = match *text.split_whitespace().collect::<Vec<_>>() {
            [times] if times.contains(':') => (DaySet::EveryDay, Times::parse(times)?),
            [days] => (DaySet::parse(days)?, Times { begin: 0, end: MINUTES_OF_DAY }),
            [days, times] => (DaySet::parse(days)?, Times::parse(times)?),
            _ => return Err(WINDOW.to_owned()),
        };
        Ok(Window { text: text.to_owned(), days, times })
    }

    /// Whether an instant is inside one of them, by the wall clock of a zone.
    pub fn contains(&self, at: DateTime<Utc>, tz: Zone) -> bool {
        self.0.iter().any(|window| window.contains(at, tz))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts of the windows.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(Window::text)
    }
}

impl FromIterator<Window> for Windows {
    fn from_iter<I: IntoIterator<Item = Window>>(windows: I) -> Windows {
        Windows(windows.into_iter().collect())
    }
}

impl Window {
    /// The text of the window.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether an instant is inside, by the wall clock of a zone.
    pub fn contains(&self, at: DateTime<Utc>, tz: Zone) -> bool {
        let reading = at.with_timezone(&tz).naive_local();
        let (day, minute) = (reading.date(), reading.num_seconds_from_midnight() / 60);
        let Times { begin, end } = self.times;
        if begin < end {
            return (begin..end).contains(&minute) && self.days.hold(day);
        }
        // The rest of a night belongs to the day before.
        let began = if minute >= begin { Some(day) } else { day.pred_opt() };
        (minute >= begin || minute < end) && began.is_some_and(|day| self.days.hold(day))
    }
}

impl DaySet {
    fn parse(text: &str) -> Result<DaySet, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            DaySet::dates(text)
        } else {
            DaySet::weekdays(text)
        }
    }

    fn hold(&self, day: NaiveDate) -> bool {
        match self {
            DaySet::EveryDay => true,
            DaySet::Weekdays(held) => held[day.weekday().num_days_from_monday() as usize],
            DaySet::Dates(first, last) => (first..=last).contains(&&day),
            DaySet::Yearly(first, last) => {
                let day = (day.month(), day.day());
                if first <= last {
                    (*first..=*last).contains(&day)
                } else {
                    day >= *first || day <= *last
                }
            }
        }
    }

    fn weekdays(text: &str) -> Result<DaySet, String> {
        let mut held = [false; 7];
        for item in text.split(',') {
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (weekday(first)?, weekday(last)?),
                None => (weekday(item)?, weekday(item)?),
            };
            if first == last && item.contains('-') {
                let expected = "two different days around the \"-\"";
                return Err(in_part(expected, "weekdays", item));
            }
            // `Fri-Mon` goes over Sunday.
            let mut day = first;
            while day != last {
                held[day.num_days_from_monday() as usize] = true;
                day = day.succ();
            }
            held[last.num_days_from_monday() as usize] = true;
        }
        Ok(DaySet::Weekdays(held))
    }

    fn dates(text: &str) -> Result<DaySet, String> {
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (date(first)?, date(last)?),
            None => (date(text)?, date(text)?),
        };
        match (first, last) {
            ((true, first), (true, last)) if first > last => {
                Err(in_part("a last day that is not before the first", "dates", text))
            }
            ((true, first), (true, last)) => Ok(DaySet::Dates(first, last)),
            ((false, first), (false, last)) => {
                Ok(DaySet::Yearly((first.month(), first.day()), (last.month(), last.day())))
            }
            _ => Err(in_part("both days with a year or both without", "dates", text)),
        }
    }
}

impl Times {
    fn parse(text: &str) -> Result<Times, String> {
        let Some((begin, end)) = text.split_once('-') else {
            return Err(in_part("a begin and an end, as \"22:00-06:00\"", "times", text));
        };
        let (begin, end) = (minute(begin, MINUTES_OF_DAY - 1)?, minute(end, MINUTES_OF_DAY)?);
        if begin == end {
            let expected = "an end other than the begin, or \"00:00-24:00\" for a whole day";
            return Err(in_part(expected, "times", text));
        }
        Ok(Times { begin, end })
    }
}

/// Parses `Mon` or `Monday`, in any case. Numbers are refused, because some people count from
/// Sunday and others from Monday.
fn weekday(text: &str) -> Result<Weekday, String> {
    text.parse().map_err(|_| {
        let near = nearest(text, WEEKDAYS.into_iter().flat_map(|name| [&name[..3], name]));
        let expected = match near {
            Some(name) => format!("names such as {name:?}"),
            None => "names such as \"Mon\", \"Mon-Fri\" or \"Sat,Sun\"".to_owned(),
        };
        in_part(expected, "weekdays", text)
    })
}

/// Parses `2026-12-24`, or `12-24` as a day of a leap year. Returns whether a year was given.
fn date(text: &str) -> Result<(bool, NaiveDate), String> {
    let read = || match *text.split('-').collect::<Vec<_>>() {
        [year, month, day] => {
            let year = i32::try_from(digits(year, 4..=4)?).ok()?;
            Some((true, NaiveDate::from_ymd_opt(year, digits(month, 2..=2)?, digits(day, 2..=2)?)?))
        }
        [month, day] => Some((
            false,
            NaiveDate::from_ymd_opt(LEAP_YEAR, digits(month, 2..=2)?, digits(day, 2..=2)?)?,
        )),
        _ => None,
    };
    read().ok_or_else(|| {
        let expected = "a day that exists, as \"2026-12-24\", or as \"12-24\" for every year";
        in_part(expected, "date", text)
    })
}

/// Parses `06:00`, also `6:00`, as minutes of the day up to `last`.
fn minute(text: &str, last: u32) -> Result<u32, String> {
    let read = |(hour, minute)| {
        let minute = digits(minute, 2..=2).filter(|minute| *minute < 60)?;
        Some(digits(hour, 1..=2)? * 60 + minute).filter(|minute| *minute <= last)
    };
    text.split_once(':').and_then(read).ok_or_else(|| {
        let expected = "hours from 00 to 23 and minutes from 00 to 59, as \"22:00\" (24:00 only as \
                        an end)";
        in_part(expected, "time", text)
    })
}

/// Parses digits alone; `parse` would also take a sign.
fn digits(text: &str, lengths: RangeInclusive<usize>) -> Option<u32> {
    (lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
