//! Cron lines drawn at random, with what they mean worked out from how they were drawn.

use std::collections::BTreeSet;

use chrono::{Datelike, NaiveDateTime, Timelike};
use fastrand::Rng;

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
/// Sunday begins the week, and ends it as the seventh day.
const WEEKDAYS: [&str; 8] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];

/// One field: its text, and the numbers that it names.
pub struct Field {
    pub text: String,
    pub numbers: BTreeSet<u32>,
}

/// A line of cron.
pub struct Cron {
    pub second: Field,
    pub minute: Field,
    pub hour: Field,
    pub day: Field,
    pub month: Field,
    pub weekday: Field,
    /// Whether the seconds are written.
    pub six: bool,
}

/// Which of day and weekday may be restricted.
#[derive(Clone, Copy, PartialEq)]
pub enum Days {
    Both,
    /// Not both in one line, where systemd wants both and cron either.
    One,
}

/// The numbers that a field may hold, and how they may be written.
struct Range {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Field {
    pub fn is_star(&self) -> bool {
        matches!(&*self.text, "*" | "*/1")
    }

    fn star() -> Field {
        Field { text: "*".to_owned(), numbers: BTreeSet::new() }
    }
}

impl Cron {
    /// Draws one that has to do with what the clock shows around `near`.
    pub fn draw(rng: &mut Rng, near: NaiveDateTime, six: bool, days: Days) -> Cron {
        loop {
            let cron = Cron::draw_any(rng, near, six, days);
            if cron.can_come() {
                return cron;
            }
        }
    }

    fn draw_any(rng: &mut Rng, near: NaiveDateTime, six: bool, days: Days) -> Cron {
        let sixtieth = Range { min: 0, max: 59, names: &[] };
        let hours = Range { min: 0, max: 23, names: &[] };
        let month_days = Range { min: 1, max: 31, names: &[] };
        let months = Range { min: 1, max: 12, names: &MONTHS };
        let weekdays = Range { min: 0, max: 6, names: &WEEKDAYS };
        let beside = |rng: &mut Rng, range: &Range, value: u32, reach: u32| {
            let count = range.max - range.min + 1;
            (value - range.min + count + rng.u32(0..=2 * reach) - reach) % count + range.min
        };
        let second = match (six, rng.u8(0..3)) {
            (false, _) => Field { text: String::new(), numbers: BTreeSet::from([0]) },
            (true, 0) => sixtieth.star(),
            (true, _) => sixtieth.draw(rng, None),
        };
        let minute = if rng.u8(0..6) == 0 { sixtieth.star() } else { sixtieth.draw(rng, None) };
        let hour = match rng.u8(0..8) {
            0 | 1 => hours.star(),
            2 => Field { text: "0-23".to_owned(), ..hours.star() },
            _ => {
                let hour = beside(rng, &hours, near.hour(), 2);
                hours.draw(rng, Some(hour))
            }
        };
        let (mut by_day, by_weekday) = (rng.u8(0..4) == 0, rng.u8(0..4) == 0);
        by_day &= !(by_weekday && days == Days::One);
        let day = beside(rng, &month_days, near.day(), 1);
        let weekday = beside(rng, &weekdays, near.weekday().num_days_from_sunday(), 1);
        Cron {
            second,
            minute,
            hour,
            day: if by_day { month_days.draw(rng, Some(day)) } else { month_days.star() },
            month: if rng.u8(0..5) == 0 {
                months.draw(rng, Some(near.month()))
            } else {
                months.star()
            },
            weekday: if by_weekday { weekdays.draw(rng, Some(weekday)) } else { weekdays.star() },
            six,
        }
    }

    /// Not on a February 30th.
    fn can_come(&self) -> bool {
        let longest = |month: &u32| match month {
            2 => 29,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let earliest = self.day.numbers.first().unwrap();
        self.month.numbers.iter().any(|month| *earliest <= longest(month))
    }

    /// The line.
    pub fn text(&self) -> String {
        let fields =
            [&self.second, &self.minute, &self.hour, &self.day, &self.month, &self.weekday];
        let fields: Vec<&str> =
            fields.into_iter().skip(usize::from(!self.six)).map(|field| &*field.text).collect();
        fields.join(" ")
    }

    /// Whether the line names what a clock shows.
    pub fn names(&self, reading: NaiveDateTime) -> bool {
        let day = self.day.numbers.contains(&reading.day());
        let weekday = self.weekday.numbers.contains(&reading.weekday().num_days_from_sunday());
        // Restricted both, either is enough; a star names every day.
        let on_day = if self.day.is_star() || self.weekday.is_star() {
            day && weekday
        } else {
            day || weekday
        };
        on_day
            && self.second.numbers.contains(&reading.second())
            && self.minute.numbers.contains(&reading.minute())
            && self.hour.numbers.contains(&reading.hour())
            && self.month.numbers.contains(&reading.month())
    }

    /// Whether it fires in every hour.
    pub fn every_hour(&self) -> bool {
        self.hour.numbers.len() == 24
    }
}

impl Range {
    fn star(&self) -> Field {
        Field { numbers: (self.min..=self.max).collect(), ..Field::star() }
    }

    /// One to three items, the first of which holds `held`.
    fn draw(&self, rng: &mut Rng, held: Option<u32>) -> Field {
        let held = held.unwrap_or_else(|| rng.u32(self.min..=self.max));
        let (mut items, mut numbers) = (Vec::new(), BTreeSet::new());
        for index in 0..rng.u8(1..=3) {
            let number = if index == 0 { held } else { rng.u32(self.min..=self.max) };
            let (text, named) = self.item(rng, number);
            items.push(text);
            numbers.extend(
                named.into_iter().map(|number| if self.is_week() { number % 7 } else { number }),
            );
        }
        Field { text: items.join(","), numbers }
    }

    fn item(&self, rng: &mut Rng, held: u32) -> (String, Vec<u32>) {
        let step = rng.u32(2..=self.max / 2);
        // What begins with Sunday does not end with it.
        let last = rng.u32(held..=if self.is_week() && held > 0 { 7 } else { self.max });
        match rng.u8(0..5) {
            0 | 1 => {
                let written = if self.is_week() && held == 0 && rng.bool() { 7 } else { held };
                (self.write(rng, written), vec![held])
            }
            2 => (
                format!("{}-{}", self.write(rng, held), self.write(rng, last)),
                (held..=last).collect(),
            ),
            3 => {
                let text = format!("{}-{}/{step}", self.write(rng, held), self.write(rng, last));
                (
                    text,
                    (held..=last).filter(|number| (number - held).is_multiple_of(step)).collect(),
                )
            }
            _ => {
                let all =
                    (self.min..=self.max).filter(|number| (number - self.min).is_multiple_of(step));
                (format!("*/{step}"), all.collect())
            }
        }
    }

    fn is_week(&self) -> bool {
        self.names == WEEKDAYS
    }

    fn write(&self, rng: &mut Rng, number: u32) -> String {
        match self.names.get((number - self.min) as usize) {
            Some(name) if rng.bool() => {
                if rng.bool() {
                    (*name).to_owned()
                } else {
                    name.to_ascii_lowercase()
                }
            }
            _ if number < 10 && rng.u8(0..4) == 0 => format!("0{number}"),
            _ => number.to_string(),
        }
    }
}
