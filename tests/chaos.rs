//! Jobs under bad luck, on real servers with the built binary: whatever dies, every due instant is
//! accounted for once, and every effect belongs to the one run that the ledger says succeeded.
//!
//! A test brings a run to a certain point by a [`stage::Gate`], which the database holds for it, does
//! the harm there, waits until the jobs run again, and has the [`account`] checked.

// A test that cannot go on panics, and spawns as it likes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "chaos/account.rs"]
mod account;
#[path = "chaos/commits.rs"]
mod commits;
#[path = "chaos/deaths.rs"]
mod deaths;
#[path = "chaos/fleet.rs"]
mod fleet;
#[path = "chaos/freezes.rs"]
mod freezes;
mod harness;
#[path = "chaos/locks.rs"]
mod locks;
#[path = "chaos/network.rs"]
mod network;
#[path = "chaos/shutdown.rs"]
mod shutdown;
#[path = "chaos/stage.rs"]
mod stage;
#[path = "chaos/stubborn.rs"]
mod stubborn;
#[path = "chaos/unfenced.rs"]
mod unfenced;
