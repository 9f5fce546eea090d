//! The bytes of an audit log row and their hash. Pure. Version 1.
//!
//! ```text
//! data = for each field in the order of [`FIELDS`]:
//!            length of its text in bytes, 4 bytes big-endian, then the text in UTF-8
//!            or FF FF FF FF for null
//! leaf = SHA-256(0x00 ‖ data)
//! ```
//! Every field is text, so that any language can produce the same bytes: `id` in lower case with
//! hyphens, `created_at` as microseconds since 1970 in UTC, `ip_address` with its prefix length
//! (`192.0.2.1/32`), and JSON as PostgreSQL prints `jsonb`.

use sha2::{Digest, Sha256};

use super::merkle::Hash;
use crate::store::audit_rows::AuditRow;

/// The fields of a row, in the order in which they are hashed.
pub const FIELDS: [&str; 16] = [
    "id",
    "created_at",
    "user_id",
    "actor",
    "session_user_name",
    "action",
    "resource_type",
    "resource_id",
    "old_values",
    "new_values",
    "ip_address",
    "user_agent",
    "request_id",
    "source",
    "xid",
    "details",
];

/// Computes the leaf of a row.
pub fn hash(row: &AuditRow) -> Hash {
    let (id, created_at) = (row.id().to_string(), row.created_at_us().to_string());
    let first = [Some(id.as_str()), Some(created_at.as_str())];
    hash_fields(first.into_iter().chain(row.texts()))
}

/// Computes a leaf from the fields of a row.
fn hash_fields<'a>(fields: impl Iterator<Item = Option<&'a str>>) -> Hash {
    // The whole row is hashed by one call, because rows are small and each call has a cost.
    let mut data = Vec::with_capacity(512);
    data.push(0x00);
    append(&mut data, fields);
    Sha256::digest(&data).into()
}

/// Appends fields, each after its length.
pub(super) fn append<'a>(data: &mut Vec<u8>, fields: impl Iterator<Item = Option<&'a str>>) {
    for field in fields {
        match field {
            Some(text) => {
                data.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                data.extend(text.as_bytes());
            }
            None => data.extend([0xFF; 4]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::hex;

    /// The expected hash was computed with Python's hashlib and struct from the description above.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let event = [
            Some("01a21a97-05e3-7685-9433-1c2e3e46558e"),
            Some("1796000000123456"),
            Some("user-123"),
            Some("app"),
            Some("app"),
            Some("user.login"),
            Some("session"),
            Some("s-9"),
            None,
            Some(r#"{"name": "Grüße", "mfa": true}"#),
            Some("192.0.2.1/32"),
            Some(""),
            None,
            Some("application"),
            Some("4242"),
            None,
        ];
        assert_eq!(event.len(), FIELDS.len());
        let leaf = hash_fields(event.into_iter());
        assert_eq!(hex(leaf), "fa07c53d89c271a6a7ca748030c91b5c4c42055e1fb95c68c9b31e1dffad7cd1");
        // An empty text differs from null.
        let without = event.map(|field| field.filter(|text| !text.is_empty()));
        assert_ne!(hash_fields(without.into_iter()), leaf);
    }
}
