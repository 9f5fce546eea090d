//! The documents are true: their commands parse, their endpoints answer, their metrics, variables,
//! keys, files, links and targets exist, and the configuration that they show is accepted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod markdown;
mod running;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use markdown::{Document, resolve, root, spans_of, user_documents, words};
use pgsteward::config::{Args, load::declared_keys, load::known_keys, load::load_or_default};
use pgsteward::db::Kind;
use pgsteward::http;
use pgsteward::telemetry::Metrics;

/// No configuration file is read from the machine that runs the tests.
const NO_FILE: &str = "/nonexistent/config.toml";

/// README is for the first ten minutes; everything else belongs in docs/.
const README_BYTES_MAX: usize = 14 * 1024;

const IMAGE_BYTES_MAX: u64 = 60 * 1024;

const PROSE_WIDTH_MAX: usize = 100;

fn block_lines(language: &str) -> Vec<String> {
    user_documents().iter().flat_map(|document| document.block_lines(language)).collect()
}

fn spans() -> Vec<String> {
    user_documents().iter().flat_map(Document::spans).collect()
}

/// The arguments of every `pgsteward …` that is shown as a command.
fn commands() -> Vec<Vec<String>> {
    let lines = block_lines("sh").into_iter().chain(spans());
    lines
        .filter_map(|line| {
            let words = words(&line);
            let at = words.iter().position(|word| !word.contains('='))?;
            (words[at] == "pgsteward").then(|| words[at + 1..].to_vec())
        })
        .filter(|arguments| !arguments.is_empty())
        .collect()
}

fn pgsteward(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().copied()).output().expect("the built binary runs")
}

#[test]
fn every_command_parses() {
    let commands = commands();
    let mut shown = BTreeSet::new();
    for arguments in &commands {
        // clap reports a wrong command, option or value before it acts on a trailing `--help`.
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--help"]).collect();
        let output = pgsteward(&arguments, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pgsteward {}: {stderr}", arguments.join(" "));
        shown.insert(arguments[0].to_owned());
    }
    for command in ["run", "check", "migrate", "health", "role", "pause", "resume", "job"] {
        assert!(shown.contains(command), "no document shows `pgsteward {command}`");
    }
    assert!(
        !pgsteward(&["migrate", "up", "--nonsense", "--help"], &[]).status.success(),
        "this check cannot fail"
    );
}

/// `/readyz?verbose` and `http://127.0.0.1:8432/readyz` → `/readyz`.
fn path_of(text: &str) -> Option<&str> {
    let path = match text.split_once("://127.0.0.1:8432") {
        Some((_, path)) => path,
        None => text,
    };
    let path = path.split('?').next()?;
    path.starts_with('/').then_some(path)
}

fn is_route(path: &str) -> bool {
    http::routes().iter().any(|route| leads_to(route.path, path))
}

fn leads_to(route: &str, path: &str) -> bool {
    let segments =
        |path: &str| path.trim_end_matches('/').split('/').map(str::to_owned).collect::<Vec<_>>();
    let (expected, found) = (segments(route), segments(path));
    expected.len() == found.len()
        && expected.iter().zip(&found).all(|(w, f)| w == f || w.starts_with('{'))
}

#[test]
fn every_endpoint_is_there_and_documented() {
    let fetched = block_lines("sh")
        .into_iter()
        .filter(|line| line.starts_with("curl "))
        .flat_map(|line| words(&line));
    let fetched: Vec<String> = fetched.filter(|word| word.contains("://")).collect();
    assert!(fetched.len() >= 3, "no document shows curl: {fetched:?}");
    // The first column of a table of endpoints.
    let first = |text: &str| -> Vec<String> {
        let cells = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned));
        cells.collect()
    };
    let named = first(&Document::read("docs/health.md").section("Endpoints"));
    let api: Vec<(String, String)> = first(&Document::read("docs/api.md").section("Endpoints"))
        .iter()
        .filter_map(|cell| {
            cell.split_once(" /").map(|(method, rest)| (method.to_owned(), format!("/{rest}")))
        })
        .collect();
    for text in fetched.iter().chain(&named).chain(api.iter().map(|(_, path)| path)) {
        let path =
            path_of(text).unwrap_or_else(|| panic!("{text:?} is no endpoint of this daemon"));
        assert!(is_route(path), "a document names {path}, which is no route");
    }
    for route in &http::routes() {
        let (method, path) = (route.method.as_str(), route.path);
        if route.access != http::Access::Open {
            let found = api.iter().any(|(m, p)| m == method && p == path);
            assert!(found, "docs/api.md lacks {method} {path}");
            let tried =
                fetched.iter().filter_map(|text| path_of(text)).any(|shown| leads_to(path, shown));
            assert!(tried, "no document shows curl of {path}");
        } else if !path.contains('{') {
            assert!(named.iter().any(|name| name == path), "docs/health.md lacks {path}");
        }
    }
    assert!(!is_route("/health/nonsense/x"), "this check cannot fail");
}

