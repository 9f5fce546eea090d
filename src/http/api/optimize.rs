//! `POST /health/database/optimize`: VACUUM, ANALYZE and REFRESH, of what needs it.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::act::{Acting, Change, Effect, detached};
use super::input::{invalid, unprocessable};
use super::jobs::Ask;
use crate::config::{Builtin, Config, Mode};
use crate::db::{Error, Kind, Tx, TxFuture, TxOptions};
use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Desk, Refusal};
use crate::jobs::{refresh, vacuum};
use crate::store::requests::RunOptions;

/// So many objects may be named in one request.
pub const TABLES_MAX: usize = 400;

/// The body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
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
pub async fn optimize(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let wanted: Wanted = context.json()?;
    check_names(wanted.tables.as_deref())?;
    let config = context.state.desks.config()?;
    let options = RunOptions { tables: wanted.tables.clone(), ..RunOptions::default() };
    if wanted.dry_run {
        return plan(&*context.desk()?, &config, &wanted, &options).await;
    }
    let done = detached(context, move |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        let zentry = desk.standing.migrations.read().zentry;
        let (mode, jobs) = (config.mode, jobs(&wanted, &config, zentry));
        acting.once(&desk, &Optimize { mode, jobs, options }).await
    })
    .await?;
    super::runs::answered(context, done).await
}

/// Refuses what is no name of a table.
pub fn check_names(tables: Option<&[String]>) -> Result<(), Refusal> {
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
fn jobs(wanted: &Wanted, config: &Config, zentry: bool) -> Vec<Builtin> {
    let views = refresh::configured(config, zentry);
    let is_view = |name: &String| views.contains(&name.as_str());
    let (any_view, any_table) = match &wanted.tables {
        None => (!views.is_empty(), true),
        Some(names) => (names.iter().any(is_view), !names.iter().all(is_view)),
    };
    let vacuum = (wanted.vacuum && any_table).then_some(Builtin::Vacuum);
    let refresh = (wanted.refresh && any_view).then_some(Builtin::Refresh);
    vacuum.into_iter().chain(refresh).collect()
}

fn changes_permitted(mode: Mode) -> Result<(), Refusal> {
    if mode == Mode::Observe {
        let detail = "mode = \"observe\": nothing of the user's is changed";
        return Err(Refusal::new(StatusCode::CONFLICT, "observe_mode", detail));
    }
    Ok(())
}

struct Optimize {
    mode: Mode,
    jobs: Vec<Builtin>,
    options: RunOptions,
}

impl Change for Optimize {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(ask(tx, acting, self))
    }
}

/// All or none: one that waits or is paused is a reason to ask for nothing.
async fn ask(tx: &Tx<'_>, acting: &Acting, asked: &Optimize) -> Result<Effect, Error> {
    if let Err(refusal) = changes_permitted(asked.mode) {
        return Ok(Effect::refused(refusal));
    }
    if asked.jobs.is_empty() {
        let detail = "there is nothing to do: none of these is a table, or a view of refresh.views";
        return Ok(Effect::refused(unprocessable("nothing_to_do", detail)));
    }
    tx.batch("mark where to go back to", "SAVEPOINT optimize").await?;
    let (mut ids, mut runs) = (Vec::new(), Vec::new());
    for job in &asked.jobs {
        let ask = Ask { job: job.as_str(), options: Some(&asked.options), configured: true };
        match super::jobs::ask_in(tx, acting, &ask).await? {
            Ok(id) => {
                ids.push(id);
                runs.push(json!({ "job": job.as_str(), "id": id, "state": "queued" }));
            }
            Err(refusal) => {
                tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT optimize").await?;
                return Ok(Effect::refused(refusal));
            }
        }
    }
    let [first, ..] = ids.as_slice() else {
        return Err(Error::new(Kind::Protocol, "nothing was asked for"));
    };
    Ok(Effect::Done(acting.accepted(json!({ "run_id": first, "runs": runs }), *first)))
}

async fn plan(
    desk: &Desk,
    config: &Config,
    wanted: &Wanted,
    options: &RunOptions,
) -> Result<Answer, Refusal> {
    let zentry = desk.standing.migrations.read().zentry;
    let mut conn = desk.conn().await?;
    let within = TxOptions::within(desk.db.query_timeout()).read_only();
    let read = conn.transaction(&within, |tx| {
        Box::pin(async move {
            let tables = if wanted.vacuum {
                vacuum::plan(tx, &config.vacuum, options).await?
            } else {
                Vec::new()
            };
            let views = if wanted.refresh {
                refresh::plan(tx, config, zentry, options).await?
            } else {
                Vec::new()
            };
            Ok((tables, views))
        })
    });
    let (mut tables, views) = read.await.map_err(|error| desk.refusal(&error))?;
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
    let body = json!({ "target": desk.db.name(), "dry_run": true, "plan": plan });
    Ok(answer(StatusCode::OK, "application/json", &body))
}
