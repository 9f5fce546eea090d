//! What is special about the audit trail: rows on hold stay, and the chain of seals says that rows may be gone
//! before the first of them is.
//!
//! ```text
//! certify    an entry `purge` with the cutoff, in a transaction of its own
//! …          partitions and slices, each transaction under the lock on holds
//! settle     leaves of seals without a row forgotten, rows on hold told
//! ```
//! A crash in between leaves a certificate and rows, never a hole without one.

use super::purge::Table;
use super::{ACTOR, Outcome};
use crate::audit::{Head, seal};
use crate::db::Error;
use crate::jobs::Context;
use crate::jobs::attempts::short;
use crate::store::{holds, seals};

/// Rows that a certificate counts, at most; it then says this many.
const DUE_MAX: i64 = 1_000_000;
/// Rows on hold that are counted, at most.
const KEPT_MAX: i64 = 100_000;
/// Seals looked at in one transaction, of up to [`seal::SEAL_ROWS`] rows each.
const SEALS: i64 = 16;

/// Appends the certificate. False where nothing is due: then nothing may be deleted in this run, since rows that
/// arrive late would go without one.
///
/// # Errors
/// That of [`seal::append_purge`] where the chain's newest entry was altered.
pub async fn certify(ctx: &mut Context<'_>, table: &Table) -> Result<bool, Error> {
    let by = &format!("{ACTOR} {}", ctx.run_id);
    let cutoff = &table.cutoff;
    let options = holds::purge_options(short(ctx));
    let entry = ctx
        .transaction(&options, |tx| {
            Box::pin(async move {
                let (cutoff, due) = holds::count_due(tx, cutoff, DUE_MAX).await?;
                if due == 0 {
                    Ok(None)
                } else {
                    seal::append_purge(tx, cutoff, due, by).await.map(Some)
                }
            })
        })
        .await?;
    let Some(entry) = entry else { return Ok(false) };
    // The log is a place outside the database, too.
    tracing::info!(database = ctx.db.name(), head = %Head::of(&entry), kind = entry.what.kind(), %cutoff,
        rows = entry.row_count, "audit trail is purged from here on");
    Ok(true)
}

/// Forgets leaves whose rows are all gone, and tells of rows on hold.
pub async fn settle(
    ctx: &mut Context<'_>,
    table: &Table,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let mut after = 0;
    while !ctx.stopping() && !ctx.time_left().is_zero() {
        let options = holds::purge_options(short(ctx));
        let looked =
            ctx.transaction(&options, |tx| Box::pin(seals::prune_leaves(tx, after, SEALS))).await?;
        let Some(last) = looked else { break };
        after = last;
    }
    let options = holds::purge_options(short(ctx).read_only());
    let (rows, of) = ctx
        .conn
        .transaction(&options, |tx| Box::pin(holds::count_held(tx, &table.cutoff, KEPT_MAX)))
        .await?;
    if rows > 0 {
        let more = if rows == KEPT_MAX { " or more" } else { "" };
        outcome.notes.push(format!(
            "rows before the cutoff that are on hold and stay: {rows}{more}; holds in force: {of}"
        ));
    }
    Ok(())
}
