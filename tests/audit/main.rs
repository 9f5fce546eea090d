//! Seals and proofs. Each test has its own server, because a seal waits for the oldest transaction of
//! the whole server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod daemon;
mod epochs;
mod fixture;
#[path = "../harness/mod.rs"]
mod harness;
mod holds;
mod proofs;
mod tampering;
mod transactions;
