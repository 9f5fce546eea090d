//! The fields of a cron line, parsed into numbers.

use crate::config::read::in_part;

/// One field of a cron line.
pub(super) struct Field {
    pub name: &'static str,
    min: u32,
    max: u32,
    /// Names, counted from `min`.
    names: &'static [&'static str],
}

/// In the order of a line with six fields.
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

/// The numbers of a field, one bit each.
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
    /// Parses a field's text.
    ///
    /// # Errors
    /// The expected text, and in which field.
    pub(super) fn parse(&self, text: &str) -> Result<Numbers, String> {
        let mut bits = 0;
        for item in text.split(',') {
            for number in self.item(item).ok_or_else(|| self.expected(text))? {
                let number = if self.name == "weekday" { number % 7 } else { number };
                bits |= 1 << number;
            }
        }
        Ok(Numbers(bits))
    }

    /// Parses `*`, `5` or `1-5`; `*` and a range may have a step. `5/10` is refused, because some
    /// users read it as "5" and others as "5, 15, 25 …".
    fn item(&self, item: &str) -> Option<impl Iterator<Item = u32> + use<>> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step)?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.min, if self.name == "weekday" { 6 } else { self.max }),
            Some((first, last)) => {
                let first = self.number(first)?;
                // The Sunday of `FRI-SUN` is the seventh day, not the one before the first.
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

    fn expected(&self, text: &str) -> String {
        let names = self.names.first().map(|first| format!(" or names such as {first}"));
        let (names, min, max) = (names.unwrap_or_default(), self.min, self.max);
        let expected = format!(
            "numbers from {min} to {max}{names}, as \"*\", \"{max}\", \"{min}-{max}\", \"*/2\" \
             or a list"
        );
        in_part(expected, &format!("field {}", self.name), text)
    }
}

fn number(text: &str) -> Option<u32> {
    // Digits alone; `parse` would also take a sign.
    (matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}
