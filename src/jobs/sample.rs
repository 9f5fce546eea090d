//! Connection samples: what every probe sees, gathered over an interval into one row.
//!
//! The probe feeds the [`Sampler`] at each tick; on the schedule of `connection_metrics` one row with
//! least, mean and greatest is written. So a peak between two rows is not lost, and the table grows
//! by the schedule, not by the probe.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::db::{Database, Error};
use crate::observe::Snapshot;
use crate::store::measurements::{ConnectionRow, MeasurementRow, Range};

use super::probe::ProbeState;
use super::writer::Destination;

/// Databases that a row names; the others are counted together under the empty name.
const DATABASES_MAX: usize = 20;
/// Databases that are remembered within an interval, however many come and go.
const DATABASES_REMEMBERED_MAX: usize = 512;

/// Gathers samples; pure.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    open: Option<Interval>,
}

#[derive(Debug, Clone)]
struct Interval {
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    samples: i32,
    max_connections: i64,
    reserved: i64,
    total: Gathered,
    active: Gathered,
    idle: Gathered,
    idle_in_transaction: Gathered,
    waiting: Gathered,
    /// Whether every sample could look into every session.
    saw_states: bool,
    saturation_max: f64,
    oldest_transaction: Option<f64>,
    oldest_idle_in_transaction: Option<f64>,
    by_database: BTreeMap<String, Gathered>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Gathered {
    min: i64,
    max: i64,
    sum: i64,
}

impl Gathered {
    fn of(value: i64) -> Gathered {
        Gathered { min: value, max: value, sum: value }
    }

    fn take(&mut self, value: i64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
    }

    fn avg(&self, samples: i32) -> f64 {
        self.sum as f64 / f64::from(samples.max(1))
    }

    fn range(&self, samples: i32) -> Range {
        Range { min: int(self.min), avg: self.avg(samples), max: int(self.max) }
    }
}

impl Sampler {
    /// Takes what one probe saw.
    pub fn feed(&mut self, snapshot: &Snapshot) {
        let sessions = &snapshot.sessions;
        let counts = [
            sessions.total(),
            sessions.in_state("active"),
            sessions.in_state("idle"),
            sessions.idle_in_transaction(),
            sessions.waiting,
        ];
        match &mut self.open {
            Some(interval) => interval.take(snapshot, counts),
            None => self.open = Some(Interval::new(snapshot, counts)),
        }
    }

    /// The row of the interval that ends now, and begins the next; none when nothing was seen.
    pub fn finish(&mut self, instance: &str, pool: Value) -> Option<ConnectionRow> {
        let interval = self.open.take()?;
        let n = interval.samples;
        let state = |gathered: &Gathered| interval.saw_states.then(|| gathered.range(n));
        Some(ConnectionRow {
            id: Uuid::now_v7(),
            created_at: interval.last,
            instance: instance.to_owned(),
            interval_seconds: (interval.last - interval.first).as_seconds_f64().max(0.0),
            samples: n,
            max_connections: int(interval.max_connections),
            reserved_connections: int(interval.reserved),
            total: interval.total.range(n),
            active: state(&interval.active),
            idle: state(&interval.idle),
            idle_in_transaction: state(&interval.idle_in_transaction),
            waiting: Some(interval.waiting.range(n)),
            saturation_max: interval.saturation_max,
            oldest_transaction_seconds_max: interval.oldest_transaction,
            oldest_idle_in_transaction_seconds_max: interval.oldest_idle_in_transaction,
            by_database: interval.by_database(),
            pool,
        })
    }
}

impl Interval {
    fn new(snapshot: &Snapshot, counts: [i64; 5]) -> Interval {
        let [total, active, idle, idle_in_transaction, waiting] = counts.map(Gathered::of);
        let mut interval = Interval {
            first: snapshot.time,
            last: snapshot.time,
            samples: 1,
            max_connections: 0,
            reserved: 0,
            total,
            active,
            idle,
            idle_in_transaction,
            waiting,
            saw_states: true,
            saturation_max: 0.0,
            oldest_transaction: None,
            oldest_idle_in_transaction: None,
            by_database: BTreeMap::new(),
        };
        interval.take_rest(snapshot, counts[0]);
        interval
    }

