//! What went wrong with the database, as kinds that carry decisions.
//!
//! The kind is read from SQLSTATE where the server gave one, from the I/O error where it did not;
//! never from message texts, except where PostgreSQL gives two situations one code (said there).
//! Display prints the whole chain of causes once, since tokio-postgres prints only "db error".

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_postgres::error::{DbError, SqlState};

/// Why an operation on a database failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// No route, no name, or silence, also from a peer that accepted the connection.
    Unreachable,
    /// The host answers, nothing listens on the port.
    Refused,
    /// The password or certificate was not accepted.
    Auth,
    /// The server wants or offers other encryption than configured, or its certificate fails.
    Tls,
    /// No `pg_hba.conf` entry lets us in.
    Hba,
    /// The database does not exist.
    UnknownDatabase,
    /// No connection slot is free.
    TooManyConnections,
    /// The server starts up or shuts down.
    StartingUp,
    /// The server is a standby that does not accept this.
    InRecovery,
    /// The session or server is read-only.
    ReadOnly,
    /// A time bound passed: on the server (57014 by `statement_timeout`) or here.
    Timeout,
    /// A lock was not to be had in time.
    LockTimeout,
    /// Serialization failure or deadlock: the transaction can be tried again.
    Conflict,
    /// Cancelled on request.
    Cancelled,
    /// The role lacks a privilege.
    Permission,
    /// An established connection broke, or was terminated.
    ConnectionLost,
    /// Our own pool had no free connection in time.
    PoolTimeout,
    /// The connection settings themselves are wrong.
    Config,
    /// Any other error that the server reported for a statement.
    Sql,
    /// The server answered something that cannot be.
    Protocol,
    /// Another instance took over what this one held.
    Fenced,
}

/// Where the cause of a failed write lies. It decides what happens to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Probably in the values of one row. It is certain only once the same table has accepted
    /// another row: a trigger or a constraint may also refuse every row.
    Row,
    /// In the table, its schema, a privilege, or the state of the server: rows are accepted once
    /// that is repaired.
    Table,
    /// In the connection: no table can be written to.
    Connection,
}

impl Fault {
    /// Classifies by SQLSTATE. `has_constraint` is whether the server named a constraint:
    /// PostgreSQL reports a missing partition and a violated CHECK by the same code, and names a
    /// constraint for the latter only.
    fn of(kind: Kind, sqlstate: Option<&str>, has_constraint: bool) -> Fault {
        match (kind, sqlstate) {
            (Kind::Sql, Some("23514")) if !has_constraint => Fault::Table,
            // Feature not supported, transaction state, object names and types, resources, object
            // state, operator intervention, system error, configuration file, internal error.
            (Kind::Sql, Some(code)) => match code.get(..2).unwrap_or_default() {
                "0A" | "25" | "42" | "53" | "55" | "57" | "58" | "F0" | "XX" => Fault::Table,
                _ => Fault::Row,
            },
            (Kind::PoolTimeout | Kind::Timeout, None) => Fault::Connection,
            (kind, _) if kind.is_connection() => Fault::Connection,
            _ => Fault::Table,
        }
    }
}

impl Kind {
    /// Every kind, in the order of the enum: metrics export each from the start.
    pub const ALL: [Kind; 21] = [
        Kind::Unreachable,
        Kind::Refused,
        Kind::Auth,
        Kind::Tls,
        Kind::Hba,
        Kind::UnknownDatabase,
        Kind::TooManyConnections,
        Kind::StartingUp,
        Kind::InRecovery,
        Kind::ReadOnly,
        Kind::Timeout,
        Kind::LockTimeout,
        Kind::Conflict,
        Kind::Cancelled,
        Kind::Permission,
        Kind::ConnectionLost,
        Kind::PoolTimeout,
        Kind::Config,
        Kind::Sql,
        Kind::Protocol,
        Kind::Fenced,
    ];

