//! Renders a line of the log, with its fields in the order in which they were recorded.

use std::fmt::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

use super::chain;

/// Limit of one value; the rest is cut off. An error may quote a whole file, and readers of the log
/// have limits too (journald splits lines at 48 KiB).
pub const VALUE_MAX_BYTES: usize = 16 * 1024;

/// The format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Json,
    Text { colour: bool },
}

/// The fields of an event or a span, in the order in which they were recorded.
#[derive(Debug, Default)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Adds other fields, whose values win.
    pub fn extend(&mut self, other: &Fields) {
        other.0.iter().for_each(|(name, value)| self.set(name, value.clone()));
    }

    /// Removes and returns the message.
    pub fn take_message(&mut self) -> Option<Value> {
        let at = self.0.iter().position(|(name, _)| *name == "message")?;
        Some(self.0.remove(at).1)
    }

    fn set(&mut self, name: &'static str, value: Value) {
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field.name(), bounded(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field.name(), bounded(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Value::from(value));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.set(field.name(), bounded(chain(error)));
    }
}

/// Cuts a text to [`VALUE_MAX_BYTES`] and notes how much is missing.
fn bounded(mut text: String) -> Value {
    if text.len() > VALUE_MAX_BYTES {
        let cut = text.floor_char_boundary(VALUE_MAX_BYTES);
        let missing = text.len() - cut;
        text.truncate(cut);
        // Writing to a String cannot fail.
        let _ = write!(text, "… ({missing} bytes more)");
    }
    Value::from(text)
}

/// Renders the line of an event, with its line break.
pub fn render(
    style: Style,
    time: DateTime<Utc>,
    metadata: &Metadata<'_>,
    mut fields: Fields,
) -> String {
    let message = fields.take_message();
    let message = message.as_ref().and_then(Value::as_str).unwrap_or_default();
    let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let mut line = match style {
        Style::Json => json(&time, metadata, message, &fields).unwrap_or_default(),
        Style::Text { colour } => text(&time, metadata, message, &fields, colour),
    };
    line.push('\n');
    line
}

/// Renders one flat object. A field named as one of the first four becomes `field_NAME`.
fn json(
    time: &str,
    metadata: &Metadata<'_>,
    message: &str,
    fields: &Fields,
) -> Result<String, serde_json::Error> {
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("time", time)?;
    map.serialize_entry("level", &metadata.level().as_str().to_ascii_lowercase())?;
    map.serialize_entry("message", message)?;
    map.serialize_entry("target", metadata.target())?;
    for (name, value) in &fields.0 {
        match *name {
            "time" | "level" | "target" => map.serialize_entry(&format!("field_{name}"), value)?,
            name => map.serialize_entry(name, value)?,
        }
    }
    map.end()?;
    // serde_json writes UTF-8 and has escaped the ASCII control characters.
    let mut escaped = String::with_capacity(line.len());
    for c in String::from_utf8_lossy(&line).chars() {
        if harmful(c) {
            // Writing to a String cannot fail. All of these characters have four digits.
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped)
}

fn text(
    time: &str,
    metadata: &Metadata<'_>,
    message: &str,
    fields: &Fields,
    colour: bool,
) -> String {
    let level = metadata.level().as_str();
    let mut line = if colour {
        let hue = match *metadata.level() {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            _ => 2,
        };
        format!("\x1b[2m{time}\x1b[0m \x1b[{hue}m{level:>5}\x1b[0m ")
    } else {
        format!("{time} {level:>5} ")
    };
    escape(&mut line, message);
    for (name, value) in &fields.0 {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value {
            // Without quotes if that is unambiguous.
            Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=', '\\']) => {
                escape(&mut line, s);
            }
            Value::String(s) => {
                line.push('"');
                escape(&mut line, &s.replace('\\', "\\\\").replace('"', "\\\""));
                line.push('"');
            }
            // Writing to a String cannot fail.
            other => drop(write!(line, "{other}")),
        }
    }
    line
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        if harmful(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// Whether a character is a control character, or changes the direction or the line of the text.
pub fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
