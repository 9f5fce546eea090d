//! Jobs: how they stand, and run, pause and resume.

use chrono::Utc;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::input::{Empty, invalid};
use super::mutation::{Mutation, MutationContext, MutationReply, MutationResult, run_detached};
use super::runs;
use crate::config::{Config, Job, JobName};
use crate::db::{Error, Purpose, Tx, TxFuture};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::scheduler::commands::{self, Found};
use crate::scheduler::job_status::{self, JobStatus, State};
use crate::store::overview::{self, Overview};
use crate::store::pauses::{self, ALL_JOBS, Pause};
use crate::store::requests::RunOptions;
use crate::store::run_history;

/// `GET /jobs`: the plan, and the ledger beside it. While the database is away, the plan and what this instance
/// remembers.
pub async fn list(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let read_overview = read_overview(&database).await;
    let overview = read_overview.as_ref().ok();
    let standing = database.status.read();
    let listed = job_status::merge(&config, database.db.name(), overview, Utc::now());
    let jobs: Vec<Value> = listed
        .iter()
        .map(|job| {
            let mut job_to_json = job_to_json(job, overview.is_some());
            if let (None, Some(known)) = (overview, standing.get(&JobName::new(&job.name))) {
                add_remembered(&mut job_to_json, known);
            }
            job_to_json
        })
        .collect();
    let body = json!({
        "target": database.db.name(),
        "source": if overview.is_some() { "database" } else { "memory" },
        "reason": read_overview.as_ref().err().map(|error| &error.detail),
        "observer": overview.and_then(|overview| overview.leader.as_ref()),
        "paused": match overview {
            Some(overview) => json!(overview.paused),
            None => json!(database.status.role().paused),
        },
        "jobs": jobs,
    });
    Ok(ok(&body))
}

async fn read_overview(database: &ApiDatabase) -> Result<Overview, HttpError> {
    let looked = async {
        let mut conn = database.db.acquire(Purpose::Api).await?;
        overview::read(&mut conn, database.read_timeout()).await
    };
    database.within(database.read_timeout(), looked).await
}

/// `read`: whether the ledger was. Of what was not, nothing is claimed.
fn job_to_json(job: &JobStatus, read_overview: bool) -> Value {
    let mut job_to_json = json!({
        "name": job.name,
        "kind": job.work,
        "state": job.state,
        "enabled": !matches!(job.state, State::Disabled | State::NotConfigured),
        "ticks": job.state == State::Measured,
        "schedule": job.schedule,
        "after": job.after,
        "timezone": job.timezone,
        "next_due": job.next.first().map(|at| at.to_utc()),
        "next_dues": job.next.iter().map(|at| at.to_utc()).collect::<Vec<_>>(),
        "differs": job.differs,
    });
    // Its members are named alike; without a row they are there, and empty, or not known.
    let ledger = serde_json::to_value(job.ledger.as_ref()).unwrap_or_default();
    for name in LEDGER {
        let value = ledger.get(name).cloned().unwrap_or_default();
        job_to_json[name] = match name {
            "succeeded_total" | "failed_total" | "skipped_total" | "failures_in_a_row"
                if read_overview =>
            {
                counted(value)
            }
            "average_ms" | "p95_ms" => {
                value.as_f64().map_or(Value::Null, |ms| json!((ms * 1000.0).round() / 1000.0))
            }
            _ => value,
        };
    }
    job_to_json
}

const LEDGER: [&str; 12] = [
    "paused",
    "running",
    "queued",
    "quarantined",
    "last",
    "last_success_at",
    "failures_in_a_row",
    "succeeded_total",
    "failed_total",
    "skipped_total",
    "average_ms",
    "p95_ms",
];

fn counted(value: Value) -> Value {
    if value.is_null() { json!(0) } else { value }
}

fn add_remembered(job_to_json: &mut Value, known: &crate::scheduler::JobRuntimeStatus) {
    job_to_json["last_success_at"] = json!(known.last_success_at);
    job_to_json["failures_in_a_row"] = json!(known.failures);
}

/// `GET /jobs/{name}/runs`
pub async fn runs(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["limit", "failed"])?;
    let (database, name) = (context.database()?, name(context)?);
    let (limit, failed) = (context.number("limit", 20, 1, 1000)?, context.flag("failed")?);
    let mut conn = database.connection().await?;
    let read_overview =
        run_history::list_for_job(&mut conn, name, failed, limit, database.db.query_timeout())
            .await;
    let entries = read_overview.map_err(|error| database.http_error(&error))?;
    if entries.is_empty() && !is_configured(&*context.state.databases.config()?, &database, name) {
        return Err(no_such_job(name));
    }
    let runs: Vec<Value> =
        entries.into_iter().map(|entry| runs::run_to_json(&database, entry)).collect();
    Ok(ok(&json!({ "target": database.db.name(), "job": name, "runs": runs })))
}

/// `POST /jobs/{name}/run`
pub async fn run(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let Empty {} = context.json()?;
    let job = name(context)?.to_owned();
    let done = run_detached(context, |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let configured = has_runs(&*state.databases.config()?, &database, &job)?;
        ctx.execute(&database, &QueueRun { job: &job, options: None, configured }).await
    })
    .await?;
    runs::respond_with_run(context, done).await
}

/// A run that is asked for through the ledger.
#[derive(Debug, Clone, Copy)]
pub struct QueueRun<'a> {
    pub job: &'a str,
    pub options: Option<&'a RunOptions>,
    /// Whether this instance's configuration has the job: then one of them will register it.
    pub configured: bool,
}

impl Mutation for QueueRun<'_> {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(queue_run(tx, ctx, *self))
    }
}

