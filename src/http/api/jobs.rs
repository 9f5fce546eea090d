//! Jobs: how they stand, and run, pause and resume.

use chrono::Utc;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::act::{Acting, Change, Done, Effect, detached};
use super::input::{Empty, invalid};
use super::runs;
use crate::config::{Config, Job, JobName};
use crate::db::{Error, Purpose, Tx, TxFuture};
use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::scheduler::commands::{self, Found};
use crate::scheduler::job_status::{self, JobStatus, State};
use crate::store::overview::{self, Overview};
use crate::store::pauses::{self, ALL_JOBS, Pause};
use crate::store::requests::RunOptions;
use crate::store::run_history;

/// `GET /jobs`: the plan, and the ledger beside it. While the database is away, the plan and what this instance
/// remembers.
pub async fn list(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, config) = (context.desk()?, context.state.desks.config()?);
    let read = read(&desk).await;
    let overview = read.as_ref().ok();
    let standing = desk.standing.read();
    let listed = job_status::merge(&config, desk.db.name(), overview, Utc::now());
    let jobs: Vec<Value> = listed
        .iter()
        .map(|job| {
            let mut told = told(job, overview.is_some());
            if let (None, Some(known)) = (overview, standing.get(&JobName::new(&job.name))) {
                remembered(&mut told, known);
            }
            told
        })
        .collect();
    let body = json!({
        "target": desk.db.name(),
        "source": if overview.is_some() { "database" } else { "memory" },
        "reason": read.as_ref().err().map(|refusal| &refusal.detail),
        "observer": overview.and_then(|overview| overview.observer.as_ref()),
        "paused": match overview {
            Some(overview) => json!(overview.paused),
            None => json!(desk.standing.role().paused),
        },
        "jobs": jobs,
    });
    Ok(answer(StatusCode::OK, "application/json", &body))
}

async fn read(desk: &Desk) -> Result<Overview, Refusal> {
    let looked = async {
        let mut conn = desk.db.acquire(Purpose::Api).await?;
        overview::read(&mut conn, desk.impatience()).await
    };
    desk.within(desk.impatience(), looked).await
}

/// `read`: whether the ledger was. Of what was not, nothing is claimed.
fn told(job: &JobStatus, read: bool) -> Value {
    let mut told = json!({
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
        told[name] = match name {
            "succeeded_total" | "failed_total" | "skipped_total" | "failures_in_a_row" if read => {
                counted(value)
            }
            "average_ms" | "p95_ms" => {
                value.as_f64().map_or(Value::Null, |ms| json!((ms * 1000.0).round() / 1000.0))
            }
            _ => value,
        };
    }
    told
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

fn remembered(told: &mut Value, known: &crate::scheduler::JobRuntimeStatus) {
    told["last_success_at"] = json!(known.last_success_at);
    told["failures_in_a_row"] = json!(known.failures);
}

/// `GET /jobs/{name}/runs`
pub async fn runs(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&["limit", "failed"])?;
    let (desk, name) = (context.desk()?, name(context)?);
    let (limit, failed) = (context.number("limit", 20, 1, 1000)?, context.flag("failed")?);
    let mut conn = desk.conn().await?;
    let read = run_history::of_job(&mut conn, name, failed, limit, desk.db.query_timeout()).await;
    let entries = read.map_err(|error| desk.refusal(&error))?;
    if entries.is_empty() && !is_configured(&*context.state.desks.config()?, &desk, name) {
        return Err(no_such_job(name));
    }
    let runs: Vec<Value> = entries.into_iter().map(|entry| runs::told(&desk, entry)).collect();
    Ok(answer(
        StatusCode::OK,
        "application/json",
        &json!({ "target": desk.db.name(), "job": name, "runs": runs }),
    ))
}

/// `POST /jobs/{name}/run`
pub async fn run(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let Empty {} = context.json()?;
    let job = name(context)?.to_owned();
    let done = detached(context, |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let configured = has_runs(&*state.desks.config()?, &desk, &job)?;
        acting.once(&desk, &Ask { job: &job, options: None, configured }).await
    })
    .await?;
    runs::answered(context, done).await
}

/// A run that is asked for through the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub job: &'a str,
    pub options: Option<&'a RunOptions>,
    /// Whether this instance's configuration has the job: then one of them will register it.
    pub configured: bool,
}

impl Change for Ask<'_> {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(asked(tx, acting, *self))
    }
}

/// Asks for it, as a whole change.
pub async fn asked(tx: &Tx<'_>, acting: &Acting, ask: Ask<'_>) -> Result<Effect, Error> {
    let job = ask.job;
    Ok(match ask_in(tx, acting, &ask).await? {
        Ok(id) => {
            let body = json!({ "run_id": id, "job": job, "state": "queued" });
            Effect::Done(acting.accepted(body, id))
        }
        Err(refusal) => Effect::refused(refusal),
    })
}

