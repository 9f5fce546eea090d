//! Splits connection settings into keys and values: a URL, or `key=value` words.
//!
//! The errors repeat nothing of the input but keys of libpq, because an apparent port or key may be
//! the end of a password with an unencoded character in it.

use super::ConnInfoError;

/// Returns keys and values in their order in the text. Hosts and ports of a URL become
/// comma-separated lists, as in libpq.
pub(super) fn split(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(ConnInfoError::new(
            "expected postgresql://user@host/dbname, found an empty string",
        ));
    }
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => url(rest),
        None if text.split(['=', ' ']).next().is_some_and(|word| word.contains("://")) => {
            let error = "expected postgresql://user@host/dbname, found a URL of another kind";
            Err(ConnInfoError::new(error))
        }
        None => words(text),
    }
}

const ENCODE: &str =
    "in a URL, write @ as %40, / as %2F, : as %3A, ? as %3F, # as %23 and % as %25";

fn url(rest: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let mut pairs = Vec::new();
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    // A password with an unencoded "/" or "?" moves the "@" behind the authority. Everything that
    // follows may then be a part of the password.
    if tail.contains('@') {
        return Err(ConnInfoError::new(format!("an @ stands after the host part: {ENCODE}")));
    }
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, _)) if credentials.contains('@') => {
            return Err(ConnInfoError::new(format!("more than one @: {ENCODE}")));
        }
        Some((credentials, hosts)) => {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (credentials, None),
            };
            if !user.is_empty() {
                pairs.push(("user".to_owned(), decode(user)?));
            }
            if let Some(password) = password {
                pairs.push(("password".to_owned(), decode(password)?));
            }
            hosts
        }
        None => authority,
    };
    url_hosts(hosts, &mut pairs)?;

    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let dbname = path.strip_prefix('/').unwrap_or(path);
    if !dbname.is_empty() {
        pairs.push(("dbname".to_owned(), decode(dbname)?));
    }
    for (at, parameter) in query.split('&').filter(|parameter| !parameter.is_empty()).enumerate() {
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(ConnInfoError::new(format!(
                "expected ?key=value&key=value, found no = in parameter {} ({ENCODE})",
                at + 1
            )));
        };
        pairs.push((decode(key)?, decode(value)?));
    }
    Ok(pairs)
}

/// `host:port,[::1]:port,…`; each part may be missing.
fn url_hosts(hosts: &str, pairs: &mut Vec<(String, String)>) -> Result<(), ConnInfoError> {
    if hosts.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    let mut ports = Vec::new();
    for host in hosts.split(',') {
        let (name, port) = if let Some(bracketed) = host.strip_prefix('[') {
            let Some((name, after)) = bracketed.split_once(']') else {
                return Err(ConnInfoError::new("an IPv6 address has [ but no ]"));
            };
            match after.strip_prefix(':') {
                Some(port) => (name, port),
                None if after.is_empty() => (name, ""),
                None => {
                    return Err(ConnInfoError::new(
                        "after an IPv6 address in [ ] only :port may follow",
                    ));
                }
            }
        } else {
            match host.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(ConnInfoError::new(format!(
                        "a host has more than one colon: write an IPv6 address as [::1], and \
                         {ENCODE}"
                    )));
                }
                Some((name, port)) => (name, port),
                None => (host, ""),
            }
        };
        // Checked before the rest, because this may be a password without its @.
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ConnInfoError::new(format!(
                "the text after a host's colon is not a port from 1 to 65535; is an @ missing \
                 before it? ({ENCODE})"
            )));
        }
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    pairs.push(("host".to_owned(), names.join(",")));
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let low = rest.next().and_then(|digit| char::from(digit).to_digit(16));
            match (high, low) {
                (Some(high), Some(low)) if high + low > 0 => bytes.push((high * 16 + low) as u8),
                (Some(_), Some(_)) => return Err(ConnInfoError::new("%00 is not allowed")),
                _ => {
                    return Err(ConnInfoError::new(format!(
                        "a % is not followed by two hexadecimal digits: {ENCODE}"
                    )));
                }
            }
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| ConnInfoError::new("percent-encoded bytes are not UTF-8"))
}

/// `key = 'value with \' and \\' key=value`.
fn words(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    const QUOTE: &str =
        "a value with spaces is written 'in quotes', with \\' for a quote and \\\\ for a backslash";
    let mut pairs = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'=').is_none() || key.is_empty() {
            return Err(ConnInfoError::new(format!(
                "expected host=… dbname=… or postgresql://user@host/dbname, found no key=value \
                 in word {} ({QUOTE})",
                pairs.len() + 1
            )));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.extend(chars.next()),
                Some('\'') if quoted => break,
                Some(c) if c.is_whitespace() && !quoted => break,
                Some(c) => value.push(c),
                None if quoted => {
                    return Err(ConnInfoError::new(format!("a quote is not closed ({QUOTE})")));
                }
                None => break,
            }
        }
        pairs.push((key, value));
    }
}
