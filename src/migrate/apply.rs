//! Running one file: one transaction, one round trip, the history row inside.
//!
//! ```text
//! RESET …; BEGIN; SET LOCAL …        nothing that an earlier file set is left
//! INSERT INTO schema_migrations      the fence: a second migrator fails here
//! SET LOCAL ROLE / search_path       for application sets
//! the file
//! RESET ROLE; mark as finished       fails when the file ended the transaction
//! COMMIT
//! ```
//! Strong locks are had by short `lock_timeout`s and running the whole transaction again, never by
//! queueing: a statement that waits for ACCESS EXCLUSIVE makes every later reader wait behind it.

use std::time::{Duration, Instant};

use super::source::Migration;
use super::sql;
use super::{Error, ErrorKind, Options};
use crate::db::{self, Conn, Kind, quote_ident};
use crate::store::history;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_millis(200);
/// How often the log says that a lock is still not to be had.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A script between what opens and what closes its transaction.
struct Script<'a> {
    label: String,
    prologue: String,
    body: &'a str,
    epilogue: String,
}

/// Applies one file.
pub async fn up(conn: &Conn, migration: &Migration, options: &Options) -> Result<(), Error> {
    let entry = history::Entry {
        set: &migration.set,
        version: migration.version,
        name: &migration.name,
        checksum: &migration.checksum,
        up_sql: &migration.up,
        down_sql: migration.down.as_deref(),
        statements: sql::statements(&migration.up).len(),
        applied_by: &options.actor,
    };
    let script = Script {
        label: migration.file.clone(),
        prologue: format!("{} {} {}", open(options), history::insert_sql(&entry), settings(&migration.set, options)),
        body: &migration.up,
        epilogue: format!("\n;RESET ROLE; {} COMMIT", history::finish_sql(&migration.set, migration.version)),
    };
    run(conn, &script, options).await
}

/// Undoes one version by the SQL that the history kept.
pub async fn down(conn: &Conn, row: &history::Applied, options: &Options) -> Result<(), Error> {
    let label = format!("{}/{:03}_{}.down.sql", row.set, row.version, row.name);
    let Some(body) = row.down_sql.as_deref() else {
        return Err(Error::new(ErrorKind::Irreversible, format!("{label}: the migration came without a down file")));
    };
    let script = Script {
        label,
        prologue: format!(
            "{} {} {}",
            open(options),
            history::delete_sql(&row.set, row.version),
            settings(&row.set, options)
        ),
        body,
        epilogue: "\n;RESET ROLE; COMMIT".to_owned(),
    };
    run(conn, &script, options).await
}

fn open(options: &Options) -> String {
    format!(
        "RESET SESSION AUTHORIZATION; RESET ALL; BEGIN; \
         SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = warning; \
         SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = '1min';",
        options.statement_timeout.as_millis(),
        options.lock_timeout.as_millis().max(1),
    )
}

fn settings(set: &str, options: &Options) -> String {
    if set == super::source::STEWARD {
        return String::new();
    }
    let role = options.role.as_deref().map(|role| format!("SET LOCAL ROLE {};", quote_ident(role))).unwrap_or_default();
    let path: Vec<String> =
        options.search_path.split(',').map(|part| quote_ident(part.trim().trim_matches('"'))).collect();
    format!("{role} SET LOCAL search_path = {};\n", path.join(", "))
}

async fn run(conn: &Conn, script: &Script<'_>, options: &Options) -> Result<(), Error> {
    let whole = format!("{}{}{}", script.prologue, script.body, script.epilogue);
    let begun = Instant::now();
    let mut told = begun;
    let mut backoff = db::retry::Backoff::new(RETRY_FIRST, RETRY_CAP);
    let mut attempts = 1_u32;
    loop {
        let Err((completed, error)) = conn.script("run the file", &whole).await else {
            for notice in conn.take_notices() {
                tracing::info!(file = script.label, notice, "the file reported");
            }
            return Ok(());
        };
        if let Err(rollback) = conn.batch("roll back", "ROLLBACK").await {
            tracing::debug!(error = %rollback, "roll back failed; the server does it when the connection ends");
        }
        let again = matches!(error.kind(), Kind::LockTimeout | Kind::Conflict);
        if !again || begun.elapsed() >= options.lock_budget {
            return Err(failure(script, completed, error, again.then_some((attempts, begun.elapsed()))));
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::warn!(file = script.label, attempts, error = %error, "a lock is not to be had yet; trying again");
        }
        attempts += 1;
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Says where a script failed: by the server's position where there is one, else by counting the
/// statements that completed.
fn failure(script: &Script<'_>, completed: usize, error: db::Error, gave_up: Option<(u32, Duration)>) -> Error {
    let place = place(script, completed, &error);
    let patience = gave_up.map_or_else(String::new, |(attempts, waited)| {
        format!(" (gave up after {attempts} attempts in {} s; see migrations.lock_budget)", waited.as_secs())
    });
    let message = match &place {
        Some((line, column, statement)) => {
            format!(
                "{}:{line}:{column}: rolled back whole, nothing of it was applied{patience}; statement: {statement}",
                script.label
            )
        }
        None => format!("{}: rolled back whole, nothing of it was applied{patience}", script.label),
    };
    Error::with_source(ErrorKind::Failed, message, error).at(script.label.clone(), place.map(|(line, ..)| line))
}

fn place(script: &Script<'_>, completed: usize, error: &db::Error) -> Option<(usize, usize, String)> {
    let before = script.prologue.chars().count();
    let statements = sql::statements(script.body);
    let offset = match error.db()?.position() {
        Some(tokio_postgres::error::ErrorPosition::Original(position)) => {
            let position = (*position as usize).checked_sub(before)?;
            sql::byte_of(script.body, position)
        }
        _ => {
            let opened = sql::statements(&script.prologue).len();
            statements.get(completed.checked_sub(opened)?)?.offset
        }
    };
    if offset >= script.body.len() {
        return None;
    }
    let statement = statements.iter().rev().find(|statement| statement.offset <= offset)?;
    let line = sql::line_of(script.body, offset);
    let line_start = script.body[..offset].rfind('\n').map_or(0, |at| at + 1);
    let column = script.body[line_start..offset].chars().count() + 1;
    Some((line, column, sql::first_line(statement.text)))
}
