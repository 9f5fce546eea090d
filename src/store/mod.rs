//! All SQL on pgsteward's own tables, in the schema `steward`: row types in, row types out.
//!
//! One file per table or pair of tables. The SQL stands beside the function that owns it and names
//! every object with its schema, since connections pin a `search_path` without it.

pub mod audit;
pub mod claims;
pub mod audit_query;
pub mod measurements;
pub mod schema_migrations;
pub mod holds;
pub mod idempotency;
pub mod audit_ingest;
pub mod leases;
pub mod time_arg;
pub mod measurement_query;
pub mod orphans;
pub mod overview;
pub mod partitions;
pub mod pauses;
pub mod pruning;
pub mod requests;
pub mod retirements;
pub mod run_history;
pub mod runs;
pub mod seals;
pub mod audit_rows;