    fn take(&mut self, snapshot: &Snapshot, counts: [i64; 5]) {
        let [total, active, idle, idle_in_transaction, waiting] = counts;
        self.total.take(total);
        self.active.take(active);
        self.idle.take(idle);
        self.idle_in_transaction.take(idle_in_transaction);
        self.waiting.take(waiting);
        self.last = snapshot.time;
        self.samples += 1;
        self.take_rest(snapshot, total);
    }

    fn take_rest(&mut self, snapshot: &Snapshot, total: i64) {
        let sessions = &snapshot.sessions;
        self.max_connections = snapshot.max_connections;
        self.reserved = snapshot.superuser_reserved + snapshot.reserved;
        self.saw_states &= sessions.hidden() == 0;
        self.saturation_max =
            self.saturation_max.max(total as f64 / snapshot.usable_connections() as f64);
        let oldest =
            |held: Option<f64>, seen: Option<f64>| held.into_iter().chain(seen).reduce(f64::max);
        self.oldest_transaction = oldest(
            self.oldest_transaction,
            sessions.oldest_transaction.as_ref().map(|session| session.seconds),
        );
        self.oldest_idle_in_transaction = oldest(
            self.oldest_idle_in_transaction,
            sessions.oldest_idle_in_transaction.as_ref().map(|session| session.seconds),
        );
        let mut now: BTreeMap<&str, i64> = BTreeMap::new();
        for count in &sessions.counts {
            *now.entry(count.database.as_deref().unwrap_or("")).or_default() += count.sessions;
        }
        for (name, sessions) in now {
            if let Some(gathered) = self.by_database.get_mut(name) {
                gathered.take(sessions);
            } else if self.by_database.len() < DATABASES_REMEMBERED_MAX {
                self.by_database.insert(name.to_owned(), Gathered::of(sessions));
            }
        }
    }

