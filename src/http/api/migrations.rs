//! Migrations: how they stand, what would run, and running it.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use super::act::{Acting, Change, Effect, detached};
use crate::audit::{self, Event};
use crate::db::{Kind, Purpose, Tx, TxFuture};
use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::migrate::{self, plan::Plan, source::Set};
use crate::scheduler::RuntimeStatus;
use crate::scheduler::migrations::Attempt;
use crate::scheduler::pipeline::PipelineCommand;
use crate::store::audit as trail;
use crate::store::run_history::Entry;

/// When it is worth trying again.
const RETRY: Duration = Duration::from_secs(5);
/// The name under which an attempt is told among runs.
const JOB: &str = "migrations";

/// `GET /health/database/migrations`
pub async fn status(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, sets) = (context.desk()?, sets(context)?);
    let lines = migrate::status(&desk.db, Purpose::Api, &sets)
        .await
        .map_err(|error| refusal(&desk, &error))?;
    let standing = desk.standing.migrations.read();
    let body = json!({
        "target": desk.db.name(),
        "state": standing.state,
        "failed": standing.failed,
        "mismatches": standing.mismatches,
        "migrations": lines,
    });
    Ok(answer(StatusCode::OK, "application/json", &body))
}

fn sets(context: &Context<'_>) -> Result<Vec<Set>, Refusal> {
    let config = context.state.desks.config()?;
    migrate::configured_sets(&config).map_err(|error| {
        tracing::warn!(error = %error, "the files of migrations cannot be read");
        let detail = "the files of migrations cannot be read; the log says why";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "migrations_unreadable", detail)
    })
}

/// What may be told of an error: the file that it names and the kind.
fn refusal(desk: &Desk, error: &migrate::Error) -> Refusal {
    tracing::debug!(database = desk.db.name(), error = %error, "migrations cannot be looked at");
    let kind = error.db_kind().map_or("refused", Kind::as_str);
    let detail = format!("the history of migrations cannot be read: {kind}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail)
        .with("reason", kind)
        .later(RETRY)
}

/// The body of a request to migrate.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /health/database/migrations`
pub async fn apply(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let Wanted { dry_run } = context.json()?;
    if dry_run {
        return plan(context).await;
    }
    let done = detached(context, |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let id = Uuid::now_v7();
        let (done, replayed) = acting.once(&desk, &Apply(id)).await?;
        if !replayed {
            desk.standing.migrations.ask(id, acting.actor());
            // Where as many wait to be heard already, this one is begun with them.
            if let Err(TrySendError::Closed(_)) = desk.commands.try_send(PipelineCommand::Migrate) {
                let detail = "pgsteward is stopping";
                return Err(
                    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail).later(RETRY)
                );
            }
        }
        Ok((done, replayed))
    })
    .await?;
    super::runs::answered(context, done).await
}

/// The request on the record. What it asks for is in memory: a daemon that dies before it applies what is pending
/// does so at its next start.
struct Apply(Uuid);

impl Change for Apply {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(async move {
            let body = json!({ "run_id": self.0, "job": JOB, "state": "queued" });
            // The trail may be among what is to be made.
            if trail::exists(tx).await? {
                let details = json!({ "run_id": self.0 });
                let event = Event::new(
                    acting.actor(),
                    "migrations.run",
                    "database",
                    "migrations",
                    &details,
                );
                audit::record(tx, &event.from(&acting.origin)).await?;
            }
            Ok(Effect::Done(acting.accepted(body, self.0)))
        })
    }
}

/// What would run, with its SQL.
async fn plan(context: &Context<'_>) -> Result<Answer, Refusal> {
    let (desk, sets) = (context.desk()?, sets(context)?);
    let history =
        migrate::history(&desk.db, Purpose::Api).await.map_err(|error| refusal(&desk, &error))?;
    let plans: Vec<Plan<'_>> = sets.iter().map(|set| Plan::new(set, &history)).collect();
    let pending: Vec<Value> = plans
        .iter()
        .flat_map(|plan| &plan.pending)
        .map(|migration| {
            json!({
                "set": migration.set,
                "version": migration.version,
                "name": migration.name,
                "file": migration.file,
                "checksum": migration.checksum,
                "sql": migration.up,
                "reversible": migration.down.is_some(),
            })
        })
        .collect();
    let lines: Vec<&migrate::plan::Line> = plans.iter().flat_map(|plan| &plan.lines).collect();
    let body = json!({
        "target": desk.db.name(),
        "dry_run": true,
        "pending": pending,
        "refused": plans.iter().find_map(Plan::refusal),
        "migrations": lines,
    });
    Ok(answer(StatusCode::OK, "application/json", &body))
}

/// An attempt that was asked for, in the form of a run.
pub fn attempt(desk: &Desk, id: Uuid) -> Option<Value> {
    attempt_of(&desk.standing, id)
}

/// The same for who follows it.
pub fn attempt_of(standing: &RuntimeStatus, id: Uuid) -> Option<Value> {
    let attempt = standing.migrations.read().asked.into_iter().find(|asked| asked.id == id)?;
    Some(json!(entry(attempt)))
}

fn entry(attempt: Attempt) -> Entry {
    let outcome = attempt.outcome;
    let state = match &outcome {
        None if !attempt.begun => "queued",
        None => "running",
        Some(outcome) if outcome.error.is_some() => "failed",
        Some(_) => "succeeded",
    };
    let finished_at = outcome.as_ref().map(|outcome| outcome.finished_at);
    Entry {
        id: attempt.id,
        job: JOB.to_owned(),
        kind: "manual".to_owned(),
        due_at: attempt.asked_at,
        last_due_at: None,
        missed_count: None,
        state: state.to_owned(),
        reason: None,
        actor: Some(attempt.actor),
        instance: None,
        attempts: 1,
        started_at: Some(attempt.asked_at),
        finished_at,
        duration_ms: finished_at.map(|at| (at - attempt.asked_at).num_milliseconds()),
        rows_affected: outcome
            .as_ref()
            .map(|outcome| i64::try_from(outcome.applied.len()).unwrap_or(i64::MAX)),
        error: outcome.as_ref().and_then(|outcome| outcome.error.clone()),
        fenced: None,
        cancel_by: None,
        detail: outcome.map(|outcome| json!({ "applied": outcome.applied })),
        progress: None,
    }
}
