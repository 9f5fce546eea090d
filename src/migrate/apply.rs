//! Running one file: one transaction, one round trip, the history row inside.
//!
//! ```text
//! BEGIN; SET LOCAL …                 our own bounds and a search path without user schemas
//! INSERT INTO schema_migrations      the fence: a second migrator fails here
//! SET LOCAL ROLE; search_path        for application sets
//! the file
//! RESET …                            what the file set does not outlive it, behind a pooler neither
//! mark as finished                   fails when the file ended the transaction
//! INSERT INTO audit_logs             where there is a trail yet
//! COMMIT
//! ```
//! Strong locks are had by short `lock_timeout`s and running the whole transaction again, never by
//! queueing: a statement that waits for ACCESS EXCLUSIVE makes every later reader wait behind it.
//!
//! The server parses the whole message before it runs any of it, so a syntax error anywhere is found
//! before the first statement runs.

use std::time::{Duration, Instant};

use super::source::Migration;
use super::undo::Undo;
use super::{Error, ErrorKind, Options, plan};
use crate::db::{self, Conn, Database, Kind, Purpose, Route, quote_ident, quote_literal};
use crate::sets;
use crate::sql;
use crate::store::{audit, schema_migrations};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_millis(200);
/// How often the log says that a lock is still not to be had.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The connection that files run on: one of its own, closed afterwards and never lent again, since a
/// file may leave more in its session than can be taken back.
///
/// A file sees the settings of its database and role, as in psql, except for those of [`open`], and
/// except that a backslash in a plain string is a backslash: that is how [`sql`] reads the file too.
pub struct Worker {
    conn: Conn,
}

impl Worker {
    /// Connects. The session has our own settings until [`Worker::prepare`].
    pub async fn connect(db: &Database) -> Result<Worker, Error> {
        Ok(Worker { conn: db.connect(Purpose::Migrate, Route::Direct).await? })
    }

    /// For statements of ours before the first file.
    pub fn conn(&self) -> &Conn {
        &self.conn
    }

    /// From here on only files are run.
    pub async fn prepare(&self) -> Result<(), Error> {
        let sql = format!("RESET ALL; {STANDARD_STRINGS}");
        Ok(self.conn.batch("prepare the session for the files", &sql).await?)
    }
}

const STANDARD_STRINGS: &str = "SET standard_conforming_strings = on;";

/// A script between what opens and what closes its transaction.
struct Script<'a> {
    label: String,
    prologue: String,
    body: &'a str,
    epilogue: String,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Now,
    /// The history's primary key met another migrator's row: possible only when the lock was lost.
    ByAnother,
}

/// Applies one file.
pub async fn up(
    worker: &Worker,
    migration: &Migration,
    options: &Options,
) -> Result<Applied, Error> {
    let body = sql::without_mark(&migration.up);
    let entry = schema_migrations::NewMigration {
        set: &migration.set,
        version: migration.version,
        name: &migration.name,
        checksum: &migration.checksum,
        up_sql: &migration.up,
        down_sql: migration.down.as_deref(),
        statements: sql::statements(body).len(),
        applied_by: &options.actor,
    };
    let label = plan::label(&migration.set, migration.version, &migration.name);
    let script = Script {
        label: migration.file.clone(),
        prologue: format!(
            "{} {} {}",
            open(options),
            schema_migrations::insert_sql(&entry),
            settings(&migration.set, options)
        ),
        body,
        epilogue: close(&format!(
            "{} {}",
            schema_migrations::finish_sql(&migration.set, migration.version),
            audit_sql("migration.applied", &label, &migration.checksum, options)
        )),
    };
    match run(&worker.conn, &script, options).await {
        Ok(()) => Ok(Applied::Now),
        Err(error) if error.source.as_ref().is_some_and(schema_migrations::is_recorded_already) => {
            Ok(Applied::ByAnother)
        }
        Err(error) => Err(error),
    }
}

/// Undoes one version.
pub async fn down(worker: &Worker, undo: &Undo, options: &Options) -> Result<(), Error> {
    let script = Script {
        label: format!("{}.down.sql", undo.label()),
        prologue: format!(
            "{} {} {}",
            open(options),
            schema_migrations::delete_sql(&undo.set, undo.version),
            settings(&undo.set, options)
        ),
        body: sql::without_mark(&undo.sql),
        epilogue: close(&audit_sql(
            "migration.rolled_back",
            &undo.label(),
            &undo.checksum,
            options,
        )),
    };
    run(&worker.conn, &script, options).await
}

