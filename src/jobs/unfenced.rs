//! Statements that PostgreSQL refuses inside a transaction: VACUUM, and DETACH … CONCURRENTLY.
//!
//! They cannot carry the fence, so the claim is checked right before, in a transaction of its own;
//! they are at least once and idempotent. Their bounds are set on the session, which a transaction
//! pooler does not keep for us: there they are not run at all.

use std::time::Duration;

use super::Context;
use super::attempts::short;
use crate::db::Error;

/// Why a job ends as skipped behind a transaction pooler.
pub const NEEDS_SESSION: &str =
    "the connection goes through a transaction pooler, which keeps no setting for us; needs database.direct_url";

/// Runs one statement outside any transaction, with these bounds on the server.
pub async fn run(
    ctx: &mut Context<'_>,
    what: &'static str,
    sql: &str,
    bound: Duration,
    lock_timeout: Duration,
) -> Result<(), Error> {
    let options = short(ctx);
    ctx.transaction(&options, |_| Box::pin(async { Ok(()) })).await?;
    let settings = format!(
        "SET search_path = pg_catalog, pg_temp; SET client_min_messages = warning; \
         SET statement_timeout = {}; SET lock_timeout = {}",
        millis(bound),
        millis(lock_timeout),
    );
    ctx.conn.batch("set bounds", &settings).await?;
    let outcome = ctx.conn.batch(what, sql).await;
    // The next user of the connection sets its own bounds; a failure here only means that it is gone.
    let reset = "RESET search_path; RESET client_min_messages; RESET statement_timeout; RESET lock_timeout";
    if let Err(error) = ctx.conn.batch("reset bounds", reset).await {
        tracing::debug!(error = %error, "settings not reset");
    }
    outcome
}

/// Whole milliseconds, at least 1 (0 would mean no bound).
fn millis(bound: Duration) -> u128 {
    bound.as_millis().clamp(1, i32::MAX as u128)
}
