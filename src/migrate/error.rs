//! Why migrating failed, in kinds that carry decisions.

use std::fmt;

use super::plan::{Fault, Line};
use super::source;
use crate::db::{self, Kind};

/// What kind of failure, for exit codes and reason codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The database could not be reached or used.
    Database,
    /// The folder or its files are not usable.
    Source,
    /// The plan, the server or the role's privileges do not allow it.
    Refused,
    /// A role that is not trusted controls the schema `steward`.
    Untrusted,
    /// A file failed and was rolled back.
    Failed,
    /// There is no down script.
    Irreversible,
    /// The target is not something that can be rolled back to.
    Target,
}

/// The reason where [`ErrorKind::Untrusted`] is the kind.
pub const UNTRUSTED: &str = "untrusted_schema";

/// Why migrating failed.
#[derive(Debug, Clone)]
pub struct Error {
    pub kind: ErrorKind,
    /// Boxed, as the versions are: an error is to stay small.
    message: Box<str>,
    /// The file at fault, and the line.
    pub file: Option<String>,
    pub line: Option<usize>,
    /// The versions for which the plan was refused.
    pub fault: Option<Box<Fault>>,
    pub(super) source: Option<db::Error>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into().into(),
            file: None,
            line: None,
            fault: None,
            source: None,
        }
    }

    pub(super) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: db::Error,
    ) -> Error {
        Error {
            kind,
            message: message.into().into(),
            file: None,
            line: None,
            fault: None,
            source: Some(source),
        }
    }

    pub(super) fn at(mut self, file: String, line: Option<usize>) -> Error {
        self.file = Some(file);
        self.line = line;
        self
    }

    /// The same, about versions for which the plan was refused.
    pub(super) fn for_versions(mut self, fault: Option<Fault>) -> Error {
        self.file = fault.as_ref().map(|fault| fault.labels.join(", "));
        self.fault = fault.map(Box::new);
        self
    }

    /// A word for why it was, fit for a reader without credentials: the state of the versions at fault, else the
    /// database's kind.
    pub fn reason(&self) -> &'static str {
        if self.kind == ErrorKind::Untrusted {
            return UNTRUSTED;
        }
        let of_versions = self.fault.as_ref().map(|fault| fault.state.as_str());
        of_versions.or(self.db_kind().map(Kind::as_str)).unwrap_or("refused")
    }

    /// The same, saying what had been done before: that stays.
    pub(super) fn after(mut self, done: &[Line]) -> Error {
        if !done.is_empty() {
            let labels: Vec<String> = done.iter().map(Line::label).collect();
            self.message =
                format!("{}; done before that, and staying: {}", self.message, labels.join(", "))
                    .into();
        }
        self
    }

    /// The database's kind, where a database error is the cause.
    pub fn db_kind(&self) -> Option<Kind> {
        self.source.as_ref().map(db::Error::kind)
    }

    /// Whether trying again by itself may help: the server went away or somebody else migrates, not
    /// the SQL wrong.
    pub fn is_transient(&self) -> bool {
        let passes = |kind: Kind| {
            kind.is_connection() || matches!(kind, Kind::PoolTimeout | Kind::LockTimeout)
        };
        self.kind == ErrorKind::Database && self.db_kind().is_some_and(passes)
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
