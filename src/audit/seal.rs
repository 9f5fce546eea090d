//! Sealing: the next entry of the chain.
//!
//! Rows are taken in the order of `(xid, id)` up to the oldest transaction that is still under way (`xmin`):
//! below it nothing can be added any more, whatever commits later, prepared transactions included. A
//! long transaction therefore holds sealing up from its own id on, and is sealed after its end.
//!
//! **Epochs.** Transaction ids mean nothing beyond one server's life. After a failover they go on (another
//! timeline); after a restore from a dump they begin anew, and the rows carry those of the former server. Then
//! the first entry *adopts* what no seal holds, by id, and the ranges begin anew.

use chrono::{DateTime, Utc};

use super::merkle::{Growing, Hash};
use super::{chain, leaf};
use crate::db::{Error, Kind, Tx};
use crate::store::seals::{self, LEAF_BYTES, Rows, Seal, What};
use crate::store::trail::{self, Horizon, Place, TrailRow};

/// Rows under one root, at most. Bounds what is held in memory, here and by whoever verifies.
pub const SEAL_ROWS: usize = 16_384;

/// What a look at the trail came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The entry that was appended; none where nothing waits to be sealed.
    pub seal: Option<Seal>,
    /// Whether more can be sealed at once.
    pub more: bool,
}

/// Appends the next entry over rows, in this transaction.
pub async fn next(tx: &Tx<'_>, by: &str) -> Result<Outcome, Error> {
    seals::keep_out(tx).await?;
    let label = trail::epoch(tx).await?;
    // Before the rows: what is read later shows all that was committed below.
    let horizon = trail::horizon(tx).await?;
    let newest = newest(tx).await?;
    let over_rows = seals::last_of_rows(tx).await?;
    let plan = plan(over_rows.as_ref(), &label, horizon.xmin);

    let mut taken = Taken::default();
    let below = match plan.from {
        Some(from) => {
            let below = Place::before(horizon.xmin);
            if from >= below {
                return Ok(Outcome { seal: None, more: false });
            }
            let but_of = seals::beside(tx, &plan.epoch, from, below).await?;
            trail::range(tx, (from, below), &but_of, SEAL_ROWS as i64 + 1, |row| taken.take(&row))
                .await?;
            if taken.is_empty() {
                return Ok(Outcome { seal: None, more: false });
            }
            taken.next.unwrap_or(below)
        }
        None => {
            trail::unsealed(tx, &horizon, SEAL_ROWS as i64 + 1, |row| taken.take(&row)).await?;
            Place::before(horizon.xmin)
        }
    };
    let more = taken.next.is_some();
    let leaves = std::mem::take(&mut taken.leaves);
    let seal = taken.close(plan, below, newest.as_ref(), &horizon, by);
    seals::append(tx, &seal).await?;
    if !leaves.is_empty() {
        seals::write_leaves(tx, seal.number, &leaves).await?;
    }
    Ok(Outcome { seal: Some(seal), more })
}

/// Appends that rows before the cutoff may be gone from here on; `due` of them are there.
pub async fn purge(tx: &Tx<'_>, cutoff: DateTime<Utc>, due: i64, by: &str) -> Result<Seal, Error> {
    seals::keep_out(tx).await?;
    let epoch = trail::epoch(tx).await?;
    let now = trail::horizon(tx).await?.now;
    let newest = newest(tx).await?;
    let seal = entry(newest.as_ref(), epoch, What::Purge { cutoff }, due, now, by);
    seals::append(tx, &seal).await?;
    Ok(seal)
}

/// The newest entry. One that is not what its head says is not built upon.
async fn newest(tx: &Tx<'_>) -> Result<Option<Seal>, Error> {
    let newest = seals::last(tx).await?;
    if let Some(seal) = newest.as_ref().filter(|seal| chain::head(seal) != seal.head) {
        let what =
            "was altered: its head is not that of what it says. See `pgsteward audit verify`";
        return Err(Error::new(
            Kind::Sql,
            format!("entry {} of steward.audit_seals {what}", seal.number),
        ));
    }
    Ok(newest)
}

/// What is to be sealed next.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    epoch: String,
    /// Where the range begins. None: what no seal holds is adopted.
    from: Option<Place>,
}

/// Decides from the newest entry over rows, the server's identity and the oldest transaction under way.
fn plan(newest: Option<&Seal>, label: &str, xmin: u64) -> Plan {
    let Some((seal, rows)) = newest.and_then(|seal| Some((seal, seal.what.rows()?))) else {
        return Plan { epoch: label.to_owned(), from: Some(Place::FIRST) };
    };
    let same = base(&seal.epoch) == label;
    let unfinished = matches!(seal.what, What::Adopted(_)) && seal.row_count as usize >= SEAL_ROWS;
    // Nothing that this server ever did lies behind its own oldest transaction: the ids began anew.
    let anew = server(&seal.epoch) != server(label) || xmin < rows.below.xid;
    let epoch = match (same, anew) {
        (true, false) => seal.epoch.clone(),
        (true, true) => format!("{label}#{}", count(&seal.epoch) + 1),
        (false, _) => label.to_owned(),
    };
    Plan { epoch, from: (!anew && !unfinished).then_some(rows.below) }
}

/// Whether this server's transaction ids go on from where an entry ended.
pub(super) fn goes_on(newest: &Seal, label: &str, xmin: u64) -> bool {
    plan(Some(newest), label, xmin).from.is_some()
}

/// Without the number of a repetition.
fn base(epoch: &str) -> &str {
    epoch.split('#').next().unwrap_or(epoch)
}

fn count(epoch: &str) -> u32 {
    epoch.split_once('#').and_then(|(_, count)| count.parse().ok()).unwrap_or(1)
}

