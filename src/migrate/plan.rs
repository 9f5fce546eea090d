//! What has to be done, worked out from the files and the history. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::source::{Migration, Set};
use super::undo::Undo;
use crate::sql;
use crate::store::schema_migrations::AppliedMigration;

/// Where one version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In the history, and the file is the same.
    Applied,
    /// In the history; the file differs in line ends, comments or white space only.
    Reformatted,
    /// In the history; the file's SQL is another.
    Edited,
    /// In the history, with no file: a newer release applied it, or the file was removed.
    NoFile,
    /// A file that waits to be applied.
    Pending,
    /// A file that waits, with a version below one that is applied already.
    OutOfOrder,
}

impl State {
    /// The label used in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Applied => "applied",
            State::Reformatted => "reformatted",
            State::Edited => "edited",
            State::NoFile => "no_file",
            State::Pending => "pending",
            State::OutOfOrder => "out_of_order",
        }
    }
}

/// One version of one set, as files and history tell.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub set: String,
    pub version: i64,
    pub name: String,
    pub state: State,
    /// Whether it can be undone: there is a down script.
    pub reversible: bool,
    pub applied_at: Option<chrono::DateTime<chrono::Utc>>,
    pub applied_by: Option<String>,
    pub duration_ms: Option<i64>,
}

/// One set against its history.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    pub set: &'a Set,
    /// Every version known to either side, ascending.
    pub lines: Vec<Line>,
    /// What to apply, ascending.
    pub pending: Vec<&'a Migration>,
}

/// Versions that keep a set from being applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `Edited` or `OutOfOrder`.
    pub state: State,
    /// `set/version_name`
    pub labels: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Compares a set with the history (which may hold other sets too).
    pub fn new(set: &'a Set, history: &[AppliedMigration]) -> Plan<'a> {
        let applied: BTreeMap<i64, &AppliedMigration> = history
            .iter()
            .filter(|row| row.set == set.name)
            .map(|row| (row.version, row))
            .collect();
        let newest = applied.keys().next_back().copied();
        let files: BTreeSet<i64> =
            set.migrations.iter().map(|migration| migration.version).collect();
        let mut lines: Vec<Line> = applied
            .values()
            .filter(|row| !files.contains(&row.version))
            .map(|row| Line::of_row(row, State::NoFile))
            .collect();
        let mut pending = Vec::new();
        for migration in &set.migrations {
            match applied.get(&migration.version) {
                Some(row) => lines.push(Line::of_row(row, compare(migration, row))),
                None => {
                    let late = newest.is_some_and(|newest| migration.version < newest);
                    pending.push(migration);
                    lines.push(Line::of_file(
                        migration,
                        if late { State::OutOfOrder } else { State::Pending },
                    ));
                }
            }
        }
        lines.sort_by_key(|line| line.version);
        Plan { set, lines, pending }
    }

    /// Versions in this state.
    pub fn in_state(&self, state: State) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.state == state)
    }

    /// Why nothing of this set may be applied, if so. Nothing pending, nothing refused: a daemon
    /// that has nothing to do serves next to an edited file, and says so elsewhere.
    pub fn refusal(&self) -> Option<String> {
        let fault = self.fault()?;
        let labels = fault.labels.join(", ");
        Some(match fault.state {
            State::Edited => {
                format!(
                    "{labels} changed after being applied; restore the file, or write the change as a new migration"
                )
            }
            _ => format!(
                "{labels} would be applied after a newer version; give the file a number above the newest applied one"
            ),
        })
    }

    /// The versions for which nothing of this set may be applied, if there are any.
    pub fn fault(&self) -> Option<Fault> {
        if self.pending.is_empty() {
            return None;
        }
        [State::Edited, State::OutOfOrder].into_iter().find_map(|state| {
            let labels: Vec<String> = self.in_state(state).map(Line::label).collect();
            (!labels.is_empty()).then_some(Fault { state, labels })
        })
    }
}

impl Line {
    /// `set/version_name`, as messages name it.
    pub fn label(&self) -> String {
        label(&self.set, self.version, &self.name)
    }

    fn of_row(row: &AppliedMigration, state: State) -> Line {
        Line {
            set: row.set.clone(),
            version: row.version,
            name: row.name.clone(),
            state,
            reversible: row.down_sql.is_some(),
            applied_at: Some(row.applied_at),
            applied_by: Some(row.applied_by.clone()),
            duration_ms: Some(row.duration_ms),
        }
    }

