//! pgsteward keeps a PostgreSQL database's house.
//!
//! # Bird's eye
//! One process, one or more databases. At start it applies versioned migrations; then one
//! instance per database (the *observer*, elected by a leased row on the database's clock) takes
//! measurements and runs jobs, and every instance answers HTTP from memory.
//!
//! ```text
//! config ─► db ─► migrate ─► schedule ─► jobs ─► store      (what changes the database)
//!                    │           └─► observe ─► health       (what is true of it)
//!                    └──────────────────────────► http       (who is told, from memory)
//! ```
//!
//! # Reading order, and the import rule
//! The modules below stand in reading order, and **a module uses only modules above it**;
//! `tests/tidy` reads this file and fails on any `use` that points down. Single doors:
//! rustls only in `db/tls.rs`, `http/tls.rs` and `webhook/tls.rs`; outgoing HTTP only in `webhook`; the
//! cron crate only in `scheduler/ticker.rs`; SQL on pgsteward's own tables only in `store/`; catalog SQL only in
//! `observe/`; every job run through `scheduler/runner.rs`; every spawn through `lifecycle`.
//!
//! ARCHITECTURE.md walks through the house with its invariants.

// Where SQL's statements begin and end.
pub mod sql;
// The bundled migration sets, each with a manifest of the work that its tables need.
pub mod sets;
// What an operator may say, checked whole before anything happens.
pub mod config;
// Logs and pgsteward's own metrics.
pub mod telemetry;
// Signals, the only spawn, the bounded drain, and systemd's notifications.
pub mod lifecycle;
// The only door for outgoing HTTP.
pub mod webhook;
// Reaching a PostgreSQL server: connections, pools, transactions, proven cancels, error kinds.
pub mod db;
// All SQL on pgsteward's own tables.
pub mod store;
// What was done, by whom.
pub mod audit;
// What the server tells about itself, as plain data.
pub mod observe;
// Versioned SQL files: plan, lock, apply, verify, roll back.
pub mod migrate;
// Measurements judged into a status, and the board that holds the current truth.
pub mod health;
// What can run.
pub mod jobs;
// When it runs, who runs it, and how it ended.
pub mod scheduler;
// The listener: probes, health and metrics, from memory.
pub mod http;
// The only wiring: start, reload, systemd, stop.
pub mod daemon;
// One file per subcommand.
pub mod cli;
