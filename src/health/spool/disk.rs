//! Records in a folder: segments that are only appended to, and deleted whole.
//!
//! ```text
//! state_dir/spool/TARGET/lock                        flock: one process
//! state_dir/spool/TARGET/00000000000000000007.spool  oldest segment
//! state_dir/spool/TARGET/00000000000000000008.spool  newest, appended to
//! ```
//! Dropping the oldest is deleting a file, so no file is ever rewritten. How far each table's
//! records of a segment are settled is known in memory only: after a crash the segments that were
//! left are read again from their beginning, and the rows that were written are refused by their
//! keys. While one table accepts no rows, these are all segments since. A segment found at the
//! start is never appended to, so that what follows a torn tail is still found. Nothing is synced:
//! a process that is killed loses nothing, a machine that goes down loses what its kernel had not
//! written yet, which is the end of the record at most.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::FlockOperation;

use super::record::{Piece, Pieces, Record, Table};
use super::{Depth, Drops, Limits, Reason};

const SUFFIX: &str = ".spool";
/// What of a segment is read: more is not ours.
const SEGMENT_READ_MAX: u64 = 8 * 1024 * 1024;

/// A locked folder of segments.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// Held for as long as this lives.
    lock: File,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// Of the newest segment, where it was begun here.
    active: Option<File>,
    next: u64,
    /// The segment last peeked into, the table, and the offset behind each record that was
    /// returned.
    peeked: Option<(u64, Table, Vec<u64>)>,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Of the file.
    bytes: u64,
    /// For each table, the offset behind its last settled record.
    settled: [u64; Table::ALL.len()],
    /// For each table, how many records follow that offset.
    records: [u64; Table::ALL.len()],
    first: DateTime<Utc>,
    last: DateTime<Utc>,
}

impl Segment {
    fn len(&self) -> u64 {
        self.records.iter().sum()
    }
}

