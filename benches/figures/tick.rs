//! One look of the observer at a database of 500 tables: round trips, and the server's time.

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, wait_until};
use super::report::{Findings, Limit, Row, Sample};
use super::scrape::make_tables;

const TABLES: usize = 500;
const TICKS: i64 = 12;
const ROUND_TRIPS: f64 = 2.0;
const SERVER_MS: f64 = 3.0;

pub async fn measure(ground: &Ground) -> Findings {
    let url = ground.database("bench_tick").await;
    make_tables(ground, "bench_tick", TABLES).await;
    ground.log_statements("bench_tick").await;
    let config =
        "[migrations]\nsets = [\"zentry\"]\n[jobs.health-probe]\nschedule = \"@every 1s\"\n";
    let daemon = Daemon::spawn(Setup::new().database(&url).config(config)).await;
    let admin = ground.client("bench_tick").await;
    let rows = "SELECT count(DISTINCT created_at) FROM steward.system_health";
    // The first tick also opens the connection and asks what may be asked.
    wait_until("the first ticks are over", BOUND, async || admin.number(rows).await >= 2).await;
    let (from, before) = (ground.log_end(), admin.number(rows).await);
    wait_until("some ticks are over", BOUND, async || admin.number(rows).await >= before + TICKS)
        .await;
    let ticks = admin.number(rows).await - before;
    let statements = ground.statements(from, "bench_tick", "pgsteward/observe");
    daemon.terminate().await;

    // A message of the simple protocol is a round trip; of the extended one, an execution is.
    let trips = statements
        .iter()
        .filter(|statement| matches!(statement.step.as_str(), "statement" | "execute"));
    let trips = trips.count() as f64 / ticks as f64;
    let mut server = Sample::default();
    for statement in &statements {
        server.push(statement.millis);
    }
    Findings::of([
        Row::new(
            "observe tick, 500 tables: round trips",
            Limit::AtMost(ROUND_TRIPS),
            "",
            Sample::one(trips),
        ),
        Row::new("observe tick, 500 tables: server time", Limit::AtMost(SERVER_MS), "ms", server),
    ])
}
