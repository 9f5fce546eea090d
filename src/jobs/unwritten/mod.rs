//! Rows of measurements on their way into the database, also when it is away.
//!
//! ```text
//! rows ─┬─ nothing waits, the database answers ─► INSERT ─ committed
//!       └─ else, or when that fails ─► spool ─► drain: oldest first, in batches ─► INSERT ─ committed ─► settle
//! ```
//! [`Unwritten::record`] takes what a tick measured. While anything waits, new rows queue behind it, so
//! that they come in order. A row has its id and its instant before it is first sent: one whose commit
//! was not confirmed is sent again, and refused by its key where it had arrived.
//!
//! A row that the server refuses for good is found by halving its batch, counted, and dropped; those
//! behind it go on. An error that is not the row's (no lock, no privilege, no table, no room) leaves
//! everything waiting. A drain is bounded by what the tick may take, and goes on at the next.

mod queue;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use tokio::time::Instant;

use crate::config::{Config, Retention};
use crate::db::{Database, Error, Kind, Purpose, TxOptions};
use crate::health::spool::{Limits, Reason, Record, Table};
use crate::health::{Recent, reason};
use crate::store::health::{Row, Written, insert};
use crate::store::partitions::{Every, OWN, ensure_from};
use crate::telemetry::Metrics;

use super::probe::within;
use queue::{Asked, Queue};
use rows::{decode, encode, is_refusal, sort};

/// Rows of one transaction, and about how many bytes: a tenth of a second's work.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// A partition is waited for so briefly that nobody queues behind us.
const PARTITION_LOCK: Duration = Duration::from_secs(1);
/// What is read of an earlier run's rows to be shown: an hour of them, or so.
const SHOWN_BYTES: usize = 1024 * 1024;
/// As `steward.ensure_partitions` takes it.
const BEHIND_MAX: i64 = 400;

/// Where rows go, and whether they can.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    pub db: &'a Database,
    pub metrics: &'a Metrics,
    /// Whether the tables are there to be written into.
    pub writable: bool,
    /// Whether what cannot be written now is to be written later.
    pub keeps: bool,
    /// The database's clock less this instance's, as last read.
    pub skew: TimeDelta,
    /// For one call.
    pub bound: Duration,
}

impl Destination<'_> {
    /// By the database's clock, as well as it is known here.
    pub fn now(&self) -> DateTime<Utc> {
        // No more than a row can hold.
        (Utc::now() + self.skew).trunc_subsecs(6)
    }
}

/// The rows of one database that could not be written yet.
#[derive(Debug)]
pub struct Unwritten {
    queue: Queue,
    /// How long the rows of each table are worth writing: no longer than retention keeps them.
    keep: [TimeDelta; Table::ALL.len()],
    outage: Option<Outage>,
    /// Where rows are seen before they are written.
    recent: Option<Arc<Recent>>,
    /// Fewer than [`BATCH_ROWS`] after a batch took too long.
    batch: usize,
}

/// From the first row that was kept to the last that was written.
#[derive(Debug, Clone, Copy)]
struct Outage {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    written: u64,
    /// Whether the log has told that it began.
    told: bool,
}

impl Unwritten {
    /// In the configuration's `state_dir`, else in memory. What a throw-away server missed is nothing to
    /// the next one.
    pub fn new(config: &Config) -> Unwritten {
        let state_dir = config.state_dir.clone().filter(|_| !config.ephemeral);
        let queue = Queue::new(state_dir, limits(config));
        let keep = [TimeDelta::MAX; Table::ALL.len()];
        let mut unwritten =
            Unwritten { queue, keep, outage: None, recent: None, batch: BATCH_ROWS };
        unwritten.configure(config);
        unwritten
    }

    /// Follows a new configuration; another `state_dir` is taken at the next start.
    pub fn configure(&mut self, config: &Config) {
        self.queue.limits = limits(config);
        let Retention { system_health, connection_metrics, audit_logs, .. } = config.retention;
        let keep = [system_health, connection_metrics, audit_logs];
        let worth = |keep: Duration| {
            TimeDelta::from_std(keep.min(config.spool.max_age)).unwrap_or(TimeDelta::MAX)
        };
        self.keep = keep.map(worth);
    }

    /// Shows from now on what is recorded, and what an earlier process left when it is found.
    pub fn show_in(&mut self, recent: &Arc<Recent>) {
        if self.recent.is_none() {
            self.recent = Some(Arc::clone(recent));
        }
    }

