//! Verification: the trail and its seals held against each other, and against a head from outside.
//!
//! ```text
//! chain    each entry's head is the hash of what it says, and the previous of the next
//! leaves   each entry's leaves give its root                     what was sealed
//! rows     each row that is there gives its leaf                 altered? missing? added?
//! outside  the chain holds the heads that were published         sealed again?
//! ```
//! Rows that a purge in the chain covers may be gone. Memory is bounded by one entry's rows; each entry is
//! read in a transaction of its own, so that no snapshot is held for the length of the trail.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::chain::{self, Head};
use super::leaf;
use super::merkle::{Growing, Hash};
use super::seal::{self, Leaf};
use crate::db::{Conn, Error, Tx, TxFuture, TxOptions};
use crate::store::seals::{self, Rows, Seal, What};
use crate::store::trail::{self, Place, TrailRow, Unsealed};

/// Entries read at once.
const BATCH: i64 = 256;
/// Findings that are named; more are counted.
const NAMED_MAX: usize = 1_000;
/// For one statement.
const STATEMENT: Duration = Duration::from_secs(300);

/// What verification is asked for.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Heads kept outside the database.
    pub against: Vec<Head>,
    /// No purge may have reached rows younger than this: `retention.min_keep`.
    pub min_keep: Duration,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verification {
    /// Entries of the chain.
    pub entries: u64,
    /// The newest one's head, `NUMBER:HASH`: worth keeping outside.
    pub head: Option<String>,
    /// In the order of the chain: from which entry on each epoch counts.
    pub epochs: Vec<Epoch>,
    /// Rows that are there and give their leaf.
    pub rows: u64,
    /// Rows that are gone, as a purge in the chain says they may be.
    pub purged: u64,
    /// Rows that no seal covers yet.
    pub unsealed: u64,
    pub unsealed_since: Option<DateTime<Utc>>,
    /// The database was restored into another server and nothing was sealed there yet: rows without a seal may be
    /// new ones as well as forged ones, and count as not sealed.
    pub restored: bool,
    /// Outside heads that the chain holds.
    pub heads_matched: u64,
    /// What is wrong: the first of them, by name.
    pub findings: Vec<Finding>,
    /// How many there are.
    pub findings_total: u64,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings_total == 0
    }

    fn find(&mut self, finding: Finding) {
        self.findings_total += 1;
        if self.findings.len() < NAMED_MAX {
            self.findings.push(finding);
        }
    }
}

/// From which entry on a server's life counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Epoch {
    pub epoch: String,
    pub from_entry: i64,
}

/// Something that is not as it was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum Finding {
    /// An entry does not say what its head says.
    EntryAltered { entry: i64 },
    /// Entries are missing from the chain.
    EntriesMissing { from: i64, to: i64 },
    /// An entry does not follow the one before it.
    ChainBroken { entry: i64 },
    /// An entry's leaves are not those that were sealed: its rows cannot be named one by one.
    LeavesAltered { entry: i64, rows_as_sealed: bool },
    /// A row does not say what was sealed.
    RowAltered { entry: i64, id: Uuid, created_at: DateTime<Utc> },
    /// A row that was sealed is gone, and no purge covers it.
    RowMissing { entry: i64, id: Uuid, created_at: DateTime<Utc> },
    /// A row claims a transaction that was sealed without it.
    RowAdded { entry: i64, id: Uuid, created_at: DateTime<Utc> },
    /// Rows claim transactions that have not begun.
    RowsFromTheFuture { rows: i64 },
    /// A purge reached rows that were younger than they may be.
    PurgedTooEarly { entry: i64, cutoff: DateTime<Utc>, sealed_at: DateTime<Utc> },
    /// The chain does not hold a head that was published.
    HeadDiffers { published: String, chain_has: Option<String> },
}

/// Verifies everything.
pub async fn verify(conn: &mut Conn, question: &Question) -> Result<Verification, Error> {
    let mut found = Verification::default();
    let mut walk = Walk::default();
    found.restored = read(conn, |tx| Box::pin(is_restored(tx))).await?;
    loop {
        let number = walk.previous.as_ref().map_or(0, |seal: &Seal| seal.number);
        let batch = read(conn, |tx| Box::pin(seals::after(tx, number, BATCH))).await?;
        if batch.is_empty() {
            break;
        }
        for seal in batch {
            link(&seal, walk.previous.as_ref(), question, &mut found);
            if seal.what.rows().is_some() {
                let seen = read(conn, |tx| Box::pin(look(tx, &seal))).await?;
                walk.weigh(&seal, seen, &mut found);
                walk.over_rows = Some(seal.clone());
            }
            walk.previous = Some(seal);
        }
    }
    walk.settle(conn, &mut found).await?;
    found.head = walk.previous.as_ref().map(|seal| Head::of(seal).to_string());
    for head in &question.against {
        let there = read(conn, |tx| Box::pin(seals::numbered(tx, head.number))).await?;
        match there {
            Some(seal) if seal.head == head.hash => found.heads_matched += 1,
            other => found.find(Finding::HeadDiffers {
                published: head.to_string(),
                chain_has: other.map(|seal| Head::of(&seal).to_string()),
            }),
        }
    }
    Ok(found)
}

