//! `POST /audit/events`: events of applications, one or many, on the record when the answer says so.
//!
//! The batch is read and judged whole before the database is asked; then it is one transaction: the idempotency key,
//! one COPY, the answer. A client that got no answer sends the same again under the same key.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::act::{Acting, Change, Done, Effect, detached};
use super::input::{invalid, unprocessable};
use crate::db::{Error, Tx, TxFuture};
use crate::http::{Answer, Context, Refusal};
use crate::store::events::asked::network;
use crate::store::ingest::{self, Incoming};

/// Of one request.
const EVENTS_MAX: usize = 10_000;
/// Of each of the JSON values, in bytes, as in `steward.log_audit_event`.
const VALUE_MAX: usize = 65_536;

/// An event as an application tells it; or, of the body, the events.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'a> {
    #[serde(borrow)]
    events: Option<Vec<Sent<'a>>>,
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
pub async fn write(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    context.is_json()?;
    let body = context.body.clone();
    detached(context, move |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let sent: Sent<'_> = serde_json::from_slice(&body)
            .map_err(|error| invalid(format!("the body is not what is wanted: {error}")))?;
        let (mut done, replayed) = acting.once(&desk, &Batch(judge(&sent)?)).await?;
        done.body["replayed"] = json!(replayed);
        Ok(done.answer(replayed))
    })
    .await
}

struct Batch<'a>(Vec<Incoming<'a>>);

impl Change for Batch<'_> {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(copy(tx, acting, &self.0))
    }
}

async fn copy(tx: &Tx<'_>, acting: &Acting, events: &[Incoming<'_>]) -> Result<Effect, Error> {
    tx.batch("mark where to go back to", "SAVEPOINT events").await?;
    match ingest::copy(tx, acting.actor(), events.iter().copied()).await {
        Ok(accepted) => Ok(Effect::Done(Done::created(json!({ "accepted": accepted })))),
        // A value that PostgreSQL knows to be none: a number beyond numeric, say.
        Err(error) if error.sqlstate().is_some_and(|state| state.code().starts_with("22")) => {
            tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT events").await?;
            let line = error.db().and_then(|error| error.where_()).unwrap_or_default();
            let detail =
                format!("PostgreSQL does not take a value of these events ({}); none was recorded", place(line));
            Ok(Effect::refused(unprocessable("invalid_events", detail)))
        }
        Err(error) => Err(error),
    }
}

/// Of what the server says of where it was: the line, not what stands in it.
fn place(context: &str) -> String {
    let line = context.split("line ").nth(1).map(|rest| rest.split([',', ':']).next().unwrap_or_default());
    line.map_or_else(|| "one of them".to_owned(), |line| format!("event {line}"))
}

/// The events, each judged; the first that is wrong is named, and none is recorded.
fn judge<'s>(sent: &'s Sent<'_>) -> Result<Vec<Incoming<'s>>, Refusal> {
    let events: &[Sent<'_>] = match &sent.events {
        Some(events) => {
            if !matches!(
                sent,
                Sent {
                    action: None,
                    user_id: None,
                    resource_type: None,
                    resource_id: None,
                    old_values: None,
                    new_values: None,
                    ip_address: None,
                    user_agent: None,
                    request_id: None,
                    details: None,
                    ..
                }
            ) {
                return Err(invalid("found members of an event beside events; wanted one event, or {\"events\": […]}"));
            }
            events
        }
        None => std::slice::from_ref(sent),
    };
    if events.is_empty() || events.len() > EVENTS_MAX {
        return Err(invalid(format!("events: found {}, wanted 1 to {EVENTS_MAX}", events.len())));
    }
    let judged = events.iter().enumerate().map(|(place, event)| {
        incoming(event).map_err(|problem| {
            let detail = format!("event {} {problem}; none was recorded", place + 1);
            unprocessable("invalid_events", detail).with("event", (place + 1) as u64)
        })
    });
    judged.collect()
}

fn incoming<'s>(event: &'s Sent<'_>) -> Result<Incoming<'s>, String> {
    if event.events.is_some() {
        return Err("holds events of its own".to_owned());
    }
    let action = event.action.as_deref().map(str::trim).filter(|action| !action.is_empty());
    Ok(Incoming {
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
    let Some(json) = value.map(RawValue::get).filter(|json| *json != "null") else { return Ok(None) };
    if json.len() > VALUE_MAX {
        return Err(format!("has {} bytes in {name}; at most {VALUE_MAX} are taken", json.len()));
    }
    if json.contains("\\u") && (json.contains("\\u0000") || serde_json::from_str::<Value>(json).is_err()) {
        return Err(format!("has a character in {name} that PostgreSQL does not store (\\u0000, or half of a pair)"));
    }
    Ok(Some(json))
}

fn address(text: Option<&str>) -> Result<Option<&str>, String> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    network(text).map(|_| Some(text)).map_err(|wrong| format!("has a wrong ip_address: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &str) -> String {
        match serde_json::from_str::<Sent<'_>>(body) {
            Err(error) => error.to_string(),
            Ok(sent) => match judge(&sent) {
                Ok(events) => format!("{} taken", events.len()),
                Err(refusal) => refusal.detail,
            },
        }
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
            (r#"{"events":[{"action":"a"}],"action":"b"}"#, "beside events"),
            (r#"{"events":[{"action":"a"},{"events":[]}]}"#, "event 2 holds events of its own"),
            (r#"{"action":"a","actor":"root"}"#, "unknown field `actor`"),
            (r#"{"action":1}"#, "invalid type"),
            (r#"{"action":"a","user_id":"\u0000"}"#, "NUL in user_id"),
            (r#"{"action":"a","details":"\u0000"}"#, "character in details"),
            (r#"{"action":"a","details":"\ud800"}"#, "character in details"),
            (r#"{"action":"a","ip_address":"localhost"}"#, "wrong ip_address"),
        ];
        for (body, wanted) in cases {
            assert!(problem(body).contains(wanted), "{body}: {}", problem(body));
        }
        assert!(problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(128))).contains("taken"));
        assert!(problem(&format!(r#"{{"action":"{}"}}"#, "ä".repeat(129))).contains("more than 128 characters"));
        assert!(problem(&format!(r#"{{"action":"a","details":"{}"}}"#, "x".repeat(VALUE_MAX))).contains("at most"));
    }

    #[test]
    fn of_what_the_server_says_only_the_place_is_told() {
        assert_eq!(place("COPY audit_logs, line 3, column details: \"secret\""), "event 3");
        assert_eq!(place(""), "one of them");
    }
}
