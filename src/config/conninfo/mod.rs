//! Connection settings as libpq writes them, read by ourselves.
//!
//! ```text
//! postgresql://user:password@host1:5432,[::1]:5433/dbname?sslmode=verify-full&sslrootcert=ca.pem
//! host=/run/postgresql dbname=app user=app password='with \' quote'
//! ```
//! tokio-postgres' own parser refuses most of what people have in these strings (`verify-full`,
//! `sslrootcert`, `target_session_attrs=primary`, …), so all of it is read here, and what cannot be
//! honoured is refused with what to do instead; nothing that bears on safety is passed over.
//!
//! Differences to libpq, on purpose:
//! - The environment's `PG*` variables, service files, `~/.pgpass` and `~/.postgresql/` are not looked
//!   up: what is not written is not used. `passfile=~/.pgpass` names a password file.
//! - `application_name` is appended to the purpose that each connection is named by.
//! - `options` is passed on (Neon and Supabase route by it); PgBouncer refuses it unless it is told
//!   to ignore it.
//! - `sslrootcert` together with `sslmode=prefer` (the default) or `allow` is refused: libpq would
//!   verify, and then fall back to plain text.
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

/// Where libpq looks for the socket when no host is given: Debian's place, and upstream's.
pub(crate) const SOCKET_DIRS: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// What is wrong with connection settings; never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnInfoError(String);

impl ConnInfoError {
    pub(crate) fn new(message: impl Into<String>) -> ConnInfoError {
        ConnInfoError(message.into())
    }
}

/// How a database is reached.
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
    /// Per host; where absent or 0 the configured bound holds.
    pub connect_timeout: Option<Duration>,
    /// Appended to the purpose.
    pub application_name: Option<String>,
    /// Passed to the server at login as it is.
    pub options: Option<String>,
    pub target_session_attrs: TargetSessionAttrs,
    /// Try hosts and addresses in random order.
    pub load_balance: bool,
    /// None where switched off.
    pub keepalive: Option<Keepalive>,
    /// How long sent data may stay unacknowledged.
    pub tcp_user_timeout: Duration,
}

/// One place to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// `name` is what certificates are checked against; `addr` spares the lookup.
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

/// Whether and how to encrypt, in libpq's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    pub mode: SslMode,
    pub negotiation: SslNegotiation,
    pub root: Option<RootCert>,
    /// Client certificate and its key, both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Send the host's name, so that a proxy can route by it.
    pub sni: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// As libpq spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Allow => "allow",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    Postgres,
    /// The handshake without asking first (PostgreSQL 17 and later).
    Direct,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// What the operating system trusts.
    System,
    File(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    Prefer,
    Require,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// Probes on a silent TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    pub idle: Duration,
    pub interval: Duration,
    pub count: u32,
}

impl ConnInfo {
    /// Reads a URL or `key=value` words. Looks nothing up but the name of the operating system's user
    /// where none is given.
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