    /// Takes rows that were just measured: writes them, or keeps them. `failed` is why the database
    /// was not to be measured; one that was away an instant ago is not asked again. Returns how many
    /// of them were written.
    ///
    /// # Errors
    /// Why they were not; they are kept.
    pub async fn record(
        &mut self,
        to: &Destination<'_>,
        rows: Vec<Row>,
        failed: Option<&Error>,
    ) -> Result<u64, Error> {
        if let Some(recent) = &self.recent {
            recent.take(&rows);
        }
        if let Some(error) = failed.filter(|error| !reason::reached(error.kind())) {
            self.keep(to, rows, Some(error)).await;
            return Ok(0);
        }
        if !to.writable {
            self.keep(to, rows, None).await;
            return Ok(0);
        }
        let until = Instant::now() + to.bound;
        match self.drain(to, until - to.bound / 2).await {
            Ok(true) => {}
            Ok(false) => {
                self.keep(to, rows, None).await;
                return Ok(0);
            }
            Err(error) => {
                self.keep(to, rows, Some(&error)).await;
                return Err(error);
            }
        }
        match send(to, &rows, until).await {
            Ok(written) => Ok(written.total()),
            Err(error) => {
                self.keep(to, rows, Some(&error)).await;
                Err(error)
            }
        }
    }

    /// Rows that only memory holds end with the process, and the log says how many.
    pub async fn abandon(&mut self, to: &Destination<'_>) {
        let lost = self.queue.ask(to, |spool| spool.in_memory()).await.unwrap_or_default();
        if lost > 0 {
            tracing::warn!(
                database = to.db.name(),
                rows = lost,
                "measurements that could not be written were kept in memory and end with the process; \
                 with a state_dir they would be written after the next start"
            );
        }
    }

    async fn keep(&mut self, to: &Destination<'_>, rows: Vec<Row>, why: Option<&Error>) {
        if !to.keeps || rows.is_empty() {
            return;
        }
        if self.queue.wants_a_look() {
            self.find(to).await;
        }
        let instants = || rows.iter().map(Row::created_at);
        let (Some(from), Some(last)) = (instants().min(), instants().max()) else { return };
        let records: Vec<Record> = rows.iter().filter_map(encode).collect();
        let tables: Vec<Table> = records.iter().map(|record| record.table).collect();
        let now = to.now();
        let place = self.queue.ask(to, move |spool| {
            spool.expire(now);
            for record in records {
                spool.append(record);
            }
            spool.place()
        });
        let place = match place.await {
            Asked::Answered(place) => Some(place),
            // It is done as soon as the disk goes on.
            Asked::Slow => None,
            Asked::Busy => {
                for table in tables {
                    self.queue.lose(to, Some(table), Reason::Disk, 1);
                }
                None
            }
        };
        let outage = self.outage.get_or_insert(Outage { from, to: last, written: 0, told: false });
        outage.from = outage.from.min(from);
        outage.to = outage.to.max(last);
        if let Some(error) = why
            && !std::mem::replace(&mut outage.told, true)
        {
            let where_to = match place {
                Some(place) => format!("they are kept in {place} until they can"),
                None => "and the disk of state_dir does not answer".to_owned(),
            };
            tracing::warn!(database = to.db.name(), kind = error.kind().as_str(), error = %error,
                "measurements cannot be written; {where_to}");
        }
    }

    /// Writes what waits, oldest first, until then. Whether nothing is left that new rows would have to
    /// wait for.
    async fn drain(&mut self, to: &Destination<'_>, until: Instant) -> Result<bool, Error> {
        if self.queue.wants_a_look() {
            self.find(to).await;
        }
        let Some(oldest) = self.queue.depth.and_then(|depth| depth.oldest) else { return Ok(true) };
        self.make_partitions(to, oldest, until).await?;
        let mut limit = self.batch;
        loop {
            let now = to.now();
            let peeked = self.queue.ask(to, move |spool| {
                spool.expire(now);
                spool.peek(limit, BATCH_BYTES)
            });
            // A disk that hangs keeps what it has; what is new need not wait for it.
            let Asked::Answered(records) = peeked.await else { return Ok(true) };
            if records.is_empty() {
                self.over(to);
                return Ok(true);
            }
            let taken = records.len();
            let (rows, mut lost) = sort(&records, now, self.keep);
            let sent =
                if rows.is_empty() { Ok(Written::default()) } else { send(to, &rows, until).await };
            match sent {
                Ok(written) => self.account(to, &rows, written),
                Err(error) if is_refusal(&error) && taken > 1 => {
                    limit = taken / 2;
                    continue;
                }
                Err(error) if is_refusal(&error) => {
                    tracing::warn!(database = to.db.name(), table = records[0].table.as_str(), at = %records[0].at,
                        error = %error, "the server refuses a measurement that had waited; it is dropped");
                    lost.push((records[0].table, Reason::Refused));
                }
                Err(error) => {
                    if error.kind() == Kind::Timeout {
                        self.batch = (taken / 2).max(1);
                    }
                    return Err(error);
                }
            }
            let settled = self.queue.ask(to, move |spool| spool.settle(taken)).await;
            for (table, reason) in lost {
                self.queue.lose(to, Some(table), reason, 1);
            }
            if !matches!(settled, Asked::Answered(())) {
                return Ok(true);
            }
            limit = (limit * 2).min(BATCH_ROWS);
            self.batch = limit;
            if Instant::now() >= until && self.queue.depth.is_some_and(|depth| depth.records > 0) {
                return Ok(false);
            }
        }
    }

