//! Bearer tokens: random text of which only the SHA-256 is kept.
//!
//! A token has 256 bits from the operating system, so that a plain hash of it tells as little as a slow one would.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::Denied;
use crate::config::{Cidr, Role, Secret, auth};

/// What our tokens begin with, so that scanners of repositories can find them.
const PREFIX: &str = "pgs_";

/// The operating system gave no randomness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandomness;

/// A new token: `pgs_` and 43 characters of base64url.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn generate() -> Result<Secret, NoRandomness> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// The SHA-256 of a whole token.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A digest as the configuration has it.
pub fn hex(digest: &[u8; 32]) -> String {
    use fmt::Write;
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Credentials that are compared as a whole.
#[derive(Default)]
pub(super) struct Tokens(Vec<AnyRole>);

struct AnyRole {
    digest: [u8; 32],
    actor: String,
    role: Role,
    expires: Option<DateTime<Utc>>,
    cidrs: Vec<Cidr>,
}

impl Tokens {
    pub(super) fn new(tokens: &std::collections::BTreeMap<String, auth::Token>) -> Tokens {
        let known = tokens.iter().map(|(name, token)| AnyRole {
            digest: token.sha256,
            actor: format!("token:{name}"),
            role: token.role,
            expires: token.expires,
            cidrs: token.cidrs.clone(),
        });
        Tokens(known.collect())
    }

    /// Adds a text that makes its bearer an admin.
    pub(super) fn add_admin(&mut self, actor: &str, text: &Secret) {
        let digest = digest(text.expose());
        let actor = actor.to_owned();
        self.0.push(AnyRole { digest, actor, role: Role::Admin, expires: None, cidrs: Vec::new() });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds whose token it is. None: nobody's. The time it takes depends on the length of what was sent and on how
    /// many are configured, not on which of them it is or how near it comes.
    pub(super) fn find(
        &self,
        sent: &str,
        from: IpAddr,
        now: DateTime<Utc>,
    ) -> Option<Result<(&str, Role), Denied>> {
        let sent = digest(sent);
        let nobody = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let mut found = nobody;
        for (at, known) in (0_u32..).zip(&self.0) {
            let same: Choice = known.digest.ct_eq(&sent);
            found.conditional_assign(&at, same);
        }
        let known = self.0.get(usize::try_from(found).ok()?)?;
        Some(known.judge(from, now))
    }
}

impl AnyRole {
    fn judge(&self, from: IpAddr, now: DateTime<Utc>) -> Result<(&str, Role), Denied> {
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err(Denied::Expired);
        }
        if !self.cidrs.is_empty() && !self.cidrs.iter().any(|range| range.contains(from)) {
            return Err(Denied::Address);
        }
        Ok((&self.actor, self.role))
    }
}

/// Whose they are, not what they are.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|known| &known.actor)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(second)
    }

    #[test]
    fn new_tokens_are_long_and_never_the_same() {
        let tokens: BTreeSet<String> =
            (0..100).map(|_| generate().unwrap().expose().to_owned()).collect();
        assert_eq!(tokens.len(), 100);
        for token in &tokens {
            let bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix("pgs_").unwrap()).unwrap();
            assert_eq!((bytes.len(), token.len()), (32, 47));
        }
        // FIPS 180-2's vector.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&digest("abc")), expected);
    }

    #[test]
    fn a_token_counts_until_it_expires_and_from_where_it_may() {
        let token = |text: &str, role, expires, cidrs: &[&str]| auth::Token {
            role,
            sha256: digest(text),
            expires,
            cidrs: cidrs.iter().map(|range| range.parse().unwrap()).collect(),
        };
        let mut tokens = Tokens::new(&BTreeMap::from([
            ("a".to_owned(), token("alpha", Role::Viewer, None, &[])),
            ("b".to_owned(), token("beta", Role::Operator, Some(at(100)), &["10.0.0.0/8"])),
        ]));
        tokens.add_admin("supabase:service_key", &Secret::new("gamma"));
        let (near, far) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([11, 0, 0, 1]));
        for (sent, from, now, expected) in [
            ("alpha", far, at(1_000), Some(Ok(("token:a", Role::Viewer)))),
            ("beta", near, at(99), Some(Ok(("token:b", Role::Operator)))),
            ("beta", near, at(100), Some(Err(Denied::Expired))),
            ("beta", far, at(99), Some(Err(Denied::Address))),
            ("gamma", far, at(1_000), Some(Ok(("supabase:service_key", Role::Admin)))),
            ("alpha ", far, at(0), None),
            ("Alpha", far, at(0), None),
            ("", far, at(0), None),
        ] {
            assert_eq!(tokens.find(sent, from, now), expected, "{sent}");
        }
        assert_eq!(Tokens::default().find("alpha", near, at(0)), None);
        assert_eq!(format!("{tokens:?}"), r#"["token:a", "token:b", "supabase:service_key"]"#);
    }
}
