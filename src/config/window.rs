//! Stretches of wall-clock time in which runs may begin, or must not, as text that was checked.
//!
//! A window is days, times, or days and then times:
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
//! begin run over midnight and belong to the day on which they begin: `Fri 22:00-06:00` holds until
//! six on Saturday.
//!
//! **Where clocks change**, what the wall clock shows decides, and nothing else. `02:00-03:00` never
//! holds on a day on which clocks go from 02:00 to 03:00, and holds for two hours on a day on which
//! they go back from 03:00 to 02:00. Whoever needs a stretch of a certain length keeps it clear of
//! the hours at which clocks change.

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, Days, NaiveDate, Timelike, Utc, Weekday};

use super::Zone;
use super::problem::nearest;
use super::read::quote;

/// What a window looks like, for error texts.
pub(super) const WINDOW: &str = r#"a window such as "22:00-06:00", "Sat,Sun", "Mon-Fri 22:00-06:00", "2026-12-24..2027-01-02" or "12-24 08:00-18:00""#;

const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const MINUTES_OF_DAY: u32 = 24 * 60;

/// A leap year: every date that comes in some year exists in it.
const LEAP_YEAR: i32 = 2024;

/// Windows of which any one is enough. With none of them, no moment is inside.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Windows(Vec<Window>);

/// One window: on which days, and at which times of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    text: String,
    days: On,
    times: Times,
}

/// The days on which a window begins.
#[derive(Debug, Clone, PartialEq)]
enum On {
    EveryDay,
    /// By number of days from Monday.
    Weekdays([bool; 7]),
    /// Both included.
    Dates(NaiveDate, NaiveDate),
    /// Month and day, both included; over New Year where the last is before the first.
    Yearly((u32, u32), (u32, u32)),
}

/// In minutes of the day; over midnight where the end is before the begin.
#[derive(Debug, Clone, PartialEq)]
struct Times {
    begin: u32,
    end: u32,
}

impl Windows {
    /// Checks the text of one window.
    ///
    /// # Errors
    /// Says which part is wrong, and what is wanted there.
    pub fn parse_one(text: &str) -> Result<Window, String> {
        let text = text.trim();
        let (days, times) = match *text.split_whitespace().collect::<Vec<_>>() {
            [times] if times.contains(':') => (On::EveryDay, Times::parse(times)?),
            [days] => (On::parse(days)?, Times { begin: 0, end: MINUTES_OF_DAY }),
            [days, times] => (On::parse(days)?, Times::parse(times)?),
            _ => return Err(WINDOW.to_owned()),
        };
        Ok(Window { text: text.to_owned(), days, times })
    }

