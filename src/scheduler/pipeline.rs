//! One database's round: woken each second, it looks what is to be done and starts it.
//!
//! ```text
//! connect (backoff, for ever) ─► schema (a task) ─► lease ─┬─► observer: measure, reap, claim, run
//!                                                          └─► standby:  own connectivity only
//! ```
//! A round never waits for a job, a migration or a measurement: those are tasks. What it does itself
//! (the lease, the ledger) is bounded call by call, and the first error ends the round and backs off,
//! so the round always comes round again: that is what the watchdog and `/livez` watch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::{Notify, mpsc, watch};

use crate::config::{Config, JobName};
use crate::db::retry::Backoff;
use crate::db::{Database, Error, Kind, Purpose};
use crate::health::{Board, Readiness};
use crate::lifecycle::Tasks;
use crate::sets;
use crate::store::leases::Lease;
use crate::store::runs::RunState;
use crate::telemetry::Metrics;

use super::audit_watch::Trail;
use super::dispatcher::{DispatchContext, Dispatcher, seconds};
use super::ledger::{self, Ledger};
use super::measure::{Measurements, MonitorContext};
use super::pause::{Pause, Paused};
use super::pending_audit::{AuditNotice, PendingAudit};
use super::role::Role;
use super::runner::{self, Runner};
use super::schema::{Progress, Schema};
use super::{LeadershipStatus, RuntimeStatus};

/// A lease is believed for so much less than it was given.
const TRUST_MARGIN: Duration = Duration::from_secs(1);
/// Between two rounds that nothing else asked for.
const IDLE_LEAST: Duration = Duration::from_millis(5);
const IDLE_MOST: Duration = Duration::from_secs(1);
/// How long a stop may take to write what is left to be written.
const FLUSH_BOUND: Duration = Duration::from_secs(5);
/// By when a pipeline has ended after it was told to.
pub const STOP_BOUND: Duration =
    Duration::from_secs(runner::STOP_BOUND.as_secs() + FLUSH_BOUND.as_secs() + 1);

/// Everything that a pipeline is given.
pub struct PipelineDeps {
    pub db: Arc<Database>,
    pub config: watch::Receiver<Arc<Config>>,
    /// What the process tells, for the audit trail.
    pub notices: mpsc::Receiver<AuditNotice>,
    /// What callers ask of this pipeline itself.
    pub commands: mpsc::Receiver<PipelineCommand>,
    pub board: Arc<Board>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    pub standing: Arc<RuntimeStatus>,
    pub tasks: Tasks,
    /// Each second.
    pub wake: Arc<Notify>,
    /// This process's name in rows and leases.
    pub instance: String,
    /// Told when the process is to end because migrating failed and `on_failure` says so.
    pub fatal: mpsc::Sender<String>,
}

/// What a caller asks of a pipeline; what is asked of jobs goes through the ledger.
#[derive(Debug)]
pub enum PipelineCommand {
    /// Apply what is pending. Who asks, and how it ends, stands in [`RuntimeStatus::migrations`].
    Migrate,
}

/// The loop over one database.
pub struct Pipeline {
    deps: PipelineDeps,
    config: Arc<Config>,
    ledger: Arc<Ledger>,
    runner: Arc<Runner>,
    dispatcher: Dispatcher,
    measurements: Measurements,
    schema: Schema,
    trail: Trail,
    notices: PendingAudit,
    connected: bool,
    role: Role,
    pause: Pause,
    backoff: Backoff,
    not_before: Instant,
    renew_at: Instant,
    /// The kind of error that the log has told of; the same again is told at debug level.
    told: Option<Kind>,
}

impl Pipeline {
    /// Nothing is opened yet.
    pub fn new(deps: PipelineDeps) -> Pipeline {
        let config = Arc::clone(&deps.config.borrow());
        let ledger = Arc::new(Ledger::new(
            Arc::clone(&deps.db),
            deps.instance.clone(),
            config.jobs.lease,
            Arc::clone(&deps.metrics),
        ));
        let runner = Runner::new(
            Arc::clone(&deps.db),
            Arc::clone(&ledger),
            Arc::clone(&deps.metrics),
            Arc::clone(&deps.standing),
            deps.tasks.clone(),
        );
        let schema = Schema::new(
            Arc::clone(&deps.db),
            Arc::clone(&deps.metrics),
            Arc::clone(&deps.readiness),
            deps.tasks.clone(),
            deps.fatal.clone(),
            Arc::clone(&deps.standing),
            &deps.instance,
        );
        let now = Instant::now();
        Pipeline {
            dispatcher: Dispatcher::new(Arc::clone(&runner), config.jobs.max_concurrent),
            measurements: Measurements::new(Arc::clone(&deps.board), Arc::clone(&runner), &config),
            schema,
            trail: Trail::default(),
            notices: PendingAudit::default(),
            ledger,
            runner,
            connected: false,
            role: Role::Unknown,
            pause: Pause::default(),
            backoff: Backoff::connect(),
            not_before: now,
            renew_at: now,
            told: None,
            config,
            deps,
        }
    }

