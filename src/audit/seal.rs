//! Appends the next entry to the chain of seals.
//!
//! Rows are sealed in the order of `(xid, id)` up to the oldest running transaction (`xmin`). Below
//! it no row can be added any more, by prepared transactions neither. A long transaction therefore
//! holds sealing up from its own id on, and its rows are sealed after its end.
//!
//! **Epochs.** Transaction ids mean something only within one server's life. After a failover they
//! continue (on another timeline). After a restore from a dump they start anew, and the rows carry
//! ids of the former server. The first entry then *adopts* by id the rows that no seal holds, and
//! the ranges start anew.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::merkle::{Hash, RootBuilder};
use super::{chain, leaf};
use crate::db::{Error, Kind, Tx};
use crate::store::audit_rows::{self, AuditRow, SealPosition};
use crate::store::seals::{self, LEAF_BYTES, Seal, SealContent, SealedRows};

/// The maximum number of rows under one root. It bounds the memory of the sealer and of
/// verification.
pub const SEAL_ROWS: usize = 16_384;

/// The result of [`append_rows`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The new entry. `None` if no row can be sealed.
    pub seal: Option<Seal>,
    /// Whether more rows can be sealed at once.
    pub more: bool,
}

/// Appends the next entry over rows, in this transaction. `by` is recorded as `sealed_by`.
pub async fn append_rows(tx: &Tx<'_>, by: &str) -> Result<Appended, Error> {
    seals::lock_for_append(tx).await?;
    let label = audit_rows::epoch(tx).await?;
    // The horizon is read first, so that later statements see every row committed below it.
    let horizon = audit_rows::horizon(tx).await?;
    let newest = newest(tx).await?;
    let over_rows = seals::last_of_rows(tx).await?;
    let plan = plan(over_rows.as_ref(), &label, horizon.xmin);

    let mut batch = RowBatch::default();
    let limit = SEAL_ROWS as i64 + 1;
    let end = SealPosition::before(horizon.xmin);
    if let Some(from) = plan.from {
        if from < end {
            let excluded = seals::overlapping(tx, &plan.epoch, from, end).await?;
            audit_rows::range(tx, (from, end), &excluded, limit, |row| batch.add(&row)).await?;
        }
        if batch.tree.size() == 0 {
            return Ok(Appended { seal: None, more: false });
        }
    } else {
        audit_rows::unsealed(tx, &horizon, limit, |row| batch.add(&row)).await?;
    }
    let (first_at, last_at) = batch.times.unwrap_or((horizon.now, horizon.now));
    let root = batch.tree.root();
    let rows = |from, below| SealedRows { from, below, first_at, last_at, root };
    let what = match plan.from {
        Some(from) => SealContent::Rows(rows(from, batch.next.unwrap_or(end))),
        None => SealContent::Adopted(rows(SealPosition::FIRST, end)),
    };
    let count = batch.tree.size() as i64;
    let seal = entry(newest.as_ref(), plan.epoch, what, count, horizon.now, by);
    seals::append(tx, &seal).await?;
    if count > 0 {
        seals::write_leaves(tx, seal.number, &batch.leaves).await?;
    }
    Ok(Appended { seal: Some(seal), more: batch.next.is_some() })
}

/// Appends the certificate of a purge: rows before `cutoff` may be missing from this entry on.
/// `due` is the number of these rows.
pub async fn append_purge(
    tx: &Tx<'_>,
    cutoff: DateTime<Utc>,
    due: i64,
    by: &str,
) -> Result<Seal, Error> {
    seals::lock_for_append(tx).await?;
    let epoch = audit_rows::epoch(tx).await?;
    let now = audit_rows::horizon(tx).await?.now;
    let newest = newest(tx).await?;
    let seal = entry(newest.as_ref(), epoch, SealContent::Purge { cutoff }, due, now, by);
    seals::append(tx, &seal).await?;
    Ok(seal)
}

