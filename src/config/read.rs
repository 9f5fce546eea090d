//! Reading a table key by key: each by its type, with its bounds, and with every problem collected.
//!
//! A reader asks for keys by name and always gets a value: the one that was said, or the default
//! when nothing or nothing usable was said. What it asks for is thereby known; what stands in the
//! table and was never asked for is an unknown key. Lists, paths and secrets are in [`forms`].

mod forms;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use super::problem::{Origin, Problem, nearest};
use super::tree::{Node, Table, Value};
use super::value;

/// What reading found out, beside the values.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub problems: RefCell<Vec<Problem>>,
    /// The path of every key that was asked for.
    pub known: RefCell<BTreeSet<String>>,
}

/// One table being read.
pub(super) struct Section<'a> {
    report: &'a Report,
    /// `jobs.health-probe`; empty for the root.
    path: String,
    table: Option<&'a Table>,
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    /// Reads the whole tree.
    pub(super) fn root<T>(
        tree: &'a Node,
        report: &'a Report,
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        Section::read(report, String::new(), tree.as_table(), read)
    }

    fn read<T>(
        report: &'a Report,
        path: String,
        table: Option<&'a Table>,
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let section = Section { report, path, table, known: RefCell::default() };
        let value = read(&section);
        section.report_unknown();
        value
    }

    /// Reads a table under this one. It is read also where it is missing, so that its keys are known.
    pub(super) fn section<T>(&self, key: &str, read: impl FnOnce(&Section<'a>) -> T) -> T {
        let table = self.child(key).and_then(|node| match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.wrong(node, key, describe(node, self.tells_secrets(key)), "a table");
                None
            }
        });
        Section::read(self.report, self.path_of(key), table, read)
    }

    /// Whether something is said for a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Whether this table itself is there.
    pub(super) fn exists(&self) -> bool {
        self.table.is_some()
    }

    /// The names in this table, for tables whose keys are the user's.
    pub(super) fn names(&self) -> impl Iterator<Item = (&'a str, &'a Origin)> + use<'a> {
        self.table.into_iter().flatten().map(|(name, node)| (name.as_str(), &node.origin))
    }

    /// The tables in this one that were not asked for by name: the user's own.
    pub(super) fn own_tables(&self) -> Vec<(&'a str, &'a Origin)> {
        let known = self.known.borrow();
        let table = self.table.into_iter().flatten();
        table
            .filter(|(name, node)| matches!(node.value, Value::Table(_)) && !known.contains(name))
            .map(|(name, node)| (name.as_str(), &node.origin))
            .collect()
    }

    /// `section.key`, with names that hold dots in quotes.
    pub(super) fn path_of(&self, key: &str) -> String {
        let key = if key.contains('.') { format!("{key:?}") } else { key.to_owned() };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Adds a problem with a key of this table.
    pub(super) fn problem(
        &self,
        origin: &Origin,
        key: &str,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) {
        self.push(Problem::new(origin.clone(), self.path_of(key), found, wanted));
    }

    /// The same, with what was probably meant.
    pub(super) fn meant(&self, origin: &Origin, key: &str, found: &str, fault: Fault) {
        let problem = Problem::new(origin.clone(), self.path_of(key), found, fault.wanted);
        self.push(problem.meant(fault.did_you_mean));
    }

    fn push(&self, problem: Problem) {
        self.report.problems.borrow_mut().push(problem);
    }

    fn wrong(&self, node: &Node, key: &str, found: impl Into<String>, wanted: impl Into<String>) {
        self.problem(&node.origin, key, found, wanted);
    }

    /// Notes that a key is known, and finds what is said for it.
    fn get(&self, key: &str) -> Option<&'a Node> {
        self.report.known.borrow_mut().insert(self.path_of(key));
        self.child(key)
    }

    fn child(&self, key: &str) -> Option<&'a Node> {
        self.known.borrow_mut().push(key.to_owned());
        self.table?.get(key)
    }

    fn report_unknown(&self) {
        let known = self.known.borrow();
        for (key, node) in self.table.into_iter().flatten().filter(|(key, _)| !known.contains(key))
        {
            let meant =
                nearest(key, known.iter().map(String::as_str)).map(|near| match &node.origin {
                    Origin::Environment(_) => variable_of(&self.path_of(near)),
                    _ => near.to_owned(),
                });
            let wanted = format!("one of {}", known.join(", "));
            self.push(
                Problem::new(node.origin.clone(), self.path_of(key), "an unknown key", wanted)
                    .meant(meant),
            );
        }
    }

    /// Keys whose text is shown to nobody, whatever is wrong with it.
    fn tells_secrets(&self, key: &str) -> bool {
        ["url", "password", "_key", "command", "secret"].iter().any(|part| key.contains(part))
    }

    /// Reads a key with `parse`; reports what does not parse as wanting `wanted`.
    pub(super) fn value<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let value = parse(&node.value);
        if value.is_none() {
            self.wrong(node, key, describe(node, self.tells_secrets(key)), wanted);
        }
        value
    }

    /// Reads a key whose text is checked by `parse`, which says itself what it found and what it wants.
    pub(super) fn checked<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let Some(text) = text(&node.value) else {
            self.wrong(node, key, describe(node, self.tells_secrets(key)), wanted);
            return None;
        };
        match parse(text) {
            Ok(value) => Some(value),
            Err(fault) => {
                let found = fault.found.unwrap_or_else(|| describe(node, self.tells_secrets(key)));
                let problem =
                    Problem::new(node.origin.clone(), self.path_of(key), found, fault.wanted);
                self.push(problem.meant(fault.did_you_mean));
                None
            }
        }
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> bool {
        self.value(key, "true or false", |value| match value {
            Value::Boolean(flag) => Some(*flag),
            Value::Loose(text) => parse_boolean(text),
            _ => None,
        })
        .unwrap_or(default)
    }

    /// A whole number within bounds, both included.
    pub(super) fn integer<T: TryFrom<i64>>(&self, key: &str, default: T, min: i64, max: i64) -> T {
        self.value(key, &format!("a whole number from {min} to {max}"), |value| {
            let number = match value {
                Value::Integer(number) => *number,
                Value::Loose(text) => text.trim().parse().ok()?,
                _ => return None,
            };
            if (min..=max).contains(&number) { T::try_from(number).ok() } else { None }
        })
        .unwrap_or(default)
    }

    /// A share, within bounds, both included.
    pub(super) fn ratio(&self, key: &str, default: f64, min: f64, max: f64) -> f64 {
        self.value(key, &format!("a number from {min} to {max}"), |value| {
            let number = match value {
                Value::Float(number) => *number,
                // Only 0 and 1 can be meant, the bounds see to the rest.
                Value::Integer(number) => *number as f64,
                Value::Loose(text) => text.trim().parse().ok()?,
                _ => return None,
            };
            (min..=max).contains(&number).then_some(number)
        })
        .unwrap_or(default)
    }

    /// A duration with a unit, within bounds such as `"5s"` and `"5m"`, both included.
    pub(super) fn duration(
        &self,
        key: &str,
        default: Duration,
        min: Duration,
        max: Duration,
    ) -> Duration {
        self.checked(key, value::DURATION, |text| {
            let duration =
                value::parse_duration(text).ok_or_else(|| Fault::wanted(value::DURATION))?;
            if (min..=max).contains(&duration) {
                return Ok(duration);
            }
            let (min, max) = (value::print_duration(min), value::print_duration(max));
            Err(Fault::wanted(format!("a duration from {min} to {max}")))
        })
        .unwrap_or(default)
    }

    /// A size with a unit, within bounds in bytes, both included.
    pub(super) fn size(&self, key: &str, default: usize, min: usize, max: usize) -> usize {
        self.checked(key, value::SIZE, |text| {
            let bytes = value::parse_size(text).ok_or_else(|| Fault::wanted(value::SIZE))?;
            let within = usize::try_from(bytes).ok().filter(|bytes| (min..=max).contains(bytes));
            let (min, max) = (value::print_size(min as u64), value::print_size(max as u64));
            within.ok_or_else(|| Fault::wanted(format!("a size from {min} to {max}")))
        })
        .unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let words =
            choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let wanted = format!("one of {words}");
        self.checked(key, &wanted, |text| {
            let word = text.trim();
            let choice = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(word))
                .map(|(_, choice)| *choice);
            choice.ok_or_else(|| {
                Fault::wanted(wanted.as_str()).near(word, choices.iter().map(|(name, _)| *name))
            })
        })
        .unwrap_or(default)
    }

    /// Text of 1 to `max` bytes.
    pub(super) fn text(&self, key: &str, max: usize) -> Option<String> {
        self.checked(key, "text", |text| check_text(text, max).map(str::to_owned))
    }
}