/// Asks for it, as a whole change.
pub async fn queue_run(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    ask: QueueRun<'_>,
) -> Result<MutationResult, Error> {
    let job = ask.job;
    Ok(match queue_run_in(tx, ctx, &ask).await? {
        Ok(id) => {
            let body = json!({ "run_id": id, "job": job, "state": "queued" });
            MutationResult::Done(ctx.accepted(body, id))
        }
        Err(error) => MutationResult::refused(error),
    })
}

/// Asks for it inside a transaction that may go on; the run's id, or why there is none.
pub async fn queue_run_in(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    ask: &QueueRun<'_>,
) -> Result<Result<Uuid, HttpError>, Error> {
    let QueueRun { job, options, configured } = *ask;
    Ok(match commands::run(tx, ctx.by(), job, options).await? {
        commands::Run::Queued { id } => Ok(id),
        commands::Run::Waiting { id } => Err(already_queued(job, id)),
        commands::Run::Paused { pause, all } => Err(paused(job, &pause, all)),
        commands::Run::Unknown { .. } if configured => Err(not_registered(job)),
        commands::Run::Unknown { .. } => Err(no_such_job(job)),
        commands::Run::Nobody => Err(no_leader()),
    })
}

fn already_queued(job: &str, id: Uuid) -> HttpError {
    let detail =
        format!("a run of {job} waits already: POST /runs/{id}/cancel takes it out of the queue");
    HttpError::new(StatusCode::CONFLICT, "waiting", detail).with("run_id", id.to_string())
}

fn paused(job: &str, pause: &Pause, all: bool) -> HttpError {
    let (what, resume) = if all { ("all jobs are", ALL_JOBS) } else { ("it is", job) };
    let detail = format!("{what} paused by {}; POST /jobs/{resume}/resume resumes", pause.by);
    HttpError::new(StatusCode::CONFLICT, "paused", detail).with("paused", json!(pause))
}

/// No job of this name.
pub fn no_such_job(name: &str) -> HttpError {
    let detail = format!("no instance of this database has a job {name:?}; GET /jobs lists them");
    HttpError::new(StatusCode::NOT_FOUND, "no_such_job", detail)
}

fn not_registered(job: &str) -> HttpError {
    let detail =
        format!("{job} is configured, and the instance that observes has not taken it up yet");
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "not_registered", detail)
        .retry_after(std::time::Duration::from_secs(1))
}

fn no_leader() -> HttpError {
    let detail =
        "no instance observes this database at the moment, so nobody would pick the run up";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "no_observer", detail)
        .retry_after(std::time::Duration::from_secs(5))
}

/// The body of a pause.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    reason: Option<String>,
}

/// `POST /jobs/{name}/pause`; the name `*` stands for all jobs.
pub async fn pause(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let PauseBody { reason } = context.json()?;
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > 1000 || reason.contains('\0'))
    {
        return Err(invalid("reason: wanted at most 1,000 characters without NUL"));
    }
    set_pause(context, true, reason).await
}

/// `POST /jobs/{name}/resume`
pub async fn resume(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let Empty {} = context.json()?;
    set_pause(context, false, None).await
}

async fn set_pause(
    context: &Context<'_>,
    pause: bool,
    reason: Option<String>,
) -> Result<Response, HttpError> {
    let job = name(context)?.to_owned();
    run_detached(context, move |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let configured = job == ALL_JOBS || has_runs(&*state.databases.config()?, &database, &job)?;
        let (done, replayed) =
            ctx.execute(&database, &SetPause { job, pause, reason, configured }).await?;
        Ok(done.response(replayed))
    })
    .await
}

struct SetPause {
    job: String,
    pause: bool,
    reason: Option<String>,
    /// A job of the configuration may be paused before an instance has registered it.
    configured: bool,
}

impl Mutation for SetPause {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(set_pause_in(tx, ctx, self))
    }
}

async fn set_pause_in(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    set_pause: &SetPause,
) -> Result<MutationResult, Error> {
    let SetPause { job, pause, reason, configured } = set_pause;
    let (job, pause, reason) = (job.as_str(), *pause, reason.as_deref());
    let found = match pause {
        true => commands::pause(tx, ctx.by(), job, reason, *configured).await?,
        false => commands::resume(tx, ctx.by(), job, *configured).await?,
    };
    let changed = match found {
        Found::Before(before) => pause == before.is_none(),
        Found::Unknown { .. } => return Ok(MutationResult::refused(no_such_job(job))),
    };
    let now = pauses::find(tx, job).await?;
    Ok(MutationResult::Done(MutationReply::ok(
        json!({ "job": job, "paused": now, "changed": changed }),
    )))
}

/// The job that the path names.
pub fn name<'c>(context: &'c Context<'_>) -> Result<&'c str, HttpError> {
    let name = context.segment.as_deref().unwrap_or_default();
    if name.len() > 128 || name.contains('\0') { Err(no_such_job("…")) } else { Ok(name) }
}

/// Whether the job is configured here; refused where it is one that only measures.
fn has_runs(config: &Config, database: &ApiDatabase, name: &str) -> Result<bool, HttpError> {
    if config.jobs.all.get(name).is_some_and(Job::is_measured) {
        let detail = format!(
            "{name} is measured on every tick of the instance that observes, outside the ledger: it has no runs to be \
             asked for or paused; jobs.{name}.enabled and jobs.{name}.schedule say whether and when"
        );
        return Err(HttpError::new(StatusCode::CONFLICT, "measured", detail));
    }
    Ok(is_configured(config, database, name))
}

fn is_configured(config: &Config, database: &ApiDatabase, name: &str) -> bool {
    config.jobs.all.get(name).is_some_and(|job| job.is_for(database.db.name()))
}
