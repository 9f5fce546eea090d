//! What was measured and could not be written yet: the memory of an outage.
//!
//! ```text
//! append ─► folder (segments, checksummed) ─┐
//!        └► memory, where there is no folder ┴─► peek ─► (written, committed) ─► settle
//! ```
//! [`Record`]s in the order in which they came, read and settled table by table: a table that
//! accepts no rows does not hold up the others. The spool knows nothing of SQL. Its size and age
//! are bounded for all tables together: the oldest records are dropped first, and are counted.
//! Whatever is wrong with the folder (missing, full, read-only, taken away, locked by another
//! process) sends what comes next into memory, which is bounded more tightly; the folder is tried
//! again now and then, and takes over what memory holds. Damage costs what is damaged. Nothing here
//! is ever fatal, and nothing here waits but for the disk: the caller keeps that off the threads
//! that answer.
//!
//! What is settled never comes back within a process. After a crash the newest settled records may:
//! their rows carry ids, and are refused by them.

mod disk;
mod memory;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use disk::Disk;
use memory::Memory;
pub use record::{BODY_MAX, Record, Table};

/// What memory may hold, whatever the folder may.
pub const MEMORY_MAX_BYTES: usize = 1024 * 1024;
/// How often a folder that failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// How much may wait, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_bytes: usize,
    pub max_age: Duration,
}

impl Limits {
    /// A sixteenth is dropped at a time.
    fn segment_bytes(&self) -> usize {
        (self.max_bytes / 16).clamp(4 * 1024, 1024 * 1024)
    }

    fn segment_span(&self) -> TimeDelta {
        TimeDelta::from_std(self.max_age / 16).unwrap_or(TimeDelta::MAX)
    }

    fn memory_bytes(&self) -> usize {
        self.max_bytes.min(MEMORY_MAX_BYTES)
    }
}

/// Why a record was lost for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There was no room for all.
    Full,
    /// Older than the spool or the table keeps.
    Age,
    /// Its bytes were not what was written, or are of another version.
    Damaged,
    /// The disk did not give it back, or did not take it in time.
    Disk,
    /// Dated further ahead than partitions are made.
    Future,
    /// The server refused it, and accepted another row of the table.
    Refused,
}

impl Reason {
    /// As the metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Age => "age",
            Reason::Damaged => "damaged",
            Reason::Disk => "disk",
            Reason::Future => "future",
            Reason::Refused => "refused",
        }
    }
}

/// What was lost, until somebody asks.
#[derive(Debug, Default)]
pub struct Drops(BTreeMap<(Option<Table>, Reason), u64>);

impl Drops {
    /// `table` is absent where the damage leaves nobody knowing.
    fn count(&mut self, table: Option<Table>, reason: Reason, records: u64) {
        if records > 0 {
            *self.0.entry((table, reason)).or_default() += records;
        }
    }
}

/// What waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Records by table.
    pub tables: [u64; Table::ALL.len()],
    pub bytes: u64,
    /// About: of the oldest segment's oldest.
    pub oldest: Option<DateTime<Utc>>,
}

impl Depth {
    /// Of all tables.
    pub fn records(&self) -> u64 {
        self.tables.iter().sum()
    }
}

/// Where the next record goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Folder(PathBuf),
    Memory,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Folder(dir) => write!(f, "{}", dir.display()),
            Place::Memory => f.write_str("memory"),
        }
    }
}

/// The queue of one target.
#[derive(Debug)]
pub struct Spool {
    target: String,
    limits: Limits,
    dir: Option<PathBuf>,
    /// Older than what is in memory.
    disk: Option<Disk>,
    /// Whether the next record goes to the disk.
    disk_serves: bool,
    tried: Instant,
    memory: Memory,
    peeked: Peeked,
    drops: Drops,
}

#[derive(Debug)]
enum Peeked {
    Nothing,
    Disk,
    /// Their numbers.
    Memory(Vec<u64>),
}

impl Spool {
    /// The queue in `state_dir/spool/TARGET`, or in memory only. A folder that cannot be used is
    /// told of and tried again later.
    pub fn open(state_dir: Option<&Path>, target: &str, limits: Limits) -> Spool {
        let mut spool = Spool {
            target: target.to_owned(),
            limits,
            dir: state_dir.map(|dir| dir.join("spool").join(target)),
            disk: None,
            disk_serves: false,
            tried: Instant::now(),
            memory: Memory::default(),
            peeked: Peeked::Nothing,
            drops: Drops::default(),
        };
        if let Err(error) = spool.open_disk() {
            spool.tell_fallen(&error);
        }
        spool
    }

    fn open_disk(&mut self) -> io::Result<()> {
        self.tried = Instant::now();
        if let Some(dir) = &self.dir {
            self.disk = Some(Disk::open(dir, &mut self.drops)?);
            self.disk_serves = true;
        }
        Ok(())
    }

    /// New bounds, which hold from the next record on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Keeps a record. What there is no room for is dropped, oldest first.
    pub fn append(&mut self, record: Record) {
        // A record that would drive out half of what is there is none of ours.
        if record.body.len() > BODY_MAX.min(self.limits.max_bytes / 2) {
            self.drops.count(Some(record.table), Reason::Full, 1);
            return;
        }
        if !self.disk_serves && self.dir.is_some() && self.tried.elapsed() >= RETRY_EVERY {
            self.retry_disk();
        }
        if self.disk_serves
            && let Some(disk) = &mut self.disk
        {
            match disk.append(&record, &self.limits, &mut self.drops) {
                Ok(()) => return,
                Err(error) => {
                    self.disk_serves = false;
                    self.tried = Instant::now();
                    self.tell_fallen(&error);
                }
            }
        }
        self.memory.push(record);
        while self.memory.bytes() > self.limits.memory_bytes()
            && let Some(dropped) = self.memory.pop()
        {
            self.drops.count(Some(dropped.table), Reason::Full, 1);
        }
    }