    /// Whether a moment is inside one of them, by the wall clock of a zone.
    pub fn contains(&self, at: DateTime<Utc>, tz: Zone) -> bool {
        self.0.iter().any(|window| window.contains(at, tz))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written, one text for each.
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
    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a moment is inside, by the wall clock of a zone.
    pub fn contains(&self, at: DateTime<Utc>, tz: Zone) -> bool {
        let reading = at.with_timezone(&tz).naive_local();
        let (day, minute) = (reading.date(), reading.num_seconds_from_midnight() / 60);
        let Times { begin, end } = self.times;
        if begin < end {
            return (begin..end).contains(&minute) && self.days.hold(day);
        }
        // What is left of a night belongs to the day before.
        (minute >= begin && self.days.hold(day))
            || (minute < end
                && day.checked_sub_days(Days::new(1)).is_some_and(|day| self.days.hold(day)))
    }
}

impl On {
    fn parse(text: &str) -> Result<On, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            On::dates(text)
        } else {
            On::weekdays(text)
        }
    }

    fn hold(&self, day: NaiveDate) -> bool {
        match self {
            On::EveryDay => true,
            On::Weekdays(held) => held[day.weekday().num_days_from_monday() as usize],
            On::Dates(first, last) => (first..=last).contains(&&day),
            On::Yearly(first, last) => {
                let day = (day.month(), day.day());
                if first <= last {
                    (*first..=*last).contains(&day)
                } else {
                    day >= *first || day <= *last
                }
            }
        }
    }

    fn weekdays(text: &str) -> Result<On, String> {
        let mut held = [false; 7];
        for item in text.split(',') {
            let (first, last) = match item.split_once('-') {
                Some((first, last)) => (weekday(first)?, weekday(last)?),
                None => (weekday(item)?, weekday(item)?),
            };
            if first == last && item.contains('-') {
                return Err(format!(
                    "in the weekdays ({}) two different ones around the \"-\"",
                    quote(item)
                ));
            }
            // `Fri-Mon` goes over Sunday.
            let mut day = first;
            while day != last {
                held[day.num_days_from_monday() as usize] = true;
                day = day.succ();
            }
            held[last.num_days_from_monday() as usize] = true;
        }
        Ok(On::Weekdays(held))
    }

    fn dates(text: &str) -> Result<On, String> {
        let (first, last) = match text.split_once("..") {
            Some((first, last)) => (date(first)?, date(last)?),
            None => (date(text)?, date(text)?),
        };
        match (first, last) {
            ((true, first), (true, last)) if first > last => Err(format!(
                "in the dates ({}) a last day that is not before the first",
                quote(text)
            )),
            ((true, first), (true, last)) => Ok(On::Dates(first, last)),
            ((false, first), (false, last)) => {
                Ok(On::Yearly((first.month(), first.day()), (last.month(), last.day())))
            }
            _ => Err(format!("in the dates ({}) both with a year or both without", quote(text))),
        }
    }
}

impl Times {
    fn parse(text: &str) -> Result<Times, String> {
        let Some((begin, end)) = text.split_once('-') else {
            return Err(format!(
                "in the times ({}) a begin and an end, as \"22:00-06:00\"",
                quote(text)
            ));
        };
        let (begin, end) = (minute(begin, MINUTES_OF_DAY - 1)?, minute(end, MINUTES_OF_DAY)?);
        if begin == end {
            let text = quote(text);
            return Err(format!(
                "in the times ({text}) an end that is not the begin; \"00:00-24:00\" is a whole day"
            ));
        }
        Ok(Times { begin, end })
    }
}

/// `Mon` or `Monday`, in any case. A number is refused: some count from Sunday, others from Monday.
fn weekday(text: &str) -> Result<Weekday, String> {
    text.parse().map_err(|_| {
        let near = nearest(text, WEEKDAYS.into_iter().flat_map(|name| [&name[..3], name]));
        let hint = near.map(|name| format!("; did you mean {}?", quote(name))).unwrap_or_default();
        format!(
            "in the weekdays ({}) names such as \"Mon\", \"Mon-Fri\" or \"Sat,Sun\"{hint}",
            quote(text)
        )
    })
}

/// `2026-12-24`, or `12-24` in a leap year that stands for all. Tells whether a year was named.
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
        let text = quote(text);
        format!("in the date ({text}) a day that exists, as \"2026-12-24\", or as \"12-24\" for every year")
    })
}

/// Minutes of the day up to the last that may stand here: `06:00`, also `6:00`.
fn minute(text: &str, last: u32) -> Result<u32, String> {
    let read = |(hour, minute)| {
        let minute = digits(minute, 2..=2).filter(|minute| *minute < 60)?;
        Some(digits(hour, 1..=2)? * 60 + minute).filter(|minute| *minute <= last)
    };
    text.split_once(':').and_then(read).ok_or_else(|| {
        let text = quote(text);
        format!(
            "in the time ({text}) hours from 00 to 23 and minutes from 00 to 59, as \"22:00\"; 24:00 only as an end"
        )
    })
}

/// Digits alone: parse() would also take a sign.
fn digits(text: &str, lengths: RangeInclusive<usize>) -> Option<u32> {
    (lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
