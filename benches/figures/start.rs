//! From the start of the process to `READY=1` on systemd's socket, nothing pending.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup};
use super::report::{Findings, Limit, Row, Sample};

const RUNS: usize = 20;
const LIMIT_MS: f64 = 50.0;

/// The lines of a start, in their order.
const MILESTONES: &[(&str, &str)] = &[
    ("listening", "pgsteward started"),
    ("connected", "\"connected\""),
    ("schema verified", "the schema is up to date"),
    ("ready", "\"ready\""),
];

pub async fn measure(ground: &Ground) -> Findings {
    let url = ground.database("bench_start").await;
    let setup = Setup::new().database(&url).config("[migrations]\nsets = [\"zentry\"]\n");
    Daemon::spawn(setup.clone()).await.terminate().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket for the notifications");
    socket.set_read_timeout(Some(BOUND)).expect("a bound for the notifications");
    let setup = setup.env("NOTIFY_SOCKET", path.to_str().expect("the path is UTF-8"));
    let mut times = Vec::with_capacity(RUNS);
    let mut last_log = String::new();
    for _ in 0..RUNS {
        let begun = Instant::now();
        let daemon = Daemon::launch(setup.clone());
        let took = ready(&socket, begun);
        times.push(took);
        daemon.wait_log("\"ready\"").await;
        last_log = daemon.log();
        daemon.terminate().await;
        drain(&socket);
    }
    let mut findings = Findings::of([Row::new(
        "start to ready, nothing pending",
        Limit::AtMost(LIMIT_MS),
        "ms",
        Sample::millis(times),
    )]);
    findings.note(format!("the last start, from its first line on: {}", milestones(&last_log)));
    findings
}

/// Waits for `READY=1`.
fn ready(socket: &UnixDatagram, begun: Instant) -> Duration {
    let mut buffer = [0; 4096];
    while begun.elapsed() < BOUND {
        let length = socket.recv(&mut buffer).expect("the daemon notifies");
        if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return begun.elapsed();
        }
    }
    panic!("no READY=1 within {BOUND:?}");
}

/// What an ending daemon said is not for the next one.
fn drain(socket: &UnixDatagram) {
    socket.set_nonblocking(true).expect("do not wait");
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false).expect("wait again");
}

/// When the log told what, in milliseconds after its first line.
fn milestones(log: &str) -> String {
    let time = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        chrono::DateTime::parse_from_rfc3339(value["time"].as_str()?).ok()
    };
    let Some(first) = log.lines().find_map(time) else { return "no line has a time".to_owned() };
    let told = MILESTONES.iter().filter_map(|(name, text)| {
        let at = time(log.lines().find(|line| line.contains(text))?)?;
        Some(format!("{name} {} ms", (at - first).num_milliseconds()))
    });
    told.collect::<Vec<_>>().join(", ")
}
