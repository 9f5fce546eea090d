//! Rules about the sources that no compiler checks. Each rule also has a test that it can fail.

#![allow(clippy::unwrap_used)]

mod doors;
mod imports;
mod text;
mod words;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Violations of a rule: the file, the line and the reason.
type Violations = Vec<String>;

/// A file of the repository, with its comments and strings.
struct Source {
    /// The path relative to the repository's root, such as `src/db/mod.rs`.
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension().unwrap_or_default();
        extensions.iter().any(|expected| extension == *expected)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file that people write, in the order of their paths.
fn written_files() -> Vec<Source> {
    const EXTENSIONS: &[&str] = &[
        "rs", "toml", "sql", "md", "sh", "yaml", "yml", "service", "json", "conf", "html", "css",
        "js", "mjs", "py",
    ];
    const NAMES: &[&str] = &["Makefile", "run", "LICENSE", "Dockerfile", ".gitignore"];
    let mut files = Vec::new();
    collect(&root(), &mut files);
    files.retain(|file| {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        file.has_extension(EXTENSIONS) || NAMES.contains(&name)
    });
    assert!(files.iter().any(|file| file.path == "Cargo.toml"), "the root is read");
    files
}

fn collect(folder: &Path, files: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                collect(&path, files);
            }
        } else if let Ok(text) = fs::read_to_string(&path) {
            let relative = path.strip_prefix(root()).unwrap_or(&path);
            files.push(Source { path: relative.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

/// The Rust files below the folders, `src/` and the like.
fn rust_files(folders: &[&str]) -> Vec<Source> {
    let mut files = written_files();
    files.retain(|file| {
        file.has_extension(&["rs"]) && folders.iter().any(|folder| file.path.starts_with(folder))
    });
    assert!(!files.is_empty(), "no Rust files below {folders:?}");
    files
}

/// Fails with every violation, a line each.
fn assert_none(rule: &str, violations: &[String]) {
    let mut lines = String::new();
    for violation in violations {
        writeln!(lines, "  {violation}").unwrap();
    }
    assert!(violations.is_empty(), "{rule}\n{lines}");
}

/// The lines with their numbers, without line comments. A `//` inside a string cuts the rest of
/// the line too, which these rules can afford: they look for code.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}
