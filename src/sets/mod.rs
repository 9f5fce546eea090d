//! The migration sets that the binary carries, each described by a manifest.
//!
//! A manifest is plain data: the SQL files of a set, and what pgsteward does for the tables that
//! they create. Consumers iterate over the manifests of the sets that are applied to a database;
//! none asks for a set by its name. A further set is a file here with its line in [`BUNDLED`], and
//! its folder below `migrations/`.

mod steward;
mod zentry;

pub use steward::STEWARD;
pub use zentry::ZENTRY;

/// Every bundled set, pgsteward's own first.
pub static BUNDLED: [&Manifest; 2] = [&STEWARD, &ZENTRY];

/// A bundled set and the work that its tables need.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    pub name: &'static str,
    /// The schema of its tables.
    pub schema: &'static str,
    /// Its migrations, ascending.
    pub files: &'static [File],
    /// Tables that need partitions ahead of time.
    pub partitioned: &'static [PartitionedTable],
    pub retention: &'static [RetentionRule],
    /// Materialized views to refresh, with their schema.
    pub views: &'static [&'static str],
    /// Objects that must exist once the set is applied.
    pub objects: &'static [Object],
}

/// One migration with the script that undoes it.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    /// `NNN_name.sql`
    pub name: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// A partitioned table whose partitions pgsteward creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionedTable {
    pub schema: &'static str,
    pub table: &'static str,
    pub period: Period,
    /// The number of partitions beyond the current one.
    pub ahead: i32,
}

/// The range of time that one partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Day,
    Month,
}

/// A table whose old rows are deleted. The column is that of its partition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionRule {
    pub schema: &'static str,
    pub table: &'static str,
    /// The key of `[retention]` that says how long rows are kept.
    pub key: &'static str,
}

/// A database object by its qualified name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A table, partitioned or not.
    Table(&'static str),
    /// A view, materialized or not.
    View(&'static str),
    /// A function with any arguments.
    Function(&'static str),
    /// A valid unique index.
    UniqueIndex(&'static str),
    /// A trigger that is not disabled, `schema.table.trigger`.
    Trigger(&'static str),
}

impl PartitionedTable {
    /// `schema.table`, for labels and reports.
    pub fn name(&self) -> String {
        format!("{}.{}", self.schema, self.table)
    }
}

impl Period {
    /// The value that `steward.ensure_partitions` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Month => "month",
        }
    }
}

/// Returns a bundled set by name.
pub fn find(name: &str) -> Option<&'static Manifest> {
    BUNDLED.into_iter().find(|set| set.name == name)
}

/// The bundled sets that a configuration may ask for: every one but pgsteward's own.
pub fn optional() -> impl Iterator<Item = &'static Manifest> {
    BUNDLED.into_iter().filter(|set| set.name != STEWARD.name)
}

/// Returns pgsteward's own set and the bundled sets among `names`.
pub fn applied(names: &[String]) -> Vec<&'static Manifest> {
    BUNDLED
        .into_iter()
        .filter(|set| set.name == STEWARD.name || names.iter().any(|name| name == set.name))
        .collect()
}

/// The files of a set, read at compile time from `migrations/SET`.
macro_rules! files {
    ($set:literal: $($file:literal),* $(,)?) => {
        &[$($crate::sets::File {
            name: concat!($file, ".sql"),
            up: include_str!(concat!("../../migrations/", $set, "/", $file, ".sql")),
            down: include_str!(concat!("../../migrations/", $set, "/", $file, ".down.sql")),
        }),*]
    };
}
use files;
