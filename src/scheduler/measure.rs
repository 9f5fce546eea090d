//! The measurements of one database: health probes and connection samples, on their schedules.
//!
//! They run outside the ledger, on every tick of the observer; the other instances record their own
//! connectivity. A measurement is a task with a bound and never overlaps itself: a tick that finds
//! the last one still under way is let go, since a late measurement is worth less than none.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::config::{Builtin, Config};
use crate::db::Error;
use crate::health::{Audit, Board, FailingJob, Inputs, Jobs, PartitionsNeeded, Schema};
use crate::jobs::probe::{self, Probe, ProbeState};
use crate::jobs::sample;
use crate::jobs::writer::Destination;
use crate::observe::WatchedTable;
use crate::sets::{Manifest, PartitionedTable};

use super::runner::Runner;

/// For what measurements still write when the process stops.
const STOP_BOUND: Duration = Duration::from_secs(3);

/// What the pipeline knows that a measurement depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MonitorContext {
    /// This instance observes; otherwise it records its own connectivity only.
    pub observing: bool,
    /// Whether there are tables to write rows into.
    pub writable: bool,
    /// Whether rows that cannot be written now are kept until they can: not where there is no schema
    /// to wait for.
    pub keeps: bool,
    /// The bundled sets that are applied.
    pub sets: Vec<&'static Manifest>,
    /// How the migrations stand; absent until they were looked at.
    pub schema: Option<Schema>,
    /// By whom all jobs are paused, when they are.
    pub paused: Option<String>,
    /// How the audit trail stands, once it was looked at.
    pub audit: Option<Audit>,
}

/// Starts measurements when they are due.
pub struct Measurements {
    board: Arc<Board>,
    runner: Arc<Runner>,
    state: Arc<Mutex<ProbeState>>,
    observing: bool,
    /// The database's clock less this instance's, as last read.
    skew: TimeDelta,
    next: BTreeMap<Builtin, DateTime<Utc>>,
    underway: BTreeMap<Builtin, JoinHandle<bool>>,
}

impl Measurements {
    /// The first tick measures at once.
    pub fn new(board: Arc<Board>, runner: Arc<Runner>, config: &Config) -> Measurements {
        let state = Arc::new(Mutex::new(ProbeState::new(config)));
        let (next, underway) = (BTreeMap::new(), BTreeMap::new());
        Measurements {
            board,
            runner,
            state,
            observing: false,
            skew: TimeDelta::zero(),
            next,
            underway,
        }
    }

    /// What was measured while the database was away carries its clock all the same.
    pub fn set_clock(&mut self, clock: DateTime<Utc>) {
        self.skew = clock - Utc::now();
    }

