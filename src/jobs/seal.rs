//! Seals the audit trail, and gives the newest head to the outside.
//!
//! Each entry of the chain is one fenced transaction of at most [`seal::SEAL_ROWS`] rows; a backlog is sealed
//! entry by entry. Only what is committed is published. A sink that fails is tried again at the next run,
//! and keeps nobody from sealing.

use serde_json::json;

use super::attempts::short;
use super::{Context, Report};
use crate::audit::publish::{HeadFile, Published};
use crate::audit::{Head, seal};
use crate::db::{Error, Kind};
use crate::store::seals::{self, Seal};
use crate::store::trail;

/// Entries read at once for the file of heads.
const BATCH: i64 = 500;

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
    report.failure = file(ctx).await.err();
    Ok(report)
}

async fn next(ctx: &mut Context<'_>) -> Result<seal::Outcome, Error> {
    let by = &format!("job:audit-seal {}", ctx.run_id);
    let options = trail::by_index(short(ctx));
    ctx.transaction(&options, |tx| Box::pin(seal::next(tx, by))).await
}

/// The log is a place outside the database, too.
fn told(ctx: &Context<'_>, seal: &Seal) {
    let target = ctx.db.name();
    tracing::info!(database = target, head = %Head::of(seal), kind = seal.what.kind(), epoch = seal.epoch,
        rows = seal.row_count, "audit trail sealed");
    let metrics = &ctx.metrics.audit;
    metrics.sealed_rows.with_label_values(&[target]).inc_by(seal.row_count.unsigned_abs());
    metrics.seal_number.with_label_values(&[target]).set(seal.number);
    metrics.sealed_at.with_label_values(&[target]).set(seal.sealed_at.timestamp_micros() as f64 / 1e6);
}

/// Writes the heads that the file has not, after a look whether the chain still is what the file says.
async fn file(ctx: &mut Context<'_>) -> Result<(), Error> {
    let Some(dir) = ctx.config.audit.head_dir.as_ref().or(ctx.config.state_dir.as_ref()) else { return Ok(()) };
    let file = HeadFile::new(dir, ctx.db.name());
    let failed = |ctx: &Context<'_>, error: std::io::Error| {
        ctx.metrics.audit.publish_failures.with_label_values(&[ctx.db.name(), "file"]).inc();
        Error::with_source(Kind::Config, format!("write heads to {}", file.path().display()), error)
    };
    let last = file.last().await.map_err(|error| failed(ctx, error))?;
    let mut after = match &last {
        Some(last) => went_on(ctx, &file, last).await?,
        None => newest(ctx).await?.map_or(0, |seal| seal.number - 1),
    };
    loop {
        let entries = entries(ctx, after).await?;
        let Some(newest) = entries.last() else { return Ok(()) };
        after = newest.number;
        let lines: Vec<Published> = entries.iter().map(|seal| Published::of(ctx.db.name(), seal)).collect();
        file.append(&lines).await.map_err(|error| failed(ctx, error))?;
        ctx.metrics.audit.published.with_label_values(&[ctx.db.name(), "file"]).set(after);
    }
}

/// From which entry on the file has none. An error where the chain is not the one that the file tells of,
/// although the server is.
async fn went_on(ctx: &mut Context<'_>, file: &HeadFile, last: &Published) -> Result<i64, Error> {
    let options = short(ctx).read_only();
    let number = last.seal;
    let (same, newest, epoch) = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let same = seals::numbered(tx, number).await?;
                Ok((same, seals::last(tx).await?, trail::epoch(tx).await?))
            })
        })
        .await?;
    if same.is_some_and(|seal| last.head() == Some(Head::of(&seal))) {
        return Ok(number);
    }
    let told = format!("head {}:{}, published at {}", last.seal, last.head, last.sealed_at);
    if epoch.split('#').next() == last.epoch.split('#').next() {
        let path = file.path().display();
        return Err(Error::new(
            Kind::Sql,
            format!(
                "the chain of seals does not hold {told} to {path}: seals were rewritten by somebody who may, or this \
                 database was put back to an earlier state, or it is another one; `pgsteward audit verify --against \
                 {path}` says more. Nothing is written to that file until it is moved away, which accepts the chain as \
                 it is"
            ),
        ));
    }
    tracing::warn!(
        database = ctx.db.name(),
        was = last.epoch,
        is = epoch,
        "the database was restored or failed over: its chain of seals does not hold {told}; going on with a new epoch"
    );
    Ok(newest.map_or(0, |seal| seal.number - 1))
}

async fn newest(ctx: &mut Context<'_>) -> Result<Option<Seal>, Error> {
    let options = short(ctx).read_only();
    ctx.conn.transaction(&options, |tx| Box::pin(seals::last(tx))).await
}

async fn entries(ctx: &mut Context<'_>, after: i64) -> Result<Vec<Seal>, Error> {
    let options = short(ctx).read_only();
    ctx.conn.transaction(&options, |tx| Box::pin(seals::after(tx, after, BATCH))).await
}
