//! A minute of life: the memory of a daemon whose jobs all run, and the CPU time of one at rest.

use std::time::Duration;

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, wait_until};
use super::process::{Memory, cpu_seconds};
use super::report::{Findings, Limit, Row, Sample};

const MINUTE: Duration = Duration::from_secs(60);
/// As Prometheus and a kubelet would.
const ASKED_EVERY: Duration = Duration::from_secs(10);

const ANONYMOUS_MIB: f64 = 4.0;
const RESIDENT_MIB: f64 = 10.0;
const CPU_PERCENT: f64 = 0.5;

/// Every job several times in the minute, with something to do.
const BUSY: &str = "
[migrations]
sets = [\"zentry\"]
[retention.tables.\"public.events\"]
column = \"created_at\"
keep = \"30d\"
[vacuum]
dead_rows_min = 100
[jobs.health-probe]
schedule = \"@every 5s\"
[jobs.connection-metrics]
schedule = \"@every 5s\"
[jobs.partitions]
schedule = \"@every 10s\"
[jobs.retention]
schedule = \"@every 10s\"
[jobs.vacuum]
schedule = \"@every 10s\"
[jobs.refresh]
schedule = \"@every 10s\"
[jobs.audit-seal]
schedule = \"@every 10s\"
";

const JOBS: i64 = 5;

pub async fn measure(ground: &Ground) -> Findings {
    let busy = Setup::new().database(&ground.database("bench_busy").await).config(BUSY);
    let idle = Setup::new()
        .database(&ground.database("bench_idle").await)
        .config("[migrations]\nsets = [\"zentry\"]\n");
    let admin = ground.client("bench_busy").await;
    let events = "CREATE TABLE public.events AS
            SELECT n AS id, now() - n * interval '10 minutes' AS created_at, repeat('x', 100) AS payload
            FROM generate_series(1, 20000) n;
        CREATE INDEX ON public.events (created_at)";
    admin.batch_execute(events).await.expect("fill a table");
    let (busy, idle) = (Daemon::spawn(busy).await, Daemon::spawn(idle).await);
    let (mut asked, mut used) = (Duration::ZERO, Vec::new());
    // What a start costs is not what a minute costs.
    tokio::time::sleep(Duration::from_secs(2)).await;
    used.push(cpu_seconds(idle.pid()));
    while asked < MINUTE {
        tokio::time::sleep(ASKED_EVERY).await;
        asked += ASKED_EVERY;
        for daemon in [&busy, &idle] {
            for path in ["/metrics", "/health/", "/livez", "/readyz"] {
                assert_eq!(daemon.get(path).await.status, 200, "{path}");
            }
        }
        used.push(cpu_seconds(idle.pid()));
    }
    let memory = Memory::of(busy.pid());
    let at_rest = Memory::of(idle.pid());
    let ran = "SELECT count(DISTINCT job) FROM steward.job_runs WHERE state = 'succeeded'";
    wait_until("every job has succeeded", BOUND, async || admin.number(ran).await == JOBS).await;
    let share = (used[used.len() - 1] - used[0]) / MINUTE.as_secs_f64() * 100.0;
    busy.terminate().await;
    idle.terminate().await;

    let mib = |kib: u64| Sample::one(kib as f64 / 1024.0);
    let mut findings = Findings::of([
        Row::new(
            "anonymous memory, all jobs on",
            Limit::AtMost(ANONYMOUS_MIB),
            "MiB",
            mib(memory.anonymous),
        ),
        Row::new(
            "resident memory, all jobs on",
            Limit::AtMost(RESIDENT_MIB),
            "MiB",
            mib(memory.resident),
        ),
        Row::new("anonymous memory, at rest", Limit::Reference, "MiB", mib(at_rest.anonymous)),
        Row::new("resident memory, at rest", Limit::Reference, "MiB", mib(at_rest.resident)),
        Row::new("CPU at rest, of one core", Limit::AtMost(CPU_PERCENT), "%", Sample::one(share)),
    ]);
    findings.note(format!("memory, all jobs on: {}", memory.made_of()));
    findings
}
