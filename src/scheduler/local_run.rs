//! One run of a job in this process, by the rules that hold for a daemon: for who asks for it on the
//! command line and does not want, or does not have, an instance to pick it up.
//!
//! ```text
//! migrated? ─► [ ask ─ claim ─ audit ] one transaction ─► runner ─► row
//!                └ refused: nothing is left behind         ├ leases renewed, cancels heard
//!                                                          └ stop: cancelled on the server
//! ```
//! Asking and claiming are one transaction, so that no observer takes the run in between. What dies in
//! the middle is reaped by whoever observes, as a daemon's run would be.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit;
use crate::config::{Config, Job, JobName};
use crate::db::retry::Backoff;
use crate::db::{Database, Error, Kind, Purpose, Tx, TxOptions};
use crate::lifecycle::Tasks;
use crate::migrate::{self, plan::State};
use crate::sets::Manifest;
use crate::store::claims::{self, ClaimKind, ClaimRequest, Claimer, Run, Verdict};
use crate::store::overview::{self, OpenRun};
use crate::store::pauses::{self, ALL_JOBS, Pause};
use crate::store::requests::{self, EnqueueResult};
use crate::store::run_history::{self, RunEntry};
use crate::store::schema_migrations;
use crate::telemetry::Metrics;

use super::RuntimeStatus;
use super::due_queue::DueQueue;
use super::ledger::Ledger;
use super::pause;
use super::runner::{ClaimedRun, Runner};
use super::worker_slots::WorkerSlots;

/// For a statement on pgsteward's own tables, and for a whole call of them.
const BOUND: Duration = Duration::from_secs(5);
const CALL_BOUND: Duration = Duration::from_secs(15);
/// How often it is looked whether somebody wants the run cancelled.
const REQUEST_POLL_INTERVAL: Duration = Duration::from_millis(800);
/// How long the end of a run may wait for a database that is away.
const FLUSH_BOUND: Duration = Duration::from_secs(60);

/// What is run, for whom, and with what.
pub struct RunRequest<'a> {
    pub db: &'a Arc<Database>,
    pub config: &'a Arc<Config>,
    pub metrics: &'a Arc<Metrics>,
    pub tasks: &'a Tasks,
    pub name: &'a JobName,
    pub job: &'a Job,
    pub actor: &'a str,
    /// This process's name in rows.
    pub instance: String,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It ran, and this is its row.
    Ended(Box<RunEntry>),
    /// It ran, and the database has been away since: its row is written by who finds its lease passed.
    Untold { id: Uuid },
    /// These migrations are not applied; a daemon would run no job either.
    NotMigrated { pending: Vec<String> },
    /// The job is paused, or `all` are.
    Paused { pause: Pause, all: bool },
    /// By the local file.
    PausedHere { by: String },
    /// A run of it waits already.
    Waiting { id: Uuid },
    /// It runs, here or elsewhere.
    Running(OpenRun),
    /// A former run may still work on the server.
    Quarantined { id: Option<Uuid> },
}

/// Runs it, unless something speaks against it. Cancelling `stop` cancels the run on the server.
pub async fn run(wish: RunRequest<'_>, stop: CancellationToken) -> Result<Outcome, Error> {
    let sets = match migrated(wish.db, wish.config).await? {
        Ok(sets) => sets,
        Err(pending) => return Ok(Outcome::NotMigrated { pending }),
    };
    let mut local = pause::Pause::default();
    local.settle(wish.config, wish.db.name(), wish.metrics);
    if let Some(by) = local.by() {
        return Ok(Outcome::PausedHere { by: by.to_owned() });
    }
    let ledger = Arc::new(Ledger::new(
        Arc::clone(wish.db),
        wish.instance.clone(),
        wish.config.jobs.lease,
        Arc::clone(wish.metrics),
    ));
    // One lane, and nobody else to take it.
    let Some(lane) = WorkerSlots::new(1).take(wish.job) else {
        return Err(Error::new(Kind::PoolTimeout, "there is no lane for the run"));
    };
    clear_up(&wish, &ledger).await?;
    let claimed = tokio::time::timeout(CALL_BOUND, claim(&wish, &ledger)).await;
    let run = match claimed.unwrap_or_else(|_| Err(no_answer("ask for a run")))? {
        Claim::Ours(run) => run,
        Claim::Refused(outcome) => return Ok(outcome),
    };
    let runner = Runner::new(
        Arc::clone(wish.db),
        Arc::clone(&ledger),
        Arc::clone(wish.metrics),
        Arc::new(RuntimeStatus::default()),
        wish.tasks.clone(),
    );
    let order = ClaimedRun {
        job: wish.name.clone(),
        spec: wish.job.clone(),
        id: run.id,
        epoch: run.epoch,
        lag: Duration::ZERO,
        config: Arc::clone(wish.config),
        sets,
    };
    runner.start(order, lane);
    see_through(&runner, &ledger, run.id, wish.actor, stop).await;
    flush_on_stop(&wish, &ledger, run.id).await
}

