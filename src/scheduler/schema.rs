//! How far one database's schema is: migrating at start, and again when there is a reason to.
//!
//! A failed migration is not repeated by itself: a restart loop of failing DDL is an outage of its
//! own. It is tried again when the files change, on SIGHUP, or after a pause when it was not the SQL
//! that failed but the connection, or another migrator was not done yet.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use crate::config::{Config, OnFailure};
use crate::db::retry::Backoff;
use crate::db::{self, Database, Kind, Purpose};
use crate::health::{self, Readiness};
use crate::jobs;
use crate::lifecycle::Tasks;
use crate::migrate::{self, ErrorKind, UNTRUSTED, plan::State, source};
use crate::sets::Manifest;
use crate::store::schema_migrations;
use crate::telemetry::Metrics;

use super::RuntimeStatus;
use super::ledger::Ledger;
use super::migrations;

/// How often a folder of migrations that failed is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// The schema of one database.
pub struct Schema {
    db: Arc<Database>,
    standing: Arc<RuntimeStatus>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    tasks: Tasks,
    /// Told when the process is to end because migrating failed at the start and `on_failure` says so.
    fatal: mpsc::Sender<String>,
    actor: String,
    stage: Stage,
    /// Whether it was up to date once since the start.
    was_ready: bool,
    /// Whether somebody asked for it while it was under way.
    once_more: bool,
    backoff: Backoff,
    /// What interrupted the last attempt; the same again is told at debug level.
    told: Option<Kind>,
    trust: Trust,
}

/// Whether the schema `steward` is safe to use.
#[derive(Debug)]
enum Trust {
    /// To be checked before the schema is used.
    Unchecked,
    Trusted,
    /// Another role controls it, for this reason. Checked again from time to time.
    Refused(String),
}

enum Stage {
    /// To be started, not before this.
    Waiting {
        not_before: Instant,
    },
    Migrating(JoinHandle<Result<Migrated, migrate::Error>>),
    /// To be looked at.
    Ended(Result<Result<Migrated, migrate::Error>, JoinError>),
    /// Tried again when the files have another print than this.
    Failed {
        what: String,
        /// Edited files, where they are why.
        mismatches: Vec<String>,
        print: Option<String>,
        look_at: Instant,
    },
    Ready(Migrated),
}

/// What migrating found.
#[derive(Debug, Clone, Default)]
pub struct Migrated {
    /// What this call applied: `set/version_name`.
    pub applied: Vec<String>,
    /// The bundled sets that are applied.
    pub sets: Vec<&'static Manifest>,
    /// Edited files and missing objects.
    pub mismatches: Vec<String>,
}

/// What a look at the schema came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Same,
    /// It is up to date since now.
    BecameReady,
}

impl Schema {
    /// Nothing is done yet.
    pub fn new(
        db: Arc<Database>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        tasks: Tasks,
        fatal: mpsc::Sender<String>,
        standing: Arc<RuntimeStatus>,
        instance: &str,
    ) -> Schema {
        let actor = format!("pgsteward {} ({instance})", env!("CARGO_PKG_VERSION"));
        let stage = Stage::Waiting { not_before: Instant::now() };
        db.set_callers_refused(true);
        Schema {
            db,
            standing,
            metrics,
            readiness,
            tasks,
            fatal,
            actor,
            stage,
            was_ready: false,
            once_more: false,
            backoff: Backoff::connect(),
            told: None,
            trust: Trust::Unchecked,
        }
    }

    /// Checks whether the schema `steward` may be used, until it may: nothing of it, not even its
    /// leases, is used before. Fails when the database does not answer.
    pub async fn check_trust(
        &mut self,
        config: &Config,
        ledger: &Ledger,
    ) -> Result<bool, db::Error> {
        match (&self.trust, &self.stage) {
            (Trust::Trusted, _) => return Ok(true),
            (Trust::Refused(_), Stage::Failed { look_at, .. }) if Instant::now() < *look_at => {
                return Ok(false);
            }
            _ => {}
        }
        if let Some(reason) = ledger.distrust().await? {
            self.refuse(config, reason);
            return Ok(false);
        }
        if matches!(self.trust, Trust::Refused(_)) {
            tracing::info!(database = self.db.name(), "the schema steward is trusted now");
            self.stage = Stage::Waiting { not_before: Instant::now() };
        }
        self.db.set_callers_refused(false);
        self.trust = Trust::Trusted;
        Ok(true)
    }