    fn target(&self) -> &str {
        self.deps.db.name()
    }

    /// Goes round until the process stops.
    pub async fn run(mut self) {
        let stop = self.deps.tasks.stopping();
        let wake = Arc::clone(&self.deps.wake);
        while !stop.is_cancelled() {
            self.deps.readiness.beat(self.target(), Instant::now());
            self.deps
                .metrics
                .pipeline_last_iteration_timestamp_seconds
                .with_label_values(&[self.target()])
                .set(seconds(Utc::now()));
            self.deps.db.export();
            self.round().await;
            let idle = self.idle();
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified() => {}
                () = self.schema.ended() => {}
                () = self.runner.slot_free() => {}
                () = tokio::time::sleep(idle) => {}
                Ok(()) = self.deps.config.changed() => self.reload(),
                Some(notice) = self.deps.notices.recv() => self.tell(&notice),
                Some(PipelineCommand::Migrate) = self.deps.commands.recv() => self.schema.once_more(),
            }
        }
        self.stop().await;
    }

    /// Until something is due, or somebody may have asked for something. The wake-up of each second
    /// comes beside it, and goes by the wall clock.
    fn idle(&self) -> Duration {
        if !self.role.is_leader() || Instant::now() < self.not_before {
            return Duration::from_secs(1);
        }
        let heard =
            self.dispatcher.listens_at().map(|at| at.saturating_duration_since(Instant::now()));
        [self.dispatcher.idle_for(), heard]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(IDLE_MOST)
            .clamp(IDLE_LEAST, IDLE_MOST)
    }

    /// Takes in a new configuration: schedules, thresholds, retention; a failed migration is tried
    /// again. What a process cannot change while it runs (addresses, pool sizes) stays.
    fn reload(&mut self) {
        self.config = Arc::clone(&self.deps.config.borrow_and_update());
        self.dispatcher.forget();
        self.measurements.at_once();
        self.schema.again();
    }

    /// A row of the audit trail, written as soon as it can be.
    fn tell(&mut self, notice: &AuditNotice) {
        let urgent = notice.is_urgent();
        let (at, instance) = (self.measurements.now(), self.ledger.instance());
        self.notices.take(notice, at, instance, self.deps.db.name());
        if urgent {
            self.renew_at = Instant::now();
        }
    }

    fn leadership_status(&self) -> LeadershipStatus {
        let holder = match &self.role {
            Role::Standby { holder } => Some(holder.clone()),
            _ => None,
        };
        LeadershipStatus {
            observer: self.role.is_leader(),
            holder,
            paused: self.pause.paused().cloned(),
        }
    }

    async fn round(&mut self) {
        self.expire_unrenewed_lease();
        self.pause.settle(&self.config, self.deps.db.name(), &self.deps.metrics);
        self.deps.standing.set_role(self.leadership_status());
        self.measure();
        if self.schema.look(&self.config) == Progress::BecameReady {
            // The lease can be had now, and there is more to be judged.
            self.renew_at = Instant::now();
            self.measurements.at_once();
        }
        if Instant::now() < self.not_before {
            return;
        }
        match self.advance().await {
            Ok(()) => {
                self.backoff.reset();
                self.told = None;
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &Error) {
        self.not_before = Instant::now() + self.backoff.next_delay();
        if !self.connected {
            self.deps.readiness.connect_failed(self.target(), error.kind().as_str());
        }
        let (target, kind) = (self.deps.db.name(), error.kind());
        if self.told.replace(kind) == Some(kind) {
            tracing::debug!(database = target, kind = kind.as_str(), error = %error, "still failing");
        } else {
            tracing::warn!(database = target, kind = kind.as_str(), error = %error,
                "cannot work with the database; trying again for as long as it takes");
        }
    }

    /// Everything that needs an answer of the database, in order; the first error ends it.
    async fn advance(&mut self) -> Result<(), Error> {
        if !self.connected {
            self.ledger.reach().await?;
            self.connected = true;
            self.deps.readiness.connected(self.target());
            tracing::info!(database = self.target(), "connected");
        }
        if !self.schema.check_trust(&self.config, &self.ledger).await? {
            self.become_role(Role::Alone);
            return Ok(());
        }
        self.schema.start(&self.config);
        if Instant::now() >= self.renew_at {
            self.renew_leases().await?;
        }
        if self.role.is_leader()
            && let Some(migrated) = self.schema.ready()
        {
            let (sets, paused, until) = (&migrated.sets, self.pause.is_here(), self.renew_at);
            self.dispatcher
                .fire_due(DispatchContext { config: &self.config, sets, paused, until })
                .await?;
        }
        Ok(())
    }

    /// The lease, and what hangs on it: three times within its length.
    async fn renew_leases(&mut self) -> Result<(), Error> {
        let lease = self.ledger.lease();
        let asked = Instant::now();
        let answer = self.ledger.acquire_leadership().await.map(|answer| {
            self.dispatcher.set_clock(answer.clock);
            self.measurements.set_clock(answer.clock);
            answer.lease
        });
        let (role, again) = match answer {
            Ok(Lease::Held { epoch }) => {
                // Counted from before it was asked for.
                (Role::Leader { epoch, until: asked + lease - TRUST_MARGIN }, lease / 3)
            }
            // When the holder is gone, its place is taken as soon as its time is up.
            Ok(Lease::Other { holder, left }) => (Role::Standby { holder }, left.min(lease / 3)),
            Err(error) if is_missing_schema(&error) => (Role::Alone, lease / 3),
            Err(error) => return Err(error),
        };
        self.become_role(role);
        if self.role != Role::Alone {
            // Also by who observed until now: its runs go on until they have ended.
            self.flush().await?;
            self.runner.keep_leases().await?;
            self.pause.set_flag(self.ledger.paused().await?.map(Paused::from));
        }
        if self.role.writes()
            && self.schema.ready().is_some()
            && let Err(error) = self.notices.write(&self.ledger).await
        {
            tracing::debug!(database = self.target(), error = %error, "notices wait to be recorded in the audit trail");
        }
        if self.role.is_leader() {
            self.reap().await?;
            let look = self.trail.look(&self.ledger, &self.deps.metrics, self.deps.db.name());
            // What cannot be read is no reason to stop working.
            if let Err(error) = look.await {
                tracing::debug!(database = self.target(), error = %error, "the audit trail was not looked at");
            }
        }
        self.renew_at = asked + again;
        Ok(())
    }

    /// Without an answer, the lease is believed only until its time is up.
    fn expire_unrenewed_lease(&mut self) {
        if let Role::Leader { until, .. } = self.role
            && Instant::now() >= until
        {
            tracing::warn!(
                database = self.target(),
                "the observer's lease could not be renewed in time; observing no more until it can"
            );
            self.become_role(Role::Unknown);
        }
    }

    fn become_role(&mut self, role: Role) {
        let (was, is) = (self.role.is_leader(), role.is_leader());
        let target = self.deps.db.name();
        self.deps.metrics.leader.with_label_values(&[target]).set(i64::from(is));
        match &role {
            Role::Leader { epoch, .. } if !was => {
                tracing::info!(
                    database = target,
                    instance = self.deps.instance,
                    epoch,
                    "this instance observes the database"
                );
                self.dispatcher.take_over();
            }
            Role::Standby { holder } if self.role != role => {
                tracing::info!(
                    database = target,
                    observer = holder,
                    "another instance observes the database"
                );
            }
            // Before the first migration there are none to be expected.
            Role::Alone if self.role != role && self.schema.standing().is_some() => {
                tracing::warn!(
                    database = target,
                    "pgsteward's own tables cannot be used: measuring without a lease, writing nothing"
                );
            }
            _ => {}
        }
        if was && !is {
            self.dispatcher.forget();
            // An error says that there was no such series.
            self.deps.metrics.remove_audit(target);
            self.trail.forget();
            let _ = self.deps.metrics.jobs_quarantined.remove_label_values(&[target]);
        }
        if matches!(role, Role::Standby { .. }) {
            // One connection is what an instance that does not observe may hold.
            for purpose in [Purpose::Observe, Purpose::Job] {
                self.deps.db.close_idle(purpose);
            }
        }
        if self.role.looks() != role.looks() {
            self.measurements.at_once();
        }
        self.role = role;
    }

    /// Writes the endings that wait for the database.
    async fn flush(&mut self) -> Result<(), Error> {
        for (job, state) in self.ledger.flush().await? {
            if state == ledger::FinishResult::Other(Some(RunState::Succeeded.as_str().to_owned())) {
                self.runner.amend(&job);
            }
        }
        Ok(())
    }

    async fn reap(&mut self) -> Result<(), Error> {
        for orphan in self.ledger.reap().await? {
            tracing::warn!(database = self.target(), job = orphan.job, run_id = %orphan.id, instance = orphan.instance,
                "a run stopped renewing its lease; recorded as lost");
            self.deps
                .metrics
                .job_runs_total
                .with_label_values(&[self.target(), &orphan.job, RunState::Lost.as_str()])
                .inc();
            let error = Some(format!(
                "instance {} stopped renewing the lease of run {}",
                orphan.instance, orphan.id
            ));
            let job = JobName::new(&orphan.job);
            self.deps
                .standing
                .update(&job, |standing| standing.ended(RunState::Lost, error, Utc::now()));
        }
        let mended = self.ledger.mend().await?;
        if mended > 0 {
            tracing::warn!(
                database = self.target(),
                jobs = mended,
                "rows of the ledger were changed by hand; slots mended"
            );
        }
        let (released, waiting) = self.ledger.release_quarantined().await?;
        for job in released {
            tracing::info!(
                database = self.target(),
                job,
                "the server process of the former run is gone; the job may run again"
            );
        }
        // Of those whose transaction is still open the row could not even be ended.
        let waiting = waiting.len() + self.ledger.unwritten();
        self.deps.metrics.jobs_quarantined.with_label_values(&[self.target()]).set(waiting as i64);
        Ok(())
    }

    /// Starts the measurements that are due; they never make a round wait.
    fn measure(&mut self) {
        let context = self.context();
        self.measurements.tick(&self.config, &context, Utc::now());
    }

    fn context(&self) -> MonitorContext {
        let migrated = self.schema.ready();
        MonitorContext {
            observing: self.role.looks(),
            writable: migrated.is_some() && self.role.writes(),
            keeps: self.role != Role::Alone,
            sets: migrated.map_or_else(|| sets::applied(&[]), |migrated| migrated.sets.clone()),
            schema: self.schema.standing(),
            paused: self.pause.by().map(str::to_owned),
            audit: self.trail.standing(),
        }
    }

    /// Waits for what the token has told to end, writes or keeps what was measured, then leaves the lease to
    /// the next instance.
    async fn stop(&mut self) {
        self.deps.readiness.retire(self.target());
        let bound = Instant::now() + runner::STOP_BOUND;
        while (self.runner.count() > 0 || self.schema.is_migrating()) && Instant::now() < bound {
            self.renew_while_draining(bound).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.schema.abandon();
        let context = self.context();
        let flush_on_stop = async {
            self.measurements.stop(&context).await;
            self.ledger.flush().await?;
            if self.role.writes() {
                self.notices.write(&self.ledger).await?;
            }
            if self.role.is_leader() { self.ledger.release_leadership().await } else { Ok(()) }
        };
        match tokio::time::timeout(FLUSH_BOUND, flush_on_stop).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(database = self.target(), error = %error, "the lease ends by itself");
            }
            Err(_) => {
                tracing::debug!(database = self.target(), "no answer; the lease ends by itself");
            }
        }
    }

    /// While runs end: their leases may not, or another instance would record them as lost.
    async fn renew_while_draining(&mut self, bound: Instant) {
        if Instant::now() < self.renew_at {
            return;
        }
        self.renew_at = Instant::now() + self.ledger.lease() / 3;
        let renew = async {
            if self.role.is_leader() {
                self.ledger.acquire_leadership().await?;
            }
            self.runner.keep_leases().await
        };
        if let Ok(Err(error)) = tokio::time::timeout_at(bound.into(), renew).await {
            tracing::debug!(database = self.target(), error = %error, "the leases were not renewed while stopping");
        }
    }
}

/// Undefined table, undefined schema, or no privilege on either.
fn is_missing_schema(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| matches!(state.code(), "42P01" | "3F000" | "42501"))
}