/// The system identifier.
fn server(epoch: &str) -> &str {
    epoch.split('/').next().unwrap_or(epoch)
}

/// Rows on their way under a root.
#[derive(Default)]
struct Taken {
    tree: Growing,
    leaves: Vec<u8>,
    times: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The first that has no room.
    next: Option<Place>,
}

impl Taken {
    fn take(&mut self, row: &TrailRow) -> Result<(), Error> {
        if self.tree.size() as usize >= SEAL_ROWS {
            self.next = Some(row.place()?);
            return Ok(());
        }
        let hash = leaf::hash(row);
        self.tree.push(hash);
        self.leaves.extend(row.id().as_bytes());
        self.leaves.extend(row.created_at_us().to_be_bytes());
        self.leaves.extend(hash);
        let at = row.created_at();
        let (first, last) = self.times.unwrap_or((at, at));
        self.times = Some((first.min(at), last.max(at)));
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.tree.size() == 0
    }

    fn close(
        self,
        plan: Plan,
        below: Place,
        newest: Option<&Seal>,
        horizon: &Horizon,
        by: &str,
    ) -> Seal {
        let (first_at, last_at) = self.times.unwrap_or((horizon.now, horizon.now));
        let rows = Rows {
            from: plan.from.unwrap_or(Place::FIRST),
            below,
            first_at,
            last_at,
            root: self.tree.root(),
        };
        let what = if plan.from.is_some() { What::Rows(rows) } else { What::Adopted(rows) };
        entry(newest, plan.epoch, what, self.tree.size() as i64, horizon.now, by)
    }
}

fn entry(
    newest: Option<&Seal>,
    epoch: String,
    what: What,
    rows: i64,
    at: DateTime<Utc>,
    by: &str,
) -> Seal {
    let mut seal = Seal {
        number: newest.map_or(0, |seal| seal.number) + 1,
        epoch,
        what,
        row_count: rows,
        previous: newest.map(|seal| seal.head),
        head: [0; 32],
        algorithm: chain::ALGORITHM,
        sealed_at: at,
        sealed_by: by.to_owned(),
    };
    seal.head = chain::head(&seal);
    seal
}

/// One leaf as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    pub id: uuid::Uuid,
    pub created_at_us: i64,
    pub hash: Hash,
}

/// The leaves of an entry. What is left over at the end is no leaf, and no root will fit.
pub fn leaves(bytes: &[u8]) -> Vec<Leaf> {
    let (leaves, _) = bytes.as_chunks::<LEAF_BYTES>();
    leaves.iter().map(leaf_of).collect()
}

fn leaf_of(bytes: &[u8; LEAF_BYTES]) -> Leaf {
    let (mut id, mut at, mut hash) = ([0; 16], [0; 8], [0; 32]);
    id.copy_from_slice(&bytes[..16]);
    at.copy_from_slice(&bytes[16..24]);
    hash.copy_from_slice(&bytes[24..]);
    Leaf { id: uuid::Uuid::from_bytes(id), created_at_us: i64::from_be_bytes(at), hash }
}

#[cfg(test)]
mod tests {
    use sha2::Digest as _;

    use super::*;

    fn seal(epoch: &str, below: u64, adopted: Option<i64>) -> Seal {
        let at = DateTime::from_timestamp(1, 0).unwrap();
        let root = sha2::Sha256::digest([]).into();
        let rows = Rows {
            from: Place::FIRST,
            below: Place::before(below),
            first_at: at,
            last_at: at,
            root,
        };
        let what = if adopted.is_some() { What::Adopted(rows) } else { What::Rows(rows) };
        entry(None, epoch.to_owned(), what, adopted.unwrap_or(9), at, "test")
    }

    #[test]
    fn ranges_go_on_where_the_last_ended_and_epochs_begin_where_ids_do() {
        let full = SEAL_ROWS as i64;
        // (the newest entry, the server's label, xmin) → (epoch, where the range begins; none: adopts)
        let table = [
            (None, "s/1", 500, "s/1", Some(0)),
            (Some(seal("s/1", 400, None)), "s/1", 500, "s/1", Some(400)),
            (Some(seal("s/1", 400, None)), "s/1", 400, "s/1", Some(400)),
            // Promoted: ids go on.
            (Some(seal("s/1", 400, None)), "s/2", 500, "s/2", Some(400)),
            // Restored from a dump into another server, its ids lower or higher.
            (Some(seal("s/1", 400, None)), "t/1", 50, "t/1", None),
            (Some(seal("s/1", 400, None)), "t/1", 5000, "t/1", None),
            // The same server, its ids lower again: reset by force.
            (Some(seal("s/1", 400, None)), "s/1", 50, "s/1#2", None),
            (Some(seal("s/1#2", 400, None)), "s/1", 500, "s/1#2", Some(400)),
            (Some(seal("s/1#2", 400, None)), "s/1", 50, "s/1#3", None),
            // Adopted in full, and not yet in full.
            (Some(seal("t/1", 60, Some(12))), "t/1", 90, "t/1", Some(60)),
            (Some(seal("t/1", 60, Some(0))), "t/1", 90, "t/1", Some(60)),
            (Some(seal("t/1", 60, Some(full))), "t/1", 90, "t/1", None),
            (Some(seal("t/1", 60, Some(full))), "t/2", 90, "t/2", None),
        ];
        for (newest, label, xmin, epoch, from) in table {
            let wanted = Plan { epoch: epoch.to_owned(), from: from.map(Place::before) };
            assert_eq!(plan(newest.as_ref(), label, xmin), wanted, "{newest:?}, {label}, {xmin}");
        }
    }

    #[test]
    fn leaves_are_read_as_they_are_written() {
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
