//! Exit codes, by sysexits.h where it has one.

use std::process::ExitCode;

use crate::health::Status;
use crate::migrate;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok,
    /// A migration failed, or may not be applied or undone.
    Migration,
    /// A run of a job ended otherwise than well.
    Run,
    /// The audit trail is not as it was sealed.
    Audit,
    /// EX_USAGE
    Usage,
    /// EX_UNAVAILABLE: the database, or the address to listen on.
    Unavailable,
    /// EX_SOFTWARE
    Internal,
    /// EX_TEMPFAIL: a job is paused, or runs or waits already; or how a run ended is not known yet.
    Later,
    /// EX_CONFIG
    Config,
    /// `health`: by the convention of monitoring plugins.
    Health(Status),
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok | Exit::Health(Status::Healthy) => 0,
            Exit::Health(Status::Degraded) => 1,
            Exit::Health(Status::Unhealthy) => 2,
            Exit::Health(Status::Unknown) | Exit::Migration => 3,
            Exit::Run => 4,
            Exit::Audit => 5,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Internal => 70,
            Exit::Later => 75,
            Exit::Config => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

impl From<&migrate::Error> for Exit {
    fn from(error: &migrate::Error) -> Exit {
        match error.kind {
            migrate::ErrorKind::Database => Exit::Unavailable,
            migrate::ErrorKind::Target => Exit::Usage,
            migrate::ErrorKind::Source
            | migrate::ErrorKind::Refused
            | migrate::ErrorKind::Untrusted
            | migrate::ErrorKind::Failed
            | migrate::ErrorKind::Irreversible => Exit::Migration,
        }
    }
}
