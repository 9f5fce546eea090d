//! The chain of seals: what the head of an entry is made of, and heads as people hand them on. Version 1.
//!
//! ```text
//! head = SHA-256(0x02 ‖ fields as in a leaf)
//! fields: "pgsteward audit seal", algorithm, number, kind, epoch, xid_from, id_from, xid_below, id_below,
//!         row_count, first_at, last_at, root, cutoff, previous, sealed_at, sealed_by
//! ```
//! Times are microseconds since 1970, hashes lower-case hexadecimal, what an entry has not is null. The
//! head of one entry is the `previous` of the next, so that any head commits to everything before it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use super::merkle::Hash;
use super::{hex, leaf};
use crate::store::seals::{Seal, What};

/// The version of the bytes that are hashed now.
pub const ALGORITHM: i32 = 1;

/// The head of an entry.
pub fn head(seal: &Seal) -> Hash {
    let mut data = vec![0x02];
    leaf::append(&mut data, fields(seal).iter().map(Option::as_deref));
    Sha256::digest(&data).into()
}

/// The fields of an entry, as they are hashed.
pub fn fields(seal: &Seal) -> [Option<String>; 17] {
    let micros = |at: DateTime<Utc>| at.timestamp_micros().to_string();
    let rows = seal.what.rows();
    let cutoff = match &seal.what {
        What::Purge { cutoff } => Some(micros(*cutoff)),
        What::Rows(_) | What::Adopted(_) => None,
    };
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
        cutoff,
        seal.previous.as_ref().map(hex),
        Some(micros(seal.sealed_at)),
        Some(seal.sealed_by.clone()),
    ]
}

/// A head with its number: what is published, and what a chain is held against. As text `57:9f86d0…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub number: i64,
    pub hash: Hash,
}

impl Head {
    /// Of an entry, as it stands in the chain.
    pub fn of(seal: &Seal) -> Head {
        Head { number: seal.number, hash: seal.head }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, hex(self.hash))
    }
}

/// Why a text is no head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, wanted NUMBER:HASH with 64 hexadecimal digits, as it was published")]
pub struct NoHead(String);

impl FromStr for Head {
    type Err = NoHead;

    fn from_str(text: &str) -> Result<Head, NoHead> {
        let none = || NoHead(text.chars().take(100).collect());
        let (number, hash) = text.trim().split_once(':').ok_or_else(none)?;
        let number = number.parse().ok().filter(|number| *number >= 1).ok_or_else(none)?;
        Ok(Head { number, hash: unhex(hash).ok_or_else(none)? })
    }
}

/// A hash from 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seals::Rows;
    use crate::store::trail::Place;
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
            what: What::Rows(Rows {
                from: Place { xid: 1200, id: Uuid::nil() },
                below: Place { xid: 1300, id: Uuid::from_u128(1) },
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

    /// Made by Python's hashlib and struct from the description above.
    #[test]
    fn the_bytes_are_those_of_version_1() {
        let wanted = "aff862bbe9bd76390a20392f6bb2bdeabde86f9030d9405f2416e8da64cc0224";
        assert_eq!(hex(head(&seal())), wanted);
    }

    #[test]
    fn whatever_an_entry_says_is_in_its_head() {
        type Change = fn(&mut Seal);
        let changes: [(&str, Change); 12] = [
            ("number", |seal| seal.number += 1),
            ("epoch", |seal| seal.epoch.push('0')),
            ("count", |seal| seal.row_count += 1),
            ("previous", |seal| seal.previous = None),
            ("algorithm", |seal| seal.algorithm += 1),
            ("sealed_at", |seal| seal.sealed_at = at(1)),
            ("sealed_by", |seal| seal.sealed_by.clear()),
            ("from", |seal| {
                if let What::Rows(rows) = &mut seal.what {
                    rows.from.xid += 1;
                }
            }),
            ("below", |seal| {
                if let What::Rows(rows) = &mut seal.what {
                    rows.below.id = Uuid::nil();
                }
            }),
            ("first", |seal| {
                if let What::Rows(rows) = &mut seal.what {
                    rows.first_at = at(1);
                }
            }),
            ("root", |seal| {
                if let What::Rows(rows) = &mut seal.what {
                    rows.root[31] ^= 1;
                }
            }),
            ("kind", |seal| {
                if let What::Rows(rows) = &seal.what {
                    seal.what = What::Adopted(rows.clone());
                }
            }),
        ];
        let mut heads: Vec<Hash> = vec![head(&seal())];
        for (what, change) in changes {
            let mut changed = seal();
            change(&mut changed);
            let head = head(&changed);
            assert!(!heads.contains(&head), "{what}");
            heads.push(head);
        }
        let purge = |cutoff| head(&Seal { what: What::Purge { cutoff: at(cutoff) }, ..seal() });
        assert_ne!(purge(1), purge(2));
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
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
