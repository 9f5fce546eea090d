//! Parses the URL of a webhook. Errors quote at most its scheme and host.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

use super::{Webhook, WebhookError};

/// Scheme, host and port: the parts of the URL that are not secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Endpoint {
    fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// `host[:port]` for the `Host` header, without the default port of the scheme.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == Endpoint::default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

pub(super) fn parse(url: &str) -> Result<Webhook, WebhookError> {
    const HTTPS: &str = "https://HOST/PATH";
    if url.contains('#') {
        return Err(invalid(
            "a URL without a fragment, or %23 for a # in a password",
            "a # (a fragment is never sent)",
        ));
    }
    let uri: Uri =
        url.parse().map_err(|error: hyper::http::uri::InvalidUri| invalid(HTTPS, error))?;
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(_) => return Err(invalid(HTTPS, "another scheme")),
        None => return Err(invalid(HTTPS, "no scheme")),
    };
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    // Part of a password that contains a / would be taken for host and port, and shown.
    if target.as_str().contains('@') {
        return Err(invalid(
            "%40 for an @, and %2F for a / and %3F for a ? in a password",
            "an @ after the host",
        ));
    }
    let authority = uri.authority().ok_or_else(|| invalid(HTTPS, "no host"))?;
    if authority.host().is_empty() {
        return Err(invalid(HTTPS, "no host"));
    }
    let endpoint = endpoint(tls, authority)?;
    // Anyone on the network could read what is sent in plain text, use the credentials in it, and
    // answer in the name of the receiver.
    if !tls && !is_loopback(&endpoint.host) {
        return Err(invalid(
            "https://, or http:// to localhost, 127.0.0.1 or [::1]",
            format!("http:// to {}", endpoint.host),
        ));
    }
    let host = HeaderValue::try_from(endpoint.authority())
        .map_err(|error| invalid("the name or address of a host", error))?;
    let authorization = basic_authorization(authority)?;
    Ok(Webhook { endpoint, host, target: target.into(), authorization, roots: Vec::new() })
}

