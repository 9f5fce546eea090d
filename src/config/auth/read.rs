//! Reads `[auth]`, and `cors_origins` of `[http]`.

use chrono::NaiveDate;

use super::super::read::{Fault, Section, quote};
use super::super::tree::Value;
use super::*;

/// Each token costs a comparison for every request.
const TOKENS_MAX: usize = 200;
/// RFC 7518, section 3.2: a key of at least the size of the hash.
pub const SECRET_BYTES_MIN: usize = 32;
/// Supabase's role for everybody who has its public key.
const ANONYMOUS: &str = "anon";

const TOKEN_ROLES: [(&str, Role); 4] = [
    ("viewer", Role::Viewer),
    ("operator", Role::Operator),
    ("admin", Role::Admin),
    ("service", Role::Service),
];

const EXPIRY: &str = r#"a date such as "2027-01-31", or an instant such as "2027-01-31T12:00:00Z""#;
const SHA256: &str =
    "the token's SHA-256 in 64 hexadecimal digits, as `pgsteward token new` prints it";
const ORIGIN: &str = r#"an origin as browsers send it, such as "https://app.example.com""#;

pub(super) fn tokens(
    section: &Section<'_>,
    mut tokens: BTreeMap<String, Token>,
) -> BTreeMap<String, Token> {
    section.section("tokens", |section| {
        for (count, (name, origin)) in section.names().enumerate() {
            if !is_token_name(name) {
                section.problem(origin, name, quote(name), TOKEN_NAME);
            }
            if count == TOKENS_MAX {
                section.problem(origin, name, "one more", format!("up to {TOKENS_MAX} tokens"));
            }
            let token = section.section(name, |table| {
                let expected = "role and sha256, as `pgsteward token new` prints them";
                table.require(section, (name, origin), &["role", "sha256"], expected);
                token(table)
            });
            let Some(token) = token else { continue };
            match tokens.iter().find(|(_, other)| other.sha256 == token.sha256) {
                Some((other, _)) => {
                    let found = format!("the sha256 of {other:?}");
                    section.problem(origin, name, found, "a token of its own");
                }
                None => drop(tokens.insert(name.to_owned(), token)),
            }
        }
        tokens
    })
}

/// The form of a token's name, for error messages.
pub const TOKEN_NAME: &str = "a name of 1 to 64 characters a-z, 0-9, -, _ or .";

/// Whether a token may have this name, which the audit log records.
pub fn is_token_name(name: &str) -> bool {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

fn token(section: &Section<'_>) -> Option<Token> {
    let role = section.choice_of("role", &TOKEN_ROLES);
    // A token that was put here by mistake must not appear in a log.
    let sha256 = section.checked("sha256", "64 hexadecimal digits", |text| {
        let is_token = text.trim().starts_with("pgs_");
        let found = if is_token { "what looks like the token itself" } else { "other text" };
        digest(text.trim()).ok_or_else(|| Fault::expected(SHA256).found(found))
    });
    let expires = section.value("expires", EXPIRY, |value| match value {
        Value::Text(text) | Value::Loose(text) | Value::Date(text) => parse_expiry(text),
        _ => None,
    });
    let cidrs = section.cidrs("cidrs", Vec::new());
    Some(Token { role: role?, sha256: sha256?, expires, cidrs })
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Reads a date, which means its beginning in UTC, or an instant with its offset (RFC 3339).
pub fn parse_expiry(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // TOML writes a space where RFC 3339 has its T.
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.to_utc());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10)?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

pub(super) fn jwt_secret(text: &str) -> Result<&str, Fault> {
    if text.len() >= SECRET_BYTES_MIN {
        return Ok(text);
    }
    let expected =
        "at least 32 bytes (RFC 7518), because a short secret can be guessed from a token";
    Err(Fault::expected(expected).found("a shorter one"))
}

pub(super) fn some_text(text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() { Err(Fault::expected("text")) } else { Ok(()) }
}

pub(super) fn role_claim(text: &str) -> Result<String, Fault> {
    let text = text.trim();
    if text.is_empty() || text.len() > 200 {
        return Err(Fault::expected("the name of a claim, 1 to 200 bytes"));
    }
    match text.split('.').next() {
        // https://supabase.com/docs/guides/auth/users: the user may change it.
        Some("user_metadata") => Err(Fault::expected(
            "a claim that users cannot write themselves, such as app_metadata.role",
        )),
        _ => Ok(text.to_owned()),
    }
}

/// Reads the roles of claims. If any are given, they replace the default as a whole.
pub(super) fn roles(
    section: &Section<'_>,
    default: BTreeMap<String, Role>,
) -> BTreeMap<String, Role> {
    section.section("roles", |section| {
        let choices = [&TOKEN_ROLES[..], &[("user", Role::User)]].concat();
        // Read even if they are missing, so that they are known.
        let mut roles: BTreeMap<String, Role> = default
            .keys()
            .filter_map(|claim| Some((claim.clone(), section.choice_of(claim, &choices)?)))
            .collect();
        for (claim, origin) in section.names() {
            if claim.trim().eq_ignore_ascii_case(ANONYMOUS) {
                let expected = "no such role, because Supabase's public key, which everybody has, \
                                is a validly signed JWT of it";
                section.problem(origin, claim, "a role for \"anon\"", expected);
            }
            if !default.contains_key(claim)
                && let Some(role) = section.choice_of(claim, &choices)
            {
                roles.insert(claim.to_owned(), role);
            }
        }
        if section.names().next().is_some() { roles } else { default }
    })
}

/// Checks an origin as browsers send it: `https://host[:port]`, and `http://` for this machine.
pub(in crate::config) fn cors_origin(text: &str) -> Result<(), Fault> {
    if text == "*" {
        return Err(Fault::expected(
            "single origins, because \"*\" would let every page of the web call with a user's \
             token",
        ));
    }
    let plain = text.to_ascii_lowercase();
    let plain = plain.trim_end_matches('/');
    if !is_origin(plain) {
        return Err(Fault::expected(ORIGIN));
    }
    if plain == text {
        return Ok(());
    }
    Err(Fault { did_you_mean: Some(plain.to_owned()), ..Fault::expected(ORIGIN) })
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        // The colon inside an IPv6 address separates no port.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let default = if scheme == "https" { "443" } else { "80" };
    let port_fits = port.is_none_or(|port| {
        port != default && !port.starts_with(['0', '+']) && port.parse::<u16>().is_ok()
    });
    let name = !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_fits =
        name || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let loopback = host == "localhost" || host == "[::1]" || host.starts_with("127.");
    port_fits && host_fits && (scheme == "https" || (scheme == "http" && loopback))
}
