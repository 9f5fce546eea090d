//! Proves that a row is as it was sealed, to a third party that trusts a head.

use serde::Serialize;
use uuid::Uuid;

use super::chain::{self, Head};
use super::merkle::Hash;
use super::{hex, leaf, merkle, seal};
use crate::db::{Error, Tx};
use crate::store::audit_rows::{self, AuditRow};
use crate::store::seals::{self, Seal};

/// Entries in one proof. Each takes some hundred bytes; this many cover three months at one a
/// minute.
const ENTRIES_MAX: i64 = 130_000;

/// A proof. `scripts/check-proof.py` and `docs/audit.md` show how to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The version of the hashed bytes.
    pub algorithm: i32,
    /// The names of the row's fields, in the order in which they are hashed.
    pub fields: [&'static str; 16],
    /// The row: the text of each field as it is hashed.
    pub row: Vec<Option<String>>,
    /// The leaf of the row, its index among the leaves of its seal, and their number.
    pub leaf: String,
    pub index: u64,
    pub size: u64,
    /// The hashes from the leaf to the root, the nearest first.
    pub path: Vec<String>,
    pub root: String,
    /// The fields of the entry that holds the root, as they are hashed, and its head.
    pub entry: Vec<Option<String>>,
    pub head: String,
    /// The entries that lead from this entry to a later head, as requested.
    pub then: Vec<Link>,
}

/// A later entry of the chain: its fields as they are hashed, and its head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub entry: Vec<Option<String>>,
    pub head: String,
}

impl Link {
    fn of(seal: &Seal) -> Link {
        Link { entry: chain::fields(seal).into(), head: Head::of(seal).to_string() }
    }
}

/// The result of [`prove`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofResult {
    Proven(Box<Proof>),
    /// The row does not exist, or no longer.
    NoRow,
    /// No seal covers the row yet.
    Unsealed,
    /// The entry that should hold the row holds another one, or its leaves were altered.
    Refuted {
        entry: i64,
    },
}

/// Proves a row. The proof includes the entries after the row's seal, up to the entry `to`.
pub async fn prove(tx: &Tx<'_>, id: Uuid, to: Option<i64>) -> Result<ProofResult, Error> {
    let Some(row) = audit_rows::by_id(tx, id).await? else { return Ok(ProofResult::NoRow) };
    let mut refuted = None;
    for sealed in seals::candidates_for(tx, row.position()?).await? {
        let leaves = seal::leaves(&seals::leaves(tx, sealed.number).await?.unwrap_or_default());
        let Some(index) = leaves.iter().position(|leaf| leaf.id == id) else { continue };
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf.hash).collect();
        let root = merkle::root(&hashes);
        let sealed_root = sealed.what.rows().map(|rows| rows.root);
        if hashes[index] != leaf::hash(&row) || sealed_root != Some(root) {
            refuted = Some(sealed.number);
            continue;
        }
        let count = to.map_or(0, |to| to.saturating_sub(sealed.number)).clamp(0, ENTRIES_MAX);
        let later = seals::after(tx, sealed.number, count).await?;
        let Link { entry, head } = Link::of(&sealed);
        return Ok(ProofResult::Proven(Box::new(Proof {
            algorithm: sealed.algorithm,
            fields: leaf::FIELDS,
            row: fields(&row),
            leaf: hex(hashes[index]),
            index: index as u64,
            size: hashes.len() as u64,
            path: merkle::inclusion_path(&hashes, index).iter().flatten().map(hex).collect(),
            root: hex(root),
            entry,
            head,
            then: later.iter().map(Link::of).collect(),
        })));
    }
    Ok(refuted.map_or(ProofResult::Unsealed, |entry| ProofResult::Refuted { entry }))
}

/// The fields of a row as they are hashed.
fn fields(row: &AuditRow) -> Vec<Option<String>> {
    let first = [Some(row.id().to_string()), Some(row.created_at_us().to_string())];
    first.into_iter().chain(row.texts().map(|text| text.map(str::to_owned))).collect()
}
