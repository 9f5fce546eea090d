//! The server of a test run. `scripts/test.sh` starts it once, and all test processes share it.
//!
//! It prints `PGSTEWARD_TEST_SERVER=FILE` when the server accepts connections, and lives until its
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
    if std::io::stdout().flush().is_ok() {
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    }
    server.stop().await;
    ExitCode::SUCCESS
}