#[test]
fn every_metric_is_exported() {
    let families = Metrics::new().unwrap();
    let is_exported = |name: &str| families.families().iter().any(|family| family.name == name);
    let prefixed = |span: &String| span.starts_with("pgsteward_") || span.starts_with("pg_");
    let metrics = Document::read("docs/metrics.md").section("Metrics");
    let in_metrics: Vec<String> = spans_of(&metrics).into_iter().filter(prefixed).collect();
    let elsewhere = spans().into_iter().filter(|span| span.starts_with("pgsteward_"));
    for family in families.families() {
        let documented = in_metrics.iter().any(|name| *name == family.name);
        assert!(documented, "docs/metrics.md lacks {}", family.name);
    }
    for name in in_metrics.into_iter().chain(elsewhere) {
        assert!(is_exported(&name), "a document names the metric {name}, which is not exported");
    }
    assert!(!is_exported("pgsteward_nonsense"), "this check cannot fail");
}

#[test]
fn every_kind_of_error_has_a_remedy() {
    let runbook = spans_of(&Document::read("docs/operations.md").section("Runbook"));
    for kind in Kind::ALL {
        let documented = runbook.iter().any(|span| span == kind.as_str());
        assert!(documented, "docs/operations.md lacks the kind of error {}", kind.as_str());
    }
}

#[test]
fn every_variable_has_its_effect() {
    let samples = BTreeMap::from([
        ("DATABASE_URL", "postgresql://app@db.example.com/app"),
        ("SUPABASE_URL", "https://abcdefghijklmnopqrst.supabase.co"),
        ("SUPABASE_DB_PASSWORD", "secret"),
        ("SUPABASE_SERVICE_KEY", "key"),
        ("SUPABASE_JWT_SECRET", "correct horse battery staple and 5 more"),
        ("DB_POOL_MIN_SIZE", "1"),
        ("DB_POOL_MAX_SIZE", "7"),
        ("DB_QUERY_TIMEOUT", "17"),
        ("USE_IN_MEMORY_DB", "true"),
        ("ENVIRONMENT", "development"),
    ]);
    let load = |extra: Option<(&str, &str)>| {
        let base = [
            ("DATABASE_URL", "postgresql:///app"),
            ("SUPABASE_URL", "https://zyxwvutsrqponmlkjihg.supabase.co"),
        ];
        let env: BTreeMap<String, String> = base
            .into_iter()
            .chain(extra)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        load_or_default(&Args::default(), &env, Path::new(NO_FILE))
            .unwrap_or_else(|e| panic!("{extra:?}: {e}"))
            .config
    };
    let keys = known_keys();
    let rows: Vec<(String, String)> = Document::read("docs/configuration.md")
        .section("Environment")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_matches('`').to_owned();
            Some((name, cells.next()?.trim_matches('`').to_owned()))
        })
        .collect();
    for (name, key) in rows.iter().filter(|(name, _)| !name.starts_with("PGSTEWARD_")) {
        let value = samples
            .get(name.as_str())
            .unwrap_or_else(|| panic!("{name} is new: give it a sample here"));
        assert!(is_key(&keys, key), "{name} stands for {key}, which is no key");
        assert_ne!(load(Some((name, value))), load(None), "{name} changes nothing");
    }
    for name in samples.keys() {
        assert!(rows.iter().any(|(row, _)| row == name), "docs/configuration.md lacks {name}");
    }
    for (path, key) in declared_keys() {
        if let Some(variable) = key.variable {
            let row = (variable.to_owned(), path.clone());
            assert!(rows.contains(&row), "docs/configuration.md lacks {variable} for {path}");
        }
    }

    let found = pgsteward(
        &["run", "--ephemeral", "--listen", "127.0.0.1:0"],
        &[("PGSTEWARD_PG_BIN", "/nonexistent")],
    );
    let stderr = String::from_utf8_lossy(&found.stderr);
    assert!(
        !found.status.success() && stderr.contains("PGSTEWARD_PG_BIN=/nonexistent"),
        "{stderr}"
    );
}