    /// The stable label used in metrics, rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Unreachable => "unreachable",
            Kind::Refused => "refused",
            Kind::Auth => "auth",
            Kind::Tls => "tls",
            Kind::Hba => "hba",
            Kind::UnknownDatabase => "unknown_database",
            Kind::TooManyConnections => "too_many_connections",
            Kind::StartingUp => "starting_up",
            Kind::InRecovery => "in_recovery",
            Kind::ReadOnly => "read_only",
            Kind::Timeout => "timeout",
            Kind::LockTimeout => "lock_timeout",
            Kind::Conflict => "conflict",
            Kind::Cancelled => "cancelled",
            Kind::Permission => "permission",
            Kind::ConnectionLost => "connection_lost",
            Kind::PoolTimeout => "pool_timeout",
            Kind::Config => "config",
            Kind::Sql => "sql",
            Kind::Protocol => "protocol",
            Kind::Fenced => "fenced",
        }
    }

    /// Whether the same transaction may succeed when simply run again.
    pub fn is_conflict(self) -> bool {
        matches!(self, Kind::Conflict)
    }

    /// Whether time alone may mend it: the same work may succeed a little later.
    pub fn is_passing(self) -> bool {
        matches!(
            self,
            Kind::Unreachable
                | Kind::Refused
                | Kind::TooManyConnections
                | Kind::StartingUp
                | Kind::InRecovery
                | Kind::LockTimeout
                | Kind::Conflict
                | Kind::ConnectionLost
                | Kind::PoolTimeout
        )
    }

    /// Whether the connection (not the statement) is at fault, so that a new one may do.
    pub fn is_connection(self) -> bool {
        matches!(
            self,
            Kind::Unreachable
                | Kind::Refused
                | Kind::Auth
                | Kind::Tls
                | Kind::Hba
                | Kind::UnknownDatabase
                | Kind::TooManyConnections
                | Kind::StartingUp
                | Kind::ConnectionLost
                | Kind::Config
                | Kind::Protocol
        )
    }

    fn of_sqlstate(db: &DbError) -> Kind {
        let code = db.code();
        match code.code() {
            "28P01" => Kind::Auth,
            // 28000 is both "no pg_hba.conf entry" and "role does not exist"; only the routine
            // of the server's source (not translated, unlike the message) tells them apart.
            "28000" if db.routine() == Some("ClientAuthentication") => Kind::Hba,
            "28000" => Kind::Auth,
            "3D000" => Kind::UnknownDatabase,
            "53300" => Kind::TooManyConnections,
            // "cannot connect now" covers start-up, shutdown and recovery.
            "57P03" => Kind::StartingUp,
            "57P01" | "57P02" | "57P05" | "25P03" | "25P04" => Kind::ConnectionLost,
            "25006" => Kind::ReadOnly,
            "55P03" => Kind::LockTimeout,
            "40001" | "40P01" => Kind::Conflict,
            // query_canceled: by statement_timeout, by lock of autovacuum, or on request. The
            // routine is the same, so the untranslated part of the message has to decide.
            "57014" if db.message().contains("timeout") => Kind::Timeout,
            "57014" => Kind::Cancelled,
            "42501" => Kind::Permission,
            "57P04" => Kind::UnknownDatabase,
            // PostgreSQL names the routine of its source; poolers do not, and have one code for
            // all.
            c if c.starts_with("08") && db.routine().is_none() => Kind::of_pooler(db.message()),
            c if c.starts_with("08") => Kind::ConnectionLost,
            _ => Kind::Sql,
        }
    }

    /// PgBouncer reports nearly everything as 08P01 in English; these are its texts up to 1.24.
    fn of_pooler(message: &str) -> Kind {
        const TEXTS: [(&str, Kind); 16] = [
            // Passwords, SASL, PAM, certificates.
            ("authentication failed", Kind::Auth),
            ("no such user", Kind::Auth),
            ("login rejected", Kind::Hba),
            ("no such database", Kind::UnknownDatabase),
            ("does not exist", Kind::UnknownDatabase),
            ("is disabled", Kind::UnknownDatabase),
            ("no more connections allowed", Kind::TooManyConnections),
            ("query_wait_timeout", Kind::TooManyConnections),
            ("server down", Kind::Unreachable),
            ("cannot connect to server", Kind::Unreachable),
            ("server login has been failing", Kind::Unreachable),
            ("SSL required", Kind::Tls),
            ("SSL connection is required", Kind::Tls),
            ("TLS", Kind::Tls),
            ("shutting down", Kind::StartingUp),
            ("unsupported startup parameter", Kind::Config),
        ];
        let found = TEXTS.iter().find(|(text, _)| message.contains(text));
        found.map_or(Kind::ConnectionLost, |(_, kind)| *kind)
    }

    /// What an error means on a stream that stood: however it broke (by a reset, by unanswered
    /// probes, by a route that went away), it is lost. tokio-postgres reports messages that make no
    /// sense by these two kinds.
    fn of_established(error: &io::Error) -> Kind {
        match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => Kind::Protocol,
            _ => Kind::ConnectionLost,
        }
    }

    /// What an error means while connecting.
    fn of_io(error: &io::Error) -> Kind {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::Refused,
            // A Unix socket that is not there: nothing listens.
            io::ErrorKind::NotFound => Kind::Refused,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Kind::ConnectionLost,
            _ => Kind::Unreachable,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A database error: its kind, what was being done, and every cause.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    context: Cow<'static, str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error found by ourselves.
    pub fn new(kind: Kind, context: impl Into<Cow<'static, str>>) -> Error {
        Error { kind, context: context.into(), source: None }
    }

    /// An error with a cause that has no kind of its own.
    pub fn with_source(
        kind: Kind,
        context: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error { kind, context: context.into(), source: Some(Arc::from(source.into())) }
    }

    /// What tokio-postgres reported, its kind read from its causes.
    pub fn from_pg(context: impl Into<Cow<'static, str>>, error: tokio_postgres::Error) -> Error {
        let kind = if let Some(db) = error.as_db_error() {
            Kind::of_sqlstate(db)
        } else if error.is_closed() {
            Kind::ConnectionLost
        } else {
            io_cause(&error).map_or(Kind::Protocol, Kind::of_established)
        };
        Error { kind, context: context.into(), source: Some(Arc::new(error)) }
    }

    /// What the operating system reported while connecting to a server.
    pub fn from_io(context: impl Into<Cow<'static, str>>, error: io::Error) -> Error {
        Error { kind: Kind::of_io(&error), context: context.into(), source: Some(Arc::new(error)) }
    }

    /// The same error with another kind, where the place knows better.
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// The same error, with what was being done in front.
    pub fn context(mut self, context: impl fmt::Display) -> Error {
        self.context = Cow::Owned(format!("{context}: {}", self.context));
        self
    }

    /// What decisions are made by.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The server's own report, where there is one.
    pub fn db(&self) -> Option<&DbError> {
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            if let Some(db) = error.downcast_ref::<DbError>() {
                return Some(db);
            }
            cause = error.source();
        }
        None
    }

    /// Where the cause lies, if this error came from writing rows.
    pub fn write_fault(&self) -> Fault {
        let has_constraint = self.db().is_some_and(|db| db.constraint().is_some());
        Fault::of(self.kind, self.sqlstate().map(SqlState::code), has_constraint)
    }

    /// Whether a row was refused because its table has no partition for it.
    pub fn is_missing_partition(&self) -> bool {
        self.db()
            .is_some_and(|db| *db.code() == SqlState::CHECK_VIOLATION && db.constraint().is_none())
    }

    /// The server's SQLSTATE, where there is one.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.db().map(DbError::code)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let mut cause: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(error) = cause {
            match error.downcast_ref::<DbError>() {
                Some(db) => {
                    write!(
                        f,
                        ": {}: {} (SQLSTATE {}",
                        db.severity(),
                        db.message(),
                        db.code().code()
                    )?;
                    match (db.detail(), db.constraint()) {
                        // Of data and constraints it quotes the row, which is not for a log.
                        (Some(_), constraint) if quotes_data(db.code()) => {
                            if let Some(constraint) = constraint {
                                write!(f, "; constraint: {constraint}")?;
                            }
                        }
                        (Some(detail), _) => write!(f, "; detail: {detail}")?,
                        (None, _) => {}
                    }
                    if let Some(hint) = db.hint() {
                        write!(f, "; hint: {hint}")?;
                    }
                    f.write_str(")")?;
                }
                // "db error" adds nothing to the report that follows it.
                None if error
                    .downcast_ref::<tokio_postgres::Error>()
                    .is_some_and(|e| e.as_db_error().is_some()) => {}
                None => write!(f, ": {error}")?,
            }
            cause = error.source();
        }
        Ok(())
    }
}