    /// A version that has been undone.
    pub(super) fn of_undo(undo: &Undo) -> Line {
        Line {
            set: undo.set.clone(),
            version: undo.version,
            name: undo.name.clone(),
            state: State::Pending,
            reversible: true,
            applied_at: None,
            applied_by: None,
            duration_ms: None,
        }
    }

    pub(super) fn of_file(migration: &Migration, state: State) -> Line {
        Line {
            set: migration.set.clone(),
            version: migration.version,
            name: migration.name.clone(),
            state,
            reversible: migration.down.is_some(),
            applied_at: None,
            applied_by: None,
            duration_ms: None,
        }
    }
}

/// `set/version_name`, as messages name a version.
pub(super) fn label(set: &str, version: i64, name: &str) -> String {
    format!("{set}/{version:03}_{name}")
}

/// How an applied file compares with what stands on disk now, in four levels: bytes; line ends and
/// byte order mark; comments and white space; SQL. Only the last is a difference.
pub(super) fn compare(migration: &Migration, row: &AppliedMigration) -> State {
    if migration.checksum == row.checksum {
        return State::Applied;
    }
    if same_lines(&migration.up, &row.up_sql)
        || sql::fingerprint(&migration.up) == sql::fingerprint(&row.up_sql)
    {
        return State::Reformatted;
    }
    State::Edited
}

fn same_lines(a: &str, b: &str) -> bool {
    let lines = |text: &str| sql::without_mark(text).replace("\r\n", "\n");
    lines(a) == lines(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::source::checksum;

    fn set(files: &[(i64, &str)]) -> Set {
        let migrations = files
            .iter()
            .map(|(version, up)| Migration {
                set: "app".into(),
                version: *version,
                name: format!("m{version}"),
                file: format!("{version}_m{version}.sql"),
                up: (*up).into(),
                down: None,
                checksum: checksum(up.as_bytes()),
            })
            .collect();
        Set { name: "app".into(), migrations }
    }

    fn applied(version: i64, up: &str) -> AppliedMigration {
        AppliedMigration {
            set: "app".into(),
            version,
            name: format!("m{version}"),
            checksum: checksum(up.as_bytes()),
            up_sql: up.into(),
            down_sql: None,
            applied_by: "test".into(),
            applied_at: chrono::DateTime::UNIX_EPOCH,
            duration_ms: 1,
        }
    }

    fn states(set: &Set, history: &[AppliedMigration]) -> Vec<(i64, State)> {
        Plan::new(set, history).lines.iter().map(|line| (line.version, line.state)).collect()
    }

    #[test]
    fn each_version_has_the_state_that_files_and_history_give_it() {
        let files = set(&[(1, "SELECT 1;\n"), (2, "SELECT 2"), (3, "SELECT 3"), (5, "SELECT 5")]);
        let history =
            [applied(1, "SELECT 1;\r\n"), applied(3, "SELECT 33"), applied(4, "SELECT 4")];
        assert_eq!(
            states(&files, &history),
            [
                (1, State::Reformatted),
                (2, State::OutOfOrder),
                (3, State::Edited),
                (4, State::NoFile),
                (5, State::Pending)
            ]
        );
        let comment = [applied(1, "-- a licence\nSELECT   1;")];
        assert_eq!(states(&set(&[(1, "SELECT 1;")]), &comment), [(1, State::Reformatted)]);
        let same = [applied(1, "SELECT 1;")];
        assert_eq!(states(&set(&[(1, "SELECT 1;")]), &same), [(1, State::Applied)]);
    }

    #[test]
    fn edits_and_gaps_refuse_only_when_something_is_to_be_applied() {
        let edited = [applied(1, "SELECT 0")];
        assert_eq!(Plan::new(&set(&[(1, "SELECT 1")]), &edited).refusal(), None);
        let refusal =
            Plan::new(&set(&[(1, "SELECT 1"), (2, "SELECT 2")]), &edited).refusal().unwrap();
        assert!(refusal.contains("app/001_m1 changed"), "{refusal}");
        let fault = Plan::new(&set(&[(1, "SELECT 1"), (2, "SELECT 2")]), &edited).fault();
        assert_eq!(
            fault,
            Some(Fault { state: State::Edited, labels: vec!["app/001_m1".to_owned()] })
        );
        let late = Plan::new(&set(&[(1, "SELECT 1"), (2, "SELECT 2")]), &[applied(2, "SELECT 2")])
            .refusal()
            .unwrap();
        assert!(late.contains("app/001_m1 would be applied after a newer"), "{late}");
    }
}
