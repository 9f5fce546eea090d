//! `pgsteward token new`: what it prints is what the configuration takes, and no two tokens are the same.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Command, Output};

use pgsteward::config::{Args, Config, Role, load::load_or_default};
use pgsteward::http::auth::Auth;

fn pgsteward(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
    // A configuration that cannot be read is of no concern.
    command.args(["--config", "/nonexistent/config.toml"]).args(arguments).env_clear();
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn configured(section: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, section).unwrap();
    let env = BTreeMap::from([("DATABASE_URL".to_owned(), "postgresql:///x".to_owned())]);
    let args = Args { path: Some(path), ..Args::default() };
    load_or_default(&args, &env, &folder.path().join("absent"))
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

#[tokio::test]
async fn what_is_printed_is_what_the_configuration_takes() {
    let arguments = ["token", "new", "ci.main", "--role", "operator", "--expires", "2099-01-31"];
    let output = pgsteward(&[&arguments[..], &["--cidr", "10.0.0.0/8", "--cidr", "::1"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("is not stored and cannot be shown again"), "{said}");
    let (token, section) = text(&output.stdout).split_once("\n\n").unwrap();
    assert!(token.starts_with("pgs_") && !section.contains(token) && !said.contains(token));
    assert_eq!(text(&output.stdout).matches(token).count(), 1);

    let auth = Auth::load(&configured(section)).await.unwrap();
    let mut headers = hyper::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    let now = chrono::Utc::now();
    let caller = auth.check(&headers, IpAddr::from([10, 1, 2, 3]), now).unwrap().unwrap();
    assert_eq!((caller.actor.as_str(), caller.role), ("token:ci.main", Role::Operator));
    assert!(auth.check(&headers, IpAddr::from([11, 1, 2, 3]), now).is_err());
    let later = "2099-01-31T00:00:00Z".parse().unwrap();
    assert!(auth.check(&headers, IpAddr::from([10, 1, 2, 3]), later).is_err());
}

#[test]
fn as_json_for_programs() {
    let made = || {
        let output = pgsteward(&["token", "new", "ci", "--role", "viewer", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let (one, other) = (made(), made());
    assert_ne!(one["token"], other["token"]);
    assert_eq!(
        (&one["name"], &one["role"], &one["expires"]),
        (&"ci".into(), &"viewer".into(), &serde_json::Value::Null)
    );
    let config = configured(one["toml"].as_str().unwrap());
    let token = &config.auth.tokens["ci"];
    let digest = pgsteward::http::auth::token::digest(one["token"].as_str().unwrap());
    assert_eq!((token.role, token.sha256), (Role::Viewer, digest));
    assert_eq!(one["sha256"], pgsteward::http::auth::token::hex(&digest));
}

#[test]
fn mistakes_are_told_before_anything_is_made() {
    for (arguments, said) in [
        (&["token", "new", "CI", "--role", "viewer"][..], "a name of 1 to 64 characters"),
        (&["token", "new", "ci"], "--role"),
        (&["token", "new", "ci", "--role", "user"], "viewer, operator, admin, service"),
        (
            &["token", "new", "ci", "--role", "viewer", "--expires", "tomorrow"],
            "wanted a date such as",
        ),
        (
            &["token", "new", "ci", "--role", "viewer", "--expires", "2001-01-01"],
            "an instant that has passed",
        ),
        (
            &["token", "new", "ci", "--role", "viewer", "--cidr", "10.0.0.1/8"],
            "did you mean 10.0.0.0/8?",
        ),
    ] {
        let output = pgsteward(arguments);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""), "{arguments:?}");
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {}", text(&output.stderr));
    }
}
