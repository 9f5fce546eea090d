//! The fields of a cron line: what may stand in each, read into numbers.

use crate::config::read::quote;

/// One field of a cron line.
pub(super) struct Field {
    pub name: &'static str,
    min: u32,
    max: u32,
    /// Names, counted from `min`.
    names: &'static [&'static str],
}

/// In the order of a line with six.
pub(super) const FIELDS: [Field; 6] = [
    Field { name: "second", min: 0, max: 59, names: &[] },
    Field { name: "minute", min: 0, max: 59, names: &[] },
    Field { name: "hour", min: 0, max: 23, names: &[] },
    Field { name: "day", min: 1, max: 31, names: &[] },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &[
            "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
        ],
    },
    // Both 0 and 7 are Sunday.
    Field {
        name: "weekday",
        min: 0,
        max: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"],
    },
];

/// The numbers that a field holds, one bit each.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn contains(&self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }

    pub(super) fn print(&self) -> String {
        (0..64)
            .filter(|number| self.contains(*number))
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl Field {
    /// Reads a field's text.
    ///
    /// # Errors
    /// Names the field, and says what is wanted there.
    pub(super) fn parse(&self, text: &str) -> Result<Numbers, String> {
        let mut bits = 0;
        for item in text.split(',') {
            for number in self.item(item).ok_or_else(|| self.wanted(text))? {
                let number = if self.name == "weekday" { number % 7 } else { number };
                bits |= 1 << number;
            }
        }
        Ok(Numbers(bits))
    }

    /// `*`, `5`, `1-5`, each of the first and the last with an optional step; `5/10` is refused, since
    /// some read it as "5" and others as "5, 15, 25 …".
    fn item(&self, item: &str) -> Option<impl Iterator<Item = u32> + use<>> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.min, if self.name == "weekday" { 6 } else { self.max }),
            Some((first, last)) => {
                let first = self.number(first)?;
                // `FRI-SUN` ends with the seventh day, not before it began.
                let last = self
                    .number(last)
                    .map(|last| if last == 0 && first > 0 && self.max == 7 { 7 } else { last })?;
                (first, last)
            }
            None if step.is_none() => (self.number(range)?, self.number(range)?),
            None => return None,
        };
        let step = step.unwrap_or(1);
        if first > last || step == 0 || step > self.max {
            return None;
        }
        Some((first..=last).step_by(step as usize))
    }

    fn number(&self, text: &str) -> Option<u32> {
        if let Some(index) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Some(self.min + u32::try_from(index).ok()?);
        }
        number(text).filter(|number| (self.min..=self.max).contains(number))
    }

    fn wanted(&self, text: &str) -> String {
        let names = match self.names {
            [first, .., _] => format!(" or {first} … by name"),
            _ => String::new(),
        };
        let (name, min, max) = (self.name, self.min, self.max);
        let text = quote(text);
        format!(
            "in the field {name} ({text}) numbers from {min} to {max}{names}, as \"*\", \"{max}\", \"{min}-{max}\", \"*/2\" or a list"
        )
    }
}

fn number(text: &str) -> Option<u32> {
    // Up to two digits: parse() would also take a sign.
    (matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}
