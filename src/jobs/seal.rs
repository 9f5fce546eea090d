//! Seals the audit trail, and gives the newest head to the outside.
//!
//! Each entry of the chain is one fenced transaction of at most [`seal::SEAL_ROWS`] rows; a backlog is sealed
//! entry by entry. Only what is committed is published. A sink that fails is tried again at the next run,
//! and keeps nobody from sealing.

mod outside;

use serde_json::json;

use super::attempts::short;
use super::{Context, Report};
use crate::audit::{Head, seal};
use crate::db::Error;
use crate::store::audit_rows;
use crate::store::seals::Seal;

/// Seals what can be sealed.
pub async fn run(ctx: &mut Context<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut newest = None;
    loop {
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        let outcome = next(ctx).await?;
        if let Some(seal) = &outcome.seal {
            report.rows += seal.row_count;
            told(ctx, seal);
        }
        newest = outcome.seal.or(newest);
        if !outcome.more {
            break;
        }
    }
    report.detail = json!({
        "seal": newest.as_ref().map(|seal| seal.number),
        "head": newest.as_ref().map(|seal| Head::of(seal).to_string()),
    });
    report.failure = outside::file(ctx).await.err();
    report.warnings.extend(outside::webhook(ctx).await.err().map(|error| error.to_string()));
    Ok(report)
}

async fn next(ctx: &mut Context<'_>) -> Result<seal::Appended, Error> {
    let by = &format!("job:audit-seal {}", ctx.run_id);
    let options = audit_rows::by_index(short(ctx));
    ctx.transaction(&options, |tx| Box::pin(seal::append_rows(tx, by))).await
}

/// The log is a place outside the database, too.
fn told(ctx: &Context<'_>, seal: &Seal) {
    let target = ctx.db.name();
    tracing::info!(database = target, head = %Head::of(seal), kind = seal.what.kind(), epoch = seal.epoch,
        rows = seal.row_count, "audit trail sealed");
    let metrics = &ctx.metrics;
    metrics
        .audit_sealed_rows_total
        .with_label_values(&[target])
        .inc_by(seal.row_count.unsigned_abs());
    metrics.audit_last_seal_number.with_label_values(&[target]).set(seal.number);
    metrics
        .audit_last_seal_timestamp_seconds
        .with_label_values(&[target])
        .set(seal.sealed_at.timestamp_micros() as f64 / 1e6);
}