/// Whether a configuration file may contain `key`, or keys below it.
fn is_key(keys: &BTreeSet<String>, key: &str) -> bool {
    let beneath = format!("{key}.");
    keys.contains(key) || keys.iter().any(|known| known.starts_with(&beneath))
}

#[test]
fn every_key_exists() {
    let keys = known_keys();
    let sections: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    let mut seen = 0;
    for span in spans() {
        let text = span.split([' ', '=']).next().unwrap();
        let key = match text.strip_prefix("PGSTEWARD__") {
            Some("SECTION__KEY" | "…") => continue,
            Some(variable) => variable.replace("__", ".").to_lowercase(),
            None => text.to_owned(),
        };
        let named = key.split_once('.').is_some_and(|(first, _)| sections.contains(first));
        if named || text.starts_with("PGSTEWARD__") {
            seen += 1;
            let dashed: BTreeSet<String> = keys.iter().map(|key| key.replace('-', "_")).collect();
            assert!(
                is_key(&keys, &key) || is_key(&dashed, &key),
                "a document names the key {key} ({span}), which does not exist"
            );
        }
    }
    assert!(seen > 20, "only {seen} keys are found in the documents");
    assert!(!is_key(&keys, "jobs.leas"), "this check cannot fail");
}

#[test]
fn what_is_shown_as_configuration_is_accepted() {
    let blocks = user_documents().iter().flat_map(Document::blocks).collect::<Vec<_>>();
    let shown = blocks.iter().filter(|block| block.language == "toml");
    assert!(shown.clone().count() > 3, "the documents show no configuration");
    for block in shown {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, &block.text).unwrap();
        let args = Args { path: Some(path), ..Args::default() };
        let url = ("DATABASE_URL".to_owned(), "postgresql:///app".to_owned());
        let env =
            if block.text.contains("[database]") { BTreeMap::new() } else { BTreeMap::from([url]) };
        let loaded = load_or_default(&args, &env, Path::new(NO_FILE));
        assert!(loaded.is_ok(), "{}\n{}", block.text, loaded.unwrap_err());
    }
}

#[test]
fn every_file_and_target_exists() {
    let ours = ["src/", "migrations/", "packaging/", "systemd/", "scripts/", "tests/", "benches/"];
    let words_shown = block_lines("sh").into_iter().flat_map(|line| words(&line)).chain(spans());
    let words_shown = words_shown.chain(Document::read("ARCHITECTURE.md").spans());
    let files: Vec<String> = words_shown
        .filter(|word| !word.contains(' ') && ours.iter().any(|folder| word.starts_with(folder)))
        .collect();
    assert!(files.len() > 4, "only {} files are found in the documents", files.len());
    for file in files {
        assert!(root().join(&file).exists(), "a document names {file}, which does not exist");
    }

    let makefile = include_str!("../../Makefile");
    for target in block_lines("sh").into_iter().chain(spans()).filter_map(|line| {
        let words = words(&line);
        let make = words.iter().position(|word| word == "make")?;
        words.get(make + 1).cloned()
    }) {
        let rule = format!("{target}: ##");
        assert!(
            makefile.lines().any(|line| line.starts_with(&rule)),
            "a document names `make {target}`"
        );
    }
}

