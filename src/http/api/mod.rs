//! The authenticated API: reads of a database, and mutations.
//!
//! ```text
//! read        one short transaction on a connection of the purpose `api`
//! mutation    a task of its own: one transaction with key, effect, audit row and stored reply
//! ```
//! Work that takes longer than a request is queued in the ledger, and the response has the id of the
//! run. The leader performs it, whichever instance received the request.

pub mod audit;
pub mod cleanup;
pub mod database;
pub mod events;
pub mod history;
mod idempotency_key;
mod input;
pub mod jobs;
pub mod migrations;
mod mutation;
pub mod optimize;
mod queue_run;
mod run_lookup;
mod run_response;
pub mod runs;
pub mod statistics;
mod stream;
mod table_names;
pub mod whoami;
