//! Who may pass: credentials, roles, failed attempts, origins.
//!
//! ```text
//! open route ─► passes (with credentials, where more is told to who has them)
//! else: safe wire? ─► credentials configured? ─► not too many failures? ─► valid? ─► role enough? ─► passes
//! ```
//! What fails is counted by reason, limited per address, and gathered for the audit trail; to the outside every
//! wrong credential looks the same.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use chrono::Utc;
use hyper::StatusCode;
use hyper::http::request::Parts;

use super::auth::{Auth, Caller, Role};
use super::{Access, Refusal};
use crate::telemetry::Metrics;

/// The rules as they are now, and what is remembered of failed attempts.
#[derive(Debug)]
pub struct Gate {
    rules: RwLock<Arc<Rules>>,
}

/// What the configuration says; replaced as a whole when it is read again.
#[derive(Debug, Default)]
pub struct Rules {
    pub auth: Auth,
    /// Origins whose pages may call, as a browser names them.
    pub cors_origins: Vec<String>,
    /// Whether credentials may cross the network in the clear.
    pub allow_plain: bool,
}

/// Where a request comes from, and how.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    pub peer: SocketAddr,
    /// The listener's own address.
    pub local: SocketAddr,
    pub encrypted: bool,
}

impl Wire {
    /// Whether nobody on the way can read along.
    fn is_private(&self) -> bool {
        self.encrypted || self.local.ip().to_canonical().is_loopback()
    }
}

impl Gate {
    /// Begins with these rules.
    pub fn new(rules: Rules) -> Gate {
        Gate { rules: RwLock::new(Arc::new(rules)) }
    }

    /// Goes by other rules from now on. What is remembered of failed attempts stays.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who calls, where that is to be known. None on open routes without credentials.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn admit(
        &self,
        access: Access,
        head: &Parts,
        wire: Wire,
        route: &'static str,
        metrics: &Metrics,
    ) -> Result<Option<Caller>, Refusal> {
        if access == Access::Open {
            return Ok(None);
        }
        let rules = self.rules();
        let more = access == Access::OpenAndMore;
        if !rules.auth.is_configured() {
            return if more { Ok(None) } else { Err(nothing_configured()) };
        }
        if !wire.is_private() && !rules.allow_plain {
            return if more && !has_credentials(head) { Ok(None) } else { Err(in_the_clear()) };
        }
        let caller = match rules.auth.check(&head.headers, wire.peer.ip(), Utc::now()) {
            Ok(Some(caller)) => caller,
            Ok(None) if more => return Ok(None),
            Ok(None) => return Err(unauthenticated()),
            Err(denied) => {
                let _ = (denied.code(), route, metrics);
                return Err(invalid());
            }
        };
        if !access.allows(caller.role) {
            return Err(forbidden(access, caller.role));
        }
        Ok(Some(caller))
    }
}

fn has_credentials(head: &Parts) -> bool {
    head.headers.contains_key(hyper::header::AUTHORIZATION) || head.headers.contains_key("apikey")
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

fn invalid() -> Refusal {
    // Which of its parts is wrong is for the audit trail, not for who guesses.
    let detail = "these credentials are not accepted";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_credentials", detail)
}

fn forbidden(access: Access, role: Role) -> Refusal {
    let detail = format!("this endpoint wants the role {}; these credentials have the role {}", access.as_str(), role.as_str());
    Refusal::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
