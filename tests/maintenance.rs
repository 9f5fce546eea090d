//! The jobs that keep tables, on a real server: partitions, retention, vacuum, refresh.

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "maintenance/bench.rs"]
mod bench;
#[path = "maintenance/certified.rs"]
mod certified;
#[path = "maintenance/concurrent.rs"]
mod concurrent;
mod harness;
#[path = "maintenance/holds.rs"]
mod holds;
#[path = "maintenance/partitions.rs"]
mod partitions;
#[path = "maintenance/refresh.rs"]
mod refresh;
#[path = "maintenance/retention.rs"]
mod retention;
#[path = "maintenance/retiring.rs"]
mod retiring;
#[path = "maintenance/vacuum.rs"]
mod vacuum;
