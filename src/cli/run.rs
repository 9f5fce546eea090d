//! `pgsteward run`

use std::collections::BTreeMap;

use clap::Args;

use super::{Exit, Session, say};
use crate::config::load;
use crate::daemon;
use crate::telemetry;

#[derive(Debug, Args)]
pub struct Run {
    /// Use a throw-away PostgreSQL server that ends with the daemon
    #[arg(long)]
    pub ephemeral: bool,
    /// Listen here instead of at http.listen
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
}

/// Runs the daemon until it is told to stop.
pub fn execute(session: Session, args: load::Args, env: BTreeMap<String, String>) -> Exit {
    let logs = match telemetry::log::init(&session.config().log) {
        Ok(logs) => logs,
        Err(error) => {
            say(&format!("begin the log: {error}"));
            return Exit::Internal;
        }
    };
    // One worker beside this thread, which has the signals and systemd: every thread has a heap of its
    // own, and the work between two waits is short.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .thread_name("pgsteward")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("start the runtime: {error}"));
            return Exit::Internal;
        }
    };
    let ended =
        runtime.block_on(daemon::run(session.loaded, logs, move || load::load(&args, &env)));
    // Stragglers were named by the drain; they end with the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => Exit::Ok,
        Err(error) => {
            tracing::error!(error = %error, "pgsteward ends");
            match error {
                daemon::Fatal::Listen(_) | daemon::Fatal::Ephemeral(_) => Exit::Unavailable,
                daemon::Fatal::Credentials(_) | daemon::Fatal::Tls(_) => Exit::Config,
                daemon::Fatal::Migration(_) => Exit::Migration,
                daemon::Fatal::Internal { .. } => Exit::Internal,
            }
        }
    }
}
