//! Statements that PostgreSQL refuses inside a transaction: VACUUM, and DETACH … CONCURRENTLY.
//!
//! They cannot carry the fence, so the claim is checked right before, in a transaction of its own;
//! they are at least once and idempotent. The run's row says so before the first of them, with the
//! server process that does the work: should this instance die, whoever ends the run knows what may
//! still be at work. Their bounds are set on the session, which a transaction pooler does not keep for
//! us: there they are not run at all.

use std::time::Duration;

use super::Context;
use super::attempts::short;
use crate::db::{Error, Kind, Purpose, TxOptions, quote_literal};
use crate::store::runs::{self, Backend};

/// Why a job ends as skipped behind a transaction pooler. It begins with a code that stays.
pub const NEEDS_SESSION: &str = "needs_direct_url: the connection goes through a transaction pooler, which keeps no \
     setting for us; needs database.direct_url";

/// What is set for the statement and put back after it.
const SETTINGS: [&str; 4] =
    ["search_path", "client_min_messages", "statement_timeout", "lock_timeout"];

/// For a statement on pgsteward's own rows.
const OWN: Duration = Duration::from_secs(5);
/// For a whole call over the control connection.
const CALL_BOUND: Duration = Duration::from_secs(10);

/// Notes, once per run, that what follows is not fenced, and which process does it. Fails when the run
/// is not ours any more.
pub async fn note(ctx: &mut Context<'_>) -> Result<(), Error> {
    if ctx.unfenced {
        return Ok(());
    }
    let backend = ctx.conn.process().map(|(pid, start_us)| Backend { pid, start_us });
    let noting = async {
        let mut control = ctx.db.acquire(Purpose::Control).await?;
        runs::record_unfenced(&mut control, ctx.run_id, ctx.epoch, backend, OWN).await
    };
    bounded("note that a run is not fenced", noting).await?;
    ctx.unfenced = true;
    Ok(())
}

/// Whether the run is still ours, asked over the control connection: the job's own may have a login or
/// a role that sees none of our rows.
pub async fn still_ours(ctx: &Context<'_>) -> Result<(), Error> {
    let (id, epoch) = (ctx.run_id, ctx.epoch);
    let options = TxOptions::within(OWN);
    let asking = async {
        let mut control = ctx.db.acquire(Purpose::Control).await?;
        control
            .transaction(&options, |tx| Box::pin(async move { runs::fence(tx, id, epoch).await }))
            .await
    };
    bounded("check the run's lease", asking).await
}

/// The control connection is the only one that renews leases: a server that has gone silent may not keep
/// it here.
async fn bounded<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(CALL_BOUND, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!("{what}: no answer within {} s", CALL_BOUND.as_secs()),
        )),
    }
}

/// Runs one statement outside any transaction, with these bounds on the server; the session is then as it
/// was before.
pub async fn run(
    ctx: &mut Context<'_>,
    what: &'static str,
    sql: &str,
    bound: Duration,
    lock_timeout: Duration,
) -> Result<(), Error> {
    note(ctx).await?;
    let options = short(ctx);
    ctx.transaction(&options, |_| Box::pin(async { Ok(()) })).await?;
    let names: Vec<String> = SETTINGS.iter().map(|name| quote_literal(name)).collect();
    let settings = format!(
        "SELECT current_setting(name) FROM unnest(ARRAY[{}]) WITH ORDINALITY AS s (name, place) ORDER BY place; \
         SET search_path = pg_catalog, pg_temp; SET client_min_messages = warning; \
         SET statement_timeout = {}; SET lock_timeout = {}",
        names.join(", "),
        millis(bound),
        millis(lock_timeout),
    );
    let before = ctx.conn.batch_values("set bounds", &settings).await?;
    let outcome = ctx.conn.batch(what, sql).await;
    // What the login set is gone after RESET, which goes back to the server's defaults: no bound at all.
    let restore: Vec<String> = SETTINGS
        .iter()
        .zip(&before)
        .filter_map(|(name, value)| {
            let value = quote_literal(value.as_deref()?);
            Some(format!("SELECT set_config('{name}', {value}, false)"))
        })
        .collect();
    // A failure here only means that the connection is gone.
    if let Err(error) = ctx.conn.batch("put bounds back", &restore.join("; ")).await {
        tracing::debug!(error = %error, "settings not put back");
    }
    outcome
}

/// Whole milliseconds, at least 1 (0 would mean no bound).
pub fn millis(bound: Duration) -> u128 {
    bound.as_millis().clamp(1, i32::MAX as u128)
}
