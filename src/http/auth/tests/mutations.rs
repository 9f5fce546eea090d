//! Nothing but the token itself is accepted, whatever is done to it.

use serde_json::json;

use super::forge::{SECRET, Signer};
use super::*;

/// The same in every run.
#[tokio::test]
async fn no_mutation_of_a_credential_is_accepted() {
    let (rsa, ec) = (Signer::rsa(), Signer::p256());
    let folder = tempfile::tempdir().unwrap();
    let jwks = folder.path().join("jwks.json");
    std::fs::write(&jwks, json!({ "keys": [rsa.jwk("r"), ec.jwk("e"), {}] }).to_string()).unwrap();
    let bearer = token::generate().unwrap().expose().to_owned();
    let mut config = Config::default();
    config.auth.jwt.secret = Some(SecretSource::Inline(Secret::new(SECRET)));
    config.auth.jwt.jwks_file = Some(jwks);
    let known = config::auth::Token {
        role: Role::Admin,
        sha256: token::digest(&bearer),
        expires: None,
        cidrs: Vec::new(),
    };
    config.auth.tokens.insert("t".to_owned(), known);
    let auth = Auth::load(&config).await.unwrap();
    assert_eq!(auth.warnings().len(), 1, "{:?}", auth.warnings());
    let claims = json!({ "role": "service_role", "sub": "s", "exp": 2_000_000_000_u32 });
    let tokens = [
        Signer::Hs256(SECRET).token(None, &claims),
        rsa.token(Some("r"), &claims),
        ec.token(Some("e"), &claims),
        bearer,
    ];

    let mut random = fastrand::Rng::with_seed(20_260_401);
    let letters: Vec<char> =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=~+/".chars().collect();
    for token in &tokens {
        assert!(
            check(&auth, &[("authorization", &format!("Bearer {token}"))]).unwrap().is_some(),
            "{token}"
        );
        for _ in 0..400 {
            let mut text: Vec<char> = token.chars().collect();
            for _ in 0..random.usize(1..3) {
                let (at, other) = (random.usize(..text.len()), random.usize(..text.len()));
                match random.u8(..5) {
                    0 => text[at] = *random.choice(&letters).unwrap(),
                    1 => text.insert(at, *random.choice(&letters).unwrap()),
                    2 => drop(text.remove(at)),
                    3 => text.swap(at, other),
                    _ => text.truncate(at.max(1)),
                }
            }
            let mutant: String = text.into_iter().collect();
            if mutant != *token {
                let sent = format!("Bearer {mutant}");
                assert!(
                    check(&auth, &[("authorization", &sent)]).is_err(),
                    "{mutant} passes for {token}"
                );
            }
        }
        // The last character of base64 has bits to spare; they must be zero.
        let (body, last) = token.split_at(token.len() - 1);
        for letter in letters.iter().filter(|letter| !last.starts_with(**letter)) {
            assert!(
                check(&auth, &[("authorization", &format!("Bearer {body}{letter}"))]).is_err(),
                "{letter} {token}"
            );
        }
    }
}
