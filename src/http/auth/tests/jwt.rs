//! What makes a JSON Web Token a caller, and what does not.

use serde_json::{Value, json};

use super::forge::{SECRET, Signer, encode};
use super::*;
use crate::http::auth::jwt::Verifier;
use crate::http::auth::jwt::keys::Keys;

const NOW: i64 = 1_000_000;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW, 0).unwrap()
}

fn verifier(rules: config::auth::Jwt, secret: Option<&str>, jwks: Option<&Value>) -> Verifier {
    let keys = Keys::new(secret.map(Secret::new), jwks.map(Value::to_string).as_deref()).unwrap();
    Verifier::new(&rules, keys)
}

fn by_secret(rules: config::auth::Jwt) -> Verifier {
    verifier(rules, Some(SECRET), None)
}

fn usual() -> Value {
    json!({ "sub": "u1", "role": "authenticated", "aud": "authenticated", "exp": NOW + 100 })
}

/// The usual claims with others over them; null takes one away.
fn with(changes: &Value) -> Value {
    let mut claims = usual();
    for (name, value) in changes.as_object().unwrap() {
        claims.as_object_mut().unwrap().remove(name);
        if !value.is_null() {
            claims[name] = value.clone();
        }
    }
    claims
}

#[test]
fn claims_are_judged_one_by_one() {
    let rules = config::auth::Jwt {
        issuer: vec!["https://a".to_owned(), "https://b".to_owned()],
        audience: vec!["authenticated".to_owned()],
        ..Default::default()
    };
    let (loose, strict) = (by_secret(Default::default()), by_secret(rules));
    let user = |sub: &str| Ok(("jwt:".to_owned() + sub, Role::User));
    let table = [
        (&loose, json!({}), user("u1")),
        (&loose, json!({ "exp": NOW - 29 }), user("u1")),
        (&loose, json!({ "exp": NOW as f64 - 29.5 }), user("u1")),
        (&loose, json!({ "exp": NOW - 30 }), Err(Denied::Expired)),
        (&loose, json!({ "exp": 0 }), Err(Denied::Expired)),
        (&loose, json!({ "exp": 1e300 }), user("u1")),
        (&loose, json!({ "exp": null }), Err(Denied::NoExpiry)),
        (&loose, json!({ "exp": (NOW + 100).to_string() }), Err(Denied::Malformed)),
        (&loose, json!({ "exp": true }), Err(Denied::Malformed)),
        (&loose, json!({ "exp": -1 }), Err(Denied::Malformed)),
        (&loose, json!({ "exp": [NOW + 100] }), Err(Denied::Malformed)),
        (&loose, json!({ "exp": { "a": 1 } }), Err(Denied::Malformed)),
        (&loose, json!({ "nbf": NOW + 30 }), user("u1")),
        (&loose, json!({ "nbf": NOW + 31 }), Err(Denied::NotYetValid)),
        (&loose, json!({ "nbf": "0" }), Err(Denied::Malformed)),
        (&loose, json!({ "iat": NOW + 9_999 }), user("u1")),
        (&loose, json!({ "iss": 5 }), Err(Denied::Malformed)),
        (&loose, json!({ "aud": null, "iss": "anyone" }), user("u1")),
        (&loose, json!({ "aud": 5 }), Err(Denied::Malformed)),
        (&loose, json!({ "aud": ["a", 5] }), Err(Denied::Malformed)),
        (&strict, json!({ "iss": "https://b" }), user("u1")),
        (&strict, json!({ "iss": "https://b/" }), Err(Denied::BadIssuer)),
        (&strict, json!({}), Err(Denied::BadIssuer)),
        (&strict, json!({ "iss": ["https://b"] }), Err(Denied::Malformed)),
        (&strict, json!({ "iss": "https://a", "aud": ["x", "authenticated"] }), user("u1")),
        (&strict, json!({ "iss": "https://a", "aud": ["x"] }), Err(Denied::BadAudience)),
        (&strict, json!({ "iss": "https://a", "aud": [] }), Err(Denied::BadAudience)),
        (&strict, json!({ "iss": "https://a", "aud": null }), Err(Denied::BadAudience)),
        (&loose, json!({ "role": null }), Err(Denied::RoleNotMapped)),
        (&loose, json!({ "role": "anon" }), Err(Denied::RoleNotMapped)),
        (&loose, json!({ "role": "admin" }), Err(Denied::RoleNotMapped)),
        (&loose, json!({ "role": "Authenticated" }), Err(Denied::RoleNotMapped)),
        (&loose, json!({ "role": ["service_role"] }), Err(Denied::RoleNotMapped)),
        (&loose, json!({ "sub": null }), Err(Denied::NoSubject)),
        (&loose, json!({ "sub": "" }), Err(Denied::NoSubject)),
        (&loose, json!({ "sub": 7 }), Err(Denied::Malformed)),
        (&loose, json!({ "sub": "a\nb" }), Err(Denied::Malformed)),
        (&loose, json!({ "sub": "é".repeat(255) }), user(&"é".repeat(255))),
        (&loose, json!({ "sub": "é".repeat(256) }), Err(Denied::Malformed)),
        (&loose, json!({ "role": "service_role" }), Ok(("jwt:u1".to_owned(), Role::Admin))),
        (
            &loose,
            json!({ "role": "service_role", "sub": null }),
            Ok(("jwt-role:service_role".to_owned(), Role::Admin)),
        ),
    ];
    for (verifier, changes, expected) in table {
        let token = Signer::Hs256(SECRET).token(None, &with(&changes));
        let found = verifier.verify(&token, now()).map(|caller| (caller.actor, caller.role));
        assert_eq!(found, expected, "{changes}");
    }
}

