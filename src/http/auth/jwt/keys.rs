//! The keys that signatures are judged by: one secret, and a set of public keys (RFC 7517).
//!
//! A key takes one algorithm, which is said by the configuration or by the set, never by the token.

use std::fmt;

use ::ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ::ring::rand::SystemRandom;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::super::Denied;
use super::json::Strict;
use super::ring;
use crate::config::Secret;

/// In one set. Issuers publish one to three.
const KEYS_MAX: usize = 32;

/// All keys.
pub(in crate::http::auth) struct Keys {
    secret: Option<DecodingKey>,
    public: Vec<PublicKey>,
    unusable: Vec<String>,
}

struct PublicKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    /// Takes the secret for HS256, and the text of a set.
    ///
    /// # Errors
    /// What is wrong with the set as a whole.
    pub(in crate::http::auth) fn new(
        secret: Option<Secret>,
        jwks: Option<&str>,
    ) -> Result<Keys, String> {
        ring::install();
        // Only an empty secret gives no key, and the configuration refuses less than 32 bytes.
        let secret =
            secret.and_then(|secret| DecodingKey::from_secret(secret.expose().as_bytes()).ok());
        let (public, unusable) = jwks.map_or_else(|| Ok(Default::default()), set)?;
        Ok(Keys { secret, public, unusable })
    }

    /// The keys of the set that are not used, each with the reason.
    pub(in crate::http::auth) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// The one key that a token's header names. The secret has no `kid`, so that of an HS256 token only must not be
    /// one of the set's.
    pub(super) fn find(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
    ) -> Result<&DecodingKey, Denied> {
        let named = |key: &&PublicKey| kid.is_some() && key.kid.as_deref() == kid;
        if algorithm == Algorithm::HS256 {
            return match (&self.secret, self.public.iter().any(|key| named(&key))) {
                (Some(secret), false) => Ok(secret),
                _ => Err(Denied::BadAlgorithm),
            };
        }
        let mut fitting = self.public.iter().filter(|key| key.algorithm == algorithm).peekable();
        if fitting.peek().is_none() {
            return Err(Denied::BadAlgorithm);
        }
        let found = match kid {
            Some(_) => fitting.find(named),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        match found {
            Some(found) => Ok(&found.key),
            None if self.public.iter().any(|key| named(&key)) => Err(Denied::BadAlgorithm),
            None => Err(Denied::UnknownKey),
        }
    }
}

/// How many, not which.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.secret.is_some();
        f.debug_struct("Keys")
            .field("secret", &secret)
            .field("public", &self.public.len())
            .finish_non_exhaustive()
    }
}

fn set(text: &str) -> Result<(Vec<PublicKey>, Vec<String>), String> {
    let wanted = r#"is no JWK set such as {"keys": [{"kty": "EC", …}]}"#;
    let Ok(Strict(Value::Object(mut set))) = serde_json::from_str(text) else {
        return Err(wanted.to_owned());
    };
    let Some(Value::Array(items)) = set.remove("keys") else { return Err(wanted.to_owned()) };
    if items.len() > KEYS_MAX {
        return Err(format!("has {} keys; at most {KEYS_MAX} are taken", items.len()));
    }
    let (mut public, mut unusable): (Vec<PublicKey>, Vec<String>) = Default::default();
    for (at, item) in items.iter().enumerate() {
        let name = match item.get("kid").and_then(Value::as_str) {
            Some(kid) => format!("key {at} ({:?})", kid.chars().take(100).collect::<String>()),
            None => format!("key {at}"),
        };
        let twice = |key: &PublicKey| {
            public.iter().any(|k| k.kid == key.kid && k.algorithm == key.algorithm)
        };
        match public_key(item) {
            Ok(key) if key.kid.is_some() && twice(&key) => {
                unusable.push(format!("{name} is not used: another has its kid"));
            }
            Ok(key) => public.push(key),
            Err(fault) => unusable.push(format!("{name} is not used: {fault}")),
        }
    }
    if public.is_empty() {
        let faults =
            if unusable.is_empty() { "it is empty".to_owned() } else { unusable.join("; ") };
        return Err(format!("has no key that can be used: {faults}"));
    }
    Ok((public, unusable))
}

/// Reads one key for RS256 or ES256.
fn public_key(item: &Value) -> Result<PublicKey, String> {
    let item = item.as_object().ok_or("it is no object")?;
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    if ["d", "p", "q", "k"].iter().any(|part| item.contains_key(*part)) {
        return Err(
            "it holds a private key or a secret, which belongs to the issuer alone".to_owned()
        );
    }
    if item.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("its use is not \"sig\"".to_owned());
    }
    let verifies = |operations: &Value| {
        operations.as_array().is_some_and(|all| all.contains(&"verify".into()))
    };
    if item.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err("its key_ops do not have \"verify\"".to_owned());
    }
    let kid = match item.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().ok_or("its kid is no text")?.to_owned()),
    };
    let (algorithm, name) = match text("kty") {
        Some("RSA") => (Algorithm::RS256, "RS256"),
        Some("EC") => (Algorithm::ES256, "ES256"),
        _ => return Err("its kty is neither \"RSA\" nor \"EC\"".to_owned()),
    };
    if item.get("alg").is_some_and(|alg| alg != name) {
        return Err(format!("its alg is not {name:?}, the one that is taken for its kty"));
    }
    let key = if algorithm == Algorithm::RS256 { rsa(item) } else { p256(item) };
    Ok(PublicKey { kid, algorithm, key: key? })
}

fn bytes(item: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = item.get(name).and_then(Value::as_str);
    text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .ok_or_else(|| format!("its {name} is no base64url"))
}

/// As ring takes it: 2048 to 8192 bits, an odd exponent from 3 to 2^33 - 1.
fn rsa(item: &Map<String, Value>) -> Result<DecodingKey, String> {
    let number = |name| {
        bytes(item, name).map(|n| n.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>())
    };
    let (n, e) = (number("n")?, number("e")?);
    let bits = |number: &[u8]| {
        number.len() * 8 - number.first().map_or(0, |first| first.leading_zeros() as usize)
    };
    if !(2048..=8192).contains(&bits(&n)) {
        return Err(format!("it has {} bits; wanted 2048 to 8192", bits(&n)));
    }
    if !(2..=33).contains(&bits(&e)) || e.last().is_some_and(|last| last % 2 == 0) {
        return Err("its exponent is not an odd number from 3 to 2^33 - 1".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

fn p256(item: &Map<String, Value>) -> Result<DecodingKey, String> {
    if item.get("crv").is_none_or(|curve| curve != "P-256") {
        return Err("its crv is not \"P-256\"".to_owned());
    }
    let (x, y) = (bytes(item, "x")?, bytes(item, "y")?);
    if x.len() != 32 || y.len() != 32 {
        return Err("its x and y do not have 32 bytes each".to_owned());
    }
    let point = [&[4][..], &x, &y].concat();
    // An agreement is where ring says whether a point is on the curve; what is agreed on is thrown away.
    let ours = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new());
    let agreed = ours.and_then(|ours| {
        agree_ephemeral(ours, &UnparsedPublicKey::new(&ECDH_P256, &point), |_| ())
    });
    agreed.map_err(|_| "its x and y are no point of the curve".to_owned())?;
    Ok(DecodingKey::from_ec_der(&point))
}
