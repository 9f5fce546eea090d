//! Seals the audit log, verifies it, and proves single rows to third parties.
//!
//! ```text
//! steward.log_audit_event ─┐
//! row triggers ────────────┼─► audit_logs ─ seal ─► leaves ─ Merkle root ─► chain ─► heads
//! acts of the daemon ──────┘        └─── verify ◄─────┴──────────┴───────────┴────► proofs
//! ```
//! [`record`] writes an act of the daemon in the transaction of that act. Applications use the SQL
//! function `steward.log_audit_event` and the triggers of `steward.audit_table`; see
//! `migrations/steward`.
//!
//! Commits hash nothing. The sealer takes rows of transactions below the oldest running one, to
//! which no row can be added any more. With a head, anyone can check the seals in a few lines of
//! any language: [`leaf`], [`merkle`] and [`chain`] describe the hashed bytes.

pub mod chain;
pub mod leaf;
pub mod merkle;
pub mod prove;
pub mod publish;
pub mod seal;
pub mod verify;

pub use crate::store::audit::{Event, record};
pub use chain::Head;

/// Encodes bytes as lower-case hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
