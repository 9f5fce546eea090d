//! Retention by slices, unthrottled, beside one DELETE of the same rows.

use std::time::{Duration, Instant};

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, TestClient, wait_for};
use super::report::{Findings, Limit, Row, Sample};

/// Past their time.
const ROWS: i64 = 1_000_000;
/// These stay.
const KEPT: i64 = 100_000;
const ROUNDS: usize = 3;
const RATIO: f64 = 0.8;

const CONFIG: &str = "
[retention]
duty = 1.0
[retention.tables.\"public.events\"]
column = \"created_at\"
keep = \"30d\"
[jobs.retention]
schedule = \"@every 1s\"
[jobs.vacuum]
enabled = false
[jobs.refresh]
enabled = false
";

pub async fn measure(ground: &Ground) -> Findings {
    let (mut ratio, mut slices, mut whole) =
        (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        let in_slices = by_slices(ground).await;
        let at_once = at_once(ground).await;
        slices.push(rate(in_slices));
        whole.push(rate(at_once));
        ratio.push(at_once.as_secs_f64() / in_slices.as_secs_f64());
    }
    let mut findings = Findings::of([
        Row::new("retention by slices, of one DELETE's rows/s", Limit::AtLeast(RATIO), "", ratio),
        Row::new("retention by slices", Limit::Reference, "1,000 rows/s", slices),
        Row::new("  one DELETE", Limit::Reference, "1,000 rows/s", whole),
    ]);
    findings.note(format!(
        "retention: {ROWS} of {} rows, one index beside the primary key",
        ROWS + KEPT
    ));
    findings
}

fn rate(took: Duration) -> f64 {
    ROWS as f64 / took.as_secs_f64() / 1e3
}

async fn by_slices(ground: &Ground) -> Duration {
    let url = ground.database("bench_slices").await;
    let admin = ground.client("bench_slices").await;
    fill(&admin).await;
    let daemon = Daemon::launch(Setup::new().database(&url).config(CONFIG));
    daemon.wait_ready().await;
    let sql = format!(
        "SELECT coalesce(max(extract(epoch FROM finished_at - started_at)), 0)::text FROM steward.job_runs
         WHERE job = 'retention' AND state = 'succeeded' AND rows_affected >= {ROWS}"
    );
    let seconds = wait_for("retention has deleted what is past its time", BOUND * 2, async || {
        admin.text(&sql).await.parse::<f64>().ok().filter(|seconds| *seconds > 0.0)
    });
    let seconds = seconds.await;
    daemon.terminate().await;
    Duration::from_secs_f64(seconds)
}

async fn at_once(ground: &Ground) -> Duration {
    ground.database("bench_delete").await;
    let admin = ground.client("bench_delete").await;
    fill(&admin).await;
    let begun = Instant::now();
    let sql = "DELETE FROM public.events WHERE created_at < now() - interval '30 days'";
    let deleted = admin.execute(sql, &[]).await.expect("delete");
    let took = begun.elapsed();
    assert_eq!(i64::try_from(deleted).ok(), Some(ROWS));
    took
}

/// In the order of their time, as rows arrive.
async fn fill(admin: &TestClient) {
    let sql = format!(
        "CREATE TABLE public.events (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, payload text NOT NULL);
         INSERT INTO public.events
            SELECT n, now() + (n - {ROWS}) * interval '1 second' - interval '31 days' * (n <= {ROWS})::integer, repeat('x', 80)
            FROM generate_series(1, {ROWS} + {KEPT}) n;
         CREATE INDEX events_created_at_idx ON public.events (created_at)"
    );
    admin.batch_execute(&sql).await.expect("fill a table");
    // Not inside a transaction, hence alone.
    admin.batch_execute("VACUUM (ANALYZE) public.events").await.expect("vacuum");
    admin.batch_execute("CHECKPOINT").await.expect("checkpoint");
}
