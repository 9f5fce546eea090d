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
use crate::store::leases::Lease;
use crate::store::runs::State;
use crate::telemetry::Metrics;

use super::dispatcher::{Conditions, Dispatcher, seconds};
use super::ledger::{self, Ledger};
use super::measure::{Measurements, Surroundings};
use super::notices::{Notice, Notices};
use super::pause::{Pause, Paused};
use super::role::Role;
use super::runner::{self, Runner};
use super::schema::{Progress, Schema};
use super::trail::Trail;
use super::{RoleStanding, Standing};

/// A lease is believed for so much less than it was given.
const TRUST_MARGIN: Duration = Duration::from_secs(1);
/// Between two rounds that nothing else asked for.
const IDLE_LEAST: Duration = Duration::from_millis(5);
const IDLE_MOST: Duration = Duration::from_secs(1);
/// How long a stop may take to write what is left to be written.
const LAST_WORDS_BOUND: Duration = Duration::from_secs(5);
/// By when a pipeline has ended after it was told to.
pub const STOP_BOUND: Duration =
    Duration::from_secs(runner::STOP_BOUND.as_secs() + LAST_WORDS_BOUND.as_secs() + 1);

/// Everything that a pipeline is given.
pub struct Parts {
    pub db: Arc<Database>,
    pub config: watch::Receiver<Arc<Config>>,
    /// What the process tells, for the audit trail.
    pub notices: mpsc::Receiver<Notice>,
    /// What callers ask of this pipeline itself.
    pub errands: mpsc::Receiver<Errand>,
    pub board: Arc<Board>,
    pub readiness: Arc<Readiness>,
    pub metrics: Arc<Metrics>,
    pub standing: Arc<Standing>,
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
pub enum Errand {
    /// Apply what is pending. Who asks, and how it ends, stands in [`Standing::migrations`].
    Migrate,
}

/// The loop over one database.
pub struct Pipeline {
    parts: Parts,
    config: Arc<Config>,
    ledger: Arc<Ledger>,
    runner: Arc<Runner>,
    dispatcher: Dispatcher,
    measurements: Measurements,
    schema: Schema,
    trail: Trail,
    notices: Notices,
    connected: bool,
    role: Role,
    pause: Pause,
    backoff: Backoff,
    not_before: Instant,
    upkeep_at: Instant,
    /// The kind of error that the log has told of; the same again is told at debug level.
    told: Option<Kind>,
}

impl Pipeline {
    /// Nothing is opened yet.
    pub fn new(parts: Parts) -> Pipeline {
        let config = Arc::clone(&parts.config.borrow());
        let ledger = Arc::new(Ledger::new(
            Arc::clone(&parts.db),
            parts.instance.clone(),
            config.jobs.lease,
            Arc::clone(&parts.metrics),
        ));
        let runner = Runner::new(
            Arc::clone(&parts.db),
            Arc::clone(&ledger),
            Arc::clone(&parts.metrics),
            Arc::clone(&parts.standing),
            parts.tasks.clone(),
        );
        let schema = Schema::new(
            Arc::clone(&parts.db),
            Arc::clone(&parts.metrics),
            Arc::clone(&parts.readiness),
            parts.tasks.clone(),
            parts.fatal.clone(),
            Arc::clone(&parts.standing),
            &parts.instance,
        );
        let now = Instant::now();
        Pipeline {
            dispatcher: Dispatcher::new(Arc::clone(&runner), config.jobs.max_concurrent),
            measurements: Measurements::new(Arc::clone(&parts.board), Arc::clone(&runner), &config),
            schema,
            trail: Trail::default(),
            notices: Notices::default(),
            ledger,
            runner,
            connected: false,
            role: Role::Unknown,
            pause: Pause::default(),
            backoff: Backoff::connect(),
            not_before: now,
            upkeep_at: now,
            told: None,
            config,
            parts,
        }
    }

    fn target(&self) -> &str {
        self.parts.db.name()
    }

