//! `pgsteward job run`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::{Exit, Selection, Session, actor, bounded, print, print_json, say};
use crate::config::{Job, JobName, Zone};
use crate::daemon;
use crate::db::{Database, Error, Purpose, TxOptions};
use crate::lifecycle::Tasks;
use crate::lifecycle::signals::{Signal, Signals};
use crate::scheduler::commands::{self, By};
use crate::scheduler::due_queue::REQUEST_WAIT;
use crate::scheduler::local_run::{self, Outcome, RunRequest};
use crate::telemetry::Metrics;

use super::wait::{self, Waited};
use super::{failed, names, outcome, pause, text};

/// Of a run that is over its timeout: for the cancel, and for a lease that nobody renews.
const AFTER_TIMEOUT: Duration = Duration::from_secs(120);
/// For a job that this configuration does not have, and whose timeout is thus not known.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// By when tasks of a run in this process have ended.
const DRAIN_BOUND: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Run {
    /// The job
    #[arg(value_name = "NAME")]
    name: String,
    /// Wait until it has ended, and tell how; Ctrl-C stops waiting, not the run
    #[arg(long, conflicts_with = "here")]
    wait: bool,
    /// Run it in this process, under the same rules; Ctrl-C cancels the run
    #[arg(long)]
    here: bool,
    #[command(flatten)]
    selection: Selection,
}

impl Run {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let configured = names::configured(session.config(), db.name(), &self.name)?;
        if self.here {
            let Some((name, job)) = configured else {
                return Err(names::unknown(session.config(), db.name(), &self.name, &[]));
            };
            return self.run_here(session, db, name, job).await;
        }
        // Before asking, so that who interrupts in between is told the run's id.
        let waiting = if self.wait { Some(listen()?) } else { None };
        let id = self.ask(session, db, configured.is_some()).await?;
        if configured.is_none() {
            say(&format!(
                "{} is not in this configuration; the run waits for an instance that has it, until it is cancelled",
                self.name
            ));
        }
        let Some((_signals, mut signals)) = waiting else {
            if session.json {
                let said = serde_json::json!({ "database": db.name(), "job": self.name, "run_id": id, "state": "queued" });
                print_json(&said);
            } else {
                print(&format!(
                    "run {id} of {} is asked for; it begins within a second, or when the run under way has ended",
                    self.name
                ));
            }
            return Ok(Exit::Ok);
        };
        if !session.json {
            print(&format!("run {id} of {} is asked for", self.name));
        }
        let timeout = configured.map_or(UNKNOWN_TIMEOUT, |(_, job)| job.timeout);
        let bound = REQUEST_WAIT.to_std().unwrap_or_default() + timeout + AFTER_TIMEOUT;
        follow(session, db, id, bound, &mut signals).await
    }

    async fn ask(
        &self,
        session: &Session,
        db: &Database,
        is_configured: bool,
    ) -> Result<Uuid, Exit> {
        let asked = bounded("ask for a run", db.query_timeout() * 2, ask(db, &self.name)).await;
        let name = &self.name;
        match asked.map_err(|error| failed(db.name(), &error))? {
            commands::Run::Queued { id } => Ok(id),
            commands::Run::Waiting { id } => Err(waiting(name, id)),
            commands::Run::Paused { pause, all } => {
                say(&pause::refusal(name, &pause, all));
                Err(Exit::Later)
            }
            commands::Run::Unknown { .. } if is_configured => {
                say(&format!(
                    "{name} is configured here, but no instance of database {} has registered it yet: have it read the \
                     same configuration (SIGHUP), or run the job in this process with --here",
                    db.name()
                ));
                Err(Exit::Later)
            }
            commands::Run::Unknown { known } => {
                Err(names::unknown(session.config(), db.name(), name, &known))
            }
            commands::Run::Nobody => {
                say(&format!(
                    "no instance observes database {}, so nobody would pick the run up, and none was asked for: start one, \
                     or run the job in this process with --here",
                    db.name()
                ));
                Err(Exit::Unavailable)
            }
        }
    }

    async fn run_here(
        &self,
        session: &Session,
        db: &Arc<Database>,
        name: &JobName,
        job: &Job,
    ) -> Result<Exit, Exit> {
        let (_signals, mut signals) = listen()?;
        let metrics = Metrics::new().map_err(|error| {
            say(&format!("register metrics: {error}"));
            Exit::Internal
        })?;
        let (config, metrics, tasks) =
            (Arc::new(session.config().clone()), Arc::new(metrics), Tasks::new());
        let actor = &actor();
        let wish = RunRequest {
            db,
            config: &config,
            metrics: &metrics,
            tasks: &tasks,
            name,
            job,
            actor,
            instance: daemon::instance(),
        };
        let stop = CancellationToken::new();
        let mut running = std::pin::pin!(local_run::run(wish, stop.clone()));
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = wait::stopped(&mut signals) => {
                say("cancelling the run on the server; again ends this process at once");
                stop.cancel();
                running.await
            }
        };
        tasks.stop();
        let stragglers = tasks.drain(DRAIN_BOUND).await;
        if !stragglers.is_empty() {
            tracing::debug!(tasks = stragglers.join(","), "these end with the process");
        }
        match ended.map_err(|error| failed(db.name(), &error))? {
            Outcome::Ended(entry) => Ok(outcome::tell(session, &entry)),
            refused => Err(refusal(db.name(), &self.name, &refused)),
        }
    }
}

