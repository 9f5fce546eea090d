//! `POST /health/cleanup` and `GET /health/retention`: what is past its time, and its removal.

use std::future::ready;

use hyper::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::input::{invalid, unprocessable};
use super::jobs::{self, QueueRun};
use super::mutation::{Mutation, MutationContext, MutationResult, run_detached};
use super::optimize;
use crate::config::{Builtin, Config};
use crate::db::{Tx, TxFuture, TxOptions};
use crate::http::auth::Role;
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::jobs::retention::preview::{self, Preview};
use crate::jobs::retention::targets::{self, Target};
use crate::scheduler::job_status;
use crate::store::requests::RunOptions;

/// As in the configuration.
const KEEP_DAYS_MAX: u32 = 36_500;

/// The body of a request to clean up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CleanupBody {
    #[serde(default)]
    dry_run: bool,
    /// Only these, of those that retention names.
    tables: Option<Vec<String>>,
    /// How long rows are kept in this run, instead of what is configured.
    #[serde(default, deserialize_with = "whole_number")]
    retention_days: Option<u32>,
    /// Whether it may be shorter than configured.
    #[serde(default)]
    force: bool,
}

/// To JSON, 30 and 30.0 are one number.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    match value.as_f64() {
        _ if value.is_null() => Ok(None),
        // Within the range, and whole.
        Some(days) if days.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&days) => {
            Ok(Some(days as u32))
        }
        _ => {
            let found: String = value.to_string().chars().take(64).collect();
            Err(D::Error::custom(format!(
                "retention_days: found {found}, wanted a whole number of days"
            )))
        }
    }
}

/// Asks for a run of the job `retention`.
pub async fn cleanup(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let body: CleanupBody = context.json()?;
    optimize::check_names(body.tables.as_deref())?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let role = context.caller.as_ref().map(|caller| caller.role);
    let targets = configured(&database, &config);
    let may_shorten = body.force && role == Some(Role::Admin);
    let options =
        RunOptions { tables: body.tables.clone(), keep_days: body.retention_days, may_shorten };
    if body.dry_run {
        validate(&body, &options, &targets, &config, role)?;
        let targets = targets::wanted(targets, &options, config.retention.min_keep);
        let previews = read_previews(
            &database,
            targets.iter().filter(|target| options.covers(&target.name())),
        )
        .await?;
        let body = json!({ "target": database.db.name(), "dry_run": true, "tables": previews });
        return Ok(ok(&body));
    }
    let (mut done, replayed) = run_detached(context, move |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let error = validate(&body, &options, &targets, &config, role).err();
        ctx.execute(&database, &QueueCleanup { options, error }).await
    })
    .await?;
    done.body["runs"] = json!([{ "job": Builtin::Retention.as_str(), "id": done.body["run_id"], "state": "queued" }]);
    super::runs::respond_with_run(context, (done, replayed)).await
}

/// The run. What it is judged by may have changed since its key was used first: then the answer of that time counts.
struct QueueCleanup {
    options: RunOptions,
    error: Option<HttpError>,
}

impl Mutation for QueueCleanup {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        if let Some(error) = &self.error {
            return Box::pin(ready(Ok(MutationResult::refused(error.clone()))));
        }
        let options = (self.options != RunOptions::default()).then_some(&self.options);
        Box::pin(jobs::queue_run(
            tx,
            ctx,
            QueueRun { job: Builtin::Retention.as_str(), options, configured: true },
        ))
    }
}

fn configured(database: &ApiDatabase, config: &Config) -> Vec<Target> {
    targets::targets(config, &database.status.migrations.read().sets)
}

/// Whether what is wanted is permitted to this caller: keeping longer is anybody's who may clean up, keeping shorter
/// loses what the configuration promised to keep.
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
        let detail = format!("retention does not name {unknown:?}; it names {}", known.join(", "));
        return Err(unprocessable("not_under_retention", detail));
    }
    let Some(days) = body.retention_days else { return Ok(()) };
    if !(1..=KEEP_DAYS_MAX).contains(&days) {
        return Err(invalid(format!("retention_days: found {days}, wanted 1 to {KEEP_DAYS_MAX}")));
    }
    let keep = std::time::Duration::from_secs(u64::from(days) * 86_400);
    let covered = || targets.iter().filter(|target| options.covers(&target.name()));
    let Some(longest) =
        covered().filter(|target| target.keep > keep).max_by_key(|target| target.keep)
    else {
        return Ok(());
    };
    let configured = longest.keep.as_secs() / 86_400;
    let what = format!(
        "{} is kept for {configured} days by the configuration, and {days} is shorter",
        longest.name()
    );
    if role != Some(Role::Admin) {
        return Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "shortening_wants_admin",
            format!("{what}: wants the role admin"),
        ));
    }
    if !body.force {
        return Err(unprocessable("shortening_wants_force", what)
            .with("remedy", "repeat the request with \"force\": true to confirm"));
    }
    if keep < config.retention.min_keep && covered().any(Target::is_trail) {
        let floor = config.retention.min_keep.as_secs() / 86_400;
        let detail = format!(
            "the audit trail is kept for {floor} days at least (retention.min_keep), and {days} is shorter"
        );
        return Err(unprocessable("below_floor", detail));
    }
    Ok(())
}

/// Each in a transaction of its own, so that none waits for the others.
async fn read_previews(
    database: &ApiDatabase,
    targets: impl Iterator<Item = &Target>,
) -> Result<Vec<Preview>, HttpError> {
    let mut conn = database.connection().await?;
    let mut within = TxOptions::within(database.db.query_timeout()).read_only();
    within.prelude.push_str(
        "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; SET LOCAL row_security = off; ",
    );
    let mut previews = Vec::new();
    for target in targets {
        let looked = conn.transaction(&within, |tx| Box::pin(preview::look(tx, target))).await;
        previews.push(looked.map_err(|error| database.http_error(&error))?);
    }
    Ok(previews)
}

/// `GET /health/retention`: what goes when.
pub async fn retention(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, config) = (context.database()?, context.state.databases.config()?);
    let targets = configured(&database, &config);
    let previews = read_previews(&database, targets.iter()).await?;
    let jobs = job_status::merge(&config, database.db.name(), None, chrono::Utc::now());
    let next = jobs
        .iter()
        .find(|job| job.name == Builtin::Retention.as_str())
        .and_then(|job| job.next.first().cloned());
    let next = next.map(|at| at.to_utc());
    let tables: Vec<Value> = previews
        .into_iter()
        .map(|preview| {
            let mut told = json!(preview);
            told["next_run_at"] = json!(next);
            told
        })
        .collect();
    Ok(ok(&json!({ "target": database.db.name(), "tables": tables })))
}
