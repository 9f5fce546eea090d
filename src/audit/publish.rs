//! Heads given to somebody outside the database: a file that is only appended to.
//!
//! A line is one entry of the chain as JSON. Whoever holds an old line can say later that the chain went
//! another way; who can write the database cannot take it back. Two files of at most [`FILE_BYTES_MAX`]
//! are kept, the older one with `.1` at the end.

use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::chain::{Head, unhex};
use super::hex;
use crate::store::seals::Seal;

/// About 30,000 heads: three weeks at one a minute.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How much of the end is read to find the last line.
const TAIL_BYTES: u64 = 16 * 1024;

/// What is published of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The name of the database, as configured.
    pub database: String,
    /// Number and hash.
    pub seal: i64,
    pub head: String,
    pub kind: String,
    pub epoch: String,
    pub rows: i64,
    pub sealed_at: String,
}

impl Published {
    /// Of an entry.
    pub fn of(database: &str, seal: &Seal) -> Published {
        Published {
            database: database.to_owned(),
            seal: seal.number,
            head: hex(seal.head),
            kind: seal.what.kind().to_owned(),
            epoch: seal.epoch.clone(),
            rows: seal.row_count,
            sealed_at: rfc3339(seal.sealed_at),
        }
    }

    /// Number and hash; none where the hash is no hash.
    pub fn head(&self) -> Option<Head> {
        Some(Head { number: self.seal, hash: unhex(&self.head)? })
    }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The heads in the lines of a file; what is no line of ours is passed over.
pub fn read(text: &str) -> impl Iterator<Item = Published> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// The file of one database.
#[derive(Debug, Clone)]
pub struct HeadFile {
    path: PathBuf,
}

impl HeadFile {
    /// In this folder.
    pub fn new(dir: &Path, database: &str) -> HeadFile {
        HeadFile { path: dir.join(format!("audit-heads-{database}.jsonl")) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last whole line. None where there is none.
    pub async fn last(&self) -> io::Result<Option<Published>> {
        let mut file = match tokio::fs::File::open(&self.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.last_before().await;
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata().await?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).await?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail).await?;
        Ok(read(&String::from_utf8_lossy(&tail)).last())
    }

    /// Of the file before, when the process ended between renaming it and beginning the next.
    async fn last_before(&self) -> io::Result<Option<Published>> {
        match tokio::fs::read(self.before()).await {
            Ok(bytes) => Ok(read(&String::from_utf8_lossy(&bytes)).last()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn before(&self) -> PathBuf {
        self.path.with_extension("jsonl.1")
    }

    /// Appends entries, and returns when they are on the disk.
    pub async fn append(&self, entries: &[Published]) -> io::Result<()> {
        let mut lines = String::new();
        for entry in entries {
            lines.push_str(&serde_json::to_string(entry)?);
            lines.push('\n');
        }
        if tokio::fs::metadata(&self.path).await.is_ok_and(|file| file.len() >= FILE_BYTES_MAX) {
            tokio::fs::rename(&self.path, self.before()).await?;
        }
        let mut file = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.path)
            .await?;
        if !ends_with_a_line(&mut file).await? {
            // A crash in the middle of a line, or a full disk.
            lines.insert(0, '\n');
        }
        file.write_all(lines.as_bytes()).await?;
        file.flush().await?;
        file.sync_data().await
    }
}

async fn ends_with_a_line(file: &mut tokio::fs::File) -> io::Result<bool> {
    if file.metadata().await?.len() == 0 {
        return Ok(true);
    }
    file.seek(io::SeekFrom::End(-1)).await?;
    Ok(file.read_u8().await? == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seal: i64) -> Published {
        Published {
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
    async fn lines_are_appended_and_a_torn_one_is_passed_over() {
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
        assert_eq!(read(&text).collect::<Vec<_>>(), [entry(1), entry(2)]);
        assert!(text.contains(r#""sealed_at":"2026-11-30T00:53:20.000001Z""#), "{text}");
    }

    #[tokio::test]
    async fn a_file_that_is_full_is_put_aside() {
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
            read(&std::fs::read_to_string(file.path()).unwrap()).collect::<Vec<_>>(),
            [entry(7)]
        );
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(file.last().await.unwrap(), Some(entry(6)), "of the file before");
    }
}
