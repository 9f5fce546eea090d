//! `GET` and `POST /health/database/migrations`: their state, the plan, and applying them.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use uuid::Uuid;

use super::mutation::{MutationContext, MutationResult, run_detached};
use super::run_lookup::MIGRATIONS;
use super::run_response::respond_with_run;
use crate::audit::{self, Event};
use crate::db::{Error, Kind, Purpose, Tx};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::migrate::{self, plan::Plan, source::Set};
use crate::scheduler::pipeline::PipelineCommand;
use crate::store::audit as audit_log;

const RETRY_AFTER: Duration = Duration::from_secs(5);

/// `GET /health/database/migrations`
pub async fn status(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, sets) = (context.database()?, sets(context)?);
    let migrations = migrate::status(&database.db, Purpose::Api, &sets)
        .await
        .map_err(|error| http_error(&database, &error))?;
    let status = database.status.migrations.read();
    Ok(ok(&json!({
        "target": database.db.name(),
        "state": status.state,
        "failed": status.failed,
        "mismatches": status.mismatches,
        "migrations": migrations,
    })))
}

fn sets(context: &Context<'_>) -> Result<Vec<Set>, HttpError> {
    let config = context.state.databases.config()?;
    migrate::configured_sets(&config).map_err(|error| {
        tracing::warn!(error = %error, "cannot read the migration files");
        let detail = "cannot read the migration files; see the log for the cause";
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "migrations_unreadable", detail)
    })
}

/// Returns the kind of the error only. Its message may contain what callers must not see.
fn http_error(database: &ApiDatabase, error: &migrate::Error) -> HttpError {
    tracing::debug!(database = database.db.name(), error = %error, "cannot read migrations");
    let kind = error.db_kind().map_or("refused", Kind::as_str);
    let detail = format!("cannot read the history of migrations: {kind}");
    HttpError::unavailable("database_unavailable", detail, RETRY_AFTER).with("reason", kind)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyBody {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /health/database/migrations`
pub async fn apply(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let ApplyBody { dry_run } = context.json()?;
    if dry_run {
        return plan(context).await;
    }
    let reply = run_detached(context, key, |ctx| async move {
        let id = Uuid::now_v7();
        let reply = ctx.execute(&id, |tx, ctx, id| Box::pin(record_request(tx, ctx, *id))).await?;
        if !reply.replayed {
            ctx.database.status.migrations.ask(id, ctx.actor());
            // If the queue is full, this request is served together with those in the queue.
            let sent = ctx.database.commands.try_send(PipelineCommand::Migrate);
            if let Err(TrySendError::Closed(_)) = sent {
                let detail = "pgsteward is stopping";
                return Err(HttpError::unavailable("starting", detail, RETRY_AFTER));
            }
        }
        Ok(reply)
    })
    .await?;
    respond_with_run(context, reply).await
}

/// Records the request in the audit log. The request itself is kept in memory only: a daemon that
/// stops before it has applied the pending migrations applies them at its next start.
async fn record_request(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    id: Uuid,
) -> Result<MutationResult, Error> {
    // A pending migration may create the audit log.
    if audit_log::exists(tx).await? {
        let details = json!({ "run_id": id });
        let event = Event::new(ctx.actor(), "migrations.run", "database", "migrations", &details);
        audit::record(tx, &event.from(&ctx.origin)).await?;
    }
    let body = json!({ "run_id": id, "job": MIGRATIONS, "state": "queued" });
    Ok(Ok(ctx.accepted(body, id)))
}

/// Returns the pending migrations with their SQL.
async fn plan(context: &Context<'_>) -> Result<Response, HttpError> {
    let (database, sets) = (context.database()?, sets(context)?);
    let history = migrate::history(&database.db, Purpose::Api)
        .await
        .map_err(|error| http_error(&database, &error))?;
    let plans: Vec<Plan<'_>> = sets.iter().map(|set| Plan::new(set, &history)).collect();
    let pending = plans.iter().flat_map(|plan| &plan.pending).map(|migration| {
        json!({
            "set": migration.set,
            "version": migration.version,
            "name": migration.name,
            "file": migration.file,
            "checksum": migration.checksum,
            "sql": migration.up,
            "reversible": migration.down.is_some(),
        })
    });
    let migrations: Vec<_> = plans.iter().flat_map(|plan| &plan.lines).collect();
    Ok(ok(&json!({
        "target": database.db.name(),
        "dry_run": true,
        "pending": pending.collect::<Vec<Value>>(),
        "refused": plans.iter().find_map(Plan::refusal),
        "migrations": migrations,
    })))
}