async fn read<'c, T, F>(conn: &'c mut Conn, work: F) -> Result<T, Error>
where
    F: for<'t> FnMut(&'t Tx<'c>) -> TxFuture<'t, T>,
{
    conn.transaction(&trail::by_index(TxOptions::within(STATEMENT).read_only()), work).await
}

/// One entry against itself and the one before.
fn link(seal: &Seal, previous: Option<&Seal>, question: &Question, found: &mut Verification) {
    found.entries += 1;
    let expected = previous.map_or(0, |seal| seal.number) + 1;
    if seal.number > expected {
        found.find(Finding::EntriesMissing { from: expected, to: seal.number - 1 });
    } else if seal.previous != previous.map(|seal| seal.head) {
        found.find(Finding::ChainBroken { entry: seal.number });
    }
    if chain::head(seal) != seal.head {
        found.find(Finding::EntryAltered { entry: seal.number });
    }
    if found.epochs.last().is_none_or(|epoch| epoch.epoch != seal.epoch) {
        found.epochs.push(Epoch { epoch: seal.epoch.clone(), from_entry: seal.number });
    }
    if let What::Purge { cutoff } = seal.what {
        let least = TimeDelta::from_std(question.min_keep).unwrap_or(TimeDelta::MAX);
        if seal.sealed_at - cutoff < least {
            found.find(Finding::PurgedTooEarly {
                entry: seal.number,
                cutoff,
                sealed_at: seal.sealed_at,
            });
        }
    }
}

/// An entry's leaves, and the rows that are there.
struct Seen {
    leaves: Vec<Leaf>,
    rows: Vec<Leaf>,
    purged_before: Option<DateTime<Utc>>,
}

async fn look(tx: &Tx<'_>, seal: &Seal) -> Result<Seen, Error> {
    let leaves = seal::leaves(&seals::leaves(tx, seal.number).await?.unwrap_or_default());
    let mut rows = Vec::with_capacity(leaves.len());
    match &seal.what {
        What::Rows(range) => {
            let but_of = seals::beside(tx, &seal.epoch, range.from, range.below).await?;
            trail::range(tx, (range.from, range.below), &but_of, i64::MAX, |row| {
                // A flood of forged rows is counted by what has room, not kept.
                if rows.len() < 4 * seal::SEAL_ROWS {
                    rows.push(leaf_of(&row));
                }
                Ok(())
            })
            .await?;
        }
        What::Adopted(range) => {
            let ids: Vec<Uuid> = leaves.iter().map(|leaf| leaf.id).collect();
            let there = trail::by_ids(tx, &ids, range.first_at, range.last_at).await?;
            // In the order of the leaves, in which they were sealed.
            let by_id: HashMap<Uuid, Leaf> =
                there.iter().map(|row| (row.id(), leaf_of(row))).collect();
            rows.extend(ids.iter().filter_map(|id| by_id.get(id).copied()));
        }
        What::Purge { .. } => {}
    }
    // After the rows: what a purge took meanwhile, its entry tells.
    Ok(Seen { leaves, rows, purged_before: seals::purged_before(tx).await? })
}

fn leaf_of(row: &TrailRow) -> Leaf {
    Leaf { id: row.id(), created_at_us: row.created_at_us(), hash: leaf::hash(row) }
}

/// Whether the newest entry over rows counts another server's transactions.
async fn is_restored(tx: &Tx<'_>) -> Result<bool, Error> {
    let (label, xmin) = (trail::epoch(tx).await?, trail::horizon(tx).await?.xmin);
    Ok(seals::last_of_rows(tx).await?.is_some_and(|newest| !seal::goes_on(&newest, &label, xmin)))
}

/// What is remembered from entry to entry.
#[derive(Default)]
struct Walk {
    previous: Option<Seal>,
    over_rows: Option<Seal>,
    /// Leaves without their row, and the entry that sealed them: perhaps it claims another transaction now.
    strangers: HashMap<Uuid, (i64, Leaf)>,
}

