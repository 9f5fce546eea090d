//! The chain of seals: the hash of an entry, and heads as they are handed to third parties. Version
//! 1.
//!
//! ```text
//! head = SHA-256(0x02 ‖ fields, encoded as in a leaf)
//! fields: "pgsteward audit seal", algorithm, number, kind, epoch, xid_from, id_from, xid_below,
//!         id_below, row_count, first_at, last_at, root, cutoff, previous, sealed_at, sealed_by
//! ```
//! Times are microseconds since 1970, hashes are lower-case hexadecimal, and fields that an entry
//! does not have are null. The head of an entry is the `previous` of the next one, so a head
//! commits to all entries before it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::merkle::Hash;
use super::{hex, leaf};
use crate::store::seals::Seal;

/// The current version of the hashed bytes.
pub const ALGORITHM: i32 = 1;

/// Computes the head of an entry.
pub fn head(seal: &Seal) -> Hash {
    let mut data = vec![0x02];
    leaf::append(&mut data, fields(seal).iter().map(Option::as_deref));
    Sha256::digest(&data).into()
}

/// The fields of an entry as they are hashed.
pub fn fields(seal: &Seal) -> [Option<String>; 17] {
    let micros = |at: DateTime<Utc>| at.timestamp_micros().to_string();
    let rows = seal.what.rows();
    [
        Some("pgsteward audit seal".to_owned()),
        Some(seal.algorithm.to_string()),
        Some(seal.number.to_string()),
        Some(seal.what.kind().to_owned()),
        Some(seal.epoch.clone()),
        rows.map(|rows| rows.from.xid.to_string()),
        rows.map(|rows| rows.from.id.to_string()),
        rows.map(|rows| rows.below.xid.to_string()),
        rows.map(|rows| rows.below.id.to_string()),
        Some(seal.row_count.to_string()),
        rows.map(|rows| micros(rows.first_at)),
        rows.map(|rows| micros(rows.last_at)),
        rows.map(|rows| hex(rows.root)),
        seal.what.cutoff().map(micros),
        seal.previous.as_ref().map(hex),
        Some(micros(seal.sealed_at)),
        Some(seal.sealed_by.clone()),
    ]
}

/// A head with the number of its entry, as it is published and compared. Its text is `57:9f86d0…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub number: i64,
    pub hash: Hash,
}

impl Head {
    /// The head that is stored with an entry.
    pub fn of(seal: &Seal) -> Head {
        Head { number: seal.number, hash: seal.head }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, hex(self.hash))
    }
}

/// A text that is not a head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a published head, NUMBER:HASH with 64 hexadecimal digits, found {0:?}")]
pub struct ParseHeadError(String);

impl FromStr for Head {
    type Err = ParseHeadError;

    fn from_str(text: &str) -> Result<Head, ParseHeadError> {
        let parse = || {
            let (number, hash) = text.trim().split_once(':')?;
            let number = number.parse().ok().filter(|number| *number >= 1)?;
            Some(Head { number, hash: unhex(hash)? })
        };
        parse().ok_or_else(|| ParseHeadError(text.chars().take(100).collect()))
    }
}

/// Decodes a hash from 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<Hash> {
    // from_str_radix accepts a sign, too.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::audit_rows::SealPosition;
    use crate::store::seals::{SealContent, SealedRows};
    use uuid::Uuid;

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    fn seal() -> Seal {
        let root =
            unhex("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d").unwrap();
        let previous = unhex("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
        Seal {
            number: 7,
            epoch: "7412345678901234567/1".into(),
            what: SealContent::Rows(SealedRows {
                from: SealPosition { xid: 1200, id: Uuid::nil() },
                below: SealPosition { xid: 1300, id: Uuid::from_u128(1) },
                first_at: at(1_796_000_000_000_000),
                last_at: at(1_796_000_060_000_000),
                root,
            }),
            row_count: 3,
            previous,
            head: [0; 32],
            algorithm: ALGORITHM,
            sealed_at: at(1_796_000_061_000_001),
            sealed_by: "host/1/abc".into(),
        }
    }

    /// The expected hash was computed with Python's hashlib and struct from the description above.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let expected = "aff862bbe9bd76390a20392f6bb2bdeabde86f9030d9405f2416e8da64cc0224";
        assert_eq!(hex(head(&seal())), expected);
    }

    #[test]
    fn every_field_of_an_entry_changes_its_head() {
        type Alter = fn(&mut Seal);
        let changes: [(&str, Alter); 12] = [
            ("number", |seal| seal.number += 1),
            ("epoch", |seal| seal.epoch.push('0')),
            ("count", |seal| seal.row_count += 1),
            ("previous", |seal| seal.previous = None),
            ("algorithm", |seal| seal.algorithm += 1),
            ("sealed_at", |seal| seal.sealed_at = at(1)),
            ("sealed_by", |seal| seal.sealed_by.clear()),
            ("from", |seal| {
                if let SealContent::Rows(rows) = &mut seal.what {
                    rows.from.xid += 1;
                }
            }),
            ("below", |seal| {
                if let SealContent::Rows(rows) = &mut seal.what {
                    rows.below.id = Uuid::nil();
                }
            }),
            ("first", |seal| {
                if let SealContent::Rows(rows) = &mut seal.what {
                    rows.first_at = at(1);
                }
            }),
            ("root", |seal| {
                if let SealContent::Rows(rows) = &mut seal.what {
                    rows.root[31] ^= 1;
                }
            }),
            ("kind", |seal| {
                if let SealContent::Rows(rows) = &seal.what {
                    seal.what = SealContent::Adopted(rows.clone());
                }
            }),
        ];
        let mut heads: Vec<Hash> = vec![head(&seal())];
        for (field, change) in changes {
            let mut changed = seal();
            change(&mut changed);
            let head = head(&changed);
            assert!(!heads.contains(&head), "{field}");
            heads.push(head);
        }
        let purge =
            |cutoff| head(&Seal { what: SealContent::Purge { cutoff: at(cutoff) }, ..seal() });
        assert_ne!(purge(1), purge(2));
    }

    #[test]
    fn a_head_is_parsed_from_its_text() {
        let head = Head { number: 57, hash: seal().previous.unwrap() };
        assert_eq!(head.to_string().parse(), Ok(head));
        assert_eq!(format!(" {head}\n").parse(), Ok(head));
        assert_eq!(head.to_string().to_uppercase().parse(), Ok(head));
        for wrong in [
            "",
            "57",
            "57:",
            ":ab",
            "0:00",
            "-1:00",
            &head.to_string()[..60],
            &format!("{head}0"),
            "x:é",
        ] {
            assert!(wrong.parse::<Head>().is_err(), "{wrong}");
        }
    }
}
