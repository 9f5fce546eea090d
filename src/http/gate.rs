//! Who may pass: credentials, roles, failed attempts, origins.
//!
//! ```text
//! open route ─► passes (with credentials, where more is told to who has them)
//! else: safe wire? ─► credentials configured? ─► not too many failures? ─► valid? ─► role enough? ─► passes
//! ```
//! What fails is counted by reason, limited per address, and gathered for the audit trail; to the outside every
//! wrong credential looks the same.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use chrono::Utc;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, USER_AGENT};
use hyper::http::request::Parts;

use super::auth::failures::{Failures, Taken};
use super::auth::limiter::Limiter;
use super::auth::{Auth, AuthError, Caller, Role, address, may_carry_credentials};
use super::{Access, Refusal};
use crate::config::{Cidr, Config};
use crate::telemetry::Metrics;

/// The rules as they are now, and what is remembered of failed attempts.
#[derive(Debug)]
pub struct Gate {
    rules: RwLock<Arc<Rules>>,
    limiter: Limiter,
    failures: Failures,
}

/// What the configuration says; replaced as a whole when it is read again.
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

/// A request at the gate.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub head: &'a Parts,
    pub peer: SocketAddr,
    pub access: Access,
    /// As the table of routes names it.
    pub route: &'a str,
}

/// Who was let in, and from where.
#[derive(Debug)]
pub struct Admitted {
    /// None on open routes, where no credentials were sent that count.
    pub caller: Option<Caller>,
    /// The client's own address, as far as proxies are trusted.
    pub from: IpAddr,
}

impl Gate {
    /// Begins with these rules.
    pub fn new(rules: Rules) -> Gate {
        Gate {
            rules: RwLock::new(Arc::new(rules)),
            limiter: Limiter::default(),
            failures: Failures::default(),
        }
    }

    /// Goes by other rules from now on. What is remembered of failed attempts stays.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what failed since the last time, for the audit trail.
    pub fn take_failures(&self) -> Taken {
        self.failures.take()
    }

    /// Lets a call in, or refuses it.
    pub fn admit(&self, call: Call<'_>, metrics: &Metrics) -> Result<Admitted, Refusal> {
        let rules = self.rules();
        let from = address::client(call.peer.ip(), &call.head.headers, &rules.trusted_proxies);
        let caller = match call.access {
            Access::Open => None,
            // What is open stays open to whoever sends credentials that do not count here; that they fail is noted.
            Access::OpenAndMore => match has_credentials(call.head) {
                true => self.caller(&rules, call, from, metrics).ok(),
                false => None,
            },
            access => {
                let caller = self.caller(&rules, call, from, metrics)?;
                if !access.allows(caller.role) {
                    return Err(forbidden(access, caller.role));
                }
                Some(caller)
            }
        };
        Ok(Admitted { caller, from })
    }

    fn caller(
        &self,
        rules: &Rules,
        call: Call<'_>,
        from: IpAddr,
        metrics: &Metrics,
    ) -> Result<Caller, Refusal> {
        if !rules.auth.is_configured() {
            return Err(nothing_configured());
        }
        if !rules.carries_credentials {
            return Err(in_the_clear());
        }
        let now = Utc::now();
        if let Err(wait) = self.limiter.admit(from, Instant::now()) {
            // Of 256 random bits nobody guesses any; who has them is not to suffer for who shares the address.
            let known = rules.auth.known(&call.head.headers, from, now);
            return known.ok_or_else(|| too_many_failures().later(wait));
        }
        match rules.auth.check(&call.head.headers, from, now) {
            Ok(Some(caller)) => Ok(caller),
            Ok(None) => Err(unauthenticated()),
            Err(denied) => {
                let reason = denied.code();
                self.limiter.failed(from, Instant::now());
                let agent = call.head.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
                self.failures.record(from, denied, call.route, agent, now);
                metrics.http_auth_failures_total.with_label_values(&[reason]).inc();
                tracing::debug!(%from, reason, route = call.route, "credentials are not accepted");
                Err(denied.refusal())
            }
        }
    }
}

fn has_credentials(head: &Parts) -> bool {
    head.headers.contains_key(AUTHORIZATION) || head.headers.contains_key("apikey")
}

fn nothing_configured() -> Refusal {
    let detail = "this endpoint wants credentials, and none are configured: `pgsteward token new NAME --role viewer` \
                  makes a token and shows what to write into the configuration";
    Refusal::new(StatusCode::FORBIDDEN, "no_credentials_configured", detail)
}

fn in_the_clear() -> Refusal {
    let detail = "credentials would cross the network in the clear: use TLS (http.tls_cert_file, http.tls_key_file), \
                  listen on a loopback address, or set http.allow_plain_http where something in front encrypts";
    Refusal::new(StatusCode::FORBIDDEN, "plain_http", detail)
}

fn unauthenticated() -> Refusal {
    let detail = "this endpoint wants credentials: Authorization: Bearer TOKEN";
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
}

fn too_many_failures() -> Refusal {
    let detail = "too many calls from this address had credentials that are not accepted";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail)
}

fn forbidden(access: Access, role: Role) -> Refusal {
    let detail = format!(
        "this endpoint wants the role {}; these credentials have the role {}",
        access.as_str(),
        role.as_str()
    );
    Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
