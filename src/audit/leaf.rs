//! A row of the trail as bytes, and their hash: pure. Version 1.
//!
//! ```text
//! data = for each field in the order of [`FIELDS`]:
//!            length of its text in bytes, 4 bytes big-endian, then the text in UTF-8
//!            or FF FF FF FF for null
//! leaf = SHA-256(0x00 ‖ data)
//! ```
//! Everything is text, so that any language can make the same bytes: `id` in lower case with hyphens,
//! `created_at` as microseconds since 1970 in UTC, `ip_address` with its prefix length
//! (`192.0.2.1/32`), and JSON as PostgreSQL writes `jsonb`.

use sha2::{Digest, Sha256};

use super::merkle::Hash;
use crate::store::trail::TrailRow;

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

/// The hash of a row.
pub fn hash(row: &TrailRow) -> Hash {
    let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
    let id: &str = row.id().hyphenated().encode_lower(&mut id);
    let mut created_at = Decimal::default();
    let first = [Some(id), Some(created_at.write(row.created_at_us()))];
    hash_fields(first.into_iter().chain(row.texts()))
}

/// The hash of fields.
pub fn hash_fields<'a>(fields: impl Iterator<Item = Option<&'a str>>) -> Hash {
    // One call for all of a row: most are small, and each call of the hash costs.
    let mut data = Vec::with_capacity(512);
    data.push(0x00);
    append(&mut data, fields);
    Sha256::digest(&data).into()
}

/// Appends fields, each with its length.
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

/// A number as text, without an allocation.
#[derive(Default)]
struct Decimal([u8; 20]);

impl Decimal {
    fn write(&mut self, number: i64) -> &str {
        let mut rest = number.unsigned_abs();
        let mut at = self.0.len();
        loop {
            at -= 1;
            self.0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            self.0[at] = b'-';
        }
        std::str::from_utf8(&self.0[at..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::hex;

    #[test]
    fn numbers_are_written_as_decimals() {
        for number in [0, 1, 9, 10, 1_764_205_325_123_456, i64::MAX, -1, i64::MIN] {
            assert_eq!(Decimal::default().write(number), number.to_string());
        }
    }

    /// Made by Python's hashlib and struct from the description above.
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
        // An empty text is not a null one.
        let without = event.map(|field| field.filter(|text| !text.is_empty()));
        assert_ne!(hash_fields(without.into_iter()), leaf);
    }
}
