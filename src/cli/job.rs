//! `pgsteward job …`: jobs listed, run, paused and cancelled from the command line.
//!
//! A run is asked for through the ledger and picked up by the instance that observes; what is said here
//! is read from the ledger again, so that it is true whoever ran it.

mod cancel;
mod history;
mod list;
mod names;
mod outcome;
pub mod pause;
mod run;
pub mod text;
mod wait;

use clap::{Args, Subcommand};

use super::{Exit, Selection, Session, say};
use crate::db::Error;

#[derive(Debug, Subcommand)]
pub enum Job {
    /// List the jobs and how they stand; with a name, everything about one
    #[command(after_help = LIST_EXAMPLES)]
    List(list::List),
    /// Run a job now
    #[command(after_help = RUN_EXAMPLES)]
    Run(run::Run),
    /// What a job did, newest first
    History(history::History),
    /// Pause a job, or all, on every instance
    Pause(Pause),
    /// Resume a job, or all
    Resume(Resume),
    /// Cancel a run: one that waits ends at once, one under way is cancelled on the server
    Cancel(cancel::Cancel),
}

const LIST_EXAMPLES: &str = "\
States: enabled; running; queued (a run waits); paused; quarantined (a former run may still work on the \
server); disabled; measured (taken on every tick, without a run in the ledger); not_configured (the ledger \
knows it, this configuration does not); unknown (the ledger cannot be read).

Examples:
  pgsteward job list
  pgsteward job list retention
  pgsteward job list --json | jq -r '.jobs[] | select(.consecutive_failures > 0) | .name'";

const RUN_EXAMPLES: &str = "\
Windows and `enabled = false` keep a job from running by itself; who asks for a run gets it. Exit code 0 \
when the run is asked for (or, waited for, succeeded); 4 when it ended otherwise; 75 when the job is \
paused, runs (--here) or waits already, or when the end was not waited for.

Examples:
  pgsteward job run retention            ask the instance that observes, print the run's id
  pgsteward job run retention --wait     the same, and see how it ends
  pgsteward job run retention --here     run it in this process, instance or not";

#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    which: Chosen,
    /// Why, for whoever finds it paused
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    which: Chosen,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Chosen {
    /// The job
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// All jobs
    #[arg(long)]
    all: bool,
}

impl Chosen {
    fn which(self) -> pause::Which {
        match self.name {
            Some(name) => pause::Which::One(name),
            None => pause::Which::All,
        }
    }
}

impl Job {
    pub async fn execute(self, session: Session) -> Exit {
        let outcome = match self {
            Job::List(list) => list.execute(&session).await,
            Job::Run(run) => run.execute(&session).await,
            Job::History(history) => history.execute(&session).await,
            Job::Pause(Pause { which, reason, selection }) => {
                pause::pause(&session, &selection, &which.which(), reason.as_deref()).await
            }
            Job::Resume(Resume { which, selection }) => {
                pause::resume(&session, &selection, &which.which()).await
            }
            Job::Cancel(cancel) => cancel.execute(&session).await,
        };
        outcome.unwrap_or_else(|exit| exit)
    }
}

/// An error of the database, with what mends it where pgsteward's own tables are missing.
pub fn told(error: &Error) -> String {
    let missing = error.sqlstate().is_some_and(|state| matches!(state.code(), "42P01" | "3F000"));
    let mend = if missing {
        "; pgsteward's own tables are missing: `pgsteward migrate up` makes them"
    } else {
        ""
    };
    format!("{error}{mend}")
}

pub fn failed(database: &str, error: &Error) -> Exit {
    say(&format!("database {database}: {}", told(error)));
    Exit::Unavailable
}
