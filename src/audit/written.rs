//! Events as text that others read: a line of JSON, a line of CSV.

use chrono::{DateTime, SecondsFormat, Utc};

use super::leaf::FIELDS;
use crate::store::trail::TrailRow;

/// Fields that hold JSON.
const JSON: [&str; 3] = ["old_values", "new_values", "details"];

/// An instant as it is written.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// One event as one object, its JSON as PostgreSQL wrote it, without an end of line.
pub fn json(row: &TrailRow, out: &mut Vec<u8>) {
    out.extend(format!("{{\"id\":\"{}\",\"created_at\":\"{}\"", row.id(), instant(row.created_at())).as_bytes());
    for (name, text) in FIELDS.iter().skip(2).zip(row.texts()) {
        out.extend(b",\"");
        out.extend(name.as_bytes());
        out.extend(b"\":");
        match text {
            None => out.extend(b"null"),
            Some(text) if JSON.contains(name) => out.extend(text.as_bytes()),
            // Writing to a Vec cannot fail.
            Some(text) => drop(serde_json::to_writer(&mut *out, text)),
        }
    }
    out.push(b'}');
}

/// The head line of CSV.
pub fn csv_head() -> String {
    FIELDS.join(",") + "\r\n"
}

/// One event as one line of CSV (RFC 4180): nothing for null, `""` for an empty text.
pub fn csv(row: &TrailRow, out: &mut Vec<u8>) {
    out.extend(row.id().to_string().as_bytes());
    out.push(b',');
    out.extend(instant(row.created_at()).as_bytes());
    for text in row.texts() {
        out.push(b',');
        if let Some(text) = text {
            csv_field(text, out);
        }
    }
    out.extend(b"\r\n");
}

fn csv_field(text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() && !text.contains(['"', ',', '\r', '\n']) {
        out.extend(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_csv_is_quoted_where_it_must() {
        for (text, wanted) in
            [("", r#""""#), ("a", "a"), ("a b", "a b"), ("a,b", r#""a,b""#), ("\"", r#""""""#), ("a\nb", "\"a\nb\"")]
        {
            let mut out = Vec::new();
            csv_field(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
        }
    }
}
