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
            // PostgreSQL names the routine of its source; poolers do not, and have one code for all.
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