    /// Goes round until the process stops.
    pub async fn run(mut self) {
        let stop = self.parts.tasks.stopping();
        let wake = Arc::clone(&self.parts.wake);
        while !stop.is_cancelled() {
            self.parts.readiness.beat(self.target(), Instant::now());
            self.parts
                .metrics
                .pipeline_last_iteration_timestamp_seconds
                .with_label_values(&[self.target()])
                .set(seconds(Utc::now()));
            self.parts.db.export();
            self.round().await;
            let idle = self.idle();
            tokio::select! {
                () = stop.cancelled() => {}
                () = wake.notified() => {}
                () = self.schema.ended() => {}
                () = self.runner.lane_free() => {}
                () = tokio::time::sleep(idle) => {}
                Ok(()) = self.parts.config.changed() => self.reload(),
                Some(notice) = self.parts.notices.recv() => self.tell(&notice),
                Some(Errand::Migrate) = self.parts.errands.recv() => self.schema.once_more(),
            }
        }
        self.stop().await;
    }

    /// Until something is due, or somebody may have asked for something. The wake-up of each second
    /// comes beside it, and goes by the wall clock.
    fn idle(&self) -> Duration {
        if !self.role.is_observer() || Instant::now() < self.not_before {
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
        self.config = Arc::clone(&self.parts.config.borrow_and_update());
        self.dispatcher.forget();
        self.measurements.at_once();
        self.schema.again();
    }

    /// A row of the audit trail, written as soon as it can be.
    fn tell(&mut self, notice: &Notice) {
        let urgent = notice.is_urgent();
        let (at, instance) = (self.measurements.now(), self.ledger.instance());
        self.notices.take(notice, at, instance, self.parts.db.name());
        if urgent {
            self.upkeep_at = Instant::now();
        }
    }

    fn role_standing(&self) -> RoleStanding {
        let holder = match &self.role {
            Role::Standby { holder } => Some(holder.clone()),
            _ => None,
        };
        RoleStanding {
            observer: self.role.is_observer(),
            holder,
            paused: self.pause.paused().cloned(),
        }
    }

    async fn round(&mut self) {
        self.doubt();
        self.pause.settle(&self.config, self.parts.db.name(), &self.parts.metrics);
        self.parts.standing.set_role(self.role_standing());
        self.measure();
        if self.schema.look(&self.config) == Progress::BecameReady {
            // The lease can be had now, and there is more to be judged.
            self.upkeep_at = Instant::now();
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
            self.parts.readiness.connect_failed(self.target(), error.kind().as_str());
        }
        let (target, kind) = (self.parts.db.name(), error.kind());
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
            self.parts.readiness.connected(self.target());
            tracing::info!(database = self.target(), "connected");
        }
        self.schema.start(&self.config);
        if Instant::now() >= self.upkeep_at {
            self.upkeep().await?;
        }
        if self.role.is_observer()
            && let Some(migrated) = self.schema.ready()
        {
            let (zentry, paused, until) = (migrated.zentry, self.pause.is_here(), self.upkeep_at);
            self.dispatcher
                .fire_due(Conditions { config: &self.config, zentry, paused, until })
                .await?;
        }
        Ok(())
    }

