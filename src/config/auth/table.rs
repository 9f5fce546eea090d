//! Reads `[auth]`.

use chrono::NaiveDate;

use super::super::cidr::{Cidr, NoCidr};
use super::super::read::{Fault, Section, quote};
use super::super::tables::secs;
use super::super::tree::Value;
use super::*;

/// Far more than anybody can keep in mind; each costs a comparison for every request.
const TOKENS_MAX: usize = 200;
/// RFC 7518, section 3.2: a key of at least the size of the hash.
pub const SECRET_BYTES_MIN: usize = 32;
/// What Supabase calls everybody who has its public key.
const ANONYMOUS: &str = "anon";

const TOKEN_ROLES: [(&str, Role); 4] = [
    ("viewer", Role::Viewer),
    ("operator", Role::Operator),
    ("admin", Role::Admin),
    ("service", Role::Service),
];
const CLAIM_ROLES: [(&str, Role); 5] = [
    ("viewer", Role::Viewer),
    ("operator", Role::Operator),
    ("admin", Role::Admin),
    ("service", Role::Service),
    ("user", Role::User),
];

const CIDRS: &str = r#"ranges such as "10.0.0.0/8" or "fd00::/8""#;
const EXPIRY: &str = r#"a date such as "2027-01-31", or an instant such as "2027-01-31T12:00:00Z""#;

pub(in crate::config) fn auth(section: &Section<'_>) -> Auth {
    Auth { tokens: section.section("tokens", tokens), jwt: section.section("jwt", jwt) }
}

fn tokens(section: &Section<'_>) -> BTreeMap<String, Token> {
    let mut tokens: BTreeMap<String, Token> = BTreeMap::new();
    for (count, (name, origin)) in section.names().enumerate() {
        if !is_token_name(name) {
            section.problem(origin, name, quote(name), TOKEN_NAME);
        }
        if count == TOKENS_MAX {
            section.problem(origin, name, "one token too many", format!("up to {TOKENS_MAX}"));
        }
        let token = section.section(name, |table| {
            for key in ["role", "sha256"] {
                if table.exists() && !table.has(key) {
                    section.problem(
                        origin,
                        name,
                        format!("no key \"{key}\""),
                        "role and sha256, as `pgsteward token new` prints them",
                    );
                }
            }
            token(table)
        });
        let Some(token) = token else { continue };
        match tokens.iter().find(|(_, other)| other.sha256 == token.sha256) {
            Some((other, _)) => section.problem(
                origin,
                name,
                format!("the sha256 of {other:?}"),
                "a token of its own",
            ),
            None => drop(tokens.insert(name.to_owned(), token)),
        }
    }
    tokens
}

/// What a token's name looks like, for error texts.
pub const TOKEN_NAME: &str = "a name of 1 to 64 characters a-z, 0-9, -, _ or .";

