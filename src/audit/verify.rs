//! Verifies the audit log against its seals, the seals against each other, and the chain against
//! heads that were kept outside the database.
//!
//! ```text
//! chain    each head is the hash of its entry and the `previous` of the next one
//! leaves   the leaves of each entry give its root            what was sealed
//! rows     each existing row gives its leaf                  altered, missing or added rows
//! outside  the chain contains the published heads            a chain that was rewritten
//! ```
//! Rows before the cutoff of a purge in the chain may be missing. Memory is bounded by the rows of
//! one entry. Each entry is read in a transaction of its own, so that no snapshot is held for the
//! whole verification.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::chain::{self, Head};
use super::merkle::{self, Hash};
use super::seal::{self, Leaf};
use crate::db::{Conn, Error, Tx, TxFuture, TxOptions};
use crate::store::audit_rows::{self, SealPosition, Unsealed};
use crate::store::seals::{self, Seal, SealContent, SealedRows};

/// Entries per read.
const BATCH: i64 = 256;
/// The maximum number of findings that are listed. All are counted.
const FINDINGS_MAX: usize = 1_000;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);

/// The inputs of a verification beside the database.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Heads that were kept outside the database.
    pub against: Vec<Head>,
    /// No purge may remove younger rows: `retention.min_keep`.
    pub min_keep: Duration,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verification {
    /// The number of entries of the chain.
    pub entries: u64,
    /// The newest head, `NUMBER:HASH`, which should be kept outside the database.
    pub head: Option<String>,
    /// The epochs in the order of the chain.
    pub epochs: Vec<Epoch>,
    /// The number of existing rows that give their leaf.
    pub rows: u64,
    /// The number of missing rows that a purge in the chain covers.
    pub purged: u64,
    /// The number of rows that no seal covers yet.
    pub unsealed: u64,
    pub unsealed_since: Option<DateTime<Utc>>,
    /// The database was restored into another server and nothing was sealed there yet. Rows without
    /// a seal may then be new or forged, and count as unsealed.
    pub restored: bool,
    /// The number of heads from outside that the chain contains.
    pub heads_matched: u64,
    /// The first [`FINDINGS_MAX`] findings.
    pub findings: Vec<AuditFinding>,
    pub findings_total: u64,
}

impl Verification {
    /// Returns whether there are no findings.
    pub fn is_sound(&self) -> bool {
        self.findings_total == 0
    }

    fn report(&mut self, finding: AuditFinding) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// An epoch and its first entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Epoch {
    pub epoch: String,
    pub from_entry: i64,
}

/// A difference between the audit log and its seals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum AuditFinding {
    /// The head of an entry does not match its fields.
    EntryAltered { entry: i64 },
    /// Entries are missing from the chain.
    EntriesMissing { from: i64, to: i64 },
    /// An entry does not continue the one before it.
    ChainBroken { entry: i64 },
    /// The leaves of an entry do not give its root, so its rows cannot be checked one by one.
    LeavesAltered { entry: i64, rows_as_sealed: bool },
    /// A row differs from the one that was sealed.
    RowAltered(SealedRow),
    /// A sealed row is missing, and no purge covers it.
    RowMissing(SealedRow),
    /// A row claims a transaction that was sealed without it.
    RowAdded(SealedRow),
    /// Rows claim transactions that have not started.
    RowsFromTheFuture { rows: i64 },
    /// A purge removed rows younger than `min_keep`.
    PurgedTooEarly { entry: i64, cutoff: DateTime<Utc>, sealed_at: DateTime<Utc> },
    /// The chain does not contain a published head.
    HeadDiffers { published: String, chain_has: Option<String> },
}

/// A row and the entry to which it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealedRow {
    pub entry: i64,
    pub id: Uuid,
    pub created_at: DateTime<Utc>,
}

impl SealedRow {
    fn new(entry: i64, leaf: &Leaf) -> SealedRow {
        let created_at = DateTime::from_timestamp_micros(leaf.created_at_us).unwrap_or_default();
        SealedRow { entry, id: leaf.id, created_at }
    }
}

/// Verifies the whole chain.
pub async fn verify(conn: &mut Conn, options: &VerifyOptions) -> Result<Verification, Error> {
    let mut verifier = Verifier::default();
    verifier.result.restored = read(conn, |tx| Box::pin(is_restored(tx))).await?;
    loop {
        let number = verifier.previous.as_ref().map_or(0, |seal| seal.number);
        let batch = read(conn, |tx| Box::pin(seals::after(tx, number, BATCH))).await?;
        if batch.is_empty() {
            break;
        }
        for seal in batch {
            verifier.check_entry(&seal, options);
            if let Some(sealed) = seal.what.rows() {
                let stored = read(conn, |tx| Box::pin(read_entry(tx, &seal))).await?;
                verifier.check_rows(&seal, sealed, stored);
                verifier.over_rows = Some(seal.clone());
            }
            verifier.previous = Some(seal);
        }
    }
    verifier.check_unmatched(conn).await?;
    verifier.count_unsealed(conn).await?;
    verifier.check_heads(conn, &options.against).await?;
    Ok(verifier.result)
}

