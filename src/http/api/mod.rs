//! The authenticated API: what the database itself is asked, and what it is asked to do.
//!
//! ```text
//! reads      one short transaction over a connection of the purpose `api`
//! changes    a task of its own: [ idempotency key ─ effect ─ audit row ─ answer ] one transaction
//! ```
//! Work that takes longer than a request is asked for through the ledger, and answered with the run's id: a client
//! that hangs up cuts nothing short, and the instance that observes does it, wherever the request arrived.

mod mutation;
pub mod audit;
pub mod cleanup;
pub mod database;
pub mod events;
pub mod history;
mod input;
pub mod jobs;
pub mod migrations;
pub mod optimize;
pub mod runs;
pub mod statistics;
mod stream;
pub mod whoami;
