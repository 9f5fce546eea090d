//! `GET /jobs`, and for each job its runs, `run`, `pause` and `resume`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::idempotency_key::IdempotencyKey;
use super::input::Empty;
use super::mutation::{MutationContext, MutationReply, MutationResult, run_detached};
use super::queue_run::{QueueRun, no_such_job};
use super::run_lookup;
use super::run_response::respond_with_run;
use crate::config::{Config, Job, JobName};
use crate::db::{Error, Purpose, Tx};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::scheduler::JobRuntimeStatus;
use crate::scheduler::commands::{self, Found};
use crate::scheduler::job_status::{self, JobStatus, State};
use crate::store::overview::{self, Overview};
use crate::store::pauses::{self, ALL_JOBS};
use crate::store::run_history;

const REASON_CHARS_MAX: usize = 1000;
const NAME_MAX: usize = 128;

/// `GET /jobs`: the schedule of each job and its state in the ledger. While the database is
/// unavailable, the schedule and the state that this instance remembers.
pub async fn list(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let read = read_overview(&database).await;
    let overview = read.as_ref().ok();
    let remembered = database.status.read();
    let jobs = job_status::merge(&config, database.db.name(), overview, Utc::now());
    let jobs: Vec<Value> = jobs
        .iter()
        .map(|job| to_json(job, overview.is_some(), remembered.get(&JobName::new(&job.name))))
        .collect();
    let paused = match overview {
        Some(overview) => json!(overview.paused),
        None => json!(database.status.role().paused),
    };
    Ok(ok(&json!({
        "target": database.db.name(),
        "source": if overview.is_some() { "database" } else { "memory" },
        "reason": read.as_ref().err().map(|error| &error.detail),
        "leader": overview.and_then(|overview| overview.leader.as_ref()),
        "paused": paused,
        "jobs": jobs,
    })))
}

async fn read_overview(database: &ApiDatabase) -> Result<Overview, HttpError> {
    let read = async {
        let mut conn = database.db.acquire(Purpose::Api).await?;
        overview::read(&mut conn, database.read_timeout()).await
    };
    database.within(database.read_timeout(), read).await
}

/// A job as the API lists it.
#[derive(Serialize)]
struct JobReply<'a> {
    name: &'a str,
    kind: Option<&'static str>,
    state: State,
    enabled: bool,
    schedule: Option<&'a str>,
    after: &'a [JobName],
    timezone: Option<&'static str>,
    next_due: Option<DateTime<Utc>>,
    upcoming: Vec<DateTime<Utc>>,
    config_differs: bool,
    /// The members of [`overview::JobSummary`].
    #[serde(flatten)]
    ledger: Value,
}

/// Members of [`overview::JobSummary`] that are 0 for a job without a row, and unknown without the ledger.
const COUNTERS: [&str; 4] =
    ["consecutive_failures", "succeeded_total", "failed_total", "skipped_total"];

/// Without the ledger its members are null, except those that this instance remembers.
fn to_json(job: &JobStatus, from_ledger: bool, remembered: Option<&JobRuntimeStatus>) -> Value {
    let mut ledger = json!(job.ledger.as_ref().unwrap_or(&overview::JobSummary::default()));
    if !from_ledger {
        COUNTERS.iter().for_each(|name| ledger[name] = Value::Null);
        if let Some(remembered) = remembered {
            ledger["last_success_at"] = json!(remembered.last_success_at);
            ledger["consecutive_failures"] = json!(remembered.failures);
        }
    }
    for name in ["average_ms", "p95_ms"] {
        if let Some(ms) = ledger[name].as_f64() {
            ledger[name] = json!((ms * 1000.0).round() / 1000.0);
        }
    }
    let upcoming: Vec<DateTime<Utc>> = job.next.iter().map(DateTime::to_utc).collect();
    json!(JobReply {
        name: &job.name,
        kind: job.work,
        state: job.state,
        enabled: !matches!(job.state, State::Disabled | State::NotConfigured),
        schedule: job.schedule.as_deref(),
        after: &job.after,
        timezone: job.timezone,
        next_due: upcoming.first().copied(),
        upcoming,
        config_differs: job.config_differs,
        ledger,
    })
}

