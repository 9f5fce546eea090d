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

use super::act::{Acting, Change, Done, Effect, detached};
use super::input::Empty;
use super::stream::events;
use crate::db::{Database, Error, Purpose, Tx, TxFuture};
use crate::http::answer::{json as answer, set};
use crate::http::desk::Stream;
use crate::http::{Answer, Context, Cut, Desk, Gate, Refusal, Rules};
use crate::scheduler::{RuntimeStatus, commands};
use crate::store::requests::CancelResult;
use crate::store::run_history::{self, Entry};

/// After the first look at a run that is waited for; then ever longer, up to [`LOOK_AGAIN`].
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Between two looks at a run that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while the database is away.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// A line of nothing, so that proxies do not take the stream for dead; and a client that has left is noticed, and its
/// place given back, when the second such line does not reach it.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Then whoever follows asks again, with credentials that still hold.
const FOLLOW_MOST: Duration = Duration::from_secs(3600);
/// Left of a request's time for its answer, when a run has not ended in time.
const ANSWER_ROOM: Duration = Duration::from_secs(1);

/// A run as it is answered. Its progress is that of this instance where it runs here, which is newer than its row.
pub fn told(desk: &Desk, entry: Entry) -> Value {
    json!(with_progress(&desk.standing, entry))
}

fn with_progress(standing: &RuntimeStatus, mut entry: Entry) -> Entry {
    if !entry.is_over()
        && let Some(here) = standing.progress.of(entry.id)
    {
        entry.progress = serde_json::to_value(here).ok();
    }
    entry
}

/// `GET /runs/{id}`
pub async fn get(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, id) = (context.desk()?, context.run_id()?);
    Ok(answer(StatusCode::OK, "application/json", &find(&desk, id).await?))
}

/// The run: of the ledger, or an attempt to migrate that was asked for here.
async fn find(desk: &Desk, id: Uuid) -> Result<Value, Refusal> {
    if let Some(attempt) = super::migrations::attempt(desk, id) {
        return Ok(attempt);
    }
    let mut conn = desk.conn().await?;
    let read = run_history::run(&mut conn, id, desk.db.query_timeout()).await;
    match read.map_err(|error| desk.refusal(&error))? {
        Some(entry) => Ok(told(desk, entry)),
        None => Err(no_such_run()),
    }
}

fn no_such_run() -> Refusal {
    let detail =
        "there is no run of this id; ended ones are forgotten after a while (jobs.history_keep)";
    Refusal::new(StatusCode::NOT_FOUND, "no_such_run", detail)
}