    /// The databases with the highest peaks; a mean counts samples without the database as 0.
    fn by_database(&self) -> Value {
        let mut databases: Vec<(&String, &Gathered)> = self.by_database.iter().collect();
        databases
            .sort_by_key(|(name, gathered)| (name.is_empty(), std::cmp::Reverse(gathered.max)));
        let mut named = serde_json::Map::new();
        let mut others = Gathered::default();
        for (place, (name, gathered)) in databases.into_iter().enumerate() {
            if place < DATABASES_MAX && !name.is_empty() {
                named.insert(
                    name.clone(),
                    json!({ "avg": gathered.avg(self.samples), "max": gathered.max }),
                );
            } else {
                others.sum += gathered.sum;
                others.max += gathered.max;
            }
        }
        if others.max > 0 {
            named.insert(
                String::new(),
                json!({ "avg": others.avg(self.samples), "max": others.max }),
            );
        }
        named.into()
    }
}

/// Counts of connections fit: PostgreSQL has at most 262,143 of them.
fn int(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Writes the row of the interval that ends now, or keeps it. Returns the rows written: 0 when nothing
/// was seen.
///
/// # Errors
/// The server's, or that of getting a connection; the row is kept for later then.
pub async fn run(
    to: &Destination<'_>,
    instance: &str,
    state: &mut ProbeState,
) -> Result<u64, Error> {
    match state.sampler.finish(instance, pool(to.db)) {
        Some(row) => {
            state.writer.record(to, vec![MeasurementRow::Connections(Box::new(row))], None).await
        }
        None => Ok(0),
    }
}

/// pgsteward's own connections.
fn pool(db: &Database) -> Value {
    let pools: serde_json::Map<String, Value> = db
        .stats()
        .into_iter()
        .map(|(purpose, stats)| (purpose.as_str().to_owned(), json!(stats)))
        .collect();
    pools.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::SessionCount;

    fn snapshot(second: i64, counts: &[(Option<&str>, &str, i64)], waiting: i64) -> Snapshot {
        let at = DateTime::from_timestamp(second, 0).unwrap();
        let counts = counts
            .iter()
            .map(|(database, state, sessions)| SessionCount {
                database: database.map(str::to_owned),
                state: (*state).to_owned(),
                sessions: *sessions,
            })
            .collect();
        Snapshot {
            time: at,
            version: 150_000,
            in_recovery: false,
            started_at: at,
            database: "app".into(),
            role: "steward".into(),
            sees_all: true,
            max_connections: 100,
            superuser_reserved: 3,
            reserved: 7,
            sessions: crate::observe::Sessions { counts, waiting, ..Default::default() },
            ages: None,
            replication: None,
            slots: None,
            archiver: None,
            partitions: None,
            unavailable: Vec::new(),
        }
    }

    #[test]
    fn an_interval_keeps_least_mean_and_greatest() {
        let mut sampler = Sampler::default();
        sampler.feed(&snapshot(0, &[(Some("app"), "active", 2), (Some("app"), "idle", 4)], 0));
        sampler.feed(&snapshot(
            15,
            &[(Some("app"), "active", 45), (Some("b"), "idle in transaction", 1)],
            3,
        ));
        sampler.feed(&snapshot(30, &[(Some("app"), "idle in transaction (aborted)", 1)], 0));
        let row = sampler.finish("here", json!({})).unwrap();
        assert_eq!((row.samples, row.interval_seconds, row.created_at.timestamp()), (3, 30.0, 30));
        assert_eq!((row.max_connections, row.reserved_connections), (100, 10));
        assert_eq!(row.total, Range { min: 1, avg: 53.0 / 3.0, max: 46 });
        assert_eq!(row.active, Some(Range { min: 0, avg: 47.0 / 3.0, max: 45 }));
        assert_eq!(row.idle, Some(Range { min: 0, avg: 4.0 / 3.0, max: 4 }));
        assert_eq!(row.idle_in_transaction, Some(Range { min: 0, avg: 2.0 / 3.0, max: 1 }));
        assert_eq!(row.waiting, Some(Range { min: 0, avg: 1.0, max: 3 }));
        assert!((row.saturation_max - 46.0 / 90.0).abs() < 1e-9);
        assert_eq!(row.by_database["app"]["max"], 45);
        assert_eq!(row.by_database["b"]["avg"], 1.0 / 3.0);
        assert_eq!(sampler.finish("here", json!({})), None, "the next interval begins empty");
    }

    #[test]
    fn states_are_absent_when_a_sample_could_not_see_them() {
        let mut sampler = Sampler::default();
        sampler.feed(&snapshot(0, &[(Some("app"), "idle", 1)], 0));
        sampler.feed(&snapshot(15, &[(Some("app"), "hidden", 5), (Some("app"), "idle", 1)], 1));
        let row = sampler.finish("here", json!({})).unwrap();
        assert_eq!(row.total, Range { min: 1, avg: 3.5, max: 6 });
        assert_eq!((row.active, row.idle, row.idle_in_transaction), (None, None, None));
        assert_eq!(
            row.waiting.map(|range| range.max),
            Some(1),
            "waits are seen in pg_locks by everybody"
        );
    }

    #[test]
    fn databases_are_bounded_with_a_remainder() {
        let names: Vec<String> = (0..30).map(|i| format!("db{i:02}")).collect();
        let mut counts: Vec<(Option<&str>, &str, i64)> =
            names.iter().zip(1..).map(|(name, n)| (Some(name.as_str()), "idle", n)).collect();
        counts.push((None, "idle", 100));
        let mut sampler = Sampler::default();
        sampler.feed(&snapshot(0, &counts, 0));
        let row = sampler.finish("here", json!({})).unwrap();
        let databases = row.by_database.as_object().unwrap();
        assert_eq!(databases.len(), DATABASES_MAX + 1);
        assert_eq!(databases["db29"]["max"], 30);
        let others: i64 = (1..=10).sum::<i64>() + 100;
        assert_eq!(databases[""]["max"], others);
    }
}