    /// Tries the folder again, where it does not serve, and moves what is in memory into it.
    pub fn retry_disk(&mut self) {
        if self.disk_serves || self.dir.is_none() {
            return;
        }
        self.tried = Instant::now();
        self.peeked = Peeked::Nothing;
        if let Some(gone) = self.disk.take_if(|disk| disk.is_gone()) {
            gone.forget(&mut self.drops);
        }
        if self.disk.is_none()
            && let Err(error) = self.open_disk()
        {
            tracing::debug!(database = self.target, error = %error, "the spool's folder still cannot be used");
            return;
        }
        let Some(disk) = &mut self.disk else { return };
        while let Some(record) = self.memory.front() {
            if let Err(error) = disk.append(record, &self.limits, &mut self.drops) {
                self.disk_serves = false;
                tracing::debug!(database = self.target, error = %error, "the spool's folder still cannot be used");
                return;
            }
            self.memory.pop();
        }
        self.disk_serves = true;
        tracing::info!(database = self.target, "measurements are kept in {} again", self.place());
    }

    fn tell_fallen(&self, error: &io::Error) {
        let dir = self.dir.as_deref().unwrap_or(Path::new(""));
        if error.kind() == io::ErrorKind::WouldBlock {
            tracing::warn!(database = self.target, path = %dir.display(),
                "another process has this folder; what cannot be written is kept in memory until it is free");
        } else {
            tracing::warn!(database = self.target, path = %dir.display(), error = %error,
                "this folder cannot be used; what cannot be written is kept in memory until it can");
        }
    }

    /// The oldest records of a table, up to so many and about so many bytes, in order. Returns the
    /// same again until they are settled, and none when nothing waits for that table.
    pub fn peek(&mut self, table: Table, records_max: usize, bytes_max: usize) -> Vec<Record> {
        let records_max = records_max.max(1);
        if let Some(disk) = &mut self.disk {
            let records = disk.peek(table, records_max, bytes_max, &mut self.drops);
            if !records.is_empty() {
                self.peeked = Peeked::Disk;
                return records;
            }
        }
        let (numbers, records) = self.memory.peek(table, records_max, bytes_max);
        self.peeked = Peeked::Memory(numbers);
        records
    }

    /// The first so many of those last peeked at are done with.
    pub fn settle(&mut self, records: usize) {
        match std::mem::replace(&mut self.peeked, Peeked::Nothing) {
            Peeked::Nothing => {}
            Peeked::Disk => {
                if let Some(disk) = &mut self.disk {
                    disk.settle(records);
                }
            }
            Peeked::Memory(mut numbers) => {
                numbers.truncate(records);
                self.memory.settle(&numbers);
            }
        }
    }

    /// The newest records, about so many bytes of them, oldest first: to be looked at only. Of
    /// records of one instant all or none.
    pub fn newest(&self, bytes_max: usize) -> Vec<Record> {
        let mut records = VecDeque::new();
        let (mut bytes, mut cut) = (0, None);
        let disk = self.disk.as_ref().into_iter().flat_map(Disk::newest_first);
        for record in self.memory.newest_first().cloned().chain(disk) {
            bytes += record.size();
            if bytes > bytes_max {
                cut = Some(record.at);
                break;
            }
            records.push_front(record);
        }
        while records.front().is_some_and(|record| Some(record.at) == cut) {
            records.pop_front();
        }
        records.into()
    }

    /// Drops what is too old to be kept at `now`: on disk by whole segments, so up to a sixteenth
    /// of the age late.
    pub fn expire(&mut self, now: DateTime<Utc>) {
        let age = TimeDelta::from_std(self.limits.max_age).unwrap_or(TimeDelta::MAX);
        let Some(before) = now.checked_sub_signed(age) else { return };
        if let Some(disk) = &mut self.disk {
            disk.expire(before, &mut self.drops);
        }
        while self.memory.front().is_some_and(|record| record.at < before)
            && let Some(dropped) = self.memory.pop()
        {
            self.drops.count(Some(dropped.table), Reason::Age, 1);
        }
    }

    /// What waits.
    pub fn depth(&self) -> Depth {
        let mut depth = self.disk.as_ref().map(Disk::depth).unwrap_or_default();
        self.memory.count(&mut depth);
        depth
    }

    /// Records that end with the process.
    pub fn in_memory(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Where the next record goes.
    pub fn place(&self) -> Place {
        match (&self.dir, self.disk_serves) {
            (Some(dir), true) => Place::Folder(dir.clone()),
            _ => Place::Memory,
        }
    }

    /// What was lost since this was last asked. Damage is counted once per damaged place, without a
    /// table.
    pub fn take_drops(&mut self) -> Vec<(Option<Table>, Reason, u64)> {
        let drops = std::mem::take(&mut self.drops.0);
        drops.into_iter().map(|((table, reason), records)| (table, reason, records)).collect()
    }
}
