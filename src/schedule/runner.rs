//! The single funnel that every job goes through.
//!
//! ```text
//! place ─► connection ─► task ─► deadline ─► proven cancel ─► outcome ─► metrics, log ─► row
//! ```
//! A run is a task of its own, so a panic is an outcome of that run. A run that passes its deadline,
//! loses its lease, or outstays a shutdown is cancelled on the server; the outcome says whether the
//! server confirmed that. Nothing of this waits for another job, and every wait ends.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value::Null;
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::config::{Config, JobName};
use crate::db::{CancelOutcome, Database, Error, Kind, Purpose};
use crate::jobs::{self, Context, Report};
use crate::lifecycle::Tasks;
use crate::store::runs::{Ending, State};
use crate::telemetry::Metrics;

use super::Standing;
use super::lanes::Lane;
use super::ledger::Ledger;

/// How the reason of a run begins that was permitted nothing.
const NOT_PERMITTED: &str = "not_permitted";
/// How long a cancel may take to be confirmed.
const CANCEL_BOUND: Duration = Duration::from_secs(8);
/// How long a batch may go on after a shutdown was asked for.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// By when a run has ended after a shutdown was asked for.
pub const STOP_BOUND: Duration = Duration::from_secs(CANCEL_BOUND.as_secs() + STOP_GRACE.as_secs() + 1);

/// Runs the jobs of one database.
pub struct Runner {
    pub db: Arc<Database>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub standing: Arc<Standing>,
    pub tasks: Tasks,
    running: Mutex<HashMap<Uuid, Running>>,
    lane_free: Notify,
}

struct Running {
    epoch: i64,
    /// Whether its work is over and only its end is still to be written.
    ending: bool,
    /// Cancelled when the lease was lost: the outcome is no longer ours to decide.
    lost: CancellationToken,
}

/// A claimed instant, ready to run.
pub struct Order {
    pub job: JobName,
    pub id: Uuid,
    pub epoch: i64,
    pub due_at: DateTime<Utc>,
    pub config: Arc<Config>,
    pub zentry: bool,
}

impl Runner {
    /// Nothing runs yet.
    pub fn new(
        db: Arc<Database>,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        standing: Arc<Standing>,
        tasks: Tasks,
    ) -> Arc<Runner> {
        Arc::new(Runner {
            db,
            ledger,
            metrics,
            standing,
            tasks,
            running: Mutex::new(HashMap::new()),
            lane_free: Notify::new(),
        })
    }

    /// Runs and epochs under way here.
    pub fn running(&self) -> Vec<(Uuid, i64)> {
        self.lock().iter().map(|(id, run)| (*id, run.epoch)).collect()
    }

