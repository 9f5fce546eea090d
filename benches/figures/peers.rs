//! Other programs that do the same work, where they are installed.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::ground::Ground;
use super::harness::BOUND;
use super::migrate::took;
use super::report::{Findings, Limit, Row, Sample};
use super::scrape::scrape;

/// They ask the server at each scrape, so fewer do.
const REQUESTS: usize = 100;
const RUNS: usize = 3;

/// A Prometheus exporter for PostgreSQL.
struct Exporter {
    name: &'static str,
    /// The names that packages give it.
    programs: &'static [&'static str],
    command: fn(&Path, u16, &str) -> Command,
}

const EXPORTERS: &[Exporter] = &[
    Exporter {
        name: "postgres_exporter",
        programs: &["postgres_exporter", "prometheus-postgres-exporter"],
        command: |program, port, url| {
            let mut command = Command::new(program);
            command
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .env("DATA_SOURCE_NAME", url);
            command
        },
    },
    Exporter {
        name: "pg_exporter",
        programs: &["pg_exporter"],
        command: |program, port, url| {
            let mut command = Command::new(program);
            command.args(["--port", &port.to_string(), "--dsn", url]);
            command
        },
    },
];

/// Ends with what holds it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Their scrapes of the same database, which logs its statements.
pub async fn exporters(ground: &Ground, database: &str, findings: &mut Findings) {
    for exporter in EXPORTERS {
        let Some(program) = exporter.programs.iter().find_map(|name| find(name)) else {
            findings.note(format!("{} is not installed: not compared", exporter.name));
            continue;
        };
        let port = free_port();
        let mut command = (exporter.command)(&program, port, &ground.url(database));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut running =
            Running(child.unwrap_or_else(|error| panic!("{}: {error}", program.display())));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !listens(&mut running, address).await {
            findings
                .note(format!("{} is installed and did not listen: not compared", exporter.name));
            continue;
        }
        scrape(address, 1);
        let from = ground.log_end();
        let sample = scrape(address, REQUESTS);
        let asked = ground.statements(from, database, "").into_iter().filter(|statement| {
            !statement.application.starts_with("pgsteward")
                && matches!(statement.step.as_str(), "statement" | "execute")
        });
        let asked = asked.count() as f64 / REQUESTS as f64;
        let row = |what: &str| format!("  {}, {what}", exporter.name);
        findings.row(Row::percentile(row("p50"), 0.5, Limit::Reference, "ms", &sample));
        findings.row(Row::percentile(row("p99"), 0.99, Limit::Reference, "ms", &sample));
        findings.row(Row::new(
            row("statements per scrape"),
            Limit::Reference,
            "",
            Sample::one(asked),
        ));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

async fn listens(running: &mut Running, address: SocketAddr) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < BOUND && running.0.try_wait().is_ok_and(|ended| ended.is_none()) {
        if TcpStream::connect(address).is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// dbmate over the same files.
pub async fn dbmate(ground: &Ground, files: &Path, findings: &mut Findings) {
    let Some(program) = find("dbmate") else {
        findings.note("dbmate is not installed: not compared");
        return;
    };
    let (mut cold, mut noop) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let url = ground.database("bench_dbmate").await;
        let up = || {
            let mut command = Command::new(&program);
            command
                .args(["--url", &url, "--no-dump-schema", "--migrations-dir"])
                .arg(files)
                .arg("up");
            took(&mut command)
        };
        match up().and_then(|first| Ok((first, up()?))) {
            Ok((first, second)) => {
                cold.push(first);
                noop.push(second);
            }
            Err(error) => {
                findings.note(format!("dbmate is installed and failed: not compared ({error})"));
                return;
            }
        }
    }
    findings.row(Row::new("  dbmate, cold", Limit::Reference, "ms", Sample::millis(cold)));
    findings.row(Row::new(
        "  dbmate, nothing to migrate",
        Limit::Reference,
        "ms",
        Sample::millis(noop),
    ));
}

/// As a shell would.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}
