//! Reads of what was measured: `steward.system_health` and `steward.connection_metrics`, in pages and in buckets.
//!
//! A page goes on behind the last row of the one before, by `(created_at, id)`, newest first: nothing is counted and
//! nothing skipped, so a page of a year costs what a page of a day costs. A bucket holds all rows of a span of time,
//! aligned to 1970; only buckets with rows are told, and no answer has more than [`BUCKETS_MAX`].
//!
//! Conditions on `created_at` are plain parameters, and a statement is planned with its values: partitions outside
//! them are not even planned for. The shapes are shared with the memory that answers while the database is away
//! (`health::recent`).

pub mod connections;
pub mod health;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::types::Type;

use super::audit_query::{Cursor, EARLIEST, LATEST};
use crate::db::{Error, Tx, TxOptions};

/// Rows of a page at most.
pub const PAGE_MAX: usize = 1000;
/// Buckets of an answer at most.
pub const BUCKETS_MAX: i64 = 2000;
/// A leap year: no bucket is wider.
pub const BUCKET_SECONDS_MAX: u32 = 366 * 24 * 60 * 60;

/// Which rows: those that meet every condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Inclusive.
    pub since: DateTime<Utc>,
    /// Exclusive.
    pub until: DateTime<Utc>,
    /// Of health alone: `connectivity`, `locks` …
    pub component: Option<String>,
    /// Of health alone: the status of a component.
    pub status: Option<String>,
    pub instance: Option<String>,
}

impl Default for Filter {
    /// Every row.
    fn default() -> Filter {
        Filter { since: EARLIEST, until: LATEST, component: None, status: None, instance: None }
    }
}

/// Rows newest first, and where the next page begins; none where this was the last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Of one row more than `limit` where there are more.
    pub fn cut(mut items: Vec<T>, limit: usize, cursor: impl Fn(&T) -> Cursor) -> Page<T> {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Page { items, next }
    }
}

/// How many rows a page may have.
pub fn page_limit(asked: usize) -> usize {
    asked.clamp(1, PAGE_MAX)
}

/// More than [`BUCKETS_MAX`] buckets lie between the first row and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyBuckets {
    /// The least width that would do.
    pub least_seconds: i64,
}

impl fmt::Display for TooManyBuckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an answer has at most {BUCKETS_MAX} buckets: they have to be {} seconds wide at least, or the range shorter",
            self.least_seconds
        )
    }
}

impl std::error::Error for TooManyBuckets {}

/// The beginning of the bucket that holds an instant.
pub fn bucket_of(at: DateTime<Utc>, bucket_seconds: u32) -> DateTime<Utc> {
    let seconds = i64::from(bucket_width(bucket_seconds));
    let begins = at.timestamp().div_euclid(seconds) * seconds;
    DateTime::from_timestamp(begins, 0).unwrap_or(at)
}

/// Of at least a second, so that there is a bucket.
pub fn bucket_width(bucket_seconds: u32) -> u32 {
    bucket_seconds.clamp(1, BUCKET_SECONDS_MAX)
}

/// Whether the buckets from the first row to the last are few enough.
pub fn check_buckets(
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    bucket_seconds: u32,
) -> Result<(), TooManyBuckets> {
    let (first, last) = (first.timestamp(), last.timestamp());
    let fits = |width: i64| last.div_euclid(width) - first.div_euclid(width) < BUCKETS_MAX;
    if fits(i64::from(bucket_width(bucket_seconds))) {
        return Ok(());
    }
    // A width that divides the span into one bucket less always fits, whatever it is aligned to.
    let upper = (last - first) / (BUCKETS_MAX - 1) + 1;
    let lower = ((last - first) / BUCKETS_MAX).max(1);
    let least_seconds = (lower..upper).find(|width| fits(*width)).unwrap_or(upper);
    Err(TooManyBuckets { least_seconds })
}

/// Read-only, and without compiling a plan: that takes longer than most of these.
fn options(bound: std::time::Duration) -> TxOptions {
    TxOptions { prelude: "SET LOCAL jit = off;".to_owned(), ..TxOptions::within(bound).read_only() }
}

/// The first and last row of a range, by the index on time.
async fn ends(
    tx: &Tx<'_>,
    table: &'static str,
    filter: &Filter,
) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, Error> {
    let end = |direction| {
        format!(
            "(SELECT m.created_at FROM steward.{table} m WHERE m.created_at >= $1 AND m.created_at < $2
               ORDER BY m.created_at {direction} LIMIT 1)"
        )
    };
    let sql = format!("SELECT {}, {}", end("ASC"), end("DESC"));
    let params = [(&filter.since as _, Type::TIMESTAMPTZ), (&filter.until as _, Type::TIMESTAMPTZ)];
    let row = tx.row("read what range was measured", &sql, &params).await?;
    Ok(row.get::<_, Option<DateTime<Utc>>>(0).zip(row.get(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 999_999_000).unwrap()
    }

    #[test]
    fn buckets_are_aligned_to_1970() {
        for (second, width, begins) in [
            (0, 60, 0),
            (59, 60, 0),
            (60, 60, 60),
            (1_800_000_123, 900, 1_800_000_000),
            (-1, 60, -60),
            (7, 0, 7),
        ] {
            assert_eq!(bucket_of(at(second), width).timestamp(), begins, "{second} {width}");
        }
    }

    #[test]
    fn the_least_width_is_the_least() {
        for (first, last) in
            [(0, 1999), (0, 2000), (1, 2000), (59, 120_001), (1_800_000_007, 1_831_536_011), (0, 0)]
        {
            for width in [1, 2, 59, 60, 61, 3600] {
                let buckets = |width: u32| {
                    (bucket_of(at(last), width) - bucket_of(at(first), width)).num_seconds()
                        / i64::from(width)
                        + 1
                };
                match check_buckets(at(first), at(last), width) {
                    Ok(()) => assert!(buckets(width) <= BUCKETS_MAX, "{first} {last} {width}"),
                    Err(TooManyBuckets { least_seconds }) => {
                        let least = u32::try_from(least_seconds).unwrap();
                        assert!(buckets(width) > BUCKETS_MAX, "{first} {last} {width}");
                        assert!(
                            buckets(least) <= BUCKETS_MAX && buckets(least - 1) > BUCKETS_MAX,
                            "{first} {last} {least}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last() {
        let cursor = |n: &u128| Cursor { created_at: at(0), id: uuid::Uuid::from_u128(*n) };
        assert_eq!(Page::cut(vec![3, 2, 1], 3, cursor).next, None);
        let page = Page::cut(vec![3, 2, 1], 2, cursor);
        assert_eq!((page.items, page.next.map(|next| next.id.as_u128())), (vec![3, 2], Some(2)));
    }
}
