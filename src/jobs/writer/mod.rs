//! Writes rows of measurements, and keeps those that cannot be written yet.
//!
//! ```text
//! rows of a table ─┬─ none waits, the table accepts them ─► INSERT ─ committed
//!                  └─ else ─► spool ─► drain, oldest first ─► INSERT ─ committed ─► settle
//! ```
//! [`MeasurementWriter::record`] takes the rows that a tick measured. Each table is written on its own:
//! while rows of a table wait, new rows of that table queue behind them, so that they are written
//! in order, and other tables go on. A row has its id and its instant before it is first sent: a
//! row whose commit was not confirmed is sent again, and its key refuses it if it had arrived.
//!
//! Failures, by [`Fault`]:
//! - *connection*: every row waits.
//! - *table* (no such table or column, no privilege, no room, a lock): the rows of the table wait.
//!   A missing partition is made at once, and the rows are sent again.
//! - *row*: the rows of the batch are tried apart. A row is dropped, and counted, only if the table
//!   accepts another row of the batch. If it refuses all of them, they wait.
//!
//! Rows wait within the bounds of the spool, and no longer than retention keeps them. A drain is
//! bounded by the time of its tick, and goes on at the next.

mod queue;
mod refusals;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Datelike, SecondsFormat, SubsecRound, TimeDelta, Utc};
use tokio::time::Instant;

use crate::config::{Config, Retention};
use crate::db::{Database, Error, Fault, Kind, Purpose, TxOptions};
use crate::health::spool::{Limits, Reason, Record, Table};
use crate::health::{Recent, reason};
use crate::sets::{Period, STEWARD};
use crate::store::measurements::{InsertReport, MeasurementRow, insert, insert_accepted};
use crate::store::partitions::ensure_from;
use crate::telemetry::Metrics;

use super::probe::within;
use queue::{Asked, Queue};
use refusals::Refusals;
use rows::{decode, encode, sort, table};

