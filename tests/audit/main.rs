//! Seals and proofs, on servers of the tests' own: a seal waits for the oldest transaction of the whole server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod daemon;
mod epochs;
#[path = "../harness/mod.rs"]
mod harness;
mod holds;
mod proofs;
mod stage;
mod tampering;
mod transactions;