impl Walk {
    fn weigh(&mut self, seal: &Seal, seen: Seen, found: &mut Verification) {
        let Some(sealed) = seal.what.rows() else { return };
        let purged =
            |at: i64| seen.purged_before.is_some_and(|cutoff| at < cutoff.timestamp_micros());
        if root(&seen.leaves) != sealed.root || seen.leaves.len() as i64 != seal.row_count {
            self.without_leaves(seal, sealed, &seen, found);
            return;
        }
        let mut missing: HashMap<Uuid, Leaf> =
            seen.leaves.iter().map(|leaf| (leaf.id, *leaf)).collect();
        for row in &seen.rows {
            let (entry, id, created_at) = (seal.number, row.id, instant(row.created_at_us));
            match missing.remove(&id) {
                Some(leaf) if leaf == *row => found.rows += 1,
                Some(_) => found.find(Finding::RowAltered { entry, id, created_at }),
                None if found.restored => {}
                None => found.find(Finding::RowAdded { entry, id, created_at }),
            }
        }
        // In the order of the seal.
        for leaf in seen.leaves.iter().filter(|leaf| missing.contains_key(&leaf.id)) {
            if purged(leaf.created_at_us) {
                found.purged += 1;
            } else if self.strangers.len() < NAMED_MAX {
                self.strangers.insert(leaf.id, (seal.number, *leaf));
            } else {
                found.find(Finding::RowMissing {
                    entry: seal.number,
                    id: leaf.id,
                    created_at: instant(leaf.created_at_us),
                });
            }
        }
    }

    /// Without the leaves that were sealed only the whole can be told.
    fn without_leaves(&self, seal: &Seal, sealed: &Rows, seen: &Seen, found: &mut Verification) {
        let whole = root(&seen.rows) == sealed.root && seen.rows.len() as i64 == seal.row_count;
        let gone = seen.rows.is_empty()
            && seen.purged_before.is_some_and(|cutoff| sealed.last_at < cutoff);
        if seen.leaves.is_empty() && gone {
            found.purged += seal.row_count.unsigned_abs();
            return;
        }
        if whole {
            found.rows += seal.row_count.unsigned_abs();
        }
        found.find(Finding::LeavesAltered { entry: seal.number, rows_as_sealed: whole });
    }

    /// Rows that were not in their place, and what lies behind the last seal.
    async fn settle(&mut self, conn: &mut Conn, found: &mut Verification) -> Result<(), Error> {
        let ids: Vec<Uuid> = self.strangers.keys().copied().collect();
        if !ids.is_empty() {
            let elsewhere = read(conn, |tx| Box::pin(trail::anywhere(tx, &ids))).await?;
            for row in &elsewhere {
                if let Some((entry, _)) = self.strangers.remove(&row.id()) {
                    found.find(Finding::RowAltered {
                        entry,
                        id: row.id(),
                        created_at: row.created_at(),
                    });
                }
            }
            let mut gone: Vec<(i64, Leaf)> = self.strangers.drain().map(|(_, gone)| gone).collect();
            gone.sort_by_key(|(entry, leaf)| (*entry, leaf.created_at_us, leaf.id));
            for (entry, leaf) in gone {
                found.find(Finding::RowMissing {
                    entry,
                    id: leaf.id,
                    created_at: instant(leaf.created_at_us),
                });
            }
        }
        let over_rows = self.over_rows.as_ref();
        let restored = found.restored;
        let Unsealed { rows, oldest_at, from_the_future } =
            read(conn, |tx| Box::pin(behind(tx, over_rows, restored))).await?;
        found.unsealed = rows.unsigned_abs();
        found.unsealed_since = oldest_at;
        if from_the_future > 0 {
            found.find(Finding::RowsFromTheFuture { rows: from_the_future });
        }
        Ok(())
    }
}

/// What lies behind the last entry over rows.
async fn behind(tx: &Tx<'_>, over_rows: Option<&Seal>, restored: bool) -> Result<Unsealed, Error> {
    if restored {
        return trail::count_unadopted(tx).await;
    }
    let horizon = trail::horizon(tx).await?;
    let from = over_rows.and_then(|seal| seal.what.rows()).map_or(Place::FIRST, |rows| rows.below);
    let epoch = over_rows.map_or("", |seal| &seal.epoch);
    let but_of = seals::beside(tx, epoch, from, Place::before(u64::MAX)).await?;
    trail::count_unsealed(tx, from, &horizon, &but_of).await
}

fn root(leaves: &[Leaf]) -> Hash {
    let mut tree = Growing::default();
    leaves.iter().for_each(|leaf| tree.push(leaf.hash));
    tree.root()
}

fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::UNIX_EPOCH)
}
