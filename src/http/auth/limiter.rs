//! How often an address may fail to name itself.
//!
//! A leaky bucket for each address that has failed: ten failures at once, one more each six seconds. Only failures
//! fill it, so that whoever has a right is never slowed down by how much it asks. The memory is bounded: where more
//! addresses fail than are kept, the one that is nearest to a clean slate is forgotten, which among equals is the
//! oldest.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures that are let through at once.
const BURST: u32 = 10;
/// After which one more is.
const REFILL: Duration = Duration::from_secs(6);
/// Addresses that are kept.
const ADDRESSES_MAX: usize = 4_096;

/// What failed, by address; of IPv6 by /64, since that is what one customer has.
#[derive(Debug, Default)]
pub struct Limiter {
    /// When each will have a clean slate again.
    clean_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl Limiter {
    /// Whether an address may try.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn admit(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let clean_at = self.clean_at.lock().unwrap_or_else(PoisonError::into_inner);
        let left = clean_at
            .get(&bucket(address))
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        match left.checked_sub(REFILL * (BURST - 1)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(()),
        }
    }

    /// Notes that an address has failed.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut clean_at = self.clean_at.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = bucket(address);
        if !clean_at.contains_key(&bucket) && clean_at.len() >= ADDRESSES_MAX {
            clean_at.retain(|_, at| *at > now);
            if clean_at.len() >= ADDRESSES_MAX
                && let Some(nearest) =
                    clean_at.iter().min_by_key(|(_, at)| **at).map(|(bucket, _)| *bucket)
            {
                clean_at.remove(&nearest);
            }
        }
        let at = clean_at.entry(bucket).or_insert(now);
        // Requests that were under way when it filled up do not lengthen the wait.
        *at = ((*at).max(now) + REFILL).min(now + REFILL * BURST);
    }

    /// Addresses that are kept now.
    pub fn len(&self) -> usize {
        self.clean_at.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody has failed of late.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ten_at_once_and_one_more_each_six_seconds() {
        let (limiter, start, one) = (Limiter::default(), Instant::now(), address("192.0.2.1"));
        for _ in 0..10 {
            assert_eq!(limiter.admit(one, start), Ok(()));
            limiter.failed(one, start);
        }
        assert_eq!(limiter.admit(one, start), Err(6 * SECOND));
        assert_eq!(limiter.admit(one, start + 5 * SECOND), Err(SECOND));
        assert_eq!(limiter.admit(address("192.0.2.2"), start), Ok(()));
        assert_eq!(limiter.admit(one, start + 6 * SECOND), Ok(()));
        limiter.failed(one, start + 6 * SECOND);
        assert_eq!(limiter.admit(one, start + 6 * SECOND), Err(6 * SECOND));
        // What was under way all the same does not count for more than a full bucket.
        (0..1000).for_each(|_| limiter.failed(one, start + 6 * SECOND));
        assert_eq!(limiter.admit(one, start + 6 * SECOND), Err(6 * SECOND));
        assert_eq!(limiter.admit(one, start + 66 * SECOND), Ok(()));
        for _ in 0..10 {
            assert_eq!(limiter.admit(one, start + 66 * SECOND), Ok(()));
            limiter.failed(one, start + 66 * SECOND);
        }
    }

    #[test]
    fn who_only_asks_is_never_slowed_down() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        (0..1000).for_each(|_| assert_eq!(limiter.admit(address("192.0.2.1"), now), Ok(())));
        assert!(limiter.is_empty());
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        for host in 0..10 {
            limiter.failed(address(&format!("2001:db8::{host}")), now);
        }
        assert_eq!(limiter.admit(address("2001:db8::ffff:1"), now), Err(6 * SECOND));
        assert_eq!(limiter.admit(address("2001:db8:0:1::1"), now), Ok(()));
        (0..10).for_each(|_| limiter.failed(address("::ffff:192.0.2.1"), now));
        assert!(limiter.admit(address("192.0.2.1"), now).is_err());
        assert_eq!(limiter.len(), 2);
    }

    #[test]
    fn the_memory_is_bounded_and_the_worst_are_kept() {
        let (limiter, now) = (Limiter::default(), Instant::now());
        let of = |n: u32| IpAddr::from(n.to_be_bytes());
        (0..10).for_each(|_| limiter.failed(of(1), now));
        (2..5_000).for_each(|n| limiter.failed(of(n), now + n * Duration::from_micros(1)));
        assert_eq!(limiter.len(), ADDRESSES_MAX);
        let kept = limiter.clean_at.lock().unwrap();
        assert!(
            kept.contains_key(&of(1))
                && !kept.contains_key(&of(2))
                && kept.contains_key(&of(4_999))
        );
        drop(kept);
        // Those with a clean slate go first, all at once.
        limiter.failed(of(9_999), now + 20 * SECOND);
        assert_eq!(limiter.len(), 2);
    }
}
