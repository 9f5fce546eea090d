//! Rows deleted by ranges of time, a bounded number in each transaction.
//!
//! From a moving lower bound the index gives the instant of the n-th row after it; everything between
//! is one DELETE. The bound moves on, so no slice walks over the dead entries of the one before
//! (which is what makes `LIMIT` and `ctid` batches slow). Where more than n rows share one instant no
//! bound divides them, and they go by `ctid`, still n at a time.
//!
//! A slice that meets a row lock gives up after a moment and is repeated with SKIP LOCKED; what it
//! skipped is tried once more, without, when the rest is done.
//!
//! Rows on hold stay where they are. A slice counts them, so that its reading is bounded, and passes them by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::types::Type;

use super::Outcome;
use super::pace::{Pace, Yield, judge};
use super::purge::{Ended, Table, event, options};
use crate::db::{Error, Kind, Param, Tx, quote_ident};
use crate::jobs::Context;
use crate::jobs::attempts::{LockAttempts, rest, short};
use crate::observe::tables::pressure::{self, Pressure};
use crate::observe::tables::relation::Leaf;
use crate::store;

/// For a row lock of somebody's.
const ROW_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest single pause for a standby or the archiver to catch up; then one slice is done all the same,
/// so that one that never does cannot stop retention altogether.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked at during a pause.
const PAUSE_STEP: Duration = Duration::from_millis(500);

/// No lag read is not no lag.
const LAG_HIDDEN: &str = "how far the standbys lag is not visible to this role, so they are not waited for: \
                          GRANT pg_monitor to it";

/// The slices of one table, over all tables beneath it.
pub struct Slicing<'t> {
    table: &'t Table,
    pace: Pace,
    /// Rows deleted and recorded in the audit trail as begun.
    announced: bool,
}

/// How a slice meets rows that others have locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locked {
    Wait,
    Skip,
}

/// How one slice ended.
enum Sliced {
    Done(Slice),
    /// Not started: a hold is being placed or released, or the table is locked.
    HeldUp(Error),
}

/// What one slice did.
#[derive(Debug)]
struct Slice {
    deleted: u64,
    /// Rows that it deleted or passed by.
    read: u64,
    /// Where the next one begins; none at the cutoff.
    next: Option<String>,
    pressure: Pressure,
}

impl<'t> Slicing<'t> {
    pub fn new(table: &'t Table, pace: Pace) -> Slicing<'t> {
        Slicing { table, pace, announced: false }
    }

    /// Closes the record in the audit trail, if anything was deleted.
    pub async fn certify(&self, ctx: &mut Context<'_>, outcome: &Outcome) -> Result<(), Error> {
        if !self.announced {
            return Ok(());
        }
        let details = &json!({
            "run_id": ctx.run_id,
            "column": self.table.column,
            "cutoff": self.table.cutoff,
            "rows": outcome.rows,
            "oldest_left": outcome.oldest_left,
        });
        let name = &self.table.relation.id.name();
        let options = short(ctx);
        ctx.transaction(&options, |tx| {
            Box::pin(async move {
                store::audit::record(tx, &event("retention.purged", name, details)).await
            })
        })
        .await
    }
}

/// Deletes what lies before the cutoff from one table that holds rows.
pub async fn purge(
    ctx: &mut Context<'_>,
    slicing: &mut Slicing<'_>,
    leaf: &Leaf,
    outcome: &mut Outcome,
) -> Result<Ended, Error> {
    outcome.strategy.insert("slices");
    if pass(ctx, slicing, leaf, Locked::Skip, outcome).await? == Passed::Stopped {
        return Ok(Ended::Stopped);
    }
    Ok(Ended::Whole)
}

/// How a walk from the oldest row to the cutoff ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    Clean,
    /// It met locks and left the locked rows.
    MetLocks,
    Stopped,
}