    /// Stops using the schema until the check passes.
    fn refuse(&mut self, config: &Config, reason: String) {
        let database = self.db.name();
        if matches!(&self.trust, Trust::Refused(known) if *known == reason) {
            tracing::debug!(database, reason, "the schema steward is still not trusted");
        } else {
            tracing::error!(
                database,
                reason,
                "the schema steward is not trusted; using nothing of it"
            );
        }
        self.trust = Trust::Refused(reason.clone());
        self.db.set_callers_refused(true);
        self.failed(config, "the schema steward", UNTRUSTED, Vec::new());
        self.exit_if_configured(config, &reason);
    }

    fn exit_if_configured(&self, config: &Config, reason: &str) {
        // Only at the start: a later request to migrate, or a bad file, does not end a daemon that
        // serves.
        if config.migrations.on_failure == OnFailure::Exit && !self.was_ready {
            // A full channel means that the process is ending already.
            let _ = self.fatal.try_send(reason.to_owned());
        }
    }

    /// What was found, once it is up to date.
    pub fn ready(&self) -> Option<&Migrated> {
        match &self.stage {
            Stage::Ready(migrated) => Some(migrated),
            _ => None,
        }
    }

    /// What the health says of it; absent until it was looked at.
    pub fn standing(&self) -> Option<health::Schema> {
        match &self.stage {
            Stage::Waiting { .. } | Stage::Migrating(_) | Stage::Ended(_) => None,
            Stage::Failed { what, mismatches, .. } => Some(health::Schema {
                failed: Some(what.clone()),
                untrusted: matches!(self.trust, Trust::Refused(_)),
                mismatches: mismatches.clone(),
            }),
            Stage::Ready(migrated) => {
                let mismatches = migrated.mismatches.clone();
                Some(health::Schema { mismatches, ..health::Schema::default() })
            }
        }
    }

    /// Looks again at everything: the configuration changed.
    pub fn again(&mut self) {
        if let (Trust::Refused(_), Stage::Failed { look_at, .. }) = (&self.trust, &mut self.stage) {
            *look_at = Instant::now();
        } else if matches!(self.stage, Stage::Failed { .. } | Stage::Ready(_)) {
            self.stage = Stage::Waiting { not_before: Instant::now() };
        }
    }

    /// Migrates because somebody asked for it; where that is under way, once more when it has ended: what is asked
    /// for now may be of files that its plan does not have.
    pub fn once_more(&mut self) {
        self.once_more = matches!(self.stage, Stage::Migrating(_) | Stage::Ended(_));
        self.again();
    }

    /// Whether migrations are under way.
    pub fn is_migrating(&self) -> bool {
        matches!(&self.stage, Stage::Migrating(handle) if !handle.is_finished())
    }

    /// Ends a migration that is under way: its connections are cut, and the server rolls back.
    pub fn abandon(&mut self) {
        if let Stage::Migrating(handle) = &self.stage {
            handle.abort();
        }
    }

    /// Starts migrating where that is to be done. Returns at once.
    pub fn start(&mut self, config: &Arc<Config>) {
        if matches!(self.stage, Stage::Waiting { not_before } if Instant::now() >= not_before) {
            let mut by = None;
            self.standing.migrations.update(|standing| {
                by = standing.begin();
                standing.state = migrations::Stage::Migrating;
            });
            let actor = by.unwrap_or_else(|| self.actor.clone());
            let work =
                migrate(Arc::clone(&self.db), Arc::clone(config), Arc::clone(&self.metrics), actor);
            self.stage = Stage::Migrating(self.tasks.spawn("migrate", work));
        }
    }

    /// Resolves when migrating ends, so that nobody waits for the next wake-up; what came of it is told
    /// by the next look. Pending for ever while nothing is under way. Safe to drop at any time.
    pub async fn ended(&mut self) {
        let Stage::Migrating(handle) = &mut self.stage else { return std::future::pending().await };
        let outcome = handle.await;
        self.stage = Stage::Ended(outcome);
    }

