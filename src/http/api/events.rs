//! `POST /audit/events`: records one or many events of an application in the audit log.
//!
//! The whole batch is parsed and validated before the database is used. One transaction then holds
//! the idempotency key, one COPY and the stored reply. A client that got no response repeats the
//! request with the same key.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;

use super::input::parse_object;
use super::mutation::{MutationContext, MutationReply, MutationResult, run_detached};
use crate::db::{Error, Tx};
use crate::http::{Context, HttpError, Response};
use crate::store::audit_ingest::{self, IngestedEvent};

/// Events of one request.
const EVENTS_MAX: usize = 10_000;
/// Bytes of each JSON value, as in `steward.log_audit_event`.
const VALUE_MAX: usize = 65_536;
/// Nesting of each JSON value. The parser of PostgreSQL fails at some thousands.
const DEPTH_MAX: usize = 100;

/// Tells a batch from a single event.
#[derive(Deserialize)]
struct BodyShape<'a> {
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBatch<'a> {
    #[serde(borrow, deserialize_with = "bounded_events")]
    events: Vec<EventBody<'a>>,
}

/// An event as an application sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody<'a> {
    #[serde(borrow)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    old_values: Option<&'a RawValue>,
    #[serde(borrow)]
    new_values: Option<&'a RawValue>,
    #[serde(borrow)]
    ip_address: Option<Cow<'a, str>>,
    #[serde(borrow)]
    user_agent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

/// Records the events.
pub async fn write(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    context.check_content_type()?;
    let body = context.body.clone();
    let mut reply = run_detached(context, key, move |ctx| async move {
        let events = read(&body)?;
        let events = validate(&events)?;
        ctx.execute(&events, |tx, ctx, events| Box::pin(copy(tx, ctx, events))).await
    })
    .await?;
    reply.body["replayed"] = json!(reply.replayed);
    Ok(reply.response())
}

async fn copy(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    events: &[IngestedEvent<'_>],
) -> Result<MutationResult, Error> {
    tx.batch("set a savepoint", "SAVEPOINT events").await?;
    match audit_ingest::copy(tx, ctx.actor(), events.iter().copied()).await {
        Ok(accepted) => Ok(Ok(MutationReply::created(json!({ "accepted": accepted })))),
        // Invalid data or a limit: a number that is too large for numeric, for example.
        Err(error)
            if error.sqlstate().is_some_and(|state| matches!(&state.code()[..2], "22" | "54")) =>
        {
            tx.batch("roll back to the savepoint", "ROLLBACK TO SAVEPOINT events").await?;
            let context = error.db().and_then(|error| error.where_()).unwrap_or_default();
            let detail = format!(
                "PostgreSQL rejected a value of {}; no event was recorded",
                event_of(context)
            );
            Ok(Err(HttpError::unprocessable("invalid_events", detail)))
        }
        Err(error) => Err(error),
    }
}

/// Returns the number of the event from the context of a server error, `COPY audit_logs, line 3, …`.
/// Leaves out the rest of the context, which has values.
fn event_of(context: &str) -> String {
    // The context of an error in JSON precedes that of COPY, and has a line of its own.
    let copy = context.rsplit_once("COPY ").map_or("", |(_, copy)| copy);
    let line = copy.split_once("line ").and_then(|(_, rest)| rest.split([',', ':']).next());
    line.map_or_else(|| "an event".to_owned(), |line| format!("event {line}"))
}

/// Parses the body, of at most [`EVENTS_MAX`] events.
fn read(body: &[u8]) -> Result<Vec<EventBody<'_>>, HttpError> {
    let shape: BodyShape<'_> = parse_object(body)?;
    match shape.events {
        Some(_) => parse_object::<EventBatch<'_>>(body).map(|batch| batch.events),
        None => parse_object(body).map(|event| vec![event]),
    }
}

/// Stops at the first event that is too many: eight megabytes of `{}` would take a hundred times as
/// much memory.
fn bounded_events<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<EventBody<'de>>, D::Error> {
    struct BoundedEvents;

    impl<'de> Visitor<'de> for BoundedEvents {
        type Value = Vec<EventBody<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of 1 to {EVENTS_MAX} events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut events: A) -> Result<Self::Value, A::Error> {
            let mut accepted = Vec::new();
            while let Some(Event(event)) = events.next_element()? {
                if accepted.len() == EVENTS_MAX {
                    return Err(A::Error::custom(format!("expected at most {EVENTS_MAX} events")));
                }
                accepted.push(event);
            }
            Ok(accepted)
        }
    }

    deserializer.deserialize_seq(BoundedEvents)
}

