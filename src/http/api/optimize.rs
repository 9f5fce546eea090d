//! `POST /health/database/optimize`: VACUUM, ANALYZE and REFRESH, of what needs it.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::input::{invalid, unprocessable};
use super::jobs::QueueRun;
use super::mutation::{Mutation, MutationContext, MutationResult, run_detached};
use crate::config::{Builtin, Config, Mode};
use crate::db::{Error, Kind, Tx, TxFuture, TxOptions};
use crate::http::response::ok;
use crate::http::{ApiDatabase, Context, HttpError, Response};
use crate::jobs::{refresh, vacuum};
use crate::sets::Manifest;
use crate::store::requests::RunOptions;

/// So many objects may be named in one request.
pub const TABLES_MAX: usize = 400;

/// The body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OptimizeBody {
    #[serde(default)]
    dry_run: bool,
    /// Only these: `schema.table`, views as well.
    tables: Option<Vec<String>>,
    #[serde(default = "yes")]
    vacuum: bool,
    #[serde(default = "yes")]
    refresh: bool,
}

fn yes() -> bool {
    true
}

/// The runs that do it. VACUUM answers for ANALYZE, too.
pub async fn optimize(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let body: OptimizeBody = context.json()?;
    check_names(body.tables.as_deref())?;
    let config = context.state.databases.config()?;
    let options = RunOptions { tables: body.tables.clone(), ..RunOptions::default() };
    if body.dry_run {
        return plan(&*context.database()?, &config, &body, &options).await;
    }
    let done = run_detached(context, move |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        let sets = database.status.migrations.read().sets;
        let (mode, jobs) = (config.mode, jobs(&body, &config, &sets));
        ctx.execute(&database, &QueueOptimize { mode, jobs, options }).await
    })
    .await?;
    super::runs::respond_with_run(context, done).await
}

/// Refuses what is no name of a table.
pub fn check_names(tables: Option<&[String]>) -> Result<(), HttpError> {
    let Some(tables) = tables else { return Ok(()) };
    if tables.is_empty() || tables.len() > TABLES_MAX {
        return Err(invalid(format!(
            "tables: found {} names, wanted 1 to {TABLES_MAX}",
            tables.len()
        )));
    }
    let fits = |name: &&String| {
        name.split_once('.').is_some_and(|(schema, table)| !schema.is_empty() && !table.is_empty())
            && name.chars().count() <= 128
            && !name.contains('\0')
    };
    match tables.iter().find(|name| !fits(name)) {
        None => Ok(()),
        Some(wrong) => {
            let wrong: String = wrong.chars().take(128).collect();
            Err(invalid(format!(
                "tables: found {wrong:?}, wanted a name with its schema, such as \"public.vms\""
            )))
        }
    }
}

/// The jobs that do what is wanted.
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

fn changes_permitted(mode: Mode) -> Result<(), HttpError> {
    if mode == Mode::Observe {
        let detail = "mode = \"observe\": nothing of the user's is changed";
        return Err(HttpError::new(StatusCode::CONFLICT, "observe_mode", detail));
    }
    Ok(())
}

struct QueueOptimize {
    mode: Mode,
    jobs: Vec<Builtin>,
    options: RunOptions,
}

impl Mutation for QueueOptimize {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(queue_runs(tx, ctx, self))
    }
}

/// All or none: one that waits or is paused is a reason to ask for nothing.
async fn queue_runs(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    optimize: &QueueOptimize,
) -> Result<MutationResult, Error> {
    if let Err(error) = changes_permitted(optimize.mode) {
        return Ok(MutationResult::refused(error));
    }
    if optimize.jobs.is_empty() {
        let detail = "there is nothing to do: none of these is a table, or a view of refresh.views";
        return Ok(MutationResult::refused(unprocessable("nothing_to_do", detail)));
    }
    tx.batch("mark where to go back to", "SAVEPOINT optimize").await?;
    let (mut ids, mut runs) = (Vec::new(), Vec::new());
    for job in &optimize.jobs {
        let queue_runs =
            QueueRun { job: job.as_str(), options: Some(&optimize.options), configured: true };
        match super::jobs::queue_run_in(tx, ctx, &queue_runs).await? {
            Ok(id) => {
                ids.push(id);
                runs.push(json!({ "job": job.as_str(), "id": id, "state": "queued" }));
            }
            Err(error) => {
                tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT optimize").await?;
                return Ok(MutationResult::refused(error));
            }
        }
    }
    let [first, ..] = ids.as_slice() else {
        return Err(Error::new(Kind::Protocol, "nothing was asked for"));
    };
    Ok(MutationResult::Done(ctx.accepted(json!({ "run_id": first, "runs": runs }), *first)))
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
            let tables = if body.vacuum {
                vacuum::plan(tx, &config.vacuum, options).await?
            } else {
                Vec::new()
            };
            let views = if body.refresh {
                refresh::plan(tx, config, sets, options).await?
            } else {
                Vec::new()
            };
            Ok((tables, views))
        })
    });
    let (mut tables, views) = read.await.map_err(|error| database.http_error(&error))?;
    // What a view needs is told of it once.
    tables.retain(|table| {
        table.skipped.is_none() || views.iter().all(|view| view.object != table.object)
    });
    let of_table = |table: vacuum::Planned| {
        let why = match table.vacuum || table.analyze {
            true => format!(
                "{} dead of {} rows, {} changed since the last ANALYZE",
                table.dead_rows, table.live_rows, table.changed_rows
            ),
            false => "it was named".to_owned(),
        };
        json!({
            "object": table.object, "vacuum": table.vacuum, "analyze": table.analyze, "refresh": false,
            "why": why, "skipped": table.skipped,
        })
    };
    let of_view = |view: refresh::Planned| {
        json!({
            "object": view.object, "vacuum": false, "analyze": false, "refresh": view.refresh,
            "why": view.why, "skipped": view.skipped,
        })
    };
    let plan: Vec<Value> =
        tables.into_iter().map(of_table).chain(views.into_iter().map(of_view)).collect();
    let body = json!({ "target": database.db.name(), "dry_run": true, "plan": plan });
    Ok(ok(&body))
}
