//! When a developer's missing server may be replaced by a throw-away one.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::Environment;

/// How long the configured server is given before it is replaced.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    pub environment: Environment,
    /// Whether any connection ever succeeded since this process started. Once true it stays true:
    /// a server that was there and is gone is an outage to be told, not to be papered over.
    pub ever_connected: bool,
    /// Every host of the configured address; a Unix socket is given as its folder.
    pub hosts: &'a [&'a str],
    /// Since the first attempt to connect.
    pub waited: Duration,
}

/// Whether to start a throw-away server in place of the configured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Start it, and say so in the log and in health.
    Now,
    /// Keep trying the configured server; ask again after so long.
    In(Duration),
    /// Not in this process's life.
    Never,
}

/// In development only, before the first connection, in place of a server on this machine, and
/// after [`PATIENCE`].
pub fn fallback(situation: &Situation<'_>) -> Fallback {
    let Situation { environment, ever_connected, hosts, waited } = *situation;
    let here = !hosts.is_empty() && hosts.iter().all(|host| is_loopback(host));
    if environment != Environment::Development || ever_connected || !here {
        return Fallback::Never;
    }
    match PATIENCE.checked_sub(waited) {
        None | Some(Duration::ZERO) => Fallback::Now,
        Some(left) => Fallback::In(left),
    }
}

/// Whether a host can only be this machine: judged by its text, since a name that must be resolved
/// may be anywhere.
fn is_loopback(host: &str) -> bool {
    if host.starts_with('/') || host.starts_with('@') {
        return true;
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(5);

    #[test]
    fn all_four_conditions_are_needed() {
        use Environment::{Development, Production};
        let local: &[&str] = &["localhost"];
        for (environment, ever_connected, hosts, waited, wanted) in [
            (Development, false, local, AFTER, Fallback::Now),
            (Development, false, local, AFTER * 100, Fallback::Now),
            (
                Development,
                false,
                local,
                Duration::from_millis(4_200),
                Fallback::In(Duration::from_millis(800)),
            ),
            (Development, false, local, Duration::ZERO, Fallback::In(AFTER)),
            (Production, false, local, AFTER, Fallback::Never),
            (Development, true, local, AFTER, Fallback::Never),
            (Development, false, &["db.example.com"], AFTER, Fallback::Never),
            (Development, false, &["localhost", "db.example.com"], AFTER, Fallback::Never),
            (Development, false, &["127.0.0.1", "::1", "/run/postgresql"], AFTER, Fallback::Now),
            (Development, false, &[], AFTER, Fallback::Never),
        ] {
            let situation = Situation { environment, ever_connected, hosts, waited };
            assert_eq!(fallback(&situation), wanted, "{situation:?}");
        }
    }

    #[test]
    fn loopback_is_judged_by_the_text() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "/tmp",
            "@pg",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "10.0.0.1",
            "0.0.0.0",
            "::",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "db",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
