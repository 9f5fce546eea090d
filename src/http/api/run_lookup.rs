//! Reads runs: from the ledger, and requested migrations from the memory of this instance.

use hyper::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::db::{Error, Purpose};
use crate::http::{ApiDatabase, HttpError};
use crate::scheduler::migrations::Attempt;
use crate::store::run_history::{self, RunEntry};

/// The name of the job under which a requested migration is listed.
pub const MIGRATIONS: &str = "migrations";

/// Returns a run, or `None` if there is none with this id.
pub async fn read(database: &ApiDatabase, id: Uuid) -> Result<Option<Value>, Error> {
    if let Some(migration) = requested_migration(database, id) {
        return Ok(Some(json!(migration)));
    }
    let mut conn = database.db.acquire(Purpose::Api).await?;
    let entry = run_history::read_run(&mut conn, id, database.db.query_timeout()).await?;
    Ok(entry.map(|entry| to_json(database, entry)))
}

/// Returns a run. Fails if there is none with this id.
pub async fn find(database: &ApiDatabase, id: Uuid) -> Result<Value, HttpError> {
    let run = read(database, id).await.map_err(|error| database.http_error(&error))?;
    run.ok_or_else(no_such_run)
}

/// Returns the JSON of a row. A run of this instance has its current progress, which is newer than
/// the one in its row.
pub fn to_json(database: &ApiDatabase, mut entry: RunEntry) -> Value {
    if !entry.is_over()
        && let Some(progress) = database.status.progress.of(entry.id)
    {
        entry.progress = serde_json::to_value(progress).ok();
    }
    json!(entry)
}

/// Whether the run has finished.
pub fn is_finished(run: &Value) -> bool {
    !matches!(run["state"].as_str(), Some("queued" | "running"))
}

pub fn no_such_run() -> HttpError {
    let detail =
        "no run has this id; finished runs are deleted after some time (jobs.history_keep)";
    HttpError::new(StatusCode::NOT_FOUND, "no_such_run", detail)
}

/// Returns a migration that was requested from this instance, in the form of a run.
pub fn requested_migration(database: &ApiDatabase, id: Uuid) -> Option<RunEntry> {
    let requests = database.status.migrations.read().asked;
    requests.into_iter().find(|request| request.id == id).map(to_entry)
}

fn to_entry(request: Attempt) -> RunEntry {
    let outcome = request.outcome;
    let error = outcome.as_ref().and_then(|outcome| outcome.error.clone());
    let state = match &outcome {
        None if !request.begun => "queued",
        None => "running",
        Some(_) if error.is_some() => "failed",
        Some(_) => "succeeded",
    };
    let finished_at = outcome.as_ref().map(|outcome| outcome.finished_at);
    let applied = outcome.as_ref().map(|outcome| outcome.applied.len());
    RunEntry {
        id: request.id,
        job: MIGRATIONS.to_owned(),
        kind: "manual".to_owned(),
        due_at: request.asked_at,
        last_due_at: None,
        missed_count: None,
        state: state.to_owned(),
        reason: None,
        actor: Some(request.actor),
        instance: None,
        attempts: 1,
        started_at: Some(request.asked_at),
        finished_at,
        duration_ms: finished_at.map(|at| (at - request.asked_at).num_milliseconds()),
        rows_affected: applied.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        error,
        fenced: None,
        cancel_by: None,
        detail: outcome.map(|outcome| json!({ "applied": outcome.applied })),
        progress: None,
    }
}