/// Reads the newest entry. Fails if it was altered, so that nothing is appended to such an entry.
async fn newest(tx: &Tx<'_>) -> Result<Option<Seal>, Error> {
    let newest = seals::last(tx).await?;
    match newest.as_ref().filter(|seal| chain::head(seal) != seal.head) {
        None => Ok(newest),
        Some(Seal { number, .. }) => Err(Error::new(
            Kind::Sql,
            format!(
                "entry {number} of steward.audit_seals was altered: its head does not match its \
                 fields; run `pgsteward audit verify`"
            ),
        )),
    }
}

/// The epoch and range of the next entry over rows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    epoch: String,
    /// Where the range begins. `None`: the entry adopts the rows that no seal holds.
    from: Option<SealPosition>,
}

/// Plans the next entry from the newest one over rows, the server's epoch and its oldest running
/// transaction.
fn plan(newest: Option<&Seal>, label: &str, xmin: u64) -> Plan {
    let Some((seal, rows)) = newest.and_then(|seal| Some((seal, seal.what.rows()?))) else {
        return Plan { epoch: label.to_owned(), from: Some(SealPosition::FIRST) };
    };
    let same_epoch = base(&seal.epoch) == label;
    let adopting =
        matches!(seal.what, SealContent::Adopted(_)) && seal.row_count as usize >= SEAL_ROWS;
    // A server seals only ids below its oldest running transaction. If that is below a sealed id,
    // the ids have started anew.
    let restarted = server(&seal.epoch) != server(label) || xmin < rows.below.xid;
    let epoch = match (same_epoch, restarted) {
        (true, false) => seal.epoch.clone(),
        (true, true) => format!("{label}#{}", repetition(&seal.epoch) + 1),
        (false, _) => label.to_owned(),
    };
    Plan { epoch, from: (!restarted && !adopting).then_some(rows.below) }
}

/// Returns whether this server's transaction ids continue those of an entry.
pub(super) fn continues(newest: &Seal, label: &str, xmin: u64) -> bool {
    plan(Some(newest), label, xmin).from.is_some()
}

/// An epoch is `SERVER/TIMELINE`, or `SERVER/TIMELINE#N` if ids started anew on the same server.
fn base(epoch: &str) -> &str {
    epoch.split('#').next().unwrap_or(epoch)
}

fn repetition(epoch: &str) -> u32 {
    epoch.split_once('#').and_then(|(_, count)| count.parse().ok()).unwrap_or(1)
}

/// The system identifier.
fn server(epoch: &str) -> &str {
    epoch.split('/').next().unwrap_or(epoch)
}

/// Collects the rows of one entry.
#[derive(Default)]
struct RowBatch {
    tree: RootBuilder,
    leaves: Vec<u8>,
    /// The earliest and the latest time of a row.
    times: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The first row beyond [`SEAL_ROWS`].
    next: Option<SealPosition>,
}

impl RowBatch {
    fn add(&mut self, row: &AuditRow) -> Result<(), Error> {
        if self.tree.size() as usize >= SEAL_ROWS {
            self.next = Some(row.position()?);
            return Ok(());
        }
        let leaf = Leaf::of(row);
        self.tree.push(leaf.hash);
        self.leaves.extend(leaf.id.as_bytes());
        self.leaves.extend(leaf.created_at_us.to_be_bytes());
        self.leaves.extend(leaf.hash);
        let at = row.created_at();
        let (first, last) = self.times.unwrap_or((at, at));
        self.times = Some((first.min(at), last.max(at)));
        Ok(())
    }
}

/// Makes the entry that follows `newest`.
fn entry(
    newest: Option<&Seal>,
    epoch: String,
    what: SealContent,
    row_count: i64,
    sealed_at: DateTime<Utc>,
    by: &str,
) -> Seal {
    let mut seal = Seal {
        number: newest.map_or(0, |seal| seal.number) + 1,
        epoch,
        what,
        row_count,
        previous: newest.map(|seal| seal.head),
        head: [0; 32],
        algorithm: chain::ALGORITHM,
        sealed_at,
        sealed_by: by.to_owned(),
    };
    seal.head = chain::head(&seal);
    seal
}

