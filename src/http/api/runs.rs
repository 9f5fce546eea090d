//! Runs: one by its id, its cancel, and following it to its end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::act::{Acting, Change, Done, Effect, detached};
use super::jobs::Empty;
use super::stream::events;
use crate::db::{Database, Error, Purpose, Tx, TxFuture};
use crate::http::answer::json as answer;
use crate::http::desk::Stream;
use crate::http::{Answer, Context, Cut, Desk, Refusal};
use crate::schedule::{Standing, orders};
use crate::store::requests::Cancelled;
use crate::store::run_history::{self, Entry};

/// After the first look at a run that is waited for; then ever longer, up to [`LOOK_AGAIN`].
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Between two looks at a run that is followed.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same while the database is away.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A line of nothing, so that proxies do not take the stream for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Then whoever follows asks again, with credentials that still hold.
const FOLLOW_MOST: Duration = Duration::from_secs(3600);
/// Left of a request's time for its answer, when a run has not ended in time.
const ANSWER_ROOM: Duration = Duration::from_secs(1);

/// A run as it is answered. Its progress is that of this instance where it runs here, which is newer than its row.
pub fn told(desk: &Desk, entry: Entry) -> Value {
    json!(with_progress(&desk.standing, entry))
}

fn with_progress(standing: &Standing, mut entry: Entry) -> Entry {
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
    let detail = "there is no run of this id; ended ones are forgotten after a while (jobs.history_keep)";
    Refusal::new(StatusCode::NOT_FOUND, "no_such_run", detail)
}

/// Waits until a run that was just asked for has ended, and answers with it; with `done` where it has not.
pub async fn ended_within(
    context: &Context<'_>,
    id: Uuid,
    wait: Duration,
    (done, replayed): (&Done, bool),
) -> Result<Answer, Refusal> {
    let desk = context.desk()?;
    // Most runs take moments, and those that do not are not hurried by being looked at.
    let mut pause = LOOK_FIRST;
    let until = Instant::now() + wait.min(context.time_left().saturating_sub(ANSWER_ROOM));
    while Instant::now() < until {
        // A database that is away for a moment says nothing of the run.
        if let Ok(run) = find(&desk, id).await
            && is_over(&run)
        {
            return Ok(answer(StatusCode::OK, "application/json", &run));
        }
        sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 3 / 2).min(LOOK_AGAIN);
    }
    Ok(done.answer(replayed))
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
        let (done, replayed) = acting.once(&desk, &Cancel(id)).await?;
        Ok(done.answer(replayed))
    })
    .await
}

struct Cancel(Uuid);

impl Change for Cancel {
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect> {
        Box::pin(cancel_in(tx, acting, self.0))
    }
}

async fn cancel_in(tx: &Tx<'_>, acting: &Acting, id: Uuid) -> Result<Effect, Error> {
    let (job, state) = match orders::cancel(tx, acting.by(), id).await? {
        Cancelled::Unknown => return Ok(Effect::refused(no_such_run())),
        Cancelled::Over { job, state } => {
            let detail = format!("the run of {job} is over already: {state}");
            return Ok(Effect::refused(Refusal::new(StatusCode::CONFLICT, "over", detail).with("state", state)));
        }
        Cancelled::Asked { job, .. } => (job, "cancelling"),
        Cancelled::Dequeued { job } => (job, "cancelled"),
    };
    let body = json!({ "run_id": id, "job": job, "state": state });
    Ok(Effect::Done(Done::accepted(body, format!("/runs/{id}"))))
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
    standing: Arc<Standing>,
    id: Uuid,
    /// What was read and not yet said.
    next: Option<Value>,
    said: Option<Value>,
    away: bool,
    over: bool,
    stop: CancellationToken,
    until: Instant,
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
