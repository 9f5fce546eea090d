//! What a line of the log looks like: fields in the order that they were recorded, rendered.

use std::fmt::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// Of one value of a line; the rest is cut off. Whoever reads the log has limits of their own
/// (journald splits at 48 KiB), and an error may quote a whole file.
pub const VALUE_MAX_BYTES: usize = 16 * 1024;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Json,
    Text { colour: bool },
}

/// The fields of an event, or of a span, in the order that they were recorded.
#[derive(Debug, Default)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Adds those of another, whose values win.
    pub fn extend(&mut self, other: &Fields) {
        other.0.iter().for_each(|(name, value)| self.set(name, value.clone()));
    }

    /// Takes the message out.
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

    /// An error with its causes: what failed, and why.
    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut chain = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Writing to a String cannot fail.
            let _ = write!(chain, ": {error}");
            cause = error.source();
        }
        self.set(field.name(), bounded(chain));
    }
}

/// At most [`VALUE_MAX_BYTES`] of a text, with a note of what is missing.
fn bounded(mut text: String) -> Value {
    if text.len() > VALUE_MAX_BYTES {
        // At 0 there always is a boundary.
        let cut = (0..=VALUE_MAX_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let missing = text.len() - cut;
        text.truncate(cut);
        // Writing to a String cannot fail.
        let _ = write!(text, "… ({missing} bytes more)");
    }
    Value::from(text)
}

/// The line of an event, with its end.
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

/// One flat object. A field with the name of one of the first four goes by `field_NAME`.
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
    // serde_json writes UTF-8, and has escaped all of ASCII that needs it.
    let mut escaped = String::with_capacity(line.len());
    for c in String::from_utf8_lossy(&line).chars() {
        if harmful(c) {
            // Writing to a String cannot fail. All of them have four digits.
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
            // Bare where it can be told apart from what is around it.
            Value::String(s) if !s.is_empty() && !s.contains([' ', '"', '=', '\\']) => {
                escape(&mut line, s)
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

/// Control characters, and what changes the direction or the line of the text around it.
pub fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