/// It stands in the audit trail.
pub fn is_token_name(name: &str) -> bool {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

fn token(section: &Section<'_>) -> Option<Token> {
    let role = section.choice("role", None, &TOKEN_ROLES.map(|(word, role)| (word, Some(role))));
    // Who puts the token itself here must not read it in a log.
    let sha256 = section.checked("sha256", "64 hexadecimal digits", |text| {
        let found = if text.trim().starts_with("pgs_") {
            "what looks like the token itself"
        } else {
            "other text"
        };
        digest(text).ok_or_else(|| Fault { found: Some(found.to_owned()), ..Fault::wanted(SHA256) })
    });
    let expires = section.value("expires", EXPIRY, |value| match value {
        Value::Text(text) | Value::Loose(text) | Value::Date(text) => parse_expiry(text),
        _ => None,
    });
    let cidrs = cidrs(section, "cidrs");
    Some(Token { role: role?, sha256: sha256?, expires, cidrs })
}

const SHA256: &str =
    "the token's SHA-256 in 64 hexadecimal digits, as `pgsteward token new` prints it";

fn digest(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Reads a date, which is its beginning by UTC, or an instant with its offset (RFC 3339).
pub fn parse_expiry(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    // TOML writes a space where RFC 3339 has its T.
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.to_utc());
    }
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().filter(|_| text.len() == 10)?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

pub(in crate::config) fn cidrs(section: &Section<'_>, key: &str) -> Vec<Cidr> {
    let texts = section.list(key, CIDRS, |text| match text.parse::<Cidr>() {
        Ok(_) => Ok(()),
        Err(NoCidr { meant }) => {
            Err(Fault { did_you_mean: meant.map(|cidr| cidr.to_string()), ..Fault::wanted(CIDRS) })
        }
    });
    // What does not parse is reported above.
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn jwt(section: &Section<'_>) -> Jwt {
    let default = Jwt::default();
    let some_text = |text: &str| match text.trim() {
        "" => Err(Fault::wanted("some text")),
        _ => Ok(()),
    };
    Jwt {
        secret: section.secret("secret", false, |text| match text.len() {
            SECRET_BYTES_MIN.. => Ok(text),
            _ => Err(Fault {
                found: Some("a shorter one".to_owned()),
                ..Fault::wanted(
                    "at least 32 bytes (RFC 7518): a short secret can be guessed from any token",
                )
            }),
        }),
        jwks_file: section.path("jwks_file"),
        issuer: section.list_or_one("issuer", "texts", some_text),
        audience: section.list_or_one("audience", "texts", some_text),
        role_claim: section
            .checked("role_claim", "the name of a claim", role_claim)
            .unwrap_or(default.role_claim),
        roles: section.section("roles", |section| roles(section, default.roles)),
        leeway: section.duration("leeway", default.leeway, Duration::ZERO, secs(300)),
    }
}

fn role_claim(text: &str) -> Result<String, Fault> {
    let text = text.trim();
    if text.is_empty() || text.len() > 200 {
        return Err(Fault::wanted("the name of a claim, 1 to 200 bytes"));
    }
    match text.split('.').next() {
        // https://supabase.com/docs/guides/auth/users: its owner writes it.
        Some("user_metadata") => Err(Fault::wanted(
            "a claim that users cannot write themselves, such as app_metadata.role",
        )),
        _ => Ok(text.to_owned()),
    }
}

/// What is said replaces the default as a whole.
fn roles(section: &Section<'_>, default: BTreeMap<String, Role>) -> BTreeMap<String, Role> {
    let wanted = CLAIM_ROLES.map(|(word, role)| (word, Some(role)));
    // Asked for also where they are missing, so that they are known.
    let mut roles: BTreeMap<String, Role> = default
        .keys()
        .filter_map(|claim| Some((claim.clone(), section.choice(claim, None, &wanted)?)))
        .collect();
    let mut said = false;
    for (claim, origin) in section.names() {
        said = true;
        if claim.trim().eq_ignore_ascii_case(ANONYMOUS) {
            let wanted = "nothing: Supabase's public key is a validly signed JWT of this role, and everybody has it";
            section.problem(origin, claim, "a role for \"anon\"", wanted);
        }
        if !default.contains_key(claim)
            && let Some(role) = section.choice(claim, None, &wanted)
        {
            roles.insert(claim.to_owned(), role);
        }
    }
    if said { roles } else { default }
}

/// Origins of browsers as they send them: `https://host[:port]`, and `http://` for this machine.
pub(in crate::config) fn cors_origins(section: &Section<'_>) -> Vec<String> {
    let wanted = r#"an origin as browsers send it, such as "https://app.example.com""#;
    section.list("cors_origins", "origins", |text| {
        if text == "*" {
            return Err(Fault::wanted(
                "the origins one by one: \"*\" would let every page of the web call with a user's token",
            ));
        }
        let plain = text.to_ascii_lowercase();
        let plain = plain.trim_end_matches('/');
        if !is_origin(plain) {
            return Err(Fault::wanted(wanted));
        }
        if plain == text {
            Ok(())
        } else {
            Err(Fault { did_you_mean: Some(plain.to_owned()), ..Fault::wanted(wanted) })
        }
    })
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let (host, port) = match authority.rsplit_once(':') {
        // The colon of an IPv6 address is no port's.
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
