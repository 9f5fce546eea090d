//! Partitions wholly past the cutoff, taken off and dropped.
//!
//! Without a default partition the detaching is CONCURRENTLY, which never makes a reader wait: the
//! partition is marked by a comment (the intent), detached outside a transaction, dropped in a fenced
//! one. Whatever of this a crash leaves, the next run finds: a mark, a detach to FINALIZE, or a marked
//! table that stands alone. With a default partition PostgreSQL refuses CONCURRENTLY; then, and where
//! the connection keeps no settings, both steps are one transaction.
//!
//! Every lock is given up after 20 ms and tried again. That holds for the DROP too: where the table
//! refers to others, dropping it takes their strongest lock, to remove the key's triggers.

use serde_json::json;

use super::Outcome;
use super::purge::{Table, event};
use crate::db::{Error, Kind, quote_literal};
use crate::jobs::attempts::{LOCK_TIMEOUT, LockAttempts, short};
use crate::jobs::{Context, partitions, unfenced};
use crate::observe::tables::partitions::{Partition, list, orphans, pending};
use crate::store;

/// What is left for slices.
pub enum Left {
    /// The tables that may hold rows before the cutoff.
    Roots(Vec<u32>),
    /// The job was told to stop.
    Stopped,
}

/// Finishes what an earlier run left, and retires every partition that is past.
pub async fn partitions(ctx: &mut Context<'_>, table: &Table, outcome: &mut Outcome) -> Result<Left, Error> {
    if table.relation.key.as_deref() != Some(table.column.as_str()) {
        // Not partitioned, or not by this column: rows of all ages lie everywhere.
        return Ok(Left::Roots(vec![table.relation.oid]));
    }
    finish(ctx, table, outcome).await?;
    let mut roots = Vec::new();
    for partition in &parts(ctx, table).await? {
        if !partition.past {
            if partition.is_default || partition.begins_before {
                roots.push(partition.oid);
            }
            continue;
        }
        if !(partition.owned && table.relation.owned) {
            outcome.notes.push(format!(
                "{} is wholly past but not owned by this role: its rows are deleted, it is not dropped",
                partition.name()
            ));
            roots.push(partition.oid);
            continue;
        }
        if ctx.stopping() {
            return Ok(Left::Stopped);
        }
        if table.relation.default_partition || !ctx.conn.has_session_state() {
            detach_and_drop(ctx, table, partition).await?;
        } else {
            detach_concurrently(ctx, table, partition).await?;
            drop_table(ctx, table, &partition.quoted(), &partition.name()).await?;
        }
        outcome.strategy.insert("partitions");
        outcome.partitions.push(partition.name());
    }
    Ok(Left::Roots(roots))
}

/// The comment by which a partition is marked before it is detached; the bound of its rows follows.
fn mark(table: &Table) -> String {
    format!("pgsteward retires this partition of {}: all rows before ", table.relation.quoted())
}

/// Takes up what was cut off: a pending detach, and tables that were detached but not dropped.
async fn finish(ctx: &mut Context<'_>, table: &Table, outcome: &mut Outcome) -> Result<(), Error> {
    let options = short(ctx).read_only();
    let cut_off =
        ctx.conn.transaction(&options, |tx| Box::pin(async move { pending(tx, table.relation.oid).await })).await?;
    if let Some(partition) = cut_off {
        partitions::finalize(ctx, &table.relation, &partition).await?;
        outcome.notes.push(format!("an interrupted detach of {} was finished", partition.name()));
    }
    let mark = &mark(table);
    let options = short(ctx).read_only();
    let orphans = ctx
        .conn
        .transaction(&options, |tx| Box::pin(async move { orphans(tx, mark, table.stamp, &table.cutoff).await }))
        .await?;
    for orphan in orphans {
        if !orphan.past {
            let note = "was detached to be dropped, but its rows are no longer past the cutoff; drop or attach it";
            outcome.notes.push(format!("{} {note}", orphan.name()));
            continue;
        }
        drop_table(ctx, table, &orphan.quoted(), &orphan.name()).await?;
        outcome.strategy.insert("partitions");
        outcome.partitions.push(orphan.name());
    }
    Ok(())
}

async fn parts(ctx: &mut Context<'_>, table: &Table) -> Result<Vec<Partition>, Error> {
    let options = short(ctx).read_only();
    ctx.conn
        .transaction(&options, |tx| {
            Box::pin(async move { list(tx, &table.relation, table.stamp, &table.cutoff).await })
        })
        .await
}

async fn detach_concurrently(ctx: &mut Context<'_>, table: &Table, partition: &Partition) -> Result<(), Error> {
    let upper = partition.upper.as_deref().unwrap_or_default();
    let comment = quote_literal(&format!("{}{upper}", mark(table)));
    retrying(ctx, "mark partition", &format!("COMMENT ON TABLE {} IS {comment}", partition.quoted()), None).await?;

    let alter = format!("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", table.relation.quoted(), partition.quoted());
    let mut attempts = LockAttempts::new();
    loop {
        let bound = ctx.time_left();
        let error = match unfenced::run(ctx, "detach partition", &alter, bound, LOCK_TIMEOUT).await {
            Ok(()) => return Ok(()),
            Err(error) => error.context(partition.name()),
        };
        if error.kind() != Kind::LockTimeout {
            return Err(error);
        }
        // Somebody uses the table. Where the first of the two transactions was done, FINALIZE does the
        // rest; where not, nothing has happened yet.
        let options = short(ctx).read_only();
        let cut_off =
            ctx.conn.transaction(&options, |tx| Box::pin(async move { pending(tx, table.relation.oid).await })).await?;
        match cut_off {
            Some(cut_off) => return partitions::finalize(ctx, &table.relation, &cut_off).await,
            None => attempts.after(ctx, error).await?,
        }
    }
}

async fn detach_and_drop(ctx: &mut Context<'_>, table: &Table, partition: &Partition) -> Result<(), Error> {
    let (parent, child) = (table.relation.quoted(), partition.quoted());
    let sql = format!("ALTER TABLE {parent} DETACH PARTITION {child}; DROP TABLE {child}");
    retrying(ctx, "detach and drop partition", &sql, Some((table, &partition.name()))).await
}

async fn drop_table(ctx: &mut Context<'_>, table: &Table, quoted: &str, name: &str) -> Result<(), Error> {
    retrying(ctx, "drop partition", &format!("DROP TABLE {quoted}"), Some((table, name))).await
}

/// Runs the statements in one fenced transaction, as often as a lock makes it necessary. What drops a
/// partition is recorded before, so that its locks are held for as short as can be.
async fn retrying(
    ctx: &mut Context<'_>,
    what: &'static str,
    sql: &str,
    drops: Option<(&Table, &str)>,
) -> Result<(), Error> {
    let record = drops.map(|(table, partition)| {
        let details = json!({
            "run_id": ctx.run_id, "column": table.column, "cutoff": table.cutoff, "partition": partition,
        });
        (table.relation.name(), details)
    });
    let record = &record;
    let mut attempts = LockAttempts::new();
    loop {
        let options = short(ctx).lock_timeout(LOCK_TIMEOUT);
        let done = ctx
            .transaction(&options, |tx| {
                Box::pin(async move {
                    if let Some((name, details)) = record {
                        store::audit::record(tx, &event("retention.dropped", name, details)).await?;
                    }
                    tx.batch(what, sql).await
                })
            })
            .await;
        match done {
            Ok(()) => return Ok(()),
            Err(error) => attempts.after(ctx, error).await?,
        }
    }
}
