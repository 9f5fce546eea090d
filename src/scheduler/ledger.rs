//! Who runs what: the store's rows, over the control connection, with this instance's name.
//!
//! Every call has a bound here, beside the statements' own on the server: a peer that has gone silent
//! keeps none. An ending that cannot be written because the database is away is kept and written when
//! it is back, so that a run that died with the server is still recorded as failed. So is one whose
//! transaction stays open on the server: its row is locked, and keeps nobody else waiting.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::config::JobName;
use crate::db::{Database, Error, Kind, Pooled, Purpose};
use crate::migrate;
use crate::observe::sessions;
use crate::store::claims::{self, ClaimRequest, ClaimResult, Claimer};
use crate::store::orphans::{self, OrphanedRun};
use crate::store::pauses::{self, Pause};
use crate::store::requests::{self, PendingRequests};
use crate::store::run_history::{self, LastRun};
use crate::store::runs::{
    self, Backend, FinishedRun, Progress, RegisteredJob, RenewedLease, RunState,
};
use crate::store::{audit, leases, pruning};
use crate::telemetry::Metrics;

/// For each statement on pgsteward's own tables, on the server: they are few and small.
const BOUND: Duration = Duration::from_secs(5);
/// For a whole call: a connection, a transaction, and its answer.
const CALL_BOUND: Duration = Duration::from_secs(10);
/// Endings kept while the database is away; there is one per job and lane.
const UNWRITTEN_MAX: usize = 64;

/// The ledger of one database.
pub struct Ledger {
    db: Arc<Database>,
    instance: String,
    lease: Duration,
    metrics: Arc<Metrics>,
    /// The least that a row was seen to cost, in bytes; `u64::MAX` until one was seen.
    unwritten: Mutex<VecDeque<FinishedRun>>,
}

/// How long who has ended waits for a transaction of its run, and how long who only looks again does.
const PATIENCE: Duration = Duration::from_millis(300);
const AT_ONCE: Duration = Duration::from_millis(1);

/// What the log says of a run whose commit nobody heard of.
const PROVEN: &str = "the connection broke while this run committed; its row proves that it did";

/// Whether an ending will be refused however often it is sent: by its data, a constraint, or the SQL
/// itself. A full disk is none of these.
fn is_refused_for_good(error: &Error) -> bool {
    let class = error.sqlstate().map(|state| state.code().get(..2).unwrap_or_default().to_owned());
    error.kind() == Kind::Sql
        && class.is_some_and(|class| matches!(class.as_str(), "22" | "23" | "42"))
}

/// How a run stands, after its end was to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishResult {
    /// As it was said.
    Written,
    /// Not known to the ledger yet.
    MeasurementWriter,
    /// In this state already, by its row; `None` where that is gone.
    Other(Option<String>),
}

impl Ledger {
    /// `instance` names this process among all that ever ran: a host and a process are not enough,
    /// since both come again.
    pub fn new(
        db: Arc<Database>,
        instance: String,
        lease: Duration,
        metrics: Arc<Metrics>,
    ) -> Ledger {
        Ledger { db, instance, lease, metrics, unwritten: Mutex::new(VecDeque::new()) }
    }

