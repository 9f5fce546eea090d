//! The single funnel that every job goes through.
//!
//! ```text
//! place ─► [ connection ─► task ─► deadline ─► proven cancel ] ─► outcome ─► row ─► metrics, log
//!            └──── attempts, with backoff, for passing reasons ┘
//! ```
//! A run is a task of its own, so a panic is an outcome of that run. A run that passes its deadline,
//! loses its lease, is cancelled by somebody, or outstays a shutdown is cancelled on the server; where
//! the server does not confirm that, the job is put in quarantine until the process is gone. Nothing of
//! this waits for another job, and every wait ends.

mod ending;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::Utc;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use crate::config::{AfterFailure, Config, Job, JobName, Work};
use crate::db::retry::Backoff;
use crate::db::{CancelOutcome, Database, Error, JobConn, Kind};
use crate::jobs::{self, Context, Report};
use crate::lifecycle::Tasks;
use crate::sets::Manifest;
use crate::store::requests::RunOptions;
use crate::store::run_history::LastRun;
use crate::store::runs::{Backend, FinishedRun, RunResult, RunState};
use crate::telemetry::Metrics;

use self::ending::{Cut, at_deadline, done, ended, failed, is_passing, log, told_by_row};
use super::RuntimeStatus;
use super::ledger::{self, Ledger};
use super::worker_slots::WorkerSlot;

/// How the reason of a run begins that was permitted nothing.
const NOT_PERMITTED: &str = "not_permitted";
/// How long a cancel may take to be confirmed.
const CANCEL_BOUND: Duration = Duration::from_secs(8);
/// How long a batch may go on after a shutdown was asked for.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a job may take to end by itself once its statement was cancelled.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The first and the longest pause between two attempts.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// The longest pause before it is looked again whether the server is back.
const LOOK_AGAIN_MOST: Duration = Duration::from_secs(5);
/// By when a run has ended after a shutdown was asked for.
pub const STOP_BOUND: Duration =
    Duration::from_secs(CANCEL_BOUND.as_secs() + STOP_GRACE.as_secs() + 1);

/// Runs the jobs of one database.
pub struct Runner {
    pub db: Arc<Database>,
    pub ledger: Arc<Ledger>,
    pub metrics: Arc<Metrics>,
    pub standing: Arc<RuntimeStatus>,
    pub tasks: Tasks,
    running: Mutex<HashMap<Uuid, Running>>,
    slot_free: Notify,
    /// Jobs of which a run has ended since somebody asked.
    ended: Mutex<Vec<JobName>>,
}

struct Running {
    epoch: i64,
    /// Whether its work is over and only its end is still to be written.
    ending: bool,
    stops: Stops,
}

/// What cuts a run off from outside.
#[derive(Debug, Clone, Default)]
struct Stops {
    /// Cancelled when the lease was lost: the outcome is no longer ours to decide.
    lost: CancellationToken,
    /// Cancelled when somebody asked for it; by whom.
    asked: CancellationToken,
    by: Arc<OnceLock<String>>,
}

/// A claimed instant, ready to run.
pub struct ClaimedRun {
    pub job: JobName,
    /// Its configuration, as it was claimed.
    pub spec: Job,
    pub id: Uuid,
    pub epoch: i64,
    /// From when the run was to begin until now.
    pub lag: Duration,
    pub config: Arc<Config>,
    /// The bundled sets that are applied.
    pub sets: Vec<&'static Manifest>,
}

