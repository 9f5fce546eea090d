//! Records in memory: where there is no folder, or it cannot be written to.

use std::collections::VecDeque;

use super::Depth;
use super::record::{Record, Table};

/// First in, first out for each table, within a bound that its owner keeps.
#[derive(Debug, Default)]
pub struct Memory {
    /// Each with its number, in the order in which they came.
    records: VecDeque<(u64, Record)>,
    bytes: usize,
    next: u64,
}

impl Memory {
    pub fn push(&mut self, record: Record) {
        self.bytes += record.size();
        self.records.push_back((self.next, record));
        self.next += 1;
    }

    pub fn pop(&mut self) -> Option<Record> {
        let (_, record) = self.records.pop_front()?;
        self.bytes -= record.size();
        Some(record)
    }

    pub fn front(&self) -> Option<&Record> {
        self.records.front().map(|(_, record)| record)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds what waits here.
    pub fn count(&self, depth: &mut Depth) {
        depth.bytes += self.bytes as u64;
        depth.oldest = depth.oldest.or_else(|| self.front().map(|record| record.at));
        for (_, record) in &self.records {
            depth.tables[record.table as usize] += 1;
        }
    }

    /// The oldest records of a table with their numbers, up to so many and about so many bytes; at
    /// least one where there is one.
    pub fn peek(
        &self,
        table: Table,
        records_max: usize,
        bytes_max: usize,
    ) -> (Vec<u64>, Vec<Record>) {
        let mut bytes = 0;
        let fits = |(_, record): &&(u64, Record)| {
            let first = bytes == 0;
            bytes += record.size();
            first || bytes <= bytes_max
        };
        let of_table = self.records.iter().filter(|(_, record)| record.table == table);
        of_table.take(records_max).take_while(fits).cloned().unzip()
    }

    /// Everything, from the newest on.
    pub fn newest_first(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().rev().map(|(_, record)| record)
    }

    /// Removes the records with these numbers, which ascend.
    pub fn settle(&mut self, numbers: &[u64]) {
        self.records.retain(|(number, record)| {
            let done = numbers.binary_search(number).is_ok();
            if done {
                self.bytes -= record.size();
            }
            !done
        });
    }
}
