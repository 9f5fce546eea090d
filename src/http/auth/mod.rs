//! Identifies callers by bearer tokens, JSON Web Tokens and the service key of Supabase.
//!
//! [`Auth`] is made from the configuration as a whole, files included, and never changes: a reload makes another, and
//! where that fails the one before goes on. [`Auth::check`] is pure: headers, address and time in, a [`Caller`] or a
//! [`Denied`] out.
//!
//! ```text
//! Authorization: Bearer …  ─► the text's SHA-256 among tokens and service keys ─► Caller
//!                                └ none, and it has three parts ─► jwt ─────────► Caller
//! no Authorization, apikey: … ─► among service keys ────────────────────────────► Caller
//! neither ───────────────────────────────────────────────────────────────────────► nobody
//! ```
//!
//! Clients of Supabase send its public key as `apikey` with every request, beside the user's own token: so an
//! `apikey` beside `Authorization` says nothing.
//!
//! # How it fails
//! Whatever is wrong with a credential, the caller hears the same ([`Denied::to_error`]); which it was is for metrics and
//! the audit trail. No error and no Debug shows a credential or a part of one.

pub mod address;
pub mod failures;
mod jwt;
pub mod limiter;
pub mod token;

use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::HttpError;
use crate::config::auth::SECRET_BYTES_MIN;
use crate::config::{self, Config, Secret, SecretError, SecretSource};

pub use crate::config::Role;

const APIKEY: HeaderName = HeaderName::from_static("apikey");
/// Of one credential. Supabase's tokens have about one.
const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// For each file to be read.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// For the audit trail: `token:NAME`, `jwt:SUB`, `jwt-role:CLAIM` where there is no `sub`, or
    /// `supabase:service_key`.
    pub actor: String,
    pub role: Role,
    /// The `sub` of a JWT; always there for [`Role::User`].
    pub user: Option<String>,
}

/// Why a credential is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Denied {
    /// No `Bearer`, several headers, too long, or no JSON Web Token where it looks like one.
    Malformed,
    UnknownToken,
    Expired,
    /// Not from where this token may come from.
    Address,
    BadSignature,
    /// An `alg` that no key here has.
    BadAlgorithm,
    /// A `kid` that no key here has, or none where several would do.
    UnknownKey,
    /// A `crit` header.
    Critical,
    NoExpiry,
    NotYetValid,
    BadIssuer,
    BadAudience,
    RoleNotMapped,
    /// A user's token without a `sub`.
    NoSubject,
}

impl Denied {
    /// All reasons, for metrics.
    pub const ALL: [Denied; 14] = [
        Denied::Malformed,
        Denied::UnknownToken,
        Denied::Expired,
        Denied::Address,
        Denied::BadSignature,
        Denied::BadAlgorithm,
        Denied::UnknownKey,
        Denied::Critical,
        Denied::NoExpiry,
        Denied::NotYetValid,
        Denied::BadIssuer,
        Denied::BadAudience,
        Denied::RoleNotMapped,
        Denied::NoSubject,
    ];

    /// The code in metrics and in the audit log.
    pub fn code(self) -> &'static str {
        match self {
            Denied::Malformed => "malformed",
            Denied::UnknownToken => "unknown_token",
            Denied::Expired => "expired",
            Denied::Address => "address",
            Denied::BadSignature => "bad_signature",
            Denied::BadAlgorithm => "bad_algorithm",
            Denied::UnknownKey => "unknown_key",
            Denied::Critical => "critical_header",
            Denied::NoExpiry => "no_expiry",
            Denied::NotYetValid => "not_yet_valid",
            Denied::BadIssuer => "bad_issuer",
            Denied::BadAudience => "bad_audience",
            Denied::RoleNotMapped => "role_not_mapped",
            Denied::NoSubject => "no_subject",
        }
    }

    /// Returns the same error for every reason, so that a guess reveals nothing.
    pub fn to_error(self) -> HttpError {
        let detail = "the credentials are not valid; the audit log has the reason";
        HttpError::new(StatusCode::UNAUTHORIZED, "invalid_credentials", detail)
    }
}

/// Why credentials could not be read. What was accepted before goes on.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("{key} cannot be read")]
    Unreadable { key: String, source: SecretError },
    #[error("{key} is shorter than 32 bytes: it could be guessed")]
    Weak { key: String },
    #[error(
        "{key} is Supabase's public key, which everybody has: the key of the service role is wanted"
    )]
    Public { key: String },
    #[error("auth.jwt.jwks_file {fault}")]
    Jwks { fault: String },
}

/// Whose credentials are accepted, and as what.
#[derive(Debug, Default)]
pub struct Auth {
    tokens: token::Tokens,
    /// Those of `tokens` that may come as `apikey`.
    service_keys: token::Tokens,
    jwt: Option<jwt::Verifier>,
    warnings: Vec<String>,
}

