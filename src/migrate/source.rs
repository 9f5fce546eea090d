//! Where migrations come from: the sets that the binary carries, and folders of SQL files.
//!
//! A file is named `NNN_name.sql` (or `.up.sql`) with an optional `NNN_name.down.sql` beside it. The
//! number is the version: digits of any count, so that `001` and `20261122093000` both work. Every
//! problem of a folder is reported at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::markers::{self, Direction};
use crate::sets::Manifest;
use crate::sql::{self, RefusalReason};

/// The set read from `migrations.dir` or `--dir`.
pub const APP: &str = "app";

/// A file larger than this is data, not schema.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// All files together, since they are held in memory at once.
const FOLDER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// More files than any history in use.
const FILES_MAX: usize = 100_000;

/// One version of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    pub set: String,
    pub version: i64,
    /// The part of the file's name after the number.
    pub name: String,
    /// The file as an operator knows it.
    pub file: String,
    pub up: String,
    pub down: Option<String>,
    /// SHA-256 of the up file's bytes, in hexadecimal.
    pub checksum: String,
}

impl Migration {
    fn new(
        set: &str,
        version: i64,
        name: &str,
        file: String,
        up: String,
        down: Option<String>,
    ) -> Migration {
        let checksum = checksum(up.as_bytes());
        Migration { set: set.to_owned(), version, name: name.to_owned(), file, up, down, checksum }
    }
}

/// Migrations under one name, in the order of their versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub migrations: Vec<Migration>,
}

/// RefusalReason a folder cannot be read as a set: every problem found.
#[derive(Debug, thiserror::Error)]
#[error("{folder}: {}", problems.join("; "))]
pub struct SourceError {
    pub folder: String,
    pub problems: Vec<String>,
}

/// Returns the migrations of a bundled set.
pub fn bundled(set: &Manifest) -> Set {
    let migrations = set
        .files
        .iter()
        .filter_map(|file| {
            let (version, rest) = split_name(file.name)?;
            let name = rest.trim_end_matches(".sql");
            let label = format!("{}/{}", set.name, file.name);
            let down = Some(file.down.to_owned());
            Some(Migration::new(set.name, version, name, label, file.up.to_owned(), down))
        })
        .collect();
    Set { name: set.name.to_owned(), migrations }
}

/// Reads a folder as the set `name`. Files that do not end in `.sql` are left alone.
pub fn read_dir(name: &str, folder: &Path) -> Result<Set, SourceError> {
    let mut reader = Reader::default();
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for (count, entry) in entries.enumerate() {
                if count == FILES_MAX {
                    reader
                        .problems
                        .push(format!("more than {FILES_MAX} entries; is this the right folder?"));
                    break;
                }
                match entry {
                    Ok(entry) => reader.entry(entry.path()),
                    Err(error) => reader.problems.push(format!("read the folder: {error}")),
                }
            }
        }
        Err(error) => reader.problems.push(format!("read the folder: {error}")),
    }
    reader.finish(name, folder)
}

#[derive(Default)]
struct Reader {
    ups: BTreeMap<i64, Vec<PathBuf>>,
    downs: BTreeMap<i64, Vec<PathBuf>>,
    problems: Vec<String>,
    bytes: u64,
}

impl Reader {
    fn entry(&mut self, path: PathBuf) {
        let Some(file) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else {
            self.problems.push(format!("{}: the name is not UTF-8", path.display()));
            return;
        };
        // What editors and file systems leave beside a file (`._001_a.sql`, `.#001_a.sql`) is hidden.
        if !file.ends_with(".sql") || file.starts_with('.') {
            return;
        }
        match split_name(&file) {
            None => self.problems.push(format!(
                "{file}: found no version; wanted a name such as 001_create_users.sql or 001_create_users.down.sql"
            )),
            Some((version, rest)) if rest.ends_with(".down.sql") => self.downs.entry(version).or_default().push(path),
            Some((version, _)) => self.ups.entry(version).or_default().push(path),
        }
    }

