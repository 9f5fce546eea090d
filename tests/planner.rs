//! When a schedule is due, and what a window holds, against oracles that know nothing of the code.
//!
//! Every case is drawn by a seed, which a failure tells beside the zone and the schedule.

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "planner/clocks.rs"]
mod clocks;
#[path = "planner/drawn.rs"]
mod drawn;
#[path = "planner/systemd.rs"]
mod systemd;
#[path = "planner/walk.rs"]
mod walk;
#[path = "planner/windows.rs"]
mod windows;
#[path = "planner/zones.rs"]
mod zones;
