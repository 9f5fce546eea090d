//! Migrations: how they stand, what would run, and running it.

use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::act::{Done, detached};
use crate::db::Kind;
use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::migrate::{self, plan::Plan, source::Set};
use crate::schedule::Standing;
use crate::schedule::migrations::Attempt;
use crate::schedule::pipeline::Errand;
use crate::store::run_history::Entry;

/// How long a pipeline may take to hear of an errand: it comes round each second.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// The name under which an attempt is told among runs.
const JOB: &str = "migrations";

/// `GET /health/database/migrations`
pub async fn status(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, sets) = (context.desk()?, sets(context)?);
    let lines = migrate::status(&desk.db, &sets).await.map_err(|error| refusal(&desk, &error))?;
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
        .later(Duration::from_secs(5))
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
    let wait = context.wait();
    let (id, done) = detached(context, |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let id = Uuid::now_v7();
        let errand = Errand::Migrate { id, actor: acting.actor().to_owned() };
        let mut follow = desk.standing.migrations.follow();
        let heard = async {
            desk.errands.send(errand).await.ok()?;
            follow.wait_for(|standing| standing.asked.as_ref().is_some_and(|asked| asked.id >= id)).await.ok().map(drop)
        };
        if let Ok(Some(())) = timeout(HEARD_WITHIN, heard).await {
            let body = json!({ "run_id": id, "job": JOB, "state": "queued" });
            return Ok((id, Done::accepted(body, format!("/runs/{id}"))));
        }
        let detail = "the database's pipeline is busy or ending; try again";
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).later(HEARD_WITHIN))
    })
    .await?;
    match wait {
        Some(wait) => super::runs::ended_within(context, id, wait, &done).await,
        None => Ok(done.answer(false)),
    }
}

/// What would run, with its SQL.
async fn plan(context: &Context<'_>) -> Result<Answer, Refusal> {
    let (desk, sets) = (context.desk()?, sets(context)?);
    let history = migrate::history(&desk.db).await.map_err(|error| refusal(&desk, &error))?;
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
pub fn attempt_of(standing: &Standing, id: Uuid) -> Option<Value> {
    let attempt = standing.migrations.read().asked.filter(|asked| asked.id == id)?;
    Some(json!(entry(attempt)))
}

fn entry(attempt: Attempt) -> Entry {
    let outcome = attempt.outcome;
    let state = match &outcome {
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
        rows_affected: outcome.as_ref().map(|outcome| i64::try_from(outcome.applied.len()).unwrap_or(i64::MAX)),
        error: outcome.as_ref().and_then(|outcome| outcome.error.clone()),
        fenced: None,
        cancel_by: None,
        detail: outcome.map(|outcome| json!({ "applied": outcome.applied })),
        progress: None,
    }
}
