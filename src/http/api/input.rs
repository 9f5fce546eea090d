//! What callers send, read strictly: a parameter or member that is not known is refused, not passed over, since whoever
//! misspells `dry_run` does not want the real thing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::http::{Context, HttpError};
use crate::store::time_arg::TimeArg;

/// RFC 7240.
const PREFER: HeaderName = HeaderName::from_static("prefer");
/// What a name or an id of a caller's may have, in bytes.
pub const TEXT_MAX: usize = 512;
/// No answer waits longer, and no request lasts longer than `http.request_timeout`.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A body without members.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// A request that is not understood.
pub fn invalid(detail: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
}

/// A value of a request that is understood, and not possible.
pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
}

impl Context<'_> {
    /// Refuses parameters that this endpoint does not know, and such as occur twice.
    pub fn check_parameters(&self, known: &[&str]) -> Result<(), HttpError> {
        for name in self.query.names() {
            if name != "target" && !known.contains(&name) {
                let known = ["target"].iter().chain(known).copied().collect::<Vec<_>>().join(", ");
                let name: String = name.chars().take(64).collect();
                return Err(invalid(format!(
                    "found the parameter {name:?}; this endpoint knows {known}"
                )));
            }
            if self.query.all(name).nth(1).is_some() {
                return Err(invalid(format!("the parameter {name} occurs more than once")));
            }
        }
        Ok(())
    }

    /// The same of a change, whose idempotency key is looked at also where nothing is changed.
    pub fn check_mutation(&self) -> Result<(), HttpError> {
        super::mutation::check_key(self)?;
        self.check_parameters(&[])
    }

    /// The text of a parameter.
    pub fn text(&self, name: &str) -> Result<Option<&str>, HttpError> {
        let Some(text) = self.query.first(name) else { return Ok(None) };
        if text.is_empty() || text.len() > TEXT_MAX || text.contains('\0') {
            let detail = format!(
                "{name}: wanted a text of 1 to {TEXT_MAX} bytes without NUL, or no such parameter"
            );
            return Err(invalid(detail));
        }
        Ok(Some(text))
    }

    /// A parameter that is a number within bounds.
    pub fn number(
        &self,
        name: &str,
        default: i64,
        least: i64,
        most: i64,
    ) -> Result<i64, HttpError> {
        let Some(text) = self.text(name)? else { return Ok(default) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            invalid(format!("{name}: found {text:?}, wanted a whole number from {least} to {most}"))
        })
    }

    /// A parameter that is true or false.
    pub fn flag(&self, name: &str) -> Result<bool, HttpError> {
        match self.query.first(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(invalid(format!("{name}: found {text:?}, wanted true or false"))),
        }
    }

    /// A parameter that is a time, by this instance's clock.
    pub fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, HttpError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let time = TimeArg::parse(text).map_err(|wrong| invalid(format!("{name}: {wrong}")))?;
        Ok(Some(time.resolve(Utc::now())))
    }

    /// The segment of the path, where it is the id of a run.
    pub fn run_id(&self) -> Result<Uuid, HttpError> {
        let text = self.segment.as_deref().unwrap_or_default();
        Uuid::try_parse(text)
            .map_err(|_| invalid("the id of a run is a UUID, as GET /jobs/{name}/runs tells it"))
    }

    /// The body as JSON; one that is empty counts as `{}`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        if !self.body.is_empty() {
            self.is_json()?;
        }
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        // Members may otherwise be given by their place, in an array.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(invalid("the body is not what is wanted: an object"));
        }
        serde_json::from_slice(body)
            .map_err(|error| invalid(format!("the body is not what is wanted: {error}")))
    }

    /// Refuses a body that says that it is something else than JSON.
    pub fn is_json(&self) -> Result<(), HttpError> {
        let kind = self
            .head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("application/json") {
            return Ok(());
        }
        let detail = format!("found a body of type {kind:?}, wanted application/json");
        Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
    }

    /// How long the caller prefers to wait for the end: `Prefer: wait=SECONDS`, by RFC 7240.
    pub fn wait(&self) -> Option<Duration> {
        let values =
            self.head.headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        // Each may have parameters of its own behind a semicolon.
        let preferences =
            values.flat_map(|value| value.split(',')).filter_map(|one| one.split(';').next());
        let mut named = preferences.filter_map(|preference| preference.split_once('='));
        let (_, seconds) = named.find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))?;
        let seconds = seconds.trim().trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds).min(WAIT_MAX))
    }
}
