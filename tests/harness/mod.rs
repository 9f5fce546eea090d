//! What every integration test stands on: a real server, a database of its own, and the means to
//! make bad days.
//!
//! - [`server`]: one throw-away server per test run. `scripts/test.sh` starts it for all test
//!   processes and names it in `PGSTEWARD_TEST_SERVER`; without that (plain `cargo test NAME`) each
//!   process starts one at first use, which ends with the process. Without server binaries a test
//!   fails with the command that installs them; none is skipped.
//! - [`TestDatabase`]: a database of one's own, cloned from an empty or a migrated template.
//! - [`PrivateServer`]: a server of one's own, for tests that kill, restart or configure it.
//! - [`Proxy`]: a wire that can be cut, slowed and silenced.
//! - [`Daemon`]: the built binary as a child process. [`http`]: a client for its listener.
//! - [`wait_until`]: no test sleeps and hopes.
//!
//! Everything is bounded; a bound that passes is a panic that says what was waited for.

// Each test binary uses a part of this.
#![allow(dead_code, unused_imports)]
// A test that cannot go on panics, and spawns as it likes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod client;
mod daemon;
mod database;
pub mod http;
mod private;
mod proxy;
mod server;
mod wait;

pub use client::{TestClient, connect};
pub use daemon::{Daemon, Setup, free_port};
pub use database::{Role, Template, TestDatabase};
pub use private::PrivateServer;
pub use proxy::Proxy;
pub use server::{TestServer, background, server};
pub use wait::{BOUND, wait_for, wait_until};
