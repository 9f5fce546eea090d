//! SQL of an operator's own on a real server, through the runner: what commits, what is left, what is told.

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "sql_jobs/statements.rs"]
mod statements;
mod harness;
#[path = "sql_jobs/leaks.rs"]
mod leaks;
#[path = "sql_jobs/login.rs"]
mod login;
#[path = "sql_jobs/stage.rs"]
mod stage;
#[path = "sql_jobs/stops.rs"]
mod stops;
#[path = "sql_jobs/transaction.rs"]
mod transaction;
