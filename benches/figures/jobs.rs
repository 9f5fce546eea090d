//! The ledger under load: many jobs each second on one instance, and every instant exactly once among
//! three, of which the observer is killed in the middle.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, TestClient, wait_until};
use super::process::cpu_seconds;
use super::report::{Findings, Limit, Row, Sample};

const MINUTE: Duration = Duration::from_secs(60);
/// As many as make 10,000 fires a minute.
const BUSY_JOBS: i64 = 167;
const LAG_MS: f64 = 1_100.0;

const SHARED_JOBS: i64 = 20;
const SHARED_INSTANTS: i64 = 50;
const INSTANCES: usize = 3;

pub async fn measure(ground: &Ground) -> Findings {
    let mut findings = one_instance(ground, 8).await;
    findings.append(one_instance(ground, 2).await);
    findings.append(three_instances(ground).await);
    findings
}

/// Jobs that are due each second and note that they ran.
fn jobs(count: i64, keys: &str) -> String {
    let mut config = String::new();
    for job in 0..count {
        let _ = writeln!(
            config,
            "[jobs.busy-{job}]\nsql = \"INSERT INTO public.effects (job) VALUES ({job})\"\nschedule = \"@every 1s\"\n{keys}"
        );
    }
    config
}

async fn prepare(ground: &Ground, database: &str) -> (String, TestClient) {
    let url = ground.database(database).await;
    let admin = ground.client(database).await;
    admin
        .batch_execute("CREATE TABLE public.effects (job integer NOT NULL)")
        .await
        .expect("make a table");
    (url, admin)
}