/// `GET /jobs/{name}/runs`
pub async fn runs(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&["limit", "failed"])?;
    let (database, name) = (context.database()?, name(context)?);
    let (limit, failed) = (context.number("limit", 20, 1, 1000)?, context.flag("failed")?);
    let mut conn = database.connection().await?;
    let bound = database.db.query_timeout();
    let entries = run_history::list_for_job(&mut conn, name, failed, limit, bound)
        .await
        .map_err(|error| database.http_error(&error))?;
    if entries.is_empty() && !is_configured(&*context.state.databases.config()?, &database, name) {
        return Err(no_such_job(name));
    }
    let runs: Vec<Value> =
        entries.into_iter().map(|entry| run_lookup::to_json(&database, entry)).collect();
    Ok(ok(&json!({ "target": database.db.name(), "job": name, "runs": runs })))
}

/// `POST /jobs/{name}/run`
pub async fn run(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let Empty {} = context.json()?;
    let job = name(context)?.to_owned();
    let reply = run_detached(context, key, |ctx| async move {
        let run = QueueRun { job: &job, options: None, configured: has_runs(&ctx, &job)? };
        ctx.execute(&run, |tx, ctx, run| Box::pin(run.apply(tx, ctx))).await
    })
    .await?;
    respond_with_run(context, reply).await
}

/// The body of a pause.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    reason: Option<String>,
}

/// `POST /jobs/{name}/pause`; the name `*` pauses all jobs.
pub async fn pause(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let PauseBody { reason } = context.json()?;
    let invalid =
        |reason: &String| reason.chars().count() > REASON_CHARS_MAX || reason.contains('\0');
    if reason.as_ref().is_some_and(invalid) {
        return Err(HttpError::invalid(format!(
            "reason: expected at most {REASON_CHARS_MAX} characters without NUL"
        )));
    }
    set_pause(context, key, true, reason).await
}

/// `POST /jobs/{name}/resume`; the name `*` resumes all jobs.
pub async fn resume(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let Empty {} = context.json()?;
    set_pause(context, key, false, None).await
}

async fn set_pause(
    context: &Context<'_>,
    key: Option<IdempotencyKey>,
    pause: bool,
    reason: Option<String>,
) -> Result<Response, HttpError> {
    let job = name(context)?.to_owned();
    let reply = run_detached(context, key, move |ctx| async move {
        let configured = job == ALL_JOBS || has_runs(&ctx, &job)?;
        let params = SetPause { job, pause, reason, configured };
        ctx.execute(&params, |tx, ctx, params| Box::pin(params.apply(tx, ctx))).await
    })
    .await?;
    Ok(reply.response())
}

struct SetPause {
    job: String,
    pause: bool,
    reason: Option<String>,
    /// A configured job can be paused before an instance has registered it.
    configured: bool,
}

impl SetPause {
    async fn apply(&self, tx: &Tx<'_>, ctx: &MutationContext) -> Result<MutationResult, Error> {
        let (job, reason) = (self.job.as_str(), self.reason.as_deref());
        let found = match self.pause {
            true => commands::pause(tx, ctx.by(), job, reason, self.configured).await?,
            false => commands::resume(tx, ctx.by(), job, self.configured).await?,
        };
        let changed = match found {
            Found::Before(before) => self.pause == before.is_none(),
            Found::Unknown { .. } => return Ok(Err(no_such_job(job))),
        };
        let paused = pauses::find(tx, job).await?;
        let body = json!({ "job": job, "paused": paused, "changed": changed });
        Ok(Ok(MutationReply::ok(body)))
    }
}

/// Returns the name of the job in the path.
fn name<'c>(context: &'c Context<'_>) -> Result<&'c str, HttpError> {
    let name = context.segment.as_deref().unwrap_or_default();
    if name.len() > NAME_MAX || name.contains('\0') { Err(no_such_job("…")) } else { Ok(name) }
}

/// Whether the job is configured. Fails if it is one that runs outside of the ledger.
fn has_runs(ctx: &MutationContext, name: &str) -> Result<bool, HttpError> {
    let config = ctx.state.databases.config()?;
    if config.jobs.all.get(name).is_some_and(Job::is_measured) {
        return Err(HttpError::conflict(
            "job_has_no_runs",
            format!(
                "the leader runs {name} on every tick, without runs that can be requested or \
                 paused; use jobs.{name}.enabled and jobs.{name}.schedule instead"
            ),
        ));
    }
    Ok(is_configured(&config, &ctx.database, name))
}

fn is_configured(config: &Config, database: &ApiDatabase, name: &str) -> bool {
    config.jobs.all.get(name).is_some_and(|job| job.is_for(database.db.name()))
}
