//! `POST /audit/events`: events of applications, one or many, on the record when the answer says so.
//!
//! The batch is read and judged whole before the database is asked; then it is one transaction: the idempotency key,
//! one COPY, the answer. A client that got no answer sends the same again under the same key.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use serde_json::value::RawValue;

use super::input::{invalid, unprocessable};
use super::mutation::{Mutation, MutationContext, MutationReply, MutationResult, run_detached};
use crate::db::{Error, Tx, TxFuture};
use crate::http::{Context, HttpError, Response};
use crate::store::audit_ingest::{self, IngestedEvent};

/// Of one request.
const EVENTS_MAX: usize = 10_000;
/// Of each of the JSON values, in bytes, as in `steward.log_audit_event`.
const VALUE_MAX: usize = 65_536;
/// Of each of them. PostgreSQL's own parser ends at some thousands.
const DEPTH_MAX: usize = 100;

/// Whether the body holds one event or many.
#[derive(Deserialize)]
struct BodyShape<'a> {
    #[serde(borrow)]
    events: Option<&'a RawValue>,
}

/// Many events.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBatch<'a> {
    #[serde(borrow, deserialize_with = "bounded_events")]
    events: Vec<EventBody<'a>>,
}

/// An event as an application tells it.
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

/// Writes them.
pub async fn write(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    context.is_json()?;
    let body = context.body.clone();
    run_detached(context, move |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let sent = read(&body)?;
        let (mut done, replayed) = ctx.execute(&database, &RecordEvents(validate(&sent)?)).await?;
        done.body["replayed"] = json!(replayed);
        Ok(done.response(replayed))
    })
    .await
}

struct RecordEvents<'a>(Vec<IngestedEvent<'a>>);

impl Mutation for RecordEvents<'_> {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(copy(tx, ctx, &self.0))
    }
}

async fn copy(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    events: &[IngestedEvent<'_>],
) -> Result<MutationResult, Error> {
    tx.batch("mark where to go back to", "SAVEPOINT events").await?;
    match audit_ingest::copy(tx, ctx.actor(), events.iter().copied()).await {
        Ok(accepted) => {
            Ok(MutationResult::Done(MutationReply::created(json!({ "accepted": accepted }))))
        }
        // A value that PostgreSQL knows to be none, a number beyond numeric, say; or one beyond its limits.
        Err(error)
            if error.sqlstate().is_some_and(|state| matches!(&state.code()[..2], "22" | "54")) =>
        {
            tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT events").await?;
            let line = error.db().and_then(|error| error.where_()).unwrap_or_default();
            let detail = format!(
                "PostgreSQL does not take a value of these events ({}); none was recorded",
                line_of(line)
            );
            Ok(MutationResult::refused(unprocessable("invalid_events", detail)))
        }
        Err(error) => Err(error),
    }
}

/// Of what the server says of where it was: the line, not what stands in it.
fn line_of(context: &str) -> String {
    // Inside stands the line of the JSON.
    let copy =
        context.rsplit("COPY ").next().filter(|_| context.contains("COPY ")).unwrap_or_default();
    let line =
        copy.split("line ").nth(1).map(|rest| rest.split([',', ':']).next().unwrap_or_default());
    line.map_or_else(|| "one of them".to_owned(), |line| format!("event {line}"))
}

/// Takes the body apart; no more of it than may be sent.
fn read(body: &[u8]) -> Result<Vec<EventBody<'_>>, HttpError> {
    let wrong =
        |error: serde_json::Error| invalid(format!("the body is not what is wanted: {error}"));
    // Members may otherwise be given by their place, in an array.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(invalid(
            "the body is not what is wanted: an object, of one event or with the member events",
        ));
    }
    let form: BodyShape<'_> = serde_json::from_slice(body).map_err(wrong)?;
    match form.events {
        Some(_) => {
            serde_json::from_slice::<EventBatch<'_>>(body).map(|many| many.events).map_err(wrong)
        }
        None => serde_json::from_slice(body).map(|one| vec![one]).map_err(wrong),
    }
}

/// Stops at the first event that is one too many: of eight megabytes of `{}` a hundred times as much would be made.
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
            let mut taken = Vec::new();
            while let Some(Event(event)) = events.next_element()? {
                if taken.len() == EVENTS_MAX {
                    return Err(A::Error::custom(format!("found more than {EVENTS_MAX} events")));
                }
                taken.push(event);
            }
            Ok(taken)
        }
    }

    deserializer.deserialize_seq(BoundedEvents)
}

/// An event of many: an object, never an array of its members.
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

/// The events, each judged; the first that is wrong is named, and none is recorded.
fn validate<'s>(events: &'s [EventBody<'_>]) -> Result<Vec<IngestedEvent<'s>>, HttpError> {
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(invalid(format!("events: found {}, wanted 1 to {EVENTS_MAX}", events.len())));
    }
    let judged = events.iter().enumerate().map(|(line_of, event)| {
        incoming(event).map_err(|problem| {
            let detail = format!("event {} {problem}; none was recorded", line_of + 1);
            unprocessable("invalid_events", detail).with("event", (line_of + 1) as u64)
        })
    });
    judged.collect()
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

/// A text of at most so many characters; an empty one is none.
fn text<'t>(name: &str, text: Option<&'t str>, most: usize) -> Result<Option<&'t str>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.contains('\0') {
        return Err(format!("has a NUL in {name}, which PostgreSQL does not store"));
    }
    // Bytes first: characters are counted only where there may be too many.
    if text.len() > most && text.chars().count() > most {
        return Err(format!("has more than {most} characters in {name}"));
    }
    Ok(Some(text))
}