/// Answers who asked for runs: at once, or, as was preferred, when they have ended: with the run itself, or with all
/// of them where there may be several. With what `done` says where they have not ended in time.
pub async fn answered(
    context: &Context<'_>,
    (done, replayed): (Done, bool),
) -> Result<Answer, Refusal> {
    let (Some(wait), Some(id)) = (context.wait(), id_of(&done.body["run_id"])) else {
        return Ok(done.answer(replayed));
    };
    let several = done.body["runs"].as_array();
    let ids: Vec<Uuid> = several
        .map_or_else(|| vec![id], |runs| runs.iter().filter_map(|run| id_of(&run["id"])).collect());
    let ended = ended_within(context, &ids, wait).await?;
    let mut answer = match ended {
        Some(mut runs) if several.is_none() => {
            answer(StatusCode::OK, "application/json", &runs.pop())
        }
        Some(runs) => {
            let body = json!({ "target": done.body["target"], "run_id": id, "runs": runs });
            answer(StatusCode::OK, "application/json", &body)
        }
        None => done.answer(replayed),
    };
    set(&mut answer, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    Ok(answer)
}

fn id_of(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// The runs, once all of them have ended; `None` where that takes too long.
async fn ended_within(
    context: &Context<'_>,
    ids: &[Uuid],
    wait: Duration,
) -> Result<Option<Vec<Value>>, Refusal> {
    let desk = context.desk()?;
    // Most runs take moments, and those that do not are not hurried by being looked at.
    let mut pause = LOOK_FIRST;
    let until = Instant::now() + wait.min(context.time_left().saturating_sub(ANSWER_ROOM));
    let mut ended = Vec::new();
    while let Some(id) = ids.get(ended.len()) {
        let found = timeout_at(until, find(&desk, *id)).await;
        let left = until.saturating_duration_since(Instant::now());
        match found {
            Ok(Ok(run)) if is_over(&run) => ended.push(run),
            // A database that is away for a moment says nothing of the run. What ends late is not missed either.
            Ok(_) if left >= LOOK_FIRST => sleep(pause.min(left / 2)).await,
            Ok(_) | Err(_) => return Ok(None),
        }
        pause = (pause * 3 / 2).min(LOOK_AGAIN);
    }
    Ok(Some(ended))
}

fn is_over(run: &Value) -> bool {
    !matches!(run["state"].as_str(), Some("queued" | "running"))
}

/// `POST /runs/{id}/cancel`
pub async fn cancel(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.change()?;
    let Empty {} = context.json()?;
    let id = context.run_id()?;
    detached(context, move |state, acting| async move {
        let desk = state.desks.of(acting.target.as_deref())?;
        if let Some(attempt) = super::migrations::attempt(&desk, id) {
            return Err(no_cancel(&attempt));
        }
        let (done, replayed) = acting.once(&desk, &Cancel(id)).await?;
        Ok(done.answer(replayed))
    })
    .await
}

fn no_cancel(attempt: &Value) -> Refusal {
    if is_over(attempt) {
        let refusal =
            Refusal::new(StatusCode::CONFLICT, "over", "the migrations have ended already");
        return refusal.with("state", attempt["state"].clone());
    }
    let detail = "migrations are not cancelled here: a file is whole or nothing; migrations.statement_timeout bounds it";
    Refusal::new(StatusCode::CONFLICT, "not_cancellable", detail)
}

struct Cancel(Uuid);

impl Change for Cancel {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(cancel_in(tx, acting, self.0))
    }
}

async fn cancel_in(tx: &Tx<'_>, acting: &Acting, id: Uuid) -> Result<Effect, Error> {
    let (job, state) = match commands::cancel(tx, acting.by(), id).await? {
        CancelResult::Unknown => return Ok(Effect::refused(no_such_run())),
        CancelResult::AlreadyFinished { job, state } => {
            let detail = format!("the run of {job} is over already: {state}");
            return Ok(Effect::refused(
                Refusal::new(StatusCode::CONFLICT, "over", detail).with("state", state),
            ));
        }
        CancelResult::Requested { job, .. } => (job, "cancelling"),
        CancelResult::Dequeued { job } => (job, "cancelled"),
    };
    let body = json!({ "run_id": id, "job": job, "state": state });
    Ok(Effect::Done(acting.accepted(body, id)))
}

/// `GET /runs/{id}/events`: the run at each change, until it is over.
pub async fn follow(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let (desk, id) = (context.desk()?, context.run_id()?);
    let first = find(&desk, id).await?;
    let follower = Follower {
        db: Arc::clone(&desk.db),
        standing: Arc::clone(&desk.standing),
        id,
        next: Some(first),
        said: None,
        away: false,
        over: false,
        stop: context.state.tasks.stopping(),
        until: Instant::now() + FOLLOW_MOST,
        gate: Arc::clone(&context.state.gate),
        rules: context.state.gate.rules(),
        _place: context.state.desks.stream(context.caller.as_ref())?,
    };
    Ok(events(Box::pin(stream::unfold(follower, |mut follower| async move {
        let piece = follower.piece().await?;
        Some((Ok::<_, Cut>(piece), follower))
    }))))
}

/// One client that follows one run.
struct Follower {
    db: Arc<Database>,
    standing: Arc<RuntimeStatus>,
    id: Uuid,
    /// What was read and not yet said.
    next: Option<Value>,
    said: Option<Value>,
    away: bool,
    over: bool,
    stop: CancellationToken,
    until: Instant,
    gate: Arc<Gate>,
    rules: Arc<Rules>,
    _place: Stream,
}

impl Follower {
    /// What is to be sent next; `None` at the end.
    async fn piece(&mut self) -> Option<Bytes> {
        if self.over || Instant::now() >= self.until {
            return None;
        }
        let quiet_until = Instant::now() + KEEP_ALIVE;
        loop {
            if let Some(run) = self.next.take().filter(|run| self.said.as_ref() != Some(run)) {
                self.over = is_over(&run);
                let end = if self.over { "event: end\ndata: {}\n\n" } else { "" };
                let piece = format!("event: run\ndata: {run}\n\n{end}");
                self.said = Some(run);
                return Some(piece.into());
            }
            if Instant::now() >= quiet_until {
                return Some(Bytes::from_static(b": nothing new\n\n"));
            }
            let pause = if self.away { LOOK_AGAIN } else { LOOK_EVERY };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(pause) => {}
            }
            // Who may follow is another question now: the client asks again, and is judged by the rules of now.
            if !Arc::ptr_eq(&self.rules, &self.gate.rules()) {
                return None;
            }
            match self.look().await {
                Ok(Some(run)) => (self.next, self.away) = (Some(run), false),
                Ok(None) => return None,
                Err(error) => {
                    if !std::mem::replace(&mut self.away, true) {
                        let told = json!({ "reason": error.kind().as_str() });
                        return Some(format!("event: away\ndata: {told}\n\n").into());
                    }
                }
            }
        }
    }

    async fn look(&self) -> Result<Option<Value>, Error> {
        if let Some(attempt) = super::migrations::attempt_of(&self.standing, self.id) {
            return Ok(Some(attempt));
        }
        let mut conn = self.db.acquire(Purpose::Api).await?;
        let entry = run_history::run(&mut conn, self.id, self.db.query_timeout()).await?;
        Ok(entry.map(|entry| json!(with_progress(&self.standing, entry))))
    }
}
