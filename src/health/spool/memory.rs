//! Records in memory: where there is no folder, or it cannot be written to.

use std::collections::VecDeque;

use super::record::{HEADER, Record};

/// First in, first out, within a bound that its owner keeps.
#[derive(Debug, Default)]
pub struct Memory {
    records: VecDeque<Record>,
    bytes: usize,
    /// How many have ever been taken from the front: names a place in the order.
    taken: u64,
}

impl Memory {
    pub fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push_back(record);
    }

    pub fn pop(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        self.bytes -= record.size();
        self.taken += 1;
        Some(record)
    }

    pub fn front(&self) -> Option<&Record> {
        self.records.front()
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The place of the oldest.
    pub fn place(&self) -> u64 {
        self.taken
    }

    /// The oldest, up to so many and about so many bytes; at least one where there is one.
    pub fn peek(&self, records_max: usize, bytes_max: usize) -> Vec<Record> {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            let first = bytes == 0;
            bytes += HEADER + record.body.len();
            first || bytes <= bytes_max
        };
        self.records.iter().take(records_max).take_while(fits).cloned().collect()
    }

    /// Everything, from the newest on.
    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().rev()
    }

    /// Drops what stands before a place.
    pub fn settle(&mut self, place: u64) {
        while self.taken < place && self.pop().is_some() {}
    }
}