    fn finish(mut self, name: &str, folder: &Path) -> Result<Set, SourceError> {
        let mut migrations = Vec::with_capacity(self.ups.len());
        for (version, paths) in std::mem::take(&mut self.ups) {
            let downs = self.downs.remove(&version).unwrap_or_default();
            for several in [&paths, &downs].into_iter().filter(|paths| paths.len() > 1) {
                let files: Vec<String> = several.iter().map(|path| file_name(path)).collect();
                self.problems.push(format!(
                    "version {version} stands twice: {}; give one of them another number",
                    files.join(", ")
                ));
            }
            let up = self.text(&paths[0]);
            let down = downs.first().and_then(|path| self.text(path));
            if let Some(up) = up {
                let file = file_name(&paths[0]);
                let rest = split_name(&file).map_or("", |(_, rest)| rest);
                let title = rest.strip_suffix(".sql").unwrap_or(rest);
                let title = title.strip_suffix(".up").unwrap_or(title);
                self.check(&file, &up, Direction::Up);
                if let (Some(down), Some(path)) = (&down, downs.first()) {
                    self.check(&file_name(path), down, Direction::Down);
                }
                let path = paths[0].display().to_string();
                migrations.push(Migration::new(name, version, title, path, up, down));
            }
        }
        for paths in self.downs.values() {
            for path in paths {
                self.problems
                    .push(format!("{}: there is no migration that it undoes", file_name(path)));
            }
        }
        if self.problems.is_empty() {
            Ok(Set { name: name.to_owned(), migrations })
        } else {
            Err(SourceError { folder: folder.display().to_string(), problems: self.problems })
        }
    }

    /// Adds everything that keeps a file from running as one transaction in one direction.
    fn check(&mut self, file: &str, text: &str, direction: Direction) {
        if let Some(marker) = markers::find(text, direction) {
            self.problems.push(format!(
                "{file}:{}: found {:?}, a section marker of {}; expected one file per direction, \
                 NNN_name.sql and NNN_name.down.sql, because PostgreSQL ignores the marker and would \
                 run every section; split the file and remove its markers",
                marker.line, marker.comment, marker.tool
            ));
        }
        for refusal in sql::refusals(text) {
            self.problems.push(format!("{file}:{}: {}", refusal.line, refused(&refusal.reason)));
        }
    }

    fn text(&mut self, path: &Path) -> Option<String> {
        match read_text(path) {
            Ok(text) => {
                self.bytes = self.bytes.saturating_add(text.len() as u64);
                if self.bytes > FOLDER_BYTES_MAX {
                    self.problems.push(format!(
                        "{}: with this file the folder has more than {FOLDER_BYTES_MAX} bytes of SQL; is this the \
                         right folder?",
                        file_name(path)
                    ));
                    return None;
                }
                Some(text)
            }
            Err(problem) => {
                self.problems.push(format!("{}: {problem}", file_name(path)));
                None
            }
        }
    }
}

/// Reads no more than a file may have, whatever it grows to meanwhile.
fn read_text(path: &Path) -> Result<String, String> {
    // Before opening: a named pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(|error| error.to_string())?.is_file() {
        return Err("found a folder or a device, wanted a file of SQL".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "found more than {FILE_BYTES_MAX} bytes; data of that size does not belong in a migration"
        ));
    }
    let line_at = |at: usize| bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(format!("line {}: found a NUL byte, which SQL cannot hold", line_at(at)));
    }
    if let Err(error) = std::str::from_utf8(&bytes) {
        return Err(format!(
            "line {}: found bytes that are not UTF-8, wanted UTF-8",
            line_at(error.valid_up_to())
        ));
    }
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `001_create_users.sql` → (1, `create_users.sql`).
fn split_name(file: &str) -> Option<(i64, &str)> {
    let (digits, rest) = file.split_once('_')?;
    let version =
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()?;
    (version > 0 && !matches!(rest, ".sql" | ".up.sql" | ".down.sql")).then_some((version, rest))
}

