//! How many rows a slice takes, and how long the job rests after it.
//!
//! Slices aim at a duration. They grow by at most 2 while far below it and by at most 1.2 near it, and
//! halve as soon as one takes longer: growing is slow and shrinking fast, since the price of a slice
//! that is too large is paid by others.

use std::time::Duration;

use crate::observe::tables::pressure::Pressure;

/// Bounds of a slice, in rows.
const ROWS: std::ops::RangeInclusive<i64> = 100..=100_000;
/// Rows of the first slice.
const FIRST: i64 = 1_000;
/// A standby further behind than this holds the job up.
const LAG_MAX_SECONDS: f64 = 1.5;

/// The size of slices.
#[derive(Debug, Clone)]
pub struct Pace {
    rows: i64,
    target: Duration,
    duty: f64,
}

impl Pace {
    /// `duty` is the share of the time that slices may be running, above 0 and at most 1.
    pub fn new(target: Duration, duty: f64) -> Pace {
        Pace { rows: FIRST, target, duty }
    }

    /// Rows of the next slice.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// After a slice that took `elapsed` for `deleted` rows.
    pub fn took(&mut self, elapsed: Duration, deleted: u64) {
        if elapsed > self.target {
            self.halve();
        } else if i64::try_from(deleted).is_ok_and(|deleted| deleted >= self.rows) {
            let room = self.target.as_secs_f64() / elapsed.as_secs_f64().max(1e-6);
            let factor = if room > 4.0 { 2.0 } else { room.min(1.2) };
            self.set((self.rows as f64 * factor) as i64);
        }
    }

    /// After a slice that did not end in its time, or held others up. False when it is smallest already.
    pub fn halve(&mut self) -> bool {
        let before = self.rows;
        self.set(self.rows / 2);
        self.rows < before
    }

    /// How long to rest after a slice that took `elapsed`.
    pub fn rest(&self, elapsed: Duration) -> Duration {
        elapsed.mul_f64((1.0 / self.duty.clamp(0.01, 1.0)) - 1.0)
    }

    fn set(&mut self, rows: i64) {
        self.rows = rows.clamp(*ROWS.start(), *ROWS.end());
    }
}

/// Why the job must not go on at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Yield {
    /// A standby lags: until it has caught up.
    ReplicaLag,
    /// WAL is not being archived, so all that is written piles up on the server's disk: until it is.
    WalArchiving,
    /// Somebody waited for the slice's locks: once.
    LockWaiters,
}

impl Yield {
    /// The reason kept in the run's detail.
    pub fn as_str(self) -> &'static str {
        match self {
            Yield::ReplicaLag => "replica_lag",
            Yield::WalArchiving => "wal_archiving",
            Yield::LockWaiters => "lock_waiters",
        }
    }
}

/// Judges the pressure read at the end of a slice.
pub fn judge(pressure: Pressure) -> Option<Yield> {
    if pressure.replay_lag_seconds.is_some_and(|lag| lag > LAG_MAX_SECONDS) {
        Some(Yield::ReplicaLag)
    } else if pressure.archiving_fails {
        Some(Yield::WalArchiving)
    } else if pressure.waiters > 0 {
        Some(Yield::LockWaiters)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(200);

    #[test]
    fn slices_grow_slowly_shrink_fast_and_stay_within_bounds() {
        // (rows before, slice took, rows deleted, rows after)
        let table = [
            (1_000, 10, 1_000, 2_000),
            (1_000, 100, 1_000, 1_200),
            (1_000, 190, 1_000, 1_052),
            (1_000, 200, 1_000, 1_000),
            (1_000, 201, 1_000, 500),
            (1_000, 10, 999, 1_000),
            (100, 500, 100, 100),
            (100_000, 1, 100_000, 100_000),
        ];
        for (before, took_ms, deleted, after) in table {
            let mut pace = Pace { rows: before, target: TARGET, duty: 0.5 };
            pace.took(Duration::from_millis(took_ms), deleted);
            assert_eq!(pace.rows(), after, "{before} rows in {took_ms} ms, {deleted} deleted");
        }
    }

    #[test]
    fn halving_says_when_there_is_nothing_left_to_halve() {
        let mut pace = Pace::new(TARGET, 0.5);
        let mut halved = 0;
        while pace.halve() {
            halved += 1;
        }
        assert_eq!((halved, pace.rows()), (4, 100));
    }

    #[test]
    fn rest_keeps_the_duty() {
        for (duty, rest_ms) in [(1.0, 0), (0.5, 100), (0.25, 300), (0.01, 9_900)] {
            let rest = Pace::new(TARGET, duty).rest(Duration::from_millis(100));
            assert_eq!(rest.as_millis(), rest_ms, "duty {duty}");
        }
    }

    #[test]
    fn lag_archiving_and_waiters_are_reasons_to_yield() {
        let pressure = |replay_lag_seconds, archiving_fails, waiters| Pressure {
            replay_lag_seconds,
            archiving_fails,
            waiters,
            ..Pressure::default()
        };
        assert_eq!(judge(pressure(None, false, 0)), None);
        assert_eq!(judge(pressure(Some(1.5), false, 0)), None);
        assert_eq!(judge(pressure(Some(1.6), false, 0)), Some(Yield::ReplicaLag));
        assert_eq!(judge(pressure(Some(0.1), false, 1)), Some(Yield::LockWaiters));
        assert_eq!(judge(pressure(Some(9.0), true, 1)), Some(Yield::ReplicaLag));
        assert_eq!(judge(pressure(None, true, 1)), Some(Yield::WalArchiving));
    }
}