async fn pass(
    ctx: &mut Context<'_>,
    slicing: &mut Slicing<'_>,
    leaf: &Leaf,
    on_lock: Locked,
    outcome: &mut Outcome,
) -> Result<Passed, Error> {
    let mut lo = "-infinity".to_owned();
    let mut locked = Locked::Wait;
    let mut passed = Passed::Clean;
    let mut held_up = None;
    loop {
        if ctx.stopping() {
            return Ok(Passed::Stopped);
        }
        if ctx.time_left().is_zero() {
            let what = format!(
                "the job's deadline passed with rows left in {}; the next run goes on",
                leaf.id.name()
            );
            return Err(Error::new(Kind::Timeout, what));
        }
        let started = Instant::now();
        let slice = match slice(ctx, slicing, leaf, &lo, locked).await {
            Ok(Sliced::Done(slice)) => slice,
            Ok(Sliced::HeldUp(error)) => {
                let attempts = held_up.get_or_insert_with(LockAttempts::new);
                let waited = attempts.after(ctx, error).await;
                waited.map_err(|error| error.context(leaf.id.name()))?;
                continue;
            }
            Err(error)
                if error.kind() == Kind::LockTimeout
                    && locked == Locked::Wait
                    && on_lock == Locked::Skip =>
            {
                locked = Locked::Skip;
                passed = Passed::MetLocks;
                continue;
            }
            Err(error) if error.kind() == Kind::LockTimeout => {
                return Err(error.context(format!(
                    "rows of {} are locked by another transaction",
                    leaf.id.name()
                )));
            }
            Err(error) if error.kind() == Kind::Timeout && slicing.pace.halve() => continue,
            Err(error) => return Err(error.context(leaf.id.name())),
        };
        (locked, held_up) = (Locked::Wait, None);
        let elapsed = started.elapsed();
        outcome.rows += slice.deleted;
        slicing.announced |= slice.deleted > 0;
        slicing.pace.took(elapsed, slice.read);
        if slice.pressure.lag_hidden {
            outcome.warn(LAG_HIDDEN.to_owned());
        }
        let Some(next) = slice.next else { break };
        lo = next;
        give_way(ctx, &mut slicing.pace, elapsed, slice.pressure, outcome).await?;
    }
    if passed == Passed::MetLocks {
        return Box::pin(pass(ctx, slicing, leaf, Locked::Wait, outcome)).await;
    }
    Ok(passed)
}

/// One slice in one transaction.
async fn slice(
    ctx: &mut Context<'_>,
    slicing: &Slicing<'_>,
    leaf: &Leaf,
    lo: &str,
    locked: Locked,
) -> Result<Sliced, Error> {
    let table = slicing.table;
    let rows = slicing.pace.rows();
    let details = json!({ "run_id": ctx.run_id, "column": table.column, "cutoff": table.cutoff });
    let (name, relation) = (table.relation.id.name(), leaf.id.quoted());
    let (details, name, relation) = (&details, &name, &relation);
    let announced = slicing.announced;
    let held_up = &AtomicBool::new(false);
    let options = table.purging(options(ctx).lock_timeout(ROW_LOCK_TIMEOUT));
    let outcome = ctx.transaction(&options, |tx| {
        Box::pin(async move {
            held_up.store(true, Ordering::Relaxed);
            table.keep_holds(tx).await?;
            table.bind(tx, &leaf.id).await?;
            held_up.store(false, Ordering::Relaxed);
            let (deleted, next) = delete(tx, table, relation, lo, rows, locked).await?;
            if deleted > 0 && !announced {
                store::audit::record(tx, &event("retention.purging", name, details)).await?;
            }
            let read =
                if table.only.is_some() && next.is_some() { rows.unsigned_abs() } else { deleted };
            Ok(Slice { deleted, read, next, pressure: pressure::read(tx).await? })
        })
    });
    match outcome.await {
        Ok(slice) => Ok(Sliced::Done(slice)),
        Err(error) if error.kind() == Kind::LockTimeout && held_up.load(Ordering::Relaxed) => {
            Ok(Sliced::HeldUp(error))
        }
        Err(error) => Err(error),
    }
}