/// SHA-256 in hexadecimal.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What was found in a migration, and what is wanted.
fn refused(why: &RefusalReason) -> String {
    match why {
        RefusalReason::Transaction(word) => format!(
            "found {word}, which begins or ends a transaction; a migration is one transaction already: remove it"
        ),
        RefusalReason::Psql(line) => {
            format!("found the psql command {line:?}; only SQL can be sent to the server")
        }
        RefusalReason::ClientCopy => {
            "found COPY through the client, which has no data to give or take; use INSERT"
                .to_owned()
        }
        RefusalReason::OutsideOnly(line) => {
            format!(
                "found {line:?}, which PostgreSQL refuses inside a transaction; run it outside the migrations"
            )
        }
        RefusalReason::Unterminated(what) => format!("{what} is not terminated"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_in_the_order_of_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("10_c.up.sql", "SELECT 10"),
            ("2_b.sql", "SELECT 2"),
            ("2_b.down.sql", "SELECT -2"),
            ("001_a.sql", "SELECT 1"),
            ("README.md", "not SQL"),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let set = read_dir("app", folder.path()).unwrap();
        let read: Vec<_> = set
            .migrations
            .iter()
            .map(|m| (m.version, m.name.as_str(), m.down.as_deref()))
            .collect();
        assert_eq!(read, [(1, "a", None), (2, "b", Some("SELECT -2")), (10, "c", None)]);
        assert_eq!(set.migrations[0].checksum, checksum(b"SELECT 1"));
    }

    #[test]
    fn every_problem_of_a_folder_is_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in [
            ("1_a.sql", "SELECT 1;\nCOMMIT;"),
            ("01_b.sql", "SELECT 1"),
            ("3_c.down.sql", "SELECT 1"),
            ("create.sql", "SELECT 1"),
            ("4_nul.sql", "SELECT\n'\0'"),
            ("9_dbmate.sql", "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;"),
            ("10_goose.sql", "SELECT 1;"),
            ("10_goose.down.sql", "-- undo\n-- +goose Down\nSELECT 1;"),
            ("._7_left_by_a_file_system.sql", "\0"),
        ] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        std::fs::write(folder.path().join("5_latin1.sql"), b"SELECT 1;\n\nSELECT '\xe4'").unwrap();
        std::fs::create_dir(folder.path().join("6_folder.sql")).unwrap();
        let large = std::fs::File::create(folder.path().join("8_large.sql")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = read_dir("app", folder.path()).unwrap_err().to_string();
        for part in [
            "stands twice",
            "1_a.sql:2: found COMMIT",
            "9_dbmate.sql:1: found \"-- migrate:up\", a section marker of dbmate; expected one file",
            "10_goose.down.sql:2: found \"-- +goose Down\", a section marker of goose",
            "no migration that it undoes",
            "found no version",
            "4_nul.sql: line 2: found a NUL byte",
            "5_latin1.sql: line 3: found bytes that are not UTF-8",
            "6_folder.sql: found a folder",
            "8_large.sql: found more than 16777216 bytes",
        ] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
        assert!(!error.contains("left_by"), "{error}");
        let missing = read_dir("app", &folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(missing.contains("read the folder"), "{missing}");
    }

    #[test]
    fn the_binary_carries_every_file_of_the_folders() {
        for set in crate::sets::BUNDLED {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(set.name);
            let on_disk = read_dir(set.name, &folder).unwrap();
            let carried = bundled(set);
            let list = |set: &Set| {
                set.migrations
                    .iter()
                    .map(|m| (m.version, m.name.clone(), m.checksum.clone()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(list(&carried), list(&on_disk));
            assert!(carried.migrations.iter().all(|m| m.down.is_some()));
        }
    }
}