/// An event in a batch: an object, never an array of its members.
struct Event<'a>(EventBody<'a>);

impl<'de> Deserialize<'de> for Event<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Event<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                EventBody::deserialize(MapAccessDeserializer::new(members)).map(Event)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Validates all events. The error names the first invalid one.
fn validate<'s>(events: &'s [EventBody<'_>]) -> Result<Vec<IngestedEvent<'s>>, HttpError> {
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(HttpError::invalid(format!(
            "events: expected 1 to {EVENTS_MAX}, found {}",
            events.len()
        )));
    }
    let validated = events.iter().enumerate().map(|(index, event)| {
        incoming(event).map_err(|problem| {
            let detail = format!("event {} {problem}; no event was recorded", index + 1);
            HttpError::unprocessable("invalid_events", detail).with("event", (index + 1) as u64)
        })
    });
    validated.collect()
}

fn incoming<'s>(event: &'s EventBody<'_>) -> Result<IngestedEvent<'s>, String> {
    let action = event.action.as_deref().map(str::trim).filter(|action| !action.is_empty());
    Ok(IngestedEvent {
        action: text("action", Some(action.ok_or("has no action")?), 128)?.unwrap_or_default(),
        user_id: text("user_id", event.user_id.as_deref(), 256)?,
        resource_type: text("resource_type", event.resource_type.as_deref(), 128)?,
        resource_id: text("resource_id", event.resource_id.as_deref(), 512)?,
        old_values: value("old_values", event.old_values)?,
        new_values: value("new_values", event.new_values)?,
        ip_address: address(event.ip_address.as_deref())?,
        user_agent: text("user_agent", event.user_agent.as_deref().map(cut_agent), usize::MAX)?,
        request_id: text("request_id", event.request_id.as_deref(), 256)?,
        details: value("details", event.details)?,
    })
}

/// Returns a text of at most `max` characters, and `None` for an empty one.
fn text<'t>(name: &str, text: Option<&'t str>, max: usize) -> Result<Option<&'t str>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.contains('\0') {
        return Err(format!("has a NUL in {name}, which PostgreSQL does not store"));
    }
    // Characters are counted only if there may be too many.
    if text.len() > max && text.chars().count() > max {
        return Err(format!("has more than {max} characters in {name}"));
    }
    Ok(Some(text))
}

/// Cuts a user agent to 512 characters. Browsers send long ones, and no reader needs the end.
fn cut_agent(agent: &str) -> &str {
    match agent.char_indices().nth(512) {
        Some((end, _)) => &agent[..end],
        None => agent,
    }
}

/// Returns JSON that jsonb can store.
fn value<'v>(name: &str, value: Option<&'v RawValue>) -> Result<Option<&'v str>, String> {
    let Some(json) = value.map(RawValue::get).filter(|json| *json != "null") else {
        return Ok(None);
    };
    if json.len() > VALUE_MAX {
        return Err(format!("has {} bytes in {name}, more than {VALUE_MAX}", json.len()));
    }
    if depth(json) > DEPTH_MAX {
        return Err(format!("has more than {DEPTH_MAX} levels of nesting in {name}"));
    }
    if json.contains("\\u") && !storable(json) {
        return Err(format!(
            "has a character in {name} that jsonb cannot store (\\u0000, or half of a surrogate pair)"
        ));
    }
    Ok(Some(json))
}

/// Returns the nesting of arrays and objects.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether jsonb can store the characters that are written as `\uXXXX`: no NUL, and surrogates in
/// pairs only.
fn storable(json: &str) -> bool {
    let unit = |text: &str| text.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let mut rest = json;
    // Valid JSON has backslashes in strings only.
    while let Some(backslash) = rest.find('\\') {
        let escape = &rest[backslash + 1..];
        let Some(digits) = escape.strip_prefix('u') else {
            rest = &escape[1..];
            continue;
        };
        rest = &digits[4..];
        match unit(digits) {
            Some(0xD800..=0xDBFF) => {
                let low = rest.strip_prefix("\\u").and_then(unit);
                if !matches!(low, Some(0xDC00..=0xDFFF)) {
                    return false;
                }
                rest = &rest[6..];
            }
            None | Some(0 | 0xDC00..=0xDFFF) => return false,
            Some(_) => {}
        }
    }
    true
}

