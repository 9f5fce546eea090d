//! Versioned SQL files, applied once each.
//!
//! ```text
//! sources ─► plan (files × history, pure) ─► nothing pending: no lock, no write
//!                                        └─► lock ─► plan again ─► apply each ─► verify
//! ```
//! A file is one transaction with its history row inside, so it is applied or it is not. What ran is
//! kept in the history with what undoes it: an older binary, or a lost folder, can still roll back.
//! An edited file never runs again; it is named, in the log, in the status and in the health.

pub mod apply;
pub mod lock;
pub mod plan;
pub mod source;
pub mod sql;
pub mod verify;

use std::fmt;
use std::time::{Duration, Instant};

use crate::config;
use crate::db::{self, Conn, Database, Kind, Purpose};
use crate::store::history::{self, Applied};

use lock::Lock;
use plan::{Line, Plan, State};
use source::Set;

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

/// What kind of failure, for exit codes and reason codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The database could not be reached or used.
    Database,
    /// The folder or its files are not usable.
    Source,
    /// The plan does not allow it: an edited file, a gap.
    Refused,
    /// A file failed and was rolled back.
    Failed,
    /// There is no down script.
    Irreversible,
    /// The target is not something that can be rolled back to.
    Target,
}

/// Why migrating failed.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: ErrorKind,
    message: String,
    /// The file at fault, and the line.
    pub file: Option<String>,
    pub line: Option<usize>,
    source: Option<db::Error>,
}

impl Error {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), file: None, line: None, source: None }
    }

    fn with_source(kind: ErrorKind, message: impl Into<String>, source: db::Error) -> Error {
        Error { kind, message: message.into(), file: None, line: None, source: Some(source) }
    }

    fn at(mut self, file: String, line: Option<usize>) -> Error {
        self.file = Some(file);
        self.line = line;
        self
    }

    /// The database's kind, where a database error is the cause.
    pub fn db_kind(&self) -> Option<Kind> {
        self.source.as_ref().map(db::Error::kind)
    }

    /// Whether trying again by itself may help: the server went away, not the SQL wrong.
    pub fn is_transient(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.kind().is_connection() || source.kind() == Kind::PoolTimeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Error {
        Error::with_source(ErrorKind::Database, "migrations", error)
    }
}

impl From<source::SourceError> for Error {
    fn from(error: source::SourceError) -> Error {
        Error::new(ErrorKind::Source, error.to_string())
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
    let mut names = vec![source::STEWARD];
    if config.mode == config::Mode::Maintain {
        names.extend(config.migrations.sets.iter().map(String::as_str));
    }
    let mut sets = Vec::with_capacity(names.len() + 1);
    for name in names {
        let set = source::bundled(name).ok_or_else(|| {
            Error::new(ErrorKind::Source, format!("there is no bundled set {name:?}; wanted \"zentry\""))
        })?;
        sets.push(set);
    }
    if config.mode == config::Mode::Maintain
        && let Some(dir) = &config.migrations.dir
    {
        sets.push(source::read_dir(source::APP, dir)?);
    }
    Ok(sets)
}

/// Where every version stands. Changes nothing, takes no lock.
pub async fn status(db: &Database, sets: &[Set]) -> Result<Vec<Line>, Error> {
    let conn = db.acquire(Purpose::Migrate).await?;
    let history = read_history(&conn).await?;
    Ok(lines(sets, &history))
}

/// Applies what is pending, each file once however many instances start together.
pub async fn up(db: &Database, sets: &[Set], options: &Options) -> Result<Outcome, Error> {
    let begun = Instant::now();
    let conn = db.acquire(Purpose::Migrate).await?;
    let history = read_history(&conn).await?;
    let mut outcome = Outcome::default();
    if sets.iter().any(|set| !Plan::new(set, &history).pending.is_empty()) {
        outcome.changed = apply_pending(db, &conn, sets, options).await?;
        outcome.lines = lines(sets, &read_history(&conn).await?);
    } else {
        outcome.lines = lines(sets, &history);
    }
    outcome.took = begun.elapsed();
    Ok(outcome)
}

async fn apply_pending(db: &Database, conn: &Conn, sets: &[Set], options: &Options) -> Result<Vec<Line>, Error> {
    let lock = Lock::acquire(db, options.lock_budget).await?;
    let changed = apply_locked(db, conn, &lock, sets, options).await;
    lock.release().await;
    changed
}

async fn apply_locked(
    db: &Database,
    conn: &Conn,
    lock: &Lock,
    sets: &[Set],
    options: &Options,
) -> Result<Vec<Line>, Error> {
    if !history::exists(conn).await? {
        history::bootstrap(conn).await?;
    }
    // Read again: another instance may have applied everything while we waited.
    let history = read_history(conn).await?;
    let plans: Vec<Plan<'_>> = sets.iter().map(|set| Plan::new(set, &history)).collect();
    for plan in &plans {
        if let Some(refusal) = plan.refusal() {
            return Err(Error::new(ErrorKind::Refused, refusal));
        }
    }
    let mut changed = Vec::new();
    for migration in plans.iter().flat_map(|plan| &plan.pending) {
        held(lock)?;
        let begun = Instant::now();
        apply::up(conn, migration, options).await?;
        let took_ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        tracing::info!(database = db.name(), file = migration.file, set = migration.set, took_ms, "migration applied");
        changed.push(Line {
            set: migration.set.clone(),
            version: migration.version,
            name: migration.name.clone(),
            state: State::Applied,
            reversible: migration.down.is_some(),
            applied_at: None,
            applied_by: Some(options.actor.clone()),
            duration_ms: Some(took_ms),
        });
    }
    Ok(changed)
}

/// How far to roll back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest version only.
    One,
    /// Everything above this version, which stays.
    To(i64),
    /// Everything.
    All,
}

