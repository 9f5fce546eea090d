//! The jobs that keep tables, on a real server: partitions, retention, vacuum, refresh.

mod harness;
#[path = "maintenance/bench.rs"]
mod bench;
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
