//! Ranges of IP addresses, such as `10.0.0.0/8` or `fd00::/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: its first address, and the number of leading bits that all its addresses share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// The text is not a range. If its address has bits beyond its prefix, `meant` is the range that
/// contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCidr {
    pub meant: Option<Cidr>,
}

impl Cidr {
    /// Whether an address lies in it. An IPv4-mapped address (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => masked4(address, self.prefix) == network,
            (IpAddr::V6(network), IpAddr::V6(address)) => masked6(address, self.prefix) == network,
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = NoCidr;

    /// Parses `10.0.0.0/8`; an address alone is a range of one.
    fn from_str(text: &str) -> Result<Cidr, NoCidr> {
        let no_cidr = NoCidr { meant: None };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| no_cidr)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            // `parse` would take a sign or a leading zero, but both are mistakes.
            Some(text) if text.starts_with('+') || (text.len() > 1 && text.starts_with('0')) => {
                return Err(no_cidr);
            }
            Some(text) => {
                text.parse::<u8>().ok().filter(|prefix| *prefix <= most).ok_or(no_cidr)?
            }
        };
        let network = match address {
            IpAddr::V4(address) => IpAddr::V4(masked4(address, prefix)),
            IpAddr::V6(address) => IpAddr::V6(masked6(address, prefix)),
        };
        let cidr = Cidr { network, prefix };
        if network == address { Ok(cidr) } else { Err(NoCidr { meant: Some(cidr) }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn masked4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn masked6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_their_ranges() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
            ("::1", "::1", "::2"),
        ] {
            let range: Cidr = range.parse().unwrap();
            assert!(range.contains(inside.parse().unwrap()), "{range} {inside}");
            assert!(!range.contains(outside.parse().unwrap()), "{range} {outside}");
            assert_eq!(range.to_string().parse(), Ok(range));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10/8",
            "a/8",
            "::1/",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(NoCidr { meant: None }), "{text}");
        }
        for (text, meant) in [("10.0.0.1/8", "10.0.0.0/8"), ("fe80::1/64", "fe80::/64")] {
            assert_eq!(text.parse::<Cidr>().unwrap_err().meant.unwrap().to_string(), meant);
        }
    }
}