#[test]
fn supabase_s_keys_of_the_old_form() {
    // As the dashboard shows them: no sub, no aud.
    let key = |role: &str| json!({ "iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": NOW - 9, "exp": NOW + 315_360_000 });
    let (verifier, issuer) = (by_secret(Default::default()), Signer::Hs256(SECRET));
    let service = issuer.token(None, &key("service_role"));
    let caller = verifier.verify(&service, now()).unwrap();
    assert_eq!(
        caller,
        Caller { actor: "jwt-role:service_role".to_owned(), role: Role::Admin, user: None }
    );
    let public = issuer.token(None, &key("anon"));
    assert_eq!(verifier.verify(&public, now()), Err(Denied::RoleNotMapped));
    assert!(is_public(&Secret::new(public)) && !is_public(&Secret::new(service)));
    assert!(is_public(&Secret::new("sb_publishable_x")) && !is_public(&Secret::new("sb_secret_x")));
}

#[test]
fn the_role_may_stand_deep_and_anon_never_counts() {
    let rules = |claim: &str, roles: &[(&str, Role)]| config::auth::Jwt {
        role_claim: claim.to_owned(),
        roles: roles.iter().map(|(claim, role)| ((*claim).to_owned(), *role)).collect(),
        ..Default::default()
    };
    let ops = [("ops", Role::Operator), ("anon", Role::Admin)];
    for (claim, changes, expected) in [
        ("app_metadata.role", json!({ "app_metadata": { "role": "ops" } }), Ok(Role::Operator)),
        ("a.b.c", json!({ "a": { "b": { "c": "ops" } } }), Ok(Role::Operator)),
        ("https://x.example/role", json!({ "https://x.example/role": "ops" }), Ok(Role::Operator)),
        ("a.b", json!({ "a": ["ops"] }), Err(Denied::RoleNotMapped)),
        ("a.b", json!({ "a": { "b": "other" } }), Err(Denied::RoleNotMapped)),
        ("a.b", json!({}), Err(Denied::RoleNotMapped)),
        ("a.b", json!({ "a": { "b": "ops" }, "role": "anon" }), Err(Denied::RoleNotMapped)),
        // Refused where the configuration is read; and here all the same.
        ("a.b", json!({ "a": { "b": "anon" } }), Err(Denied::RoleNotMapped)),
    ] {
        let token = Signer::Hs256(SECRET).token(None, &with(&changes));
        let found = by_secret(rules(claim, &ops)).verify(&token, now()).map(|caller| caller.role);
        assert_eq!(found, expected, "{claim} {changes}");
    }
}

#[test]
fn a_key_takes_its_own_algorithm_only() {
    let (rsa, ec, other) = (Signer::rsa(), Signer::p256(), Signer::p256());
    let jwks = json!({ "keys": [rsa.jwk("r"), ec.jwk("e")] });
    let public = verifier(Default::default(), None, Some(&jwks));
    let both = verifier(Default::default(), Some(SECRET), Some(&jwks));
    let claims = usual();
    let header = |alg: &str, kid: &str| json!({ "alg": alg, "kid": kid });
    let public_text: &'static str =
        Box::leak(jwks["keys"][0]["n"].as_str().unwrap().to_owned().into_boxed_str());
    let unsigned = |alg: &str| {
        format!("{}.{}.", encode(json!({ "alg": alg }).to_string()), encode(claims.to_string()))
    };
    for verifier in [&public, &both] {
        for (token, expected) in [
            (rsa.token(Some("r"), &claims), Ok(())),
            (rsa.token(None, &claims), Ok(())),
            (ec.token(Some("e"), &claims), Ok(())),
            (rsa.token(Some("e"), &claims), Err(Denied::BadAlgorithm)),
            (ec.token(Some("r"), &claims), Err(Denied::BadAlgorithm)),
            (ec.token(Some("x"), &claims), Err(Denied::UnknownKey)),
            (other.token(Some("e"), &claims), Err(Denied::BadSignature)),
            // A public key as if it were a secret.
            (Signer::Hs256(public_text).token(Some("r"), &claims), Err(Denied::BadAlgorithm)),
            (rsa.sign(&header("PS256", "r"), &claims), Err(Denied::BadAlgorithm)),
            (rsa.sign(&header("RS512", "r"), &claims), Err(Denied::BadAlgorithm)),
            (ec.sign(&header("RS256", "r"), &claims), Err(Denied::BadSignature)),
            (ec.sign(&header("ES384", "e"), &claims), Err(Denied::BadAlgorithm)),
            (rsa.sign(&header("rs256", "r"), &claims), Err(Denied::BadAlgorithm)),
            (unsigned("none"), Err(Denied::BadAlgorithm)),
            (unsigned("None"), Err(Denied::BadAlgorithm)),
            (unsigned("RS256"), Err(Denied::BadSignature)),
        ] {
            assert_eq!(verifier.verify(&token, now()).map(drop), expected, "{token}");
        }
    }
    // Without a secret no HS256 at all; with one, whatever kid is not the set's.
    let shared = Signer::Hs256(SECRET).token(Some("legacy"), &claims);
    assert_eq!(public.verify(&shared, now()), Err(Denied::BadAlgorithm));
    assert!(both.verify(&shared, now()).is_ok());
    let forged = Signer::Hs256("another secret of more than 32 bytes").token(None, &claims);
    assert_eq!(both.verify(&forged, now()), Err(Denied::BadSignature));
    assert_eq!(
        by_secret(Default::default()).verify(&rsa.token(None, &claims), now()),
        Err(Denied::BadAlgorithm)
    );
    // Without a kid, one of two is not guessed.
    let two =
        verifier(Default::default(), None, Some(&json!({ "keys": [ec.jwk("a"), other.jwk("b")] })));
    assert_eq!(two.verify(&ec.token(None, &claims), now()), Err(Denied::UnknownKey));
    assert!(two.verify(&ec.token(Some("a"), &claims), now()).is_ok());
    assert_eq!(two.verify(&ec.token(Some("b"), &claims), now()), Err(Denied::BadSignature));
}

