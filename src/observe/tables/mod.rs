//! What the catalog says about the tables that jobs work on.
//!
//! Each function is one bounded read inside the caller's transaction and answers with plain data.
//! Instants are ISO text in UTC (the caller's transaction sets `datestyle` and `timezone`), not a Rust
//! type: `infinity`, microseconds and dates before Christ then survive the way there and back.

pub mod identity;
pub mod partitions;
pub mod pressure;
pub mod references;
pub mod relation;
pub mod vacuum;
pub mod views;
