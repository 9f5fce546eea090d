//! Stub.

pub mod tables;
