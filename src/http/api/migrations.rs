//! Migrations: how they stand, what would run, and running it.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use super::mutation::{Mutation, MutationContext, MutationResult, run_detached};
use crate::audit::{self, Event};
use crate::db::{Kind, Purpose, Tx, TxFuture};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::migrate::{self, plan::Plan, source::Set};
use crate::scheduler::RuntimeStatus;
use crate::scheduler::migrations::Attempt;
use crate::scheduler::pipeline::PipelineCommand;
use crate::store::audit as audit_log;
use crate::store::run_history::RunEntry;

/// When it is worth trying again.
const RETRY: Duration = Duration::from_secs(5);
/// The name under which an attempt is told among runs.
const JOB: &str = "migrations";

/// `GET /health/database/migrations`
pub async fn status(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, sets) = (context.database()?, sets(context)?);
    let lines = migrate::status(&database.db, Purpose::Api, &sets)
        .await
        .map_err(|error| http_error(&database, &error))?;
    let standing = database.status.migrations.read();
    let body = json!({
        "target": database.db.name(),
        "state": standing.state,
        "failed": standing.failed,
        "mismatches": standing.mismatches,
        "migrations": lines,
    });
    Ok(ok(&body))
}

fn sets(context: &Context<'_>) -> Result<Vec<Set>, HttpError> {
    let config = context.state.databases.config()?;
    migrate::configured_sets(&config).map_err(|error| {
        tracing::warn!(error = %error, "the files of migrations cannot be read");
        let detail = "the files of migrations cannot be read; the log says why";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "migrations_unreadable", detail)
    })
}

/// What may be told of an error: the file that it names and the kind.
fn http_error(database: &ApiDatabase, error: &migrate::Error) -> HttpError {
    tracing::debug!(database = database.db.name(), error = %error, "migrations cannot be looked at");
    let kind = error.db_kind().map_or("refused", Kind::as_str);
    let detail = format!("the history of migrations cannot be read: {kind}");
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "database_unavailable", detail)
        .with("reason", kind)
        .retry_after(RETRY)
}

/// The body of a request to migrate.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /health/database/migrations`
pub async fn apply(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let ApplyBody { dry_run } = context.json()?;
    if dry_run {
        return plan(context).await;
    }
    let done = run_detached(context, |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let id = Uuid::now_v7();
        let (done, replayed) = ctx.execute(&database, &RequestMigration(id)).await?;
        if !replayed {
            database.status.migrations.ask(id, ctx.actor());
            // Where as many wait to be heard already, this one is begun with them.
            if let Err(TrySendError::Closed(_)) =
                database.commands.try_send(PipelineCommand::Migrate)
            {
                let detail = "pgsteward is stopping";
                return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail)
                    .retry_after(RETRY));
            }
        }
        Ok((done, replayed))
    })
    .await?;
    super::runs::respond_with_run(context, done).await
}

/// The request on the record. What it asks for is in memory: a daemon that dies before it applies what is pending
/// does so at its next start.
struct RequestMigration(Uuid);

impl Mutation for RequestMigration {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(async move {
            let body = json!({ "run_id": self.0, "job": JOB, "state": "queued" });
            // The trail may be among what is to be made.
            if audit_log::exists(tx).await? {
                let details = json!({ "run_id": self.0 });
                let event =
                    Event::new(ctx.actor(), "migrations.run", "database", "migrations", &details);
                audit::record(tx, &event.from(&ctx.origin)).await?;
            }
            Ok(MutationResult::Done(ctx.accepted(body, self.0)))
        })
    }
}

/// What would run, with its SQL.
async fn plan(context: &Context<'_>) -> Result<Response, HttpError> {
    let (database, sets) = (context.database()?, sets(context)?);
    let history = migrate::history(&database.db, Purpose::Api)
        .await
        .map_err(|error| http_error(&database, &error))?;
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
        "target": database.db.name(),
        "dry_run": true,
        "pending": pending,
        "refused": plans.iter().find_map(Plan::refusal),
        "migrations": lines,
    });
    Ok(ok(&body))
}

/// An attempt that was asked for, in the form of a run.
pub fn attempt(database: &ApiDatabase, id: Uuid) -> Option<Value> {
    attempt_of(&database.status, id)
}

/// The same for who follows it.
pub fn attempt_of(standing: &RuntimeStatus, id: Uuid) -> Option<Value> {
    let attempt = standing.migrations.read().asked.into_iter().find(|asked| asked.id == id)?;
    Some(json!(entry(attempt)))
}

fn entry(attempt: Attempt) -> RunEntry {
    let outcome = attempt.outcome;
    let state = match &outcome {
        None if !attempt.begun => "queued",
        None => "running",
        Some(outcome) if outcome.error.is_some() => "failed",
        Some(_) => "succeeded",
    };
    let finished_at = outcome.as_ref().map(|outcome| outcome.finished_at);
    RunEntry {
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