/// Rows of one transaction, and about how many bytes: a tenth of a second's work.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES: usize = 512 * 1024;
/// Rows that are tried apart in one transaction, which takes up to four statements for each.
const APART_ROWS: usize = 64;
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
pub struct MeasurementWriter {
    queue: Queue,
    /// How long the rows of each table are worth writing: no longer than retention keeps them.
    keep: [TimeDelta; Table::ALL.len()],
    outage: Option<Outage>,
    refusals: Refusals,
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

impl MeasurementWriter {
    /// In the configuration's `state_dir`, else in memory. What a throw-away server missed is
    /// nothing to the next one.
    pub fn new(config: &Config) -> MeasurementWriter {
        let state_dir = config.state_dir.clone().filter(|_| !config.development.ephemeral);
        let queue = Queue::new(state_dir, limits(config));
        let keep = [TimeDelta::MAX; Table::ALL.len()];
        let mut unwritten = MeasurementWriter {
            queue,
            keep,
            outage: None,
            refusals: Refusals::default(),
            recent: None,
            batch: BATCH_ROWS,
        };
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

    /// Writes rows that were just measured, or keeps them. `failed` is why the database could not
    /// be measured: a database that was away an instant ago is not asked again. Returns how many of
    /// the rows were written.
    ///
    /// # Errors
    /// Why some of them were not written; they are kept. A table whose older rows cannot be written
    /// is no error of these rows.
    pub async fn record(
        &mut self,
        to: &Destination<'_>,
        rows: Vec<MeasurementRow>,
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
        if self.queue.wants_a_look() {
            self.find(to).await;
        }
        let mut new: [Vec<MeasurementRow>; Table::ALL.len()] = Default::default();
        for row in rows {
            new[table(&row) as usize].push(row);
        }
        let mut tables: Vec<Table> = Table::ALL
            .into_iter()
            .filter(|table| !new[*table as usize].is_empty() || self.queue.waits(*table))
            .collect();
        // A table that refused rows may use up its share of the time: the others come first.
        tables.sort_by_key(|table| self.refusals.is_refusing(*table));
        let end = Instant::now() + to.bound;
        let (mut written, mut failure) = (0, None::<Error>);
        let count = tables.len();
        for (place, table) in tables.into_iter().enumerate() {
            let rows = std::mem::take(&mut new[table as usize]);
            let has_new = !rows.is_empty();
            if failure.as_ref().is_some_and(|error| error.write_fault() == Fault::Connection) {
                self.keep(to, rows, None).await;
                continue;
            }
            let share = end.saturating_duration_since(Instant::now()) / (count - place) as u32;
            match self.write(to, table, &rows, share).await {
                Ok(Some(more)) => written += more,
                Ok(None) => self.keep(to, rows, None).await,
                Err(error) => {
                    let connection = error.write_fault() == Fault::Connection;
                    self.keep(to, rows, Some(&error).filter(|_| connection)).await;
                    if connection || (has_new && failure.is_none()) {
                        failure = Some(error);
                    }
                }
            }
        }
        if failure.is_none() && self.queue.depth.is_some_and(|depth| depth.records() == 0) {
            self.over(to);
        }
        failure.map_or(Ok(written), Err)
    }

    /// Writes what waits for a table, then new rows of it. Returns how many of the new rows were
    /// written, or none if there was no time for them.
    async fn write(
        &mut self,
        to: &Destination<'_>,
        table: Table,
        rows: &[MeasurementRow],
        share: Duration,
    ) -> Result<Option<u64>, Error> {
        let until = Instant::now() + share;
        let written = async {
            if self.queue.waits(table) && !self.drain(to, table, until - share / 2).await? {
                return Ok(None);
            }
            if rows.is_empty() {
                return Ok(Some(0));
            }
            send(to, table, rows, until, false).await.map(|sent| Some(sent.written))
        };
        let written = written.await;
        match &written {
            Ok(Some(_)) => self.refusals.end(to, table),
            Err(error) if error.write_fault() != Fault::Connection => {
                self.refusals.note(to, table, error);
            }
            Ok(None) | Err(_) => {}
        }
        written
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

    async fn keep(&mut self, to: &Destination<'_>, rows: Vec<MeasurementRow>, why: Option<&Error>) {
        if !to.keeps || rows.is_empty() {
            return;
        }
        if self.queue.wants_a_look() {
            self.find(to).await;
        }
        let instants = || rows.iter().map(MeasurementRow::created_at);
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

    /// Writes what waits for a table, oldest first, until then. Returns whether nothing is left
    /// that new rows of the table would have to wait for.
    async fn drain(
        &mut self,
        to: &Destination<'_>,
        table: Table,
        until: Instant,
    ) -> Result<bool, Error> {
        let (mut limit, mut apart) = (self.batch, false);
        loop {
            let now = to.now();
            let peeked = self.queue.ask(to, move |spool| {
                spool.expire(now);
                spool.peek(table, limit, BATCH_BYTES)
            });
            // A disk that hangs keeps what it has; what is new need not wait for it.
            let Asked::Answered(records) = peeked.await else { return Ok(true) };
            if records.is_empty() {
                return Ok(true);
            }
            let taken = records.len();
            let (rows, mut lost) = sort(&records, now, self.keep);
            let sent = if rows.is_empty() {
                Ok(InsertReport::default())
            } else {
                send(to, table, &rows, until, apart).await
            };
            match sent {
                Ok(sent) => {
                    self.account(to, table, &rows, sent.written);
                    self.refusals.drop_rows(to, table, &sent.refused);
                    lost.extend(sent.refused.iter().map(|_| (table, Reason::Refused)));
                }
                Err(error) if !apart && error.write_fault() == Fault::Row => {
                    (limit, apart) = (taken.min(APART_ROWS), true);
                    continue;
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
            (limit, apart) = ((limit * 2).min(BATCH_ROWS), false);
            self.batch = limit;
            if Instant::now() >= until && self.queue.waits(table) {
                return Ok(false);
            }
        }
    }

    /// Tells what an earlier process left.
    async fn find(&mut self, to: &Destination<'_>) {
        let Some(depth) = self.queue.look(to).await else { return };
        let Some(oldest) = depth.oldest else { return };
        tracing::info!(database = to.db.name(), rows = depth.records(), since = %oldest,
            "measurements of an earlier run wait to be written");
        let outage =
            self.outage.get_or_insert(Outage { from: oldest, to: oldest, written: 0, told: true });
        outage.from = outage.from.min(oldest);
        let Some(recent) = self.recent.clone() else { return };
        let newest =
            self.queue.ask(to, |spool| spool.newest(SHOWN_BYTES)).await.unwrap_or_default();
        let rows: Vec<MeasurementRow> = newest.iter().filter_map(decode).collect();
        recent.take(&rows);
    }

    fn account(
        &mut self,
        to: &Destination<'_>,
        table: Table,
        rows: &[MeasurementRow],
        written: u64,
    ) {
        let labels = [to.db.name(), table.as_str()];
        if written > 0 {
            to.metrics.spool_replayed_total.with_label_values(&labels).inc_by(written);
        }
        if let Some(outage) = &mut self.outage {
            outage.written += written;
            outage.to = rows.iter().map(MeasurementRow::created_at).fold(outage.to, DateTime::max);
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

/// Writes rows of one table in one transaction, within the time left. A missing partition is made,
/// and the rows are sent once more.
async fn send(
    to: &Destination<'_>,
    table: Table,
    rows: &[MeasurementRow],
    until: Instant,
    apart: bool,
) -> Result<InsertReport, Error> {
    let attempt = || {
        let bound = left(until);
        let sending = async move {
            let mut conn = to.db.acquire(Purpose::Control).await?;
            if apart {
                return insert_accepted(&mut conn, rows, bound).await;
            }
            let written = insert(&mut conn, rows, bound).await?;
            Ok(InsertReport { written, ..InsertReport::default() })
        };
        within(bound, "write measurements", sending)
    };
    let error = match attempt().await {
        Err(error) if error.is_missing_partition() => error,
        sent => return sent,
    };
    let problems = match make_partitions(to, table, rows, until).await {
        Ok(problems) => problems,
        Err(cause) if cause.write_fault() == Fault::Connection => return Err(cause),
        Err(cause) => return Err(error.context(cause)),
    };
    match attempt().await {
        Err(error) if error.is_missing_partition() && !problems.is_empty() => {
            Err(error.context(problems.join("; ")))
        }
        sent => sent,
    }
}

/// Makes the partitions from the oldest row's to those ahead, where they are missing. Returns what
/// stands in the way of single ones.
async fn make_partitions(
    to: &Destination<'_>,
    table: Table,
    rows: &[MeasurementRow],
    until: Instant,
) -> Result<Vec<String>, Error> {
    let supplied = STEWARD.partitioned.iter().find(|own| own.table == table.as_str());
    let oldest = rows.iter().map(MeasurementRow::created_at).min();
    let Some((supplied, oldest)) = supplied.zip(oldest) else { return Ok(Vec::new()) };
    let month = |at: DateTime<Utc>| i64::from(at.year()) * 12 + i64::from(at.month());
    let behind = match supplied.period {
        Period::Day => (to.now().date_naive() - oldest.date_naive()).num_days(),
        Period::Month => month(to.now()) - month(oldest),
    };
    let behind = i32::try_from(behind.clamp(0, BEHIND_MAX)).unwrap_or_default();
    let making = async {
        let mut conn = to.db.acquire(Purpose::Control).await?;
        let options = TxOptions::within(to.bound).lock_timeout(PARTITION_LOCK);
        conn.transaction(&options, |tx| Box::pin(ensure_from(tx, supplied, behind))).await
    };
    let made = within(left(until), "make missing partitions", making).await?;
    if made.created > 0 {
        tracing::info!(
            database = to.db.name(),
            table = supplied.name(),
            created = made.created,
            "made missing partitions for measurements"
        );
    }
    Ok(made.problems)
}

/// At least a little, so that what is begun has a chance.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))
}
