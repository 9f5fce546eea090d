//! `[auth]`: who may call the HTTP API.

pub(super) mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::cidr::Cidr;
use super::secret::SecretSource;

pub use table::{SECRET_BYTES_MIN, TOKEN_NAME, is_token_name, parse_expiry};

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Auth {
    /// `[auth.tokens.NAME]`. Default none.
    pub tokens: BTreeMap<String, Token>,
    /// `[auth.jwt]`
    pub jwt: Jwt,
}

impl Auth {
    /// Whether any credential is accepted by what this table says.
    pub fn is_configured(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_configured()
    }
}

/// What a caller may do. Roles have no order: see [`Role::covers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sees what it did itself.
    User,
    /// Writes audit events.
    Service,
    /// Reads everything.
    Viewer,
    /// Runs, pauses and cancels jobs, too.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// From the least to the most.
    pub const ALL: [Role; 5] =
        [Role::User, Role::Service, Role::Viewer, Role::Operator, Role::Admin];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Service => "service",
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }

    /// Whether whoever has this role may do what is for `needed`. A viewer writes no events and a service reads
    /// nothing; a user's own rows are another question.
    pub fn covers(self, needed: Role) -> bool {
        match self {
            Role::Admin => needed != Role::User,
            Role::Operator => matches!(needed, Role::Operator | Role::Viewer),
            Role::Viewer | Role::Service | Role::User => self == needed,
        }
    }
}

/// `[auth.tokens.NAME]`: a bearer token, of which only the hash is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// `role`: any but `user`, since a token is nobody's row.
    pub role: Role,
    /// `sha256` of the whole token.
    pub sha256: [u8; 32],
    /// `expires`: no longer accepted from this instant on. A date is its beginning, by UTC. Default never.
    pub expires: Option<DateTime<Utc>>,
    /// `cidrs` it may come from. Default any.
    pub cidrs: Vec<Cidr>,
}

/// `[auth.jwt]`: JSON Web Tokens that somebody else signs.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// `secret` or `secret_file` (`SUPABASE_JWT_SECRET`): for HS256, at least 32 bytes, taken as they stand.
    pub secret: Option<SecretSource>,
    /// `jwks_file`: public keys for RS256 and ES256. Default none.
    pub jwks_file: Option<PathBuf>,
    /// `issuer`: one of these must be the `iss`. Default any.
    pub issuer: Vec<String>,
    /// `audience`: one of these must be in `aud`. Default any.
    pub audience: Vec<String>,
    /// `role_claim`, default `role`.
    pub role_claim: String,
    /// `roles`: what the claim's values stand for. Default `authenticated` is a user, `service_role` an admin.
    pub roles: BTreeMap<String, Role>,
    /// `leeway`, default 30 s, up to 5 m: for clocks that differ.
    pub leeway: Duration,
}

impl Jwt {
    /// Whether any signature could be believed.
    pub fn is_configured(&self) -> bool {
        self.secret.is_some() || self.jwks_file.is_some()
    }
}

impl Default for Jwt {
    fn default() -> Jwt {
        let roles = [("authenticated", Role::User), ("service_role", Role::Admin)];
        Jwt {
            secret: None,
            jwks_file: None,
            issuer: Vec::new(),
            audience: Vec::new(),
            role_claim: "role".to_owned(),
            roles: roles.map(|(claim, role)| (claim.to_owned(), role)).into(),
            leeway: Duration::from_secs(30),
        }
    }
}
