//! The form of files: length, width, white space, and nothing that belongs to one machine.

use super::{Source, Violations, assert_none, code_lines, rust_files, written_files};

const FILE_LINES_MAX: usize = 560;

/// Path prefixes of a machine's own folders. This checkout's own path is another.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/Users/"];

fn too_long(source: &Source) -> Violations {
    let lines = source.text.lines().count();
    let violation =
        || format!("{}: expected at most {FILE_LINES_MAX} lines, found {lines}", source.path);
    (lines > FILE_LINES_MAX).then(violation).into_iter().collect()
}

fn ignored_tests(source: &Source) -> Violations {
    code_lines(&source.text)
        .filter(|(_, line)| line.trim_start().starts_with(concat!("#[", "ignore")))
        .map(|(line, _)| format!("{}:{line}: a test that does not run proves nothing", source.path))
        .collect()
}

fn stray_white_space(source: &Source) -> Violations {
    let mut violations = Vec::new();
    for (index, line) in source.text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            violations.push(format!("{}:{}: white space at the end", source.path, index + 1));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        violations.push(format!("{}: no newline at the end of the file", source.path));
    }
    violations
}

fn machine_paths(source: &Source) -> Violations {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let paths = || MACHINE_PATHS.iter().copied().chain([checkout]);
    source
        .text
        .lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let path = paths().find(|path| starts_a_path(line, path))?;
            Some(format!("{}:{}: `{path}` is a path of one machine", source.path, index + 1))
        })
        .collect()
}

/// `/root/x` but not `some/root/x`.
fn starts_a_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}>*".contains(c))
    })
}

#[test]
fn files_are_short() {
    let violations: Violations = rust_files(&["src/"]).iter().flat_map(too_long).collect();
    assert_none("a file has one reason to change: look for the seam", &violations);
}

#[test]
fn no_test_is_ignored() {
    let violations: Violations =
        rust_files(&["src/", "tests/"]).iter().flat_map(ignored_tests).collect();
    assert_none("every test runs", &violations);
}

#[test]
fn no_white_space_is_stray() {
    let violations: Violations = written_files().iter().flat_map(stray_white_space).collect();
    assert_none("lines end where their text ends", &violations);
}

#[test]
fn nothing_names_a_machine() {
    // This file names the paths to forbid them.
    let files = written_files().into_iter().filter(|file| file.path != "tests/tidy/text.rs");
    let violations: Violations = files.flat_map(|file| machine_paths(&file)).collect();
    assert_none("no file depends on the machine on which it was written", &violations);
}

#[test]
fn each_rule_can_fail() {
    let long = "x\n".repeat(FILE_LINES_MAX);
    assert_eq!(too_long(&Source::new("a.rs", &long)), Violations::new());
    assert_eq!(too_long(&Source::new("a.rs", &(long + "x\n"))).len(), 1);
    let ignored = "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n";
    assert_eq!(ignored_tests(&Source::new("a.rs", ignored)).len(), 1);
    let comment = "// #[ignore] is not used\n";
    assert_eq!(ignored_tests(&Source::new("a.rs", comment)), Violations::new());
    assert_eq!(stray_white_space(&Source::new("a.rs", "a \nb\t\nc\r\nd")).len(), 4);
    assert_eq!(stray_white_space(&Source::new("a.rs", "a\n\nb\n")), Violations::new());
    assert_eq!(machine_paths(&Source::new("a.md", "see /root/x and\n/home/me\n")).len(), 2);
    let elsewhere = "https://x.org/home/y ${HOME}/root/x\n";
    assert_eq!(machine_paths(&Source::new("a.md", elsewhere)), Violations::new());
}
