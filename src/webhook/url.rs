//! A webhook's URL, taken apart once. No error quotes from it more than scheme and host.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};

use super::{Webhook, WebhookError};

/// Whom to connect to: all of a URL that may be shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    fn default_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// `host[:port]`, as the `Host` header has it: the port only if it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == Place::default_port(self.tls) {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

pub(super) fn parse(url: &str) -> Result<Webhook, WebhookError> {
    if url.contains('#') {
        return Err(unfit(
            "a # (a fragment is never sent)",
            "a URL without it, or %23 where it belongs to a password",
        ));
    }
    let uri: Uri = url
        .parse()
        .map_err(|error: hyper::http::uri::InvalidUri| unfit(error, "https://HOST/PATH"))?;
    let tls = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => true,
        Some(scheme) if *scheme == Scheme::HTTP => false,
        Some(_) => return Err(unfit("another scheme", "https://HOST/PATH")),
        None => return Err(unfit("no scheme", "https://HOST/PATH")),
    };
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    // A password with a / would else be taken for host and port, and shown.
    if target.as_str().contains('@') {
        return Err(unfit(
            "an @ after the host",
            "%40 for an @, and %2F for a / and %3F for a ? in a password",
        ));
    }
    let authority = uri.authority().ok_or_else(|| unfit("no host", "https://HOST/PATH"))?;
    let place = place(tls, authority)?;
    // What goes over a network in the clear can be read, and its credentials used, by whoever is on
    // the way; and nothing would tell an answer of the receiver from one of theirs.
    if !tls && !is_loopback(&place.host) {
        return Err(unfit(
            format!("http:// to {}", place.host),
            "https://, or http:// to localhost, 127.0.0.1 or [::1]",
        ));
    }
    let host = HeaderValue::try_from(place.authority())
        .map_err(|error| unfit(error, "a host's name or address"))?;
    Ok(Webhook {
        place,
        host,
        target: target.into(),
        authorization: basic(authority)?,
        roots: Vec::new(),
    })
}

fn place(tls: bool, authority: &Authority) -> Result<Place, WebhookError> {
    let host = authority.host();
    if host.is_empty() {
        return Err(unfit("no host", "https://HOST/PATH"));
    }
    let after_userinfo = authority.as_str().rsplit('@').next().unwrap_or_default();
    let port = match after_userinfo.strip_prefix(host).unwrap_or_default() {
        "" | ":" => Place::default_port(tls),
        rest => {
            let port =
                rest.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port != 0);
            port.ok_or_else(|| unfit("an unusable port", "a port from 1 to 65535"))?
        }
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(Place { tls, host: host.to_owned(), port })
}

/// Whether a host is this machine by its very name; what it resolves to is looked at again.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Basic authorization (RFC 7617) of `USER:PASSWORD@`; a USER alone has an empty password.
fn basic(authority: &Authority) -> Result<Option<HeaderValue>, WebhookError> {
    let Some((userinfo, _)) =
        authority.as_str().rsplit_once('@').filter(|(userinfo, _)| !userinfo.is_empty())
    else {
        return Ok(None);
    };
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let malformed = || unfit("a % before the @ that encodes nothing", "%25 for a % in a password");
    let user = decode(user).ok_or_else(malformed)?;
    let password = decode(password).ok_or_else(malformed)?;
    if user.contains(&b':') {
        return Err(unfit(
            "a user's name with a colon",
            "one without: Basic authorization ends the name there",
        ));
    }
    let encoded = STANDARD.encode([user.as_slice(), b":", password.as_slice()].concat());
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .map_err(|_| unfit("an unusable password", "one that fits a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Undoes percent encoding; none where a `%` is not followed by two hexadecimal digits.
fn decode(text: &str) -> Option<Vec<u8>> {
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

fn unfit(found: impl fmt::Display, wanted: &'static str) -> WebhookError {
    WebhookError::Url { found: found.to_string(), wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
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
                (hook.to_string().as_str(), hook.place.host.as_str()),
                (shown, host),
                "{url}"
            );
            assert_eq!(hook.target.to_string(), target, "{url}");
            assert_eq!(hook.host, hook.place.authority(), "{url}");
        }
    }

    #[test]
    fn an_unfit_url_is_told_without_its_secrets() {
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
            ("https://u%3Av:hunter2@hooks.test", "a user's name with a colon"),
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
            let wanted = plain.map(|plain| format!("Basic {}", STANDARD.encode(plain)));
            let sent = hook.authorization.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(sent, wanted.as_deref(), "{userinfo}");
        }
        let hook = parse("https://Aladdin:open%20sesame@hooks.test").unwrap();
        assert_eq!(
            hook.authorization.unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "RFC 7617's own example"
        );
    }

    #[test]
    fn debug_shows_whom_and_nothing_else() {
        let hook = parse("https://hunter1:hunter2@hooks.test:8443/hunter3?hunter4").unwrap();
        assert_eq!(
            format!("{hook} {hook:?}"),
            "https://hooks.test:8443 Webhook(https://hooks.test:8443)"
        );
    }
}
