//! The single funnel that every job goes through.
//!
//! ```text
//! permit ─► connection ─► task ─► deadline ─► proven cancel ─► outcome ─► metrics, log ─► row
//! ```
//! A run is a task of its own, so a panic is an outcome of that run. A run that passes its deadline
//! is dropped and its statement cancelled on the server; the outcome says whether the server
//! confirmed that. Nothing of this waits for another job.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{AbortHandle, JoinError};
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use crate::config::{Config, JobName};
use crate::db::{CancelOutcome, Database, Error, Kind, Purpose};
use crate::jobs::{self, Context, Report};
use crate::lifecycle::Tasks;
use crate::store::runs::{Ending, State};
use crate::telemetry::Metrics;

use super::Standing;
use super::ledger::Ledger;

/// How long a cancel may take to be confirmed.
const CANCEL_BOUND: Duration = Duration::from_secs(10);
/// How long a batch may go on after a shutdown was asked for.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Runs the jobs of one database.
pub struct Runner {
    pub db: Arc<Database>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub standing: Arc<Standing>,
    pub tasks: Tasks,
    running: Mutex<HashMap<Uuid, Running>>,
}

struct Running {
    job: JobName,
    epoch: i64,
    abort: AbortHandle,
    /// Set when the lease was lost: the outcome is no longer ours to decide.
    lost: bool,
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
        Arc::new(Runner { db, ledger, metrics, standing, tasks, running: Mutex::new(HashMap::new()) })
    }

    /// Runs and epochs under way here.
    pub fn running(&self) -> Vec<(Uuid, i64)> {
        self.lock().iter().map(|(id, run)| (*id, run.epoch)).collect()
    }

    /// How many jobs run here.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Whether this job runs here.
    pub fn is_running(&self, job: JobName) -> bool {
        self.lock().values().any(|run| run.job == job)
    }

    /// Stops a run whose lease another instance has taken: it must not write any more, and the
    /// fence in its transactions sees to that in any case.
    pub fn fence_off(&self, id: Uuid) {
        if let Some(run) = self.lock().get_mut(&id) {
            run.lost = true;
            run.abort.abort();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a claimed run and returns at once; the lane is given back when it has ended.
    pub fn start(self: &Arc<Self>, order: Order, lane: OwnedSemaphorePermit) {
        let runner = Arc::clone(self);
        let span = tracing::info_span!("job", database = self.db.name(), job = order.job.as_str(), run_id = %order.id);
        let run = async move {
            runner.run(order).await;
            drop(lane);
        };
        self.tasks.spawn("job", run.instrument(span));
    }

    async fn run(self: Arc<Self>, order: Order) {
        let (job, id, epoch, due_at) = (order.job, order.id, order.epoch, order.due_at);
        let labels = [self.db.name(), job.as_str()];
        let begun = Instant::now();
        let lag = (Utc::now() - due_at).to_std().unwrap_or_default();
        self.metrics.job_due_lag.with_label_values(&labels[..1]).observe(lag.as_secs_f64());
        self.metrics.job_running.with_label_values(&labels).set(1);

        let ending = self.attempt(order).await;

        let took = begun.elapsed();
        self.metrics.job_running.with_label_values(&labels).set(0);
        self.metrics.job_last_duration.with_label_values(&labels).set(took.as_secs_f64());
        self.metrics.job_runs.with_label_values(&[labels[0], labels[1], ending.state.as_str()]).inc();
        if ending.state == State::Succeeded {
            self.metrics.job_last_success.with_label_values(&labels).set(Utc::now().timestamp_millis() as f64 / 1000.0);
        }
        self.standing.update(job, |standing| standing.ended(ending.state, ending.error.clone(), Utc::now()));
        log(&ending, took);
        self.ledger.finish(job, id, epoch, ending).await;
        self.lock().remove(&id);
    }

    async fn attempt(self: &Arc<Self>, order: Order) -> Ending {
        let id = order.id;
        let timeout = order.config.jobs.builtin.get(&order.job).map_or(Duration::from_secs(60), |job| job.timeout);
        let deadline = Instant::now() + timeout;
        let conn = match self.db.acquire(Purpose::Job).await {
            Ok(conn) => conn,
            Err(error) => return failed(&error),
        };
        let canceller = conn.canceller();
        let (job, epoch) = (order.job, order.epoch);
        let work = self.tasks.spawn("job-work", work(Arc::clone(self), order, conn, deadline).in_current_span());
        self.lock().insert(id, Running { job, epoch, abort: work.abort_handle(), lost: false });

        let mut work = work;
        let stop = self.tasks.stopping();
        let cut = tokio::select! {
            outcome = &mut work => return self.ended(id, outcome),
            () = tokio::time::sleep_until(deadline) => Cut::Deadline(timeout),
            () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Cut::Shutdown,
        };
        work.abort();
        let outcome = work.await;
        if matches!(outcome, Ok(_)) {
            // It ended while it was being cut off.
            return self.ended(id, outcome);
        }
        cut.ending(canceller.cancel(CANCEL_BOUND).await)
    }

    fn ended(&self, id: Uuid, outcome: Result<Result<Report, Error>, JoinError>) -> Ending {
        match outcome {
            Ok(Ok(report)) => ended(report),
            Ok(Err(error)) => failed(&error),
            Err(join) if join.is_panic() => panicked(join.into_panic().as_ref()),
            Err(_) if self.lock().get(&id).is_some_and(|run| run.lost) => Ending {
                state: State::Lost,
                reason: Some(Kind::Fenced.as_str().to_owned()),
                error: Some("another instance took this run over; it was stopped here".to_owned()),
                rows: 0,
                detail: serde_json::Value::Null,
            },
            Err(_) => Ending {
                state: State::Cancelled,
                reason: Some("aborted".to_owned()),
                error: None,
                rows: 0,
                detail: serde_json::Value::Null,
            },
        }
    }

    /// Runs something that has no row in the ledger (a probe, a sample) under the same rules: a
    /// deadline, and a panic that ends nothing else. Returns whether it ended well.
    pub async fn unledgered<F>(self: &Arc<Self>, job: JobName, timeout: Duration, future: F) -> bool
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let labels = [self.db.name(), job.as_str()];
        let begun = Instant::now();
        let span = tracing::info_span!("job", database = self.db.name(), job = job.as_str());
        let work = self.tasks.spawn("job-work", future.instrument(span.clone()));
        let abort = work.abort_handle();
        let ending = match tokio::time::timeout(timeout, work).await {
            Ok(Ok(Ok(()))) => ended(Report::default()),
            Ok(Ok(Err(error))) => failed(&error),
            Ok(Err(join)) if join.is_panic() => panicked(join.into_panic().as_ref()),
            Ok(Err(_)) => failed(&Error::new(Kind::Cancelled, "aborted")),
            Err(_) => {
                // The statement's own time-out on the server is shorter than this.
                abort.abort();
                Cut::Deadline(timeout).ending(CancelOutcome::Unconfirmed)
            }
        };
        let took = begun.elapsed();
        self.metrics.job_last_duration.with_label_values(&labels).set(took.as_secs_f64());
        self.metrics.job_runs.with_label_values(&[labels[0], labels[1], ending.state.as_str()]).inc();
        let succeeded = ending.state == State::Succeeded;
        if succeeded {
            self.metrics.job_last_success.with_label_values(&labels).set(Utc::now().timestamp_millis() as f64 / 1000.0);
        }
        self.standing.update(job, |standing| standing.ended(ending.state, ending.error.clone(), Utc::now()));
        if !succeeded {
            span.in_scope(|| log(&ending, took));
        }
        succeeded
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
}

impl Cut {
    fn ending(&self, cancel: CancelOutcome) -> Ending {
        let proof = match cancel {
            CancelOutcome::Ended => "its statement was cancelled, and the server confirmed that",
            CancelOutcome::Terminated => "its statement ignored the cancel, and its session was terminated",
            CancelOutcome::Unconfirmed => "the server did not confirm that its statement ended: it may still run",
        };
        let (state, reason, why) = match self {
            Cut::Deadline(timeout) => {
                (State::TimedOut, "timeout", format!("over its timeout of {} s", timeout.as_secs()))
            }
            Cut::Shutdown => (State::Cancelled, "shutdown", "the daemon shut down".to_owned()),
        };
        Ending {
            state,
            reason: Some(reason.to_owned()),
            rows: 0,
            error: Some(format!("{why}; {proof}")),
            detail: serde_json::Value::Null,
        }
    }
}

fn ended(report: Report) -> Ending {
    if let Some(error) = &report.failure {
        return Ending { rows: report.rows, detail: report.detail, ..failed(error) };
    }
    let (state, reason) = match (report.skipped, report.stopped) {
        (Some(reason), _) => (State::Skipped, Some(reason)),
        (None, true) => (State::Cancelled, Some("shutdown".to_owned())),
        (None, false) => (State::Succeeded, None),
    };
    Ending { state, reason, rows: report.rows, error: None, detail: report.detail }
}

fn failed(error: &Error) -> Ending {
    Ending {
        state: State::Failed,
        reason: Some(error.kind().as_str().to_owned()),
        rows: 0,
        error: Some(error.to_string()),
        detail: serde_json::Value::Null,
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
        detail: serde_json::Value::Null,
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
