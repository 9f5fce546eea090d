//! What was done, by whom: the daemon's own acts, recorded in the transaction of the act.
//!
//! Applications record theirs by the SQL function `steward.log_audit_event` and by row triggers that
//! `steward.audit_table` installs; see `migrations/steward`.

pub use crate::store::audit::{Event, record};