/// The row of the audit trail, in the file's own transaction.
fn audit_sql(action: &str, label: &str, checksum: &str, options: &Options) -> String {
    let details = serde_json::json!({ "checksum": checksum });
    audit::record_sql(&audit::Event::new(&options.actor, action, "migration", label, &details))
}

/// A migration's transaction is bounded per statement, not as a whole.
fn open(options: &Options) -> String {
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED; \
         SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = warning; \
         SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = '1min'; \
         SELECT set_config(s.name, s.value, true) \
           FROM (VALUES ('transaction_timeout', '0'), ('client_connection_check_interval', '1s')) AS s (name, value) \
          WHERE current_setting(s.name, true) IS NOT NULL \
            AND (s.name <> 'client_connection_check_interval' OR version() LIKE '%linux%');",
        options.statement_timeout.as_millis(),
        options.lock_timeout.as_millis().max(1),
    )
}

/// pgsteward's own set names every object with its schema, and runs as whoever connects.
fn settings(set: &str, options: &Options) -> String {
    if set == sets::STEWARD.name {
        return String::new();
    }
    let role = match &options.role {
        Some(role) => {
            // Only the owner of pgsteward's schema can grant what a bundled set calls.
            let grants = if sets::find(set).is_some() {
                schema_migrations::grant_to_author_sql(role)
            } else {
                String::new()
            };
            format!("{grants} SET LOCAL ROLE {};", quote_ident(role))
        }
        None => String::new(),
    };
    let path = quote_literal(&options.search_path);
    format!("{role} SELECT pg_catalog.set_config('search_path', {path}, true);\n")
}

/// Begins on a line of its own: the file may end in a `--` comment. Deferred constraints are checked
/// while the file's own bounds still hold.
fn close(finish: &str) -> String {
    format!(
        "\n;SET CONSTRAINTS ALL IMMEDIATE; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; {STANDARD_STRINGS} \
         SET LOCAL search_path = pg_catalog, pg_temp; DISCARD TEMP; {finish} COMMIT"
    )
}

async fn run(conn: &Conn, script: &Script<'_>, options: &Options) -> Result<(), Error> {
    let whole = format!("{}{}{}", script.prologue, script.body, script.epilogue);
    let begun = Instant::now();
    let mut told = begun;
    let mut backoff = db::retry::Backoff::new(RETRY_FIRST, RETRY_CAP);
    let mut attempts = 1_u32;
    loop {
        let Err((done, error)) = conn.script("run the file", &whole).await else {
            for notice in conn.take_notices() {
                tracing::warn!(file = script.label, notice, "the file reported");
            }
            return Ok(());
        };
        if let Err(rollback) = conn.batch("roll back", "ROLLBACK").await {
            tracing::debug!(error = %rollback, "roll back failed; the server does it when the connection ends");
        }
        let again = matches!(error.kind(), Kind::LockTimeout | Kind::Conflict);
        if !again || begun.elapsed() >= options.lock_budget {
            return Err(failure(
                script,
                done.statements,
                error,
                again.then_some((attempts, begun.elapsed())),
            ));
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::warn!(file = script.label, attempts, error = %error, "a lock is not to be had yet; trying again");
        }
        attempts += 1;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Says what became of the file, and where it failed.
fn failure(
    script: &Script<'_>,
    completed: usize,
    error: db::Error,
    gave_up: Option<(u32, Duration)>,
) -> Error {
    let completed = completed.checked_sub(sql::statements(&script.prologue).len());
    let before = script.prologue.chars().count();
    let place =
        error.db().and_then(|db| sql::locate(script.body, before, completed, db.position()));
    let at = place
        .as_ref()
        .map_or_else(String::new, |place| format!(":{}:{}", place.line, place.column));
    let outcome = if error.kind().is_connection() {
        "the connection ended while it ran; it was applied whole or not at all, which the next look tells"
    } else if schema_migrations::is_not_ours(&error) {
        "it ended the transaction that it was given; what it did before that stays, and is to be looked at"
    } else {
        "rolled back whole, nothing of it was applied"
    };
    let patience = match gave_up {
        Some((attempts, waited)) => {
            format!(
                "; gave up after {attempts} attempts in {:.1} s (migrations.lock_budget)",
                waited.as_secs_f64()
            )
        }
        None if error.kind() == Kind::Timeout => "; see migrations.statement_timeout".to_owned(),
        None => String::new(),
    };
    let statement = place
        .as_ref()
        .map_or_else(String::new, |place| format!("; statement: {}", place.statement));
    let message = format!("{}{at}: {outcome}{patience}{statement}", script.label);
    let kind = if error.kind().is_connection() { ErrorKind::Database } else { ErrorKind::Failed };
    Error::with_source(kind, message, error).at(script.label.clone(), place.map(|place| place.line))
}
