//! README.md tells the truth: its commands parse, its endpoints answer, its metrics, variables, keys, files
//! and targets exist, and what it shows as configuration is accepted.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use pgsteward::config::{Args, load::known_keys, load::load_or_default};
use pgsteward::http;

const README: &str = include_str!("../README.md");

/// Nothing is read from where the tests run.
const NO_FILE: &str = "/nonexistent/config.toml";

/// A fenced block: its language, and its lines without their common indentation.
struct Block {
    language: String,
    text: String,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in README.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new() })
            }
            (Some(_), Some(_)) => blocks.push(open.take().unwrap()),
            (None, Some(block)) => {
                block.text.push_str(line.trim_start());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block has no end");
    blocks
}

fn block_lines(language: &str) -> Vec<String> {
    blocks()
        .into_iter()
        .filter(|block| block.language == language)
        .flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// What stands `between backticks` outside blocks.
fn spans() -> Vec<String> {
    let mut prose = String::new();
    let mut inside = false;
    for line in README.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The lines of `## title`, down to the next such heading.
fn section(title: &str) -> String {
    let heading = format!("## {title}\n");
    let (_, rest) =
        README.split_once(&heading).unwrap_or_else(|| panic!("README has no section {title:?}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// Words of a shell line as far as this document uses quotes, up to a pipe, a comment or `&&`.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') if !word.is_empty() => words.push(std::mem::take(&mut word)),
            (None, ' ') => {}
            (None, _) => word.push(c),
        }
    }
    words.push(word);
    let end = words
        .iter()
        .position(|word| ["|", "&&", "#", ""].contains(&word.as_str()))
        .unwrap_or(words.len());
    words.truncate(end);
    words
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
        // What follows is read first: a wrong command, option or value is an error before `--help` counts.
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--help"]).collect();
        let output = pgsteward(&arguments, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pgsteward {}: {told}", arguments.join(" "));
        shown.insert(arguments[0].to_owned());
    }
    for command in ["run", "check", "migrate", "health", "role", "pause", "resume", "job"] {
        assert!(shown.contains(command), "README shows no `pgsteward {command}`");
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
    let (wanted, found) = (segments(route), segments(path));
    wanted.len() == found.len()
        && wanted.iter().zip(&found).all(|(w, f)| w == f || w.starts_with('{'))
}

#[test]
fn every_endpoint_is_there_and_documented() {
    let fetched = block_lines("sh")
        .into_iter()
        .filter(|line| line.starts_with("curl "))
        .flat_map(|line| words(&line));
    let fetched: Vec<String> = fetched.filter(|word| word.contains("://")).collect();
    assert!(fetched.len() >= 3, "README shows no curl: {fetched:?}");
    // The first column of the tables of endpoints.
    let first = |title: &str| -> Vec<String> {
        let section = section(title);
        let cells = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned));
        cells.collect()
    };
    let named = first("Health and probes");
    let api: Vec<(String, String)> = first("The API")
        .iter()
        .filter_map(|cell| {
            cell.split_once(" /").map(|(method, rest)| (method.to_owned(), format!("/{rest}")))
        })
        .collect();
    for text in fetched.iter().chain(&named).chain(api.iter().map(|(_, path)| path)) {
        let path =
            path_of(text).unwrap_or_else(|| panic!("{text:?} is no endpoint of this daemon"));
        assert!(is_route(path), "README names {path}, which is no route");
    }
    for route in &http::routes() {
        let (method, path) = (route.method.as_str(), route.path);
        if route.access != http::Access::Open {
            let found = api.iter().any(|(m, p)| m == method && p == path);
            assert!(found, "README's table of the API lacks {method} {path}");
            let tried =
                fetched.iter().filter_map(|text| path_of(text)).any(|shown| leads_to(path, shown));
            assert!(tried, "README shows no curl of {path}");
        } else if !path.contains('{') {
            assert!(named.iter().any(|name| name == path), "README's table lacks {path}");
        }
    }
    assert!(!is_route("/health/nonsense/x"), "this check cannot fail");
}

#[test]
fn every_metric_is_exported() {
    // A family without a series is not on the page; all are declared in these files, which register them.
    let declared = concat!(
        include_str!("../src/telemetry/metrics.rs"),
        include_str!("../src/telemetry/metrics/audit.rs"),
        include_str!("../src/telemetry/metrics/tls.rs"),
    );
    let is_exported = |name: &str| declared.contains(&format!("{name:?}"));
    let prefixed = |span: &String| span.starts_with("pgsteward_") || span.starts_with("pg_");
    let in_metrics: Vec<String> = section("Metrics")
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .filter(prefixed)
        .collect();
    let elsewhere = spans().into_iter().filter(|span| span.starts_with("pgsteward_"));
    assert!(in_metrics.len() > 15, "README's table of metrics is not found: {in_metrics:?}");
    for name in in_metrics.into_iter().chain(elsewhere) {
        assert!(is_exported(&name), "README names the metric {name}, which is not exported");
    }
    assert!(!is_exported("pgsteward_nonsense"), "this check cannot fail");
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
    let rows: Vec<(String, String)> = section("Configuration")
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
        assert!(rows.iter().any(|(row, _)| row == name), "README's table lacks {name}");
    }

    let found = pgsteward(
        &["run", "--ephemeral", "--listen", "127.0.0.1:0"],
        &[("PGSTEWARD_PG_BIN", "/nonexistent")],
    );
    let told = String::from_utf8_lossy(&found.stderr);
    assert!(!found.status.success() && told.contains("PGSTEWARD_PG_BIN=/nonexistent"), "{told}");
}