/// A leaf as it is stored: the row's id and time identify the row when its hash no longer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    pub id: Uuid,
    pub created_at_us: i64,
    pub hash: Hash,
}

impl Leaf {
    pub(super) fn of(row: &AuditRow) -> Leaf {
        Leaf { id: row.id(), created_at_us: row.created_at_us(), hash: leaf::hash(row) }
    }

    fn decode(bytes: &[u8; LEAF_BYTES]) -> Option<Leaf> {
        Some(Leaf {
            id: Uuid::from_slice(&bytes[..16]).ok()?,
            created_at_us: i64::from_be_bytes(bytes[16..24].try_into().ok()?),
            hash: bytes[24..].try_into().ok()?,
        })
    }
}

/// Decodes the stored leaves of an entry. Ignores excess bytes at the end; the root then differs.
pub fn leaves(bytes: &[u8]) -> Vec<Leaf> {
    bytes.as_chunks::<LEAF_BYTES>().0.iter().filter_map(Leaf::decode).collect()
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn seal(epoch: &str, below: u64, adopted: Option<i64>) -> Seal {
        let at = DateTime::from_timestamp(1, 0).unwrap();
        let root = sha2::Sha256::digest([]).into();
        let rows = SealedRows {
            from: SealPosition::FIRST,
            below: SealPosition::before(below),
            first_at: at,
            last_at: at,
            root,
        };
        let what =
            if adopted.is_some() { SealContent::Adopted(rows) } else { SealContent::Rows(rows) };
        entry(None, epoch.to_owned(), what, adopted.unwrap_or(9), at, "test")
    }

    #[test]
    fn ranges_continue_and_epochs_begin_where_ids_start_anew() {
        let full = SEAL_ROWS as i64;
        // (newest entry, epoch of the server, xmin) → (epoch, start of the range or None to adopt)
        let table = [
            (None, "s/1", 500, "s/1", Some(0)),
            (Some(seal("s/1", 400, None)), "s/1", 500, "s/1", Some(400)),
            (Some(seal("s/1", 400, None)), "s/1", 400, "s/1", Some(400)),
            // A promotion: ids continue.
            (Some(seal("s/1", 400, None)), "s/2", 500, "s/2", Some(400)),
            // A restore from a dump into another server with lower or higher ids.
            (Some(seal("s/1", 400, None)), "t/1", 50, "t/1", None),
            (Some(seal("s/1", 400, None)), "t/1", 5000, "t/1", None),
            // The same server with lower ids (pg_resetwal).
            (Some(seal("s/1", 400, None)), "s/1", 50, "s/1#2", None),
            (Some(seal("s/1#2", 400, None)), "s/1", 500, "s/1#2", Some(400)),
            (Some(seal("s/1#2", 400, None)), "s/1", 50, "s/1#3", None),
            // All rows adopted, and more rows to adopt.
            (Some(seal("t/1", 60, Some(12))), "t/1", 90, "t/1", Some(60)),
            (Some(seal("t/1", 60, Some(0))), "t/1", 90, "t/1", Some(60)),
            (Some(seal("t/1", 60, Some(full))), "t/1", 90, "t/1", None),
            (Some(seal("t/1", 60, Some(full))), "t/2", 90, "t/2", None),
        ];
        for (newest, label, xmin, epoch, from) in table {
            let expected = Plan { epoch: epoch.to_owned(), from: from.map(SealPosition::before) };
            assert_eq!(plan(newest.as_ref(), label, xmin), expected, "{newest:?}, {label}, {xmin}");
        }
    }

    #[test]
    fn leaves_are_decoded_from_their_bytes() {
        let bytes: Vec<u8> = (0..2 * LEAF_BYTES as u8).collect();
        let read = leaves(&bytes);
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].id.as_bytes()[0], 56);
        assert_eq!(read[1].created_at_us.to_be_bytes()[0], 72);
        assert_eq!(read[1].hash[31], 111);
        assert_eq!(leaves(&bytes[..LEAF_BYTES + 5]).len(), 1);
        assert_eq!(leaves(&[]), []);
    }
}
