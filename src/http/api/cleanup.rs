//! `POST /health/cleanup` and `GET /health/retention`: what is past its time, and its removal.

use std::future::ready;

use hyper::StatusCode;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::act::{Acting, Change, Effect, detached};
use super::input::{invalid, unprocessable};
use super::jobs::{self, Ask};
use super::optimize;
use crate::config::{Builtin, Config};
use crate::db::{Tx, TxFuture, TxOptions};
use crate::http::answer::json as answer;
use crate::http::auth::Role;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::jobs::retention::preview::{self, Preview};
use crate::jobs::retention::targets::{self, Target};
use crate::scheduler::job_status;
use crate::store::requests::RunOptions;

/// As in the configuration.
const KEEP_DAYS_MAX: u32 = 36_500;

/// The body of a request to clean up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    dry_run: bool,
    /// Only these, of those that retention names.
    tables: Option<Vec<String>>,
    /// How long rows are kept in this run, instead of what is configured.
    #[serde(default, deserialize_with = "whole")]
    retention_days: Option<u32>,
    /// Whether it may be shorter than configured.
    #[serde(default)]
    force: bool,
}

/// To JSON, 30 and 30.0 are one number.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
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
pub async fn cleanup(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let wanted: Wanted = context.json()?;
    optimize::check_names(wanted.tables.as_deref())?;
    let (desk, config) = (context.desk()?, context.state.desks.config()?);
    let role = context.caller.as_ref().map(|caller| caller.role);
    let targets = configured(&desk, &config);
    let may_shorten = wanted.force && role == Some(Role::Admin);
    let options =
        RunOptions { tables: wanted.tables.clone(), keep_days: wanted.retention_days, may_shorten };
    if wanted.dry_run {
        judge(&wanted, &options, &targets, &config, role)?;
        let targets = targets::wanted(targets, &options, config.retention.min_keep);
        let previews =
            look(&desk, targets.iter().filter(|target| options.covers(&target.name()))).await?;
        let body = json!({ "target": desk.db.name(), "dry_run": true, "tables": previews });
        return Ok(answer(StatusCode::OK, "application/json", &body));
    }
    let (mut done, replayed) = detached(context, move |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let refusal = judge(&wanted, &options, &targets, &config, role).err();
        acting.once(&desk, &Cleanup { options, refusal }).await
    })
    .await?;
    done.body["runs"] = json!([{ "job": Builtin::Retention.as_str(), "id": done.body["run_id"], "state": "queued" }]);
    super::runs::answered(context, (done, replayed)).await
}

/// The run. What it is judged by may have changed since its key was used first: then the answer of that time counts.
struct Cleanup {
    options: RunOptions,
    refusal: Option<Refusal>,
}

impl Change for Cleanup {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        if let Some(refusal) = &self.refusal {
            return Box::pin(ready(Ok(Effect::refused(refusal.clone()))));
        }
        let options = (self.options != RunOptions::default()).then_some(&self.options);
        Box::pin(jobs::asked(
            tx,
            acting,
            Ask { job: Builtin::Retention.as_str(), options, configured: true },
        ))
    }
}

fn configured(desk: &Desk, config: &Config) -> Vec<Target> {
    targets::targets(config, desk.standing.migrations.read().zentry)
}

/// Whether what is wanted is permitted to this caller: keeping longer is anybody's who may clean up, keeping shorter
/// loses what the configuration promised to keep.
fn judge(
    wanted: &Wanted,
    options: &RunOptions,
    targets: &[Target],
    config: &Config,
    role: Option<Role>,
) -> Result<(), Refusal> {
    if let Some(unknown) =
        wanted.tables.iter().flatten().find(|name| !targets.iter().any(|t| t.name() == **name))
    {
        let known: Vec<String> = targets.iter().map(Target::name).collect();
        let detail = format!("retention does not name {unknown:?}; it names {}", known.join(", "));
        return Err(unprocessable("not_under_retention", detail));
    }
    let Some(days) = wanted.retention_days else { return Ok(()) };
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
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "shortening_wants_admin",
            format!("{what}: wants the role admin"),
        ));
    }
    if !wanted.force {
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
async fn look(
    desk: &Desk,
    targets: impl Iterator<Item = &Target>,
) -> Result<Vec<Preview>, Refusal> {
    let mut conn = desk.conn().await?;
    let mut within = TxOptions::within(desk.db.query_timeout()).read_only();
    within.prelude.push_str(
        "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; SET LOCAL row_security = off; ",
    );
    let mut previews = Vec::new();
    for target in targets {
        let looked = conn.transaction(&within, |tx| Box::pin(preview::look(tx, target))).await;
        previews.push(looked.map_err(|error| desk.refusal(&error))?);
    }
    Ok(previews)
}

/// `GET /health/retention`: what goes when.
pub async fn retention(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, config) = (context.desk()?, context.state.desks.config()?);
    let targets = configured(&desk, &config);
    let previews = look(&desk, targets.iter()).await?;
    let jobs = job_status::merge(&config, desk.db.name(), None, chrono::Utc::now());
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
    Ok(answer(
        StatusCode::OK,
        "application/json",
        &json!({ "target": desk.db.name(), "tables": tables }),
    ))
}