    /// This process's name in rows.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Bounds and meters a call: what keeping the ledger costs is published.
    async fn within<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let outcome = bounded(what, call).await;
        self.metrics
            .ledger_seconds_total
            .with_label_values(&[self.db.name()])
            .inc_by(begun.elapsed().as_secs_f64());
        outcome
    }

    /// Counts rows that were written for the ledger.
    pub fn wrote(&self, rows: u64) {
        self.metrics.ledger_rows_written_total.with_label_values(&[self.db.name()]).inc_by(rows);
    }

    async fn control(&self) -> Result<Pooled<'static>, Error> {
        self.db.acquire(Purpose::Control).await
    }

    /// Connects, where that is to be done.
    pub async fn reach(&self) -> Result<(), Error> {
        self.within("connect", async { self.control().await.map(drop) }).await
    }

    /// Returns why the schema `steward` is not trusted; `None` where it is.
    pub async fn distrust(&self) -> Result<Option<String>, Error> {
        self.within("check the schema", async {
            migrate::access::distrust(&*self.control().await?).await
        })
        .await
    }

    /// Takes or renews the observer's lease.
    pub async fn acquire_leadership(&self) -> Result<leases::AcquireResult, Error> {
        self.within("take the observer's lease", async {
            leases::acquire(
                &mut *self.control().await?,
                leases::LEADER_LEASE,
                &self.instance,
                self.lease,
                BOUND,
            )
            .await
        })
        .await
    }

    /// Gives the observer's lease up.
    pub async fn release_leadership(&self) -> Result<(), Error> {
        self.within("give the observer's lease up", async {
            leases::release(
                &mut *self.control().await?,
                leases::LEADER_LEASE,
                &self.instance,
                BOUND,
            )
            .await
        })
        .await
    }

    /// Registers the jobs with their specification, and returns the row of each.
    pub async fn register(&self, jobs: &[(JobName, String)]) -> Result<Vec<RegisteredJob>, Error> {
        self.within("register jobs", async {
            runs::register(&mut *self.control().await?, jobs, BOUND).await
        })
        .await
    }

    /// Settles what is due, or waits, of several jobs at once.
    pub async fn claim(&self, asks: &[ClaimRequest]) -> Result<Vec<ClaimResult>, Error> {
        let claimer = Claimer { instance: &self.instance, lease: self.lease };
        let results = self
            .within("claim due instants", async {
                claims::claim(&mut *self.control().await?, claimer, asks, BOUND).await
            })
            .await?;
        self.wrote(results.iter().map(claims::ClaimResult::rows_written).sum());
        Ok(results)
    }

    /// Bounds the history of a job.
    pub async fn prune(&self, job: &JobName, keep: u32) -> Result<u64, Error> {
        let pruned = self
            .within("bound the history of a job", async {
                pruning::prune_job(&mut *self.control().await?, job.as_str(), keep.into(), BOUND)
                    .await
            })
            .await?;
        self.wrote(pruned);
        Ok(pruned)
    }

    /// The first instant of the range of skipped ones that reaches over a moment.
    pub async fn reaching_over(
        &self,
        job: &JobName,
        at: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, Error> {
        self.within("find a range", async {
            claims::reaching_over(&mut *self.control().await?, job.as_str(), at, BOUND).await
        })
        .await
    }

    /// What waits to be heard; `upstream_jobs` are the jobs that others follow.
    pub async fn poll_requests(&self, upstream_jobs: &[String]) -> Result<PendingRequests, Error> {
        self.within("listen for requests", async {
            requests::poll_requests(&*self.control().await?, upstream_jobs, BOUND).await
        })
        .await
    }

    /// Extends the leases of running runs; returns those that are still ours.
    pub async fn renew(&self, running: &[(Uuid, i64)]) -> Result<Vec<RenewedLease>, Error> {
        self.within("renew the leases of runs", async {
            runs::renew(&mut *self.control().await?, running, self.lease, BOUND).await
        })
        .await
    }

    /// Notes how far runs have come.
    pub async fn save_progress(&self, runs: &[(Uuid, i64, Progress)]) -> Result<(), Error> {
        self.within("note the progress of runs", async {
            runs::save_progress(&mut *self.control().await?, runs, BOUND).await
        })
        .await
    }

    /// Notes that a run is not fenced, and by which process it is worked for; fails when the run is not
    /// ours any more.
    pub async fn record_unfenced(
        &self,
        id: Uuid,
        epoch: i64,
        backend: Option<Backend>,
    ) -> Result<(), Error> {
        self.within("note that a run is not fenced", async {
            runs::record_unfenced(&mut *self.control().await?, id, epoch, backend, BOUND).await
        })
        .await
    }

    /// Writes how a run ended, now or when the database is back. Returns how it stands, by its row: a
    /// run whose connection broke may have committed, and recorded that.
    pub async fn finish(&self, ended: FinishedRun) -> FinishResult {
        match self.write(&ended, PATIENCE).await {
            Ok(standing) => standing,
            Err(error) => {
                let (database, job, id) = (self.db.name(), ended.job.as_str(), ended.id);
                if error.kind() == Kind::LockTimeout {
                    tracing::warn!(database, job, run_id = %id,
                        "a transaction of this run is still open on the server: its end is written when that has ended, \
                         and the job waits");
                } else {
                    tracing::warn!(database, job, run_id = %id, error = %error,
                        "the end of a run is not written yet; trying again when the database is back");
                }
                self.keep(ended);
                FinishResult::MeasurementWriter
            }
        }
    }

    /// Writes the endings that wait, oldest first; those whose row is locked wait on. Returns those that the
    /// ledger knows better.
    ///
    /// # Errors
    /// Why the database cannot be written to at the moment; the endings are kept then.
    pub async fn flush(&self) -> Result<Vec<(JobName, FinishResult)>, Error> {
        let mut waiting = std::mem::take(&mut *self.lock());
        let mut stands = Vec::new();
        while let Some(next) = waiting.pop_front() {
            match self.write(&next, AT_ONCE).await {
                Ok(standing) => stands.push((next.job, standing)),
                Err(error) if error.kind() == Kind::LockTimeout => self.keep(next),
                Err(error) => {
                    self.keep(next);
                    waiting.into_iter().for_each(|ended| self.keep(ended));
                    return Err(error);
                }
            }
        }
        Ok(stands)
    }

    /// How many endings wait to be written. After a flush that went well: how many runs have ended but
    /// for their transaction, which is still open on the server.
    pub fn unwritten(&self) -> usize {
        self.lock().len()
    }

    /// Writes one ending. What the server refuses for good is told and given up: its lease passes, and it
    /// is reaped as lost.
    async fn write(&self, ended: &FinishedRun, patience: Duration) -> Result<FinishResult, Error> {
        let (job, id) = (ended.job.as_str(), ended.id);
        let written = self.within("write the end of a run", async {
            let conn = &mut *self.control().await?;
            match runs::finish(conn, ended, patience, BOUND).await? {
                true => Ok(FinishResult::Written),
                false => Ok(FinishResult::Other(runs::read_state(conn, id, BOUND).await?)),
            }
        });
        match written.await {
            // It was written before, and the answer got lost.
            Ok(FinishResult::Other(Some(state))) if state == ended.result.state.as_str() => {
                Ok(FinishResult::Written)
            }
            Ok(FinishResult::Other(state)) => {
                let (database, here) = (self.db.name(), ended.result.state.as_str());
                if state.as_deref() == Some(RunState::Succeeded.as_str()) {
                    tracing::info!(database, job, run_id = %id, "{PROVEN}");
                } else {
                    let state = state.as_deref().unwrap_or("nothing, its row is gone");
                    tracing::warn!(database, job, run_id = %id, here, "this run has been ended already: as {state}");
                }
                Ok(FinishResult::Other(state))
            }
            Ok(standing) => {
                self.wrote(2);
                Ok(standing)
            }
            Err(error) if is_refused_for_good(&error) => {
                tracing::error!(database = self.db.name(), job, run_id = %id, error = %error,
                    "the end of a run cannot be written; it will be recorded as lost");
                Ok(FinishResult::Other(None))
            }
            Err(error) => Err(error),
        }
    }

    /// How a run stands that was ended by somebody else, or by its own transaction without our hearing of it.
    pub async fn look(&self, job: &JobName, id: Uuid) -> FinishResult {
        let looked = self.within("read the state of a run", async {
            runs::read_state(&mut *self.control().await?, id, BOUND).await
        });
        match looked.await {
            Ok(state) => {
                if state.as_deref() == Some(RunState::Succeeded.as_str()) {
                    tracing::info!(database = self.db.name(), job = job.as_str(), run_id = %id, "{PROVEN}");
                }
                FinishResult::Other(state)
            }
            Err(_) => FinishResult::MeasurementWriter,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<FinishedRun>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, ended: FinishedRun) {
        let mut unwritten = self.lock();
        if unwritten.len() == UNWRITTEN_MAX {
            // Its lease passes, and the run is reaped as lost: accounted for either way.
            tracing::error!(database = self.db.name(), run_id = %ended.id, "too many unwritten endings; one is dropped");
            return;
        }
        unwritten.push_back(ended);
    }

    /// Ends runs whose instance stopped renewing them.
    pub async fn reap(&self) -> Result<Vec<OrphanedRun>, Error> {
        self.within("reap lost runs", async {
            orphans::reap(&mut *self.control().await?, BOUND).await
        })
        .await
    }

    /// Mends slots that were changed by hand; returns how many.
    pub async fn mend(&self) -> Result<u64, Error> {
        self.within("mend the slots of jobs", async {
            orphans::repair_slots(&mut *self.control().await?, BOUND).await
        })
        .await
    }

    /// Ends the quarantine of jobs whose former server process is gone; returns the names of these, and
    /// of those that still wait.
    pub async fn release_quarantined(&self) -> Result<(Vec<String>, Vec<String>), Error> {
        self.within("look after jobs in quarantine", async {
            let conn = &mut *self.control().await?;
            let (mut released, mut waiting) = (Vec::new(), Vec::new());
            for held in orphans::quarantined_jobs(conn, BOUND).await? {
                let working = match held.backend {
                    Some(backend) => {
                        sessions::is_running(conn, backend.pid, backend.start_us).await?
                    }
                    None => false,
                };
                if working {
                    waiting.push(held.job);
                } else {
                    orphans::release_quarantine(conn, &held.job, held.run_id, BOUND).await?;
                    released.push(held.job);
                }
            }
            Ok((released, waiting))
        })
        .await
    }

    /// How each job's newest run ended.
    pub async fn last_runs(&self) -> Result<Vec<LastRun>, Error> {
        self.within("read the last runs", async {
            run_history::last_runs(&mut *self.control().await?, BOUND).await
        })
        .await
    }

    /// How the audit trail stands.
    pub async fn audit(&self) -> Result<audit::AuditStatus, Error> {
        self.within("read how the audit trail stands", async {
            audit::read_status(&mut *self.control().await?, BOUND).await
        })
        .await
    }

    /// Writes rows of the audit trail that waited for the database; those that are there already stay as they are.
    pub async fn tell_trail(&self, rows: &[audit::EventRow]) -> Result<(), Error> {
        self.within("write audit rows", async {
            audit::insert_all(&mut *self.control().await?, rows, BOUND).await
        })
        .await
    }

    /// Whether all jobs are paused in the database.
    pub async fn paused(&self) -> Result<Option<Pause>, Error> {
        self.within("read the pause flag", async {
            pauses::read(&mut *self.control().await?, BOUND).await
        })
        .await
    }
}

/// A call that is not answered in time is dropped, and its connection with it.
async fn bounded<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL_BOUND, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!("{what}: no answer within {} s", CALL_BOUND.as_secs()),
        )),
    }
}