/// Deletes up to `rows` rows from `lo` on. Returns how many, and where to go on.
///
/// Each DELETE by `ctid` repeats the conditions of its subquery outside. If another transaction
/// updates a row while the DELETE waits for it, PostgreSQL evaluates only the outer conditions
/// against the new version. Servers older than the minor releases of November 2025 do not even
/// compare `ctid` again, and would delete a row that is no longer due. `IS TRUE` keeps the planner
/// from using the conditions for an index scan, which would compare each row with the whole array.
async fn delete(
    tx: &Tx<'_>,
    table: &Table,
    relation: &str,
    lo: &str,
    rows: i64,
    locked: Locked,
) -> Result<(u64, Option<String>), Error> {
    let column = quote_ident(&table.column);
    let stamp = table.stamp.sql();
    let cutoff = &table.cutoff;
    let only = table.and_only();
    let range: [Param<'_>; 3] = [(&lo, Type::TEXT), (cutoff, Type::TEXT), (&rows, Type::INT8)];
    // Qualified, ORDER BY means the column. The bare name would be the output's, which is text: the
    // whole range sorted, for each slice, by how its instants are spelt.
    let bound = format!(
        "SELECT t.{column}::text FROM ONLY {relation} AS t
          WHERE t.{column} >= $1::{stamp} AND t.{column} < $2::{stamp}
          ORDER BY t.{column} OFFSET $3 LIMIT 1"
    );
    let hi: Option<String> =
        tx.row_opt("find the slice's end", &bound, &range).await?.map(|row| row.get(0));

    if hi.as_deref() == Some(lo) {
        let skip = if locked == Locked::Skip { "FOR UPDATE OF t SKIP LOCKED" } else { "" };
        let due = format!("t.{column} = $1::{stamp}{only}");
        let same = format!(
            "DELETE FROM ONLY {relation} AS t
              WHERE t.ctid = ANY (ARRAY(
                    SELECT t.ctid FROM ONLY {relation} AS t WHERE {due} LIMIT $2 {skip}))
                AND ({due}) IS TRUE"
        );
        let deleted =
            tx.execute("delete a slice", &same, &[(&lo, Type::TEXT), (&rows, Type::INT8)]).await?;
        if deleted > 0 {
            return Ok((deleted, hi));
        }
        // None of them can be deleted now: on to the next instant, or this would never end.
        let after = format!(
            "SELECT min({column})::text FROM ONLY {relation} WHERE {column} > $1::{stamp} AND {column} < $2::{stamp}"
        );
        return Ok((0, tx.row("find the next instant", &after, &range[..2]).await?.get(0)));
    }

    let end = hi.as_deref().unwrap_or(cutoff);
    let within = format!("t.{column} >= $1::{stamp} AND t.{column} < $2::{stamp}{only}");
    let sql = match locked {
        Locked::Wait => format!("DELETE FROM ONLY {relation} AS t WHERE {within}"),
        // An array is computed once; a subquery with IN may be run again for each row, and take more.
        Locked::Skip => format!(
            "DELETE FROM ONLY {relation} AS t
              WHERE t.ctid = ANY (ARRAY(
                    SELECT t.ctid FROM ONLY {relation} AS t
                     WHERE {within} FOR UPDATE OF t SKIP LOCKED))
                AND ({within}) IS TRUE"
        ),
    };
    let deleted =
        tx.execute("delete a slice", &sql, &[(&lo, Type::TEXT), (&end, Type::TEXT)]).await?;
    Ok((deleted, hi))
}

/// Rests by the duty, and longer where others suffer.
async fn give_way(
    ctx: &mut Context<'_>,
    pace: &mut Pace,
    elapsed: Duration,
    pressure: Pressure,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let started = Instant::now();
    rest(ctx, pace.rest(elapsed)).await;
    match judge(pressure) {
        None => {}
        Some(reason @ Yield::LockWaiters) => {
            outcome.throttled_by.insert(reason.as_str());
            pace.halve();
            rest(ctx, elapsed).await;
        }
        Some(reason @ (Yield::ReplicaLag | Yield::WalArchiving)) => {
            outcome.throttled_by.insert(reason.as_str());
            while started.elapsed() < PAUSE_MAX && !ctx.stopping() && !ctx.time_left().is_zero() {
                rest(ctx, PAUSE_STEP).await;
                let options = short(ctx).read_only();
                let now = ctx
                    .conn
                    .transaction(&options, |tx| Box::pin(async move { pressure::read(tx).await }))
                    .await?;
                if judge(now) != Some(reason) {
                    break;
                }
            }
        }
    }
    outcome.throttled_ms += u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(())
}

/// The oldest row of the whole table that may be purged, and whether it lies before the cutoff.
pub async fn oldest(tx: &Tx<'_>, table: &Table) -> Result<Option<(String, bool)>, Error> {
    let sql = format!(
        "SELECT t.{column}::text, t.{column} < $1::{stamp} FROM {relation} AS t
          WHERE t.{column} IS NOT NULL{only} ORDER BY t.{column} LIMIT 1",
        only = table.and_only(),
        column = quote_ident(&table.column),
        stamp = table.stamp.sql(),
        relation = table.relation.id.quoted(),
    );
    let row = tx.row_opt("read the oldest row", &sql, &[(&table.cutoff, Type::TEXT)]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