    /// Takes in what has happened since the last look. Waits for nothing.
    pub fn look(&mut self, config: &Config) -> Progress {
        match &mut self.stage {
            Stage::Ended(_) => {
                let waiting = Stage::Waiting { not_before: Instant::now() };
                let Stage::Ended(outcome) = std::mem::replace(&mut self.stage, waiting) else {
                    return Progress::Same;
                };
                let progress = self.take_in(config, outcome);
                if std::mem::take(&mut self.once_more) {
                    self.again();
                }
                progress
            }
            Stage::Failed { print, look_at, .. }
                if matches!(self.trust, Trust::Trusted) && Instant::now() >= *look_at =>
            {
                *look_at = Instant::now() + LOOK_AGAIN;
                if *print != files_print(config) {
                    tracing::info!(
                        database = self.db.name(),
                        "the migration files changed; trying again"
                    );
                    self.stage = Stage::Waiting { not_before: Instant::now() };
                }
                Progress::Same
            }
            _ => Progress::Same,
        }
    }

    fn take_in(
        &mut self,
        config: &Config,
        outcome: Result<Result<Migrated, migrate::Error>, JoinError>,
    ) -> Progress {
        // They were needed for this only.
        self.db.close_idle(Purpose::Migrate);
        let target = self.db.name();
        match outcome {
            Ok(Ok(migrated)) => {
                self.backoff.reset();
                self.told = None;
                self.metrics.migration_failed.with_label_values(&[target]).set(0);
                let mismatches = i64::try_from(migrated.mismatches.len()).unwrap_or(i64::MAX);
                self.metrics.schema_mismatches.with_label_values(&[target]).set(mismatches);
                for mismatch in &migrated.mismatches {
                    tracing::error!(
                        database = target,
                        mismatch,
                        "the schema is not what was migrated"
                    );
                }
                self.readiness.migrated(target);
                self.standing.migrations.update(|standing| {
                    standing.state = migrations::Stage::Ready;
                    standing.failed = None;
                    standing.mismatches.clone_from(&migrated.mismatches);
                    standing.sets.clone_from(&migrated.sets);
                    standing.end(&migrated.applied, None);
                });
                self.stage = Stage::Ready(migrated);
                self.was_ready = true;
                Progress::BecameReady
            }
            Ok(Err(error)) if may_pass(&error) => {
                let kind = error.db_kind();
                if self.told == kind {
                    tracing::debug!(database = target, error = %error, "migrating was interrupted again");
                } else {
                    tracing::warn!(database = target, error = %error,
                        "migrating was interrupted; trying again for as long as it takes");
                }
                self.told = kind;
                self.standing
                    .migrations
                    .update(|standing| standing.state = migrations::Stage::Waiting);
                self.stage =
                    Stage::Waiting { not_before: Instant::now() + self.backoff.next_delay() };
                Progress::Same
            }
            Ok(Err(error)) if error.kind == ErrorKind::Untrusted => {
                self.refuse(config, error.to_string());
                Progress::Same
            }
            Ok(Err(error)) => {
                tracing::error!(database = target, file = error.file, line = error.line, error = %error,
                    "migrating failed; running no jobs until the files change or SIGHUP");
                let edited = error.fault.as_ref().filter(|fault| fault.state == State::Edited);
                let edited = edited.map_or_else(Vec::new, |fault| {
                    fault.labels.iter().map(|it| was_edited(it)).collect()
                });
                self.failed(
                    config,
                    error.file.as_deref().unwrap_or("the plan"),
                    error.reason(),
                    edited,
                );
                self.exit_if_configured(config, &error.to_string());
                Progress::Same
            }
            Err(join) => {
                tracing::error!(database = target, error = %join, "migrating panicked; this is a defect of pgsteward");
                self.failed(config, "the migrator", "panic", Vec::new());
                Progress::Same
            }
        }
    }

    fn failed(&mut self, config: &Config, file: &str, reason: &str, mismatches: Vec<String>) {
        let target = [self.db.name()];
        self.metrics.migration_failed.with_label_values(&target).set(1);
        let count = i64::try_from(mismatches.len()).unwrap_or(i64::MAX);
        self.metrics.schema_mismatches.with_label_values(&target).set(count);
        self.readiness.migration_failed(self.db.name(), file, reason);
        let what = format!("{file}: {reason}");
        self.standing.migrations.update(|standing| {
            standing.state = migrations::Stage::Failed;
            standing.failed = Some(what.clone());
            standing.mismatches.clone_from(&mismatches);
            standing.end(&[], Some(what.clone()));
        });
        let (print, look_at) = (files_print(config), Instant::now() + LOOK_AGAIN);
        self.stage = Stage::Failed { what, mismatches, print, look_at };
    }
}

