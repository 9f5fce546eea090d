//! Publishes heads outside the database, in a file that is only appended to.
//!
//! Each line is one entry of the chain as JSON. With an old line a third party can show later that
//! the chain was rewritten, and a superuser of the database cannot undo that. Two files of at most
//! [`FILE_BYTES_MAX`] are kept; the older one has the suffix `.1`.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use tokio::fs::{self, File};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::chain::{Head, unhex};
use super::hex;
use crate::store::seals::Seal;

/// About 30,000 heads, which is three weeks at one a minute.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The number of bytes at the end that are read to find the last line.
const TAIL_BYTES: u64 = 16 * 1024;

/// The published part of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedHead {
    /// The name of the database in the configuration.
    pub database: String,
    /// The number of the entry.
    pub seal: i64,
    /// The hash in hexadecimal.
    pub head: String,
    pub kind: String,
    pub epoch: String,
    pub rows: i64,
    pub sealed_at: String,
}

impl PublishedHead {
    pub fn of(database: &str, seal: &Seal) -> PublishedHead {
        PublishedHead {
            database: database.to_owned(),
            seal: seal.number,
            head: hex(seal.head),
            kind: seal.what.kind().to_owned(),
            epoch: seal.epoch.clone(),
            rows: seal.row_count,
            sealed_at: rfc3339(seal.sealed_at),
        }
    }

    /// Parses number and hash. Returns `None` if the hash is malformed.
    pub fn head(&self) -> Option<Head> {
        Some(Head { number: self.seal, hash: unhex(&self.head)? })
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Parses the heads in the lines of a file. Skips lines that are malformed or cut off.
pub fn parse(text: &str) -> impl Iterator<Item = PublishedHead> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The file of one database's heads.
#[derive(Debug, Clone)]
pub struct HeadFile {
    path: PathBuf,
}

impl HeadFile {
    pub fn new(dir: &Path, database: &str) -> HeadFile {
        HeadFile { path: dir.join(format!("audit-heads-{database}.jsonl")) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn rotated(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    /// Reads the last complete line. If the process was killed between rotating the file and
    /// creating the next one, that is a line of the rotated file. Returns `None` if there is no
    /// line.
    pub async fn last(&self) -> io::Result<Option<PublishedHead>> {
        let file = match File::open(&self.path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => File::open(self.rotated()).await,
            opened => opened,
        };
        let mut file = match file {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = file.metadata().await?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).await?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail).await?;
        Ok(parse(&String::from_utf8_lossy(&tail)).last())
    }

    /// Appends entries and returns when they are on disk.
    pub async fn append(&self, entries: &[PublishedHead]) -> io::Result<()> {
        let mut lines = String::new();
        for entry in entries {
            lines.push_str(&serde_json::to_string(entry)?);
            lines.push('\n');
        }
        if fs::metadata(&self.path).await.is_ok_and(|file| file.len() >= FILE_BYTES_MAX) {
            fs::rename(&self.path, self.rotated()).await?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).append(true).read(true).open(&self.path).await?;
        if !ends_with_newline(&mut file).await? {
            // The last line is incomplete, after a crash or on a full disk.
            lines.insert(0, '\n');
        }
        file.write_all(lines.as_bytes()).await?;
        file.flush().await?;
        file.sync_data().await
    }
}

async fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata().await?.len() == 0 {
        return Ok(true);
    }
    file.seek(io::SeekFrom::End(-1)).await?;
    Ok(file.read_u8().await? == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seal: i64) -> PublishedHead {
        PublishedHead {
            database: "main".into(),
            seal,
            head: "ab".repeat(32),
            kind: "rows".into(),
            epoch: "7/1".into(),
            rows: 3,
            sealed_at: rfc3339(DateTime::from_timestamp_micros(1_796_000_000_000_001).unwrap()),
        }
    }

    #[tokio::test]
    async fn lines_are_appended_and_an_incomplete_one_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let file = HeadFile::new(dir.path(), "main");
        assert_eq!(file.last().await.unwrap(), None);
        file.append(&[entry(1), entry(2)]).await.unwrap();
        assert_eq!(file.last().await.unwrap(), Some(entry(2)));
        assert_eq!(entry(2).head().map(|head| head.number), Some(2));
        // The process was killed while it wrote.
        let whole = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &whole[..whole.len() - 20]).unwrap();
        assert_eq!(file.last().await.unwrap(), Some(entry(1)));
        file.append(&[entry(2)]).await.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(parse(&text).collect::<Vec<_>>(), [entry(1), entry(2)]);
        assert!(text.contains(r#""sealed_at":"2026-11-30T00:53:20.000001Z""#), "{text}");
    }

    #[tokio::test]
    async fn a_full_file_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let file = HeadFile::new(dir.path(), "main");
        file.append(&[entry(1)]).await.unwrap();
        let padding = "x".repeat(FILE_BYTES_MAX as usize);
        std::fs::write(
            file.path(),
            format!("{padding}\n{}\n", serde_json::to_string(&entry(6)).unwrap()),
        )
        .unwrap();
        assert_eq!(file.last().await.unwrap(), Some(entry(6)));
        file.append(&[entry(7)]).await.unwrap();
        assert_eq!(
            parse(&std::fs::read_to_string(file.path()).unwrap()).collect::<Vec<_>>(),
            [entry(7)]
        );
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(file.last().await.unwrap(), Some(entry(6)), "from the rotated file");
    }
}
