//! Runs: one by its id, its cancel, and following it to its end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::input::Empty;
use super::mutation::{Mutation, MutationContext, MutationReply, MutationResult, run_detached};
use super::stream::event_stream;
use crate::db::{Database, Error, Purpose, Tx, TxFuture};
use crate::http::api_database::StreamPermit;
use crate::http::response::{ok, set_header};
use crate::http::{ApiDatabase, Authenticator, BodyAborted, Context, HttpError, Response, Rules};
use crate::scheduler::{RuntimeStatus, commands};
use crate::store::requests::CancelResult;
use crate::store::run_history::{self, RunEntry};

/// After the first look at a run that is waited for; then ever longer, up to [`POLL_MAX`].
const POLL_FIRST: Duration = Duration::from_millis(100);
/// Between two looks at a run that is followed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// The same while the database is away.
const POLL_MAX: Duration = Duration::from_secs(2);
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// A line of nothing, so that proxies do not take the stream for dead; and a client that has left is noticed, and its
/// place given back, when the second such line does not reach it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Then whoever follows asks again, with credentials that still hold.
const FOLLOW_MAX: Duration = Duration::from_secs(3600);
/// Left of a request's time for its answer, when a run has not ended in time.
const RESPONSE_RESERVE: Duration = Duration::from_secs(1);

/// A run as it is answered. Its progress is that of this instance where it runs here, which is newer than its row.
pub fn run_to_json(database: &ApiDatabase, entry: RunEntry) -> Value {
    json!(with_progress(&database.status, entry))
}

fn with_progress(standing: &RuntimeStatus, mut entry: RunEntry) -> RunEntry {
    if !entry.is_over()
        && let Some(here) = standing.progress.of(entry.id)
    {
        entry.progress = serde_json::to_value(here).ok();
    }
    entry
}

/// `GET /runs/{id}`
pub async fn get(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, id) = (context.database()?, context.run_id()?);
    Ok(ok(&find(&database, id).await?))
}

/// The run: of the ledger, or an attempt to migrate that was asked for here.
async fn find(database: &ApiDatabase, id: Uuid) -> Result<Value, HttpError> {
    if let Some(attempt) = super::migrations::attempt(database, id) {
        return Ok(attempt);
    }
    let mut conn = database.connection().await?;
    let read = run_history::read_run(&mut conn, id, database.db.query_timeout()).await;
    match read.map_err(|error| database.http_error(&error))? {
        Some(entry) => Ok(run_to_json(database, entry)),
        None => Err(no_such_run()),
    }
}

fn no_such_run() -> HttpError {
    let detail =
        "there is no run of this id; ended ones are forgotten after a while (jobs.history_keep)";
    HttpError::new(StatusCode::NOT_FOUND, "no_such_run", detail)
}

