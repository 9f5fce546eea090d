//! Whose request it is: the peer's address, or what a trusted proxy says of it.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::HeaderName;

use crate::config::Cidr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// More proxies than stand in a row anywhere.
const HOPS_MAX: usize = 32;

/// The client's address. Each proxy adds on the right whom it heard from: going from there to the left, the first
/// address that is no trusted proxy is the client. What stands left of it the client may have written itself.
///
/// Where the peer is not trusted, or an entry that counts is no address, it is the peer. An entry may have a port.
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let peer = peer.to_canonical();
    let trusts = |address: IpAddr| trusted.iter().any(|range| range.contains(address));
    if !trusts(peer) {
        return peer;
    }
    // Several headers are one list, in their order (RFC 9110, section 5.3).
    let lines: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    let mut client = peer;
    let mut hops = 0;
    for line in lines.iter().rev() {
        let Ok(line) = line.to_str() else { return peer };
        for entry in line.rsplit(',') {
            let Some(address) = parse(entry.trim()) else { return peer };
            hops += 1;
            if hops > HOPS_MAX {
                return peer;
            }
            client = address;
            if !trusts(address) {
                return client;
            }
        }
    }
    // All are proxies of ours: the outermost is as near as it gets.
    client
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn parse(entry: &str) -> Option<IpAddr> {
    let address = entry.parse::<IpAddr>().ok();
    let address = address.or_else(|| entry.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    let bare = || {
        entry
            .strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(IpAddr::V6)
    };
    Some(address.or_else(bare)?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rightmost_hop_that_is_not_trusted_is_the_client() {
        let trusted: Vec<Cidr> =
            ["10.0.0.0/8", "fd00::/8"].map(|range| range.parse().unwrap()).to_vec();
        let many = vec!["10.0.0.9"; 40].join(", ");
        let cases: &[(&str, &[&str], &str)] = &[
            ("192.0.2.1", &["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.7", "10.0.0.2,10.0.0.3"], "198.51.100.7"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["garbage, 198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &["198.51.100.7, garbage"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7, "], "10.0.0.1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.7:4711"], "198.51.100.7"),
            ("fd00::1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", &[&many], "10.0.0.1"),
        ];
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(X_FORWARDED_FOR, line.parse().unwrap());
            }
            assert_eq!(
                client(peer.parse().unwrap(), &headers, &trusted).to_string(),
                *expected,
                "{peer} {lines:?}"
            );
            let untrusting = client(peer.parse().unwrap(), &headers, &[]);
            assert_eq!(untrusting, peer.parse::<IpAddr>().unwrap().to_canonical());
        }
    }
}