#[test]
fn every_job_is_in_the_table_with_its_schedule() {
    let args = Args { ephemeral: true, ..Args::default() };
    let config = load_or_default(&args, &BTreeMap::new(), Path::new(NO_FILE)).unwrap().config;
    let section = Document::read("docs/jobs.md").section("Built-in jobs");
    for (name, job) in &config.jobs.all {
        let row =
            section.lines().find(|line| line.starts_with(&format!("| `{}` |", name.as_str())));
        let row = row.unwrap_or_else(|| panic!("docs/jobs.md lacks the job {}", name.as_str()));
        let schedule = job.schedule().expect("a built-in job goes by a schedule");
        let shown = match schedule.text() {
            "@every 15s" => "every 15 s",
            "@every 60s" => "every 60 s",
            "@hourly" => "hourly",
            "17 3 * * *" => "03:17 UTC",
            "41 * * * *" => "minute 41",
            "*/15 * * * *" => "every 15 min",
            other => panic!(
                "the schedule {other:?} of {} is new: docs/jobs.md and this test must know it",
                name.as_str()
            ),
        };
        assert!(
            row.contains(shown),
            "docs/jobs.md does not say {shown:?} of {}: {row}",
            name.as_str()
        );
    }
}

#[test]
fn every_code_of_a_problem_is_documented() {
    let mut sources = vec![];
    for folder in ["src/http", "src/http/api", "src/http/auth"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
        {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let documented = Document::read("docs/api.md").section("Errors");
    let mut codes = BTreeSet::new();
    for source in &sources {
        for call in ["HttpError::new(", "unprocessable("] {
            for (_, rest) in
                source.match_indices(call).map(|(at, call)| source.split_at(at + call.len()))
            {
                let code = rest.split('"').nth(1).unwrap_or_default();
                let near = rest.find('"').is_some_and(|at| at < 80);
                if near
                    && !code.is_empty()
                    && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                {
                    codes.insert(code);
                }
            }
        }
    }
    assert!(codes.len() > 25, "the codes are not found: {codes:?}");
    for code in codes {
        assert!(documented.contains(&format!("`{code}`")), "docs/api.md lacks the code {code}");
    }
}

#[test]
fn every_relative_link_and_anchor_exists() {
    let mut documents = user_documents();
    documents.extend(["ARCHITECTURE.md", "CHANGELOG.md"].map(Document::read));
    let mut seen = 0;
    for document in &documents {
        for link in document.links().iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (path, anchor) = resolve(document, link);
            assert!(root().join(&path).exists(), "{}: {link} does not exist", document.path);
            let Some(anchor) = anchor else { continue };
            let anchors = Document::read(&path.to_string_lossy()).anchors();
            assert!(anchors.contains(&anchor), "{}: {link} has no such heading", document.path);
        }
    }
    assert!(seen > 30, "only {seen} links are found in the documents");
}

#[test]
fn readme_is_short() {
    let bytes = Document::read("README.md").text.len();
    assert!(
        bytes <= README_BYTES_MAX,
        "README.md has {bytes} bytes, at most {README_BYTES_MAX}: move details to docs/"
    );
}

#[test]
fn images_are_small() {
    for entry in std::fs::read_dir(root().join("docs/images")).unwrap() {
        let (path, bytes) = entry.map(|e| (e.path(), e.metadata().unwrap().len())).unwrap();
        assert!(bytes <= IMAGE_BYTES_MAX, "{path:?} has {bytes} bytes, at most {IMAGE_BYTES_MAX}");
    }
}

/// Tables and lines that consist of one link or URL are excluded: they cannot be wrapped.
#[test]
fn prose_is_at_most_100_columns_wide() {
    for document in user_documents() {
        for (number, line) in document.prose_lines() {
            let width = line.chars().count();
            let unwrappable = line.trim_start().starts_with('|') || !line.trim().contains(' ');
            assert!(
                width <= PROSE_WIDTH_MAX || unwrappable || line.contains("]("),
                "{}:{number}: {width} columns, at most {PROSE_WIDTH_MAX}",
                document.path
            );
        }
    }
}

/// The index names every document, so that none is lost.
#[test]
fn every_document_is_in_the_index() {
    let index = Document::read("docs/README.md");
    let linked: BTreeSet<String> = index.links().into_iter().collect();
    for document in user_documents() {
        if let Some(name) = document.path.strip_prefix("docs/").filter(|name| *name != "README.md")
        {
            assert!(linked.contains(name), "docs/README.md does not link to {name}");
        }
    }
}