/// Asks for it inside a transaction that may go on; the run's id, or why there is none.
pub async fn ask_in(
    tx: &Tx<'_>,
    acting: &Acting,
    ask: &Ask<'_>,
) -> Result<Result<Uuid, Refusal>, Error> {
    let Ask { job, options, configured } = *ask;
    Ok(match commands::run(tx, acting.by(), job, options).await? {
        commands::Run::Queued { id } => Ok(id),
        commands::Run::Waiting { id } => Err(waiting(job, id)),
        commands::Run::Paused { pause, all } => Err(paused(job, &pause, all)),
        commands::Run::Unknown { .. } if configured => Err(not_registered(job)),
        commands::Run::Unknown { .. } => Err(no_such_job(job)),
        commands::Run::Nobody => Err(nobody()),
    })
}

fn waiting(job: &str, id: Uuid) -> Refusal {
    let detail =
        format!("a run of {job} waits already: POST /runs/{id}/cancel takes it out of the queue");
    Refusal::new(StatusCode::CONFLICT, "waiting", detail).with("run_id", id.to_string())
}

fn paused(job: &str, pause: &Pause, all: bool) -> Refusal {
    let (what, resume) = if all { ("all jobs are", ALL_JOBS) } else { ("it is", job) };
    let detail = format!("{what} paused by {}; POST /jobs/{resume}/resume resumes", pause.by);
    Refusal::new(StatusCode::CONFLICT, "paused", detail).with("paused", json!(pause))
}

/// No job of this name.
pub fn no_such_job(name: &str) -> Refusal {
    let detail = format!("no instance of this database has a job {name:?}; GET /jobs lists them");
    Refusal::new(StatusCode::NOT_FOUND, "no_such_job", detail)
}

fn not_registered(job: &str) -> Refusal {
    let detail =
        format!("{job} is configured, and the instance that observes has not taken it up yet");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_registered", detail)
        .later(std::time::Duration::from_secs(1))
}

fn nobody() -> Refusal {
    let detail =
        "no instance observes this database at the moment, so nobody would pick the run up";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no_observer", detail)
        .later(std::time::Duration::from_secs(5))
}

/// The body of a pause.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

/// `POST /jobs/{name}/pause`; the name `*` stands for all jobs.
pub async fn pause(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let Why { reason } = context.json()?;
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > 1000 || reason.contains('\0'))
    {
        return Err(invalid("reason: wanted at most 1,000 characters without NUL"));
    }
    set(context, true, reason).await
}

/// `POST /jobs/{name}/resume`
pub async fn resume(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let Empty {} = context.json()?;
    set(context, false, None).await
}

async fn set(
    context: &Context<'_>,
    pause: bool,
    reason: Option<String>,
) -> Result<Answer, Refusal> {
    let job = name(context)?.to_owned();
    detached(context, move |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let configured = job == ALL_JOBS || has_runs(&*state.desks.config()?, &desk, &job)?;
        let (done, replayed) = acting.once(&desk, &Set { job, pause, reason, configured }).await?;
        Ok(done.answer(replayed))
    })
    .await
}

struct Set {
    job: String,
    pause: bool,
    reason: Option<String>,
    /// A job of the configuration may be paused before an instance has registered it.
    configured: bool,
}

impl Change for Set {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(set_in(tx, acting, self))
    }
}

async fn set_in(tx: &Tx<'_>, acting: &Acting, set: &Set) -> Result<Effect, Error> {
    let Set { job, pause, reason, configured } = set;
    let (job, pause, reason) = (job.as_str(), *pause, reason.as_deref());
    let found = match pause {
        true => commands::pause(tx, acting.by(), job, reason, *configured).await?,
        false => commands::resume(tx, acting.by(), job, *configured).await?,
    };
    let changed = match found {
        Found::Before(before) => pause == before.is_none(),
        Found::Unknown { .. } => return Ok(Effect::refused(no_such_job(job))),
    };
    let now = pauses::of(tx, job).await?;
    Ok(Effect::Done(Done::ok(json!({ "job": job, "paused": now, "changed": changed }))))
}

/// The job that the path names.
pub fn name<'c>(context: &'c Context<'_>) -> Result<&'c str, Refusal> {
    let name = context.segment.as_deref().unwrap_or_default();
    if name.len() > 128 || name.contains('\0') { Err(no_such_job("…")) } else { Ok(name) }
}

/// Whether the job is configured here; refused where it is one that only measures.
fn has_runs(config: &Config, desk: &Desk, name: &str) -> Result<bool, Refusal> {
    if config.jobs.all.get(name).is_some_and(Job::is_measured) {
        let detail = format!(
            "{name} is measured on every tick of the instance that observes, outside the ledger: it has no runs to be \
             asked for or paused; jobs.{name}.enabled and jobs.{name}.schedule say whether and when"
        );
        return Err(Refusal::new(StatusCode::CONFLICT, "measured", detail));
    }
    Ok(is_configured(config, desk, name))
}

fn is_configured(config: &Config, desk: &Desk, name: &str) -> bool {
    config.jobs.all.get(name).is_some_and(|job| job.is_for(desk.db.name()))
}
