//! Partitions wholly past the cutoff, taken off and dropped.
//!
//! Without a default partition the detaching is CONCURRENTLY, which never makes a reader wait: the intent
//! is journaled by the table's OID in a fenced transaction, the partition detached outside any, that
//! confirmed, and the table dropped in a fenced one. A crash leaves what the next run reads:
//!
//! ```text
//! announced, still attached        it never began: forgotten, begun anew
//! announced, detach pending        FINALIZE, confirm, drop
//! announced, standing alone        ours or somebody's who keeps it: told, never dropped
//! confirmed, standing alone        dropped
//! anything without a row           somebody else's: left alone
//! ```
//! With a default partition PostgreSQL refuses CONCURRENTLY; then, where the connection keeps no settings,
//! and of the audit trail, both steps are one transaction. Nobody renames, attaches or detaches a table between
//! the look at it and the act: SHARE UPDATE EXCLUSIVE is taken first, beside which others read and
//! write, and then its identity is compared.
//! A partition with rows on hold is left to the slices.
//!
//! Every lock is given up after 20 ms and tried again. That holds for the DROP too: where the table
//! refers to others, dropping it takes their strongest lock, to remove the key's triggers.

use serde_json::json;

use super::purge::{Table, event};
use super::{Outcome, resume};
use crate::db::{Error, Kind, Tx};
use crate::jobs::attempts::{LOCK_TIMEOUT, LockAttempts, short};
use crate::jobs::{Context, partitions, unfenced};
use crate::observe::tables::identity::{self, Identity};
use crate::observe::tables::partitions::{Partition, attached, former, list, pending};
use crate::store;
use crate::store::holds;
use crate::store::retirements::{self, NewRetirement};

/// What is left for slices.
pub enum Left {
    /// The tables that may hold rows before the cutoff.
    Roots(Vec<u32>),
    /// The job was told to stop.
    Stopped,
}

/// Finishes what an earlier run left, and retires every partition that is past.
pub async fn partitions(
    ctx: &mut Context<'_>,
    table: &Table,
    outcome: &mut Outcome,
) -> Result<Left, Error> {
    if table.relation.key.as_deref() != Some(table.column.as_str()) {
        // Not partitioned, or not by this column: rows of all ages lie everywhere.
        return Ok(Left::Roots(vec![table.relation.id.oid]));
    }
    resume::finish(ctx, table, outcome).await?;
    let mut roots = Vec::new();
    for partition in &parts(ctx, table).await? {
        if !partition.past {
            if partition.is_default || partition.begins_before {
                roots.push(partition.id.oid);
            }
            continue;
        }
        if !(partition.owned && table.relation.owned) {
            outcome.warn(format!(
                "{} is wholly past but not owned by this role: its rows are deleted, it is not dropped",
                partition.id.name()
            ));
            roots.push(partition.id.oid);
            continue;
        }
        if ctx.stopping() {
            return Ok(Left::Stopped);
        }
        match retire(ctx, table, partition).await? {
            Retired::Gone => {
                outcome.strategy.insert("partitions");
                outcome.partitions.push(partition.id.name());
            }
            Retired::Held => roots.push(partition.id.oid),
            Retired::Changed => {
                let note = "was detached, renamed or given other bounds by somebody else meanwhile: it is left alone";
                outcome.notes.push(format!("{} {note}", partition.id.name()));
            }
        }
    }
    Ok(Left::Roots(roots))
}

/// What became of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retired {
    Gone,
    /// It has rows on hold.
    Held,
    /// It is no longer as it was read.
    Changed,
}

async fn retire(
    ctx: &mut Context<'_>,
    table: &Table,
    partition: &Partition,
) -> Result<Retired, Error> {
    // Between two steps a hold would not reach what is detached already.
    if table.relation.default_partition || table.only.is_some() || !ctx.conn.has_session_state() {
        return detach_and_drop(ctx, table, partition).await;
    }
    let gone = detach_concurrently(ctx, table, partition).await?
        && drop_detached(ctx, table, &partition.id).await?;
    Ok(if gone { Retired::Gone } else { Retired::Changed })
}

async fn parts(ctx: &mut Context<'_>, table: &Table) -> Result<Vec<Partition>, Error> {
    let options = short(ctx).read_only();
    ctx.conn
        .transaction(&options, |tx| {
            Box::pin(async move { list(tx, &table.relation, table.stamp, &table.cutoff).await })
        })
        .await
}

