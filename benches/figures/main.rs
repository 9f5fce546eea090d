//! `make bench`: the figures that the project holds itself to, measured on this machine.
//!
//! ```text
//! a throw-away server ─► one figure after another, each in a database of its own ─► one table
//! ```
//! What is measured is the release binary, from outside: its process in `/proc`, its socket, its
//! answers, and what the server logs of its statements. Other programs that do the same work are
//! measured beside it where they are installed.
//!
//! A figure that misses its limit is a row that says so. Only a figure that could not be taken makes
//! the exit status 1: a machine that is busy is no defect, and no test hangs on time.
//!
//! usage: `make bench`, `make bench ONLY=memory`, `make bench ONLY="start metrics"`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)]
// A measurement that cannot be taken panics, and is a task so that the others go on.
#![allow(clippy::disallowed_methods)]

#[path = "../../tests/harness/mod.rs"]
mod harness;

mod api;
mod audit;
mod ground;
mod jobs;
mod migrate;
mod minute;
mod peers;
mod process;
mod report;
mod retention;
mod scrape;
mod start;
mod tick;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use ground::Ground;
use report::{Findings, Limit, Report, Row, Sample};
use tokio::task::{LocalSet, spawn_local};

/// What can be asked for, in the order in which it is measured.
const FIGURES: &[&str] =
    &["size", "start", "metrics", "tick", "memory", "jobs", "migrate", "retention", "audit", "api"];

/// A release binary of more than this is too large to be carried beside every application.
const SIZE_MAX_MB: f64 = 10.0;

fn main() -> ExitCode {
    // cargo hands `--bench` to whatever it runs.
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(unknown) = asked.iter().find(|name| !FIGURES.contains(&name.as_str())) {
        eprintln!("bench: there is no figure {unknown:?}; wanted some of: {}", FIGURES.join(", "));
        return ExitCode::from(64);
    }
    let chosen = FIGURES
        .iter()
        .copied()
        .filter(|name| asked.is_empty() || asked.iter().any(|wanted| wanted == name));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let measuring = LocalSet::new();
    runtime.expect("a runtime").block_on(measuring.run_until(measure(chosen.collect())))
}

async fn measure(chosen: Vec<&'static str>) -> ExitCode {
    let begun = Instant::now();
    let ground = Rc::new(Ground::lay().await);
    let mut report = Report::new(ground.version());
    for name in chosen {
        eprintln!("bench: {name} …");
        match spawn_local(figure(name, Rc::clone(&ground))).await {
            Ok(findings) => report.add(findings),
            // The panic itself stands above.
            Err(error) => report.not_taken(name, &error.to_string()),
        }
    }
    report.print(begun.elapsed());
    if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn figure(name: &'static str, ground: Rc<Ground>) -> Findings {
    match name {
        "size" => size(),
        "start" => start::measure(&ground).await,
        "metrics" => scrape::measure(&ground).await,
        "tick" => tick::measure(&ground).await,
        "memory" => minute::measure(&ground).await,
        "jobs" => jobs::measure(&ground).await,
        "migrate" => migrate::measure(&ground).await,
        "retention" => retention::measure(&ground).await,
        "audit" => audit::measure(&ground).await,
        "api" => api::measure(&ground).await,
        other => unreachable!("{other:?} is not in FIGURES"),
    }
}

fn size() -> Findings {
    let bytes =
        std::fs::metadata(env!("CARGO_BIN_EXE_pgsteward")).expect("the binary is there").len();
    let sample = Sample::one(bytes as f64 / 1e6);
    Findings::of([Row::new("release binary", Limit::AtMost(SIZE_MAX_MB), "MB", sample)])
}
