//! What is said in more than one form: lists, paths, and secrets.

use std::path::PathBuf;

use super::{Fault, Section, check_text, describe, quote, text};
use crate::config::problem::{Origin, Problem};
use crate::config::secret::{Secret, SecretSource};
use crate::config::tree::{self, Node, Value};

impl Section<'_> {
    /// A list of texts, each once. From the environment: separated by commas, or a TOML array.
    pub(in crate::config) fn list(
        &self,
        key: &str,
        wanted: &str,
        fits: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Vec<String> {
        self.texts(key, wanted, items, fits)
    }

    /// The same, where one text stands for a list of one.
    pub(in crate::config) fn list_or_one(
        &self,
        key: &str,
        wanted: &str,
        fits: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Vec<String> {
        let one_too = |node: &Node| match &node.value {
            Value::Text(_) => Some(vec![node.clone()]),
            _ => items(node),
        };
        self.texts(key, wanted, one_too, fits)
    }

    fn texts(
        &self,
        key: &str,
        wanted: &str,
        items: impl FnOnce(&Node) -> Option<Vec<Node>>,
        mut fits: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Vec<String> {
        let Some(node) = self.get(key) else { return Vec::new() };
        let Some(items) = items(node) else {
            self.wrong(
                node,
                key,
                describe(node, self.tells_secrets(key)),
                format!("a list of {wanted}"),
            );
            return Vec::new();
        };
        let mut list: Vec<String> = Vec::new();
        for item in &items {
            let fault = match text(&item.value) {
                Some(text) if list.iter().any(|other| other == text) => Fault {
                    found: Some(format!("{} twice", quote(text))),
                    ..Fault::wanted("each once")
                },
                Some(text) => match fits(text) {
                    Ok(()) => {
                        list.push(text.to_owned());
                        continue;
                    }
                    Err(fault) => fault,
                },
                None => Fault::wanted(wanted),
            };
            let found = fault.found.unwrap_or_else(|| describe(item, self.tells_secrets(key)));
            let problem = Problem::new(item.origin.clone(), self.path_of(key), found, fault.wanted);
            self.push(problem.meant(fault.did_you_mean));
        }
        list
    }

    /// A path; a relative one in the file counts from the file's folder, elsewhere from where the
    /// process runs.
    pub(in crate::config) fn path(&self, key: &str) -> Option<PathBuf> {
        let origin = self.table.and_then(|table| table.get(key)).map(|node| node.origin.clone());
        let path = self.checked(key, "a path", |text| check_text(text, 4096).map(PathBuf::from))?;
        Some(match origin {
            Some(Origin::File { path: file, .. }) => {
                file.parent().map_or(path.clone(), |folder| folder.join(&path))
            }
            _ => path,
        })
    }

    /// A secret in one of its forms: `key`, `key_file`, and where `command` is set `key_command`.
    /// `check` judges the text of an inline one, and returns what of it is kept.
    pub(in crate::config) fn secret(
        &self,
        key: &str,
        command: bool,
        check: impl FnOnce(&str) -> Result<&str, Fault>,
    ) -> Option<SecretSource> {
        let inline = self.checked(key, "a string", |text| {
            // Its length is bounded by the file's.
            check_text(text, usize::MAX)?;
            Ok(SecretSource::Inline(Secret::new(check(text)?)))
        });
        let file_key = format!("{key}_file");
        let file = self.path(&file_key).map(SecretSource::File);
        let command_key = format!("{key}_command");
        let command = if command { self.command(&command_key) } else { None };

        let said: Vec<String> = [key.to_owned(), file_key, command_key]
            .into_iter()
            .filter(|key| self.has(key))
            .collect();
        if let [.., last] = said.as_slice()
            && said.len() > 1
            && let Some(node) = self.table.and_then(|table| table.get(last))
        {
            self.wrong(node, last, format!("{} together", said.join(" and ")), "one of them");
        }
        inline.or(file).or(command)
    }

    /// A program with its arguments as a list, or one string for `/bin/sh -c`.
    fn command(&self, key: &str) -> Option<SecretSource> {
        let wanted = "a list such as [\"vault\", \"read\", \"…\"], or a string for /bin/sh -c";
        let words = self.value(key, wanted, |value| match value {
            Value::Array(items) => program(items),
            Value::Loose(line) if line.trim_start().starts_with('[') => {
                match tree::parse_value(line.trim(), &Origin::Default)?.value {
                    Value::Array(items) => program(&items),
                    _ => None,
                }
            }
            Value::Text(line) | Value::Loose(line) if !line.trim().is_empty() => {
                Some(["/bin/sh", "-c", line].map(str::to_owned).to_vec())
            }
            _ => None,
        })?;
        Some(SecretSource::Command(words))
    }
}

/// A program, which must have a name, and its arguments.
fn program(items: &[Node]) -> Option<Vec<String>> {
    let words: Option<Vec<String>> =
        items.iter().map(|item| text(&item.value).map(str::to_owned)).collect();
    words.filter(|words| words.first().is_some_and(|program| !program.trim().is_empty()))
}

fn items(node: &Node) -> Option<Vec<Node>> {
    match &node.value {
        Value::Array(items) => Some(items.clone()),
        Value::Loose(text) if text.trim_start().starts_with('[') => {
            match tree::parse_value(text.trim(), &node.origin)?.value {
                Value::Array(items) => Some(items),
                _ => None,
            }
        }
        Value::Loose(text) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .map(|word| Node::loose(word, node.origin.clone()))
                .collect(),
        ),
        _ => None,
    }
}