async fn read<'c, T, F>(conn: &'c mut Conn, work: F) -> Result<T, Error>
where
    F: for<'t> FnMut(&'t Tx<'c>) -> TxFuture<'t, T>,
{
    conn.transaction(&audit_rows::by_index(TxOptions::within(STATEMENT_TIMEOUT).read_only()), work)
        .await
}

/// The stored leaves of an entry and the leaves of its existing rows.
struct StoredEntry {
    leaves: Vec<Leaf>,
    rows: Vec<Leaf>,
    purged_before: Option<DateTime<Utc>>,
}

async fn read_entry(tx: &Tx<'_>, seal: &Seal) -> Result<StoredEntry, Error> {
    let leaves = seal::leaves(&seals::leaves(tx, seal.number).await?.unwrap_or_default());
    let mut rows = Vec::with_capacity(leaves.len());
    match &seal.what {
        SealContent::Rows(range) => {
            let excluded = seals::overlapping(tx, &seal.epoch, range.from, range.below).await?;
            audit_rows::range(tx, (range.from, range.below), &excluded, i64::MAX, |row| {
                // Bounds the memory that a flood of forged rows takes.
                if rows.len() < 4 * seal::SEAL_ROWS {
                    rows.push(Leaf::of(&row));
                }
                Ok(())
            })
            .await?;
        }
        SealContent::Adopted(range) => {
            let ids: Vec<Uuid> = leaves.iter().map(|leaf| leaf.id).collect();
            let existing = audit_rows::by_ids(tx, &ids, range.first_at, range.last_at).await?;
            // The root depends on the order of the leaves.
            let by_id: HashMap<Uuid, Leaf> =
                existing.iter().map(|row| (row.id(), Leaf::of(row))).collect();
            rows.extend(ids.iter().filter_map(|id| by_id.get(id).copied()));
        }
        SealContent::Purge { .. } => {}
    }
    // Read after the rows, so that the purge of any row that was missing is included.
    Ok(StoredEntry { leaves, rows, purged_before: seals::purged_before(tx).await? })
}

/// Returns whether the newest entry over rows belongs to another server's transaction ids.
async fn is_restored(tx: &Tx<'_>) -> Result<bool, Error> {
    let (label, xmin) = (audit_rows::epoch(tx).await?, audit_rows::horizon(tx).await?.xmin);
    Ok(seals::last_of_rows(tx).await?.is_some_and(|newest| !seal::continues(&newest, &label, xmin)))
}

/// The state between entries.
#[derive(Default)]
struct Verifier {
    result: Verification,
    previous: Option<Seal>,
    over_rows: Option<Seal>,
    /// Leaves without a row, and their entries. Their rows may claim another transaction now.
    unmatched: HashMap<Uuid, (i64, Leaf)>,
}

impl Verifier {
    /// Checks an entry itself and its link to the one before.
    fn check_entry(&mut self, seal: &Seal, options: &VerifyOptions) {
        let result = &mut self.result;
        let (entry, previous) = (seal.number, self.previous.as_ref());
        result.entries += 1;
        let expected = previous.map_or(0, |seal| seal.number) + 1;
        if entry > expected {
            result.report(AuditFinding::EntriesMissing { from: expected, to: entry - 1 });
        } else if seal.previous != previous.map(|seal| seal.head) {
            result.report(AuditFinding::ChainBroken { entry });
        }
        if chain::head(seal) != seal.head {
            result.report(AuditFinding::EntryAltered { entry });
        }
        if result.epochs.last().is_none_or(|epoch| epoch.epoch != seal.epoch) {
            result.epochs.push(Epoch { epoch: seal.epoch.clone(), from_entry: entry });
        }
        if let SealContent::Purge { cutoff } = seal.what {
            let sealed_at = seal.sealed_at;
            let min_keep = TimeDelta::from_std(options.min_keep).unwrap_or(TimeDelta::MAX);
            if sealed_at - cutoff < min_keep {
                result.report(AuditFinding::PurgedTooEarly { entry, cutoff, sealed_at });
            }
        }
    }