/// Tells why a job was not run here.
fn refusal(database: &str, name: &str, outcome: &Outcome) -> Exit {
    match outcome {
        Outcome::Ended(_) => Exit::Ok,
        Outcome::Untold { id } => {
            say(&format!(
                "run {id} of {name} has ended, and the database is away or refuses to record how; `pgsteward job history \
                 {name}` tells when it is back"
            ));
            Exit::Later
        }
        Outcome::NotMigrated { pending } => {
            say(&format!(
                "database {database}: {} not applied; no job runs before that: `pgsteward migrate up`",
                match pending.as_slice() {
                    [one] => format!("{one} is"),
                    many => format!("{} are", many.join(", ")),
                }
            ));
            Exit::Unavailable
        }
        Outcome::Paused { pause, all } => {
            say(&pause::refusal(name, pause, *all));
            Exit::Later
        }
        Outcome::PausedHere { by } => {
            say(&format!("all jobs are paused on this machine by {by}; remove it to resume them"));
            Exit::Later
        }
        Outcome::Waiting { id } => waiting(name, *id),
        Outcome::Running(open) => {
            let instance = open.instance.as_deref().unwrap_or("an instance that is not known");
            let since = text::instant(open.since, &Zone::UTC);
            say(&format!("{name} runs already, since {since} on {instance}: run {}", open.id));
            Exit::Later
        }
        Outcome::Quarantined { id } => {
            let run = id.map(|id| format!("run {id}")).unwrap_or_else(|| "a former run".to_owned());
            say(&format!(
                "{name} waits for the server process of {run} to be gone: it may still be at work"
            ));
            Exit::Later
        }
    }
}

fn waiting(name: &str, id: Uuid) -> Exit {
    say(&format!(
        "a run of {name} waits already: {id}; `pgsteward job cancel {id}` takes it out of the queue"
    ));
    Exit::Later
}

async fn ask(db: &Database, name: &str) -> Result<commands::Run, Error> {
    let actor = &actor();
    let mut conn = db.acquire(Purpose::Check).await?;
    let by = By { actor, origin: None };
    conn.transaction(&TxOptions::within(db.query_timeout()), |tx| {
        Box::pin(commands::run(tx, by, name, None))
    })
    .await
}

/// Waits for a run's end and tells it.
pub async fn follow(
    session: &Session,
    db: &Database,
    id: Uuid,
    bound: Duration,
    signals: &mut mpsc::Receiver<Signal>,
) -> Result<Exit, Exit> {
    match wait::until_over(db, id, bound, signals)
        .await
        .map_err(|error| failed(db.name(), &error))?
    {
        Waited::Over(entry) => Ok(outcome::tell(session, &entry)),
        Waited::Gone => {
            say(&format!("the row of run {id} is gone: somebody deleted it"));
            Err(Exit::Later)
        }
        Waited::Interrupted => {
            say(&format!(
                "not waiting any more; run {id} goes on: `pgsteward job cancel {id}` cancels it"
            ));
            Err(Exit::Later)
        }
        Waited::TooLong(last) => {
            let state = last.map_or_else(|| "not known".to_owned(), |entry| entry.state);
            say(&format!(
                "run {id} has not ended within {} s; its state is {state}",
                bound.as_secs()
            ));
            Err(Exit::Later)
        }
    }
}

/// Signals, from now on.
pub fn listen() -> Result<(Signals, mpsc::Receiver<Signal>), Exit> {
    Signals::listen().map_err(|error| {
        say(&format!("listen for signals: {error}"));
        Exit::Internal
    })
}
