//! Versioned SQL files, applied once each.
//!
//! ```text
//! sources ─► plan (files × history, pure) ─► nothing pending: no lock, no write
//!                                        └─► lock ─► plan again ─► apply each ─► verify
//! ```
//! A file is one transaction with its history row inside, so it is applied or it is not. What ran is
//! kept in the history with what undoes it: an older binary, or a lost folder, can still roll back.
//! An edited file never runs again; it is named, in the log, in the status and in the health. While one
//! is there, nothing that is pending is applied: it may rest on what the file says now.
//!
//! Connections: one holds the lock, one runs the files; both are closed or given back at the end.

pub mod access;
pub mod apply;
mod error;
pub mod lock;
mod markers;
pub mod plan;
pub mod source;
pub mod undo;
pub mod verify;

use std::time::{Duration, Instant};

use crate::config;
use crate::db::{self, Conn, Database, Kind, Purpose};
use crate::sets::{self, STEWARD};
use crate::store::schema_migrations::{self, AppliedMigration};

use apply::Worker;
use lock::Lock;
use plan::{Line, Plan, State};
use source::Set;
use undo::{Undo, undone};

pub use error::{Error, ErrorKind, UNTRUSTED};
pub use undo::Target;

/// How migrations run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who is written into the history: `daemon@host`, or a person on a command line.
    pub actor: String,
    pub search_path: String,
    pub role: Option<String>,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    /// How long one file is tried again for its locks, and how long to wait for another migrator.
    pub lock_budget: Duration,
}

