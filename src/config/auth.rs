//! `[auth]`: who may call the HTTP API.

mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::cidr::Cidr;
use super::secret::SecretSource;
use super::table::{table, words};
use super::value::{MINUTE, SECOND};

pub(super) use read::cors_origin;
pub use read::{SECRET_BYTES_MIN, TOKEN_NAME, is_token_name, parse_expiry};

table! {
    /// `[auth]`
    Auth {
        /// `[auth.tokens.NAME]`
        "tokens" tokens: BTreeMap<String, Token> = BTreeMap::new(), custom(read::tokens), live;
        "jwt" jwt: Jwt = Jwt::default(), table(), nested;
    }
}

impl Auth {
    /// Whether any credential is accepted because of this table.
    pub fn is_configured(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_configured()
    }
}

words! {
    /// What a caller may do. Roles have no order: see [`Role::covers`].
    Role {
        /// Reads the record of its own acts.
        User = "user",
        /// Writes audit events.
        Service = "service",
        /// Reads everything.
        Viewer = "viewer",
        /// Also runs, pauses and cancels jobs.
        Operator = "operator",
        /// May do everything.
        Admin = "admin",
    }
}

impl Role {
    /// From the least to the most powerful.
    pub const ALL: [Role; 5] =
        [Role::User, Role::Service, Role::Viewer, Role::Operator, Role::Admin];

    /// Whether a caller with this role may do what requires `needed`. A viewer writes no events and
    /// a service reads nothing. Access to a user's own rows is decided elsewhere.
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
    /// Any but `user`, because a token belongs to no user.
    pub role: Role,
    /// Of the whole token.
    pub sha256: [u8; 32],
    /// The token is not accepted from this instant on. A date means its beginning in UTC.
    pub expires: Option<DateTime<Utc>>,
    /// Where requests with the token may come from; empty means from anywhere.
    pub cidrs: Vec<Cidr>,
}

table! {
    /// `[auth.jwt]`: JSON Web Tokens that are signed elsewhere.
    Jwt {
        /// For HS256: at least 32 bytes, taken literally.
        "secret" secret: Option<SecretSource> = None, secret(read::jwt_secret), live,
            env "SUPABASE_JWT_SECRET";
        /// Public keys for RS256 and ES256.
        "jwks_file" jwks_file: Option<PathBuf> = None, path(), live;
        /// One of these must be the `iss`; empty means that any is accepted.
        "issuer" issuer: Vec<String> = Vec::new(), list_or_one("texts", read::some_text), live;
        /// One of these must be in `aud`; empty means that any is accepted.
        "audience" audience: Vec<String> = Vec::new(), list_or_one("texts", read::some_text), live;
        "role_claim" role_claim: String = "role".to_owned(),
            parsed("the name of a claim", read::role_claim), live;
        /// The role for each value of the claim.
        "roles" roles: BTreeMap<String, Role> = supabase_roles(), custom(read::roles), live;
        /// Tolerates clocks that differ.
        "leeway" leeway: Duration = 30 * SECOND, duration(Duration::ZERO, 5 * MINUTE), live;
    }
}

fn supabase_roles() -> BTreeMap<String, Role> {
    [("authenticated", Role::User), ("service_role", Role::Admin)]
        .map(|(claim, role)| (claim.to_owned(), role))
        .into()
}

impl Jwt {
    /// Whether there is a key for any signature.
    pub fn is_configured(&self) -> bool {
        self.secret.is_some() || self.jwks_file.is_some()
    }
}
