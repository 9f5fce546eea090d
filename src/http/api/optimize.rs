//! `POST /health/database/optimize`: VACUUM, ANALYZE and REFRESH of the objects that need it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::mutation::{MutationContext, MutationResult, run_detached};
use super::queue_run::QueueRun;
use super::run_response::respond_with_run;
use super::table_names;
use crate::config::{Builtin, Config, Mode};
use crate::db::{Error, Kind, Tx, TxOptions};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::jobs::{refresh, vacuum};
use crate::sets::Manifest;
use crate::store::requests::RunOptions;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizeBody {
    #[serde(default)]
    dry_run: bool,
    /// Limits the runs to these tables and materialized views.
    tables: Option<Vec<String>>,
    #[serde(default = "yes")]
    vacuum: bool,
    #[serde(default = "yes")]
    refresh: bool,
}

fn yes() -> bool {
    true
}

/// Queues the runs, or returns the plan. ANALYZE is part of the job `vacuum`.
pub async fn optimize(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let body: OptimizeBody = context.json()?;
    table_names::check(body.tables.as_deref())?;
    let config = context.state.databases.config()?;
    let options = RunOptions { tables: body.tables.clone(), ..RunOptions::default() };
    if body.dry_run {
        return plan(&*context.database()?, &config, &body, &options).await;
    }
    let reply = run_detached(context, key, move |ctx| async move {
        let sets = ctx.database.status.migrations.read().sets;
        let (mode, jobs) = (config.mode, jobs(&body, &config, &sets));
        let params = QueueOptimize { mode, jobs, options };
        ctx.execute(&params, |tx, ctx, params| Box::pin(params.apply(tx, ctx))).await
    })
    .await?;
    respond_with_run(context, reply).await
}

/// Returns the jobs that the request needs.
fn jobs(body: &OptimizeBody, config: &Config, sets: &[&Manifest]) -> Vec<Builtin> {
    let views = refresh::configured(config, sets);
    let is_view = |name: &String| views.contains(&name.as_str());
    let (any_view, any_table) = match &body.tables {
        None => (!views.is_empty(), true),
        Some(names) => (names.iter().any(is_view), !names.iter().all(is_view)),
    };
    let vacuum = (body.vacuum && any_table).then_some(Builtin::Vacuum);
    let refresh = (body.refresh && any_view).then_some(Builtin::Refresh);
    vacuum.into_iter().chain(refresh).collect()
}

struct QueueOptimize {
    mode: Mode,
    jobs: Vec<Builtin>,
    options: RunOptions,
}

impl QueueOptimize {
    /// Queues a run of every job, or none if one of them is queued already or paused.
    async fn apply(&self, tx: &Tx<'_>, ctx: &MutationContext) -> Result<MutationResult, Error> {
        if self.mode == Mode::Observe {
            let detail = "mode = \"observe\" permits no changes to tables";
            return Ok(Err(HttpError::conflict("observe_mode", detail)));
        }
        if self.jobs.is_empty() {
            let detail = "none of these names is a table, or a view of refresh.views";
            return Ok(Err(HttpError::unprocessable("nothing_to_do", detail)));
        }
        tx.batch("set a savepoint", "SAVEPOINT optimize").await?;
        let (mut first, mut runs) = (None, Vec::new());
        for job in &self.jobs {
            let options = Some(&self.options);
            let run = QueueRun { job: job.as_str(), options, configured: true };
            match run.queue(tx, ctx).await? {
                Ok(id) => {
                    first.get_or_insert(id);
                    runs.push(json!({ "job": job.as_str(), "id": id, "state": "queued" }));
                }
                Err(error) => {
                    tx.batch("roll back to the savepoint", "ROLLBACK TO SAVEPOINT optimize")
                        .await?;
                    return Ok(Err(error));
                }
            }
        }
        let first = first.ok_or_else(|| Error::new(Kind::Protocol, "no run was queued"))?;
        Ok(Ok(ctx.accepted(json!({ "run_id": first, "runs": runs }), first)))
    }
}

/// A table or view of the plan.
#[derive(Serialize)]
struct PlannedObject {
    object: String,
    vacuum: bool,
    analyze: bool,
    refresh: bool,
    reason: String,
    skipped: Option<String>,
}

impl From<vacuum::Planned> for PlannedObject {
    fn from(table: vacuum::Planned) -> PlannedObject {
        let reason = match table.vacuum || table.analyze {
            true => format!(
                "{} of {} rows are dead, {} changed since the last ANALYZE",
                table.dead_rows, table.live_rows, table.changed_rows
            ),
            false => "the request names it".to_owned(),
        };
        PlannedObject {
            object: table.object,
            vacuum: table.vacuum,
            analyze: table.analyze,
            refresh: false,
            reason,
            skipped: table.skipped,
        }
    }
}

impl From<refresh::Planned> for PlannedObject {
    fn from(view: refresh::Planned) -> PlannedObject {
        PlannedObject {
            object: view.object,
            vacuum: false,
            analyze: false,
            refresh: view.refresh,
            reason: view.why,
            skipped: view.skipped,
        }
    }
}

async fn plan(
    database: &ApiDatabase,
    config: &Config,
    body: &OptimizeBody,
    options: &RunOptions,
) -> Result<Response, HttpError> {
    let sets = &database.status.migrations.read().sets;
    let mut conn = database.connection().await?;
    let within = TxOptions::within(database.db.query_timeout()).read_only();
    let read = conn.transaction(&within, |tx| {
        Box::pin(async move {
            let (mut tables, mut views) = (Vec::new(), Vec::new());
            if body.vacuum {
                tables = vacuum::plan(tx, &config.vacuum, options).await?;
            }
            if body.refresh {
                views = refresh::plan(tx, config, sets, options).await?;
            }
            Ok((tables, views))
        })
    });
    let (mut tables, views) = read.await.map_err(|error| database.http_error(&error))?;
    // A view that VACUUM skips is listed once, with its refresh.
    tables.retain(|table| {
        table.skipped.is_none() || views.iter().all(|view| view.object != table.object)
    });
    let tables = tables.into_iter().map(PlannedObject::from);
    let plan: Vec<PlannedObject> = tables.chain(views.into_iter().map(Into::into)).collect();
    Ok(ok(&json!({ "target": database.db.name(), "dry_run": true, "plan": plan })))
}