    /// How many jobs run here.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Stops a run whose lease another instance has taken: it must not write any more, and the
    /// fence in its transactions sees to that in any case. False when its work is over already: then
    /// its row is not leased any more because it has just been ended from here.
    pub fn fence_off(&self, id: Uuid) -> bool {
        let running = self.lock();
        let working = running.get(&id).filter(|run| !run.ending);
        working.inspect(|run| run.lost.cancel()).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a run has ended and its lane is free for what waits for one. For one waiter.
    pub async fn lane_free(&self) {
        self.lane_free.notified().await;
    }

    /// Starts a claimed run and returns at once; the lane is given back when it has ended.
    pub fn start(self: &Arc<Self>, order: Order, lane: Lane) {
        let runner = Arc::clone(self);
        let span = tracing::info_span!("job", database = self.db.name(), job = order.job.as_str(), run_id = %order.id);
        let run = async move {
            Arc::clone(&runner).run(order).await;
            drop(lane);
            runner.lane_free.notify_one();
        };
        self.tasks.spawn("job", run.instrument(span));
    }

    async fn run(self: Arc<Self>, order: Order) {
        let (job, id, epoch, due_at) = (order.job, order.id, order.epoch, order.due_at);
        let labels = [self.db.name(), job.as_str()];
        let begun = Instant::now();
        let lag = (Utc::now() - due_at).to_std().unwrap_or_default();
        self.metrics.job_due_lag.with_label_values(&labels[..1]).observe(lag.as_secs_f64());
        let place = Place::take(&self, job, id, epoch);

        let ending = self.attempt(order, &place.lost).await;

        place.work_is_over();
        self.record(job, &ending, begun.elapsed());
        log(&ending, begun.elapsed());
        // A run that was taken over has been ended by who took it.
        if ending.state != State::Lost {
            self.ledger.finish(job, id, epoch, ending).await;
        }
    }

    async fn attempt(self: &Arc<Self>, order: Order, lost: &CancellationToken) -> Ending {
        let timeout = order.config.jobs.builtin.get(&order.job).map_or(Duration::from_secs(60), |job| job.timeout);
        let deadline = Instant::now() + timeout;
        let stop = self.tasks.stopping();
        let mut cut = std::pin::pin!(async {
            tokio::select! {
                () = lost.cancelled() => Cut::Lost,
                () = tokio::time::sleep_until(deadline) => Cut::Deadline(timeout),
                () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Cut::Shutdown,
            }
        });
        let conn = tokio::select! {
            conn = self.db.acquire(Purpose::Job) => conn,
            cut = &mut cut => return cut.ending(None),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => return failed(&error),
        };
        let canceller = conn.canceller();
        let work = work(Arc::clone(self), order, conn, deadline).in_current_span();
        let mut work = self.tasks.spawn("job-work", work);
        let cut = tokio::select! {
            outcome = &mut work => return ended(outcome),
            cut = &mut cut => cut,
        };
        // First the cancel: a connection that is closed while it works proves nothing any more.
        let proof = canceller.cancel(CANCEL_BOUND).await;
        work.abort();
        match work.await {
            // It ended while it was being cut off.
            Ok(Ok(report)) => done(report),
            _ => cut.ending(Some(proof)),
        }
    }

    /// What is known of the run, for metrics and answers.
    fn record(&self, job: JobName, ending: &Ending, took: Duration) {
        let labels = [self.db.name(), job.as_str()];
        let now = Utc::now();
        self.metrics.job_last_duration.with_label_values(&labels).set(took.as_secs_f64());
        self.metrics.job_runs.with_label_values(&[labels[0], labels[1], ending.state.as_str()]).inc();
        if ending.state == State::Succeeded {
            self.metrics.job_last_success.with_label_values(&labels).set(super::dispatcher::seconds(now));
        }
        let not_permitted = ending.reason.as_deref().filter(|reason| reason.starts_with(NOT_PERMITTED));
        self.standing.update(job, |standing| {
            standing.ended(ending.state, ending.error.clone(), now);
            // Said when it is new, not at each run.
            if standing.limited(&ending.warnings, not_permitted) {
                for warning in ending.warnings.iter().map(String::as_str).chain(not_permitted) {
                    tracing::warn!(database = labels[0], job = labels[1], warning, "the job cannot do all it should");
                }
            }
        });
    }

    /// Runs something that has no row in the ledger (a probe, a sample) under the same rules: a
    /// deadline, and a panic that ends nothing else. Returns whether it ended well.
    pub async fn unledgered<F>(self: &Arc<Self>, job: JobName, timeout: Duration, future: F) -> bool
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let begun = Instant::now();
        let span = tracing::info_span!("job", database = self.db.name(), job = job.as_str());
        let mut work = self.tasks.spawn("job-work", future.instrument(span.clone()));
        let ending = match tokio::time::timeout(timeout, &mut work).await {
            Ok(outcome) => ended(outcome.map(|ended| ended.map(|()| Report::default()))),
            Err(_) => {
                // The statement's own time-out on the server is shorter than this.
                work.abort();
                Cut::Deadline(timeout).ending(None)
            }
        };
        self.record(job, &ending, begun.elapsed());
        let succeeded = ending.state == State::Succeeded;
        if !succeeded {
            span.in_scope(|| log(&ending, begun.elapsed()));
        }
        succeeded
    }
}

/// A run's entry among those that run here, from before it has a connection until its end is
/// written: for as long its lease is renewed. Gone also when the run panics.
struct Place<'a> {
    runner: &'a Runner,
    job: JobName,
    id: Uuid,
    lost: CancellationToken,
}

impl Place<'_> {
    fn take(runner: &Runner, job: JobName, id: Uuid, epoch: i64) -> Place<'_> {
        let lost = CancellationToken::new();
        runner.lock().insert(id, Running { epoch, ending: false, lost: lost.clone() });
        runner.metrics.job_running.with_label_values(&[runner.db.name(), job.as_str()]).set(1);
        Place { runner, job, id, lost }
    }

    fn work_is_over(&self) {
        if let Some(run) = self.runner.lock().get_mut(&self.id) {
            run.ending = true;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.runner.lock().remove(&self.id);
        self.runner.metrics.job_running.with_label_values(&[self.runner.db.name(), self.job.as_str()]).set(0);
    }
}

