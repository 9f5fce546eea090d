//! From keys and values to settings: ranges, defaults and contradictions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    ChannelBinding, ConnInfo, ConnInfoError, Host, Keepalive, RootCert, SOCKET_DIRS, SslMode,
    SslNegotiation, TargetSessionAttrs, TlsOptions,
};
use crate::config::Secret;
use crate::config::table::Words;

const HOSTS_MAX: usize = 16;
const DEFAULT_PORT: u16 = 5432;

/// The last value given for each key.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    pub(super) fn set(&mut self, key: &'static str, value: String) {
        self.0.insert(key, value);
    }

    /// The value of a key. An empty one counts as missing, as in libpq.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn word<T: Words>(&self, key: &str, default: T) -> Result<T, ConnInfoError> {
        self.one_of(key, default, T::WORDS)
    }

    fn one_of<T: Copy>(
        &self,
        key: &str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T, ConnInfoError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let choice = choices.iter().find(|(name, _)| *name == value);
        choice.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            ConnInfoError::new(format!("expected {key} to be one of {names}, found {value:?}"))
        })
    }

    /// A whole number. 0 and negative numbers mean the default, as in libpq.
    fn number(&self, key: &str, max: u32) -> Result<Option<u32>, ConnInfoError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.trim().parse::<i64>() {
            Ok(number) if number <= 0 => Ok(None),
            Ok(number) if number <= i64::from(max) => Ok(Some(number as u32)),
            _ => Err(ConnInfoError::new(format!(
                "expected {key} to be a whole number from 0 to {max}"
            ))),
        }
    }

    /// Reads all settings, with their defaults.
    pub(super) fn read(&self) -> Result<ConnInfo, ConnInfoError> {
        if let Some(encoding) = self.get("client_encoding")
            && !["utf8", "utf-8", "unicode", "auto"]
                .contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(ConnInfoError::new("client_encoding: UTF8 is always used; remove it"));
        }
        self.one_of("gssencmode", (), &[("disable", ()), ("prefer", ())]).map_err(|_| {
            ConnInfoError::new(
                "gssencmode: GSSAPI is not supported; use sslmode=verify-full, and \
                 gssencmode=disable",
            )
        })?;
        let user = match self.get("user") {
            Some(user) => user.to_owned(),
            None => os_user().ok_or_else(|| {
                ConnInfoError::new(
                    "no user is given, and the operating system has no name for this user; add \
                     user=",
                )
            })?,
        };
        let keepalives = self.one_of("keepalives", true, &[("1", true), ("0", false)])?;
        let keepalive = Keepalive {
            idle: seconds(self.number("keepalives_idle", 32_767)?.unwrap_or(30)),
            interval: seconds(self.number("keepalives_interval", 32_767)?.unwrap_or(10)),
            count: self.number("keepalives_count", 127)?.unwrap_or(3),
        };
        Ok(ConnInfo {
            hosts: self.hosts()?,
            dbname: self.get("dbname").unwrap_or(&user).to_owned(),
            user,
            password: self.get("password").map(Secret::new),
            passfile: self.path("passfile"),
            tls: self.tls()?,
            channel_binding: self.word("channel_binding", ChannelBinding::Prefer)?,
            connect_timeout: self.number("connect_timeout", 3600)?.map(seconds),
            application_name: self.get("application_name").map(str::to_owned),
            options: self.get("options").map(str::to_owned),
            target_session_attrs: self.word("target_session_attrs", TargetSessionAttrs::Any)?,
            load_balance: self.one_of(
                "load_balance_hosts",
                false,
                &[("disable", false), ("random", true)],
            )?,
            keepalive: keepalives.then_some(keepalive),
            tcp_user_timeout: Duration::from_millis(
                self.number("tcp_user_timeout", 3_600_000)?.unwrap_or(30_000).max(1_000).into(),
            ),
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list =
            |key| self.get(key).map(|value| value.split(',').map(str::trim).collect::<Vec<&str>>());
        let names = list("host");
        let addrs = list("hostaddr");
        let count = names.as_ref().or(addrs.as_ref()).map_or(1, Vec::len);
        if count > HOSTS_MAX {
            return Err(ConnInfoError::new(format!(
                "{count} hosts; at most {HOSTS_MAX} are tried"
            )));
        }
        if let (Some(names), Some(addrs)) = (&names, &addrs)
            && names.len() != addrs.len()
        {
            return Err(ConnInfoError::new(format!(
                "{} hosts but {} values of hostaddr",
                names.len(),
                addrs.len()
            )));
        }
        let ports = list("port").unwrap_or_else(|| vec![""]);
        if ports.len() != 1 && ports.len() != count {
            return Err(ConnInfoError::new(format!(
                "expected one port, or one for each host, found {} ports for {count} hosts",
                ports.len()
            )));
        }
        let mut hosts = Vec::with_capacity(count);
        for at in 0..count {
            let port = match ports[if ports.len() == 1 { 0 } else { at }] {
                "" => DEFAULT_PORT,
                // Not shown, because in a URL it may be the end of a password.
                port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                    ConnInfoError::new(
                        "a port is not a number from 1 to 65535 (is a character of the password \
                         not encoded?)",
                    )
                })?,
            };
            let name = names.as_ref().map_or("", |names| names[at]);
            let addr = match addrs.as_ref().map_or("", |addrs| addrs[at]) {
                "" => None,
                addr => Some(addr.parse::<IpAddr>().map_err(|_| {
                    ConnInfoError::new(
                        "expected hostaddr to be an IPv4 or IPv6 address; names belong into host",
                    )
                })?),
            };
            match (name, addr) {
                ("", None) => {
                    hosts.extend(
                        SOCKET_DIRS.map(|dir| Host::Unix { dir: PathBuf::from(dir), port }),
                    );
                }
                (name, None) if name.starts_with('/') => {
                    hosts.push(Host::Unix { dir: PathBuf::from(name), port });
                }
                (name, None) if name.starts_with('@') => {
                    return Err(ConnInfoError::new(
                        "abstract Unix sockets (host=@…) are not supported; use a directory",
                    ));
                }
                ("", Some(addr)) => {
                    hosts.push(Host::Tcp { name: addr.to_string(), addr: Some(addr), port });
                }
                (name, addr) => hosts.push(Host::Tcp { name: name.to_owned(), addr, port }),
            }
        }
        Ok(hosts)
    }

    fn tls(&self) -> Result<TlsOptions, ConnInfoError> {
        let root = match self.get("sslrootcert") {
            None => None,
            Some("system") => Some(RootCert::System),
            Some(_) => self.path("sslrootcert").map(RootCert::File),
        };
        // `ssl` is JDBC's spelling, which libpq takes too.
        let fallback =
            match (self.one_of("ssl", false, &[("true", true), ("false", false)])?, &root) {
                (_, Some(RootCert::System)) => SslMode::VerifyFull,
                (true, _) => SslMode::Require,
                (false, _) => SslMode::Prefer,
            };
        let mode = self.word("sslmode", fallback)?;
        let negotiation = self.word("sslnegotiation", SslNegotiation::Postgres)?;
        let (cert, key) = (self.path("sslcert"), self.path("sslkey"));
        let fault = if mode != SslMode::VerifyFull && root == Some(RootCert::System) {
            "sslrootcert=system with this sslmode would trust any name; use sslmode=verify-full"
        } else if matches!(mode, SslMode::Allow | SslMode::Prefer) && root.is_some() {
            "sslrootcert is given, but this sslmode falls back to plain text; use \
             sslmode=verify-full (or verify-ca, require)"
        } else if mode >= SslMode::VerifyCa && root.is_none() {
            "this sslmode needs sslrootcert: the path of a PEM file with the certificate \
             authority, or system"
        } else if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full"
        } else if key.is_none() && cert.is_some() {
            "sslcert is given without sslkey"
        } else if cert.is_none() && key.is_some() {
            "sslkey is given without sslcert"
        } else {
            let sni = self.one_of("sslsni", true, &[("1", true), ("0", false)])?;
            return Ok(TlsOptions { mode, negotiation, root, client: cert.zip(key), sni });
        };
        Err(ConnInfoError::new(format!("sslmode={}: {fault}", mode.as_str())))
    }

    /// A path, with `~/` standing for the home directory.
    fn path(&self, key: &str) -> Option<PathBuf> {
        let value = self.get(key)?;
        Some(match (value.strip_prefix("~/"), std::env::var_os("HOME")) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => PathBuf::from(value),
        })
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

/// Returns the name of the effective user from /etc/passwd. A user that only a directory service
/// knows must be given.
fn os_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