/// Whoever writes browsers writes ever longer ones, and nobody reads the end.
fn cut_agent(agent: &str) -> &str {
    match agent.char_indices().nth(512) {
        Some((end, _)) => &agent[..end],
        None => agent,
    }
}

/// JSON that PostgreSQL stores: without NUL and halves of characters, which it does not.
fn value<'v>(name: &str, value: Option<&'v RawValue>) -> Result<Option<&'v str>, String> {
    let Some(json) = value.map(RawValue::get).filter(|json| *json != "null") else {
        return Ok(None);
    };
    if json.len() > VALUE_MAX {
        return Err(format!("has {} bytes in {name}; at most {VALUE_MAX} are taken", json.len()));
    }
    if depth(json) > DEPTH_MAX {
        return Err(format!("is nested more than {DEPTH_MAX} deep in {name}"));
    }
    if json.contains("\\u") && !storable(json) {
        return Err(format!(
            "has a character in {name} that PostgreSQL does not store (\\u0000, or half of a pair)"
        ));
    }
    Ok(Some(json))
}

/// How deep arrays and objects stand in each other.
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

/// Whether PostgreSQL stores the characters that a JSON value spells as `\uXXXX`: no NUL, and surrogates in pairs.
fn storable(json: &str) -> bool {
    let unit = |text: &str| text.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let mut rest = json;
    // Outside of texts there is no backslash.
    while let Some(line_of) = rest.find('\\') {
        let escape = &rest[line_of + 1..];
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
            "has a wrong ip_address: found {text:?}, wanted an address such as 10.0.0.7"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &str) -> String {
        let judged =
            read(body.as_bytes()).and_then(|sent| validate(&sent).map(|events| events.len()));
        judged.map_or_else(|error| error.detail, |count| format!("{count} taken"))
    }

    #[test]
    fn events_are_judged_before_anything_is_written() {
        let cases = [
            (r#"{"action":"user.login","user_id":"u-1","ip_address":"10.0.0.1"}"#, "1 taken"),
            (r#"{"events":[{"action":"a"},{"action":"b","details":{"k":"ü\u00fc"}}]}"#, "2 taken"),
            (r#"{"action":"a","old_values":null,"new_values":12345678901234567890.5}"#, "1 taken"),
            (r#"{}"#, "event 1 has no action"),
            (r#"{"action":"  "}"#, "event 1 has no action"),
            (r#"{"events":[]}"#, "events: found 0"),
            (r#"{"events":[{"action":"a"}],"action":"b"}"#, "unknown field `action`"),
            (r#"{"events":[{"action":"a"},{"events":[]}]}"#, "unknown field `events`"),
            (r#"{"events":{"action":"a"}}"#, "an array of 1 to 10000 events"),
            (r#"{"action":"a","details":"c:\\u0000"}"#, "1 taken"),
            (r#"{"action":"a","actor":"root"}"#, "unknown field `actor`"),
            (r#"{"action":1}"#, "invalid type"),
            (r#"{"action":"a","user_id":"\u0000"}"#, "NUL in user_id"),
            (r#"{"action":"a","details":"\u0000"}"#, "character in details"),
            (r#"{"action":"a","details":"\ud800"}"#, "character in details"),
            (r#"{"action":"a","details":"\ud800\u0041"}"#, "character in details"),
            (r#"{"action":"a","details":"\udc00\ud800"}"#, "character in details"),
            (r#"{"action":"a","details":["\ud83d\ude00","\\ud800","\u00fc\\"]}"#, "1 taken"),
            (r#"{"action":"a","ip_address":"localhost"}"#, "wrong ip_address"),
            (r#"{"action":"a","ip_address":"10.0.0.0/8"}"#, "wrong ip_address"),
            (r#"{"action":"a","details":{"n":1e400,"s":"\u00e9"}}"#, "1 taken"),
            (r#"{"action":"a","details":{"n":1e400,"\u0000":1}}"#, "character in details"),
            (r#"[{"action":"a"}]"#, "wanted: an object"),
            (r#"{"events":[["a"]]}"#, "an event, which is an object"),
        ];
        for (body, wanted) in cases {
            assert!(problem(body).contains(wanted), "{body}: {}", problem(body));
        }
        assert!(problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(128))).contains("taken"));
        assert!(
            problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(129)))
                .contains("more than 128 characters")
        );
        assert!(
            problem(&format!(r#"{{"action":"a","details":"{}"}}"#, "x".repeat(VALUE_MAX)))
                .contains("at most")
        );
        let nested = |deep: usize| {
            format!(r#"{{"action":"a","details":{}{}}}"#, "[".repeat(deep), "]".repeat(deep))
        };
        assert!(
            problem(&nested(DEPTH_MAX)).contains("taken")
                && problem(&nested(DEPTH_MAX + 1)).contains("deep")
        );
        let many = format!(r#"{{"events":[{}]}}"#, vec!["{}"; EVENTS_MAX + 1].join(","));
        assert!(problem(&many).contains("more than 10000 events"));
    }

    #[test]
    fn of_what_the_server_says_only_the_place_is_told() {
        assert_eq!(line_of("COPY audit_logs, line 3, column details: \"secret\""), "event 3");
        let inside = "JSON data, line 1: ...\nCOPY audit_logs, line 7, column details: \"secret\"";
        assert_eq!(line_of(inside), "event 7");
        assert_eq!(line_of(""), "one of them");
    }
}