/// The partition whose detaching is unfinished, if there is one.
pub async fn cut_off(ctx: &mut Context<'_>, table: &Table) -> Result<Option<Partition>, Error> {
    let options = short(ctx).read_only();
    ctx.conn
        .transaction(&options, |tx| {
            Box::pin(async move { pending(tx, table.relation.id.oid).await })
        })
        .await
}

/// Returns false where it is no longer ours to detach.
async fn detach_concurrently(
    ctx: &mut Context<'_>,
    table: &Table,
    partition: &Partition,
) -> Result<bool, Error> {
    let alter = format!(
        "ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY",
        table.relation.id.quoted(),
        partition.id.quoted()
    );
    let mut attempts = LockAttempts::new();
    loop {
        if !announce(ctx, table, partition).await? {
            return Ok(false);
        }
        let bound = ctx.time_left();
        let error = match unfenced::run(ctx, "detach partition", &alter, bound, LOCK_TIMEOUT).await
        {
            Ok(()) => {
                detached_by_oid(ctx, table, partition).await?;
                confirm(ctx, partition.id.oid).await?;
                return Ok(true);
            }
            Err(error) => error.context(partition.id.name()),
        };
        if error.kind().is_connection() {
            return Err(error);
        }
        // Where the first of its two transactions was done, FINALIZE does the rest; where not, nothing has
        // happened yet, and what happens to the table from now on is not our doing.
        if let Some(pending) =
            cut_off(ctx, table).await?.filter(|pending| pending.id.oid == partition.id.oid)
        {
            // Ours for certain, since it is we who saw it begin; whoever finishes it.
            confirm(ctx, partition.id.oid).await?;
            if error.kind() != Kind::LockTimeout {
                return Err(error);
            }
            partitions::finalize(ctx, &table.relation, &pending).await?;
            return Ok(true);
        }
        forget(ctx, partition.id.oid).await?;
        if error.kind() == Kind::LockTimeout {
            // The next announcement looks whether it is still there.
            attempts.after(ctx, error).await?;
        } else {
            let options = short(ctx).read_only();
            let unmoved = ctx
                .conn
                .transaction(&options, |tx| Box::pin(unmoved(tx, table, partition)))
                .await?;
            return if unmoved { Err(error) } else { Ok(false) };
        }
    }
}

/// Checks that DETACH … CONCURRENTLY took off the partition of this OID. It runs outside any
/// transaction and by name, so no lock of ours keeps others from exchanging names before it.
async fn detached_by_oid(
    ctx: &mut Context<'_>,
    table: &Table,
    partition: &Partition,
) -> Result<(), Error> {
    let parts = parts(ctx, table).await?;
    let Some(attached) = parts.iter().find(|now| now.id.oid == partition.id.oid) else {
        return Ok(());
    };
    forget(ctx, partition.id.oid).await?;
    partition.id.check(&attached.id).map_err(|error| {
        error.context(format!(
            "another table named {} was detached instead and is not dropped; attach it again",
            partition.id.name()
        ))
    })
}

/// Journals the intent. False where the partition is no longer as it was read.
async fn announce(
    ctx: &mut Context<'_>,
    table: &Table,
    partition: &Partition,
) -> Result<bool, Error> {
    let (name, parent, upper) =
        (partition.id.quoted(), table.relation.id.quoted(), partition.upper.as_deref());
    let intent = &NewRetirement {
        partition: partition.id.oid,
        partition_name: &name,
        parent: table.relation.id.oid,
        parent_name: &parent,
        upper: upper.unwrap_or_default(),
        run_id: ctx.run_id,
    };
    let options = short(ctx);
    ctx.transaction(&options, |tx| {
        Box::pin(async move {
            let as_it_was = unmoved(tx, table, partition).await?;
            if as_it_was {
                retirements::announce(tx, intent).await?;
            }
            Ok(as_it_was)
        })
    })
    .await
}