fn was_edited(label: &str) -> String {
    format!("{label} was edited after being applied")
}

/// Whether trying again may do: the server went away, or another migrator holds the lock (an error of
/// the lock's names no file).
fn may_pass(error: &migrate::Error) -> bool {
    error.is_transient() || (error.file.is_none() && error.db_kind() == Some(Kind::LockTimeout))
}

/// Migrates, then looks whether everything that is relied on is there.
async fn migrate(
    db: Arc<Database>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    actor: String,
) -> Result<Migrated, migrate::Error> {
    let sets = migrate::configured_sets(&config)?;
    let options = migrate::Options::new(&config.migrations, actor);
    let outcome = migrate::up(&db, &sets, &options).await;
    let lines = match &outcome {
        Ok(outcome) => outcome.lines.clone(),
        Err(error) if error.kind == ErrorKind::Untrusted => Vec::new(),
        // Only for the gauges: the failure itself is what is reported.
        Err(_) => migrate::status(&db, Purpose::Migrate, &sets).await.unwrap_or_default(),
    };
    export(&metrics, db.name(), &sets, &lines);
    let outcome = outcome?;
    let newer: Vec<String> = lines
        .iter()
        .filter(|line| line.state == State::NoFile)
        .map(migrate::plan::Line::label)
        .collect();
    if !newer.is_empty() {
        tracing::warn!(
            database = db.name(),
            migrations = newer.join(", "),
            "the history holds migrations that this version has no file for; serving next to them"
        );
    }
    let mut migrated = verify(&db, outcome.edited()).await?;
    migrated.applied = outcome.changed.iter().map(migrate::plan::Line::label).collect();
    let took_ms = u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX);
    let (applied, mismatches) = (outcome.changed.len(), migrated.mismatches.len());
    tracing::info!(database = db.name(), applied, mismatches, took_ms, "the schema is up to date");
    if let Err(error) = tell_lacks(&db, &config, &migrated.sets).await {
        tracing::warn!(database = db.name(), error = %error, "what this role may not do could not be looked up");
    }
    Ok(migrated)
}

/// Says at start what the jobs will not be permitted, before they find out one by one.
async fn tell_lacks(db: &Database, config: &Config, sets: &[&Manifest]) -> Result<(), db::Error> {
    let conn = db.acquire(Purpose::Migrate).await?;
    for lack in jobs::privileges::lacks(&conn, config, sets).await? {
        tracing::warn!(
            database = db.name(),
            job = lack.job,
            remedy = lack.remedy,
            "{}",
            lack.problem
        );
    }
    Ok(())
}

/// Looks whether what was applied is still there, and lists the `edited` files beside it. Changes nothing.
pub async fn verify(db: &Database, edited: Vec<String>) -> Result<Migrated, migrate::Error> {
    let conn = db.acquire(Purpose::Migrate).await?;
    let sets = schema_migrations::bundled_sets(&conn).await?;
    let missing = migrate::verify::missing_objects(&conn, &sets).await?;
    let mismatches = edited
        .into_iter()
        .map(|label| was_edited(&label))
        .chain(missing.into_iter().map(|object| format!("{object} is missing")))
        .collect();
    Ok(Migrated { applied: Vec::new(), sets, mismatches })
}

fn export(metrics: &Metrics, target: &str, sets: &[source::Set], lines: &[migrate::plan::Line]) {
    for set in sets {
        let of_set = || lines.iter().filter(|line| line.set == set.name);
        let pending = of_set()
            .filter(|line| matches!(line.state, State::Pending | State::OutOfOrder))
            .count();
        let applied = of_set().count() - pending;
        let labels = [target, set.name.as_str()];
        metrics
            .migrations_applied
            .with_label_values(&labels)
            .set(i64::try_from(applied).unwrap_or(i64::MAX));
        metrics
            .migrations_pending
            .with_label_values(&labels)
            .set(i64::try_from(pending).unwrap_or(i64::MAX));
    }
}

/// What tells whether a folder of migrations has changed since it failed.
fn files_print(config: &Config) -> Option<String> {
    let dir: &Path = config.migrations.dir.as_deref()?;
    Some(match source::read_dir(source::APP, dir) {
        Ok(set) => set
            .migrations
            .iter()
            .map(|migration| migration.checksum.as_str())
            .collect::<Vec<_>>()
            .join(","),
        Err(error) => error.to_string(),
    })
}
