//! Retired words: identifiers and phrases that a standard term has replaced.

use super::{Source, Violations, assert_none, written_files};

/// Identifiers, matched as whole words in their letter case, and the terms that replaced them.
const RETIRED_IDENTIFIERS: &[(&str, &str)] = &[
    ("HEAR_EVERY", "REQUEST_POLL_INTERVAL"),
    ("Lanes", "WorkerSlots"),
    ("Moment", "TimeArg"),
    ("Surroundings", "MonitorContext"),
    ("Wish", "RunRequest"),
    ("errands", "commands"),
    ("hold_on", "renew_while_draining"),
    ("introduce", "ensure_job_row"),
    ("keep_house", "run_until_stopped"),
    ("last_words", "flush_on_stop"),
    ("resign", "release_leadership"),
];

/// Phrases, matched as whole words in any letter case, and what to write.
const RETIRED_PHRASES: &[(&str, &str)] = &[("keep house", "the task by its name")];

/// Files that may hold a retired word, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("tests/tidy/words.rs", "*", "lists the words"),
    ("CHANGELOG.md", "*", "maps former names to present ones"),
    ("src/store/leases.rs", "observer", "the value in the lease row, which older daemons share"),
];

fn is_excepted(path: &str, word: &str) -> bool {
    let shipped = path.starts_with("migrations/") && path.ends_with(".sql");
    shipped
        || EXCEPTIONS
            .iter()
            .any(|(file, excepted, _)| *file == path && (*excepted == "*" || *excepted == word))
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_word) && !line[at + word.len()..].starts_with(is_word)
    })
}

fn retired_words(source: &Source) -> Violations {
    let mut violations = Vec::new();
    let mut report = |line: usize, word: &str, instead: &str| {
        if !is_excepted(&source.path, word) {
            violations.push(format!("{}:{line}: `{word}`: write {instead}", source.path));
        }
    };
    for (index, line) in source.text.lines().enumerate() {
        for (word, instead) in RETIRED_IDENTIFIERS {
            if contains_word(line, word) {
                report(index + 1, word, instead);
            }
        }
        let folded = line.to_lowercase();
        for (phrase, instead) in RETIRED_PHRASES {
            if contains_word(&folded, &phrase.to_lowercase()) {
                report(index + 1, phrase, instead);
            }
        }
    }
    violations
}

#[test]
fn no_word_is_retired() {
    let violations: Violations = written_files().iter().flat_map(retired_words).collect();
    assert_none("standard terms replace private words", &violations);
}

#[test]
fn the_rule_can_fail() {
    for bad in ["struct Lanes;", "let x = cli::Wish::new();", "// Keep House.", "fn resign() {}"] {
        assert_eq!(retired_words(&Source::new("src/a.rs", bad)).len(), 1, "{bad}");
    }
    for good in ["lanes", "redesign", "let wishes = 1;", "WishList"] {
        assert_eq!(retired_words(&Source::new("src/a.rs", good)), Violations::new(), "{good}");
    }
    let lease = Source::new("src/store/leases.rs", "pub const LEADER: &str = \"observer\";");
    assert_eq!(retired_words(&lease), Violations::new());
}
