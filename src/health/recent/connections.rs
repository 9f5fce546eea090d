//! Connections.

use std::collections::{BTreeMap, VecDeque};
use std::mem::size_of;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::store::audit_query::Cursor;
use crate::store::measurement_query::connections::{ConnectionBucket, weight};
use crate::store::measurement_query::{Filter, Page, TooManyBuckets, bucket_of, check_buckets};
use crate::store::measurements::{ConnectionRow, Range};

use super::{BYTES_MAX, in_range, page};

/// Oldest first.
#[derive(Debug, Default)]
pub struct Connections {
    rows: VecDeque<ConnectionRow>,
    bytes: usize,
}

fn bytes(row: &ConnectionRow) -> usize {
    size_of::<ConnectionRow>() + row.instance.len()
}

impl Connections {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a row, unless it is there already.
    pub fn take(&mut self, row: &ConnectionRow) {
        let place =
            self.rows.partition_point(|held| (held.created_at, held.id) < (row.created_at, row.id));
        if self.rows.get(place).is_some_and(|held| held.id == row.id) {
            return;
        }
        let row = ConnectionRow {
            instance: row.instance.as_str().into(),
            by_database: Value::Null,
            pool: Value::Null,
            ..*row
        };
        self.bytes += bytes(&row);
        self.rows.insert(place, row);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.rows.pop_front()
        {
            self.bytes -= bytes(&oldest);
        }
    }

    fn found(&self, filter: &Filter) -> impl DoubleEndedIterator<Item = &ConnectionRow> {
        self.rows.iter().filter(|row| in_range(filter, row.created_at, &row.instance))
    }

    pub fn page(
        &self,
        filter: &Filter,
        behind: Option<Cursor>,
        limit: usize,
    ) -> Page<ConnectionRow> {
        let rows = self.found(filter).cloned().collect();
        page(rows, behind, limit, |row| Cursor { created_at: row.created_at, id: row.id })
    }

    pub fn buckets(
        &self,
        filter: &Filter,
        bucket_seconds: u32,
    ) -> Result<Vec<ConnectionBucket>, TooManyBuckets> {
        if let (Some(first), Some(last)) =
            (self.found(filter).next(), self.found(filter).next_back())
        {
            check_buckets(first.created_at, last.created_at, bucket_seconds)?;
        }
        let mut buckets: BTreeMap<DateTime<Utc>, Vec<&ConnectionRow>> = BTreeMap::new();
        for row in self.found(filter) {
            buckets.entry(bucket_of(row.created_at, bucket_seconds)).or_default().push(row);
        }
        Ok(buckets.into_iter().map(|(at, rows)| bucket(at, &rows)).collect())
    }
}

fn bucket(at: DateTime<Utc>, rows: &[&ConnectionRow]) -> ConnectionBucket {
    let of = |state: fn(&ConnectionRow) -> Option<Range>| {
        mean(rows.iter().filter_map(|row| Some((weight(row), state(row)?))))
    };
    ConnectionBucket {
        at,
        samples: rows.iter().map(|row| i64::from(row.samples)).sum(),
        total: of(|row| Some(row.total)).unwrap_or_default(),
        active: of(|row| row.active),
        idle: of(|row| row.idle),
        idle_in_transaction: of(|row| row.idle_in_transaction),
        waiting: of(|row| row.waiting),
        saturation_max: rows.iter().map(|row| row.saturation_max).fold(0.0, f64::max),
        max_connections: rows.iter().map(|row| row.max_connections).max().unwrap_or_default(),
    }
}

/// Of ranges with their weights.
fn mean(ranges: impl Iterator<Item = (f64, Range)>) -> Option<Range> {
    let gathered = ranges
        .map(|(weight, range)| (weight, Range { avg: range.avg * weight, ..range }))
        .reduce(|a, b| {
            let (min, max) = (a.1.min.min(b.1.min), a.1.max.max(b.1.max));
            (a.0 + b.0, Range { min, avg: a.1.avg + b.1.avg, max })
        });
    gathered.map(|(weight, range)| Range { avg: range.avg / weight, ..range })
}
