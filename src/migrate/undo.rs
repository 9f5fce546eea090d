//! What a rollback undoes, worked out from the files and the history. Pure.

use serde::Serialize;

use super::plan::{self, State};
use super::source::Set;
use super::{Error, ErrorKind};
use crate::store::schema_migrations::AppliedMigration;

/// How far to roll back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The newest version only.
    One,
    /// Everything above this version, which stays.
    To(i64),
    /// Everything.
    All,
}

/// One version to be undone, and the SQL that does it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undo {
    pub set: String,
    pub version: i64,
    pub name: String,
    /// Of the file that was applied.
    #[serde(skip)]
    pub checksum: String,
    #[serde(skip)]
    pub sql: String,
}

impl Undo {
    /// `set/version_name`, as messages name it.
    pub fn label(&self) -> String {
        plan::label(&self.set, self.version, &self.name)
    }
}

/// The versions of `set` above `target`, newest first.
///
/// The down file as it stands now is preferred, since it may have been mended; the one that the
/// history kept is for a file that is gone, or that undoes other SQL than what was applied.
pub fn undone(
    sets: &[Set],
    history: &[AppliedMigration],
    set: &str,
    target: Target,
) -> Result<Vec<Undo>, Error> {
    let mut rows: Vec<&AppliedMigration> = history.iter().filter(|row| row.set == set).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.version));
    if let Target::To(version) = target
        && version != 0
        && rows.iter().all(|row| row.version != version)
    {
        let known: Vec<String> = rows.iter().rev().map(|row| row.version.to_string()).collect();
        let found = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Error::new(
            ErrorKind::Target,
            format!(
                "set {set:?} has no applied version {version}; found {found}, wanted one of them, or 0"
            ),
        ));
    }
    match target {
        Target::One => rows.truncate(1),
        Target::To(version) => rows.retain(|row| row.version > version),
        Target::All => {}
    }
    let files = sets.iter().find(|known| known.name == set);
    let mut undone = Vec::with_capacity(rows.len());
    for row in rows {
        let file = files
            .and_then(|files| files.migrations.iter().find(|file| file.version == row.version));
        let current = file
            .filter(|file| plan::compare(file, row) != State::Edited)
            .and_then(|file| file.down.as_ref());
        let Some(sql) = current.or(row.down_sql.as_ref()) else {
            let label = plan::label(&row.set, row.version, &row.name);
            return Err(Error::new(
                ErrorKind::Irreversible,
                format!(
                    "{label} came without a down file; write one beside it. Nothing was rolled back"
                ),
            ));
        };
        undone.push(Undo {
            set: row.set.clone(),
            version: row.version,
            name: row.name.clone(),
            checksum: row.checksum.clone(),
            sql: sql.clone(),
        });
    }
    Ok(undone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::source::{Migration, checksum};

    fn applied(version: i64, down: Option<&str>) -> AppliedMigration {
        AppliedMigration {
            set: "app".into(),
            version,
            name: "x".into(),
            checksum: checksum(b"SELECT 1"),
            up_sql: "SELECT 1".into(),
            down_sql: down.map(str::to_owned),
            applied_by: "test".into(),
            applied_at: chrono::DateTime::UNIX_EPOCH,
            duration_ms: 1,
        }
    }

    fn files(up: &str, down: Option<&str>) -> Vec<Set> {
        let file = Migration {
            set: "app".into(),
            version: 1,
            name: "x".into(),
            file: "001_x.sql".into(),
            up: up.into(),
            down: down.map(str::to_owned),
            checksum: checksum(up.as_bytes()),
        };
        vec![Set { name: "app".into(), migrations: vec![file] }]
    }

    fn versions(target: Target) -> Vec<i64> {
        let history = [applied(1, Some("a")), applied(2, Some("b")), applied(10, Some("c"))];
        undone(&[], &history, "app", target).unwrap().iter().map(|undo| undo.version).collect()
    }

    #[test]
    fn targets_take_versions_from_the_newest() {
        assert_eq!(versions(Target::One), [10]);
        assert_eq!(versions(Target::To(1)), [10, 2]);
        assert_eq!(versions(Target::To(10)), [] as [i64; 0]);
        assert_eq!(versions(Target::To(0)), [10, 2, 1]);
        assert_eq!(versions(Target::All), [10, 2, 1]);
        let unknown = undone(&[], &[applied(2, None)], "app", Target::To(1)).unwrap_err();
        assert_eq!(unknown.kind, ErrorKind::Target);
        assert!(unknown.to_string().contains("found 2, wanted one of them, or 0"), "{unknown}");
        assert_eq!(undone(&[], &[applied(1, Some("a"))], "other", Target::All).unwrap(), []);
    }

    #[test]
    fn the_file_undoes_unless_it_is_gone_or_edited() {
        let sql = |sets: &[Set], kept| {
            undone(sets, &[applied(1, kept)], "app", Target::All).map(|u| u[0].sql.clone())
        };
        assert_eq!(sql(&files("SELECT 1", Some("mended")), Some("kept")).unwrap(), "mended");
        assert_eq!(sql(&files("SELECT  1 -- one", Some("mended")), None).unwrap(), "mended");
        assert_eq!(sql(&files("SELECT 2", Some("of another")), Some("kept")).unwrap(), "kept");
        assert_eq!(sql(&files("SELECT 1", None), Some("kept")).unwrap(), "kept");
        assert_eq!(sql(&[], Some("kept")).unwrap(), "kept");
        assert_eq!(sql(&[], None).unwrap_err().kind, ErrorKind::Irreversible);
    }
}
