//! Which keys of a set are used, and what is said of the others.

use serde_json::{Value, json};

use super::forge::{Signer, encode};
use crate::http::auth::jwt::keys::Keys;

/// A key with one member changed; null takes it away.
fn changed(key: &Value, name: &str, value: Value) -> Value {
    let mut key = key.clone();
    key.as_object_mut().unwrap().remove(name);
    if !value.is_null() {
        key[name] = value;
    }
    key
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let (good, rsa) = (Signer::p256().jwk("good"), Signer::rsa().jwk("r"));
    let ec = Signer::p256().jwk("e");
    for (key, fault) in [
        (changed(&ec, "kid", Value::Null), None),
        (changed(&ec, "key_ops", json!(["verify"])), None),
        (changed(&ec, "alg", json!("ES256")), None),
        (changed(&rsa, "alg", Value::Null), None),
        (changed(&ec, "kid", json!("good")), Some("(\"good\") is not used: another has its kid")),
        (changed(&ec, "kid", json!(1)), Some("its kid is no text")),
        (changed(&ec, "d", json!("x")), Some("private key")),
        (changed(&ec, "use", json!("enc")), Some("its use is not \"sig\"")),
        (changed(&ec, "key_ops", json!(["sign"])), Some("its key_ops do not have \"verify\"")),
        (changed(&ec, "alg", json!("RS256")), Some("its alg is not \"ES256\"")),
        (changed(&rsa, "alg", json!("PS256")), Some("its alg is not \"RS256\"")),
        (changed(&ec, "kty", json!("OKP")), Some("its kty is neither \"RSA\" nor \"EC\"")),
        (
            json!({ "kty": "oct", "kid": "s", "k": "hunter2" }),
            Some("a secret, which belongs to the issuer alone"),
        ),
        (changed(&ec, "crv", json!("P-384")), Some("its crv is not \"P-256\"")),
        (changed(&ec, "x", json!(encode([1; 31]))), Some("do not have 32 bytes each")),
        (changed(&ec, "x", json!(encode([1; 32]))), Some("no point of the curve")),
        (changed(&ec, "y", json!("+++")), Some("its y is no base64url")),
        (
            changed(&rsa, "n", json!(encode([255; 128]))),
            Some("it has 1024 bits; wanted 2048 to 8192"),
        ),
        (changed(&rsa, "n", json!(encode([255; 1025]))), Some("it has 8200 bits")),
        (changed(&rsa, "e", json!(encode([1]))), Some("its exponent")),
        (changed(&rsa, "e", json!(encode([1, 0, 0]))), Some("its exponent")),
        (changed(&rsa, "e", Value::Null), Some("its e is no base64url")),
        (json!("hunter2"), Some("key 1 is not used: it is no object")),
    ] {
        let set = json!({ "keys": [good, key] });
        let keys = Keys::new(None, Some(&set.to_string())).unwrap();
        match fault {
            None => assert_eq!(keys.unusable(), [] as [&str; 0], "{key}"),
            Some(fault) => {
                let said = keys.unusable().join("; ");
                assert!(said.starts_with("key 1") && said.contains(fault), "{key}: {said}");
                assert!(!said.contains("hunter2"), "{said}");
            }
        }
    }
}

#[test]
fn a_set_without_a_usable_key_is_refused() {
    let key = Signer::p256().jwk("e").to_string();
    let many = json!({ "keys": vec![json!({}); 33] }).to_string();
    for (text, fault) in [
        ("", "is no JWK set"),
        ("[]", "is no JWK set"),
        ("{}", "is no JWK set"),
        (r#"{"keys":{}}"#, "is no JWK set"),
        (r#"{"keys":[]}"#, "it is empty"),
        (r#"{"keys":[{"kty":"oct"}]}"#, "has no key that can be used: key 0 is not used: its kty"),
        (r#"{"keys":[],"keys":[]}"#, "is no JWK set"),
        (&key, "is no JWK set"),
        (&many, "has 33 keys; at most 32 are taken"),
    ] {
        let error = Keys::new(None, Some(text)).unwrap_err();
        assert!(error.contains(fault), "{text}: {error}");
    }
}