impl Auth {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// When a file cannot be read, or what is in it cannot be used.
    pub async fn load(config: &Config) -> Result<Auth, AuthError> {
        let mut auth = Auth { tokens: token::Tokens::new(&config.auth.tokens), ..Auth::default() };
        for (name, database) in &config.databases {
            let Some(source) =
                database.supabase.as_ref().and_then(|supabase| supabase.service_key.as_ref())
            else {
                continue;
            };
            let key = match name.as_str() {
                config::MAIN => "database.supabase.service_key".to_owned(),
                name => format!("databases.{name}.supabase.service_key"),
            };
            let secret = read(source, &key).await?;
            if is_public(&secret) {
                return Err(AuthError::Public { key });
            }
            auth.tokens.add_admin("supabase:service_key", &secret);
            auth.service_keys.add_admin("supabase:service_key", &secret);
        }
        if config.auth.jwt.is_configured() {
            let secret = match &config.auth.jwt.secret {
                Some(source) => Some(read(source, "auth.jwt.secret").await?),
                None => None,
            };
            let jwks = match &config.auth.jwt.jwks_file {
                Some(path) => {
                    let read = SecretSource::File(path.clone()).load(READ_WITHIN).await;
                    Some(read.map_err(|source| AuthError::Unreadable {
                        key: "auth.jwt.jwks_file".to_owned(),
                        source,
                    })?)
                }
                None => None,
            };
            let keys = jwt::keys::Keys::new(secret, jwks.as_ref().map(Secret::expose))
                .map_err(|fault| AuthError::Jwks { fault })?;
            auth.warnings
                .extend(keys.unusable().iter().map(|fault| format!("auth.jwt.jwks_file: {fault}")));
            auth.jwt = Some(jwt::Verifier::new(&config.auth.jwt, keys));
        }
        Ok(auth)
    }

    /// Whether any credential at all is accepted.
    pub fn is_configured(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_some()
    }

    /// What could be read but not used, for the log.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Who sent these headers from this address. None: no credentials were sent.
    ///
    /// # Errors
    /// When credentials were sent that are not accepted.
    pub fn check(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
        now: DateTime<Utc>,
    ) -> Result<Option<Caller>, Denied> {
        if let Some(value) = single(headers, &AUTHORIZATION)? {
            return self.bearer(bearer(value)?, from, now).map(Some);
        }
        if self.service_keys.is_empty() {
            return Ok(None);
        }
        let Some(value) = single(headers, &APIKEY)? else { return Ok(None) };
        let found = self.service_keys.find(
            credential(value.to_str().map_err(|_| Denied::Malformed)?)?,
            from,
            now,
        );
        to_caller(found.ok_or(Denied::UnknownToken)?).map(Some)
    }

    /// The same where that costs one hash: of tokens that are configured, not of JSON Web Tokens.
    pub fn check_tokens(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
        now: DateTime<Utc>,
    ) -> Option<Caller> {
        let sent = bearer(single(headers, &AUTHORIZATION).ok()??).ok()?;
        to_caller(self.tokens.find(sent, from, now)?).ok()
    }

    fn bearer(&self, sent: &str, from: IpAddr, now: DateTime<Utc>) -> Result<Caller, Denied> {
        match (self.tokens.find(sent, from, now), &self.jwt) {
            (Some(found), _) => to_caller(found),
            (None, Some(jwt)) if sent.split('.').count() == 3 => jwt.verify(sent, now),
            (None, _) => Err(Denied::UnknownToken),
        }
    }
}

fn to_caller(found: Result<(&str, Role), Denied>) -> Result<Caller, Denied> {
    found.map(|(actor, role)| Caller { actor: actor.to_owned(), role, user: None })
}

/// Whether credentials may come by this listener: they shall not cross a network in the clear. `listening_on` is what
/// the socket itself says, since systemd may have bound another than `http.listen`.
pub fn may_carry_credentials(http: &config::Http, listening_on: IpAddr, encrypted: bool) -> bool {
    encrypted || http.allow_plain_http || listening_on.to_canonical().is_loopback()
}

/// Of several one cannot be chosen: who stands between may have looked at another.
fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'h HeaderValue>, Denied> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Denied::Malformed),
    }
}

/// RFC 6750, section 2.1.
fn bearer(value: &HeaderValue) -> Result<&str, Denied> {
    let (scheme, rest) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Denied::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Denied::Malformed);
    }
    credential(rest.trim_start_matches(' '))
}

fn credential(text: &str) -> Result<&str, Denied> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    match (1..=CREDENTIAL_BYTES_MAX).contains(&text.len()) && text.bytes().all(fits) {
        true => Ok(text),
        false => Err(Denied::Malformed),
    }
}

async fn read(source: &SecretSource, key: &str) -> Result<Secret, AuthError> {
    let key = || key.to_owned();
    let secret = source
        .load(READ_WITHIN)
        .await
        .map_err(|source| AuthError::Unreadable { key: key(), source })?;
    if secret.expose().len() < SECRET_BYTES_MIN {
        Err(AuthError::Weak { key: key() })
    } else {
        Ok(secret)
    }
}

/// Whether a "service key" is the one that stands in every page: it would make everybody an admin.
fn is_public(key: &Secret) -> bool {
    let key = key.expose();
    key.starts_with("sb_publishable_")
        || jwt::claimed_role(key).is_some_and(|role| role != "service_role")
}

#[cfg(test)]
mod tests;
