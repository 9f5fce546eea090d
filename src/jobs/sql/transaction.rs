//! The script as one transaction.

use serde_json::Value;

use super::{GRACE, detail, located, settings, take_role};
use crate::config::{Job, JobName, SqlWork};
use crate::db::{Error, Kind, Tx, TxOptions};
use crate::jobs::{Context, Report};
use crate::sql;
use crate::store::runs::{self, FinishedRun, RunResult, RunState};

/// For the record of the run, on the server; also for its locks.
const RECORD_MS: u32 = 10_000;

/// Asked before and after: the fence has locked a row, so that the transaction has a number; one that
/// is not fenced may have none yet, and is known by when it began.
const FENCED: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";
const UNFENCED: &str = "SELECT pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp())";

const ENDED_IT: &str = "the SQL ended the transaction that it was given; what it did before that stays, and is to be \
     looked at; use transaction = false for SQL that commits";

/// Runs it. A failure is told in the report, with what the SQL had to say before it.
pub async fn run(ctx: &mut Context<'_>, work: &SqlWork) -> Report {
    let mut options = TxOptions::within(ctx.time_left() + GRACE).lock_timeout(work.lock_timeout);
    // Who stalls inside is ended when others may take the run over.
    options.idle_timeout = ctx.config.jobs.lease;
    // The runner tries again, and knows how often.
    options.attempts = 1;
    let ended = &FinishedRun {
        job: ctx.job.clone(),
        id: ctx.run_id,
        epoch: ctx.epoch,
        result: success(ctx),
        pause_job: false,
    };
    let (job, spec) = (ctx.job, ctx.spec);
    let outcome = if work.login.is_some() {
        ctx.conn.transaction(&options, |tx| Box::pin(effect(tx, job, spec, work, None))).await
    } else {
        ctx.transaction(&options, |tx| Box::pin(effect(tx, job, spec, work, Some(ended)))).await
    };
    match outcome {
        Ok(ending) => {
            // With the effect, or by the runner after it.
            let recorded = work.login.is_none();
            Report { rows: ending.rows, detail: ending.detail, recorded, ..Report::default() }
        }
        Err(error) => Report { failure: Some(error), ..Report::default() },
    }
}

fn success(ctx: &Context<'_>) -> RunResult {
    RunResult {
        state: RunState::Succeeded,
        reason: None,
        rows: 0,
        error: None,
        detail: Value::Null,
        attempts: i32::try_from(ctx.attempt).unwrap_or(i32::MAX),
        fenced: Some(true),
        quarantine: None,
        warnings: Vec::new(),
    }
}

/// What was done, as it is recorded.
struct Effect {
    rows: i64,
    detail: Value,
}

async fn effect(
    tx: &Tx<'_>,
    job: &JobName,
    spec: &Job,
    work: &SqlWork,
    ended: Option<&FinishedRun>,
) -> Result<Effect, Error> {
    let effect = script(tx, job, spec, work, ended).await;
    if effect.is_err() && !tx.has_session_state() {
        tx.forget_rolled_back().await;
    }
    effect
}

async fn script(
    tx: &Tx<'_>,
    job: &JobName,
    spec: &Job,
    work: &SqlWork,
    ended: Option<&FinishedRun>,
) -> Result<Effect, Error> {
    let asked = if ended.is_some() { FENCED } else { UNFENCED };
    let open = format!("{}; {asked}", settings(job, spec, work, "LOCAL"));
    let ours = tx.batch_values("prepare the job's transaction", &open).await?.pop().flatten();
    take_role(tx, work, "LOCAL").await?;
    // Deferred constraints are checked as part of the script: under its role and its bounds. On a line of
    // its own, since a script may end in a `--` comment.
    let text = format!("{}\n;SET CONSTRAINTS ALL IMMEDIATE", work.sql);
    let done = tx.script("run the job's SQL", &text).await.map_err(|(done, error)| {
        let position = error.db().and_then(|db| db.position());
        let place =
            error.db().and_then(|_| sql::locate(&work.sql, 0, Some(done.statements), position));
        let deferred = place.is_none() && done.statements > 0 && error.db().is_some();
        let error =
            if deferred { error.context("a deferred constraint or trigger") } else { error };
        let error = located(work, place, ends_transaction(error));
        if done.committed { error.context(ENDED_IT) } else { error }
    })?;
    let close = format!(
        "{asked}; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL{}; SET LOCAL search_path = pg_catalog, pg_temp; \
         SET LOCAL statement_timeout = {RECORD_MS}; SET LOCAL lock_timeout = {RECORD_MS}",
        tx.forget_inside(),
    );
    let now = tx.batch_values("end the job's SQL", &close).await?;
    if now.first().cloned().flatten() != ours {
        // Then the fence is void, and a record would say what nobody knows.
        return Err(Error::new(Kind::Sql, ENDED_IT));
    }
    let effect = Effect {
        rows: i64::try_from(done.rows).unwrap_or(i64::MAX),
        detail: detail(tx, Value::Null),
    };
    if let Some(ended) = ended {
        let result =
            RunResult { rows: effect.rows, detail: effect.detail.clone(), ..ended.result.clone() };
        if !runs::finish_in(tx, &FinishedRun { result, ..ended.clone() }).await? {
            return Err(Error::new(
                Kind::Fenced,
                "the run's row or its job's slot was changed by somebody else meanwhile; rolled back whole",
            ));
        }
    }
    Ok(effect)
}

/// A procedure or a block that commits, and what is refused inside a transaction.
fn ends_transaction(error: Error) -> Error {
    match error.sqlstate().map(|state| state.code()) {
        Some("2D000") => error
            .context("it ends a transaction, and this one is not its own; use transaction = false"),
        Some("25001") => {
            error.context("it cannot run inside this transaction; use transaction = false")
        }
        _ => error,
    }
}