impl Disk {
    /// Makes the folder where it is missing, locks it, and reads what it holds.
    ///
    /// # Errors
    /// The operating system's; `WouldBlock` when another process has the folder.
    pub fn open(dir: &Path, drops: &mut Drops) -> io::Result<Disk> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let mut numbers: Vec<u64> = fs::read_dir(dir)?
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_suffix(SUFFIX)?.parse().ok()
            })
            .collect();
        numbers.sort_unstable();
        let next = numbers.last().map_or(1, |last| last.saturating_add(1));
        let mut disk = Disk {
            dir: dir.to_owned(),
            lock,
            segments: VecDeque::new(),
            active: None,
            next,
            peeked: None,
        };
        for number in numbers {
            disk.adopt(number, drops);
        }
        Ok(disk)
    }

    /// Takes in a segment that was found, if there is anything in it.
    fn adopt(&mut self, number: u64, drops: &mut Drops) {
        let bytes = match self.read(number, 0) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(path = %self.path(number).display(), error = %error, "a segment of the spool cannot be read");
                drops.count(None, Reason::Disk, 1);
                return;
            }
        };
        let mut segment: Option<Segment> = None;
        let mut damaged = 0;
        for (_, piece) in Pieces::new(&bytes, 0) {
            match piece {
                Piece::Record(record) => match &mut segment {
                    Some(segment) => segment.take(&record),
                    None => segment = Some(Segment::begin(number, bytes.len() as u64, &record)),
                },
                Piece::Damage => damaged += 1,
            }
        }
        if damaged > 0 {
            // Each place is counted once, since nobody knows how many rows it was.
            tracing::warn!(path = %self.path(number).display(), damaged,
                "a segment of the spool is damaged; what is whole in it is kept, the rest is lost");
            drops.count(None, Reason::Damaged, damaged);
        }
        match segment {
            Some(segment) => self.segments.push_back(segment),
            None => self.delete(number),
        }
    }

    /// Writes a record, after making room for it.
    ///
    /// # Errors
    /// The operating system's; nothing of the record is kept then.
    pub fn append(
        &mut self,
        record: &Record,
        limits: &Limits,
        drops: &mut Drops,
    ) -> io::Result<()> {
        let bytes = record.encode();
        while self.bytes() + bytes.len() as u64 > limits.max_bytes as u64
            && self.drop_oldest(Reason::Full, drops)
        {}
        let fits = self.active.is_some()
            && self.segments.back().is_some_and(|segment| {
                segment.bytes + bytes.len() as u64 <= limits.segment_bytes() as u64
                    && record.at - segment.first <= limits.segment_span()
            });
        if !fits {
            self.active = None;
        }
        let (file, begins) = match &mut self.active {
            Some(file) => (file, false),
            None => {
                let path = self.path(self.next);
                let file =
                    OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
                self.next += 1;
                (self.active.insert(file), true)
            }
        };
        let before =
            if begins { 0 } else { self.segments.back().map_or(0, |segment| segment.bytes) };
        let written = match file.metadata() {
            // Somebody took the folder away: what is written into it now is lost.
            Ok(found) if found.nlink() == 0 => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the file was removed"))
            }
            Ok(_) => file.write_all(&bytes),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // A part of it would be skipped as damaged by the next reader; better that there is
            // none.
            let _ = file.set_len(before);
            self.active = None;
            if begins {
                self.delete(self.next - 1);
            }
            return Err(error);
        }
        match self.segments.back_mut() {
            Some(segment) if !begins => {
                segment.bytes += bytes.len() as u64;
                segment.take(record);
            }
            _ => self.segments.push_back(Segment::begin(self.next - 1, bytes.len() as u64, record)),
        }
        Ok(())
    }

    /// The oldest records of a table, up to so many and about so many bytes, from one segment.
    /// Returns none when none are left.
    pub fn peek(
        &mut self,
        table: Table,
        records_max: usize,
        bytes_max: usize,
        drops: &mut Drops,
    ) -> Vec<Record> {
        let waits = |segment: &Segment| segment.records[table as usize] > 0;
        while let Some(place) = self.segments.iter().position(waits) {
            let segment = &self.segments[place];
            let (number, settled) = (segment.number, segment.settled[table as usize]);
            let bytes = self.read(number, settled);
            let (mut records, mut ends, mut size) = (Vec::new(), Vec::new(), 0);
            for (end, piece) in Pieces::new(bytes.as_deref().unwrap_or_default(), 0) {
                let Piece::Record(record) = piece else { continue };
                if record.table != table {
                    continue;
                }
                size += record.size();
                if records.len() == records_max || (size > bytes_max && !records.is_empty()) {
                    break;
                }
                ends.push(settled + end as u64);
                records.push(record);
            }
            if !records.is_empty() {
                self.peeked = Some((number, table, ends));
                return records;
            }
            let reason = match bytes {
                // It was whole when it was found or written.
                Ok(_) => Reason::Damaged,
                Err(error) => {
                    tracing::warn!(path = %self.path(number).display(), error = %error,
                        "a segment of the spool cannot be read");
                    Reason::Disk
                }
            };
            let lost = std::mem::take(&mut self.segments[place].records[table as usize]);
            drops.count(Some(table), reason, lost);
            self.remove_if_done(place);
        }
        Vec::new()
    }

    /// What waits, from the newest on, read as it is asked for; what cannot be read is passed over.
    pub fn newest_first(&self) -> impl Iterator<Item = Record> {
        self.segments.iter().rev().flat_map(|segment| {
            let bytes = self.read(segment.number, 0).unwrap_or_default();
            let waiting = Pieces::new(&bytes, 0).filter_map(|(end, piece)| match piece {
                Piece::Record(record) => {
                    (end as u64 > segment.settled[record.table as usize]).then_some(record)
                }
                Piece::Damage => None,
            });
            let records: Vec<Record> = waiting.collect();
            records.into_iter().rev()
        })
    }

    /// The first so many of those last peeked at are done.
    pub fn settle(&mut self, records: usize) {
        let Some((number, table, ends)) = self.peeked.take() else { return };
        let found = self.segments.iter().position(|segment| segment.number == number);
        let Some(place) = found else { return };
        let segment = &mut self.segments[place];
        for end in ends.into_iter().take(records) {
            segment.settled[table as usize] = end;
            let left = &mut segment.records[table as usize];
            *left = left.saturating_sub(1);
        }
        self.remove_if_done(place);
    }

    /// Deletes a segment that nothing waits in.
    fn remove_if_done(&mut self, place: usize) {
        if self.segments[place].len() > 0 {
            return;
        }
        if place + 1 == self.segments.len() {
            self.active = None;
        }
        if let Some(segment) = self.segments.remove(place) {
            self.delete(segment.number);
        }
    }

    /// Drops segments whose newest record is from before that instant.
    pub fn expire(&mut self, before: DateTime<Utc>, drops: &mut Drops) {
        while self.segments.front().is_some_and(|segment| segment.last < before) {
            self.drop_oldest(Reason::Age, drops);
        }
    }

    /// Deletes the oldest segment; what it still held is counted. False when there is none.
    fn drop_oldest(&mut self, reason: Reason, drops: &mut Drops) -> bool {
        let Some(segment) = self.segments.pop_front() else { return false };
        if self.segments.is_empty() {
            self.active = None;
        }
        for (table, records) in Table::ALL.into_iter().zip(segment.records) {
            drops.count(Some(table), reason, records);
        }
        self.delete(segment.number);
        true
    }

    /// A file that cannot be deleted is found again at the next start, and its rows are refused by
    /// their keys.
    fn delete(&self, number: u64) {
        let path = self.path(number);
        if let Err(error) = fs::remove_file(&path) {
            tracing::debug!(path = %path.display(), error = %error, "a segment of the spool cannot be deleted");
        }
    }

    fn read(&self, number: u64, from: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(number))?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(SEGMENT_READ_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}{SUFFIX}"))
    }

    /// What waits. The oldest instant is that of the oldest segment; the record itself may be a
    /// little younger.
    pub fn depth(&self) -> Depth {
        let mut depth = Depth {
            bytes: self.bytes(),
            oldest: self.segments.front().map(|segment| segment.first),
            ..Depth::default()
        };
        for segment in &self.segments {
            for (sum, records) in depth.tables.iter_mut().zip(segment.records) {
                *sum += records;
            }
        }
        depth
    }

    /// Of the files.
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Whether the folder was taken away: its lock keeps nobody off any more.
    pub fn is_gone(&self) -> bool {
        self.lock.metadata().is_ok_and(|found| found.nlink() == 0)
    }

    /// Counts everything as lost with the folder.
    pub fn forget(mut self, drops: &mut Drops) {
        while self.drop_oldest(Reason::Disk, drops) {}
    }

    #[cfg(test)]
    pub fn replace_active(&mut self, file: File) {
        self.active = Some(file);
    }
}

impl Segment {
    fn begin(number: u64, bytes: u64, record: &Record) -> Segment {
        let mut segment = Segment {
            number,
            bytes,
            settled: Default::default(),
            records: Default::default(),
            first: record.at,
            last: record.at,
        };
        segment.take(record);
        segment
    }

    fn take(&mut self, record: &Record) {
        self.records[record.table as usize] += 1;
        self.first = self.first.min(record.at);
        self.last = self.last.max(record.at);
    }
}