fn endpoint(tls: bool, authority: &Authority) -> Result<Endpoint, WebhookError> {
    let host = authority.host();
    let after_userinfo = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = match after_userinfo.strip_prefix(host).unwrap_or_default() {
        "" | ":" => Endpoint::default_port(tls),
        rest => rest
            .strip_prefix(':')
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or_else(|| invalid("a port from 1 to 65535", "an unusable port"))?,
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(Endpoint { tls, host: host.to_owned(), port })
}

/// Whether a host is this machine by its text. `dial` checks the addresses that it resolves to.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Returns the header for `USER:PASSWORD@` (Basic, RFC 7617), none if there is no userinfo. A USER
/// alone has an empty password.
fn basic_authorization(authority: &Authority) -> Result<Option<HeaderValue>, WebhookError> {
    let Some((userinfo, _)) =
        authority.as_str().rsplit_once('@').filter(|(userinfo, _)| !userinfo.is_empty())
    else {
        return Ok(None);
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let malformed =
        || invalid("%25 for a % in a password", "a % before the @ that encodes nothing");
    let user = percent_decode(user).ok_or_else(malformed)?;
    let password = percent_decode(password).ok_or_else(malformed)?;
    if user.contains(&b':') {
        return Err(invalid(
            "a user name without a colon, where Basic authorization ends it",
            "a user name with a colon",
        ));
    }
    let encoded = STANDARD.encode([user.as_slice(), b":", password.as_slice()].concat());
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| invalid("a password that fits into a header", "an unusable password"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Decodes percent encoding. Returns none if a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(decoded)
}

fn invalid(expected: &'static str, found: impl fmt::Display) -> WebhookError {
    WebhookError::Url { expected, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed() {
        for (url, shown, host, target) in [
            ("https://hooks.test", "https://hooks.test", "hooks.test", "/"),
            ("https://hooks.test/a/b?c=d", "https://hooks.test", "hooks.test", "/a/b?c=d"),
            ("https://hooks.test?c=d", "https://hooks.test", "hooks.test", "/?c=d"),
            ("HTTPS://hooks.test:443/x", "https://hooks.test", "hooks.test", "/x"),
            ("https://hooks.test:/x", "https://hooks.test", "hooks.test", "/x"),
            ("https://hooks.test:8443/x", "https://hooks.test:8443", "hooks.test", "/x"),
            ("https://u:p@hooks.test:80/x", "https://hooks.test:80", "hooks.test", "/x"),
            ("https://u:80@hooks.test/x", "https://hooks.test", "hooks.test", "/x"),
            ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443", "2001:db8::1", "/x"),
            ("http://localhost:8080/x", "http://localhost:8080", "localhost", "/x"),
            ("http://127.9.8.7/x", "http://127.9.8.7", "127.9.8.7", "/x"),
            ("http://u@[::1]/x", "http://[::1]", "::1", "/x"),
            (
                "http://[::ffff:127.0.0.1]:81/x",
                "http://[::ffff:127.0.0.1]:81",
                "::ffff:127.0.0.1",
                "/x",
            ),
        ] {
            let hook = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(
                (hook.to_string().as_str(), hook.endpoint.host.as_str()),
                (shown, host),
                "{url}"
            );
            assert_eq!(hook.target.to_string(), target, "{url}");
            assert_eq!(hook.host, hook.endpoint.authority(), "{url}");
        }
    }

    #[test]
    fn an_error_quotes_no_secret() {
        for (url, found) in [
            ("", "empty string"),
            ("hunter2", "no scheme"),
            ("/hunter2", "no scheme"),
            ("ftp://hooks.test/hunter2", "another scheme"),
            ("https:///hunter2", "invalid format"),
            ("https://:443/hunter2", "no host"),
            ("https://u:hunter2@", "invalid"),
            ("https://hooks.test/hunter2 x", "invalid uri character"),
            (" https://hooks.test/hunter2", "invalid"),
            ("https://hooks.test/hunter2\r\nX: y", "invalid uri character"),
            ("https://hooks.test:0/hunter2", "an unusable port"),
            ("https://hooks.test:65536/hunter2", "an unusable port"),
            ("https://hooks.test:http/hunter2", "an unusable port"),
            ("https://hooks.test/x#hunter2", "a # (a fragment is never sent)"),
            ("https://u:12/hunter2@hooks.test", "an @ after the host"),
            ("https://u:12?hunter2@hooks.test", "an @ after the host"),
            ("https://u:hunter2%@hooks.test", "a % before the @ that encodes nothing"),
            ("https://u:hunter2%2@hooks.test", "a % before the @ that encodes nothing"),
            ("https://u:hunter2%zz@hooks.test", "a % before the @ that encodes nothing"),
            ("https://u%3Av:hunter2@hooks.test", "a user name with a colon"),
            ("http://hooks.test/hunter2", "http:// to hooks.test"),
            ("http://u:hunter2@10.0.0.1", "http:// to 10.0.0.1"),
            ("http://localhost.test/hunter2", "http:// to localhost.test"),
            ("http://127.1/hunter2", "http:// to 127.1"),
            ("http://localhost@hooks.test/hunter2", "http:// to hooks.test"),
        ] {
            let error = parse(url).expect_err(url);
            assert!(
                matches!(&error, WebhookError::Url { found: what, .. } if what.contains(found)),
                "{url}: {error}"
            );
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error:?}");
        }
    }

    #[test]
    fn userinfo_becomes_basic_authorization() {
        for (userinfo, plain) in [
            ("Aladdin:open%20sesame@", Some("Aladdin:open sesame")),
            ("token@", Some("token:")),
            (":token@", Some(":token")),
            ("u:a:b%40%2f@", Some("u:a:b@/")),
            ("u:a@b@", Some("u:a@b")),
            ("@", None),
            ("", None),
        ] {
            let hook = parse(&format!("https://{userinfo}hooks.test/x")).unwrap();
            let expected = plain.map(|plain| format!("Basic {}", STANDARD.encode(plain)));
            let sent = hook.authorization.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(sent, expected.as_deref(), "{userinfo}");
        }
        let hook = parse("https://Aladdin:open%20sesame@hooks.test").unwrap();
        assert_eq!(
            hook.authorization.unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "RFC 7617's own example"
        );
    }

    #[test]
    fn debug_shows_the_endpoint_only() {
        let hook = parse("https://hunter1:hunter2@hooks.test:8443/hunter3?hunter4").unwrap();
        assert_eq!(
            format!("{hook} {hook:?}"),
            "https://hooks.test:8443 Webhook(https://hooks.test:8443)"
        );
    }
}