    /// Tells what an earlier process left.
    async fn find(&mut self, to: &Destination<'_>) {
        let Some(depth) = self.queue.look(to).await else { return };
        let Some(oldest) = depth.oldest else { return };
        tracing::info!(database = to.db.name(), rows = depth.records, since = %oldest,
            "measurements of an earlier run wait to be written");
        let outage =
            self.outage.get_or_insert(Outage { from: oldest, to: oldest, written: 0, told: true });
        outage.from = outage.from.min(oldest);
        let Some(recent) = self.recent.clone() else { return };
        let newest =
            self.queue.ask(to, |spool| spool.newest(SHOWN_BYTES)).await.unwrap_or_default();
        let rows: Vec<Row> = newest.iter().filter_map(decode).collect();
        recent.take(&rows);
    }

    /// Rows of past days need the partitions of those days; the trail has a default one.
    async fn make_partitions(
        &mut self,
        to: &Destination<'_>,
        oldest: DateTime<Utc>,
        until: Instant,
    ) -> Result<(), Error> {
        let kept = self.keep.into_iter().max().unwrap_or_default().num_days();
        let days = (to.now().date_naive() - oldest.date_naive()).num_days();
        let behind = i32::try_from(days.clamp(0, BEHIND_MAX.min(kept))).unwrap_or_default();
        let tables = OWN.into_iter().filter(|own| own.every == Every::Day);
        for table in tables {
            let made = async {
                let mut conn = to.db.acquire(Purpose::Control).await?;
                let options = TxOptions::within(to.bound).lock_timeout(PARTITION_LOCK);
                conn.transaction(&options, |tx| Box::pin(ensure_from(tx, table, behind))).await
            };
            match within(left(until), "make partitions for rows that waited", made).await {
                Ok(made) => {
                    for problem in made.problems {
                        tracing::warn!(database = to.db.name(), table = table.table, "{problem}");
                    }
                }
                // Those rows whose partition is there can be written all the same.
                Err(error) if matches!(error.kind(), Kind::Permission | Kind::Sql) => {
                    tracing::warn!(database = to.db.name(), table = table.table, error = %error,
                        "partitions for rows that waited cannot be made");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn account(&mut self, to: &Destination<'_>, rows: &[Row], written: Written) {
        let counts = [
            (Table::SystemHealth, written.health),
            (Table::ConnectionMetrics, written.connections),
            (Table::AuditLogs, written.events),
        ];
        for (table, rows) in counts.into_iter().filter(|(_, rows)| *rows > 0) {
            to.metrics
                .spool_replayed_total
                .with_label_values(&[to.db.name(), table.as_str()])
                .inc_by(rows);
        }
        if let Some(outage) = &mut self.outage {
            outage.written += written.total();
            outage.to = rows.iter().map(Row::created_at).fold(outage.to, DateTime::max);
        }
    }

    /// Nothing waits any more.
    fn over(&mut self, to: &Destination<'_>) {
        let Some(outage) = self.outage.take() else { return };
        if outage.told {
            let [from, last] =
                [outage.from, outage.to].map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
            let (database, rows) = (to.db.name(), outage.written);
            tracing::info!(
                database,
                rows,
                from,
                to = last,
                "{rows} measurements of the outage from {from} to {last} were written"
            );
        }
    }
}

fn limits(config: &Config) -> Limits {
    Limits { max_bytes: config.spool.max_size_bytes, max_age: config.spool.max_age }
}

/// One transaction, within what is left.
async fn send(to: &Destination<'_>, rows: &[Row], until: Instant) -> Result<Written, Error> {
    let bound = left(until);
    let sending = async {
        let mut conn = to.db.acquire(Purpose::Control).await?;
        insert(&mut conn, rows, bound).await
    };
    within(bound, "write measurements", sending).await
}

/// At least a little, so that what is begun has a chance.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))
}
