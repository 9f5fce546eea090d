//! JSON Web Tokens (RFC 7519) that somebody else signs.
//!
//! The signature is judged before anything else is believed, by the one key that the header's `alg` and `kid` name
//! ([`keys`]). Then the claims, strictly: `exp` must be there; `exp` and `nbf` must be numbers; a key that stands twice in
//! an object, wherever, makes the token malformed ([`json`]), since two readers could see two tokens. `iat` is not looked
//! at: it grants nothing.

mod json;
pub(super) mod keys;
mod ring;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde_json::{Map, Value};

use super::{Caller, Denied, Role};
use crate::config;
use json::Strict;
use keys::Keys;

/// OpenID Connect Core, section 2.
const SUBJECT_CHARS_MAX: usize = 255;
/// Supabase's role of everybody who has the public key, and of nobody else.
const ANONYMOUS: &str = "anon";

/// What makes a token of somebody else's a [`Caller`].
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Keys,
    rules: config::auth::Jwt,
}

impl Verifier {
    pub(super) fn new(rules: &config::auth::Jwt, keys: Keys) -> Verifier {
        // The keys are read; the rules shall hold no secret.
        let rules = config::auth::Jwt { secret: None, ..rules.clone() };
        Verifier { keys, rules }
    }

    /// Judges a token of three parts.
    pub(super) fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Caller, Denied> {
        let header = header(token)?;
        if header.contains_key("crit") {
            return Err(Denied::Critical);
        }
        let algorithm = match header.get("alg").and_then(Value::as_str) {
            Some("HS256") => Algorithm::HS256,
            Some("RS256") => Algorithm::RS256,
            Some("ES256") => Algorithm::ES256,
            Some(_) => return Err(Denied::BadAlgorithm),
            None => return Err(Denied::Malformed),
        };
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_str().ok_or(Denied::Malformed)?),
        };
        let key = self.keys.find(algorithm, kid)?;
        let decoded = decode::<Strict>(token, key, &signature_only(algorithm)).map_err(
            |error| match error.kind() {
                ErrorKind::InvalidSignature => Denied::BadSignature,
                ErrorKind::InvalidAlgorithm => Denied::BadAlgorithm,
                _ => Denied::Malformed,
            },
        )?;
        match decoded.claims.0 {
            Value::Object(claims) => self.judge(&claims, now),
            _ => Err(Denied::Malformed),
        }
    }

    fn judge(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> Result<Caller, Denied> {
        // Exact to a microsecond for as long as dates go.
        let now = now.timestamp_micros() as f64 / 1e6;
        let leeway = self.rules.leeway.as_secs_f64();
        match instant(claims, "exp")? {
            None => return Err(Denied::NoExpiry),
            Some(expires) if now >= expires + leeway => return Err(Denied::Expired),
            Some(_) => {}
        }
        if instant(claims, "nbf")?.is_some_and(|begins| now + leeway < begins) {
            return Err(Denied::NotYetValid);
        }
        let wanted = |list: &[String], text: &str| list.iter().any(|wanted| wanted == text);
        let issuer =
            claims.get("iss").map(|issuer| issuer.as_str().ok_or(Denied::Malformed)).transpose()?;
        if !self.rules.issuer.is_empty()
            && !issuer.is_some_and(|issuer| wanted(&self.rules.issuer, issuer))
        {
            return Err(Denied::BadIssuer);
        }
        let audience = audience(claims)?;
        if !self.rules.audience.is_empty()
            && !audience.iter().any(|audience| wanted(&self.rules.audience, audience))
        {
            return Err(Denied::BadAudience);
        }
        let (claim, role) = self.role(claims).ok_or(Denied::RoleNotMapped)?;
        let user = subject(claims)?;
        if role == Role::User && user.is_none() {
            return Err(Denied::NoSubject);
        }
        let actor = user
            .as_ref()
            .map_or_else(|| format!("jwt-role:{claim}"), |subject| format!("jwt:{subject}"));
        Ok(Caller { actor, role, user })
    }

    /// The role claim's value and what it stands for.
    fn role<'c>(&self, claims: &'c Map<String, Value>) -> Option<(&'c str, Role)> {
        if claims
            .get("role")
            .and_then(Value::as_str)
            .is_some_and(|role| role.eq_ignore_ascii_case(ANONYMOUS))
        {
            return None;
        }
        // Some issuers name a claim by a URL, dots and all.
        let value = match claims.get(&self.rules.role_claim) {
            Some(value) => value,
            None => {
                let mut names = self.rules.role_claim.split('.');
                let first = claims.get(names.next()?)?;
                names.try_fold(first, |value, name| value.as_object()?.get(name))?
            }
        };
        let claim = value.as_str().filter(|claim| !claim.eq_ignore_ascii_case(ANONYMOUS))?;
        Some((claim, *self.rules.roles.get(claim)?))
    }
}

/// The claims are judged here: by our own clock, and stricter.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn header(token: &str) -> Result<Map<String, Value>, Denied> {
    part(token, 0).ok_or(Denied::Malformed)
}

/// A part of a token as an object, nothing of it verified.
fn part(token: &str, at: usize) -> Option<Map<String, Value>> {
    let json = URL_SAFE_NO_PAD.decode(token.split('.').nth(at)?).ok()?;
    match serde_json::from_slice::<Strict>(&json).ok()?.0 {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// What a text that looks like a token says of its role, nothing of it verified.
pub(super) fn claimed_role(token: &str) -> Option<String> {
    if token.split('.').count() != 3 {
        return None;
    }
    part(token, 1)?.get("role")?.as_str().map(str::to_owned)
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
fn instant(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Denied> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    seconds.map(Some).ok_or(Denied::Malformed)
}

/// One text, or a list of them.
fn audience(claims: &Map<String, Value>) -> Result<Vec<&str>, Denied> {
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(many)) => {
            many.iter().map(|one| one.as_str().ok_or(Denied::Malformed)).collect()
        }
        Some(_) => Err(Denied::Malformed),
    }
}

/// It stands in the audit trail. An empty one is none.
fn subject(claims: &Map<String, Value>) -> Result<Option<String>, Denied> {
    let Some(subject) = claims.get("sub") else { return Ok(None) };
    let subject = subject.as_str().ok_or(Denied::Malformed)?;
    if subject.chars().count() > SUBJECT_CHARS_MAX || subject.chars().any(char::is_control) {
        return Err(Denied::Malformed);
    }
    Ok((!subject.is_empty()).then(|| subject.to_owned()))
}
