//! `steward.schema_migrations`: what was applied, with its SQL, by whom and when.
//!
//! The table exists before the first migration, so [`bootstrap`] makes it. Its primary key is the
//! fence between two migrators: the row is inserted before the file's own statements run, in their
//! transaction.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::{Conn, Error, quote_ident, quote_literal};
use crate::sets::{self, Manifest};

/// One applied migration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AppliedMigration {
    pub set: String,
    pub version: i64,
    pub name: String,
    /// SHA-256 of the file's bytes, in hexadecimal.
    pub checksum: String,
    #[serde(skip)]
    pub up_sql: String,
    #[serde(skip)]
    pub down_sql: Option<String>,
    pub applied_by: String,
    pub applied_at: DateTime<Utc>,
    pub duration_ms: i64,
}

/// What a table must have to be this history; another tool's table of the same name has not.
pub const COLUMNS: &[&str] = &[
    "set_name",
    "version",
    "name",
    "checksum",
    "up_sql",
    "down_sql",
    "state",
    "statements_done",
    "applied_by",
    "applied_at",
    "duration_ms",
];

/// Whether the table is there. An error of the kind `Permission` where the role may not look into the
/// schema.
pub async fn exists(conn: &Conn) -> Result<bool, Error> {
    const SQL: &str = "SELECT to_regclass('steward.schema_migrations') IS NOT NULL";
    Ok(conn.row("look for the migration history", SQL, &[]).await?.get(0))
}

/// Makes the schema and the table where they are missing. Run under the migration lock.
pub async fn bootstrap(conn: &Conn) -> Result<(), Error> {
    // CREATE SCHEMA IF NOT EXISTS wants the privilege on the database even where the schema exists.
    const SQL: &str = "
        BEGIN;
        SET LOCAL client_min_messages = warning;
        DO $pgsteward$ BEGIN
            IF pg_catalog.to_regnamespace('steward') IS NULL THEN
                CREATE SCHEMA steward;
                COMMENT ON SCHEMA steward IS 'pgsteward''s own objects; removable by DROP SCHEMA steward CASCADE';
            END IF;
        END $pgsteward$;
        CREATE TABLE IF NOT EXISTS steward.schema_migrations (
            set_name        text        NOT NULL,
            version         bigint      NOT NULL,
            name            text        NOT NULL,
            checksum        text        NOT NULL,
            up_sql          text        NOT NULL,
            down_sql        text,
            state           text        NOT NULL DEFAULT 'applied'
                            CHECK (state IN ('applied', 'applying')),
            statements_done integer     NOT NULL DEFAULT 0,
            applied_by      text        NOT NULL,
            applied_at      timestamptz NOT NULL DEFAULT now(),
            duration_ms     bigint      NOT NULL DEFAULT 0,
            PRIMARY KEY (set_name, version)
        );
        COMMENT ON TABLE steward.schema_migrations IS
            'Migrations that were applied, with the SQL that ran and the SQL that undoes it';
        COMMIT";
    let outcome = conn.batch("make the migration history", SQL).await;
    if outcome.is_err() {
        // Nothing to do about a second failure: the connection is dropped then.
        let _ = conn.batch("roll back", "ROLLBACK").await;
    }
    outcome
}

/// Every applied migration, by set and version.
pub async fn read(conn: &Conn) -> Result<Vec<AppliedMigration>, Error> {
    const SQL: &str = "
        SELECT set_name, version, name, checksum, up_sql, down_sql, applied_by, applied_at, duration_ms
          FROM steward.schema_migrations
         WHERE state = 'applied'
         ORDER BY set_name, version";
    let rows = conn.rows("read the migration history", SQL, &[]).await?;
    Ok(rows
        .iter()
        .map(|row| AppliedMigration {
            set: row.get(0),
            version: row.get(1),
            name: row.get(2),
            checksum: row.get(3),
            up_sql: row.get(4),
            down_sql: row.get(5),
            applied_by: row.get(6),
            applied_at: row.get(7),
            duration_ms: row.get(8),
        })
        .collect())
}