/// The bundled sets that are applied; or what is not applied that should be.
async fn migrated(
    db: &Database,
    config: &Config,
) -> Result<Result<Vec<&'static Manifest>, Vec<String>>, Error> {
    let failed = |error: migrate::Error| {
        Error::new(
            error.db_kind().unwrap_or(Kind::Config),
            format!("look at the migrations: {error}"),
        )
    };
    let sets = migrate::configured_sets(config).map_err(failed)?;
    migrate::require_trusted(db).await.map_err(failed)?;
    let lines = migrate::status(db, Purpose::Migrate, &sets).await.map_err(failed)?;
    let waits = |state| matches!(state, State::Pending | State::OutOfOrder);
    let pending: Vec<String> =
        lines.iter().filter(|line| waits(line.state)).map(migrate::plan::Line::label).collect();
    if !pending.is_empty() {
        return Ok(Err(pending));
    }
    let conn = db.acquire(Purpose::Migrate).await?;
    Ok(Ok(schema_migrations::bundled_sets(&conn).await?))
}

/// Where no instance observes, nobody else ends what a dead one has left in the job's slot.
async fn clear_up(wish: &RunRequest<'_>, ledger: &Ledger) -> Result<(), Error> {
    let mut conn = wish.db.acquire(Purpose::Control).await?;
    let options = TxOptions::within(BOUND).read_only();
    let read = conn.transaction(&options, |tx| Box::pin(requests::current_leader(tx)));
    let observer = tokio::time::timeout(CALL_BOUND, read)
        .await
        .unwrap_or_else(|_| Err(no_answer("read who observes")))?;
    drop(conn);
    if observer.is_none() {
        ledger.reap().await?;
        ledger.mend().await?;
        ledger.release_quarantined().await?;
    }
    Ok(())
}

enum Claim {
    Ours(Run),
    Refused(Outcome),
}

async fn claim(wish: &RunRequest<'_>, ledger: &Ledger) -> Result<Claim, Error> {
    let specs = DueQueue::specs(wish.config, wish.db.name());
    let spec_hash = &specs
        .into_iter()
        .find(|(name, _)| name == wish.name)
        .map(|(_, hash)| hash)
        .unwrap_or_default();
    let claimer = Claimer { instance: ledger.instance(), lease: ledger.lease() };
    let mut conn = wish.db.acquire(Purpose::Control).await?;
    conn.transaction(&TxOptions::within(BOUND), |tx| {
        Box::pin(async move {
            tx.batch("mark where to go back to", "SAVEPOINT asked").await?;
            let claim = claim_in(tx, wish, spec_hash, claimer).await?;
            match &claim {
                Claim::Ours(run) => {
                    let details =
                        serde_json::json!({ "run_id": run.id, "here": claimer.instance, "spec_hash": spec_hash });
                    let event = audit::Event::new(wish.actor, "job.run", "job", wish.name.as_str(), &details);
                    audit::record(tx, &event).await?;
                }
                Claim::Refused(_) => tx.batch("leave nothing behind", "ROLLBACK TO SAVEPOINT asked").await?,
            }
            Ok(claim)
        })
    })
    .await
}

