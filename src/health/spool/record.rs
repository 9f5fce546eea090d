//! One record as bytes, and finding records among damaged ones.
//!
//! ```text
//! FE 's' 'p' FF │ length u32 │ at i64 µs │ version u8 │ table u8 │ 0 0 │ checksum 12 bytes │ body
//! ```
//! Numbers are little-endian. The checksum is the head of a SHA-256 over everything else but the
//! mark, so that a length that was damaged is found out too. The mark holds bytes that UTF-8 has not,
//! and a body is JSON: after a damaged place the next record is found by looking for the mark.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

/// How a record begins.
const MARK: [u8; 4] = [0xFE, b's', b'p', 0xFF];
/// Of the body; raised when an older pgsteward could not read it.
const VERSION: u8 = 1;
const SUM: usize = 12;
/// Of what stands before the checksum.
const FIELDS: usize = MARK.len() + 4 + 8 + 4;
/// Bytes before the body.
pub const HEADER: usize = FIELDS + SUM;
/// No row of ours is nearly as large; what claims to be is damaged.
pub const BODY_MAX: usize = 256 * 1024;

/// The table that a record's row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    SystemHealth,
    ConnectionMetrics,
    AuditLogs,
}

impl Table {
    pub const ALL: [Table; 3] = [Table::SystemHealth, Table::ConnectionMetrics, Table::AuditLogs];

    /// Its name, without the schema.
    pub fn as_str(self) -> &'static str {
        match self {
            Table::SystemHealth => "system_health",
            Table::ConnectionMetrics => "connection_metrics",
            Table::AuditLogs => "audit_logs",
        }
    }

    fn code(self) -> u8 {
        match self {
            Table::SystemHealth => 1,
            Table::ConnectionMetrics => 2,
            Table::AuditLogs => 3,
        }
    }
}

/// One row, as it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was measured, to the microsecond.
    pub at: DateTime<Utc>,
    pub table: Table,
    /// JSON. What is in it is the writer's and the reader's.
    pub body: Vec<u8>,
}

impl Record {
    /// Bytes on disk.
    pub fn size(&self) -> usize {
        HEADER + self.body.len()
    }

    /// As it is written. The body is at most [`BODY_MAX`] long.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        bytes.extend(MARK);
        bytes.extend(u32::try_from(self.body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(self.at.timestamp_micros().to_le_bytes());
        bytes.extend([VERSION, self.table.code(), 0, 0]);
        bytes.extend(checksum(&bytes[MARK.len()..], &self.body));
        bytes.extend(&self.body);
        bytes
    }
}

/// What stands at a place of a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Record(Record),
    /// Bytes that are no record, or one that this version cannot read.
    Damage,
}

/// The pieces of a file in order, each with the offset behind it. Damaged bytes side by side are one
/// piece.
pub struct Pieces<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Pieces<'_> {
    /// From an offset on, which is the beginning or the end of a record.
    pub fn new(bytes: &[u8], offset: usize) -> Pieces<'_> {
        Pieces { bytes, offset: offset.min(bytes.len()) }
    }
}

impl Iterator for Pieces<'_> {
    type Item = (usize, Piece);

    fn next(&mut self) -> Option<(usize, Piece)> {
        let rest = &self.bytes[self.offset..];
        if rest.is_empty() {
            return None;
        }
        if let Some((size, piece)) = decode(rest) {
            self.offset += size;
            return Some((self.offset, piece));
        }
        let mut from = 1;
        let next = loop {
            let Some(at) = find_mark(rest, from) else { break rest.len() };
            if decode(&rest[at..]).is_some() {
                break at;
            }
            from = at + 1;
        };
        self.offset += next;
        Some((self.offset, Piece::Damage))
    }
}

fn find_mark(bytes: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(MARK.len()).position(|window| window == MARK)?;
    Some(from + found)
}

/// The whole record that the bytes begin with. None where they do not.
fn decode(bytes: &[u8]) -> Option<(usize, Piece)> {
    let header = bytes.first_chunk::<HEADER>()?;
    if !header.starts_with(&MARK) {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(*header[4..].first_chunk()?)).ok();
    let length = length.filter(|length| *length <= BODY_MAX)?;
    let body = bytes.get(HEADER..HEADER + length)?;
    if header[FIELDS..] != checksum(&header[MARK.len()..FIELDS], body) {
        return None;
    }
    let at = DateTime::from_timestamp_micros(i64::from_le_bytes(*header[8..].first_chunk()?));
    let table = Table::ALL.into_iter().find(|table| table.code() == header[17]);
    let piece = match (at, table, header[16]) {
        (Some(at), Some(table), VERSION) => {
            Piece::Record(Record { at, table, body: body.to_vec() })
        }
        _ => Piece::Damage,
    };
    Some((HEADER + length, piece))
}

fn checksum(fields: &[u8], body: &[u8]) -> [u8; SUM] {
    let whole = Sha256::new().chain_update(fields).chain_update(body).finalize();
    let mut sum = [0; SUM];
    sum.copy_from_slice(&whole[..SUM]);
    sum
}
