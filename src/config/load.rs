//! From file, environment and flags to one configuration, or to all of their problems.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::overlay;
use super::problem::{Origin, Problem, Problems};
use super::read::{Report, Section};
use super::table::Table;
use super::tree::{self, Node};
use super::{Config, check, keys};

/// Read when `--config` is not given, if it exists.
pub const DEFAULT_PATH: &str = "/etc/pgsteward/config.toml";

/// The limit of a file. The documented example takes less than a thirtieth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The arguments of the command line that concern the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args {
    /// `--config FILE`: must exist.
    pub path: Option<PathBuf>,
    /// `--ephemeral`
    pub ephemeral: bool,
    /// `--listen ADDR:PORT`
    pub listen: Option<String>,
    /// `--dir PATH` of `migrate`: replaces `migrations.dir`.
    pub migrations_dir: Option<PathBuf>,
}

/// A valid configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Complete and checked.
    pub config: Config,
    /// The file that was read, if any.
    pub source: Option<PathBuf>,
    /// Values that are valid but probably not meant; for the log, once there is one.
    pub warnings: Vec<String>,
}

/// Reads the file, applies environment and flags to it, and checks the result.
///
/// It does nothing else than read the file, look for systemd's credentials, and look up the name of
/// the operating system's user for a connection string without one.
///
/// # Errors
/// Every problem at once.
pub fn load(args: &Args, env: &BTreeMap<String, String>) -> Result<Loaded, Problems> {
    load_or_default(args, env, Path::new(DEFAULT_PATH))
}

/// Works as [`load`], with another path for the default file.
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
            problems.push(Problem::new(origin, "", unreadable.found, unreadable.expected));
            (None, Node::table(Origin::Default))
        }
    };
    // A key that is missing in a file that was not understood whole may stand there all the same.
    let whole = problems.is_empty();
    let overlaid = overlay::apply(&mut tree, args, env);
    let mut warnings = overlaid.warnings;

    let report = Report::default();
    let mut config = read(&tree, &report);
    warnings.extend(overlay::near_misses(env, &report.known.into_inner()));
    let garbled: BTreeSet<_> =
        problems.iter().filter_map(|problem| problem.origin.line()).collect();
    let is_garbled =
        |problem: &Problem| problem.origin.line().is_some_and(|line| garbled.contains(&line));
    let read = report.problems.into_inner();
    problems.extend(read.into_iter().filter(|problem| !is_garbled(problem)));
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

fn read(tree: &Node, report: &Report) -> Config {
    Section::root(tree, report, |root| Config::read(root, Config::default()))
}

/// The process's environment, for [`load`]. A value that is not UTF-8 is kept with replacement
/// characters, so that it is reported where it matters.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        })
        .collect()
}

/// The paths of all keys that a file may contain, with `NAME` and `schema.table` for names that are
/// the user's.
pub fn known_keys() -> BTreeSet<String> {
    let sample =
        "[databases.NAME]\n[jobs.NAME]\n[retention.tables.\"schema.table\"]\n[auth.tokens.NAME]\n";
    let (tree, _) = tree::parse(sample, Path::new(""));
    let report = Report::default();
    read(&tree, &report);
    report.known.into_inner()
}

/// What the documentation says about a key besides its meaning.
#[derive(Debug, Clone, Copy)]
pub struct KeyFacts {
    pub has_default: bool,
    /// Whether a change takes effect at the next start, and not at a reload.
    pub needs_restart: bool,
    /// Its environment variable beside `PGSTEWARD__SECTION__KEY`.
    pub variable: Option<&'static str>,
    /// Its file in systemd's credentials directory.
    pub credential: Option<&'static str>,
}

/// The declared keys by path. A declared table whose tables have names of the user's stands for
/// them.
pub fn declared_keys() -> BTreeMap<String, KeyFacts> {
    let mut facts = BTreeMap::new();
    keys::declared(&mut |path, key| {
        let declared = KeyFacts {
            has_default: key.default != "None",
            needs_restart: key.needs_restart,
            variable: key.variable,
            credential: key.credential,
        };
        facts.entry(path).or_insert(declared);
    });
    facts
}

struct Unreadable {
    missing: bool,
    found: String,
    expected: &'static str,
}

fn read_file(path: &Path) -> Result<String, Unreadable> {
    let failed = |error: io::Error| Unreadable {
        missing: error.kind() == io::ErrorKind::NotFound,
        found: match error.kind() {
            io::ErrorKind::NotFound => "no such file".to_owned(),
            _ => format!("a file that cannot be read: {error}"),
        },
        expected: "a readable TOML file",
    };
    let unfit = |found: &str| Unreadable {
        missing: false,
        found: found.to_owned(),
        expected: "a TOML file in UTF-8 of at most 1 MiB",
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unfit("more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        unfit(&format!("bytes in line {line} that are not UTF-8"))
    })
}