async fn claim_in(
    tx: &Tx<'_>,
    wish: &RunRequest<'_>,
    spec_hash: &str,
    claimer: Claimer<'_>,
) -> Result<Claim, Error> {
    let name = wish.name.as_str();
    requests::ensure_job_row(tx, name).await?;
    let (id, slot) = match requests::enqueue(tx, name, wish.actor, None).await? {
        EnqueueResult::Queued { id, slot } => (id, slot),
        EnqueueResult::AlreadyQueued { id } => return Ok(Claim::Refused(Outcome::Waiting { id })),
        EnqueueResult::Paused { pause, all } => {
            return Ok(Claim::Refused(Outcome::Paused { pause, all }));
        }
        EnqueueResult::Unknown { .. } => return Err(changed_meanwhile()),
    };
    let theirs = slot.spec_hash.unwrap_or_else(|| spec_hash.to_owned());
    if theirs != spec_hash {
        tracing::warn!(
            database = wish.db.name(),
            job = name,
            "the instances go by another specification of this job; this run goes by the one configured here"
        );
    }
    // The row stays the instances': what they claim by is not for one run to change.
    let wanted = ClaimKind::Queued { id, skip: None };
    let asks = [ClaimRequest {
        job: wish.name.clone(),
        spec_hash: theirs,
        watermark: slot.watermark,
        paused: false,
        kind: wanted,
    }];
    let answer = claims::claim_in(tx, claimer, &asks).await?.pop();
    match answer.map(|answer| (answer.verdict, answer.run)) {
        Some((Verdict::Run, Some(run))) => Ok(Claim::Ours(run)),
        Some((Verdict::Skip(_), _)) => match pauses::find(tx, ALL_JOBS).await? {
            Some(pause) => Ok(Claim::Refused(Outcome::Paused { pause, all: true })),
            None => Err(changed_meanwhile()),
        },
        _ => match overview::job(tx, name).await?.map(|job| (job.running, job.quarantined)) {
            Some((Some(open), _)) => Ok(Claim::Refused(Outcome::Running(open))),
            Some((None, id)) => Ok(Claim::Refused(Outcome::Quarantined { id })),
            None => Err(changed_meanwhile()),
        },
    }
}

/// The transaction is run again.
fn changed_meanwhile() -> Error {
    Error::new(Kind::Conflict, "the row of the job changed meanwhile")
}

fn no_answer(what: &'static str) -> Error {
    Error::new(Kind::Timeout, format!("{what}: no answer within {} s", CALL_BOUND.as_secs()))
}

/// Returns when the run has ended, here at least.
async fn see_through(
    runner: &Runner,
    ledger: &Ledger,
    id: Uuid,
    actor: &str,
    stop: CancellationToken,
) {
    let mut listening = std::pin::pin!(listen(runner, ledger));
    let mut stopped = false;
    loop {
        tokio::select! {
            biased;
            () = runner.slot_free() => return,
            () = stop.cancelled(), if !stopped => {
                // Its task may not have begun yet, and is then told a little later.
                stopped = runner.count() > 0;
                runner.cancel(id, actor);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            never = &mut listening => match never {},
        }
    }
}

/// What a pipeline does for its runs: renews their leases, three times within their length, and hears
/// who wants them cancelled.
async fn listen(runner: &Runner, ledger: &Ledger) -> Infallible {
    let mut renew_at = Instant::now() + ledger.lease() / 3;
    loop {
        tokio::time::sleep(REQUEST_POLL_INTERVAL.min(ledger.lease() / 3)).await;
        let outcome = if Instant::now() >= renew_at {
            let asked = Instant::now();
            let renewed = runner.keep_leases().await;
            if renewed.is_ok() {
                renew_at = asked + ledger.lease() / 3;
            }
            renewed
        } else {
            poll_requests(runner, ledger).await
        };
        if let Err(error) = outcome {
            tracing::debug!(error = %error, "the run's lease could not be looked after; trying again");
        }
    }
}

async fn poll_requests(runner: &Runner, ledger: &Ledger) -> Result<(), Error> {
    for wish in ledger.poll_requests(&[]).await?.cancel {
        runner.cancel(wish.id, &wish.by);
    }
    Ok(())
}

/// Writes what could not be written while the database was away, and reads how the run ended: its row
/// knows better than who ran it.
async fn flush_on_stop(wish: &RunRequest<'_>, ledger: &Ledger, id: Uuid) -> Result<Outcome, Error> {
    let words = async {
        let mut backoff = Backoff::connect();
        loop {
            let told = async {
                ledger.flush().await?;
                let mut conn = wish.db.acquire(Purpose::Control).await?;
                run_history::read_run(&mut conn, id, BOUND).await
            };
            match told.await {
                Ok(Some(entry)) if entry.is_over() => return Ok(Outcome::Ended(Box::new(entry))),
                Ok(_) => return Ok(Outcome::Untold { id }),
                Err(error) if error.kind().is_passing() || error.kind() == Kind::Timeout => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(error) => return Err(error),
            }
        }
    };
    tokio::time::timeout(FLUSH_BOUND, words).await.unwrap_or(Ok(Outcome::Untold { id }))
}