/// Classes 22 (data exception), 23 (integrity) and 44 (check option).
fn quotes_data(code: &SqlState) -> bool {
    ["22", "23", "44"].iter().any(|class| code.code().starts_with(class))
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

fn io_cause(error: &tokio_postgres::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_poolers_have_kinds() {
        for (text, kind) in [
            ("password authentication failed", Kind::Auth),
            ("SASL authentication failed", Kind::Auth),
            ("no such user: app", Kind::Auth),
            ("no such database: app", Kind::UnknownDatabase),
            ("no more connections allowed (max_client_conn)", Kind::TooManyConnections),
            ("query_wait_timeout", Kind::TooManyConnections),
            ("client_login_timeout (server down)", Kind::Unreachable),
            ("pgbouncer cannot connect to server", Kind::Unreachable),
            ("SSL required", Kind::Tls),
            ("unsupported startup parameter: options", Kind::Config),
            ("server conn crashed?", Kind::ConnectionLost),
        ] {
            assert_eq!(Kind::of_pooler(text), kind, "{text}");
        }
    }

    #[test]
    fn an_error_of_the_system_means_another_thing_before_and_after_the_connect() {
        for (error, before, after) in [
            (io::ErrorKind::ConnectionRefused, Kind::Refused, Kind::ConnectionLost),
            (io::ErrorKind::NotFound, Kind::Refused, Kind::ConnectionLost),
            (io::ErrorKind::TimedOut, Kind::Unreachable, Kind::ConnectionLost),
            (io::ErrorKind::NetworkUnreachable, Kind::Unreachable, Kind::ConnectionLost),
            (io::ErrorKind::HostUnreachable, Kind::Unreachable, Kind::ConnectionLost),
            (io::ErrorKind::ConnectionReset, Kind::ConnectionLost, Kind::ConnectionLost),
            (io::ErrorKind::InvalidInput, Kind::Unreachable, Kind::Protocol),
        ] {
            let error = io::Error::from(error);
            assert_eq!(Kind::of_io(&error), before, "{error}");
            assert_eq!(Kind::of_established(&error), after, "{error}");
        }
    }

    #[test]
    fn a_failed_write_is_the_fault_of_the_row_the_table_or_the_connection() {
        use Fault::{Connection, Row, Table};
        for (code, has_constraint, fault) in [
            ("22021", false, Row),   // a character that the encoding does not have
            ("22P02", false, Row),   // invalid text representation
            ("23502", false, Row),   // a null in a NOT NULL column
            ("23503", true, Row),    // foreign key
            ("23505", true, Row),    // another unique key
            ("23514", true, Row),    // CHECK constraint
            ("44000", false, Row),   // WITH CHECK OPTION
            ("54000", false, Row),   // a row that does not fit an index
            ("P0001", false, Row),   // a trigger: it may refuse one row, or all
            ("23514", false, Table), // no partition
            ("0A000", false, Table), // not supported
            ("42P01", false, Table), // no such table
            ("42703", false, Table), // no such column
            ("42804", false, Table), // a column of another type
            ("53100", false, Table), // disk full
            ("53200", false, Table), // out of memory
            ("55000", false, Table), // object not in prerequisite state
            ("58030", false, Table), // I/O error
            ("XX001", false, Table), // a damaged page
        ] {
            assert_eq!(Fault::of(Kind::Sql, Some(code), has_constraint), fault, "{code}");
        }
        for (kind, code, fault) in [
            (Kind::Permission, Some("42501"), Table),
            (Kind::ReadOnly, Some("25006"), Table),
            (Kind::LockTimeout, Some("55P03"), Table),
            (Kind::Conflict, Some("40P01"), Table),
            (Kind::Cancelled, Some("57014"), Table),
            // The server answers, so a statement on another table may succeed.
            (Kind::Timeout, Some("57014"), Table),
            (Kind::Timeout, None, Connection),
            (Kind::PoolTimeout, None, Connection),
            (Kind::ConnectionLost, Some("57P01"), Connection),
            (Kind::ConnectionLost, None, Connection),
            (Kind::StartingUp, Some("57P03"), Connection),
            (Kind::TooManyConnections, Some("53300"), Connection),
            (Kind::Protocol, None, Connection),
        ] {
            assert_eq!(Fault::of(kind, code, false), fault, "{kind} {code:?}");
        }
    }

    #[test]
    fn every_kind_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<&str> =
            Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(labels.len(), Kind::ALL.len());
    }

    #[test]
    fn the_whole_chain_is_printed_once() {
        let cause = io::Error::other("the cause");
        let error = Error::from_io("connect", cause).context("db:5432").context("migrate");
        assert_eq!(error.to_string(), "migrate: db:5432: connect: the cause");
    }
}
