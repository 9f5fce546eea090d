//! `POST /health/cleanup` and `GET /health/retention`: expired rows, and deleting them.

use std::time::Duration;

use hyper::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::mutation::{MutationContext, MutationResult, run_detached};
use super::queue_run::QueueRun;
use super::run_response::respond_with_run;
use super::table_names;
use crate::config::Config;
use crate::db::{Error, Tx, TxOptions};
use crate::http::auth::Role;
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::jobs::retention::preview::{self, Preview};
use crate::jobs::retention::targets::{self, Target};
use crate::scheduler::job_status;
use crate::store::requests::RunOptions;

/// The limit of the configuration.
const KEEP_DAYS_MAX: u32 = 36_500;
const DAY_SECONDS: u64 = 86_400;
/// [`Builtin::Retention`](crate::config::Builtin::Retention).
const JOB: &str = "retention";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CleanupBody {
    #[serde(default)]
    dry_run: bool,
    /// Limits the run to these tables.
    tables: Option<Vec<String>>,
    /// Replaces the configured retention in this run.
    #[serde(default, deserialize_with = "integer")]
    retention_days: Option<u32>,
    /// Permits a retention that is shorter than the configured one.
    #[serde(default)]
    force: bool,
}

/// Accepts 30 and 30.0, which are the same number in JSON.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_f64() {
        _ if value.is_null() => Ok(None),
        // Lossless: the value is an integer in the range of u32.
        Some(days) if days.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&days) => {
            Ok(Some(days as u32))
        }
        _ => {
            let found: String = value.to_string().chars().take(64).collect();
            Err(D::Error::custom(format!("retention_days: expected an integer, found {found}")))
        }
    }
}

/// Queues a run of the job `retention`, or previews it.
pub async fn cleanup(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let body: CleanupBody = context.json()?;
    table_names::check(body.tables.as_deref())?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let role = context.caller.as_ref().map(|caller| caller.role);
    let targets = configured_targets(&database, &config);
    let options = RunOptions {
        tables: body.tables.clone(),
        keep_days: body.retention_days,
        may_shorten: body.force && role == Some(Role::Admin),
    };
    let validated = validate(&body, &options, &targets, &config, role);
    if body.dry_run {
        validated?;
        let targets = targets::wanted(targets, &options, config.retention.min_keep);
        let covered = targets.iter().filter(|target| options.covers(&target.name()));
        let previews = read_previews(&database, covered).await?;
        let body = json!({ "target": database.db.name(), "dry_run": true, "tables": previews });
        return Ok(ok(&body));
    }
    let params = QueueCleanup { options, error: validated.err() };
    let mut reply = run_detached(context, key, move |ctx| async move {
        ctx.execute(&params, |tx, ctx, params| Box::pin(params.apply(tx, ctx))).await
    })
    .await?;
    reply.body["runs"] = json!([{ "job": JOB, "id": reply.body["run_id"], "state": "queued" }]);
    respond_with_run(context, reply).await
}

/// The error is reported inside of the transaction: the configuration may have changed since the
/// idempotency key was first used, and then the stored reply counts.
struct QueueCleanup {
    options: RunOptions,
    error: Option<HttpError>,
}

impl QueueCleanup {
    async fn apply(&self, tx: &Tx<'_>, ctx: &MutationContext) -> Result<MutationResult, Error> {
        if let Some(error) = &self.error {
            return Ok(Err(error.clone()));
        }
        let options = (self.options != RunOptions::default()).then_some(&self.options);
        QueueRun { job: JOB, options, configured: true }.apply(tx, ctx).await
    }
}

fn configured_targets(database: &ApiDatabase, config: &Config) -> Vec<Target> {
    targets::targets(config, &database.status.migrations.read().sets)
}

/// Whether the caller may request this run. Every operator may keep rows longer. To keep them
/// shorter deletes rows that the configuration keeps, so that it requires an admin and `force`.
fn validate(
    body: &CleanupBody,
    options: &RunOptions,
    targets: &[Target],
    config: &Config,
    role: Option<Role>,
) -> Result<(), HttpError> {
    if let Some(unknown) =
        body.tables.iter().flatten().find(|name| !targets.iter().any(|t| t.name() == **name))
    {
        let known: Vec<String> = targets.iter().map(Target::name).collect();
        let detail =
            format!("expected a table under retention ({}), found {unknown:?}", known.join(", "));
        return Err(HttpError::unprocessable("not_under_retention", detail));
    }
    let Some(days) = body.retention_days else { return Ok(()) };
    if !(1..=KEEP_DAYS_MAX).contains(&days) {
        return Err(HttpError::invalid(format!(
            "retention_days: expected 1 to {KEEP_DAYS_MAX}, found {days}"
        )));
    }
    let keep = Duration::from_secs(u64::from(days) * DAY_SECONDS);
    let covered = || targets.iter().filter(|target| options.covers(&target.name()));
    let shortened = covered().filter(|target| target.keep > keep).max_by_key(|target| target.keep);
    let Some(longest) = shortened else { return Ok(()) };
    let detail = format!(
        "the configuration keeps {} for {} days; {days} days are shorter",
        longest.name(),
        longest.keep.as_secs() / DAY_SECONDS
    );
    if role != Some(Role::Admin) {
        let detail = format!("{detail}, which requires the role admin");
        let code = "shorter_retention_requires_admin";
        return Err(HttpError::new(StatusCode::FORBIDDEN, code, detail));
    }
    if !body.force {
        return Err(HttpError::unprocessable("shorter_retention_requires_force", detail)
            .with("remedy", "repeat the request with \"force\": true to confirm"));
    }
    if keep < config.retention.min_keep && covered().any(Target::is_trail) {
        let min_days = config.retention.min_keep.as_secs() / DAY_SECONDS;
        let detail = format!(
            "the audit log is kept for at least {min_days} days (retention.min_keep), found {days}"
        );
        return Err(HttpError::unprocessable("below_min_keep", detail));
    }
    Ok(())
}

/// Previews each table in a transaction of its own, so that none keeps its locks for the others.
async fn read_previews(
    database: &ApiDatabase,
    targets: impl Iterator<Item = &Target>,
) -> Result<Vec<Preview>, HttpError> {
    let mut conn = database.connection().await?;
    let mut options = TxOptions::within(database.db.query_timeout()).read_only();
    options.prelude.push_str(
        "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; SET LOCAL row_security = off; ",
    );
    let mut previews = Vec::new();
    for target in targets {
        let preview = conn.transaction(&options, |tx| Box::pin(preview::look(tx, target))).await;
        previews.push(preview.map_err(|error| database.http_error(&error))?);
    }
    Ok(previews)
}

/// `GET /health/retention`: the tables under retention, and the rows that are due.
pub async fn retention(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let targets = configured_targets(&database, &config);
    let previews = read_previews(&database, targets.iter()).await?;
    let jobs = job_status::merge(&config, database.db.name(), None, chrono::Utc::now());
    let job = jobs.iter().find(|job| job.name == JOB);
    let next_run_at = job.and_then(|job| job.next.first()).map(chrono::DateTime::to_utc);
    let tables = previews.into_iter().map(|preview| {
        let mut table = json!(preview);
        table["next_run_at"] = json!(next_run_at);
        table
    });
    Ok(ok(&json!({ "target": database.db.name(), "tables": tables.collect::<Vec<_>>() })))
}
