//! From keys and values to settings: ranges, defaults, and what contradicts what.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{
    ChannelBinding, ConnInfo, ConnInfoError, Host, Keepalive, RootCert, SOCKET_DIRS, SslMode,
    SslNegotiation, TargetSessionAttrs, TlsOptions,
};
use crate::config::Secret;

const HOSTS_MAX: usize = 16;
const DEFAULT_PORT: u16 = 5432;

/// The last value given for each key.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    pub(super) fn set(&mut self, key: &'static str, value: String) {
        self.0.insert(key, value);
    }

    /// A value that is given and not empty, as libpq reads an empty one as absent.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn one_of<T: Copy>(
        &self,
        key: &str,
        default: T,
        choices: &[(&str, T)],
    ) -> Result<T, ConnInfoError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice).ok_or_else(
            || {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                ConnInfoError::new(format!(
                    "{key} is {value:?}; wanted one of {}",
                    names.join(", ")
                ))
            },
        )
    }

    /// A whole number; 0 and below mean "the default", as in libpq.
    fn number(&self, key: &str, max: u32) -> Result<Option<u32>, ConnInfoError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.trim().parse::<i64>() {
            Ok(number) if number <= 0 => Ok(None),
            Ok(number) if number <= i64::from(max) => Ok(Some(number as u32)),
            _ => Err(ConnInfoError::new(format!("{key} is not a whole number from 0 to {max}"))),
        }
    }

    /// All of them, with their defaults.
    pub(super) fn read(&self) -> Result<ConnInfo, ConnInfoError> {
        if let Some(encoding) = self.get("client_encoding")
            && !["utf8", "utf-8", "unicode", "auto"]
                .contains(&encoding.to_ascii_lowercase().as_str())
        {
            return Err(ConnInfoError::new("client_encoding: UTF8 is always used; remove it"));
        }
        self.one_of("gssencmode", (), &[("disable", ()), ("prefer", ())]).map_err(|_| {
            ConnInfoError::new("gssencmode: GSSAPI is not supported; use sslmode=verify-full, and gssencmode=disable")
        })?;
        let user = match self.get("user") {
            Some(user) => user.to_owned(),
            None => os_user().ok_or_else(|| {
                ConnInfoError::new(
                    "no user is given, and the operating system has no name for ours; add user=",
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
            channel_binding: self.one_of(
                "channel_binding",
                ChannelBinding::Prefer,
                &[
                    ("disable", ChannelBinding::Disable),
                    ("prefer", ChannelBinding::Prefer),
                    ("require", ChannelBinding::Require),
                ],
            )?,
            connect_timeout: self.number("connect_timeout", 3600)?.map(seconds),
            application_name: self.get("application_name").map(str::to_owned),
            options: self.get("options").map(str::to_owned),
            target_session_attrs: self.one_of(
                "target_session_attrs",
                TargetSessionAttrs::Any,
                &[
                    ("any", TargetSessionAttrs::Any),
                    ("read-write", TargetSessionAttrs::ReadWrite),
                    ("read-only", TargetSessionAttrs::ReadOnly),
                    ("primary", TargetSessionAttrs::Primary),
                    ("standby", TargetSessionAttrs::Standby),
                    ("prefer-standby", TargetSessionAttrs::PreferStandby),
                ],
            )?,
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
                "{} ports for {count} hosts; wanted one, or one each",
                ports.len()
            )));
        }
        let mut hosts = Vec::with_capacity(count);
        for at in 0..count {
            let port = match ports[if ports.len() == 1 { 0 } else { at }] {
                "" => DEFAULT_PORT,
                // Not shown: in a URL it may be the tail of a password.
                port => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                    ConnInfoError::new(
                        "a port is not a number from 1 to 65535 (is a character of the password not encoded?)",
                    )
                })?,
            };
            let name = names.as_ref().map_or("", |names| names[at]);
            let addr = match addrs.as_ref().map_or("", |addrs| addrs[at]) {
                "" => None,
                addr => Some(addr.parse::<IpAddr>().map_err(|_| {
                    ConnInfoError::new(
                        "hostaddr is not an IPv4 or IPv6 address; names belong into host",
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
                    hosts.push(Host::Unix { dir: PathBuf::from(name), port })
                }
                (name, None) if name.starts_with('@') => {
                    return Err(ConnInfoError::new(
                        "abstract Unix sockets (host=@…) are not supported; use a directory",
                    ));
                }
                ("", Some(addr)) => {
                    hosts.push(Host::Tcp { name: addr.to_string(), addr: Some(addr), port })
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
        // JDBC's spelling, which libpq takes too.
        let fallback =
            match (self.one_of("ssl", false, &[("true", true), ("false", false)])?, &root) {
                (_, Some(RootCert::System)) => SslMode::VerifyFull,
                (true, _) => SslMode::Require,
                (false, _) => SslMode::Prefer,
            };
        let mode = self.one_of(
            "sslmode",
            fallback,
            &[
                ("disable", SslMode::Disable),
                ("allow", SslMode::Allow),
                ("prefer", SslMode::Prefer),
                ("require", SslMode::Require),
                ("verify-ca", SslMode::VerifyCa),
                ("verify-full", SslMode::VerifyFull),
            ],
        )?;
        match (mode, &root) {
            (SslMode::VerifyFull, Some(RootCert::System)) | (_, None | Some(RootCert::File(_))) => {
            }
            (_, Some(RootCert::System)) => {
                return Err(ConnInfoError::new(format!(
                    "sslmode={} with sslrootcert=system would trust any name; wanted sslmode=verify-full",
                    mode.as_str()
                )));
            }
        }
        if matches!(mode, SslMode::Allow | SslMode::Prefer) && root.is_some() {
            return Err(ConnInfoError::new(format!(
                "sslrootcert is given, but sslmode={} falls back to plain text; \
                 wanted sslmode=verify-full (or verify-ca, require)",
                mode.as_str()
            )));
        }
        if mode >= SslMode::VerifyCa && root.is_none() {
            return Err(ConnInfoError::new(format!(
                "sslmode={} needs sslrootcert: the path of a PEM file with the certificate authority, or system",
                mode.as_str()
            )));
        }
        let negotiation = self.one_of(
            "sslnegotiation",
            SslNegotiation::Postgres,
            &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
        )?;
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(ConnInfoError::new(
                "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
            ));
        }
        let client = match (self.path("sslcert"), self.path("sslkey")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(ConnInfoError::new("sslcert is given without sslkey")),
            (None, Some(_)) => return Err(ConnInfoError::new("sslkey is given without sslcert")),
        };
        let sni = self.one_of("sslsni", true, &[("1", true), ("0", false)])?;
        Ok(TlsOptions { mode, negotiation, root, client, sni })
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

/// The name of the effective user, from the password file; a user known only to a directory service
/// must be written.
fn os_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}
