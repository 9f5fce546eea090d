//! The proof that a row was sealed as it is: what a third party needs beside a head that it trusts.

use serde::Serialize;
use uuid::Uuid;

use super::chain::{self, Head};
use super::{hex, leaf, merkle, seal};
use crate::db::{Error, Tx};
use crate::store::seals::{self, Seal};
use crate::store::trail::{self, TrailRow};

/// Entries in one proof: some hundred bytes each, three months at one a minute.
const LINKS_MAX: i64 = 130_000;

/// A proof. `scripts/check-proof.py` and the README say how it is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Of the bytes that are hashed.
    pub algorithm: i32,
    /// The names of the row's fields, in the order in which they are hashed.
    pub fields: [&'static str; 16],
    /// The row: each field as the text that is hashed.
    pub row: Vec<Option<String>>,
    /// The row's leaf, its place among the leaves of its seal, and how many these are.
    pub leaf: String,
    pub index: u64,
    pub size: u64,
    /// From the leaf to the root, the nearest hash first.
    pub path: Vec<String>,
    pub root: String,
    /// The entry of the chain that holds the root: its fields as they are hashed, and its head.
    pub entry: Vec<Option<String>>,
    pub head: String,
    /// The entries after it that were asked for: they lead to a later head.
    pub then: Vec<Link>,
}

/// An entry that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub entry: Vec<Option<String>>,
    pub head: String,
}

/// What came of asking for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Proven(Box<Proof>),
    /// There is no such row (any more).
    NoRow,
    /// No seal covers it yet.
    Unsealed,
    /// The entry that should hold it holds another row, or its leaves were altered.
    Refuted {
        entry: i64,
    },
}

/// Proves a row, with the entries that follow up to this number.
pub async fn prove(tx: &Tx<'_>, id: Uuid, to: Option<i64>) -> Result<Outcome, Error> {
    let Some(row) = trail::by_id(tx, id).await? else { return Ok(Outcome::NoRow) };
    let mut refuted = None;
    for sealed in seals::that_may_hold(tx, row.place()?).await? {
        let leaves = seal::leaves(&seals::leaves(tx, sealed.number).await?.unwrap_or_default());
        let Some(index) = leaves.iter().position(|leaf| leaf.id == id) else { continue };
        let hashes: Vec<merkle::Hash> = leaves.iter().map(|leaf| leaf.hash).collect();
        let root = sealed.what.rows().map(|rows| rows.root);
        if hashes[index] != leaf::hash(&row) || root != Some(merkle::root(&hashes)) {
            refuted = Some(sealed.number);
            continue;
        }
        let path = merkle::path(&hashes, index).unwrap_or_default();
        let links = to.map_or(0, |to| to.saturating_sub(sealed.number)).clamp(0, LINKS_MAX);
        let then = seals::after(tx, sealed.number, links).await?;
        return Ok(Outcome::Proven(Box::new(proof(
            &row,
            &sealed,
            index,
            hashes.len(),
            &path,
            &then,
        ))));
    }
    Ok(refuted.map_or(Outcome::Unsealed, |entry| Outcome::Refuted { entry }))
}

fn proof(
    row: &TrailRow,
    sealed: &Seal,
    index: usize,
    size: usize,
    path: &[merkle::Hash],
    then: &[Seal],
) -> Proof {
    let first = [Some(row.id().to_string()), Some(row.created_at_us().to_string())];
    let rest = row.texts().map(|text| text.map(str::to_owned));
    Proof {
        algorithm: sealed.algorithm,
        fields: leaf::FIELDS,
        row: first.into_iter().chain(rest).collect(),
        leaf: hex(leaf::hash(row)),
        index: index as u64,
        size: size as u64,
        path: path.iter().map(hex).collect(),
        root: sealed.what.rows().map(|rows| hex(rows.root)).unwrap_or_default(),
        entry: chain::fields(sealed).into(),
        head: Head::of(sealed).to_string(),
        then: then
            .iter()
            .map(|seal| Link {
                entry: chain::fields(seal).into(),
                head: Head::of(seal).to_string(),
            })
            .collect(),
    }
}
