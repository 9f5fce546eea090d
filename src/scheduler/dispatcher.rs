//! From what is due to what runs: claims for the observer, a slot each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::config::{Builtin, Config, JobName, ON_TIME};
use crate::db::Error;
use crate::sets::Manifest;
use crate::store::claims::{ClaimKind, ClaimRequest, ClaimResult, SkipReason, Verdict};
use crate::store::runs::RunState;

use super::due_queue::DueQueue;
use super::runner::{ClaimedRun, Runner};
use super::worker_slots::{WorkerSlot, WorkerSlots};

/// After how many asks the history of a job is bounded: often enough that it never holds many more
/// rows than it may.
const PRUNE_AFTER: u32 = 200;
/// How many jobs one transaction settles.
const BATCH_MAX: usize = 64;
/// How often it is listened for what people ask: what they ask for begins within a second.
const REQUEST_POLL_INTERVAL: Duration = Duration::from_millis(800);

/// Claims and starts what is due of one database.
pub struct Dispatcher {
    runner: Arc<Runner>,
    worker_slots: WorkerSlots,
    due_queue: DueQueue,
    heard: Option<Instant>,
    /// How many runs and skips of each job there were since its history was bounded.
    unpruned: BTreeMap<JobName, u32>,
    /// Partitions are looked after as soon as this instance observes: writes of the next hour may
    /// need one.
    partitions_at_once: bool,
    /// The database's clock as last read, and when. This instance's own may step; its monotonic one
    /// does not.
    clock: Option<(DateTime<Utc>, Instant)>,
}

/// What holds for everything that is fired in one round.
#[derive(Debug, Clone, Copy)]
pub struct DispatchContext<'a> {
    pub config: &'a Arc<Config>,
    /// The bundled sets that are applied.
    pub sets: &'a [&'static Manifest],
    /// Whether this instance is paused by its local file; of the flag in the database each claim knows.
    pub paused: bool,
    /// Leases are to be looked after then; what is left stays due for the next round.
    pub until: Instant,
}

impl Dispatcher {
    /// With so many worker_slots.
    pub fn new(runner: Arc<Runner>, worker_slots: u32) -> Dispatcher {
        Dispatcher {
            runner,
            worker_slots: WorkerSlots::new(worker_slots),
            due_queue: DueQueue::default(),
            heard: None,
            unpruned: BTreeMap::new(),
            partitions_at_once: true,
            clock: None,
        }
    }

    /// Reads the ledger again before the next claim: the configuration changed, or another observes and says
    /// what is due next.
    pub fn forget(&mut self) {
        for name in self.due_queue.forget() {
            self.withdraw(&name);
        }
    }

    /// Due instants follow the database's clock, by which floors and leases go too: an instance whose
    /// own clock is ahead would claim instants that are not due, and nobody could run them after.
    pub fn set_clock(&mut self, clock: DateTime<Utc>) {
        self.clock = Some((clock, Instant::now()));
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.map_or_else(Utc::now, |(clock, read)| clock + read.elapsed())
    }

    /// This instance observes since now; what it knew of the ledger is old.
    pub fn take_over(&mut self) {
        self.forget();
        self.partitions_at_once = true;
    }

    /// How long there is nothing to do, as far as is known.
    pub fn idle_for(&self) -> Option<Duration> {
        let next = self.due_queue.next()?;
        Some((next - self.now()).to_std().unwrap_or_default())
    }

    /// When it is listened again for what people ask.
    pub fn listens_at(&self) -> Option<Instant> {
        self.heard.map(|at| at + REQUEST_POLL_INTERVAL)
    }

    /// Claims and starts everything that is due or asked for. What finds no free slot stays due.
    pub async fn fire_due(&mut self, now: DispatchContext<'_>) -> Result<(), Error> {
        if self.due_queue.is_empty() {
            self.register(now.config).await?;
        }
        for job in self.runner.take_ended() {
            self.due_queue.freed(&job);
        }
        if std::mem::take(&mut self.partitions_at_once) {
            self.due_queue.at_once(Builtin::Partitions);
        }
        if self.heard.is_none_or(|at| at.elapsed() >= REQUEST_POLL_INTERVAL) {
            self.listen().await?;
        }
        while Instant::now() < now.until && self.settle(now).await? {}
        if Instant::now() < now.until {
            self.prune(now.config).await?;
        }
        self.announce();
        Ok(())
    }

