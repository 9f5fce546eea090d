//! What is past its time goes.
//!
//! ```text
//! for each table   look it up, refuse what cannot be purged safely
//!                  fix the cutoff, once, by the server's clock
//!                  the audit trail: certify that rows go               (trail.rs)
//!                  partitions wholly past it: detach and drop          (retire.rs)
//!                  the partition across it, the default partition, and
//!                  tables without partitions: delete by range slices   (slices.rs)
//!                  verify: the oldest row left is not before the cutoff, but for holds
//! at last          the history of runs
//! ```
//! Each transaction that deletes, detaches or drops compares the identity of its tables first,
//! under a lock (observe/tables/identity.rs). A table that fails does not stop the next; the run
//! fails at the end and names each. Everything is safe to repeat: a run that was cut off anywhere
//! is resumed by the next one.

mod pace;
pub mod preview;
mod purge;
mod references;
mod resume;
mod retire;
mod slices;
pub mod targets;
mod trail;

use std::collections::BTreeSet;

use serde_json::json;

use self::purge::Ended;
use super::attempts::{Failures, short};
use super::{Context, Report};
use crate::db::Error;
use crate::observe::tables::partitions::TimeType;
use crate::observe::tables::relation;
use crate::store;
use crate::store::requests::RunOptions;

/// The name under which the audit trail knows this job.
const ACTOR: &str = "job:retention";
/// Runs of the ledger deleted in one transaction.
const HISTORY_BATCH: i64 = 1_000;

/// What became of one table.
#[derive(Debug, Clone, Default, serde::Serialize)]
struct Outcome {
    pub column: String,
    pub cutoff: String,
    /// `partitions`, `slices`, or both.
    pub strategy: BTreeSet<&'static str>,
    pub rows: u64,
    /// The partitions that were dropped.
    pub partitions: Vec<String>,
    /// The oldest row that is left.
    pub oldest_left: Option<String>,
    /// How long the job held itself back, and why.
    pub throttled_ms: u64,
    pub throttled_by: BTreeSet<&'static str>,
    pub notes: Vec<String>,
    /// Those of the notes that somebody should mend.
    #[serde(skip)]
    pub warnings: Vec<String>,
    pub error: Option<String>,
}

impl Outcome {
    /// Notes what somebody should mend, once.
    fn warn(&mut self, what: String) {
        if !self.warnings.contains(&what) {
            self.notes.push(what.clone());
            self.warnings.push(what);
        }
    }
}

/// Purges every table that the configuration names or that is our own.
pub async fn run(ctx: &mut Context<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut detail = serde_json::Map::new();
    let mut failures = Failures::default();
    let all = targets::targets(ctx.config, ctx.sets);
    let targets = targets::wanted(all, &ctx.options, ctx.config.retention.min_keep);
    let covered: Vec<&targets::Target> =
        targets.iter().filter(|target| ctx.options.covers(&target.name())).collect();
    for (done, target) in covered.iter().enumerate() {
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        let name = target.name();
        ctx.tell(done, covered.len(), &name, "purge");
        let mut outcome = Outcome::default();
        let ended = purge::table(ctx, target, &targets, &mut outcome).await;
        let labels = [ctx.db.name(), &name];
        ctx.metrics.retention_rows_deleted_total.with_label_values(&labels).inc_by(outcome.rows);
        ctx.metrics
            .retention_partitions_dropped_total
            .with_label_values(&labels)
            .inc_by(outcome.partitions.len() as u64);
        report.rows += i64::try_from(outcome.rows).unwrap_or(i64::MAX);
        report.warnings.extend(outcome.warnings.iter().map(|warning| format!("{name}: {warning}")));
        match ended {
            Ok(Ended::Whole) => {}
            Ok(Ended::Stopped) => report.stopped = true,
            Err(error) => {
                outcome.error = Some(error.to_string());
                let did = format!(
                    "{} rows and {} partitions removed",
                    outcome.rows,
                    outcome.partitions.len()
                );
                failures.keep(&name, error.context(did))?;
            }
        }
        detail.insert(name, json!(outcome));
    }
    if !report.stopped && ctx.options == RunOptions::default() {
        if let Err(error) = forget_keys(ctx).await {
            failures.keep("steward.idempotency_keys", error)?;
        }
        match history(ctx).await {
            Ok(rows) => {
                report.rows += i64::try_from(rows).unwrap_or(i64::MAX);
                detail.insert("steward.job_runs".to_owned(), json!({ "rows": rows }));
            }
            Err(error) => failures.keep("steward.job_runs", error)?,
        }
    }
    report.failure = failures.finish();
    report.detail = detail.into();
    Ok(report)
}

/// Forgets idempotency keys that are past their time.
async fn forget_keys(ctx: &mut Context<'_>) -> Result<(), Error> {
    while !ctx.stopping() {
        let options = short(ctx);
        let pruned = ctx
            .transaction(&options, |tx| Box::pin(store::idempotency::prune(tx, HISTORY_BATCH)))
            .await?;
        if pruned < HISTORY_BATCH as u64 {
            break;
        }
    }
    Ok(())
}

/// Prunes the ledger. It grows by a few rows an hour, so a run has few batches to do.
async fn history(ctx: &mut Context<'_>) -> Result<u64, Error> {
    let keep = ctx.config.jobs.history_keep;
    let options = short(ctx);
    let (cutoff, cutoff_failed) = ctx
        .conn
        .transaction(&options.clone().read_only(), |tx| {
            Box::pin(async move {
                let cutoff = relation::cutoff(tx, TimeType::TimestampTz, keep).await?;
                Ok((
                    cutoff,
                    relation::cutoff(tx, TimeType::TimestampTz, keep.saturating_mul(2)).await?,
                ))
            })
        })
        .await?;
    let (cutoff, cutoff_failed) = (&cutoff, &cutoff_failed);
    let mut rows = 0;
    while !ctx.stopping() {
        let options = short(ctx);
        let pruned = ctx
            .transaction(&options, |tx| {
                Box::pin(async move {
                    store::run_history::prune(tx, cutoff, cutoff_failed, HISTORY_BATCH).await
                })
            })
            .await?;
        rows += pruned;
        if pruned < HISTORY_BATCH as u64 {
            break;
        }
    }
    let labels = [ctx.db.name(), "steward.job_runs"];
    ctx.metrics.retention_rows_deleted_total.with_label_values(&labels).inc_by(rows);
    Ok(rows)
}