/// Whether a key may stand in a file; `database` is one of `databases`.
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
                "README names the key {key} ({span}), which is none"
            );
        }
    }
    assert!(seen > 20, "only {seen} keys are found in README");
    assert!(!is_key(&keys, "jobs.leas"), "this check cannot fail");
}

#[test]
fn what_is_shown_as_configuration_is_accepted() {
    let shown: Vec<Block> = blocks().into_iter().filter(|block| block.language == "toml").collect();
    assert!(!shown.is_empty());
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let linked =
        README.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned);
    let ours = ["src/", "migrations/", "packaging/", "systemd/", "scripts/", "tests/", "benches/"];
    let commands = block_lines("sh").into_iter().flat_map(|line| words(&line));
    let mut seen = 0;
    for file in
        linked.filter(|link| !link.contains("://")).chain(commands.chain(spans()).filter(|word| {
            !word.contains(' ') && ours.iter().any(|folder| word.starts_with(folder))
        }))
    {
        seen += 1;
        if let Some(anchor) = file.strip_prefix('#') {
            let is_it = |line: &str| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                line.starts_with('#')
                    && title
                        .replace(' ', "-")
                        .replace(|c: char| !c.is_alphanumeric() && c != '-', "")
                        == anchor
            };
            assert!(README.lines().any(is_it), "README names {file}, which is not there");
            continue;
        }
        assert!(root.join(&file).exists(), "README names {file}, which is not there");
    }
    assert!(seen > 10, "only {seen} files are found in README");

    let makefile = include_str!("../Makefile");
    for target in block_lines("sh").into_iter().chain(spans()).filter_map(|line| {
        let words = words(&line);
        let make = words.iter().position(|word| word == "make")?;
        words.get(make + 1).cloned()
    }) {
        let rule = format!("{target}: ##");
        assert!(
            makefile.lines().any(|line| line.starts_with(&rule)),
            "README names `make {target}`"
        );
    }
}

#[test]
fn every_job_is_in_the_table_with_its_schedule() {
    let args = Args { ephemeral: true, ..Args::default() };
    let config = load_or_default(&args, &BTreeMap::new(), Path::new(NO_FILE)).unwrap().config;
    let section = section("What it does by itself");
    for (name, job) in &config.jobs.all {
        let row =
            section.lines().find(|line| line.starts_with(&format!("| `{}` |", name.as_str())));
        let row = row.unwrap_or_else(|| panic!("README's table lacks the job {}", name.as_str()));
        let schedule = job.schedule().expect("a built-in job goes by a schedule");
        let shown = match schedule.text() {
            "@every 15s" => "every 15 s",
            "@every 60s" => "every 60 s",
            "@hourly" => "hourly",
            "17 3 * * *" => "03:17 UTC",
            "41 * * * *" => "minute 41",
            "*/15 * * * *" => "every 15 min",
            other => panic!(
                "the schedule {other:?} of {} is new: README and this table want it",
                name.as_str()
            ),
        };
        assert!(row.contains(shown), "README does not say {shown:?} of {}: {row}", name.as_str());
    }
}

#[test]
fn every_code_of_a_problem_is_told() {
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
    let told = section("The API");
    let mut codes = BTreeSet::new();
    for source in &sources {
        for call in ["Refusal::new(", "unprocessable("] {
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
        assert!(told.contains(&format!("`{code}`")), "README's table of codes lacks {code}");
    }
}