/// Answers who asked for runs: at once, or, as was preferred, when they have ended: with the run itself, or with all
/// of them where there may be several. With what `done` says where they have not ended in time.
pub async fn respond_with_run(
    context: &Context<'_>,
    (done, replayed): (MutationReply, bool),
) -> Result<Response, HttpError> {
    let (Some(wait), Some(id)) = (context.wait(), id_of(&done.body["run_id"])) else {
        return Ok(done.response(replayed));
    };
    let several = done.body["runs"].as_array();
    let ids: Vec<Uuid> = several
        .map_or_else(|| vec![id], |runs| runs.iter().filter_map(|run| id_of(&run["id"])).collect());
    let ended = wait_for_end(context, &ids, wait).await?;
    let mut response = match ended {
        Some(mut runs) if several.is_none() => ok(&runs.pop()),
        Some(runs) => {
            let body = json!({ "target": done.body["target"], "run_id": id, "runs": runs });
            ok(&body)
        }
        None => done.response(replayed),
    };
    set_header(&mut response, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    Ok(response)
}

fn id_of(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// The runs, once all of them have ended; `None` where that takes too long.
async fn wait_for_end(
    context: &Context<'_>,
    ids: &[Uuid],
    wait: Duration,
) -> Result<Option<Vec<Value>>, HttpError> {
    let database = context.database()?;
    // Most runs take moments, and those that do not are not hurried by being looked at.
    let mut pause = POLL_FIRST;
    let until = Instant::now() + wait.min(context.time_left().saturating_sub(RESPONSE_RESERVE));
    let mut ended = Vec::new();
    while let Some(id) = ids.get(ended.len()) {
        let found = timeout_at(until, find(&database, *id)).await;
        let left = until.saturating_duration_since(Instant::now());
        match found {
            Ok(Ok(run)) if is_over(&run) => ended.push(run),
            // A database that is away for a moment says nothing of the run. What ends late is not missed either.
            Ok(_) if left >= POLL_FIRST => sleep(pause.min(left / 2)).await,
            Ok(_) | Err(_) => return Ok(None),
        }
        pause = (pause * 3 / 2).min(POLL_MAX);
    }
    Ok(Some(ended))
}

fn is_over(run: &Value) -> bool {
    !matches!(run["state"].as_str(), Some("queued" | "running"))
}

/// `POST /runs/{id}/cancel`
pub async fn cancel(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_mutation()?;
    let Empty {} = context.json()?;
    let id = context.run_id()?;
    run_detached(context, move |state, ctx| async move {
        let database = state.databases.of(ctx.target.as_deref())?;
        if let Some(attempt) = super::migrations::attempt(&database, id) {
            return Err(not_cancellable(&attempt));
        }
        let (done, replayed) = ctx.execute(&database, &CancelRun(id)).await?;
        Ok(done.response(replayed))
    })
    .await
}

fn not_cancellable(attempt: &Value) -> HttpError {
    if is_over(attempt) {
        let error =
            HttpError::new(StatusCode::CONFLICT, "over", "the migrations have ended already");
        return error.with("state", attempt["state"].clone());
    }
    let detail = "migrations are not cancelled here: a file is whole or nothing; migrations.statement_timeout bounds it";
    HttpError::new(StatusCode::CONFLICT, "not_cancellable", detail)
}

struct CancelRun(Uuid);

impl Mutation for CancelRun {
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult> {
        Box::pin(cancel_in(tx, ctx, self.0))
    }
}

async fn cancel_in(tx: &Tx<'_>, ctx: &MutationContext, id: Uuid) -> Result<MutationResult, Error> {
    let (job, state) = match commands::cancel(tx, ctx.by(), id).await? {
        CancelResult::Unknown => return Ok(MutationResult::refused(no_such_run())),
        CancelResult::AlreadyFinished { job, state } => {
            let detail = format!("the run of {job} is over already: {state}");
            return Ok(MutationResult::refused(
                HttpError::new(StatusCode::CONFLICT, "over", detail).with("state", state),
            ));
        }
        CancelResult::Requested { job, .. } => (job, "cancelling"),
        CancelResult::Dequeued { job } => (job, "cancelled"),
    };
    let body = json!({ "run_id": id, "job": job, "state": state });
    Ok(MutationResult::Done(ctx.accepted(body, id)))
}

/// `GET /runs/{id}/events`: the run at each change, until it is over.
pub async fn follow(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let (database, id) = (context.database()?, context.run_id()?);
    let first = find(&database, id).await?;
    let follower = Follower {
        db: Arc::clone(&database.db),
        standing: Arc::clone(&database.status),
        id,
        next: Some(first),
        sent: None,
        unavailable: false,
        over: false,
        stop: context.state.tasks.stopping(),
        until: Instant::now() + FOLLOW_MAX,
        authenticator: Arc::clone(&context.state.authenticator),
        rules: context.state.authenticator.rules(),
        _permit: context.state.databases.stream(context.caller.as_ref())?,
    };
    Ok(event_stream(Box::pin(stream::unfold(follower, |mut follower| async move {
        let next_event = follower.next_event().await?;
        Some((Ok::<_, BodyAborted>(next_event), follower))
    }))))
}

/// One client that follows one run.
struct Follower {
    db: Arc<Database>,
    standing: Arc<RuntimeStatus>,
    id: Uuid,
    /// What was read and not yet said.
    next: Option<Value>,
    sent: Option<Value>,
    unavailable: bool,
    over: bool,
    stop: CancellationToken,
    until: Instant,
    authenticator: Arc<Authenticator>,
    rules: Arc<Rules>,
    _permit: StreamPermit,
}

impl Follower {
    /// What is to be sent next; `None` at the end.
    async fn next_event(&mut self) -> Option<Bytes> {
        if self.over || Instant::now() >= self.until {
            return None;
        }
        let quiet_until = Instant::now() + KEEP_ALIVE;
        loop {
            if let Some(run) = self.next.take().filter(|run| self.sent.as_ref() != Some(run)) {
                self.over = is_over(&run);
                let end = if self.over { "event: end\ndata: {}\n\n" } else { "" };
                let next_event = format!("event: run\ndata: {run}\n\n{end}");
                self.sent = Some(run);
                return Some(next_event.into());
            }
            if Instant::now() >= quiet_until {
                return Some(Bytes::from_static(b": nothing new\n\n"));
            }
            let pause = if self.unavailable { POLL_MAX } else { FOLLOW_INTERVAL };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(pause) => {}
            }
            // Who may follow is another question now: the client asks again, and is judged by the rules of now.
            if !Arc::ptr_eq(&self.rules, &self.authenticator.rules()) {
                return None;
            }
            match self.read_run().await {
                Ok(Some(run)) => (self.next, self.unavailable) = (Some(run), false),
                Ok(None) => return None,
                Err(error) => {
                    if !std::mem::replace(&mut self.unavailable, true) {
                        let run_to_json = json!({ "reason": error.kind().as_str() });
                        return Some(format!("event: away\ndata: {run_to_json}\n\n").into());
                    }
                }
            }
        }
    }

    async fn read_run(&self) -> Result<Option<Value>, Error> {
        if let Some(attempt) = super::migrations::attempt_of(&self.standing, self.id) {
            return Ok(Some(attempt));
        }
        let mut conn = self.db.acquire(Purpose::Api).await?;
        let entry = run_history::read_run(&mut conn, self.id, self.db.query_timeout()).await?;
        Ok(entry.map(|entry| json!(with_progress(&self.standing, entry))))
    }
}
