//! An operator's own SQL.

use super::{Context, Report};
use crate::config::{Mode, SqlWork};
use crate::db::{Error, TxOptions, quote_ident};
use crate::store::runs::{self, Ended, Ending, State};

/// Runs it as one transaction, recorded with its effect.
pub async fn run(ctx: &mut Context<'_>, work: &SqlWork) -> Result<Report, Error> {
    if ctx.config.mode == Mode::Observe {
        return Ok(Report { skipped: Some("mode = \"observe\" changes nothing".to_owned()), ..Report::default() });
    }
    let mut options = TxOptions::within(ctx.time_left());
    options.lock_timeout = work.lock_timeout;
    options.attempts = 1;
    let ending = Ending {
        state: State::Succeeded,
        reason: None,
        rows: 0,
        error: None,
        detail: serde_json::Value::Null,
        attempts: i32::try_from(ctx.attempt).unwrap_or(i32::MAX),
        fenced: Some(true),
        quarantine: None,
        warnings: Vec::new(),
    };
    let ended = &Ended { job: ctx.job.clone(), id: ctx.run_id, epoch: ctx.epoch, ending, pause: false };
    let role = work.role.as_ref().map(|role| format!("SET LOCAL ROLE {}; ", quote_ident(role))).unwrap_or_default();
    let sql = &format!("SET LOCAL search_path = {}; {role}{}", work.search_path, work.sql);
    ctx.transaction(&options, |tx| {
        Box::pin(async move {
            tx.batch("run the job's SQL", sql).await?;
            tx.batch("take the role back", "RESET ROLE; SET LOCAL search_path = pg_catalog, pg_temp").await?;
            runs::finish_in(tx, ended).await?;
            Ok(())
        })
    })
    .await?;
    Ok(Report { recorded: true, ..Report::default() })
}
