//! Exponential backoff with full jitter.
//!
//! Each delay is drawn evenly from zero to a ceiling that doubles up to a cap, so that many
//! instances that lost the same server do not come back in step
//! (Brooker, "Exponential Backoff And Jitter", 2015).

use std::time::Duration;

/// A sequence of delays.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// From `first`, doubling up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff { ceiling: first, first, cap }
    }

    /// For connecting: up to 15 s, for ever.
    pub fn connect() -> Backoff {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(15))
    }

    /// For a transaction that met a conflict.
    pub fn conflict() -> Backoff {
        Backoff::new(Duration::from_millis(10), Duration::from_millis(200))
    }

    /// The next delay, at least a tenth of its ceiling so that no loop spins.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.cap);
        ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
    }

    /// Starts again from the first delay, after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_never_reach_zero() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for ceiling in [100, 200, 350, 350] {
            let delay = backoff.next_delay();
            assert!(delay <= Duration::from_millis(ceiling), "{delay:?} is over {ceiling} ms");
            assert!(
                delay >= Duration::from_millis(ceiling) / 10,
                "{delay:?} is under a tenth of {ceiling} ms"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
