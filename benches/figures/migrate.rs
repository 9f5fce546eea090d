//! 500 migrations: applied to an empty database, and found applied.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::ground::Ground;
use super::harness::Setup;
use super::peers;
use super::report::{Findings, Limit, Row, Sample};

const FILES: usize = 500;
const COLD_RUNS: usize = 5;
const NOOP_RUNS: usize = 10;
const RATIO: f64 = 0.8;
const NOOP_MS: f64 = 10.0;

pub async fn measure(ground: &Ground) -> Findings {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = folder.path().join("files");
    std::fs::create_dir(&files).expect("a folder");
    let script = folder.path().join("all.sql");
    write_files(&files, &script);
    let dir = files.to_str().expect("the path is UTF-8");
    let psql = ground.bin_dir().join("psql");

    let (mut ours, mut theirs, mut ratio) =
        (Sample::default(), Sample::default(), Sample::default());
    let (mut noop, mut fixed) = (Vec::new(), Vec::new());
    for round in 0..COLD_RUNS {
        let url = ground.database("bench_psql").await;
        ground.client("bench_psql").await.batch_execute(HISTORY).await.expect("a history for psql");
        let psql_took = took(
            Command::new(&psql)
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-f"])
                .arg(&script),
        );
        let psql_took = psql_took.expect("psql applies the script");

        let setup = Setup::new().database(&ground.database("bench_migrate").await);
        // The history itself, as psql's was made before.
        ended(&setup.command(&["migrate", "up"]));
        let begun = Instant::now();
        ended(&setup.command(&["migrate", "up", "--dir", dir]));
        let our_took = begun.elapsed();

        ours.push(our_took.as_secs_f64() * 1e3);
        theirs.push(psql_took.as_secs_f64() * 1e3);
        ratio.push(our_took.as_secs_f64() / psql_took.as_secs_f64());
        if round == COLD_RUNS - 1 {
            for _ in 0..NOOP_RUNS {
                let begun = Instant::now();
                ended(&setup.command(&["migrate", "up", "--dir", dir]));
                noop.push(begun.elapsed());
                let begun = Instant::now();
                ended(&setup.command(&["migrate", "up"]));
                fixed.push(begun.elapsed());
            }
        }
    }
    let mut findings = Findings::of([
        Row::new("500 migrations cold, of psql's time", Limit::AtMost(RATIO), "", ratio),
        Row::new("500 migrations cold", Limit::Reference, "ms", ours),
        Row::new("  psql, the same transactions", Limit::Reference, "ms", theirs),
        Row::new(
            "nothing to migrate, 500 files, whole process",
            Limit::AtMost(NOOP_MS),
            "ms",
            Sample::millis(noop),
        ),
        Row::new(
            "  3 files: the process and its connection",
            Limit::Reference,
            "ms",
            Sample::millis(fixed),
        ),
    ]);
    peers::dbmate(ground, &files, &mut findings).await;
    findings
}

const HISTORY: &str = "CREATE TABLE public.history (
    version bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";

/// The files, and what a person would have psql do instead: each file in a transaction with a row in
/// a history.
fn write_files(files: &Path, script: &Path) {
    let mut all = String::new();
    for n in 1..=FILES {
        // The first line and the last are dbmate's; to others they are comments.
        let sql = format!(
            "-- migrate:up\nCREATE TABLE t_{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a integer, b text);\n\
             CREATE INDEX t_{n}_a_idx ON t_{n} (a);\nCOMMENT ON TABLE t_{n} IS 'Table {n}.';\n-- migrate:down\n"
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            all,
            "BEGIN;\n{sql}INSERT INTO public.history VALUES ({n}, 't_{n}', md5('{n}'));\nCOMMIT;"
        );
        std::fs::write(files.join(format!("{n:03}_t_{n}.sql")), sql).expect("write a migration");
    }
    std::fs::write(script, all).expect("write the script");
}

/// How long a command takes, or how it failed.
pub fn took(command: &mut Command) -> Result<Duration, String> {
    let begun = Instant::now();
    let output = command.output().map_err(|error| error.to_string())?;
    let took = begun.elapsed();
    if output.status.success() { Ok(took) } else { Err(failure(&output)) }
}

fn ended(output: &Output) {
    assert!(output.status.success(), "{}", failure(output));
}

fn failure(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())
}
