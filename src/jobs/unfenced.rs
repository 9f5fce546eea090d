//! Statements that PostgreSQL refuses inside a transaction: VACUUM, and DETACH … CONCURRENTLY.
//!
//! They cannot carry the fence, so the claim is checked right before, in a transaction of its own;
//! they are at least once and idempotent. Their bounds are set on the session, which a transaction
//! pooler does not keep for us: there they are not run at all.

use std::time::Duration;

use super::Context;
use super::attempts::short;
use crate::db::{Error, quote_literal};

/// Why a job ends as skipped behind a transaction pooler.
pub const NEEDS_SESSION: &str =
    "the connection goes through a transaction pooler, which keeps no setting for us; needs database.direct_url";

/// What is set for the statement and put back after it.
const SETTINGS: [&str; 4] = ["search_path", "client_min_messages", "statement_timeout", "lock_timeout"];

/// Runs one statement outside any transaction, with these bounds on the server; the session is then as it
/// was before.
pub async fn run(
    ctx: &mut Context<'_>,
    what: &'static str,
    sql: &str,
    bound: Duration,
    lock_timeout: Duration,
) -> Result<(), Error> {
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
fn millis(bound: Duration) -> u128 {
    bound.as_millis().clamp(1, i32::MAX as u128)
}
