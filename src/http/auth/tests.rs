mod forge;
mod jwt;
mod keys;
mod mutations;

use std::collections::BTreeSet;

use super::*;
use crate::config::{Database, Supabase};

const KEY: &str = "sb_secret_hunter2hunter2hunter2_12345678";

fn check(auth: &Auth, headers: &[(&str, &str)]) -> Result<Option<Caller>, Denied> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    auth.check(&map, IpAddr::from([192, 0, 2, 1]), DateTime::from_timestamp(1_000_000, 0).unwrap())
}

/// A configuration with a token `pgs_hunter2`, and Supabase's service key.
fn config() -> Config {
    let mut config = Config::default();
    let sha256 = token::digest("pgs_hunter2");
    let token =
        config::auth::Token { role: Role::Viewer, sha256, expires: None, cidrs: Vec::new() };
    config.auth.tokens.insert("ci".to_owned(), token);
    config.databases.insert(config::MAIN.to_owned(), with_key(KEY));
    config
}

fn with_key(key: &str) -> Database {
    let supabase = Supabase {
        url: "https://x.supabase.co".to_owned(),
        service_key: Some(SecretSource::Inline(Secret::new(key))),
        db_password: None,
    };
    Database { supabase: Some(supabase), ..Database::default() }
}

#[tokio::test]
async fn headers_say_who_calls() {
    let auth = Auth::load(&config()).await.unwrap();
    let (bearer, long) = (format!("Bearer {KEY}"), format!("Bearer {}", "a".repeat(8 * 1024)));
    let (ci, admin) =
        (Ok(Some(("token:ci", Role::Viewer))), Ok(Some(("supabase:service_key", Role::Admin))));
    type Case<'a> = (&'a [(&'a str, &'a str)], Result<Option<(&'a str, Role)>, Denied>);
    let table: &[Case<'_>] = &[
        (&[], Ok(None)),
        (&[("cookie", "pgs_hunter2")], Ok(None)),
        (&[("authorization", "Bearer pgs_hunter2")], ci),
        (&[("authorization", "bearer  pgs_hunter2")], ci),
        (&[("authorization", "Bearer pgs_hunter3")], Err(Denied::UnknownToken)),
        (&[("authorization", "Bearer a.b.c")], Err(Denied::UnknownToken)),
        (&[("authorization", &long)], Err(Denied::UnknownToken)),
        (&[("authorization", &(long.clone() + "a"))], Err(Denied::Malformed)),
        (&[("authorization", "Bearer pgs_hunter2 ")], Err(Denied::Malformed)),
        (&[("authorization", "Bearer pgs_hunter2, pgs_hunter2")], Err(Denied::Malformed)),
        (&[("authorization", "Bearer ")], Err(Denied::Malformed)),
        (&[("authorization", "Bearer")], Err(Denied::Malformed)),
        (&[("authorization", "")], Err(Denied::Malformed)),
        (&[("authorization", "pgs_hunter2")], Err(Denied::Malformed)),
        (&[("authorization", "Basic cGdzX2h1bnRlcjI6")], Err(Denied::Malformed)),
        (&[("authorization", "Bearer pgs_hünter2")], Err(Denied::Malformed)),
        (
            &[("authorization", "Bearer pgs_hunter2"), ("authorization", "Bearer pgs_hunter2")],
            Err(Denied::Malformed),
        ),
        (&[("authorization", &bearer)], admin),
        (&[("apikey", KEY)], admin),
        (&[("apikey", KEY), ("apikey", KEY)], Err(Denied::Malformed)),
        (&[("apikey", "sb_publishable_x")], Err(Denied::UnknownToken)),
        // A token of ours is no key of Supabase's.
        (&[("apikey", "pgs_hunter2")], Err(Denied::UnknownToken)),
        // Beside a token the key says nothing.
        (&[("apikey", "sb_publishable_x"), ("authorization", "Bearer pgs_hunter2")], ci),
        (&[("apikey", KEY), ("authorization", "Bearer pgs_hunter3")], Err(Denied::UnknownToken)),
    ];
    for (headers, expected) in table {
        let found = check(&auth, headers);
        let found = found
            .as_ref()
            .map(|caller| caller.as_ref().map(|c| (c.actor.as_str(), c.role)))
            .map_err(|d| *d);
        assert_eq!(found, *expected, "{headers:?}");
    }
    // Where no service key is known, an apikey is somebody else's.
    let auth = Auth::load(&Config::default()).await.unwrap();
    assert_eq!(check(&auth, &[("apikey", "x")]), Ok(None));
    assert_eq!(check(&auth, &[("authorization", "Bearer x")]), Err(Denied::UnknownToken));
    assert!(!auth.is_configured());
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let weak = Config {
        databases: [("other".to_owned(), with_key("hunter2"))].into(),
        ..Config::default()
    };
    let public = format!("sb_publishable_hunter2{}", "x".repeat(30));
    let public =
        Config { databases: [("main".to_owned(), with_key(&public))].into(), ..Config::default() };
    let mut missing = Config::default();
    missing.auth.jwt.secret = Some(SecretSource::File(absent.clone()));
    let mut no_set = Config::default();
    no_set.auth.jwt.jwks_file = Some(absent);
    let mut bad_set = Config::default();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, r#"{"keys":[{"kty":"oct","k":"hunter2"}]}"#).unwrap();
    bad_set.auth.jwt.jwks_file = Some(path);
    for (config, said) in [
        (
            weak,
            "databases.other.supabase.service_key is shorter than 32 bytes: it could be guessed",
        ),
        (public, "database.supabase.service_key is Supabase's public key, which everybody has"),
        (missing, "auth.jwt.secret cannot be read"),
        (no_set, "auth.jwt.jwks_file cannot be read"),
        (bad_set, "auth.jwt.jwks_file has no key that can be used: key 0 is not used"),
    ] {
        let error = Auth::load(&config).await.unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    }
    let mut config = config();
    config.auth.jwt.secret = Some(SecretSource::Inline(Secret::new("hunter2".repeat(10))));
    let auth = Auth::load(&config).await.unwrap();
    let shown = format!("{auth:?}");
    assert!(shown.contains("token:ci") && !shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains(&token::hex(&token::digest(KEY))), "{shown}");
}

#[test]
fn codes_are_distinct_and_the_outside_hears_one() {
    let codes: BTreeSet<&str> = Denied::ALL.iter().map(|denied| denied.code()).collect();
    assert_eq!(codes.len(), Denied::ALL.len());
    let heard = Denied::ALL.map(Denied::to_error);
    assert!(heard.iter().all(|error| *error == heard[0] && error.code == "invalid_credentials"));
}

#[test]
fn roles_cover_what_they_should() {
    let covered = |role: Role| {
        Role::ALL.into_iter().filter(move |needed| role.covers(*needed)).map(Role::as_str)
    };
    let table: Vec<(&str, Vec<&str>)> =
        Role::ALL.iter().map(|role| (role.as_str(), covered(*role).collect())).collect();
    assert_eq!(
        table,
        [
            ("user", vec!["user"]),
            ("service", vec!["service"]),
            ("viewer", vec!["viewer"]),
            ("operator", vec!["viewer", "operator"]),
            ("admin", vec!["service", "viewer", "operator", "admin"]),
        ]
    );
}

#[test]
fn credentials_do_not_cross_a_network_in_the_clear() {
    let http = config::Http::default();
    for (listening_on, plain) in [
        ("127.0.0.2", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("0.0.0.0", false),
        ("::", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(
            may_carry_credentials(&http, listening_on.parse().unwrap(), false),
            plain,
            "{listening_on}"
        );
    }
    let everywhere = IpAddr::from([0, 0, 0, 0]);
    let behind_a_proxy = config::Http { allow_plain_http: true, ..http.clone() };
    assert!(may_carry_credentials(&behind_a_proxy, everywhere, false));
    assert!(may_carry_credentials(&http, everywhere, true));
}
