//! Decides which requests are permitted: credentials, roles, rate of failures.
//!
//! ```text
//! public route    permitted; valid credentials may add details
//! other routes    credentials configured? ─ encrypted? ─ few failures? ─ valid? ─ role? ─ permitted
//! ```
//! Failures are counted by reason, limited by address and collected for the audit log. The response is
//! the same for every invalid credential.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use chrono::Utc;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, USER_AGENT};
use hyper::http::request::Parts;

use super::auth::failures::{FailedAttempts, FailureLog};
use super::auth::limiter::Limiter;
use super::auth::{Auth, AuthError, Caller, Role, address, may_carry_credentials};
use super::{Access, HttpError};
use crate::config::{Cidr, Config};
use crate::telemetry::Metrics;

/// The current rules and the recent failures.
#[derive(Debug)]
pub struct Authenticator {
    rules: RwLock<Arc<Rules>>,
    limiter: Limiter,
    failures: FailureLog,
}

/// The rules of the configuration. A reload replaces them.
#[derive(Debug, Default)]
pub struct Rules {
    auth: Auth,
    /// Origins whose pages may call, as a browser names them.
    pub cors_origins: Vec<String>,
    /// Whether credentials may come by this listener.
    carries_credentials: bool,
    trusted_proxies: Vec<Cidr>,
}

impl Rules {
    /// Reads what the configuration names. `listening_on` and `encrypted` are the listener's own, which a reload does
    /// not change.
    ///
    /// # Errors
    /// When a secret cannot be read or used.
    pub async fn load(
        config: &Config,
        listening_on: IpAddr,
        encrypted: bool,
    ) -> Result<Rules, AuthError> {
        let auth = Auth::load(config).await?;
        for warning in auth.warnings() {
            tracing::warn!(warning, "credentials of callers");
        }
        Ok(Rules {
            auth,
            cors_origins: config.http.cors_origins.clone(),
            carries_credentials: may_carry_credentials(&config.http, listening_on, encrypted),
            trusted_proxies: config.http.trusted_proxies.clone(),
        })
    }
}

/// A request to authenticate.
#[derive(Debug, Clone, Copy)]
pub struct AuthRequest<'a> {
    pub head: &'a Parts,
    pub peer: SocketAddr,
    pub access: Access,
    /// As the table of routes names it.
    pub route: &'a str,
}

/// The caller of a permitted request.
#[derive(Debug)]
pub struct Authenticated {
    /// None on open routes, where no credentials were sent that count.
    pub caller: Option<Caller>,
    /// The client's own address, as far as proxies are trusted.
    pub from: IpAddr,
}

impl Authenticator {
    /// Creates an authenticator with these rules.
    pub fn new(rules: Rules) -> Authenticator {
        Authenticator {
            rules: RwLock::new(Arc::new(rules)),
            limiter: Limiter::default(),
            failures: FailureLog::default(),
        }
    }

    /// Replaces the rules. Keeps the recent failures.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Returns the current rules.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the failures since the last call, for the audit log.
    pub fn take_failures(&self) -> FailedAttempts {
        self.failures.take()
    }

    /// Permits a request, or returns the error to respond with.
    pub fn authenticate(
        &self,
        request: AuthRequest<'_>,
        metrics: &Metrics,
    ) -> Result<Authenticated, HttpError> {
        let rules = self.rules();
        let from =
            address::client(request.peer.ip(), &request.head.headers, &rules.trusted_proxies);
        let caller = match request.access {
            Access::Open => None,
            // Invalid credentials do not close a public route. The failure is recorded.
            Access::OptionalAuth => match has_credentials(request.head) {
                true => self.identify(&rules, request, from, metrics).ok(),
                false => None,
            },
            access => {
                let caller = self.identify(&rules, request, from, metrics)?;
                if !access.allows(caller.role) {
                    return Err(forbidden(access, caller.role));
                }
                Some(caller)
            }
        };
        Ok(Authenticated { caller, from })
    }

    fn identify(
        &self,
        rules: &Rules,
        request: AuthRequest<'_>,
        from: IpAddr,
        metrics: &Metrics,
    ) -> Result<Caller, HttpError> {
        if !rules.auth.is_configured() {
            return Err(no_credentials_configured());
        }
        if !rules.carries_credentials {
            return Err(plain_http());
        }
        let now = Utc::now();
        if let Err(wait) = self.limiter.admit(from, Instant::now()) {
            // A token cannot be guessed. Its owner must not be locked out by others at the same address.
            let check_tokens = rules.auth.check_tokens(&request.head.headers, from, now);
            return check_tokens.ok_or_else(|| too_many_failures().retry_after(wait));
        }
        match rules.auth.check(&request.head.headers, from, now) {
            Ok(Some(caller)) => Ok(caller),
            Ok(None) => Err(unauthenticated()),
            Err(denied) => {
                let reason = denied.code();
                self.limiter.failed(from, Instant::now());
                let agent =
                    request.head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
                self.failures.record(from, denied, request.route, agent, now);
                metrics.http_auth_failures_total.with_label_values(&[reason]).inc();
                tracing::debug!(%from, reason, route = request.route, "rejected credentials");
                Err(denied.to_error())
            }
        }
    }
}

fn has_credentials(head: &Parts) -> bool {
    head.headers.contains_key(AUTHORIZATION) || head.headers.contains_key("apikey")
}

fn no_credentials_configured() -> HttpError {
    let detail = "this endpoint requires credentials, and none are configured: `pgsteward token new NAME --role viewer` \
                  creates a token and prints its configuration";
    HttpError::new(StatusCode::FORBIDDEN, "no_credentials_configured", detail)
}

fn plain_http() -> HttpError {
    let detail = "credentials would cross the network unencrypted: use TLS (http.tls_cert_file, http.tls_key_file), \
                  listen on a loopback address, or set http.allow_plain_http if a proxy encrypts";
    HttpError::new(StatusCode::FORBIDDEN, "plain_http", detail)
}

fn unauthenticated() -> HttpError {
    let detail = "this endpoint wants credentials: Authorization: Bearer TOKEN";
    HttpError::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
}

fn too_many_failures() -> HttpError {
    let detail = "too many requests from this address had invalid credentials";
    HttpError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail)
}

fn forbidden(access: Access, role: Role) -> HttpError {
    let detail = format!("expected the role {}, found the role {}", access.as_str(), role.as_str());
    HttpError::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
