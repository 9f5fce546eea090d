//! Partitions made ahead, so that no row ever finds none.
//!
//! For each table: an interrupted DETACH is finished, then the missing partitions are made, in one
//! transaction that gives up a lock after 20 ms and tries again: whoever queues for a strong lock stops
//! everybody behind it. A table that fails does not stop the next; the run fails at the end and names
//! each.

use serde_json::json;

use super::attempts::{Failures, LOCK_TIMEOUT, LockAttempts, short};
use super::{Context, Report, maintained};
use crate::db::{Error, Kind, quote_ident};
use crate::observe::tables::identity;
use crate::observe::tables::partitions::{Partition, ahead, pending};
use crate::observe::tables::relation::{Relation, find};
use crate::sets::PartitionedTable;
use crate::store;
use crate::store::partitions::EnsureResult;

/// Creates partitions ahead of time for pgsteward's tables and, outside mode `observe`, for those of
/// the bundled sets that are applied.
pub async fn run(ctx: &mut Context<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut detail = serde_json::Map::new();
    let mut failures = Failures::default();
    for table in maintained(ctx.config, ctx.sets).flat_map(|set| set.partitioned) {
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        let name = table.name();
        match supply(ctx, table).await {
            Ok((made, ahead)) => {
                report.rows += i64::from(made);
                detail.insert(name, json!({ "made": made, "ahead": ahead }));
            }
            Err(error) => failures.keep(&name, error)?,
        }
    }
    report.failure = failures.finish();
    report.detail = detail.into();
    Ok(report)
}

/// Returns how many partitions were made, and how many there are now beyond the current one.
async fn supply(ctx: &mut Context<'_>, table: &PartitionedTable) -> Result<(i32, i64), Error> {
    let options = short(ctx).read_only();
    let interrupted = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let relation = find(tx, table.schema, table.table, None).await?;
                Ok(pending(tx, relation.id.oid).await?.map(|partition| (relation, partition)))
            })
        })
        .await?;
    // One that is still in use is no reason not to make others.
    let finished = match interrupted {
        Some((relation, partition)) => finalize(ctx, &relation, &partition).await,
        None => Ok(()),
    };
    let made = make(ctx, table).await;
    // Also after a failure: that is when the gauge matters.
    let options = short(ctx).read_only();
    let ahead = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move { ahead(tx, table.schema, table.table).await })
        })
        .await;
    if let Ok(ahead) = &ahead {
        ctx.metrics.partitions_ahead.with_label_values(&[ctx.db.name(), &table.name()]).set(*ahead);
    }
    // What kept it from being made comes first: the count may fail only because the deadline is near.
    let made = made?;
    finished?;
    let ahead = ahead?;
    if !made.problems.is_empty() {
        return Err(Error::new(Kind::Sql, made.problems.join("; ")));
    }
    Ok((made.created, ahead))
}

async fn make(ctx: &mut Context<'_>, table: &PartitionedTable) -> Result<EnsureResult, Error> {
    let mut attempts = LockAttempts::new();
    loop {
        let options = short(ctx).lock_timeout(LOCK_TIMEOUT);
        let made = ctx
            .transaction(&options, |tx| {
                Box::pin(async move { store::partitions::ensure(tx, table).await })
            })
            .await;
        match made {
            Ok(made) => return Ok(made),
            Err(error) => attempts.after(ctx, error).await?,
        }
    }
}

/// Finishes a DETACH CONCURRENTLY that was cut off between its two transactions. It waits for every
/// snapshot that may still see the partition, 20 ms at a time. Where retention had announced it, the table is
/// retention's to drop from then on.
pub(super) async fn finalize(
    ctx: &mut Context<'_>,
    relation: &Relation,
    partition: &Partition,
) -> Result<(), Error> {
    let sql = format!(
        "ALTER TABLE {} DETACH PARTITION {} FINALIZE",
        relation.id.quoted(),
        partition.id.quoted()
    );
    let sql = &sql;
    let mut attempts = LockAttempts::new();
    loop {
        let options = short(ctx).lock_timeout(LOCK_TIMEOUT).read_committed();
        let done = ctx
            .transaction(&options, |tx| {
                Box::pin(async move {
                    for table in [&relation.id, &partition.id] {
                        identity::lock(tx, table, "SHARE UPDATE EXCLUSIVE").await?;
                        identity::compare(tx, table, None).await?;
                    }
                    store::retirements::confirm(tx, partition.id.oid).await?;
                    tx.batch("finish detaching", sql).await
                })
            })
            .await;
        match done {
            Ok(()) => return Ok(()),
            Err(error) => {
                let error = error.context(format!(
                    "partition {} is pending detach",
                    quote_ident(&partition.id.table)
                ));
                attempts.after(ctx, error).await?;
            }
        }
    }
}