fn address(text: Option<&str>) -> Result<Option<&str>, String> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(Some(text)),
        Err(_) => Err(format!(
            "has an invalid ip_address: expected an address such as 10.0.0.7, found {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &str) -> String {
        let validated =
            read(body.as_bytes()).and_then(|sent| validate(&sent).map(|events| events.len()));
        validated.map_or_else(|error| error.detail, |count| format!("{count} accepted"))
    }

    #[test]
    fn events_are_judged_before_anything_is_written() {
        let cases = [
            (r#"{"action":"user.login","user_id":"u-1","ip_address":"10.0.0.1"}"#, "1 accepted"),
            (
                r#"{"events":[{"action":"a"},{"action":"b","details":{"k":"ü\u00fc"}}]}"#,
                "2 accepted",
            ),
            (
                r#"{"action":"a","old_values":null,"new_values":12345678901234567890.5}"#,
                "1 accepted",
            ),
            (r#"{}"#, "event 1 has no action"),
            (r#"{"action":"  "}"#, "event 1 has no action"),
            (r#"{"events":[]}"#, "events: expected 1 to 10000, found 0"),
            (r#"{"events":[{"action":"a"}],"action":"b"}"#, "unknown field `action`"),
            (r#"{"events":[{"action":"a"},{"events":[]}]}"#, "unknown field `events`"),
            (r#"{"events":{"action":"a"}}"#, "an array of 1 to 10000 events"),
            (r#"{"action":"a","details":"c:\\u0000"}"#, "1 accepted"),
            (r#"{"action":"a","actor":"root"}"#, "unknown field `actor`"),
            (r#"{"action":1}"#, "invalid type"),
            (r#"{"action":"a","user_id":"\u0000"}"#, "NUL in user_id"),
            (r#"{"action":"a","details":"\u0000"}"#, "character in details"),
            (r#"{"action":"a","details":"\ud800"}"#, "character in details"),
            (r#"{"action":"a","details":"\ud800\u0041"}"#, "character in details"),
            (r#"{"action":"a","details":"\udc00\ud800"}"#, "character in details"),
            (r#"{"action":"a","details":["\ud83d\ude00","\\ud800","\u00fc\\"]}"#, "1 accepted"),
            (r#"{"action":"a","ip_address":"localhost"}"#, "invalid ip_address"),
            (r#"{"action":"a","ip_address":"10.0.0.0/8"}"#, "invalid ip_address"),
            (r#"{"action":"a","details":{"n":1e400,"s":"\u00e9"}}"#, "1 accepted"),
            (r#"{"action":"a","details":{"n":1e400,"\u0000":1}}"#, "character in details"),
            (r#"[{"action":"a"}]"#, "expected the body to be a JSON object"),
            (r#"{"events":[["a"]]}"#, "an event, which is an object"),
        ];
        for (body, expected) in cases {
            assert!(problem(body).contains(expected), "{body}: {}", problem(body));
        }
        assert!(problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(128))).contains("accepted"));
        assert!(
            problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(129)))
                .contains("more than 128 characters")
        );
        assert!(
            problem(&format!(r#"{{"action":"a","details":"{}"}}"#, "x".repeat(VALUE_MAX)))
                .contains("more than 65536")
        );
        let nested = |deep: usize| {
            format!(r#"{{"action":"a","details":{}{}}}"#, "[".repeat(deep), "]".repeat(deep))
        };
        assert!(
            problem(&nested(DEPTH_MAX)).contains("accepted")
                && problem(&nested(DEPTH_MAX + 1)).contains("nesting")
        );
        let many = format!(r#"{{"events":[{}]}}"#, vec!["{}"; EVENTS_MAX + 1].join(","));
        assert!(problem(&many).contains("expected at most 10000 events"));
    }

    #[test]
    fn of_what_the_server_says_only_the_place_is_told() {
        assert_eq!(event_of("COPY audit_logs, line 3, column details: \"secret\""), "event 3");
        let inside = "JSON data, line 1: ...\nCOPY audit_logs, line 7, column details: \"secret\"";
        assert_eq!(event_of(inside), "event 7");
        assert_eq!(event_of(""), "an event");
    }
}
