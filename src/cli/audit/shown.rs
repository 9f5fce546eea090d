//! Events as a person reads them in a terminal: short, and without what a terminal would obey.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::store::audit_query::AuditEvent;

/// Letters of one value in a change.
const VALUE_MAX: usize = 32;

/// The same text with what a terminal would obey, or show as something else, as JSON writes it: control
/// characters, and those that turn the direction of text. What is in `keep` stays.
pub fn escaped<'t>(text: &'t str, keep: &[char]) -> Cow<'t, str> {
    if !text.chars().any(|c| is_obeyed(c) && !keep.contains(&c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if keep.contains(&c) || !is_obeyed(c) => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Writing to a text cannot fail.
            c => drop(write!(out, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(out)
}

fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A cell of at most so many letters.
pub fn cell(text: &str, most: usize) -> String {
    // Of more than that nothing shows, and a value may be long.
    let text: String = text.chars().take(most + 1).collect();
    shortened(&escaped(&text, &[]), most)
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// What changed, in a line: of an update both values of each column, else the row; then the details.
pub fn change(event: &AuditEvent<'_>) -> String {
    let rows = match (object(event.old_values), object(event.new_values)) {
        (Some(old), Some(new)) => updated(&old, &new),
        (None, Some(new)) => listed(&new),
        (Some(old), None) => format!("was {}", listed(&old)),
        (None, None) => String::new(),
    };
    // What is no object is no row, and shown as it is.
    let others = [event.old_values, event.new_values]
        .into_iter()
        .flatten()
        .filter(|value| object(Some(value)).is_none());
    let others = others.chain(event.details).map(|value| value.get().to_owned());
    let parts: Vec<String> =
        [rows].into_iter().chain(others).filter(|part| !part.is_empty()).collect();
    parts.join("; ")
}

fn object(value: Option<&RawValue>) -> Option<Map<String, Value>> {
    serde_json::from_str(value?.get()).ok()
}

fn updated(old: &Map<String, Value>, new: &Map<String, Value>) -> String {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let pairs = new
        .keys()
        .chain(gone)
        .map(|key| format!("{key}: {} → {}", value(old.get(key)), value(new.get(key))));
    pairs.collect::<Vec<_>>().join(", ")
}

fn listed(row: &Map<String, Value>) -> String {
    row.iter()
        .map(|(key, found)| format!("{key}: {}", value(Some(found))))
        .collect::<Vec<_>>()
        .join(", ")
}

fn value(value: Option<&Value>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| shortened(&value.to_string(), VALUE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        for (text, shown) in [
            ("plain, ünï → 日本", "plain, ünï → 日本"),
            ("a\x1b[31mb\x07", "a\\u001b[31mb\\u0007"),
            ("c1 \u{9b}31m \u{7f}", "c1 \\u009b31m \\u007f"),
            ("line\r\n\ttab\0", "line\\r\\n\\ttab\\u0000"),
            ("user\u{202e}nimda", "user\\u202enimda"),
        ] {
            assert_eq!(cell(text, 60), shown);
        }
        assert_eq!(escaped("{\n\"\u{9b}\"}", &['\n']), "{\n\"\\u009b\"}");
        assert_eq!(cell("abcdef", 4), "abc…");
        assert_eq!(cell("abcd", 4), "abcd");
    }

    #[test]
    fn a_change_is_told_in_a_line() {
        let told = |old: Option<&str>, new: Option<&str>, details: Option<&str>| {
            let raw = |text: Option<&str>| {
                text.map(|text| RawValue::from_string(text.to_owned()).unwrap())
            };
            let (old, new, details) = (raw(old), raw(new), raw(details));
            change(&AuditEvent {
                id: uuid::Uuid::nil(),
                created_at: chrono::DateTime::UNIX_EPOCH,
                user_id: None,
                actor: "a",
                session_user_name: "a",
                action: "x",
                resource_type: None,
                resource_id: None,
                old_values: old.as_deref(),
                new_values: new.as_deref(),
                ip_address: None,
                user_agent: None,
                request_id: None,
                source: "trigger",
                xid: "1",
                details: details.as_deref(),
            })
        };
        assert_eq!(
            told(Some(r#"{"name": "a"}"#), Some(r#"{"name": "b"}"#), None),
            r#"name: "a" → "b""#
        );
        assert_eq!(
            told(Some(r#"{"a": 1, "g": 2}"#), Some(r#"{"a": null}"#), None),
            "a: 1 → null, g: 2 → none"
        );
        assert_eq!(told(None, Some(r#"{"id": 1, "name": "b"}"#), None), r#"id: 1, name: "b""#);
        assert_eq!(
            told(Some(r#"{"id": 1}"#), None, Some(r#"{"why": "x"}"#)),
            r#"was id: 1; {"why": "x"}"#
        );
        assert_eq!(told(None, Some("[1]"), None), "[1]");
        assert_eq!(told(None, None, None), "");
        let long = format!(r#"{{"t": "{}"}}"#, "x".repeat(5_000));
        assert!(told(None, Some(&long), None).chars().count() < 40);
    }
}
