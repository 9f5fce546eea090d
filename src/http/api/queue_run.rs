//! Queues a run of a job, inside the transaction of a mutation.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::mutation::{MutationContext, MutationResult};
use crate::db::{Error, Tx};
use crate::http::HttpError;
use crate::scheduler::commands;
use crate::store::pauses::{ALL_JOBS, Pause};
use crate::store::requests::RunOptions;

/// A run to queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueRun<'a> {
    pub job: &'a str,
    pub options: Option<&'a RunOptions>,
    /// Whether this instance's configuration has the job. Then the leader will register it.
    pub configured: bool,
}

impl QueueRun<'_> {
    /// Queues the run as the only change of a request.
    pub async fn apply(&self, tx: &Tx<'_>, ctx: &MutationContext) -> Result<MutationResult, Error> {
        let queued = self.queue(tx, ctx).await?;
        Ok(queued.map(|id| {
            ctx.accepted(json!({ "run_id": id, "job": self.job, "state": "queued" }), id)
        }))
    }

    /// Queues the run as one of several changes. Returns the id of the run.
    pub async fn queue(
        &self,
        tx: &Tx<'_>,
        ctx: &MutationContext,
    ) -> Result<Result<Uuid, HttpError>, Error> {
        let QueueRun { job, options, configured } = *self;
        Ok(match commands::run(tx, ctx.by(), job, options).await? {
            commands::Run::Queued { id } => Ok(id),
            commands::Run::Waiting { id } => Err(already_queued(job, id)),
            commands::Run::Paused { pause, all } => Err(paused(job, &pause, all)),
            commands::Run::Unknown { .. } if configured => Err(not_registered(job)),
            commands::Run::Unknown { .. } => Err(no_such_job(job)),
            commands::Run::Nobody => Err(no_leader()),
        })
    }
}

fn already_queued(job: &str, id: Uuid) -> HttpError {
    let detail = format!(
        "a run of {job} is queued already; POST /runs/{id}/cancel removes it from the queue"
    );
    HttpError::conflict("already_queued", detail).with("run_id", id.to_string())
}

fn paused(job: &str, pause: &Pause, all: bool) -> HttpError {
    let (subject, name) =
        if all { ("all jobs are".to_owned(), ALL_JOBS) } else { (format!("{job} is"), job) };
    let detail = format!("{subject} paused by {}; POST /jobs/{name}/resume resumes", pause.by);
    HttpError::conflict("paused", detail).with("paused", json!(pause))
}

/// The name is that of no job.
pub fn no_such_job(name: &str) -> HttpError {
    let detail = format!("no instance of this database has a job {name:?}; GET /jobs lists them");
    HttpError::new(StatusCode::NOT_FOUND, "no_such_job", detail)
}

fn not_registered(job: &str) -> HttpError {
    let detail = format!("{job} is configured, but the leader has not registered it yet");
    HttpError::unavailable("not_registered", detail, Duration::from_secs(1))
}

fn no_leader() -> HttpError {
    let detail = "no instance is the leader for this database, so no instance would start the run";
    HttpError::unavailable("no_leader", detail, Duration::from_secs(5))
}
