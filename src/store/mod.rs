//! Stub.

pub mod audit;
pub mod history;
pub mod partitions;