/// Returns the bundled sets that the history has a migration of, and always pgsteward's own.
pub async fn bundled_sets(conn: &Conn) -> Result<Vec<&'static Manifest>, Error> {
    const SQL: &str = "SELECT DISTINCT set_name FROM steward.schema_migrations";
    let mut names = Vec::new();
    if exists(conn).await? {
        names = conn.read("read the applied migration sets", SQL, &[]).await?;
    }
    Ok(sets::applied(&names))
}

/// What goes into the history for one file.
#[derive(Debug, Clone, Copy)]
pub struct NewMigration<'a> {
    pub set: &'a str,
    pub version: i64,
    pub name: &'a str,
    pub checksum: &'a str,
    pub up_sql: &'a str,
    pub down_sql: Option<&'a str>,
    pub statements: usize,
    pub applied_by: &'a str,
}

/// The statement that opens a file's transaction: one statement, as text, since the whole
/// transaction is one simple query.
pub fn insert_sql(entry: &NewMigration<'_>) -> String {
    format!(
        "INSERT INTO steward.schema_migrations \
         (set_name, version, name, checksum, up_sql, down_sql, statements_done, applied_by) \
         VALUES ({}, {}, {}, {}, {}, {}, {}, {});",
        quote_literal(entry.set),
        entry.version,
        quote_literal(entry.name),
        quote_literal(entry.checksum),
        quote_literal(entry.up_sql),
        entry.down_sql.map_or_else(|| "NULL".to_owned(), quote_literal),
        entry.statements,
        quote_literal(entry.applied_by),
    )
}

/// The statement that closes a file's transaction: it fails when the row is not this transaction's
/// own, which is so when the file ended the transaction that it was given.
pub fn finish_sql(set: &str, version: i64) -> String {
    format!(
        "DO $pgsteward$ BEGIN \
         UPDATE steward.schema_migrations \
            SET duration_ms = pg_catalog.floor(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - applied_at) * 1000) \
          WHERE set_name = {} AND version = {} AND xmin = pg_catalog.pg_current_xact_id()::xid; \
         IF NOT FOUND THEN RAISE 'the file ended the transaction that it runs in' USING ERRCODE = '{NOT_OURS}'; END IF; \
         END $pgsteward$;",
        quote_literal(set),
        version,
    )
}

/// SQLSTATE of [`finish_sql`]'s refusal, of a class that PostgreSQL does not use.
const NOT_OURS: &str = "PGS01";

/// Whether [`finish_sql`] found that its transaction is not the one that was begun for the file.
pub fn is_not_ours(error: &Error) -> bool {
    error.sqlstate().is_some_and(|state| state.code() == NOT_OURS)
}

/// Whether a row of the history stands there already.
pub fn is_recorded_already(error: &Error) -> bool {
    error.db().is_some_and(|db| {
        db.code().code() == "23505"
            && db.schema() == Some("steward")
            && db.table() == Some("schema_migrations")
    })
}

/// The statement that opens the transaction of a rollback; it fails when the row is gone already.
pub fn delete_sql(set: &str, version: i64) -> String {
    format!(
        "DO $pgsteward$ BEGIN \
         DELETE FROM steward.schema_migrations WHERE set_name = {} AND version = {}; \
         IF NOT FOUND THEN RAISE 'another session has rolled this migration back'; END IF; \
         END $pgsteward$;",
        quote_literal(set),
        version,
    )
}

/// The statements that permit a role other than the owner of pgsteward's schema to apply a bundled
/// set, which creates partitions and audits its tables.
pub fn grant_to_author_sql(role: &str) -> String {
    format!(
        "SELECT steward.let_audit({}); GRANT EXECUTE ON FUNCTION steward.ensure_partitions TO {};",
        quote_literal(role),
        quote_ident(role)
    )
}