async fn work(
    runner: Arc<Runner>,
    order: Order,
    mut conn: crate::db::Pooled<'static>,
    deadline: Instant,
) -> Result<Report, Error> {
    let mut context = Context {
        db: &runner.db,
        config: &order.config,
        metrics: &runner.metrics,
        conn: &mut conn,
        run_id: order.id,
        epoch: order.epoch,
        deadline,
        stop: runner.tasks.stopping(),
        zentry: order.zentry,
    };
    jobs::run(order.job, &mut context).await
}

/// Why a run was cut off.
enum Cut {
    Deadline(Duration),
    Shutdown,
    Lost,
}

impl Cut {
    /// `cancel` is absent when there was no statement to cancel.
    fn ending(&self, cancel: Option<CancelOutcome>) -> Ending {
        let (state, reason, why) = match self {
            Cut::Deadline(timeout) => {
                (State::TimedOut, "timeout", format!("over its timeout of {} s", timeout.as_secs()))
            }
            Cut::Shutdown => (State::Cancelled, "shutdown", "the daemon shut down".to_owned()),
            Cut::Lost => (
                State::Lost,
                Kind::Fenced.as_str(),
                "another instance took this run over; it was stopped here".to_owned(),
            ),
        };
        let proof = match cancel {
            None => "",
            Some(CancelOutcome::Ended) => "; its statement was cancelled, and the server confirmed that",
            Some(CancelOutcome::Terminated) => "; its statement ignored the cancel, and its session was terminated",
            Some(CancelOutcome::Unconfirmed) => {
                "; the server did not confirm that its statement ended: it may still run"
            }
        };
        Ending {
            state,
            reason: Some(reason.to_owned()),
            rows: 0,
            error: Some(format!("{why}{proof}")),
            detail: Null,
            warnings: Vec::new(),
        }
    }
}

/// How a task that was not cut off ended.
fn ended(outcome: Result<Result<Report, Error>, JoinError>) -> Ending {
    match outcome {
        Ok(Ok(report)) => done(report),
        Ok(Err(error)) => failed(&error),
        Err(join) if join.is_panic() => panicked(join.into_panic().as_ref()),
        Err(_) => failed(&Error::new(Kind::Cancelled, "the run's task was aborted")),
    }
}

fn done(report: Report) -> Ending {
    if let Some(error) = &report.failure {
        return Ending { rows: report.rows, detail: report.detail, warnings: report.warnings, ..failed(error) };
    }
    let (state, reason) = match (report.skipped, report.stopped) {
        (Some(reason), _) => (State::Skipped, Some(reason)),
        (None, true) => (State::Cancelled, Some("shutdown".to_owned())),
        (None, false) => (State::Succeeded, None),
    };
    Ending { state, reason, rows: report.rows, error: None, detail: report.detail, warnings: report.warnings }
}

fn failed(error: &Error) -> Ending {
    Ending {
        state: State::Failed,
        reason: Some(error.kind().as_str().to_owned()),
        rows: 0,
        error: Some(error.to_string()),
        detail: Null,
        warnings: Vec::new(),
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Ending {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Ending {
        state: State::Failed,
        reason: Some("panic".to_owned()),
        rows: 0,
        error: Some(format!("the job panicked: {text}; this is a defect of pgsteward")),
        detail: Null,
        warnings: Vec::new(),
    }
}

fn log(ending: &Ending, took: Duration) {
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (outcome, rows) = (ending.state.as_str(), ending.rows);
    let reason = ending.reason.as_deref().unwrap_or_default();
    match (&ending.error, ending.state) {
        (Some(error), State::Cancelled) => tracing::warn!(outcome, reason, took_ms, error, "job cancelled"),
        (Some(error), _) => tracing::error!(outcome, reason, took_ms, error, "job failed"),
        (None, State::Succeeded) => tracing::info!(outcome, took_ms, rows, "job done"),
        (None, _) => tracing::info!(outcome, reason, took_ms, rows, "job ended"),
    }
}
