//! From file, environment and flags to one configuration, or to everything that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::overlay;
use super::problem::{Origin, Problem, Problems};
use super::read::{Report, Section};
use super::tree::{self, Node};
use super::{Config, check, tables};

/// Read when `--config` is not given, if it exists.
pub const DEFAULT_PATH: &str = "/etc/pgsteward/config.toml";

/// A configuration's limit. The documented example has less than a thirtieth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `--config FILE`: must exist.
    pub path: Option<PathBuf>,
    /// `--ephemeral`
    pub ephemeral: bool,
    /// `--listen ADDR:PORT`
    pub listen: Option<String>,
    /// `--dir PATH` of `migrate`: stands for `migrations.dir`.
    pub migrations_dir: Option<PathBuf>,
}

/// A configuration that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Complete and checked.
    pub config: Config,
    /// The file that was read, if any.
    pub source: Option<PathBuf>,
    /// What is allowed but probably not meant; for the log, once it stands.
    pub warnings: Vec<String>,
}

/// Reads the file, lays environment and flags over it, and checks it all.
///
/// Nothing happens beside reading the file, looking for systemd's credentials, and for the name of the
/// operating system's user where a connection string has none.
///
/// # Errors
/// Every problem at once.
pub fn load(args: &Args, env: &BTreeMap<String, String>) -> Result<Loaded, Problems> {
    load_or_default(args, env, Path::new(DEFAULT_PATH))
}

/// As [`load`], with another path for the default file.
///
/// # Errors
/// Every problem at once.
pub fn load_or_default(
    args: &Args,
    env: &BTreeMap<String, String>,
    default: &Path,
) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let (source, mut tree) = match (&args.path, read_file(args.path.as_deref().unwrap_or(default)))
    {
        (_, Ok(text)) => {
            let path = args.path.as_deref().unwrap_or(default).to_owned();
            let (tree, faults) = tree::parse(&text, &path);
            problems.extend(faults);
            (Some(path), tree)
        }
        (None, Err(Unreadable { missing: true, .. })) => (None, Node::table(Origin::Default)),
        (given, Err(unreadable)) => {
            let path = given.clone().unwrap_or_else(|| default.to_owned());
            let origin = Origin::File { path, line: 0 };
            problems.push(Problem::new(origin, "", unreadable.found, unreadable.wanted));
            (None, Node::table(Origin::Default))
        }
    };
    // With a file half understood, what it does not say proves nothing.
    let whole = problems.is_empty();
    let overlaid = overlay::apply(&mut tree, args, env);
    let mut warnings = overlaid.warnings;

    let report = Report::default();
    let mut config = Section::root(&tree, &report, tables::config);
    warnings.extend(overlay::near_misses(env, &report.known.into_inner()));
    let garbled: BTreeSet<_> =
        problems.iter().filter_map(|problem| problem.origin.line()).collect();
    let read = report.problems.into_inner();
    problems.extend(
        read.into_iter()
            .filter(|problem| problem.origin.line().is_none_or(|line| !garbled.contains(&line))),
    );
    problems.extend(overlaid.problems);
    if whole {
        let findings = check::contradictions(&config, &tree);
        problems.extend(findings.problems);
        warnings.extend(findings.warnings);
        let findings = check::databases(&mut config, &tree);
        problems.extend(findings.problems);
        warnings.extend(findings.warnings);
    }
    if problems.is_empty() {
        Ok(Loaded { config, source, warnings })
    } else {
        Err(Problems::new(problems))
    }
}

/// The process's environment, for [`load`]. What is not UTF-8 is kept with replacement characters,
/// so that it is reported where it matters.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The paths of all keys that may stand in a file, with `NAME` and `schema.table` for names that
/// are the user's.
pub fn known_keys() -> BTreeSet<String> {
    let sample =
        "[databases.NAME]\n[jobs.NAME]\n[retention.tables.\"schema.table\"]\n[auth.tokens.NAME]\n";
    let (tree, _) = tree::parse(sample, Path::new(""));
    let report = Report::default();
    Section::root(&tree, &report, tables::config);
    report.known.into_inner()
}

struct Unreadable {
    missing: bool,
    found: String,
    wanted: &'static str,
}

fn read_file(path: &Path) -> Result<String, Unreadable> {
    let failed = |error: io::Error| Unreadable {
        missing: error.kind() == io::ErrorKind::NotFound,
        found: match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            _ => format!("a file that cannot be read: {error}"),
        },
        wanted: "a readable TOML file",
    };
    let unfit = |found: &str| Unreadable {
        missing: false,
        found: found.to_owned(),
        wanted: "a TOML file in UTF-8 of at most 1 MiB",
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unfit("more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        unfit(&format!("bytes in line {line} that are not UTF-8"))
    })
}