    /// Settles one batch; true when there may be more.
    async fn settle(&mut self, now: DispatchContext<'_>) -> Result<bool, Error> {
        let mut asks = Vec::new();
        let mut worker_slots: Vec<Option<WorkerSlot>> = Vec::new();
        let mut without_lane = false;
        for mut ask in self.due_queue.look(self.now(), now.paused) {
            let Some((job, _)) = self.due_queue.job(&ask.job) else { continue };
            let slot = match needs_lane(&ask) {
                true => match self.worker_slots.take(job) {
                    Some(slot) => Some(slot),
                    None => {
                        without_lane = true;
                        // What came before it can be recorded all the same.
                        match &mut ask.kind {
                            ClaimKind::Due { missed, fire } if !missed.is_empty() => *fire = None,
                            _ => continue,
                        }
                        None
                    }
                },
                false => None,
            };
            asks.push(self.completed(ask).await?);
            worker_slots.push(slot);
            if asks.len() == BATCH_MAX {
                break;
            }
        }
        if asks.is_empty() {
            return Ok(false);
        }
        let answers = self.runner.ledger.claim(&asks).await?;
        let (mut moved, mut known) = (false, true);
        for ((ask, answer), slot) in asks.iter().zip(&answers).zip(worker_slots) {
            // A slot that was taken in vain is for the next; what was held back is not asked for at once.
            moved |= without_lane || answer.verdict != Verdict::Defer;
            *self.unpruned.entry(ask.job.clone()).or_default() += 1;
            known &= self.due_queue.answered(ask, answer, self.now());
            self.act(now, ask, answer, slot);
        }
        if !known {
            // What lies above the floors now has to be read.
            self.forget();
            return Ok(false);
        }
        Ok(moved)
    }

    /// Bounds the history of the job that has added most to it, where that is worth while.
    async fn prune(&mut self, config: &Config) -> Result<(), Error> {
        let Some((job, added)) = self.unpruned.iter().max_by_key(|(_, added)| **added) else {
            return Ok(());
        };
        if *added >= PRUNE_AFTER {
            let job = job.clone();
            self.unpruned.remove(&job);
            let pruned = self.runner.ledger.prune(&job, config.jobs.history_max).await?;
            tracing::debug!(
                database = self.target(),
                job = job.as_str(),
                rows = pruned,
                "history bounded"
            );
        }
        Ok(())
    }

    /// A watermark goes back together with the range that reaches over it.
    async fn completed(&self, mut ask: ClaimRequest) -> Result<ClaimRequest, Error> {
        if let ClaimKind::Rewind { to, cut } = &mut ask.kind {
            tracing::warn!(database = self.target(), job = ask.job.as_str(), watermark = %ask.watermark, clock = %to,
                "the database's clock was set back; instants from then on are due again, but for those that have run");
            if let Some(first) = self.runner.ledger.reaching_over(&ask.job, *to).await? {
                *cut = self.due_queue.cut(&ask.job, first, *to);
            }
        }
        Ok(ask)
    }

