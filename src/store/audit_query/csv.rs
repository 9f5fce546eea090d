//! Events as CSV, by RFC 4180. Nothing between two commas is null; an empty text is quoted; what a spreadsheet would
//! take for a formula begins with an apostrophe.

use serde_json::value::RawValue;

use super::{AuditEvent, TimestampText};

const END: &[u8] = b"\r\n";

/// Appends the line of names.
pub fn header(out: &mut Vec<u8>) {
    record(out, AuditEvent::COLUMNS.map(Some));
}

/// Appends the line of an event.
pub fn event(out: &mut Vec<u8>, event: &AuditEvent<'_>) {
    let (mut id, at) = (uuid::Uuid::encode_buffer(), TimestampText::of(event.created_at));
    record(
        out,
        [
            Some(&*event.id.hyphenated().encode_lower(&mut id)),
            Some(at.as_str()),
            event.user_id,
            Some(event.actor),
            Some(event.session_user_name),
            Some(event.action),
            event.resource_type,
            event.resource_id,
            event.old_values.map(RawValue::get),
            event.new_values.map(RawValue::get),
            event.ip_address,
            event.user_agent,
            event.request_id,
            Some(event.source),
            Some(event.xid),
            event.details.map(RawValue::get),
        ],
    );
}

fn record<const N: usize>(out: &mut Vec<u8>, fields: [Option<&str>; N]) {
    for (place, text) in fields.into_iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        if let Some(text) = text {
            field(out, text);
        }
    }
    out.extend_from_slice(END);
}

fn field(out: &mut Vec<u8>, text: &str) {
    // Anybody can have such a text recorded, by the name of a browser. A spreadsheet shows what follows an apostrophe.
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !text.is_empty()
        && !formula
        && !text.bytes().any(|byte| matches!(byte, b'"' | b',' | b'\r' | b'\n'))
    {
        return out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(if formula { b"\"'" } else { b"\"" });
    for (place, part) in text.split('"').enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_empty_differ_and_what_must_be_is_quoted() {
        let mut out = Vec::new();
        record(
            &mut out,
            [
                None,
                Some(""),
                Some("a b"),
                Some("a,b"),
                Some("say \"hi\""),
                Some("two\r\nlines"),
                Some("\""),
                Some("=1+1"),
            ],
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            ",\"\",a b,\"a,b\",\"say \"\"hi\"\"\",\"two\r\nlines\",\"\"\"\",\"'=1+1\"\r\n"
        );
    }
}
