//! Connection settings in libpq's notation.
//!
//! ```text
//! postgresql://user:password@host1:5432,[::1]:5433/dbname?sslmode=verify-full&sslrootcert=ca.pem
//! host=/run/postgresql dbname=app user=app password='with \' quote'
//! ```
//! The parser of tokio-postgres refuses most settings that users have in these strings
//! (`verify-full`, `sslrootcert`, `target_session_attrs=primary`, …), so this module reads them. A
//! setting that is not supported is refused with advice; none that concerns security is ignored.
//!
//! Intended differences to libpq:
//! - The `PG*` variables, service files, `~/.pgpass` and `~/.postgresql/` are not read: only
//!   written
//!   settings apply. `passfile=~/.pgpass` names a password file.
//! - `application_name` is appended to the name of each connection's purpose.
//! - `options` is passed to the server (Neon and Supabase route by it); PgBouncer refuses it unless
//!   it is configured to ignore it.
//! - `sslrootcert` together with `sslmode=prefer` (the default) or `allow` is refused, because
//!   libpq
//!   would verify and then fall back to plain text.
//! - Errors never repeat a password, nor anything that may be a part of one.

mod keys;
pub(crate) mod passfile;
mod settings;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Secret;
use crate::config::table::words;

/// The directories of the socket if no host is given: Debian's and PostgreSQL's own default.
pub(crate) const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A problem of connection settings; never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnInfoError(String);

impl ConnInfoError {
    pub(crate) fn new(message: impl Into<String>) -> ConnInfoError {
        ConnInfoError(message.into())
    }
}

/// The settings of connections to a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// In the order to try; at least one, at most 16.
    pub hosts: Vec<Host>,
    pub user: String,
    pub dbname: String,
    pub password: Option<Secret>,
    pub passfile: Option<PathBuf>,
    pub tls: TlsOptions,
    pub channel_binding: ChannelBinding,
    /// Per host; without it, or with 0, the configured limit applies.
    pub connect_timeout: Option<Duration>,
    /// Appended to the name of the purpose.
    pub application_name: Option<String>,
    /// Passed to the server at login.
    pub options: Option<String>,
    pub target_session_attrs: TargetSessionAttrs,
    /// Try hosts and addresses in random order.
    pub load_balance: bool,
    /// `None` if it is switched off.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged.
    pub tcp_user_timeout: Duration,
}

/// One address of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Certificates are checked against `name`; `addr` makes a lookup unnecessary.
    Tcp { name: String, addr: Option<IpAddr>, port: u16 },
    /// The directory of the socket `.s.PGSQL.PORT`.
    Unix { dir: PathBuf, port: u16 },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Tcp { name, port, .. } if name.contains(':') => write!(f, "[{name}]:{port}"),
            Host::Tcp { name, port, .. } => write!(f, "{name}:{port}"),
            Host::Unix { dir, port } => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
        }
    }
}

/// Whether and how to encrypt, in libpq's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub negotiation: SslNegotiation,
    pub root: Option<RootCert>,
    /// Client certificate and its key, both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Send the host's name, which proxies route by.
    pub sni: bool,
}

words! {
    /// `sslmode`, from the weakest to the strongest.
    SslMode {
        Disable = "disable",
        Allow = "allow",
        Prefer = "prefer",
        Require = "require",
        VerifyCa = "verify-ca",
        VerifyFull = "verify-full",
    }
}

words! {
    /// `sslnegotiation`
    SslNegotiation {
        Postgres = "postgres",
        /// The handshake begins without a request for it (PostgreSQL 17 and later).
        Direct = "direct",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The certificates that the operating system trusts.
    System,
    File(PathBuf),
}

words! {
    /// `channel_binding`
    ChannelBinding {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }
}

words! {
    /// `target_session_attrs`
    TargetSessionAttrs {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
    }
}

/// Probes on a silent TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

impl ConnInfo {
    /// Parses a URL or `key=value` words. Looks up nothing but the name of the operating system's
    /// user, if no user is given.
    pub fn parse(text: &str) -> Result<ConnInfo, ConnInfoError> {
        let mut settings = settings::Settings::default();
        let mut password_seen = false;
        for (key, value) in text::split(text)? {
            let key = keys::judge(&key, !password_seen)?;
            password_seen |= key == Some("password");
            if let Some(key) = key {
                settings.set(key, value);
            }
        }
        settings.read()
    }
}

#[cfg(test)]
mod tests;