async fn one_instance(ground: &Ground, lanes: u32) -> Findings {
    let database = format!("bench_jobs_{lanes}");
    let (url, admin) = prepare(ground, &database).await;
    let config = format!("[jobs]\nmax_concurrent = {lanes}\n{}", jobs(BUSY_JOBS, ""));
    let daemon = Daemon::spawn(Setup::new().database(&url).config(&config)).await;
    let running = "SELECT count(DISTINCT job) FROM steward.job_runs WHERE job LIKE 'busy-%' AND state = 'succeeded'";
    wait_until("every job has run", BOUND, async || admin.number(running).await == BUSY_JOBS).await;
    let from: DateTime<Utc> = admin
        .query_one("SELECT date_trunc('second', now()) + interval '1 s'", &[])
        .await
        .expect("the clock")
        .get(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let wal = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let (cpu_before, wal_before) = (cpu_seconds(daemon.pid()), admin.number(wal).await);
    tokio::time::sleep(MINUTE).await;
    let (cpu, wal_after) = (cpu_seconds(daemon.pid()) - cpu_before, admin.number(wal).await);
    let until = from + MINUTE;
    let settled = format!(
        "SELECT count(*) FROM steward.job_runs WHERE job LIKE 'busy-%' AND state = 'running' AND due_at < '{until}'"
    );
    wait_until("the minute is over", BOUND, async || admin.number(&settled).await == 0).await;
    let of = format!(
        "FROM steward.job_runs WHERE job LIKE 'busy-%' AND due_at >= '{from}' AND due_at < '{until}'"
    );
    let fired = admin.number(&format!("SELECT count(*) {of} AND state = 'succeeded'")).await;
    let missed = admin
        .number(&format!("SELECT coalesce(sum(missed_count), 0)::bigint {of} AND kind = 'missed'"))
        .await;
    let lags = admin
        .query(
            &format!("SELECT extract(epoch FROM started_at - due_at)::float8 * 1000 {of} AND state = 'succeeded'"),
            &[],
        )
        .await
        .expect("read the lags");
    let mut lag = Sample::default();
    lags.iter().for_each(|row| lag.push(row.get(0)));
    daemon.terminate().await;

    let name = format!("{BUSY_JOBS} jobs each second for a minute, {lanes} lanes");
    let expected = (BUSY_JOBS * 60) as f64;
    let mut findings = Findings::of([
        Row::new(format!("{name}: fires"), Limit::AtLeast(expected), "", Sample::one(fired as f64)),
        Row::new(
            format!("{name}: instants missed"),
            Limit::AtMost(0.0),
            "",
            Sample::one(missed as f64),
        ),
        Row::percentile(
            format!("{name}: due to start, p99"),
            0.99,
            Limit::AtMost(LAG_MS),
            "ms",
            &lag,
        ),
    ]);
    let per_fire = (wal_after - wal_before) as f64 / fired.max(1) as f64;
    findings.row(Row::new(
        format!("{name}: WAL a fire, its own INSERT with it"),
        Limit::Reference,
        "B",
        Sample::one(per_fire),
    ));
    let share = Sample::one(cpu / MINUTE.as_secs_f64() * 100.0);
    findings.row(Row::new(format!("{name}: CPU of the daemon"), Limit::Reference, "%", share));
    findings
}

async fn three_instances(ground: &Ground) -> Findings {
    let (url, admin) = prepare(ground, "bench_jobs_shared").await;
    // All that was due while the place of the dead one was empty is made up for.
    let config = format!(
        "[jobs]\nmax_concurrent = 8\nlease = \"5s\"\n{}",
        jobs(SHARED_JOBS, "catch_up = \"all\"")
    );
    let setup = Setup::new().database(&url).config(&config);
    let mut daemons = Vec::new();
    for _ in 0..INSTANCES {
        daemons.push(Daemon::spawn(setup.clone()).await);
    }
    let from: DateTime<Utc> = admin
        .query_one("SELECT max(first_seen) FROM steward.job_state WHERE job LIKE 'busy-%'", &[])
        .await
        .expect("the floors")
        .get(0);
    let of = format!(
        "FROM steward.job_runs WHERE job LIKE 'busy-%' AND due_at > '{from}' AND due_at <= '{from}'::timestamptz + interval '{SHARED_INSTANTS} s'"
    );
    let ended = format!("SELECT count(*) {of} AND state = 'succeeded'");
    let fires = SHARED_JOBS * SHARED_INSTANTS;
    wait_until("half of the instants", MINUTE, async || admin.number(&ended).await >= fires / 2)
        .await;
    let holder: String = admin
        .query_one("SELECT holder FROM steward.leases WHERE name = 'observer'", &[])
        .await
        .expect("an observer")
        .get(0);
    let killed = daemons
        .iter()
        .position(|daemon| holder.split('/').nth(1) == Some(&daemon.pid().to_string()));
    daemons.remove(killed.expect("the observer is one of ours")).kill().await;
    wait_until("all instants", 2 * MINUTE, async || {
        admin.number(&format!("SELECT count(*) {of} AND state NOT IN ('queued', 'running')")).await
            >= fires
    })
    .await;
    let once = admin
        .number(&format!(
            "SELECT count(*) FROM (SELECT job, due_at {of} AND state = 'succeeded' GROUP BY 1, 2 HAVING count(*) = 1) x"
        ))
        .await;
    let other = admin.number(&format!("SELECT count(*) {of} AND state <> 'succeeded'")).await;
    for daemon in daemons {
        daemon.terminate().await;
    }
    let effects = admin.number("SELECT count(*) FROM public.effects").await;
    let succeeded = admin
        .number(
            "SELECT count(*) FROM steward.job_runs WHERE job LIKE 'busy-%' AND state = 'succeeded'",
        )
        .await;

    let name = format!("{INSTANCES} instances, the observer killed in between, {fires} instants");
    let mut findings = Findings::of([
        Row::new(
            format!("{name}: effects beyond or short of the runs that succeeded"),
            Limit::AtMost(0.0),
            "",
            Sample::one((effects - succeeded).abs() as f64),
        ),
        Row::new(
            format!("{name}: run exactly once"),
            Limit::AtLeast((fires - other) as f64),
            "",
            Sample::one(once as f64),
        ),
    ]);
    findings.note(format!(
        "{other} of the {fires} instants did not succeed: runs that died with the observer, recorded as lost"
    ));
    findings
}
