//! What was measured lately, in memory: what is answered from while the database is away.
//!
//! ```text
//! probe, sample ─► MeasurementWriter ─┬► Recent (here, bounded)
//!                             └► the tables, else the spool ─ at the first look ─► Recent
//! ```
//! Of each probe the row of `connectivity` is kept, and those of other components whose status or reason was not that
//! of the probe before; what every component's status was is kept of all, in three bytes each, so that buckets count
//! every probe. Of connections each row is kept without databases and pool. The same filters, pages and buckets as of
//! the tables (`store::measurement_query`), over these.
//!
//! Two bounds, [`BYTES_MAX`] for probes and as much for connections, count the structs and the texts that they own, not
//! what the allocator adds. The oldest go first. Its lock is its own and held for no longer than it takes to look
//! through that much: a probe that hangs keeps no reader waiting.

mod connections;
mod probes;

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::store::audit_query::Cursor;
use crate::store::measurement_query::connections::ConnectionBucket;
use crate::store::measurement_query::health::HealthBucket;
use crate::store::measurement_query::{Filter, Page, TooManyBuckets};
use crate::store::measurements::{ConnectionRow, HealthRow, MeasurementRow};

use connections::Connections;
use probes::Probes;

/// For probes, and for connections.
pub const BYTES_MAX: usize = 64 * 1024;

/// Recent measurements of one database.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    probes: Probes,
    connections: Connections,
}

impl Recent {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes rows as they are written. Those of one probe, which share their instant and instance, come together; those
    /// of the past are put where they belong, once.
    pub fn take<'r>(&self, rows: impl IntoIterator<Item = &'r MeasurementRow>) {
        let mut held = self.held();
        let mut probe: Vec<&HealthRow> = Vec::new();
        for row in rows {
            match row {
                MeasurementRow::Health(row) => {
                    let same = probe.last().is_none_or(|last| of_one_probe(last, row));
                    if !same {
                        held.probes.take(&probe);
                        probe.clear();
                    }
                    probe.push(row);
                }
                MeasurementRow::Connections(row) => held.connections.take(row),
                MeasurementRow::Event(_) => {}
            }
        }
        held.probes.take(&probe);
    }

    /// See [`crate::store::measurement_query::health::page`].
    pub fn health(&self, filter: &Filter, behind: Option<Cursor>, limit: usize) -> Page<HealthRow> {
        self.held().probes.page(filter, behind, limit)
    }

    /// See [`crate::store::measurement_query::health::buckets`].
    ///
    /// # Errors
    /// When there would be too many.
    pub fn health_buckets(
        &self,
        filter: &Filter,
        bucket_seconds: u32,
    ) -> Result<Vec<HealthBucket>, TooManyBuckets> {
        self.held().probes.buckets(filter, bucket_seconds)
    }

    /// See [`crate::store::measurement_query::connections::page`].
    pub fn connections(
        &self,
        filter: &Filter,
        behind: Option<Cursor>,
        limit: usize,
    ) -> Page<ConnectionRow> {
        self.held().connections.page(filter, behind, limit)
    }

    /// See [`crate::store::measurement_query::connections::buckets`].
    ///
    /// # Errors
    /// When there would be too many.
    pub fn connection_buckets(
        &self,
        filter: &Filter,
        bucket_seconds: u32,
    ) -> Result<Vec<ConnectionBucket>, TooManyBuckets> {
        self.held().connections.buckets(filter, bucket_seconds)
    }

    /// How many bytes are held, of probes and of connections.
    pub fn bytes(&self) -> (usize, usize) {
        let held = self.held();
        (held.probes.bytes(), held.connections.bytes())
    }
}

fn of_one_probe(a: &HealthRow, b: &HealthRow) -> bool {
    a.created_at == b.created_at && a.instance == b.instance
}

fn in_range(filter: &Filter, at: DateTime<Utc>, instance: &str) -> bool {
    at >= filter.since
        && at < filter.until
        && filter.instance.as_deref().is_none_or(|wanted| wanted == instance)
}

/// Newest first, behind the cursor.
fn page<T>(
    mut rows: Vec<T>,
    behind: Option<Cursor>,
    limit: usize,
    cursor: impl Fn(&T) -> Cursor,
) -> Page<T> {
    let place = |row: &T| (cursor(row).created_at, cursor(row).id);
    if let Some(behind) = behind {
        rows.retain(|row| place(row) < (behind.created_at, behind.id));
    }
    rows.sort_by_key(|row| std::cmp::Reverse(place(row)));
    let limit = crate::store::measurement_query::page_limit(limit);
    rows.truncate(limit + 1);
    Page::cut(rows, limit, cursor)
}

#[cfg(test)]
mod tests;