impl Runner {
    /// Nothing runs yet.
    pub fn new(
        db: Arc<Database>,
        ledger: Arc<Ledger>,
        metrics: Arc<Metrics>,
        standing: Arc<RuntimeStatus>,
        tasks: Tasks,
    ) -> Arc<Runner> {
        Arc::new(Runner {
            db,
            ledger,
            metrics,
            standing,
            tasks,
            running: Mutex::new(HashMap::new()),
            slot_free: Notify::new(),
            ended: Mutex::default(),
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
        working.inspect(|run| run.stops.lost.cancel()).is_some()
    }

    /// Cancels a run, as somebody asked for. Nothing where it does not run here.
    pub fn cancel(&self, id: Uuid, by: &str) {
        if let Some(run) = self.lock().get(&id) {
            // The first who asks is told of.
            let _ = run.stops.by.set(by.to_owned());
            run.stops.asked.cancel();
        }
    }

    /// Extends the leases of what runs here, hears who wants it cancelled, and stops what is no longer
    /// ours. To be called three times within the length of a lease.
    pub async fn keep_leases(&self) -> Result<(), Error> {
        let running = self.running();
        if running.is_empty() {
            return Ok(());
        }
        let ours = self.ledger.renew(&running).await?;
        for run in &ours {
            if let Some(by) = &run.cancel_by {
                self.cancel(run.id, by);
            }
        }
        for (id, _) in running.iter().filter(|(id, _)| !ours.iter().any(|run| run.id == *id)) {
            if self.fence_off(*id) {
                tracing::info!(database = self.db.name(), run_id = %id, "this run is not leased to us any more; stopping it");
            }
        }
        let progress: Vec<_> = running
            .iter()
            .filter_map(|(id, epoch)| Some((*id, *epoch, self.standing.progress.take_news(*id)?)))
            .collect();
        if progress.is_empty() { Ok(()) } else { self.ledger.save_progress(&progress).await }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a run has ended and its slot is free for what waits for one. For one waiter.
    pub async fn slot_free(&self) {
        self.slot_free.notified().await;
    }

    /// The jobs of which a run has ended since this was last asked; for one asker.
    pub fn take_ended(&self) -> Vec<JobName> {
        std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a claimed run and returns at once; the slot is given back when it has ended.
    pub fn start(self: &Arc<Self>, order: ClaimedRun, slot: WorkerSlot) {
        let runner = Arc::clone(self);
        let span = tracing::error_span!("job", database = self.db.name(), job = order.job.as_str(), run_id = %order.id);
        let run = async move {
            let job = order.job.clone();
            Arc::clone(&runner).run(order).await;
            runner.ended.lock().unwrap_or_else(PoisonError::into_inner).push(job);
            drop(slot);
            runner.slot_free.notify_one();
        };
        self.tasks.spawn("job", run.instrument(span));
    }

    async fn run(self: Arc<Self>, order: ClaimedRun) {
        let (job, id, epoch) = (order.job.clone(), order.id, order.epoch);
        let on_failure = order.spec.on_failure;
        let begun = Instant::now();
        self.metrics
            .job_start_delay_seconds
            .with_label_values(&[self.db.name()])
            .observe(order.lag.as_secs_f64());
        let place = Place::take(&self, &job, id, epoch);

        let (mut ending, recorded) = self.attempts(order, &place.stops).await;

        place.work_is_over();
        if recorded {
            self.ledger.wrote(2);
        }
        let stands = if recorded {
            ledger::FinishResult::Written
        } else if ending.state == RunState::Lost {
            // It has been ended by who took it over, or by its own commit, of which nobody heard.
            self.ledger.look(&job, id).await
        } else {
            let pause = on_failure == AfterFailure::Pause
                && matches!(ending.state, RunState::Failed | RunState::TimedOut);
            self.ledger
                .finish(FinishedRun {
                    job: job.clone(),
                    id,
                    epoch,
                    result: ending.clone(),
                    pause_job: pause,
                })
                .await
        };
        if let ledger::FinishResult::Other(state) = stands {
            ending = told_by_row(ending, state.as_deref());
        }
        self.record(&job, &ending, begun.elapsed(), on_failure);
        let news = ending.state != RunState::Succeeded
            || self.standing.is_news(&job, RunState::Succeeded.as_str());
        log(&ending, begun.elapsed(), news);
    }

    /// Tries until it ends otherwise than for a passing reason, as often as the job may. What finds no
    /// server is no attempt, where there may be more than one: a restart may take longer than all of them.
    /// Returns also whether the end is written already.
    async fn attempts(self: &Arc<Self>, order: ClaimedRun, stops: &Stops) -> (RunResult, bool) {
        let timeout = order.spec.timeout;
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let order = Arc::new(order);
        let mut attempt = 1;
        let mut failed_before: Option<String> = None;
        loop {
            let Tried { mut ending, recorded, began } =
                self.attempt(&order, attempt, deadline, stops).await;
            ending.attempts = i32::try_from(attempt).unwrap_or(i32::MAX);
            let pause = if began {
                backoff.next_delay()
            } else {
                backoff.next_delay().min(LOOK_AGAIN_MOST)
            };
            let more = attempt <= order.spec.retries || (!began && order.spec.retries > 0);
            if !(more && is_passing(&ending) && Instant::now() + pause < deadline) {
                return (ending.after(failed_before), recorded);
            }
            if began {
                tracing::warn!(
                    attempt,
                    reason = ending.reason,
                    error = ending.error,
                    "attempt failed; trying again in {:.1} s",
                    pause.as_secs_f64()
                );
                failed_before = ending.error.take();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                cut = self.cut(deadline, timeout, stops) => {
                    let told = cut.ending(None).after(failed_before);
                    return (RunResult { attempts: ending.attempts, fenced: ending.fenced, ..told }, false);
                }
            }
            // After an outage the lease may have passed without anybody taking the run over: then it is still
            // ours to renew. Without an answer the attempt will meet the same.
            if let Err(error) = self.keep_leases().await {
                tracing::debug!(error = %error, "the lease was not renewed before the next attempt");
            }
            if began {
                self.metrics
                    .job_retries_total
                    .with_label_values(&[self.db.name(), order.job.as_str()])
                    .inc();
                attempt += 1;
            }
        }
    }

    /// Resolves when the run is to be cut off.
    async fn cut(&self, deadline: Instant, timeout: Duration, stops: &Stops) -> Cut {
        let stop = self.tasks.stopping();
        tokio::select! {
            () = stops.lost.cancelled() => Cut::Lost,
            () = stops.asked.cancelled() => Cut::Asked(stops.by.get().cloned().unwrap_or_default()),
            () = tokio::time::sleep_until(deadline) => Cut::Deadline(timeout),
            () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Cut::Shutdown,
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        order: &Arc<ClaimedRun>,
        attempt: u32,
        deadline: Instant,
        stops: &Stops,
    ) -> Tried {
        let mut cut = std::pin::pin!(self.cut(deadline, order.spec.timeout, stops));
        let login = match &order.spec.work {
            Work::Sql(work) => work.login.as_ref(),
            Work::Builtin(_) => None,
        };
        let conn = tokio::select! {
            conn = self.db.acquire_job(login, order.job.as_str()) => conn,
            cut = &mut cut => return Tried::in_vain(cut.ending(None)),
        };
        let conn = match conn {
            Ok(conn) => conn,
            Err(error) => return Tried::in_vain(failed(&error)),
        };
        let canceller = conn.canceller();
        let process = conn.process().map(|(pid, start_us)| Backend { pid, start_us });
        let work =
            work(Arc::clone(self), Arc::clone(order), attempt, conn, deadline).in_current_span();
        let mut work = self.tasks.spawn("job-work", work);
        let cut = tokio::select! {
            outcome = &mut work => return Tried::ended(at_deadline(ended(outcome), deadline, order.spec.timeout)),
            cut = &mut cut => cut,
        };
        // First the cancel: a connection that is closed while it works proves nothing any more.
        let proof = canceller.cancel(CANCEL_BOUND).await;
        // What was cancelled may still tell how far it came.
        let outcome = match tokio::time::timeout(LAST_WORDS, &mut work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                work.abort();
                work.await
            }
        };
        let mut ending = cut.ending(Some(proof));
        match outcome {
            // It ended while it was being cut off.
            Ok(Ok(report)) if report.failure.is_none() => return Tried::ended(done(report)),
            Ok(Ok(Report { failure, detail, rows, .. })) => {
                let how_far = failure.map(|error| format!("; {error}")).unwrap_or_default();
                ending.error = ending.error.map(|error| format!("{error}{how_far}"));
                ending = RunResult { rows, detail, ..ending };
            }
            _ => {}
        }
        ending.quarantine = process.filter(|_| proof == CancelOutcome::Unconfirmed);
        Tried::ended((ending, false))
    }

    /// What was known of a job before this instance came to observe.
    pub fn recall(&self, job: &JobName, spec: &Job, last: LastRun) {
        if let Some(at) = last.last_success_at {
            let gauge = &self.metrics.job_last_success_timestamp_seconds;
            gauge
                .with_label_values(&[self.db.name(), job.as_str()])
                .set(super::dispatcher::seconds(at));
        }
        self.standing.update(job, |standing| {
            standing.last_success_at = last.last_success_at;
            standing.last_finished_at = Some(last.finished_at);
            standing.failures = u32::try_from(last.failures).unwrap_or(u32::MAX);
            standing.last_error = (standing.failures > 0).then_some(last.error).flatten();
            standing.ignored = spec.on_failure == AfterFailure::Ignore;
        });
    }

    /// A run whose end could not be written turns out, by its row, to have succeeded.
    pub fn amend(&self, job: &JobName) {
        let labels = [self.db.name(), job.as_str(), RunState::Succeeded.as_str()];
        self.metrics.job_runs_total.with_label_values(&labels).inc();
        self.standing.update(job, |standing| standing.ended(RunState::Succeeded, None, Utc::now()));
    }

    /// What is known of the run, for metrics and answers.
    fn record(&self, job: &JobName, ending: &RunResult, took: Duration, on_failure: AfterFailure) {
        let labels = [self.db.name(), job.as_str()];
        let now = Utc::now();
        self.metrics.job_last_duration_seconds.with_label_values(&labels).set(took.as_secs_f64());
        self.metrics
            .job_runs_total
            .with_label_values(&[labels[0], labels[1], ending.state.as_str()])
            .inc();
        if ending.state == RunState::Succeeded {
            self.metrics
                .job_last_success_timestamp_seconds
                .with_label_values(&labels)
                .set(super::dispatcher::seconds(now));
        }
        if ending.state == RunState::Lost {
            self.metrics.job_leases_lost_total.with_label_values(&labels[..1]).inc();
        }
        if ending.reason.as_deref() == Some(Kind::Fenced.as_str()) {
            self.metrics.job_commits_refused_total.with_label_values(&labels[..1]).inc();
        }
        let not_permitted =
            ending.reason.as_deref().filter(|reason| reason.starts_with(NOT_PERMITTED));
        self.standing.update(job, |standing| {
            standing.ended(ending.state, ending.error.clone(), now);
            standing.ignored = on_failure == AfterFailure::Ignore;
            // Said when it is new, not at each run.
            if standing.limited(&ending.warnings, not_permitted) {
                for warning in ending.warnings.iter().map(String::as_str).chain(not_permitted) {
                    tracing::warn!(
                        database = labels[0],
                        job = labels[1],
                        warning,
                        "the job cannot do all it should"
                    );
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
            Ok(outcome) => ended(outcome.map(|ended| ended.map(|()| Report::default()))).0,
            Err(_) => {
                // The statement's own time-out on the server is shorter than this.
                work.abort();
                Cut::Deadline(timeout).ending(None)
            }
        };
        self.record(&job, &ending, begun.elapsed(), AfterFailure::Report);
        let succeeded = ending.state == RunState::Succeeded;
        if !succeeded {
            span.in_scope(|| log(&ending, begun.elapsed(), true));
        }
        succeeded
    }
}

/// What an attempt came to.
struct Tried {
    ending: RunResult,
    /// Whether the end is written already, with the effect.
    recorded: bool,
    /// Whether there was a connection to work with.
    began: bool,
}

impl Tried {
    fn in_vain(ending: RunResult) -> Tried {
        Tried { ending, recorded: false, began: false }
    }

    fn ended((ending, recorded): (RunResult, bool)) -> Tried {
        Tried { ending, recorded, began: true }
    }
}

/// A run's entry among those that run here, from before it has a connection until its end is
/// written: for as long its lease is renewed. Gone also when the run panics.
struct Place<'a> {
    runner: &'a Runner,
    job: JobName,
    id: Uuid,
    stops: Stops,
}

impl Place<'_> {
    fn take<'a>(runner: &'a Runner, job: &JobName, id: Uuid, epoch: i64) -> Place<'a> {
        let stops = Stops::default();
        runner.lock().insert(id, Running { epoch, ending: false, stops: stops.clone() });
        runner.standing.progress.begin(id);
        runner.metrics.job_running.with_label_values(&[runner.db.name(), job.as_str()]).set(1);
        Place { runner, job: job.clone(), id, stops }
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
        self.runner.standing.progress.end(self.id);
        self.runner
            .metrics
            .job_running
            .with_label_values(&[self.runner.db.name(), self.job.as_str()])
            .set(0);
    }
}

async fn work(
    runner: Arc<Runner>,
    order: Arc<ClaimedRun>,
    attempt: u32,
    mut conn: JobConn,
    deadline: Instant,
) -> Result<Report, Error> {
    let process = conn.process().map(|(pid, start_us)| Backend { pid, start_us });
    let mut context = Context {
        db: &runner.db,
        config: &order.config,
        metrics: &runner.metrics,
        conn: &mut conn,
        run_id: order.id,
        epoch: order.epoch,
        deadline,
        stop: runner.tasks.stopping(),
        sets: &order.sets,
        job: &order.job,
        spec: &order.spec,
        unfenced: false,
        attempt,
        progress: &runner.standing.progress,
        options: RunOptions::default(),
    };
    let outcome = jobs::run(&mut context).await;
    let unfenced = context.unfenced;
    match outcome {
        // What was not in a transaction of ours may go on without us; it may not be begun again beside it.
        Err(error) if unfenced && error.kind() == Kind::ConnectionLost => {
            Ok(Report { failure: Some(error), may_still_run: process, ..Report::default() })
        }
        outcome => outcome,
    }
}