    /// Checks the rows of an entry one by one against its leaves.
    fn check_rows(&mut self, seal: &Seal, sealed: &SealedRows, stored: StoredEntry) {
        if root(&stored.leaves) != sealed.root || stored.leaves.len() as i64 != seal.row_count {
            return self.check_root(seal, sealed, &stored);
        }
        let (entry, result) = (seal.number, &mut self.result);
        let mut missing: HashMap<Uuid, Leaf> =
            stored.leaves.iter().map(|leaf| (leaf.id, *leaf)).collect();
        for row in &stored.rows {
            match missing.remove(&row.id) {
                Some(leaf) if leaf == *row => result.rows += 1,
                Some(_) => result.report(AuditFinding::RowAltered(SealedRow::new(entry, row))),
                None if result.restored => {}
                None => result.report(AuditFinding::RowAdded(SealedRow::new(entry, row))),
            }
        }
        let purged_before_us = stored.purged_before.map(|cutoff| cutoff.timestamp_micros());
        for leaf in stored.leaves.iter().filter(|leaf| missing.contains_key(&leaf.id)) {
            if purged_before_us.is_some_and(|cutoff| leaf.created_at_us < cutoff) {
                result.purged += 1;
            } else if self.unmatched.len() < FINDINGS_MAX {
                self.unmatched.insert(leaf.id, (entry, *leaf));
            } else {
                result.report(AuditFinding::RowMissing(SealedRow::new(entry, leaf)));
            }
        }
    }

    /// Checks the rows of an entry as a whole, because its leaves are not those that were sealed.
    fn check_root(&mut self, seal: &Seal, sealed: &SealedRows, stored: &StoredEntry) {
        let count = seal.row_count.unsigned_abs();
        let purged = stored.purged_before.is_some_and(|cutoff| sealed.last_at < cutoff);
        if purged && stored.leaves.is_empty() && stored.rows.is_empty() {
            self.result.purged += count;
            return;
        }
        let rows_as_sealed = root(&stored.rows) == sealed.root && stored.rows.len() as u64 == count;
        if rows_as_sealed {
            self.result.rows += count;
        }
        self.result.report(AuditFinding::LeavesAltered { entry: seal.number, rows_as_sealed });
    }

    /// Looks for the rows of unmatched leaves in the whole audit log. A row that claims another
    /// transaction now was altered; a row that does not exist is missing.
    async fn check_unmatched(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let ids: Vec<Uuid> = self.unmatched.keys().copied().collect();
        if ids.is_empty() {
            return Ok(());
        }
        for row in read(conn, |tx| Box::pin(audit_rows::anywhere(tx, &ids))).await? {
            if let Some((entry, _)) = self.unmatched.remove(&row.id()) {
                let row = SealedRow::new(entry, &Leaf::of(&row));
                self.result.report(AuditFinding::RowAltered(row));
            }
        }
        let mut missing: Vec<(i64, Leaf)> = self.unmatched.drain().map(|(_, leaf)| leaf).collect();
        missing.sort_by_key(|(entry, leaf)| (*entry, leaf.created_at_us, leaf.id));
        for (entry, leaf) in missing {
            self.result.report(AuditFinding::RowMissing(SealedRow::new(entry, &leaf)));
        }
        Ok(())
    }

    async fn count_unsealed(&mut self, conn: &mut Conn) -> Result<(), Error> {
        let over_rows = self.over_rows.as_ref();
        let restored = self.result.restored;
        let Unsealed { rows, oldest_at, from_the_future } =
            read(conn, |tx| Box::pin(read_unsealed(tx, over_rows, restored))).await?;
        self.result.unsealed = rows.unsigned_abs();
        self.result.unsealed_since = oldest_at;
        if from_the_future > 0 {
            self.result.report(AuditFinding::RowsFromTheFuture { rows: from_the_future });
        }
        Ok(())
    }

    /// Checks that the chain contains heads that were kept outside.
    async fn check_heads(&mut self, conn: &mut Conn, against: &[Head]) -> Result<(), Error> {
        self.result.head = self.previous.as_ref().map(|seal| Head::of(seal).to_string());
        for head in against {
            let seal = read(conn, |tx| Box::pin(seals::numbered(tx, head.number))).await?;
            let found = seal.map(|seal| Head::of(&seal));
            if found == Some(*head) {
                self.result.heads_matched += 1;
            } else {
                let (published, chain_has) = (head.to_string(), found.map(|head| head.to_string()));
                self.result.report(AuditFinding::HeadDiffers { published, chain_has });
            }
        }
        Ok(())
    }
}

/// Counts the rows after the last entry over rows.
async fn read_unsealed(
    tx: &Tx<'_>,
    over_rows: Option<&Seal>,
    restored: bool,
) -> Result<Unsealed, Error> {
    if restored {
        return audit_rows::count_unadopted(tx).await;
    }
    let horizon = audit_rows::horizon(tx).await?;
    let from =
        over_rows.and_then(|seal| seal.what.rows()).map_or(SealPosition::FIRST, |rows| rows.below);
    let epoch = over_rows.map_or("", |seal| &seal.epoch);
    let excluded = seals::overlapping(tx, epoch, from, SealPosition::before(u64::MAX)).await?;
    audit_rows::count_unsealed(tx, from, &horizon, &excluded).await
}

fn root(leaves: &[Leaf]) -> Hash {
    merkle::root(leaves.iter().map(|leaf| &leaf.hash))
}