    /// The lease, and what hangs on it: three times within its length.
    async fn upkeep(&mut self) -> Result<(), Error> {
        let lease = self.ledger.lease();
        let asked = Instant::now();
        let answer = self.ledger.observe().await.map(|answer| {
            self.dispatcher.set_clock(answer.clock);
            self.measurements.set_clock(answer.clock);
            answer.lease
        });
        let (role, again) = match answer {
            Ok(Lease::Held { epoch }) => {
                // Counted from before it was asked for.
                (Role::Observer { epoch, until: asked + lease - TRUST_MARGIN }, lease / 3)
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
        if self.role.is_observer() {
            self.reap().await?;
            let look = self.trail.look(&self.ledger, &self.parts.metrics, self.parts.db.name());
            // What cannot be read is no reason to stop working.
            if let Err(error) = look.await {
                tracing::debug!(database = self.target(), error = %error, "the audit trail was not looked at");
            }
        }
        self.upkeep_at = asked + again;
        Ok(())
    }

    /// Without an answer, the lease is believed only until its time is up.
    fn doubt(&mut self) {
        if let Role::Observer { until, .. } = self.role
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
        let (was, is) = (self.role.is_observer(), role.is_observer());
        let target = self.parts.db.name();
        self.parts.metrics.leader.with_label_values(&[target]).set(i64::from(is));
        match &role {
            Role::Observer { epoch, .. } if !was => {
                tracing::info!(
                    database = target,
                    instance = self.parts.instance,
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
            self.parts.metrics.remove_audit(target);
            self.trail.forget();
            let _ = self.parts.metrics.jobs_quarantined.remove_label_values(&[target]);
        }
        if matches!(role, Role::Standby { .. }) {
            // One connection is what an instance that does not observe may hold.
            for purpose in [Purpose::Observe, Purpose::Job] {
                self.parts.db.close_idle(purpose);
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
            if state == ledger::Standing::Other(Some(State::Succeeded.as_str().to_owned())) {
                self.runner.amend(&job);
            }
        }
        Ok(())
    }

    async fn reap(&mut self) -> Result<(), Error> {
        for orphan in self.ledger.reap().await? {
            tracing::warn!(database = self.target(), job = orphan.job, run_id = %orphan.id, instance = orphan.instance,
                "a run stopped renewing its lease; recorded as lost");
            self.parts
                .metrics
                .job_runs_total
                .with_label_values(&[self.target(), &orphan.job, State::Lost.as_str()])
                .inc();
            let error = Some(format!(
                "instance {} stopped renewing the lease of run {}",
                orphan.instance, orphan.id
            ));
            let job = JobName::new(&orphan.job);
            self.parts
                .standing
                .update(&job, |standing| standing.ended(State::Lost, error, Utc::now()));
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
        self.parts.metrics.jobs_quarantined.with_label_values(&[self.target()]).set(waiting as i64);
        Ok(())
    }

    /// Starts the measurements that are due; they never make a round wait.
    fn measure(&mut self) {
        let surroundings = self.surroundings();
        self.measurements.tick(&self.config, &surroundings, Utc::now());
    }

    fn surroundings(&self) -> Surroundings {
        let migrated = self.schema.ready();
        Surroundings {
            observing: self.role.looks(),
            writable: migrated.is_some() && self.role.writes(),
            keeps: self.role != Role::Alone,
            zentry: migrated.is_some_and(|migrated| migrated.zentry),
            schema: self.schema.standing(),
            paused: self.pause.by().map(str::to_owned),
            audit: self.trail.standing(),
        }
    }

    /// Waits for what the token has told to end, writes or keeps what was measured, then leaves the lease to
    /// the next instance.
    async fn stop(&mut self) {
        self.parts.readiness.retire(self.target());
        let bound = Instant::now() + runner::STOP_BOUND;
        while (self.runner.count() > 0 || self.schema.is_migrating()) && Instant::now() < bound {
            self.hold_on(bound).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.schema.abandon();
        let surroundings = self.surroundings();
        let last_words = async {
            self.measurements.stop(&surroundings).await;
            self.ledger.flush().await?;
            if self.role.writes() {
                self.notices.write(&self.ledger).await?;
            }
            if self.role.is_observer() { self.ledger.resign().await } else { Ok(()) }
        };
        match tokio::time::timeout(LAST_WORDS_BOUND, last_words).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(database = self.target(), error = %error, "the lease ends by itself")
            }
            Err(_) => {
                tracing::debug!(database = self.target(), "no answer; the lease ends by itself")
            }
        }
    }

    /// While runs end: their leases may not, or another instance would record them as lost.
    async fn hold_on(&mut self, bound: Instant) {
        if Instant::now() < self.upkeep_at {
            return;
        }
        self.upkeep_at = Instant::now() + self.ledger.lease() / 3;
        let renew = async {
            if self.role.is_observer() {
                self.ledger.observe().await?;
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
