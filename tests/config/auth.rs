//! `[auth]`, and the keys of `[http]` on transport and browsers.

use std::net::IpAddr;

use pgsteward::config::{Role, auth};

use super::*;

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn token(more: &str) -> Given {
    Given::file(format!("[auth.tokens.ci]\nrole = \"viewer\"\nsha256 = \"{DIGEST}\"\n{more}")).url()
}

#[test]
fn tokens_are_read() {
    let text = "expires = 2099-01-31\ncidrs = [\"10.0.0.0/8\", \"::1\"]\n";
    let loaded = token(text).holds();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let config = loaded.config;
    let ci = &config.auth.tokens["ci"];
    assert_eq!(
        (ci.role, ci.sha256[..2].to_vec(), ci.cidrs.len()),
        (Role::Viewer, vec![0x9f, 0x86], 2)
    );
    assert!(
        ci.cidrs[0].contains(IpAddr::from([10, 1, 1, 1]))
            && !ci.cidrs[0].contains(IpAddr::from([11, 0, 0, 0]))
    );
    assert!(config.auth.is_configured() && !Config::default().auth.is_configured());
    for (text, seconds) in [
        ("2099-01-31", 4_073_500_800),
        ("2099-01-31T00:00:00Z", 4_073_500_800),
        ("2099-01-31T01:00:00+01:00", 4_073_500_800),
    ] {
        assert_eq!(auth::parse_expiry(text).unwrap().timestamp(), seconds, "{text}");
        assert_eq!(
            token(&format!("expires = \"{text}\"\n")).config().auth,
            token(&format!("expires = {text}\n")).config().auth
        );
    }
    let config = token("").env("PGSTEWARD__AUTH__TOKENS__CI__ROLE", "operator").config();
    assert_eq!(config.auth.tokens["ci"].role, Role::Operator);
}

#[test]
fn a_token_that_has_expired_is_a_warning() {
    let loaded = token("expires = 2001-02-03\n").holds();
    assert_eq!(
        loaded.warnings,
        ["auth.tokens.ci has expired at 2001-02-03T00:00:00Z: it is no longer accepted"]
    );
}

#[test]
fn problems_of_tokens_are_reported() {
    for (text, expected) in [
        (
            "[auth.tokens.CI]\nrole = \"viewer\"\nsha256 = \"DIGEST\"\n",
            "config.toml:1: auth.tokens.CI: expected a name of 1 to 64 characters a-z, 0-9, -, _ \
             or ., found \"CI\"",
        ),
        (
            "[auth.tokens.ci]\nrole = \"user\"\nsha256 = \"DIGEST\"\n",
            "config.toml:2: auth.tokens.ci.role: expected one of \"viewer\", \"operator\", \
             \"admin\", \"service\", found \"user\"",
        ),
        (
            "[auth.tokens.ci]\n",
            "config.toml:1: auth.tokens.ci: expected role and sha256, as `pgsteward token new` \
             prints them, found no key \"role\"\nconfig.toml:1: auth.tokens.ci: expected role \
             and sha256, as `pgsteward token new` prints them, found no key \"sha256\"",
        ),
        (
            "[auth.tokens.ci]\nrole = \"viewer\"\nsha256 = \"pgs_hunter2\"\n",
            "config.toml:3: auth.tokens.ci.sha256: expected the token's SHA-256 in 64 \
             hexadecimal digits, as `pgsteward token new` prints it, found what looks like the \
             token itself",
        ),
        (
            "[auth.tokens.ci]\nrole = \"viewer\"\nsha256 = \"DIGEST\"\nexpires = 12:00:00\ncidrs \
             = [\"10.0.0.1/8\", \"ten\"]\n",
            "config.toml:4: auth.tokens.ci.expires: expected a date such as \"2027-01-31\", or \
             an instant such as \"2027-01-31T12:00:00Z\", found a date or time\nconfig.toml:5: \
             auth.tokens.ci.cidrs: found \"10.0.0.1/8\", did you mean \
             \"10.0.0.0/8\"?\nconfig.toml:5: auth.tokens.ci.cidrs: expected ranges such as \
             \"10.0.0.0/8\" or \"fd00::/8\", found \"ten\"",
        ),
        (
            "[auth.tokens.\"a.b\"]\nrole = \"viewer\"\nsha256 = \
             \"DIGEST\"\n[auth.tokens.c]\nrole = \"admin\"\nsha256 = \"DIGEST\"\n",
            "config.toml:4: auth.tokens.c: expected a token of its own, found the sha256 of \
             \"a.b\"",
        ),
    ] {
        assert_eq!(Given::file(text.replace("DIGEST", DIGEST)).url().report(), expected);
    }
}

