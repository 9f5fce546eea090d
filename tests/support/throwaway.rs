//! The test run's server: started once by `scripts/test.sh`, for all test processes.
//!
//! Prints `PGSTEWARD_TEST_SERVER=FILE` when the server accepts connections, and lives until its
//! standard input ends.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its interface")]

use std::io::{Read, Write};
use std::process::ExitCode;

use pgsteward::db::ephemeral::{Ephemeral, Options};

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    let mut options = Options::from_env();
    options.settings = vec![("max_connections".to_owned(), "200".to_owned())];
    let server = match Ephemeral::start(options).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("PGSTEWARD_TEST_SERVER={}", server.socket_dir().join("connection.env").display());
    let told = std::io::stdout().flush();
    if told.is_ok() {
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    }
    server.stop().await;
    ExitCode::SUCCESS
}
