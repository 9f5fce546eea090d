//! What is shipped beside the binary holds together with it: the unit, the manifests, the alerts.
//!
//! Needs `promtool`: apt-get install -y --no-install-recommends prometheus

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod kubernetes;
mod prometheus;
mod promql;
mod systemd;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pgsteward::config::{Args, Loaded, load};
use serde_json::Value;

/// A path in the repository.
fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A file of the repository.
#[track_caller]
fn read(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// Every document of a YAML file.
#[track_caller]
fn yaml(relative: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(relative))
        .unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// The text at a JSON pointer.
#[track_caller]
fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let found = value.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}"));
    found.as_str().unwrap_or_else(|| panic!("{pointer} is {found}, wanted text"))
}

/// A configuration that must load without a problem or a warning.
#[track_caller]
fn loads(toml: &str, env: &[(&str, &str)]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, toml).unwrap();
    let args = Args { path: Some(file), ..Args::default() };
    let env: BTreeMap<String, String> =
        env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let loaded = load(&args, &env).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.warnings, Vec::<String>::new());
    loaded
}

/// Whether the command line takes these arguments.
#[track_caller]
fn is_command(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_pgsteward"))
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "pgsteward {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The value of a constant in `src/daemon/mod.rs` that is a number of seconds.
#[track_caller]
fn seconds_in_daemon(name: &str) -> Duration {
    let source = read("src/daemon/mod.rs");
    let (_, rest) =
        source.split_once(&format!("const {name}: Duration = Duration::from_secs(")).expect(name);
    Duration::from_secs(rest.split_once(')').unwrap().0.parse().unwrap())
}
