//! The problems of a configuration.
//!
//! A [`Problem`] names the place, the key, what was expected and what was found. [`Problems`] are
//! collected instead of ending the reading one by one, and print one per line:
//!
//! ```text
//! config.toml:14: health.connections_degraded: expected a number from 0 to 1, found 1.5
//! ```

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

/// Where a value was given. Ordered as problems are printed: from the file's first line to the
/// flags.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of a configuration file, counted from 1; 0 stands for the file as a whole.
    File {
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A position inside a line, for text that is not TOML.
    Position {
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// A file in systemd's credentials directory.
    Credential(PathBuf),
    /// An environment variable, by its name.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
    /// Nowhere: the value is a default or is missing.
    Default,
}

impl Origin {
    /// Whether it is a configuration file.
    pub fn is_file(&self) -> bool {
        matches!(self, Origin::File { .. } | Origin::Position { .. })
    }

    /// The line in the file, if it is one.
    pub(super) fn line(&self) -> Option<usize> {
        match self {
            Origin::File { line, .. } | Origin::Position { line, .. } => Some(*line),
            _ => None,
        }
    }

    /// Its precedence: of two origins, the higher one wins.
    pub(super) fn level(&self) -> u8 {
        match self {
            Origin::Default => 0,
            Origin::Credential(_) => 1,
            Origin::File { .. } | Origin::Position { .. } => 2,
            Origin::Environment(name) if !name.starts_with("PGSTEWARD__") => 3,
            Origin::Environment(_) => 4,
            Origin::Flag(_) => 5,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line: 0 } => write!(f, "{}", path.display()),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Position { path, line, column } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Origin::Credential(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag(name) => f.write_str(name),
            Origin::Default => f.write_str("configuration"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub origin: Origin,
    /// The key's path, such as `health.stale_after`; empty when no key is concerned.
    pub key: String,
    /// Never the text of a secret.
    pub found: String,
    pub expected: String,
    /// A similar name or value that exists.
    pub did_you_mean: Option<String>,
}

impl Problem {
    pub(super) fn new(
        origin: Origin,
        key: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Problem {
        Problem {
            origin,
            key: key.into(),
            found: found.into(),
            expected: expected.into(),
            did_you_mean: None,
        }
    }

    pub(super) fn meant(mut self, suggestion: Option<String>) -> Problem {
        self.did_you_mean = suggestion;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        match &self.did_you_mean {
            Some(meant) => write!(f, "found {}, did you mean \"{meant}\"?", self.found),
            None => write!(f, "expected {}, found {}", self.expected, self.found),
        }
    }
}

/// All problems of a configuration, in the order of their origins. Prints one problem per line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Sorts them: the file's lines, then the environment, then the flags.
    pub(super) fn new(mut problems: Vec<Problem>) -> Problems {
        problems.sort_by(|a, b| {
            let rank = |p: &Problem| (p.origin.line().is_none(), p.origin.line());
            rank(a)
                .cmp(&rank(b))
                .then_with(|| a.origin.cmp(&b.origin))
                .then_with(|| a.key.cmp(&b.key))
        });
        problems.dedup();
        Problems(problems)
    }

    /// Iterates over them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always false for problems that [`super::load::load`] returns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Returns the candidate that a misspelt word most likely stands for: at most a third of its
/// letters away, where a swap of neighbours counts as one. Case, `-` and `_` make no difference.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> Vec<char> {
        // Only the beginning of a word that is longer than any key is compared, to bound the cost.
        text.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let word = plain(word);
    let near = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, substitutions, and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_far_ones_are_not() {
        let keys = ["stale_after", "cache_ttl", "recover_after", "level"];
        for (word, meant) in [
            ("stale_aftr", Some("stale_after")),
            ("stale-after", Some("stale_after")),
            ("STALE_AFTER", Some("stale_after")),
            ("cahce_ttl", Some("cache_ttl")),
            ("levle", Some("level")),
            ("lev", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
    }

    #[test]
    fn problems_print_in_the_order_of_their_origins() {
        let at = |line| Origin::File { path: PathBuf::from("c.toml"), line };
        let problems = Problems::new(vec![
            Problem::new(Origin::Flag("--listen"), "http.listen", "\"x\"", "an address"),
            Problem::new(Origin::Environment("B".into()), "b", "1", "2"),
            Problem::new(at(10), "j", "1", "2").meant(Some("k".into())),
            Problem::new(
                Origin::Position { path: PathBuf::from("c.toml"), line: 9, column: 4 },
                "",
                "no TOML",
                "TOML",
            ),
            Problem::new(at(2), "a", "1", "2"),
        ]);
        assert_eq!(
            problems.to_string(),
            "c.toml:2: a: expected 2, found 1\n\
             c.toml:9:4: expected TOML, found no TOML\n\
             c.toml:10: j: found 1, did you mean \"k\"?\n\
             B: b: expected 2, found 1\n\
             --listen: http.listen: expected an address, found \"x\""
        );
    }
}
