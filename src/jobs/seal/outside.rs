//! Heads given to the outside: the file, after a look whether the chain still is the one that it tells of, and
//! the webhook, which is sent the newest head only: it commits to all before.

use std::time::Duration;

use crate::audit::Head;
use crate::audit::publish::{HeadFile, PublishedHead};
use crate::config::SecretSource;
use crate::db::{Error, Kind};
use crate::jobs::Context;
use crate::jobs::attempts::short;
use crate::store::audit_rows;
use crate::store::seals::{self, Seal};
use crate::webhook::Webhook;

/// Entries read at once for the file of heads.
const BATCH: i64 = 500;
/// For one attempt to reach the webhook; the next run is the next attempt.
const WEBHOOK_BOUND: Duration = Duration::from_secs(10);
/// The name under which the database notes what the webhook was sent.
const WEBHOOK: &str = "webhook";

/// Writes the heads that the file has not, after a look whether the chain still is what the file says.
pub async fn file(ctx: &mut Context<'_>) -> Result<(), Error> {
    let Some(dir) = ctx.config.audit.head_dir.as_ref().or(ctx.config.state_dir.as_ref()) else {
        return Ok(());
    };
    let file = HeadFile::new(dir, ctx.db.name());
    let failed = |ctx: &Context<'_>, error: std::io::Error| {
        ctx.metrics.audit_publish_failures_total.with_label_values(&[ctx.db.name(), "file"]).inc();
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
        let lines: Vec<PublishedHead> =
            entries.iter().map(|seal| PublishedHead::of(ctx.db.name(), seal)).collect();
        file.append(&lines).await.map_err(|error| failed(ctx, error))?;
        ctx.metrics
            .audit_last_published_seal_number
            .with_label_values(&[ctx.db.name(), "file"])
            .set(after);
    }
}

/// From which entry on the file has none. An error where the chain is not the one that the file tells of,
/// although the server is.
async fn went_on(
    ctx: &mut Context<'_>,
    file: &HeadFile,
    last: &PublishedHead,
) -> Result<i64, Error> {
    let options = short(ctx).read_only();
    let number = last.seal;
    let (same, newest, epoch) = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let same = seals::numbered(tx, number).await?;
                Ok((same, seals::last(tx).await?, audit_rows::epoch(tx).await?))
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

/// Sends the newest head, unless it was sent already.
pub async fn webhook(ctx: &mut Context<'_>) -> Result<(), Error> {
    let Some(source) = ctx.config.audit.webhook_url.clone() else { return Ok(()) };
    let options = short(ctx).read_only();
    let (newest, published) = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(
                async move { Ok((seals::last(tx).await?, seals::published(tx, WEBHOOK).await?)) },
            )
        })
        .await?;
    let Some(newest) = newest.filter(|newest| newest.number != published) else { return Ok(()) };
    if let Err(error) = send(ctx, &source, &newest).await {
        ctx.metrics.audit_publish_failures_total.with_label_values(&[ctx.db.name(), WEBHOOK]).inc();
        return Err(error);
    }
    ctx.metrics
        .audit_last_published_seal_number
        .with_label_values(&[ctx.db.name(), WEBHOOK])
        .set(newest.number);
    let options = short(ctx);
    let number = newest.number;
    ctx.transaction(&options, |tx| Box::pin(seals::note_published(tx, WEBHOOK, number))).await
}

async fn send(ctx: &Context<'_>, source: &SecretSource, newest: &Seal) -> Result<(), Error> {
    const WHAT: &str = "send the head of the newest seal to audit.webhook_url";
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::with_source(Kind::Config, WHAT, error)
    };
    let bound = WEBHOOK_BOUND.min(ctx.time_left());
    let url = source.load(bound).await.map_err(|error| failed(error.into()))?;
    let webhook = Webhook::parse(url.expose().trim()).map_err(|error| failed(error.into()))?;
    let body = serde_json::to_vec(&PublishedHead::of(ctx.db.name(), newest))
        .map_err(|error| failed(error.into()))?;
    webhook.post(ctx.db.tasks(), body, bound).await.map_err(|error| failed(error.into()))
}
