//! pgsteward keeps a PostgreSQL database in order.
//!
//! # Overview
//! One process serves one or more databases. At start it applies versioned migrations. Then one
//! instance per database, the *leader*, measures the database and runs its jobs; a lease on the
//! database's clock elects it. Every instance answers HTTP from memory.
//!
//! ```text
//! config ─► db ─► migrate ─► scheduler ─► jobs ─► store      (changes of the database)
//!                    │           └─► observe ─► health       (its state)
//!                    └──────────────────────────► http       (answers from memory)
//! ```
//!
//! # Reading order, and the import rule
//! The modules below stand in reading order, and **a module uses only modules above it**.
//! `tests/tidy` reads this file and fails on any `use` that points down. Single doors: rustls only
//! in `db/tls.rs`, `http/tls.rs` and `webhook/tls.rs`; outgoing HTTP only in `webhook`; the cron
//! crate only in `scheduler/ticker.rs`; SQL on pgsteward's own tables only in `store`; catalog SQL
//! only in `observe`; every job run through `scheduler/runner.rs`; every spawn through `lifecycle`.
//!
//! ARCHITECTURE.md has the glossary, the invariants, and walks through the code.

// The statements of an SQL script: where they begin and end.
pub mod sql;
// The bundled migration sets, each with a manifest of the work that its tables need.
pub mod sets;
// The configuration, validated completely before anything starts.
pub mod config;
// Logs and pgsteward's own metrics.
pub mod telemetry;
// Signals, the only spawn, the bounded drain, and systemd's notifications.
pub mod lifecycle;
// The only door for outgoing HTTP.
pub mod webhook;
// Connections to PostgreSQL: pools, transactions, confirmed cancels, kinds of error.
pub mod db;
// All SQL on pgsteward's own tables.
pub mod store;
// The audit log: acts of the daemon, seals, verification, proofs.
pub mod audit;
// All SQL on catalogs and statistics, returned as plain data.
pub mod observe;
// Versioned SQL files: plan, lock, apply, verify, roll back.
pub mod migrate;
// Measurements become a status, and the board holds the latest one.
pub mod health;
// The work of each job.
pub mod jobs;
// When jobs run, who runs them, and how runs end.
pub mod scheduler;
// The HTTP listener: probes, health and metrics from memory, and the API.
pub mod http;
// The only wiring: start, reload, systemd, stop.
pub mod daemon;
// One file per subcommand.
pub mod cli;