impl Options {
    /// What the configuration says.
    pub fn new(config: &config::Migrations, actor: impl Into<String>) -> Options {
        Options {
            actor: actor.into(),
            search_path: config.search_path.clone(),
            role: config.role.clone(),
            statement_timeout: config.statement_timeout,
            lock_timeout: config.lock_timeout,
            lock_budget: config.lock_budget,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Every version of every set, after.
    pub lines: Vec<Line>,
    /// What this call applied or undid, in that order.
    pub changed: Vec<Line>,
    pub took: Duration,
}

impl Outcome {
    /// Applied versions whose file says something else now.
    pub fn edited(&self) -> Vec<String> {
        self.lines.iter().filter(|line| line.state == State::Edited).map(Line::label).collect()
    }
}

/// The sets that the configuration names, pgsteward's own first. In `observe` mode only that one.
pub fn configured_sets(config: &config::Config) -> Result<Vec<Set>, Error> {
    let mut sets = vec![source::bundled(&STEWARD)];
    if config.mode == config::Mode::Maintain {
        for name in &config.migrations.sets {
            let set = sets::find(name).ok_or_else(|| {
                let message = format!("expected the name of a bundled set, found {name:?}");
                Error::new(ErrorKind::Source, message)
            })?;
            sets.push(source::bundled(set));
        }
    }
    if config.mode == config::Mode::Maintain
        && let Some(dir) = &config.migrations.dir
    {
        sets.push(source::read_dir(source::APP, dir)?);
    }
    Ok(sets)
}

/// What was applied, of every set. Changes nothing, takes no lock.
pub async fn history(db: &Database, purpose: Purpose) -> Result<Vec<AppliedMigration>, Error> {
    look(db, purpose).await
}

/// Fails with [`ErrorKind::Untrusted`] where a role that is not trusted controls the schema
/// `steward`, so that reading or writing in it could run that role's code.
pub async fn require_trusted(db: &Database) -> Result<(), Error> {
    access::require_trusted(&*db.acquire(Purpose::Migrate).await?).await
}

/// Where every version stands. Changes nothing, takes no lock.
pub async fn status(db: &Database, purpose: Purpose, sets: &[Set]) -> Result<Vec<Line>, Error> {
    Ok(lines(sets, &look(db, purpose).await?))
}

/// Applies what is pending, each file once however many instances start together.
pub async fn up(db: &Database, sets: &[Set], options: &Options) -> Result<Outcome, Error> {
    let begun = Instant::now();
    let history = trusted_history(db).await?;
    let mut outcome = Outcome::default();
    if sets.iter().any(|set| !Plan::new(set, &history).pending.is_empty()) {
        let lock = Lock::acquire(db, options.lock_budget).await?;
        let changed = apply_pending(db, &lock, sets, options).await;
        lock.release().await;
        outcome.changed = changed?;
        outcome.lines = lines(sets, &look(db, Purpose::Migrate).await?);
    } else {
        outcome.lines = lines(sets, &history);
    }
    outcome.took = begun.elapsed();
    Ok(outcome)
}

async fn apply_pending(
    db: &Database,
    lock: &Lock,
    sets: &[Set],
    options: &Options,
) -> Result<Vec<Line>, Error> {
    let worker = Worker::connect(db).await?;
    if let Some(obstacle) = access::obstacle(worker.conn()).await? {
        return Err(Error::new(ErrorKind::Refused, obstacle));
    }
    if !schema_migrations::exists(worker.conn()).await? {
        schema_migrations::bootstrap(worker.conn()).await?;
    }
    // Again: this connection may have another login, and until the bootstrap another role could
    // make the schema.
    access::require_trusted(worker.conn()).await?;
    // Read again: another instance may have applied everything while we waited.
    let history = read_history(worker.conn()).await?;
    let plans: Vec<Plan<'_>> = sets.iter().map(|set| Plan::new(set, &history)).collect();
    if let Some(refusal) = plans.iter().find_map(Plan::refusal) {
        let pending: usize = plans.iter().map(|plan| plan.pending.len()).sum();
        let told = format!("{refusal}; nothing was applied, {pending} pending");
        return Err(
            Error::new(ErrorKind::Refused, told).for_versions(plans.iter().find_map(Plan::fault))
        );
    }
    let mut changed = Vec::new();
    if plans.iter().all(|plan| plan.pending.is_empty()) {
        return Ok(changed);
    }
    worker.prepare().await?;
    for migration in plans.iter().flat_map(|plan| &plan.pending) {
        let begun = Instant::now();
        held(lock).map_err(|error| error.after(&changed))?;
        let applied =
            apply::up(&worker, migration, options).await.map_err(|error| error.after(&changed))?;
        if applied == apply::Applied::ByAnother {
            tracing::warn!(
                database = db.name(),
                file = migration.file,
                "another migrator has applied it meanwhile"
            );
            continue;
        }
        let took_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        tracing::info!(
            database = db.name(),
            file = migration.file,
            set = migration.set,
            took_ms,
            "migration applied"
        );
        changed.push(Line {
            applied_by: Some(options.actor.clone()),
            duration_ms: Some(took_ms),
            ..Line::of_file(migration, State::Applied)
        });
    }
    Ok(changed)
}

/// The versions that rolling back `set` to `target` would undo, newest first. Changes nothing.
pub async fn plan_down(
    db: &Database,
    sets: &[Set],
    set: &str,
    target: Target,
) -> Result<Vec<Undo>, Error> {
    undone(sets, &trusted_history(db).await?, set, target)
}

/// Rolls `set` back to `target`, newest first, each version in a transaction of its own.
pub async fn down(
    db: &Database,
    sets: &[Set],
    set: &str,
    target: Target,
    options: &Options,
) -> Result<Outcome, Error> {
    let begun = Instant::now();
    let lock = Lock::acquire(db, options.lock_budget).await?;
    let changed = undo_versions(db, &lock, sets, set, target, options).await;
    lock.release().await;
    let changed = changed?;
    Ok(Outcome {
        lines: lines(sets, &look(db, Purpose::Migrate).await?),
        changed,
        took: begun.elapsed(),
    })
}

async fn undo_versions(
    db: &Database,
    lock: &Lock,
    sets: &[Set],
    set: &str,
    target: Target,
    options: &Options,
) -> Result<Vec<Line>, Error> {
    let worker = Worker::connect(db).await?;
    access::require_trusted(worker.conn()).await?;
    let undone = undone(sets, &read_history(worker.conn()).await?, set, target)?;
    if undone.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(obstacle) = access::obstacle(worker.conn()).await? {
        return Err(Error::new(ErrorKind::Refused, obstacle));
    }
    worker.prepare().await?;
    let mut changed = Vec::new();
    for undo in &undone {
        held(lock).map_err(|error| error.after(&changed))?;
        apply::down(&worker, undo, options).await.map_err(|error| error.after(&changed))?;
        tracing::info!(
            database = db.name(),
            set,
            version = undo.version,
            name = undo.name,
            "migration rolled back"
        );
        changed.push(Line::of_undo(undo));
    }
    Ok(changed)
}

fn held(lock: &Lock) -> Result<(), Error> {
    if lock.is_held() {
        return Ok(());
    }
    let lost =
        db::Error::new(Kind::ConnectionLost, "the connection that held the migration lock ended");
    Err(Error::with_source(ErrorKind::Database, "migrations stopped before the next file", lost))
}

async fn look(db: &Database, purpose: Purpose) -> Result<Vec<AppliedMigration>, Error> {
    read_history(&*db.acquire(purpose).await?).await
}

/// Reads the history of a schema that is trusted: a planted one could say that nothing is pending.
async fn trusted_history(db: &Database) -> Result<Vec<AppliedMigration>, Error> {
    let conn = db.acquire(Purpose::Migrate).await?;
    access::require_trusted(&conn).await?;
    read_history(&conn).await
}

async fn read_history(conn: &Conn) -> Result<Vec<AppliedMigration>, Error> {
    let read = async {
        if schema_migrations::exists(conn).await? {
            schema_migrations::read(conn).await
        } else {
            Ok(Vec::new())
        }
    };
    let error = match read.await {
        Err(error) if matches!(error.kind(), Kind::Permission | Kind::Sql) => error,
        outcome => return Ok(outcome?),
    };
    // No privilege, or another tool's table. Where even that cannot be looked up, the first error says why.
    match access::obstacle(conn).await {
        Ok(Some(obstacle)) => Err(Error::with_source(ErrorKind::Refused, obstacle, error)),
        Ok(None) | Err(_) => Err(error.into()),
    }
}

fn lines(sets: &[Set], history: &[AppliedMigration]) -> Vec<Line> {
    sets.iter().flat_map(|set| Plan::new(set, history).lines).collect()
}