/// The versions that rolling back `set` to `target` would undo, newest first. Changes nothing.
pub async fn plan_down(db: &Database, set: &str, target: Target) -> Result<Vec<Applied>, Error> {
    let conn = db.acquire(Purpose::Migrate).await?;
    let history = read_history(&conn).await?;
    undone_by(history, set, target)
}

/// Rolls `set` back to `target`, newest first, each version in a transaction of its own.
pub async fn down(db: &Database, set: &str, target: Target, options: &Options) -> Result<Outcome, Error> {
    let begun = Instant::now();
    let conn = db.acquire(Purpose::Migrate).await?;
    let lock = Lock::acquire(db, options.lock_budget).await?;
    let undone = undo_locked(db, &conn, &lock, set, target, options).await;
    lock.release().await;
    let changed = undone?;
    Ok(Outcome { lines: Vec::new(), changed, took: begun.elapsed() })
}

async fn undo_locked(
    db: &Database,
    conn: &Conn,
    lock: &Lock,
    set: &str,
    target: Target,
    options: &Options,
) -> Result<Vec<Line>, Error> {
    let mut changed = Vec::new();
    for row in undone_by(read_history(conn).await?, set, target)? {
        held(lock)?;
        apply::down(conn, &row, options).await?;
        tracing::info!(database = db.name(), set, version = row.version, name = row.name, "migration rolled back");
        changed.push(Line {
            set: row.set,
            version: row.version,
            name: row.name,
            state: State::Pending,
            reversible: true,
            applied_at: None,
            applied_by: None,
            duration_ms: None,
        });
    }
    Ok(changed)
}

/// Pure: which rows of the history a target undoes.
fn undone_by(history: Vec<Applied>, set: &str, target: Target) -> Result<Vec<Applied>, Error> {
    let mut rows: Vec<Applied> = history.into_iter().filter(|row| row.set == set).collect();
    if let Target::To(version) = target
        && version != 0
        && rows.iter().all(|row| row.version != version)
    {
        let known: Vec<String> = rows.iter().map(|row| row.version.to_string()).collect();
        return Err(Error::new(
            ErrorKind::Target,
            format!("set {set:?} has no applied version {version}; found {}, wanted one of them or 0", join(&known)),
        ));
    }
    rows.reverse();
    match target {
        Target::One => rows.truncate(1),
        Target::To(version) => rows.retain(|row| row.version > version),
        Target::All => {}
    }
    if let Some(row) = rows.iter().find(|row| row.down_sql.is_none()) {
        return Err(Error::new(
            ErrorKind::Irreversible,
            format!("{}/{:03}_{} came without a down file; nothing was rolled back", row.set, row.version, row.name),
        ));
    }
    Ok(rows)
}

fn join(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn held(lock: &Lock) -> Result<(), Error> {
    if lock.is_held() {
        return Ok(());
    }
    let lost = db::Error::new(Kind::ConnectionLost, "the connection that held the migration lock ended");
    Err(Error::with_source(ErrorKind::Database, "migrations stopped before the next file", lost))
}

async fn read_history(conn: &Conn) -> Result<Vec<Applied>, Error> {
    if !history::exists(conn).await? {
        return Ok(Vec::new());
    }
    Ok(history::read(conn).await?)
}

fn lines(sets: &[Set], history: &[Applied]) -> Vec<Line> {
    sets.iter().flat_map(|set| Plan::new(set, history).lines).collect()
}
