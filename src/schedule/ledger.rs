//! Who runs what: the store's rows, over the control connection, with this instance's name.
//!
//! Every call has a bound here, beside the statements' own on the server: a peer that has gone silent
//! keeps none. An ending that cannot be written because the database is away is kept and written when
//! it is back, so that a run that died with the server is still recorded as failed.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::config::JobName;
use crate::db::{Database, Error, Kind, Pooled, Purpose};
use crate::store::audit;
use crate::store::leases::{self, Answer};
use crate::store::pauses::{self, Pause};
use crate::store::runs::{self, Claim, Ending, Fire, LastRun, Missed, Orphan};

/// For each statement on pgsteward's own tables, on the server: they are few and small.
const BOUND: Duration = Duration::from_secs(5);
/// For a whole call: a connection, a transaction, and its answer.
const CALL_BOUND: Duration = Duration::from_secs(10);
/// Endings kept while the database is away; there is one per job and lane.
const UNWRITTEN_MAX: usize = 64;
/// The name of the observer's row in `leases`.
const OBSERVER: &str = "observer";

/// The ledger of one database.
pub struct Ledger {
    db: Arc<Database>,
    instance: String,
    lease: Duration,
    unwritten: Mutex<VecDeque<Unwritten>>,
}

struct Unwritten {
    job: JobName,
    id: Uuid,
    epoch: i64,
    ending: Ending,
}

impl Ledger {
    /// `instance` names this process among all that ever ran: a host and a process are not enough,
    /// since both come again.
    pub fn new(db: Arc<Database>, instance: String, lease: Duration) -> Ledger {
        Ledger { db, instance, lease, unwritten: Mutex::new(VecDeque::new()) }
    }

    /// This process's name in rows.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    async fn control(&self) -> Result<Pooled<'static>, Error> {
        self.db.acquire(Purpose::Control).await
    }

    /// Connects, where that is to be done.
    pub async fn reach(&self) -> Result<(), Error> {
        within("connect", async { self.control().await.map(drop) }).await
    }

    /// Takes or renews the observer's lease.
    pub async fn observe(&self) -> Result<Answer, Error> {
        within("take the observer's lease", async {
            leases::acquire(&mut *self.control().await?, OBSERVER, &self.instance, self.lease, BOUND).await
        })
        .await
    }

    /// Gives the observer's lease up.
    pub async fn resign(&self) -> Result<(), Error> {
        within("give the observer's lease up", async {
            leases::release(&mut *self.control().await?, OBSERVER, &self.instance, BOUND).await
        })
        .await
    }

    /// Registers the jobs with their specification, and returns the instant up to which each is
    /// accounted for.
    pub async fn register(&self, jobs: &[(JobName, String)]) -> Result<Vec<(JobName, DateTime<Utc>)>, Error> {
        let named: Vec<(&'static str, String)> = jobs.iter().map(|(job, hash)| (job.as_str(), hash.clone())).collect();
        let floors =
            within("register jobs", async { runs::register(&mut *self.control().await?, &named, BOUND).await }).await?;
        Ok(floors.into_iter().filter_map(|(name, floor)| Some((name.parse().ok()?, floor))).collect())
    }

    /// Claims one due instant.
    pub async fn claim(
        &self,
        job: JobName,
        due_at: DateTime<Utc>,
        spec_hash: &str,
        paused: bool,
    ) -> Result<Claim, Error> {
        let fire = Fire { job: job.as_str(), due_at, spec_hash: spec_hash.to_owned(), paused };
        within("claim a due instant", async {
            runs::claim(&mut *self.control().await?, &fire, &self.instance, self.lease, BOUND).await
        })
        .await
    }

    /// Records instants that nobody ran; false when another instance has looked after them.
    pub async fn missed(&self, job: JobName, missed: Missed) -> Result<bool, Error> {
        within("record missed instants", async {
            runs::record_missed(&mut *self.control().await?, job.as_str(), missed, &self.instance, BOUND).await
        })
        .await
    }

    /// Extends the leases of running runs; returns those that are still ours.
    pub async fn renew(&self, running: &[(Uuid, i64)]) -> Result<Vec<Uuid>, Error> {
        within("renew the leases of runs", async {
            runs::renew(&mut *self.control().await?, running, self.lease, BOUND).await
        })
        .await
    }

    /// Writes how a run ended, now or when the database is back.
    pub async fn finish(&self, job: JobName, id: Uuid, epoch: i64, ending: Ending) {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).push_back(Unwritten { job, id, epoch, ending });
        if let Err(error) = self.flush().await {
            tracing::warn!(database = self.db.name(), job = job.as_str(), run_id = %id, error = %error,
                "the end of a run is not written yet; trying again when the database is back");
        }
    }

    /// Writes the endings that are waiting, oldest first.
    ///
    /// # Errors
    /// Why the database cannot be written to at the moment; the endings are kept then. One that the
    /// server refuses for good is told and given up: its lease passes, and it is reaped as lost.
    pub async fn flush(&self) -> Result<(), Error> {
        while let Some(next) = self.take_unwritten() {
            let Unwritten { job, id, epoch, ending } = &next;
            let written = within("write the end of a run", async {
                runs::finish(&mut *self.control().await?, job.as_str(), *id, *epoch, ending, BOUND).await
            })
            .await;
            match written {
                Ok(true) => {}
                Ok(false) => tracing::warn!(database = self.db.name(), job = job.as_str(), run_id = %id,
                    "another instance has ended this run as lost; its end here was {}", ending.state.as_str()),
                Err(error) if matches!(error.kind(), Kind::Sql | Kind::Protocol) => {
                    tracing::error!(database = self.db.name(), job = job.as_str(), run_id = %id, error = %error,
                        "the end of a run cannot be written; it will be recorded as lost");
                }
                Err(error) => {
                    self.put_back(next);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn take_unwritten(&self) -> Option<Unwritten> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn put_back(&self, ending: Unwritten) {
        let mut unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner);
        if unwritten.len() == UNWRITTEN_MAX {
            // Its lease passes, and the run is reaped as lost: accounted for either way.
            tracing::error!(database = self.db.name(), run_id = %ending.id, "too many unwritten endings; one is dropped");
            return;
        }
        unwritten.push_front(ending);
    }

    /// Ends runs whose instance stopped renewing them.
    pub async fn reap(&self) -> Result<Vec<Orphan>, Error> {
        within("reap lost runs", async { runs::reap(&mut *self.control().await?, BOUND).await }).await
    }

    /// How each job's newest run ended.
    pub async fn last_runs(&self) -> Result<Vec<LastRun>, Error> {
        within("read the last runs", async { runs::last_runs(&mut *self.control().await?, BOUND).await }).await
    }

    /// How many statements of applications went unrecorded in the audit trail.
    pub async fn audit_losses(&self) -> Result<i64, Error> {
        within("read the losses of the audit trail", async { audit::losses(&mut *self.control().await?, BOUND).await })
            .await
    }

    /// Whether all jobs are paused in the database.
    pub async fn paused(&self) -> Result<Option<Pause>, Error> {
        within("read the pause flag", async { pauses::read(&mut *self.control().await?, BOUND).await }).await
    }
}

/// A call that is not answered in time is dropped, and its connection with it.
async fn within<T>(what: &'static str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_BOUND, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(Kind::Timeout, format!("{what}: no answer within {} s", CALL_BOUND.as_secs()))),
    }
}