/// Why a text does not fit. `found` is only set where the whole text says too little.
#[derive(Debug, Default)]
pub(super) struct Fault {
    pub found: Option<String>,
    pub wanted: String,
    pub did_you_mean: Option<String>,
}

impl Fault {
    pub(super) fn wanted(wanted: impl Into<String>) -> Fault {
        Fault { wanted: wanted.into(), ..Fault::default() }
    }

    pub(super) fn near<'a>(
        mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Fault {
        self.did_you_mean = nearest(word, candidates).map(str::to_owned);
        self
    }
}

/// The variable that says a key: `health.stale_after` is `PGSTEWARD__HEALTH__STALE_AFTER`.
pub(super) fn variable_of(path: &str) -> String {
    format!("PGSTEWARD__{}", path.replace('.', "__").replace('-', "_").to_uppercase())
}

/// The words that stand for yes and no in an environment variable.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn check_text(text: &str, max: usize) -> Result<&str, Fault> {
    match text.trim() {
        "" => {
            Err(Fault { found: Some("an empty string".to_owned()), ..Fault::wanted("some text") })
        }
        _ if text.contains('\0') => {
            Err(Fault { found: Some("a NUL".to_owned()), ..Fault::wanted("text without NUL") })
        }
        _ if text.len() > max => Err(Fault::wanted(format!("at most {max} bytes"))),
        _ => Ok(text),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Loose(text) => Some(text),
        _ => None,
    }
}

/// What a problem says it found: short, and of a secret only the type.
fn describe(node: &Node, secret: bool) -> String {
    match &node.value {
        Value::Text(_) | Value::Loose(_) if secret => "a string".to_owned(),
        Value::Integer(_) | Value::Float(_) if secret => "a number".to_owned(),
        Value::Text(text) | Value::Loose(text) => quote(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => plain(number),
        Value::Boolean(flag) => flag.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Date(_) => "a date or time".to_owned(),
        Value::Other(what) => (*what).to_owned(),
    }
}

/// In double quotes, at most 60 characters. Single ones, of which SQL has many, stand as they are.
pub(super) fn quote(text: &str) -> String {
    let (shown, rest) =
        text.char_indices().nth(60).map_or((text, ""), |(end, _)| (&text[..end], "…"));
    let shown =
        shown.split('\'').map(|part| part.escape_debug().to_string()).collect::<Vec<_>>().join("'");
    format!("\"{shown}{rest}\"")
}

fn plain(value: &impl Debug) -> String {
    format!("{value:?}")
}