    /// By the database's clock, as well as it is known here.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.skew
    }

    /// Starts what is due. Waits for nothing.
    pub fn tick(&mut self, config: &Arc<Config>, context: &MonitorContext, now: DateTime<Utc>) {
        if self.is_due(config, Builtin::HealthProbe, now) {
            self.probe(config, context);
        }
        if self.is_due(config, Builtin::ConnectionMetrics, now)
            && context.observing
            && context.writable
        {
            self.sample(config, context);
        }
    }

    /// Measures at the next tick, and follows the schedules anew: the configuration changed, or what
    /// this instance may look at.
    pub fn at_once(&mut self) {
        self.next.clear();
    }

    fn is_due(&mut self, config: &Config, name: Builtin, now: DateTime<Utc>) -> bool {
        let Some(job) = config.jobs.enabled(name) else { return false };
        let Some(schedule) = job.schedule() else { return false };
        let next = self.next.get(&name);
        let due = next.is_none_or(|at| *at <= now);
        let underway = self.underway.get(&name).is_some_and(|task| !task.is_finished());
        // What was asked for at once is not let go because of the last one, only put off.
        if next.is_none() && underway {
            return false;
        }
        let upcoming = schedule.next_after(now, job.timezone);
        // A clock that was set back would leave the next tick far away.
        let far = next.is_some_and(|at| upcoming.is_some_and(|upcoming| upcoming < *at));
        if (due || far)
            && let Some(next) = upcoming
        {
            self.next.insert(name, next);
            let labels = [self.runner.db.name(), name.as_str()];
            self.runner
                .metrics
                .job_next_due_timestamp_seconds
                .with_label_values(&labels)
                .set(super::dispatcher::seconds(next));
        }
        due && !underway
    }

    fn probe(&mut self, config: &Arc<Config>, context: &MonitorContext) {
        let stood_down = self.observing && !context.observing;
        self.observing = context.observing;
        let (runner, board, state) =
            (Arc::clone(&self.runner), Arc::clone(&self.board), Arc::clone(&self.state));
        let (config, context) = (Arc::clone(config), context.clone());
        let inputs = self.inputs(&context);
        let (bound, skew) = (timeout(&config, Builtin::HealthProbe), self.skew);
        let work = async move {
            let mut state = state.lock().await;
            state.writer.configure(&config);
            if stood_down {
                // What was gathered until then is written or kept.
                let to = destination(&runner, &context, skew, bound / 4);
                let _ = sample::run(&to, runner.ledger.instance(), &mut state).await;
                state.stand_down(&runner.metrics, runner.db.name());
            }
            let watched = watched(&context.sets);
            let probe = Probe {
                db: &runner.db,
                board: &board,
                metrics: &runner.metrics,
                limits: &config.health,
                instance: runner.ledger.instance(),
                watched: &watched,
                writable: context.writable,
                keeps: context.keeps,
                skew,
                bound,
            };
            // A database that is away is an answer, and the board and the log have it.
            if context.observing {
                probe::run(&probe, &mut state, &inputs).await;
            } else {
                probe::connectivity_only(&probe, &mut state).await;
            }
            Ok(())
        };
        self.start(Builtin::HealthProbe, bound, work);
    }

    fn sample(&mut self, config: &Config, context: &MonitorContext) {
        let (runner, state) = (Arc::clone(&self.runner), Arc::clone(&self.state));
        let (bound, skew) = (timeout(config, Builtin::ConnectionMetrics), self.skew);
        let context = context.clone();
        let work = async move {
            let mut state = state.lock().await;
            let to = destination(&runner, &context, skew, bound);
            sample::run(&to, runner.ledger.instance(), &mut state).await.map(drop)
        };
        self.start(Builtin::ConnectionMetrics, bound, work);
    }

    /// Lets what is under way end, and writes or keeps what was gathered and not yet written.
    pub async fn stop(&mut self, context: &MonitorContext) {
        let underway = std::mem::take(&mut self.underway);
        let flush_on_stop = async {
            for task in underway.into_values() {
                // A panic inside was recorded as its outcome.
                let _ = task.await;
            }
            let mut state = self.state.lock().await;
            let to = destination(&self.runner, context, self.skew, STOP_BOUND / 2);
            // Why it is kept instead of written was told when the outage began.
            let _ = sample::run(&to, self.runner.ledger.instance(), &mut state).await;
            state.writer.abandon(&to).await;
        };
        if tokio::time::timeout(STOP_BOUND, flush_on_stop).await.is_err() {
            tracing::debug!(
                database = self.runner.db.name(),
                "a measurement is still under way; it ends by its bound"
            );
        }
    }

    fn start<F>(&mut self, name: Builtin, bound: Duration, work: F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let runner = Arc::clone(&self.runner);
        // A little more than the measurement gives itself: it is to end by its own bound.
        let bound = bound + bound / 4;
        let task = async move { runner.unledgered(name.into(), bound, work).await };
        self.underway.insert(name, self.runner.tasks.spawn("measure", task));
    }

    /// What the verdicts rest on beside the measurement itself.
    fn inputs(&self, context: &MonitorContext) -> Inputs {
        let mut jobs = Jobs { paused: context.paused.clone(), ..Jobs::default() };
        for (name, standing) in self.runner.standing.read() {
            let told = |error: String| FailingJob { name: name.as_str().to_owned(), error };
            if standing.failures > 0
                && !standing.ignored
                && name.as_str() != Builtin::HealthProbe.as_str()
            {
                jobs.failing.push(told(standing.last_error.unwrap_or_default()));
            }
            jobs.not_permitted.extend(standing.not_permitted.map(told));
            jobs.warnings.extend(
                standing.warnings.iter().map(|warning| format!("{}: {warning}", name.as_str())),
            );
        }
        let partitions = partitions_needed(&context.sets);
        Inputs {
            schema: context.schema.clone(),
            partitions: if context.writable { partitions } else { Vec::new() },
            jobs: context.writable.then_some(jobs),
            audit: context.audit.clone(),
        }
    }
}

fn destination<'a>(
    runner: &'a Runner,
    context: &MonitorContext,
    skew: TimeDelta,
    bound: Duration,
) -> Destination<'a> {
    let MonitorContext { writable, keeps, .. } = *context;
    Destination { db: &runner.db, metrics: &runner.metrics, writable, keeps, skew, bound }
}

fn partitioned(sets: &[&'static Manifest]) -> impl Iterator<Item = &'static PartitionedTable> {
    sets.iter().flat_map(|set| set.partitioned)
}

/// How many partitions ahead the tables need. One less than the job makes: at the turn of a day there
/// is one less until it runs again.
pub fn partitions_needed(sets: &[&'static Manifest]) -> Vec<PartitionsNeeded> {
    partitioned(sets)
        .map(|table| PartitionsNeeded { table: table.name(), ahead: i64::from(table.ahead - 1) })
        .collect()
}

/// The partitioned tables to look at.
pub fn watched(sets: &[&'static Manifest]) -> Vec<WatchedTable> {
    partitioned(sets)
        .map(|table| WatchedTable {
            schema: table.schema.to_owned(),
            table: table.table.to_owned(),
        })
        .collect()
}

fn timeout(config: &Config, name: Builtin) -> Duration {
    config.jobs.all.get(name.as_str()).map_or(Duration::from_secs(10), |job| job.timeout)
}
