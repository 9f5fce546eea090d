//! The command line: parse, call, print, exit code. No decisions about databases are made here.
//!
//! What is printed on standard output is data (`--json` for programs); problems and logs go to
//! standard error. Commands and options are stable: other tools call them.

mod audit;
mod check;
mod exit;
mod health;
mod job;
mod migrate;
mod pause;
mod role;
mod run;
mod token;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::load::{self, Loaded};
use crate::config::{Config, LogLevel};
use crate::db::{self, Database};
use crate::lifecycle::Tasks;
use crate::telemetry::{self, Metrics};

use exit::Exit;

/// Keeps a PostgreSQL database's house: migrations, health, retention, maintenance.
#[derive(Debug, Parser)]
#[command(name = "pgsteward", version, after_help = EXAMPLES)]
struct Cli {
    /// Configuration file [default: /etc/pgsteward/config.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  pgsteward run --ephemeral                   try it on a throw-away PostgreSQL
  DATABASE_URL=postgres://… pgsteward run     keep that database's house
  pgsteward check --connect                   is the configuration right, is the server there?
  DATABASE_URL=postgres://… pgsteward migrate up --dir ./migrations
  pgsteward role --job base                   the SQL of a least-privilege role
  pgsteward token new grafana --role viewer   make a token for the HTTP API
  pgsteward job run retention --wait          run a job now, and see how it ends
  pgsteward audit verify                      is the audit trail as it was sealed?

Exit codes: 0 done; 3 a migration failed; 4 a run did not succeed; 5 the audit trail is not as it was sealed; \
64 usage; 69 unavailable; 70 internal; 75 not now, or not known yet; 78 configuration. \
`health` has its own: 0 healthy, 1 degraded, 2 unhealthy, 3 unknown.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(run::Run),
    /// Validate the configuration; change nothing
    Check(check::Check),
    /// Apply, list or roll back migrations
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// List, run, pause and cancel jobs
    #[command(subcommand)]
    Job(job::Job),
    /// Read, verify and prove the audit trail
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Measure the database once; the exit code is its health
    Health(health::Health),
    /// Print the SQL of a least-privilege role
    Role(role::Role),
    /// Make tokens for the HTTP API
    #[command(subcommand)]
    Token(token::Token),
    /// Pause all jobs of the database, on every instance
    Pause(pause::Pause),
    /// Resume all jobs of the database
    Resume(pause::Resume),
}

/// Which database, where several are configured.
#[derive(Debug, Args)]
struct Selection {
    /// The name of the database, where several are configured
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

/// What every command works with.
struct Session {
    loaded: Loaded,
    json: bool,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nothing to be done when standard output or error is closed.
            let _ = error.print();
            return if asked { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    execute(cli).into()
}

fn execute(cli: Cli) -> Exit {
    let args = load::Args {
        path: cli.config.clone(),
        ephemeral: matches!(&cli.command, Command::Run(run) if run.ephemeral),
        listen: match &cli.command {
            Command::Run(run) => run.listen.clone(),
            _ => None,
        },
        migrations_dir: match &cli.command {
            Command::Migrate(migrate) => migrate.dir().cloned(),
            _ => None,
        },
    };
    // These need no configuration.
    match &cli.command {
        Command::Role(role) => return role.print(),
        Command::Token(token) => return token.print(cli.json),
        _ => {}
    }
    let env = load::environment();
    let loaded = match load::load(&args, &env) {
        Ok(loaded) => loaded,
        Err(problems) => {
            say(&problems.to_string());
            return Exit::Config;
        }
    };
    let session = Session { loaded, json: cli.json };
    match cli.command {
        Command::Run(_) => run::execute(session, args, env),
        Command::Check(check) => block_on(check.execute(session)),
        Command::Migrate(migrate) => block_on(migrate.execute(session)),
        Command::Health(health) => block_on(health.execute(session)),
        Command::Job(job) => block_on(job.execute(session)),
        Command::Audit(audit) => block_on(audit.execute(session)),
        Command::Pause(pause) => block_on(pause.execute(session)),
        Command::Resume(resume) => block_on(resume.execute(session)),
        Command::Role(role) => role.print(),
        Command::Token(token) => token.print(session.json),
    }
}

impl Session {
    fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// Opens the chosen database, quietly: a command's standard error is for its own words.
    fn open(&self, selection: &Selection) -> Result<Opened, Exit> {
        self.open_at(selection, LogLevel::Warn)
    }

    /// Opens the chosen database, logging at `level` unless the configuration asks for more.
    fn open_at(&self, selection: &Selection, level: LogLevel) -> Result<Opened, Exit> {
        let mut log = self.config().log.clone();
        if matches!(log.level, LogLevel::Info) {
            log.level = level;
        }
        if let Err(error) = telemetry::log::init(&log) {
            say(&format!("begin the log: {error}"));
            return Err(Exit::Internal);
        }
        let databases = &self.config().databases;
        let name = match &selection.database {
            Some(name) => name,
            None if databases.len() == 1 => databases.keys().next().ok_or(Exit::Config)?,
            None => {
                let names: Vec<&str> = databases.keys().map(String::as_str).collect();
                say(&format!(
                    "found {} databases ({}), wanted one: name it with --database",
                    names.len(),
                    names.join(", ")
                ));
                return Err(if names.is_empty() { Exit::Config } else { Exit::Usage });
            }
        };
        let Some(config) = databases.get(name) else {
            let names: Vec<&str> = databases.keys().map(String::as_str).collect();
            say(&format!("there is no database {name:?}; configured: {}", names.join(", ")));
            return Err(Exit::Usage);
        };
        let metrics = Metrics::new().map_err(|error| {
            say(&format!("register metrics: {error}"));
            Exit::Internal
        })?;
        let tasks = Tasks::new();
        let db = Database::new(name, config, 1, &tasks, &Arc::new(metrics));
        Ok(Opened { db })
    }
}

/// A database opened for one command.
struct Opened {
    db: Arc<Database>,
}

/// Runs a command that talks to a database.
fn block_on(command: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            say(&format!("start the runtime: {error}"));
            Exit::Internal
        }
    }
}

/// Ends a call that is not answered in time.
async fn bounded<T>(
    what: &'static str,
    bound: Duration,
    call: impl Future<Output = Result<T, db::Error>>,
) -> Result<T, db::Error> {
    match tokio::time::timeout(bound, call).await {
        Ok(outcome) => outcome,
        Err(_) => Err(db::Error::new(
            db::Kind::Timeout,
            format!("{what}: no answer within {} s", bound.as_secs()),
        )),
    }
}

/// Who acts, for the audit trail and the history: the account and the host.
fn actor() -> String {
    let uid = rustix::process::getuid().as_raw();
    let name = std::env::var("USER")
        .or_else(|_| std::env::var("LOGNAME"))
        .unwrap_or_else(|_| format!("uid {uid}"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("cli:{name}@{host}")
}

/// A problem, for a person, on standard error.
#[expect(clippy::print_stderr, reason = "the command line's own door to standard error")]
fn say(text: &str) {
    eprintln!("pgsteward: {text}");
}

/// Data, on standard output. A closed pipe ends nothing.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Data as JSON, on standard output.
fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&text),
        Err(error) => say(&format!("write JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
