//! Contradictions between the keys of `[http]` and `[auth]`.

use chrono::{DateTime, Utc};

use super::{Config, Findings, Node};

/// Checks credentials and the transport that carries them, as of `now`.
pub(super) fn auth(findings: &mut Findings, config: &Config, tree: &Node, now: DateTime<Utc>) {
    let (cert, key) = (["http", "tls_cert_file"], ["http", "tls_key_file"]);
    match (tree.at(&cert).is_some(), tree.at(&key).is_some()) {
        (true, false) => one_of_two(findings, tree, &cert, "tls_key_file"),
        (false, true) => one_of_two(findings, tree, &key, "tls_cert_file"),
        _ => {}
    }
    for (name, token) in &config.auth.tokens {
        if let Some(expires) = token.expires.filter(|expires| *expires <= now) {
            let expires = expires.format("%Y-%m-%dT%H:%M:%SZ");
            findings.warnings.push(format!(
                "auth.tokens.{name} has expired at {expires}: it is no longer accepted"
            ));
        }
    }
    let jwt = &config.auth.jwt;
    if !jwt.is_configured() && (!jwt.issuer.is_empty() || !jwt.audience.is_empty()) {
        let warning = "auth.jwt has neither secret nor jwks_file: no JSON Web Token is accepted";
        findings.warnings.push(warning.to_owned());
    }
    let http = &config.http;
    if config.auth.is_configured()
        && http.tls().is_none()
        && !http.allow_plain_http
        && !http.listen.ip().is_loopback()
    {
        findings.warnings.push(format!(
            "http.listen = {} without http.tls_cert_file: requests with credentials are answered \
             with 403, because the credentials would travel in plain text; if TLS ends in a \
             proxy before pgsteward, set http.allow_plain_http = true",
            http.listen
        ));
    }
}

fn one_of_two(findings: &mut Findings, tree: &Node, given: &[&str], missing: &str) {
    let expected = format!("{missing} too, or neither");
    findings.contradiction(tree, &[given], "only one of the two", expected);
}
