//! The configuration as one tree, every value with its origin.
//!
//! The file is parsed into it, the environment and the flags are applied to it, and then it is read
//! once. So a value's origin is at hand wherever a problem is found, and a value that another one
//! replaces is not validated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::problem::{Origin, Problem};

/// A value with its origin.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

/// A value in the tree.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    /// From the environment or a flag: text that may stand for any type.
    Loose(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A date, a time, or both, as it is written.
    Date(String),
    /// A value that no key takes: an integer beyond 64 bits.
    Other(&'static str),
}

/// A table: keys with their values.
pub(super) type Table = BTreeMap<String, Node>;

impl Node {
    pub(super) fn table(origin: Origin) -> Node {
        Node { value: Value::Table(Table::new()), origin }
    }

    pub(super) fn loose(text: impl Into<String>, origin: Origin) -> Node {
        Node { value: Value::Loose(text.into()), origin }
    }

    pub(super) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The node at a path, if all of it exists.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.as_table()?.get(*key))
    }

    /// The origin of the node at a path; `Default` if there is none.
    pub(super) fn origin_of(&self, path: &[&str]) -> Origin {
        self.at(path).map_or(Origin::Default, |node| node.origin.clone())
    }

    /// Sets the value at a path, and creates the tables on the way.
    ///
    /// # Errors
    /// The origin of the value in the way, if a key on the path holds anything other than a table.
    pub(super) fn set(&mut self, path: &[String], node: Node) -> Result<(), Origin> {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return Ok(());
        };
        let Value::Table(table) = &mut self.value else {
            return Err(self.origin.clone());
        };
        if rest.is_empty() {
            table.insert(key.clone(), node);
            return Ok(());
        }
        table.entry(key.clone()).or_insert_with(|| Node::table(node.origin.clone())).set(rest, node)
    }

    /// Removes a key from the table at a path.
    pub(super) fn remove(&mut self, path: &[String], key: &str) {
        let Value::Table(table) = &mut self.value else { return };
        match path.split_first() {
            None => {
                table.remove(key);
            }
            Some((first, rest)) => {
                if let Some(node) = table.get_mut(first) {
                    node.remove(rest, key);
                }
            }
        }
    }
}

/// Parses a file's text. Text that is not TOML is reported and the rest is kept, so that one
/// missing quote does not hide ten other mistakes.
pub(super) fn parse(text: &str, path: &Path) -> (Node, Vec<Problem>) {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let root = Node {
        value: Value::Table(convert_table(table.get_ref(), path, &lines)),
        origin: Origin::File { path: path.to_owned(), line: 0 },
    };
    let problems = errors
        .iter()
        .map(|error| {
            let (line, column) = lines.place(text, error.span().map_or(0, |span| span.start));
            let origin = Origin::Position { path: path.to_owned(), line, column };
            // Not the whole error: it prints the line, which may contain a password.
            Problem::new(origin, "", error.message().replace('\n', ", "), "valid TOML")
        })
        .collect();
    (root, problems)
}

/// Parses one TOML value, as in an environment variable. Returns `None` for other text.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    Some(convert(value.get_ref(), &mut |_| origin.clone()))
}

fn convert_table(table: &DeTable<'_>, path: &Path, lines: &Lines) -> Table {
    let mut at = |offset| Origin::File { path: PathBuf::from(path), line: lines.line(offset) };
    entries(table, &mut at)
}

fn entries(table: &DeTable<'_>, at: &mut dyn FnMut(usize) -> Origin) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let mut node = convert(value.get_ref(), at);
            // The key's line, because a table's own span may begin elsewhere.
            node.origin = at(key.span().start);
            (key.get_ref().to_string(), node)
        })
        .collect()
}

fn convert(value: &DeValue<'_>, at: &mut dyn FnMut(usize) -> Origin) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("an integer beyond 64 bits"), Value::Integer),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(Value::Other("a number"), Value::Float)
        }
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| {
                    let mut node = convert(item.get_ref(), at);
                    node.origin = at(item.span().start);
                    node
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(entries(table, at)),
    };
    Node { value, origin: at(0) }
}

/// The offsets at which a text's lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(
            std::iter::once(0)
                .chain(text.match_indices('\n').map(|(index, _)| index + 1))
                .collect(),
        )
    }

    /// The line of a byte, from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// Line and column of a byte, both from 1; the column in characters.
    fn place(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = self.0[line - 1];
        let before = text.get(start..offset.min(text.len())).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}
