//! Reads parameters and bodies of requests.
//!
//! Unknown parameters and members are errors: a client that misspells `dry_run` must not get the
//! real action.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::idempotency_key::IdempotencyKey;
use crate::http::{Context, HttpError};
use crate::store::audit_query::{Cursor, EARLIEST, LATEST};
use crate::store::time_arg::TimeArg;

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Bytes of a text parameter.
const TEXT_MAX: usize = 512;
/// Longest wait of `Prefer: wait`. The request also ends after `http.request_timeout`.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A body without members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

impl Context<'_> {
    /// Refuses parameters that this endpoint does not have, and parameters that occur twice.
    pub fn check_parameters(&self, known: &[&str]) -> Result<(), HttpError> {
        for name in self.query.names() {
            if name != "target" && !known.contains(&name) {
                let known = ["target"].iter().chain(known).copied().collect::<Vec<_>>().join(", ");
                let name: String = name.chars().take(64).collect();
                return Err(HttpError::invalid(format!(
                    "expected the parameters {known}, found {name:?}"
                )));
            }
            if self.query.all(name).nth(1).is_some() {
                let detail = format!("the parameter {name} occurs more than once");
                return Err(HttpError::invalid(detail));
            }
        }
        Ok(())
    }

    /// Reads the idempotency key of a mutation, which has no parameters except `target`. A dry run
    /// calls this too, so that it refuses an invalid key.
    pub fn check_mutation(&self) -> Result<Option<IdempotencyKey>, HttpError> {
        let key = IdempotencyKey::read(self)?;
        self.check_parameters(&[])?;
        Ok(key)
    }

    /// Returns a text parameter.
    pub fn text(&self, name: &str) -> Result<Option<&str>, HttpError> {
        let Some(text) = self.query.first(name) else { return Ok(None) };
        if text.is_empty() || text.len() > TEXT_MAX || text.contains('\0') {
            return Err(HttpError::invalid(format!(
                "{name}: expected 1 to {TEXT_MAX} bytes without NUL, found {} bytes",
                text.len()
            )));
        }
        Ok(Some(text))
    }

    /// Returns a copy of a text parameter.
    pub fn owned_text(&self, name: &str) -> Result<Option<String>, HttpError> {
        Ok(self.text(name)?.map(str::to_owned))
    }

    /// Returns a parameter that is one of `values`.
    pub fn one_of<T: Copy>(
        &self,
        name: &str,
        values: &[(&str, T)],
    ) -> Result<Option<T>, HttpError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let found = values.iter().find(|(value, _)| *value == text);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let expected: Vec<&str> = values.iter().map(|(value, _)| *value).collect();
            HttpError::invalid(format!(
                "{name}: expected one of {}, found {text:?}",
                expected.join(", ")
            ))
        })
    }

    /// Returns a parameter that is a number from `min` to `max`.
    pub fn number(&self, name: &str, default: i64, min: i64, max: i64) -> Result<i64, HttpError> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| {
            HttpError::invalid(format!(
                "{name}: expected an integer from {min} to {max}, found {text:?}"
            ))
        })
    }

    /// Returns a parameter that is `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<bool, HttpError> {
        match self.query.first(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => {
                let detail = format!("{name}: expected true or false, found {text:?}");
                Err(HttpError::invalid(detail))
            }
        }
    }

    /// Returns the range of the parameters `since` and `until`. Ages count from this host's clock.
    pub fn time_range(&self) -> Result<(DateTime<Utc>, DateTime<Utc>), HttpError> {
        let time = |name: &str, default: DateTime<Utc>| {
            let Some(text) = self.text(name)? else { return Ok(default) };
            let time = TimeArg::parse(text);
            let time = time.map_err(|error| HttpError::invalid(format!("{name}: {error}")))?;
            Ok::<_, HttpError>(time.resolve(Utc::now()))
        };
        let (since, until) = (time("since", EARLIEST)?, time("until", LATEST)?);
        if since >= until {
            let detail = "expected since to be before until";
            return Err(HttpError::unprocessable("empty_range", detail));
        }
        Ok((since, until))
    }

    /// Returns the parameter `cursor`, which is the `next` of the previous page.
    pub fn cursor(&self) -> Result<Option<Cursor>, HttpError> {
        let cursor = self.text("cursor")?.map(str::parse::<Cursor>).transpose();
        cursor.map_err(|error| HttpError::invalid(format!("cursor: {error}")))
    }

    /// Returns the parameter `limit`.
    pub fn limit(&self) -> Result<i64, HttpError> {
        self.number("limit", 100, 1, 1000)
    }

    /// Returns the id of a run in the path.
    pub fn run_id(&self) -> Result<Uuid, HttpError> {
        let text = self.segment.as_deref().unwrap_or_default();
        Uuid::try_parse(text).map_err(|_| {
            HttpError::invalid(
                "expected the id of a run, which is a UUID; GET /jobs/{name}/runs lists them",
            )
        })
    }

    /// Parses the body as JSON. An empty body is `{}`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        if self.body.is_empty() {
            return parse_object(b"{}");
        }
        self.check_content_type()?;
        parse_object(&self.body)
    }

    /// Refuses a body whose content type is not JSON.
    pub fn check_content_type(&self) -> Result<(), HttpError> {
        let value = self.head.headers.get(CONTENT_TYPE);
        let media_type = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        let detail = format!("expected a body of type application/json, found {media_type:?}");
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Err(HttpError::new(status, "unsupported_media_type", detail))
    }

    /// Returns how long the caller prefers to wait for the result: `Prefer: wait=SECONDS`, RFC 7240.
    pub fn wait(&self) -> Option<Duration> {
        let values =
            self.head.headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        // A preference may have parameters of its own after a semicolon.
        let preferences =
            values.flat_map(|value| value.split(',')).filter_map(|one| one.split(';').next());
        let mut named = preferences.filter_map(|preference| preference.split_once('='));
        let (_, seconds) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
        let seconds = seconds.trim().trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds).min(WAIT_MAX))
    }
}

/// Parses a body that is a JSON object.
pub fn parse_object<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, HttpError> {
    // serde also reads a struct from an array of its members, which no client should send.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(HttpError::invalid("expected the body to be a JSON object"));
    }
    serde_json::from_slice(body)
        .map_err(|error| HttpError::invalid(format!("the body is not valid: {error}")))
}