#[test]
fn json_web_tokens_are_read() {
    let secret = "hunter2 hunter2 hunter2 hunter2 hunter2";
    let config = Given::nothing().url().env("SUPABASE_JWT_SECRET", secret).config();
    assert_eq!(config.auth.jwt.secret, inline(secret));
    assert!(config.auth.is_configured());
    // A stronger source replaces the weaker one's form.
    let config = Given::file("[auth.jwt]\nsecret_file = \"x\"\n")
        .url()
        .env("SUPABASE_JWT_SECRET", secret)
        .config();
    assert_eq!(config.auth.jwt.secret, inline(secret));

    let config = Given::file(
        "[auth.jwt]\njwks_file = \"jwks.json\"\nissuer = \"a\"\naudience = [\"b\", \
         \"c\"]\nrole_claim = \"app_metadata.role\"\nroles = { boss = \"admin\", authenticated = \
         \"viewer\" }\nleeway = \"5m\"\n",
    )
    .url()
    .config();
    let jwt = config.auth.jwt;
    assert_eq!(
        (jwt.issuer, jwt.audience),
        (vec!["a".to_owned()], vec!["b".to_owned(), "c".to_owned()])
    );
    assert!(jwt.jwks_file.unwrap().ends_with("jwks.json"));
    // Given roles replace the default as a whole: service_role has none here.
    let roles = [("authenticated".to_owned(), Role::Viewer), ("boss".to_owned(), Role::Admin)];
    assert_eq!(jwt.roles, roles.into());

    let loaded = Given::file("[auth.jwt]\nissuer = \"a\"\n").url().holds();
    assert_eq!(
        loaded.warnings,
        ["auth.jwt has neither secret nor jwks_file: no JSON Web Token is accepted"]
    );
}

#[test]
fn problems_of_json_web_tokens_are_reported() {
    for (text, expected) in [
        (
            "[auth.jwt]\nsecret = \"hunter2\"\n",
            "config.toml:2: auth.jwt.secret: expected at least 32 bytes (RFC 7518), because a \
             short secret can be guessed from a token, found a shorter one",
        ),
        (
            "[auth.jwt]\nleeway = \"6m\"\nrole_claim = \"user_metadata.role\"\n",
            "config.toml:2: auth.jwt.leeway: expected a duration from 0s to 5m, found \
             \"6m\"\nconfig.toml:3: auth.jwt.role_claim: expected a claim that users cannot \
             write themselves, such as app_metadata.role, found \"user_metadata.role\"",
        ),
        (
            "[auth.jwt.roles]\nanon = \"viewer\"\nboss = \"root\"\n",
            "config.toml:2: auth.jwt.roles.anon: expected no such role, because Supabase's \
             public key, which everybody has, is a validly signed JWT of it, found a role for \
             \"anon\"\nconfig.toml:3: auth.jwt.roles.boss: expected one of \"viewer\", \
             \"operator\", \"admin\", \"service\", \"user\", found \"root\"",
        ),
        (
            "[auth.jwt]\nissuer = 5\naudience = [\"\"]\n",
            "config.toml:2: auth.jwt.issuer: expected a list of texts, found 5\nconfig.toml:3: \
             auth.jwt.audience: expected text, found \"\"",
        ),
    ] {
        assert_eq!(Given::file(text).url().report(), expected);
    }
    let given = Given::nothing().url().env("SUPABASE_JWT_SECRET", "hunter2");
    assert!(
        given.report().starts_with(
            "SUPABASE_JWT_SECRET: auth.jwt.secret: expected at least 32 \
            bytes (RFC 7518)"
        ),
        "{}",
        given.report()
    );
}

#[test]
fn the_transport_of_credentials_is_checked() {
    let given = Given::file("[http]\ntls_cert_file = \"c\"\ntls_key_file = \"k\"\n").url();
    let tls = given.config().http.tls().unwrap();
    assert_eq!((tls.cert, tls.key), (given.path("c"), given.path("k")));
    assert_eq!(
        Given::file("[http]\ntls_key_file = \"k\"\n").url().report(),
        "config.toml:2: http.tls_key_file: expected tls_cert_file too, or neither, found only \
         one of the two"
    );
    let warned = |more: &str| token(&format!("[http]\n{more}")).holds().warnings.len();
    assert_eq!(warned("listen = \"0.0.0.0:1\"\n"), 1);
    assert_eq!(warned("listen = \"[::1]:1\"\n"), 0);
    assert_eq!(warned("listen = \"0.0.0.0:1\"\nallow_plain_http = true\n"), 0);
    assert_eq!(warned("listen = \"0.0.0.0:1\"\ntls_cert_file = \"c\"\ntls_key_file = \"k\"\n"), 0);
}

#[test]
fn origins_are_exact() {
    let given = |origin: &str| Given::file(format!("[http]\ncors_origins = [{origin:?}]\n")).url();
    for right in [
        "https://a.example",
        "https://a.example:8443",
        "http://localhost:3000",
        "http://[::1]:80443",
    ] {
        let port_fits = !right.ends_with("80443");
        assert_eq!(given(right).load().is_ok(), port_fits, "{right}");
    }
    for (wrong, expected) in [
        ("*", "every page of the web"),
        ("http://a.example", "as browsers send it"),
        ("https://a.example/", "did you mean \"https://a.example\""),
        ("https://A.example", "did you mean \"https://a.example\""),
        ("https://a.example:443", "as browsers send it"),
        ("https://a.example/path", "as browsers send it"),
        ("https://u@a.example", "as browsers send it"),
        ("https://", "as browsers send it"),
        ("https://*.example", "as browsers send it"),
        ("null", "as browsers send it"),
    ] {
        let report = given(wrong).report();
        assert!(report.contains(expected), "{wrong}: {report}");
    }
    let config = Given::nothing()
        .url()
        .env("PGSTEWARD__HTTP__TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1")
        .config();
    assert_eq!(config.http.trusted_proxies.len(), 2);
}
