//! `GET /runs/{id}`, `POST /runs/{id}/cancel` and `GET /runs/{id}/events`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::input::Empty;
use super::mutation::{MutationContext, MutationReply, MutationResult, run_detached};
use super::run_lookup::{self, find, is_finished, no_such_run};
use super::stream::event_stream;
use crate::db::{Error, Tx};
use crate::http::api_database::StreamPermit;
use crate::http::response::ok;
use crate::http::{ApiDatabase, Authenticator, BodyAborted, Context, HttpError, Response, Rules};
use crate::scheduler::commands;
use crate::store::requests::CancelResult;

/// Between two reads of a run that is followed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Between two reads while the database is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Between two comments on a quiet stream. They keep proxies from closing it, and a client that has
/// disconnected is noticed when the second one cannot be sent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Then the stream ends and the client must follow again, with credentials that are still valid.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);

/// `GET /runs/{id}`
pub async fn get(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    Ok(ok(&find(&*context.database()?, context.run_id()?).await?))
}

/// `POST /runs/{id}/cancel`
pub async fn cancel(context: &Context<'_>) -> Result<Response, HttpError> {
    let key = context.check_mutation()?;
    let Empty {} = context.json()?;
    let id = context.run_id()?;
    let reply = run_detached(context, key, move |ctx| async move {
        if let Some(migration) = run_lookup::requested_migration(&ctx.database, id) {
            return Err(match migration.is_over() {
                true => already_finished(&migration.job, &migration.state),
                false => not_cancellable(),
            });
        }
        ctx.execute(&id, |tx, ctx, id| Box::pin(cancel_run(tx, ctx, *id))).await
    })
    .await?;
    Ok(reply.response())
}

fn not_cancellable() -> HttpError {
    let detail = "running migrations cannot be cancelled, because a file is applied completely or \
                  not at all; migrations.statement_timeout limits their time";
    HttpError::conflict("not_cancellable", detail)
}

fn already_finished(job: &str, state: &str) -> HttpError {
    let detail = format!("the run of {job} has already finished: {state}");
    HttpError::conflict("already_finished", detail).with("state", state)
}

async fn cancel_run(tx: &Tx<'_>, ctx: &MutationContext, id: Uuid) -> Result<MutationResult, Error> {
    let (job, state) = match commands::cancel(tx, ctx.by(), id).await? {
        CancelResult::Unknown => return Ok(Err(no_such_run())),
        CancelResult::AlreadyFinished { job, state } => {
            return Ok(Err(already_finished(&job, &state)));
        }
        CancelResult::Requested { job, .. } => (job, "cancelling"),
        CancelResult::Dequeued { job } => (job, "cancelled"),
    };
    let reply: MutationReply =
        ctx.accepted(json!({ "run_id": id, "job": job, "state": state }), id);
    Ok(Ok(reply))
}

/// `GET /runs/{id}/events`: sends the run after each change, until it has finished.
pub async fn follow(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, id) = (context.database()?, context.run_id()?);
    let first = find(&database, id).await?;
    let follower = Follower {
        database,
        id,
        next: Some(first),
        sent: None,
        unavailable: false,
        finished: false,
        stop: context.state.tasks.stopping(),
        until: Instant::now() + FOLLOW_MAX,
        authenticator: Arc::clone(&context.state.authenticator),
        rules: context.state.authenticator.rules(),
        _permit: context.state.databases.stream(context.caller.as_ref())?,
    };
    Ok(event_stream(Box::pin(stream::unfold(follower, |mut follower| async move {
        let event = follower.next_event().await?;
        Some((Ok::<_, BodyAborted>(event), follower))
    }))))
}

/// A client that follows a run.
struct Follower {
    database: Arc<ApiDatabase>,
    id: Uuid,
    /// Read, but not sent yet.
    next: Option<Value>,
    sent: Option<Value>,
    unavailable: bool,
    finished: bool,
    stop: CancellationToken,
    until: Instant,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    _permit: StreamPermit,
}

impl Follower {
    /// Waits for the next event. Returns `None` at the end of the stream.
    async fn next_event(&mut self) -> Option<Bytes> {
        if self.finished || Instant::now() >= self.until {
            return None;
        }
        let keep_alive_at = Instant::now() + KEEP_ALIVE;
        loop {
            if let Some(run) = self.next.take().filter(|run| self.sent.as_ref() != Some(run)) {
                self.finished = is_finished(&run);
                let end = if self.finished { "event: end\ndata: {}\n\n" } else { "" };
                let event = format!("event: run\ndata: {run}\n\n{end}");
                self.sent = Some(run);
                return Some(event.into());
            }
            if Instant::now() >= keep_alive_at {
                return Some(Bytes::from_static(b": keep-alive\n\n"));
            }
            let pause = if self.unavailable { RETRY_INTERVAL } else { FOLLOW_INTERVAL };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(pause) => {}
            }
            // After a reload the credentials may no longer be valid. The client follows again and is
            // authenticated by the new rules.
            if !Arc::ptr_eq(&self.rules, &self.authenticator.rules()) {
                return None;
            }
            match run_lookup::read(&self.database, self.id).await {
                Ok(Some(run)) => (self.next, self.unavailable) = (Some(run), false),
                Ok(None) => return None,
                Err(error) => {
                    if !std::mem::replace(&mut self.unavailable, true) {
                        let data = json!({ "reason": error.kind().as_str() });
                        return Some(format!("event: unavailable\ndata: {data}\n\n").into());
                    }
                }
            }
        }
    }
}
