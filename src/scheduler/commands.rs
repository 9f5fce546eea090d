//! What people order of jobs and runs: run, pause, resume, cancel. Each in the transaction of whoever brings the order,
//! the command line or the API, and with its row in the audit trail there.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{self, Event};
use crate::db::{Error, Tx};
use crate::store::audit::Origin;
use crate::store::pauses::{self, ALL_JOBS, Pause};
use crate::store::requests::{self, CancelResult, EnqueueResult, RunOptions};

/// Who commands, and from where.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    pub actor: &'a str,
    /// Where the order came from elsewhere.
    pub origin: Option<&'a Origin>,
}

impl By<'_> {
    async fn record(
        &self,
        tx: &Tx<'_>,
        action: &str,
        (kind, id): (&str, &str),
        details: &Value,
    ) -> Result<(), Error> {
        let event =
            Event { origin: self.origin, ..Event::new(self.actor, action, kind, id, details) };
        audit::record(tx, &event).await
    }
}

/// What an order to run came to.
#[derive(Debug)]
pub enum Run {
    /// It waits under this id.
    Queued { id: Uuid },
    /// One waits already.
    Waiting { id: Uuid },
    /// The job is paused, or `all` are.
    Paused { pause: Pause, all: bool },
    /// No instance has registered a job of this name; these are known.
    Unknown { known: Vec<String> },
    /// No instance observes, so that nobody would pick it up.
    Nobody,
}

/// Orders a run of a job. Nothing is left behind where it is not [`Run::Queued`]; the transaction may go on.
pub async fn run(
    tx: &Tx<'_>,
    by: By<'_>,
    job: &str,
    options: Option<&RunOptions>,
) -> Result<Run, Error> {
    tx.batch("mark where to go back to", "SAVEPOINT ordered").await?;
    let id = match requests::enqueue(tx, job, by.actor, options).await? {
        EnqueueResult::Queued { id, .. } => id,
        EnqueueResult::AlreadyQueued { id } => return Ok(Run::Waiting { id }),
        EnqueueResult::Paused { pause, all } => return Ok(Run::Paused { pause, all }),
        EnqueueResult::Unknown { known } => return Ok(Run::Unknown { known }),
    };
    if requests::current_leader(tx).await?.is_none() {
        tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT ordered").await?;
        return Ok(Run::Nobody);
    }
    let mut details = json!({ "run_id": id });
    if let Some(options) = options {
        details["options"] = json!(options);
    }
    by.record(tx, "job.run", ("job", job), &details).await?;
    Ok(Run::Queued { id })
}

/// What an order to pause or to resume found.
#[derive(Debug)]
pub enum Found {
    /// By whom it was paused before; `None` where it was not.
    Before(Option<Pause>),
    /// No instance has registered a job of this name; these are known.
    Unknown { known: Vec<String> },
}

/// Pauses a job, or [`ALL_JOBS`]. A pause that holds already stays as it is. A job that is `configured` may be paused
/// before an instance has registered it.
pub async fn pause(
    tx: &Tx<'_>,
    by: By<'_>,
    job: &str,
    reason: Option<&str>,
    configured: bool,
) -> Result<Found, Error> {
    if let Some(known) = unknown(tx, job, configured).await? {
        return Ok(Found::Unknown { known });
    }
    let before = pauses::pause(tx, job, by.actor, reason).await?;
    if before.is_none() {
        let (action, resource) =
            if job == ALL_JOBS { ("jobs.pause", "jobs") } else { ("job.pause", "job") };
        by.record(tx, action, (resource, job), &json!({ "reason": reason })).await?;
    }
    Ok(Found::Before(before))
}

/// Resumes a job, or [`ALL_JOBS`].
pub async fn resume(tx: &Tx<'_>, by: By<'_>, job: &str, configured: bool) -> Result<Found, Error> {
    if let Some(known) = unknown(tx, job, configured).await? {
        return Ok(Found::Unknown { known });
    }
    let before = pauses::resume(tx, job).await?;
    if let Some(before) = &before {
        let (action, resource) =
            if job == ALL_JOBS { ("jobs.resume", "jobs") } else { ("job.resume", "job") };
        by.record(tx, action, (resource, job), &json!({ "was": before })).await?;
    }
    Ok(Found::Before(before))
}

/// The jobs that are known, where this one is not.
async fn unknown(tx: &Tx<'_>, job: &str, configured: bool) -> Result<Option<Vec<String>>, Error> {
    if configured || job == ALL_JOBS {
        return Ok(None);
    }
    let known = requests::job_names(tx).await?;
    Ok((!known.iter().any(|name| name == job)).then_some(known))
}

/// Orders a run to be cancelled; one that waits ends at once.
pub async fn cancel(tx: &Tx<'_>, by: By<'_>, id: Uuid) -> Result<CancelResult, Error> {
    let cancelled = requests::cancel(tx, id, by.actor).await?;
    let (job, was) = match &cancelled {
        CancelResult::Requested { job, again: false, .. } => (job, "running"),
        CancelResult::Dequeued { job } => (job, "queued"),
        CancelResult::Requested { .. }
        | CancelResult::AlreadyFinished { .. }
        | CancelResult::Unknown => {
            return Ok(cancelled);
        }
    };
    by.record(tx, "job.cancel", ("job_run", &id.to_string()), &json!({ "job": job, "was": was }))
        .await?;
    Ok(cancelled)
}
