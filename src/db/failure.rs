//! What is told when a connect failed: one error for all hosts that were tried, of the most telling kind.

use std::time::Duration;

use super::dial::{Place, Progress, Step};
use super::error::{Error, Kind};
use super::supabase;
use crate::config::conninfo::Host;

/// Whether other hosts would say the same.
pub(super) fn ends_the_search(kind: Kind) -> bool {
    matches!(kind, Kind::Auth | Kind::Hba | Kind::UnknownDatabase | Kind::Permission | Kind::Config)
}

/// How much a kind tells about what to do.
pub(super) fn telling(kind: Kind) -> u8 {
    match kind {
        Kind::Config => 9,
        Kind::Auth | Kind::Hba | Kind::UnknownDatabase | Kind::Permission => 8,
        Kind::Tls => 7,
        Kind::TooManyConnections => 6,
        Kind::StartingUp => 5,
        Kind::ReadOnly | Kind::InRecovery => 4,
        Kind::Protocol | Kind::ConnectionLost => 3,
        Kind::Refused => 2,
        Kind::Unreachable => 0,
        _ => 1,
    }
}

/// One error for all hosts: the most telling one, with the others in front.
pub(super) fn summary(failures: Vec<(&Host, Error)>) -> Error {
    let Some(at) =
        (0..failures.len()).max_by_key(|at| (telling(failures[*at].1.kind()), usize::MAX - at))
    else {
        return Error::new(Kind::Config, "no host is named");
    };
    let others: Vec<String> = failures
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != at)
        .map(|(_, (host, error))| format!("{host}: {error}"))
        .collect();
    let mut failures = failures;
    let (host, error) = failures.swap_remove(at);
    let error = error.context(host);
    let error = if others.is_empty() { error } else { error.context(others.join("; ")) };
    error.context("connect")
}

/// What to say when a bound passed.
pub(super) fn stuck(progress: &Progress, bound: Duration) -> Error {
    let what = match progress.step {
        Step::Lookup => format!("looking up the host's name took longer than {bound:.1?}"),
        Step::Connect => format!("no answer within {bound:.1?}"),
        Step::Tls => format!(
            "accepted the connection, then stayed silent for {bound:.1?} when asked for TLS"
        ),
        Step::Login => format!("accepted the connection and stayed silent for {bound:.1?}"),
        Step::Session => {
            format!(
                "logged in, but answered no statement within {bound:.1?}; is a pooler out of servers?"
            )
        }
    };
    Error::new(Kind::Unreachable, what)
}

/// Adds what to do when a direct address of Supabase's cannot be reached over IPv4.
pub(super) fn no_route(host: &Host, places: &[Place], error: Error) -> Error {
    let Host::Tcp { name, .. } = host else { return error };
    let v6_only = !places.iter().any(|place| matches!(place, Place::Tcp(addr) if addr.is_ipv4()));
    if error.kind() == Kind::Unreachable && v6_only && supabase::is_direct_host(name) {
        return error.context(supabase::USE_SESSION_POOLER);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::Tcp { name: name.to_owned(), addr: None, port: 5432 }
    }

    #[test]
    fn the_summary_has_every_host_and_the_most_telling_kind() {
        let (a, b, c) = (host("a"), host("b"), host("c"));
        let error = summary(vec![
            (&a, Error::new(Kind::Unreachable, "silent")),
            (&b, Error::new(Kind::TooManyConnections, "full")),
            (&c, Error::new(Kind::Refused, "nobody there")),
        ]);
        assert_eq!(error.kind(), Kind::TooManyConnections);
        let text = error.to_string();
        for part in ["a:5432: silent", "b:5432: full", "c:5432: nobody there"] {
            assert_eq!(text.matches(part).count(), 1, "{text}");
        }
    }

    #[test]
    fn supabase_without_a_route_says_where_to_copy_from() {
        let direct = host("db.abcdefgh.supabase.co");
        let v6 = [Place::Tcp("[2001:db8::1]:5432".parse().unwrap())];
        let v4 = [Place::Tcp("192.0.2.1:5432".parse().unwrap())];
        let unreachable = || Error::new(Kind::Unreachable, "network is unreachable");
        for places in [&v6[..], &[]] {
            let error = no_route(&direct, places, unreachable()).to_string();
            assert!(error.contains("session pooler") && error.contains("dashboard"), "{error}");
        }
        assert!(
            !no_route(&direct, &v4, unreachable()).to_string().contains("pooler"),
            "an IPv4 address was bought"
        );
        assert!(!no_route(&host("db.example"), &v6, unreachable()).to_string().contains("pooler"));
        let refused = Error::new(Kind::Refused, "refused");
        assert!(!no_route(&direct, &v6, refused).to_string().contains("pooler"), "it was reached");
    }
}
