//! Values with more than one notation: lists, address ranges, paths, and secrets.

use std::path::PathBuf;

use super::{Fault, Section, check_text, quote, text};
use crate::config::cidr::{Cidr, NoCidr};
use crate::config::problem::Origin;
use crate::config::secret::{Secret, SecretSource};
use crate::config::tree::{self, Node, Value};

const CIDRS: &str = r#"ranges such as "10.0.0.0/8" or "fd00::/8""#;

impl Section<'_> {
    /// A list of distinct texts. In the environment: separated by commas, or a TOML array.
    pub(in crate::config) fn list(
        &self,
        key: &str,
        default: Vec<String>,
        of: &str,
        check: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Vec<String> {
        self.texts(key, of, items, check).unwrap_or(default)
    }

    /// As [`Self::list`], where one text stands for a list of one.
    pub(in crate::config) fn list_or_one(
        &self,
        key: &str,
        default: Vec<String>,
        of: &str,
        check: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Vec<String> {
        let one_too = |node: &Node| match &node.value {
            Value::Text(_) => Some(vec![node.clone()]),
            _ => items(node),
        };
        self.texts(key, of, one_too, check).unwrap_or(default)
    }

    fn texts(
        &self,
        key: &str,
        of: &str,
        items: impl FnOnce(&Node) -> Option<Vec<Node>>,
        mut check: impl FnMut(&str) -> Result<(), Fault>,
    ) -> Option<Vec<String>> {
        let node = self.get(key)?;
        let Some(items) = items(node) else {
            self.refuse(node, key, Fault::expected(format!("a list of {of}")));
            return None;
        };
        let mut list: Vec<String> = Vec::new();
        for item in &items {
            let checked = match text(&item.value) {
                None => Err(Fault::expected(of)),
                Some(text) if list.iter().any(|other| other == text) => {
                    Err(Fault::expected("each item once").found(format!("{} twice", quote(text))))
                }
                Some(text) => check(text).map(|()| text.to_owned()),
            };
            match checked {
                Ok(text) => list.push(text),
                Err(fault) => self.refuse(item, key, fault),
            }
        }
        Some(list)
    }

    /// A list of address ranges.
    pub(in crate::config) fn cidrs(&self, key: &str, default: Vec<Cidr>) -> Vec<Cidr> {
        let mut ranges = Vec::new();
        let texts = self.texts(key, CIDRS, items, |text| {
            let range = text.parse::<Cidr>().map_err(|NoCidr { meant }| Fault {
                did_you_mean: meant.map(|cidr| cidr.to_string()),
                ..Fault::expected(CIDRS)
            })?;
            ranges.push(range);
            Ok(())
        });
        if texts.is_some() { ranges } else { default }
    }

    /// A path. In the file a relative one counts from the file's directory, elsewhere from the
    /// working directory.
    pub(in crate::config) fn path(&self, key: &str, default: Option<PathBuf>) -> Option<PathBuf> {
        let path = self.checked(key, "a path", |text| check_text(text, 4096).map(PathBuf::from));
        let Some(path) = path else { return default };
        let origin = self.table.and_then(|table| table.get(key)).map(|node| &node.origin);
        Some(match origin {
            Some(Origin::File { path: file, .. }) => {
                file.parent().map_or(path.clone(), |directory| directory.join(&path))
            }
            _ => path,
        })
    }

    /// A secret in one of two forms: `key` or `key_file`. `check` judges the text of an inline one
    /// and returns the part of it to keep.
    pub(in crate::config) fn secret(
        &self,
        key: &str,
        default: Option<SecretSource>,
        check: impl FnOnce(&str) -> Result<&str, Fault>,
    ) -> Option<SecretSource> {
        let inline = self.checked(key, "a string", |text| {
            // Its length is bounded by the file's.
            check_text(text, usize::MAX)?;
            Ok(SecretSource::Inline(Secret::new(check(text)?)))
        });
        let file = self.path(&format!("{key}_file"), None).map(SecretSource::File);
        self.one_form(key);
        inline.or(file).or(default)
    }

    /// As [`Self::secret`], with a third form `key_command`.
    pub(in crate::config) fn secret_or_command(
        &self,
        key: &str,
        default: Option<SecretSource>,
        check: impl FnOnce(&str) -> Result<&str, Fault>,
    ) -> Option<SecretSource> {
        let command = self.command(&format!("{key}_command"));
        self.secret(key, command.or(default), check)
    }

    /// Reports a secret that is given in more than one form.
    fn one_form(&self, key: &str) {
        let forms = ["", "_file", "_command"].map(|form| format!("{key}{form}"));
        let given: Vec<&str> =
            forms.iter().map(String::as_str).filter(|key| self.has(key)).collect();
        if let [_, .., last] = given.as_slice()
            && let Some(node) = self.table.and_then(|table| table.get(*last))
        {
            let found = format!("{} together", given.join(" and "));
            self.refuse(node, last, Fault::expected("only one of them").found(found));
        }
    }

    /// A program with its arguments as a list, or one string for `/bin/sh -c`.
    fn command(&self, key: &str) -> Option<SecretSource> {
        let expected = r#"a list such as ["vault", "read", "…"], or a string for /bin/sh -c"#;
        let words = self.value(key, expected, |value| match value {
            Value::Array(items) => program(items),
            Value::Loose(line) if line.trim_start().starts_with('[') => {
                program(&array(line, &Origin::Default)?)
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
        Value::Loose(text) if text.trim_start().starts_with('[') => array(text, &node.origin),
        Value::Loose(text) => {
            let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
            Some(words.map(|word| Node::loose(word, node.origin.clone())).collect())
        }
        _ => None,
    }
}

fn array(text: &str, origin: &Origin) -> Option<Vec<Node>> {
    match tree::parse_value(text.trim(), origin)?.value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}
