//! Reading a table key by key: each by its form, within its bounds, with every problem collected.
//!
//! A reader asks for keys by name and always gets a value: the given one, or the default if none or
//! no usable one is given. A key that was asked for is thereby known, and a key that stands in the
//! table without having been asked for is unknown. Lists, paths and secrets are in [`forms`].

mod forms;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use super::problem::{Origin, Problem, nearest};
use super::table::{self, RENAMED, Table, Words};
use super::tree::{self, Node, Value};
use super::value;

/// The findings of a reading, beside the values.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub problems: RefCell<Vec<Problem>>,
    /// The path of every key that was asked for.
    pub known: RefCell<BTreeSet<String>>,
}

/// One table while it is read.
pub(super) struct Section<'a> {
    report: &'a Report,
    /// Such as `jobs.health-probe`; empty for the root.
    path: String,
    table: Option<&'a tree::Table>,
    known: RefCell<Vec<String>>,
    /// If set, the only keys that this table takes of those that are asked for.
    only: Option<&'a [&'a str]>,
}

impl<'a> Section<'a> {
    /// Reads the whole tree.
    pub(super) fn root<T>(
        tree: &'a Node,
        report: &'a Report,
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        Section::read(report, String::new(), tree.as_table(), None, read)
    }

    fn read<T>(
        report: &'a Report,
        path: String,
        table: Option<&'a tree::Table>,
        only: Option<&'a [&'a str]>,
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let section = Section { report, path, table, known: RefCell::default(), only };
        let value = read(&section);
        section.report_unknown();
        value
    }

    /// Reads a table in this one. It is read even if it is missing, so that its keys are known.
    pub(super) fn section<T>(&self, key: &str, read: impl FnOnce(&Section<'a>) -> T) -> T {
        self.section_of(key, None, read)
    }

    /// Reads a table in this one that takes only some keys of its type.
    pub(super) fn section_of<T>(
        &self,
        key: &str,
        only: Option<&'a [&'a str]>,
        read: impl FnOnce(&Section<'a>) -> T,
    ) -> T {
        let table = self.child(key).and_then(|node| match &node.value {
            Value::Table(table) => Some(table),
            _ => {
                self.refuse(node, key, Fault::expected("a table"));
                None
            }
        });
        Section::read(self.report, self.path_of(key), table, only, read)
    }

    /// Whether a value is given for a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
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

    /// `section.key`, with names that contain dots in quotes.
    pub(super) fn path_of(&self, key: &str) -> String {
        let key = if key.contains('.') { format!("{key:?}") } else { key.to_owned() };
        table::join(&self.path, &key)
    }

    /// Reports a problem with a key of this table.
    pub(super) fn problem(
        &self,
        origin: &Origin,
        key: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.fault(origin, key, Fault::expected(expected).found(found));
    }

    /// Reports a fault of a key of this table.
    pub(super) fn fault(&self, origin: &Origin, key: &str, fault: Fault) {
        let found = fault.found.unwrap_or_default();
        let problem = Problem::new(origin.clone(), self.path_of(key), found, fault.expected);
        self.report.problems.borrow_mut().push(problem.meant(fault.did_you_mean));
    }

    /// Reports each of these keys that is missing, if this table is there. `parent` is the table
    /// that contains it by this name and from this origin.
    pub(super) fn require(
        &self,
        parent: &Section<'_>,
        (name, origin): (&str, &Origin),
        keys: &[&str],
        expected: &str,
    ) {
        for key in keys.iter().filter(|key| self.table.is_some() && !self.has(key)) {
            parent.problem(origin, name, format!("no key \"{key}\""), expected);
        }
    }

    /// Reports a fault of the value of a key; without other words, the value is the thing found.
    fn refuse(&self, node: &Node, key: &str, fault: Fault) {
        // Keys whose text is shown to nobody, whatever is wrong with it.
        let secret =
            ["url", "password", "_key", "command", "secret"].iter().any(|part| key.contains(part));
        let found = fault.found.clone().unwrap_or_else(|| describe(node, secret));
        self.fault(&node.origin, key, fault.found(found));
    }

    /// Notes that a key is known, and returns its value.
    fn get(&self, key: &str) -> Option<&'a Node> {
        let node = self.child(key);
        if self.takes(key) {
            self.report.known.borrow_mut().insert(self.path_of(key));
        }
        node
    }

    fn child(&self, key: &str) -> Option<&'a Node> {
        if !self.takes(key) {
            return None;
        }
        let mut known = self.known.borrow_mut();
        if !known.iter().any(|known| known == key) {
            known.push(key.to_owned());
        }
        self.table?.get(key)
    }

    fn takes(&self, key: &str) -> bool {
        self.only.is_none_or(|only| only.contains(&key))
    }

    fn report_unknown(&self) {
        let known = self.known.borrow();
        let unknown = self.table.into_iter().flatten().filter(|(key, _)| !known.contains(key));
        for (key, node) in unknown {
            let as_given = |path: String, key: String| match &node.origin {
                Origin::Environment(_) => variable_of(&path),
                _ => key,
            };
            let fault = match table::renamed(&self.path_of(key), RENAMED) {
                Some(new) => {
                    Fault::expected(format!("its new name, {}", as_given(new.clone(), new)))
                        .found("the former name of a key")
                }
                None => Fault {
                    did_you_mean: nearest(key, known.iter().map(String::as_str))
                        .map(|near| as_given(self.path_of(near), near.to_owned())),
                    ..Fault::expected(format!("one of {}", known.join(", ")))
                        .found("an unknown key")
                },
            };
            self.fault(&node.origin, key, fault);
        }
    }

    /// Reads a key with `parse`; a value that it does not take is a fault.
    pub(super) fn value<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let value = parse(&node.value);
        if value.is_none() {
            self.refuse(node, key, Fault::expected(expected));
        }
        value
    }

    /// Reads a key whose value is text that `parse` takes or refuses. `expected` is the form of the
    /// text.
    pub(super) fn checked<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let parsed = text(&node.value).ok_or_else(|| Fault::expected(expected)).and_then(parse);
        parsed.map_err(|fault| self.refuse(node, key, fault)).ok()
    }

    pub(super) fn parsed<T>(
        &self,
        key: &str,
        default: T,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> T {
        self.checked(key, expected, parse).unwrap_or(default)
    }

    /// A declared table in this one.
    pub(super) fn table<T: Table>(&self, key: &str, default: T) -> T {
        self.section(key, |section| T::read(section, default))
    }

    /// A key, or several, for which there is a function.
    pub(super) fn custom<T>(
        &self,
        _key: &str,
        default: T,
        read: impl FnOnce(&Section<'a>, T) -> T,
    ) -> T {
        read(self, default)
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

    /// A number within bounds, both included.
    pub(super) fn ratio(&self, key: &str, default: f64, min: f64, max: f64) -> f64 {
        self.value(key, &format!("a number from {min} to {max}"), |value| {
            let number = match value {
                Value::Float(number) => *number,
                // Only 0 and 1 are within bounds, and both are exact.
                Value::Integer(number) => *number as f64,
                Value::Loose(text) => text.trim().parse().ok()?,
                _ => return None,
            };
            (min..=max).contains(&number).then_some(number)
        })
        .unwrap_or(default)
    }

    /// A duration with a unit, within bounds such as `"5s"` and `"5m"`, both included.
    pub(super) fn duration<T: From<Duration>>(
        &self,
        key: &str,
        default: T,
        min: Duration,
        max: Duration,
    ) -> T {
        let (least, most) = (value::print_duration(min), value::print_duration(max));
        let parse = |text: &str| {
            let duration = value::parse_duration(text);
            let duration = duration.ok_or_else(|| Fault::expected(value::DURATION))?;
            let within = (min..=max).contains(&duration).then_some(duration);
            within.ok_or_else(|| Fault::expected(format!("a duration from {least} to {most}")))
        };
        self.checked(key, value::DURATION, parse).map_or(default, T::from)
    }

    /// A size with a unit, within bounds in bytes, both included.
    pub(super) fn size(&self, key: &str, default: usize, min: usize, max: usize) -> usize {
        let (least, most) = (value::print_size(min as u64), value::print_size(max as u64));
        self.parsed(key, default, value::SIZE, |text| {
            let bytes = value::parse_size(text).ok_or_else(|| Fault::expected(value::SIZE))?;
            let within = usize::try_from(bytes).ok().filter(|bytes| (min..=max).contains(bytes));
            within.ok_or_else(|| Fault::expected(format!("a size from {least} to {most}")))
        })
    }

    /// One of the words of an enum.
    pub(super) fn choice<T: Words>(&self, key: &str, default: T) -> T {
        self.choice_of(key, T::WORDS).unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice_of<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words = choices.iter().map(|(word, _)| quote(word)).collect::<Vec<_>>().join(", ");
        let expected = format!("one of {words}");
        self.checked(key, &expected, |text| {
            let word = text.trim();
            let choice = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
            choice.map(|(_, choice)| *choice).ok_or_else(|| {
                Fault::expected(expected.as_str()).near(word, choices.iter().map(|(name, _)| *name))
            })
        })
    }

    /// Text of 1 to `max` bytes.
    pub(super) fn text<T: From<String>>(&self, key: &str, default: T, max: usize) -> T {
        self.checked(key, "text", |text| check_text(text, max).map(str::to_owned))
            .map_or(default, T::from)
    }
}

/// Why a value does not fit. `found` is set only if the value itself would say too little.
#[derive(Debug, Default)]
pub(super) struct Fault {
    pub found: Option<String>,
    pub expected: String,
    pub did_you_mean: Option<String>,
}

impl Fault {
    pub(super) fn expected(expected: impl Into<String>) -> Fault {
        Fault { expected: expected.into(), ..Fault::default() }
    }

    pub(super) fn found(self, found: impl Into<String>) -> Fault {
        Fault { found: Some(found.into()), ..self }
    }

    pub(super) fn near<'a>(
        self,
        word: &str,
        candidates: impl IntoIterator<Item = &'a str>,
    ) -> Fault {
        Fault { did_you_mean: nearest(word, candidates).map(str::to_owned), ..self }
    }
}

/// The variable of a key: `health.stale_after` is `PGSTEWARD__HEALTH__STALE_AFTER`.
pub(super) fn variable_of(path: &str) -> String {
    format!("PGSTEWARD__{}", path.replace('.', "__").replace('-', "_").to_uppercase())
}

/// Reads the words for true and false in an environment variable.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// The check of a text that may be anything, such as a password.
pub(super) fn any_text(text: &str) -> Result<&str, Fault> {
    Ok(text)
}

fn check_text(text: &str, max: usize) -> Result<&str, Fault> {
    match text.trim() {
        "" => Err(Fault::expected("text").found("an empty string")),
        _ if text.contains('\0') => Err(Fault::expected("text without NUL").found("a NUL")),
        _ if text.len() > max => Err(Fault::expected(format!("at most {max} bytes"))),
        _ => Ok(text),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) | Value::Loose(text) => Some(text),
        _ => None,
    }
}

/// Describes a value in an error: shortened, and only by its type if it is a secret.
fn describe(node: &Node, secret: bool) -> String {
    match &node.value {
        Value::Text(_) | Value::Loose(_) if secret => "a string".to_owned(),
        Value::Integer(_) | Value::Float(_) if secret => "a number".to_owned(),
        Value::Text(text) | Value::Loose(text) => quote(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Date(_) => "a date or time".to_owned(),
        Value::Other(kind) => (*kind).to_owned(),
    }
}

/// Quotes a text, shortened to 60 characters. Single quotes, of which SQL has many, stay as they
/// are.
pub(super) fn quote(text: &str) -> String {
    let (shown, rest) =
        text.char_indices().nth(60).map_or((text, ""), |(end, _)| (&text[..end], "…"));
    let shown =
        shown.split('\'').map(|part| part.escape_debug().to_string()).collect::<Vec<_>>().join("'");
    format!("\"{shown}{rest}\"")
}

/// Says what is expected in a part of a text, for errors that concern only that part.
pub(super) fn in_part(expected: impl std::fmt::Display, part: &str, text: &str) -> String {
    format!("{expected}, in the {part} ({})", quote(text))
}
