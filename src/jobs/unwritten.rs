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
//!
//! The spool's files are written on the runtime's threads for blocking work, with a bound here: the
//! daemon has a single worker, and a disk that hangs (a network file system, a stalled volume) may hold
//! up neither it nor the probe.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use tokio::time::Instant;

use crate::config::Config;
use crate::db::{Database, Error, Kind, Purpose, TxOptions};
use crate::health::reason;
use crate::health::spool::{Depth, Limits, Place, Reason, Record, Spool, Table};
use crate::store::health::{Row, Written, insert};
use crate::store::partitions::{OWN, ensure_from};
use crate::telemetry::Metrics;

use super::probe::within;

/// Rows of one transaction, and about how many bytes: a tenth of a second's work.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// How long a call waits for the disk; what it asked for is still done when the disk goes on.
const DISK_BOUND: Duration = Duration::from_secs(2);
/// A partition is waited for so briefly that nobody queues behind us.
const PARTITION_LOCK: Duration = Duration::from_secs(1);
/// How often a folder that does not serve is tried again while nothing is to be kept.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(60);
/// How often the log repeats that rows were lost.
const WARN_EVERY: Duration = Duration::from_secs(300);
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
    /// Opened at the first use.
    spool: Arc<Mutex<Option<Spool>>>,
    state_dir: Option<PathBuf>,
    limits: Limits,
    /// How long retention keeps the rows of each table.
    keep: [TimeDelta; Table::ALL.len()],
    /// As of the last call; none before the first.
    depth: Option<Depth>,
    /// When to try the folder again, where it does not serve: another process may have left rows in it.
    look_again: Option<Instant>,
    outage: Option<Outage>,
    /// Fewer than [`BATCH_ROWS`] after a batch took too long.
    batch: usize,
    lost: u64,
    warned: Option<Instant>,
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
    /// In the configuration's `state_dir`, else in memory.
    pub fn new(config: &Config) -> Unwritten {
        let mut unwritten = Unwritten {
            spool: Arc::default(),
            state_dir: config.state_dir.clone(),
            limits: limits(config),
            keep: [TimeDelta::MAX; 2],
            depth: None,
            look_again: None,
            outage: None,
            batch: BATCH_ROWS,
            lost: 0,
            warned: None,
        };
        unwritten.configure(config);
        unwritten
    }

    /// Follows a new configuration; another `state_dir` is taken at the next start.
    pub fn configure(&mut self, config: &Config) {
        self.limits = limits(config);
        let keep = [config.retention.system_health, config.retention.connection_metrics];
        self.keep = keep.map(|keep| TimeDelta::from_std(keep).unwrap_or(TimeDelta::MAX));
    }

    /// Takes rows that were just measured: writes them, or keeps them. `failed` is why the database
    /// was not to be measured; one that was away an instant ago is not asked again. Returns how many
    /// of them were written.
    ///
    /// # Errors
    /// Why they were not; they are kept.
    pub async fn record(&mut self, to: &Destination<'_>, rows: Vec<Row>, failed: Option<&Error>) -> Result<u64, Error> {
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

    /// Rows that only memory holds end with the process: they are counted, and the log says so.
    pub async fn abandon(&mut self, to: &Destination<'_>) {
        let lost = self.with(to, |spool| spool.in_memory()).await.unwrap_or_default();
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
        if self.depth.is_none() {
            self.find(to).await;
        }
        let instants = || rows.iter().map(Row::created_at);
        let (Some(from), Some(last)) = (instants().min(), instants().max()) else { return };
        let records: Vec<Record> = rows.iter().filter_map(encode).collect();
        let tables: Vec<Table> = records.iter().map(|record| record.table).collect();
        let now = to.now();
        let place = self.with(to, move |spool| {
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
                    self.lose(to, Some(table), Reason::Disk, 1);
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
            let place = place.unwrap_or(Place::Memory);
            tracing::warn!(database = to.db.name(), kind = error.kind().as_str(), error = %error,
                "measurements cannot be written; they are kept in {place} until they can");
        }
    }

    /// Writes what waits, oldest first, until then. Whether nothing waits any more.
    async fn drain(&mut self, to: &Destination<'_>, until: Instant) -> Result<bool, Error> {
        if self.depth.is_none() || self.look_again.is_some_and(|at| Instant::now() >= at) {
            self.find(to).await;
        }
        let Some(oldest) = self.depth.and_then(|depth| depth.oldest) else { return Ok(true) };
        self.make_partitions(to, oldest, until).await?;
        let mut limit = self.batch;
        loop {
            let now = to.now();
            let peeked = self.with(to, move |spool| {
                spool.expire(now);
                spool.peek(limit, BATCH_BYTES)
            });
            let Asked::Answered(records) = peeked.await else { return Ok(false) };
            if records.is_empty() {
                self.over(to);
                return Ok(true);
            }
            let taken = records.len();
            let (rows, mut lost) = self.sort(&records, now);
            let sent = if rows.is_empty() { Ok(Written::default()) } else { send(to, &rows, until).await };
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
            let settled = self.with(to, move |spool| spool.settle(taken)).await;
            for (table, reason) in lost {
                self.lose(to, Some(table), reason, 1);
            }
            if !matches!(settled, Asked::Answered(())) {
                return Ok(false);
            }
            limit = (limit * 2).min(BATCH_ROWS);
            self.batch = limit;
            if Instant::now() >= until && self.depth.is_some_and(|depth| depth.records > 0) {
                return Ok(false);
            }
        }
    }

    /// Opens the spool, or its folder again, and tells what an earlier process left in it.
    async fn find(&mut self, to: &Destination<'_>) {
        let before = self.depth.map_or(0, |depth| depth.records);
        self.look_again = None;
        let found = self.with(to, |spool| {
            spool.retry_disk();
            spool.depth()
        });
        let Asked::Answered(depth) = found.await else { return };
        let Some(oldest) = depth.oldest.filter(|_| depth.records > before) else { return };
        tracing::info!(database = to.db.name(), rows = depth.records, since = %oldest,
            "measurements of an earlier run wait to be written");
        let outage = self.outage.get_or_insert(Outage { from: oldest, to: oldest, written: 0, told: true });
        outage.from = outage.from.min(oldest);
    }

    /// Rows, and records that are none any more.
    fn sort(&self, records: &[Record], now: DateTime<Utc>) -> (Vec<Row>, Vec<(Table, Reason)>) {
        let max_age = TimeDelta::from_std(self.limits.max_age).unwrap_or(TimeDelta::MAX);
        let (mut rows, mut lost) = (Vec::with_capacity(records.len()), Vec::new());
        for record in records {
            if now - record.at > max_age.min(self.keep[record.table as usize]) {
                lost.push((record.table, Reason::Age));
            } else if let Some(row) = decode(record) {
                rows.push(row);
            } else {
                lost.push((record.table, Reason::Damaged));
            }
        }
        (rows, lost)
    }

    /// Rows of past days need the partitions of those days.
    async fn make_partitions(
        &mut self,
        to: &Destination<'_>,
        oldest: DateTime<Utc>,
        until: Instant,
    ) -> Result<(), Error> {
        let kept = self.keep.into_iter().max().unwrap_or_default().num_days();
        let days = (to.now().date_naive() - oldest.date_naive()).num_days();
        let behind = i32::try_from(days.clamp(0, BEHIND_MAX.min(kept))).unwrap_or_default();
        let tables = OWN.into_iter().filter(|own| Table::ALL.iter().any(|table| table.as_str() == own.table));
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
        let counts = [(Table::SystemHealth, written.health), (Table::ConnectionMetrics, written.connections)];
        for (table, rows) in counts.into_iter().filter(|(_, rows)| *rows > 0) {
            to.metrics.spool_replayed.with_label_values(&[to.db.name(), table.as_str()]).inc_by(rows);
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
            let [from, last] = [outage.from, outage.to].map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
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

    fn lose(&mut self, to: &Destination<'_>, table: Option<Table>, reason: Reason, rows: u64) {
        let name = table.map_or("unknown", Table::as_str);
        to.metrics.rows_dropped.with_label_values(&[to.db.name(), name, reason.as_str()]).inc_by(rows);
        self.lost += rows;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            tracing::warn!(
                database = to.db.name(),
                rows = self.lost,
                table = name,
                reason = reason.as_str(),
                "measurements were lost; said again every {} minutes at most",
                WARN_EVERY.as_secs() / 60
            );
            self.warned = Some(Instant::now());
            self.lost = 0;
        }
    }

    /// Asks the spool something, on a thread that may block where there are files.
    async fn with<T: Send + 'static>(
        &mut self,
        to: &Destination<'_>,
        ask: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Asked<T> {
        let (spool, dir, limits) = (Arc::clone(&self.spool), self.state_dir.clone(), self.limits);
        let (target, files) = (to.db.name().to_owned(), self.state_dir.is_some());
        let work = move || {
            let mut spool = match spool.try_lock() {
                Ok(spool) => spool,
                // A panic inside would be a defect; the queue itself is whole after every step.
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                // The last call still waits for the disk: waiting behind it would use up the threads.
                Err(TryLockError::WouldBlock) => return None,
            };
            let spool = spool.get_or_insert_with(|| Spool::open(dir.as_deref(), &target, limits));
            spool.set_limits(limits);
            let answer = ask(spool);
            Some((answer, spool.depth(), spool.take_drops(), spool.place()))
        };
        let answered = if files {
            match tokio::time::timeout(DISK_BOUND, tokio::task::spawn_blocking(work)).await {
                Ok(Ok(answered)) => answered,
                Ok(Err(_)) => None,
                Err(_) => {
                    tracing::warn!(database = to.db.name(), "the disk of state_dir does not answer");
                    return Asked::Slow;
                }
            }
        } else {
            work()
        };
        let Some((answer, depth, drops, place)) = answered else { return Asked::Busy };
        self.depth = Some(depth);
        self.look_again = match place {
            Place::Memory if files => self.look_again.or_else(|| Some(Instant::now() + LOOK_AGAIN_EVERY)),
            _ => None,
        };
        export(to, depth);
        for (table, reason, rows) in drops {
            self.lose(to, table, reason, rows);
        }
        Asked::Answered(answer)
    }
}

/// What came of asking the spool.
enum Asked<T> {
    Answered(T),
    /// It goes on with it.
    Slow,
    /// It was not asked: it is still at what it was asked before.
    Busy,
}

impl<T: Default> Asked<T> {
    fn unwrap_or_default(self) -> T {
        if let Asked::Answered(answer) = self { answer } else { T::default() }
    }
}

fn limits(config: &Config) -> Limits {
    Limits { max_bytes: config.spool.max_size_bytes, max_age: config.spool.max_age }
}

fn export(to: &Destination<'_>, depth: Depth) {
    let labels = [to.db.name()];
    let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    to.metrics.spool_records.with_label_values(&labels).set(gauge(depth.records));
    to.metrics.spool_bytes.with_label_values(&labels).set(gauge(depth.bytes));
    match depth.oldest {
        Some(at) => to.metrics.spool_oldest.with_label_values(&labels).set(at.timestamp_micros() as f64 / 1e6),
        // An error says that there was no such series.
        None => drop(to.metrics.spool_oldest.remove_label_values(&labels)),
    }
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

/// Whether it is the row that the server will not have. What the schema, a privilege or the server
/// lacks (classes 25, 42, 53, 55, 57, 58) can be mended, and the row goes in then.
fn is_refusal(error: &Error) -> bool {
    match error.kind() {
        Kind::Sql => {
            let class = error.sqlstate().map_or("", |state| state.code().get(..2).unwrap_or_default());
            !matches!(class, "25" | "42" | "53" | "55" | "57" | "58")
        }
        Kind::Protocol => true,
        _ => false,
    }
}

/// None for a row that JSON cannot hold, which there is none of.
fn encode(row: &Row) -> Option<Record> {
    let (table, body) = match row {
        Row::Health(row) => (Table::SystemHealth, serde_json::to_vec(row)),
        Row::Connections(row) => (Table::ConnectionMetrics, serde_json::to_vec(row)),
    };
    Some(Record { at: row.created_at(), table, body: body.ok()? })
}

fn decode(record: &Record) -> Option<Row> {
    match record.table {
        Table::SystemHealth => serde_json::from_slice(&record.body).ok().map(Row::Health),
        Table::ConnectionMetrics => serde_json::from_slice(&record.body).ok().map(Row::Connections),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::store::health::{ConnectionRow, HealthRow, Range};

    #[test]
    fn a_row_comes_back_as_it_was() {
        let at = DateTime::from_timestamp_micros(1_800_000_000_123_456).unwrap();
        let health = HealthRow {
            id: Uuid::now_v7(),
            created_at: at,
            instance: "host/1/0".into(),
            component: "connectivity".into(),
            status: "unhealthy".into(),
            reason: "refused".into(),
            message: "über \"quotes\", a \0 and a \u{10FFFF}".into(),
            latency_ms: Some(0.1 + 0.2),
            details: json!({ "": [null, i64::MAX, 1.5] }),
        };
        let range = Range { min: 0, avg: 53.0 / 3.0, max: i32::MAX };
        let connections = ConnectionRow {
            id: Uuid::now_v7(),
            created_at: at,
            instance: "host/1/0".into(),
            interval_seconds: 59.999_999,
            samples: 4,
            max_connections: 100,
            reserved_connections: 3,
            total: range,
            active: Some(range),
            idle: None,
            idle_in_transaction: None,
            waiting: Some(Range::default()),
            saturation_max: 46.0 / 90.0,
            oldest_transaction_seconds_max: Some(0.0),
            oldest_idle_in_transaction_seconds_max: None,
            by_database: json!({ "app": { "avg": 3.5, "max": 5 } }),
            pool: json!({}),
        };
        for row in [Row::Health(health), Row::Connections(Box::new(connections))] {
            let record = encode(&row).unwrap();
            assert_eq!(record.at, at);
            assert_eq!(decode(&record), Some(row));
            let other = Record { table: Table::SystemHealth, body: b"{}".to_vec(), ..record };
            assert_eq!(decode(&other), None);
        }
    }

    #[test]
    fn rows_older_than_their_table_keeps_are_not_written() {
        let mut config = Config::default();
        config.retention.connection_metrics = Duration::from_secs(2 * 86_400);
        config.spool.max_age = Duration::from_secs(3 * 86_400);
        let unwritten = Unwritten::new(&config);
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let aged = |table, hours| Record { at: now - TimeDelta::hours(hours), table, body: b"no row".to_vec() };
        for (table, hours, reason) in [
            (Table::SystemHealth, 71, Reason::Damaged),
            (Table::SystemHealth, 73, Reason::Age),
            (Table::ConnectionMetrics, 47, Reason::Damaged),
            (Table::ConnectionMetrics, 49, Reason::Age),
        ] {
            assert_eq!(unwritten.sort(&[aged(table, hours)], now), (Vec::new(), vec![(table, reason)]), "{hours}");
        }
    }
}