#[test]
fn headers_are_read_strictly() {
    let (verifier, issuer, claims) =
        (by_secret(Default::default()), Signer::Hs256(SECRET), usual().to_string());
    for (header, expected) in [
        (r#"{"alg":"HS256"}"#, Ok(())),
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, Ok(())),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, Err(Denied::Critical)),
        (r#"{"alg":"HS256","crit":[]}"#, Err(Denied::Critical)),
        (r#"{"alg":"HS256","alg":"HS256"}"#, Err(Denied::Malformed)),
        (r#"{"alg":"HS256","\u0061lg":"none"}"#, Err(Denied::Malformed)),
        (r#"{"alg":["HS256"]}"#, Err(Denied::Malformed)),
        (r#"{"alg":"HS256","kid":1}"#, Err(Denied::Malformed)),
        (r#"{"typ":"JWT"}"#, Err(Denied::Malformed)),
        (r#""HS256""#, Err(Denied::Malformed)),
        ("", Err(Denied::Malformed)),
        (r#"{"alg":"HS256"} x"#, Err(Denied::Malformed)),
    ] {
        assert_eq!(
            verifier.verify(&issuer.sign_text(header, &claims), now()).map(drop),
            expected,
            "{header}"
        );
    }
    let header = r#"{"alg":"HS256"}"#;
    for claims in [
        format!(r#"{{"role":"anon","role":"service_role","exp":{}}}"#, NOW + 9),
        format!(r#"{{"role":"service_role","exp":{},"x":[{{"a":1,"a":2}}]}}"#, NOW + 9),
        "[]".to_owned(),
        "null".to_owned(),
        "{".to_owned(),
        String::new(),
        format!(r#"{{"role":"service_role","exp":{}}}x"#, NOW + 9),
        "[".repeat(3_000),
    ] {
        assert_eq!(
            verifier.verify(&issuer.sign_text(header, &claims), now()),
            Err(Denied::Malformed),
            "{claims}"
        );
    }
    let good = issuer.sign_text(header, &usual().to_string());
    for token in [
        format!("{good}="),
        format!(".{good}"),
        good.replace('.', ".."),
        "..".to_owned(),
        good.replace('.', ""),
    ] {
        assert_eq!(verifier.verify(&token, now()), Err(Denied::Malformed), "{token}");
    }
}

/// Signed by others: the HS256 of <https://jwt.io> in its first form, and the examples of RFC 7515, appendices A.2 and
/// A.3. None of them has a role, and the first no `exp`: that is said only once the signature is believed.
#[test]
fn signatures_of_others_are_believed() {
    let joe = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let rsa = json!({ "kty": "RSA", "e": "AQAB", "n": concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ",
        "S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2",
        "R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcD",
        "TW9gb54h4FRWyuXpoQ",
    ) });
    let rs256 = concat!(
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CU",
        "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_d",
        "O--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0ig",
        "cN_IoypGlUPQGe77Rw",
    );
    let ec = json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                     "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
    let es256 =
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let john = concat!(
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIy",
        "fQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c",
    );
    let jwks = json!({ "keys": [rsa, ec] });
    let verifier = verifier(Default::default(), Some("your-256-bit-secret"), Some(&jwks));
    for (token, expected) in [
        (format!("eyJhbGciOiJSUzI1NiJ9.{joe}.{rs256}"), Denied::RoleNotMapped),
        (format!("eyJhbGciOiJFUzI1NiJ9.{joe}.{es256}"), Denied::RoleNotMapped),
        (john.to_owned(), Denied::NoExpiry),
    ] {
        assert_eq!(verifier.verify(&token, now()), Err(expected), "{token}");
    }
}
