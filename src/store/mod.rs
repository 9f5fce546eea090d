//! All SQL on pgsteward's own tables.

pub mod health;
