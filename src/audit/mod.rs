//! What was done, by whom, and the proof that nobody changed the record since.
//!
//! ```text
//! steward.log_audit_event ─┐
//! row triggers ────────────┼─► audit_logs ─ sealer ─► leaves ─ Merkle root ─► chain ─► head, published
//! the daemon's own acts ───┘        └──── verify ◄─────┴──────────┴────────────┴──────► proof of a row
//! ```
//! [`record`] writes the daemon's own acts, in the transaction of the act. Applications use the SQL function
//! `steward.log_audit_event` and the triggers of `steward.audit_table`; see `migrations/steward`.
//!
//! Nothing is hashed while somebody commits. The sealer takes rows whose transactions can have no company
//! any more, and what it wrote can be checked by anybody who has the head and thirty lines of any language:
//! the bytes are described in [`leaf`], [`merkle`] and [`chain`].

pub mod chain;
pub mod leaf;
pub mod merkle;
pub mod prove;
pub mod publish;
pub mod seal;
pub mod verify;

pub use crate::store::audit::{Event, record};
pub use chain::Head;

/// Lower-case hexadecimal.
pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    bytes.as_ref().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