/// Whether the table of this OID is still a partition and wholly past the cutoff.
///
/// # Errors
/// [`Kind::Sql`] where it is, but has another name or owner, or where the parent is no longer what
/// was looked up.
async fn unmoved(tx: &Tx<'_>, table: &Table, partition: &Partition) -> Result<bool, Error> {
    identity::compare(tx, &table.relation.id, None).await?;
    let now = attached(tx, &table.relation, table.stamp, &table.cutoff, partition.id.oid).await?;
    match now {
        Some(now) if now.past && !now.detach_pending => {
            partition.id.check(&now.id)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

async fn confirm(ctx: &mut Context<'_>, partition: u32) -> Result<(), Error> {
    let options = short(ctx);
    ctx.transaction(&options, |tx| {
        Box::pin(async move { retirements::confirm(tx, partition).await })
    })
    .await
}

/// Takes the announcement back: the table is not ours to drop.
pub async fn forget(ctx: &mut Context<'_>, partition: u32) -> Result<(), Error> {
    let options = short(ctx);
    ctx.transaction(&options, |tx| {
        Box::pin(async move { retirements::cancel(tx, partition).await })
    })
    .await
}

/// Both steps at once.
async fn detach_and_drop(
    ctx: &mut Context<'_>,
    table: &Table,
    partition: &Partition,
) -> Result<Retired, Error> {
    let (parent, child) = (table.relation.id.quoted(), &partition.id.quoted());
    // No row on hold may arrive after the look for some.
    let mode = if table.only.is_some() { "SHARE ROW EXCLUSIVE" } else { "SHARE UPDATE EXCLUSIVE" };
    let sql = &format!("ALTER TABLE {parent} DETACH PARTITION {child}; DROP TABLE {child}");
    let (details, resource) = record(ctx, table, &partition.id.name());
    let (details, resource) = (&details, &resource);
    let mut attempts = LockAttempts::new();
    loop {
        let options = table.purging(short(ctx).lock_timeout(LOCK_TIMEOUT));
        let done = ctx
            .transaction(&options, |tx| {
                Box::pin(async move {
                    table.keep_holds(tx).await?;
                    // Before the locks: there may be no table of that name any more.
                    if !unmoved(tx, table, partition).await? {
                        return Ok(Retired::Changed);
                    }
                    identity::lock(tx, &table.relation.id, "SHARE UPDATE EXCLUSIVE").await?;
                    identity::lock(tx, &partition.id, mode).await?;
                    if !unmoved(tx, table, partition).await? {
                        return Ok(Retired::Changed);
                    }
                    if table.only.is_some() && holds::has_held_rows(tx, child).await? {
                        return Ok(Retired::Held);
                    }
                    // Recorded before, so that the strong locks are held for as short as can be.
                    store::audit::record(tx, &event("retention.dropped", resource, details))
                        .await?;
                    tx.batch("detach and drop partition", sql).await?;
                    Ok(Retired::Gone)
                })
            })
            .await;
        match done {
            Ok(retired) => return Ok(retired),
            Err(error) => attempts.after(ctx, error).await?,
        }
    }
}

/// Drops a table whose detach is confirmed, and its row in the journal. False where the journal no
/// longer allows it. The parent is not compared: a table that the job detached must not be left
/// behind because the parent has changed since.
pub async fn drop_detached(
    ctx: &mut Context<'_>,
    table: &Table,
    id: &Identity,
) -> Result<bool, Error> {
    let (oid, name) = (id.oid, &id.name());
    let sql = &format!("DROP TABLE {}", id.quoted());
    let (details, resource) = record(ctx, table, name);
    let (details, resource) = (&details, &resource);
    let mut attempts = LockAttempts::new();
    loop {
        let options = short(ctx).lock_timeout(LOCK_TIMEOUT).read_committed();
        let done = ctx
            .transaction(&options, |tx| {
                Box::pin(async move {
                    if !retirements::complete(tx, oid).await? {
                        return Ok(false);
                    }
                    store::audit::record(tx, &event("retention.dropped", resource, details))
                        .await?;
                    identity::lock(tx, id, "SHARE UPDATE EXCLUSIVE").await?;
                    identity::compare(tx, id, None).await?;
                    let now = former(tx, oid, table.stamp, &table.cutoff, &table.cutoff).await?;
                    if now.is_none_or(|now| now.attached) {
                        let what =
                            format!("{name} was attached by somebody else: it is left alone");
                        return Err(Error::new(Kind::Sql, what));
                    }
                    tx.batch("drop partition", sql).await?;
                    Ok(true)
                })
            })
            .await;
        match done {
            Ok(gone) => return Ok(gone),
            Err(error) => attempts.after(ctx, error).await?,
        }
    }
}

/// What the audit trail is told of a drop, and of which table.
fn record(ctx: &Context<'_>, table: &Table, partition: &str) -> (serde_json::Value, String) {
    let details = json!({
        "run_id": ctx.run_id, "column": table.column, "cutoff": table.cutoff, "partition": partition,
    });
    (details, table.relation.id.name())
}