    fn act(
        &self,
        now: DispatchContext<'_>,
        ask: &ClaimRequest,
        answer: &ClaimResult,
        slot: Option<WorkerSlot>,
    ) {
        let job = &ask.job;
        // Where another settles the job at this moment, nothing of it was recorded.
        if let ClaimKind::Due { missed, .. } = &ask.kind
            && answer.verdict != Verdict::Stale
            && answer.watermark != ask.watermark
        {
            for missed in missed {
                self.skipped(job, missed.reason, missed.count);
                if self.runner.standing.is_news(job, missed.reason.as_str()) {
                    tracing::warn!(database = self.target(), job = job.as_str(), first = %missed.first.to_rfc3339(),
                        last = %missed.last.to_rfc3339(), count = missed.count, reason = missed.reason.as_str(),
                        "instants passed that were not run: {}", missed.reason.describe());
                }
            }
        }
        match (answer.verdict, answer.run, slot) {
            (Verdict::Run, Some(run), Some(slot)) => {
                let Some((spec, offset)) = self.due_queue.job(job) else { return };
                let manual = matches!(ask.kind, ClaimKind::Queued { .. });
                let offset = if manual { TimeDelta::zero() } else { offset };
                let order = ClaimedRun {
                    job: job.clone(),
                    spec: spec.clone(),
                    id: run.id,
                    epoch: run.epoch,
                    lag: (self.now() - run.due_at - offset).to_std().unwrap_or_default(),
                    config: Arc::clone(now.config),
                    sets: now.sets.to_vec(),
                };
                if !manual && order.lag > ON_TIME {
                    let labels = [self.target(), job.as_str()];
                    self.runner.metrics.job_catch_up_runs_total.with_label_values(&labels).inc();
                }
                self.runner.start(order, slot);
            }
            (Verdict::Skip(reason), _, _) => {
                self.skipped(job, reason, 1);
                if self.runner.standing.is_news(job, reason.as_str()) {
                    let (database, reason) = (self.target(), reason.as_str());
                    tracing::info!(database, job = job.as_str(), reason, "instant skipped");
                }
            }
            (Verdict::Queue, _, _) => {
                tracing::debug!(
                    database = self.target(),
                    job = job.as_str(),
                    "instant queued behind the run before it"
                );
            }
            _ => {}
        }
    }

    fn skipped(&self, job: &JobName, reason: SkipReason, count: i32) {
        let count = u64::try_from(count).unwrap_or(0);
        let labels = [self.target(), job.as_str(), RunState::Skipped.as_str()];
        self.runner.metrics.job_runs_total.with_label_values(&labels).inc_by(count);
        let labels = [self.target(), job.as_str(), reason.as_str()];
        self.runner.metrics.job_skipped_instants_total.with_label_values(&labels).inc_by(count);
    }

    async fn listen(&mut self) -> Result<(), Error> {
        let heard = self.runner.ledger.poll_requests(&self.due_queue.upstream_jobs()).await?;
        self.heard = Some(Instant::now());
        for wish in &heard.cancel {
            self.runner.cancel(wish.id, &wish.by);
        }
        self.due_queue.poll_requests(&heard);
        Ok(())
    }

    /// Makes the jobs known to the ledger, and remembers how their last runs ended.
    async fn register(&mut self, config: &Config) -> Result<(), Error> {
        let database = self.target().to_owned();
        let registered = self.runner.ledger.register(&DueQueue::specs(config, &database)).await?;
        self.due_queue.adopt(config, &database, registered);
        self.runner.metrics.init_counters(&database, config.jobs.all.keys().map(JobName::as_str));
        self.runner.standing.retain(|name| config.jobs.all.contains_key(name));
        for last in self.runner.ledger.last_runs().await? {
            let Some((job, spec)) = config.jobs.all.get_key_value(last.job.as_str()) else {
                continue;
            };
            self.runner.recall(job, spec, last);
        }
        self.heard = None;
        Ok(())
    }

    fn withdraw(&self, name: &JobName) {
        // An error says that there was no such series.
        let _ = self
            .runner
            .metrics
            .job_next_due_timestamp_seconds
            .remove_label_values(&[self.target(), name.as_str()]);
        self.runner.standing.update(name, |standing| standing.next_due = None);
    }

    fn announce(&self) {
        for (name, next) in self.due_queue.next_of_each() {
            match next {
                Some(next) => {
                    let labels = [self.target(), name.as_str()];
                    self.runner
                        .metrics
                        .job_next_due_timestamp_seconds
                        .with_label_values(&labels)
                        .set(seconds(next));
                    self.runner.standing.update(name, |standing| standing.next_due = Some(next));
                }
                None => self.withdraw(name),
            }
        }
    }

    fn target(&self) -> &str {
        self.runner.db.name()
    }
}

/// Whether something may run when the ledger agrees.
fn needs_lane(ask: &ClaimRequest) -> bool {
    matches!(ask.kind, ClaimKind::Due { fire: Some(_), .. } | ClaimKind::Queued { skip: None, .. })
}

/// For gauges.
pub(super) fn seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
