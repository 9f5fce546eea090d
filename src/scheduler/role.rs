//! Whether this instance observes the database.

use std::time::Instant;

/// What the lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Not asked yet, or not answered.
    Unknown,
    /// Another instance does.
    Standby { holder: String },
    /// This one does, and may believe so until then.
    Leader { epoch: i64, until: Instant },
    /// There are no leases to hold, since the schema is missing: measure, write nothing.
    Alone,
}

impl Role {
    /// Whether it claims what is due.
    pub fn is_leader(&self) -> bool {
        matches!(self, Role::Leader { .. })
    }

    /// Whether the server is looked at, beside asking it for an answer.
    pub fn looks(&self) -> bool {
        matches!(self, Role::Leader { .. } | Role::Alone)
    }

    /// Whether there are tables to write into.
    pub fn writes(&self) -> bool {
        matches!(self, Role::Leader { .. } | Role::Standby { .. })
    }
}
