//! The daemon as a process, against real servers: good days, bad input and bad days.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod development;
mod instances;
mod migrations;
mod operations;
mod outage;
mod privileges;
mod start;

use std::net::SocketAddr;

use harness::{BOUND, Daemon, Setup, TestClient, http, wait_until};

/// Measures each second and holds short leases; every other job is at its usual hour, which no test
/// waits for.
const QUICK: &str = r#"
[database]
connect_timeout = "2s"

[health]
recover_after = 1

[jobs]
lease = "5s"

[jobs.health-probe]
schedule = "@every 1s"

[jobs.connection-metrics]
schedule = "@every 1s"
"#;

/// [`QUICK`], and more.
fn quick(more: &str) -> String {
    format!("{QUICK}\n{more}")
}

/// A job each second.
fn each_second(job: &str) -> String {
    format!("[jobs.{job}]\nschedule = \"@every 1s\"\n")
}

/// A view whose refresh takes as long as `public.knob` says, and the job that refreshes it.
const SLOW_VIEW: &str = "
    CREATE TABLE public.knob (seconds float8 NOT NULL);
    INSERT INTO public.knob VALUES (120);
    CREATE MATERIALIZED VIEW public.slow AS
        SELECT 1 AS id, pg_sleep(seconds)::text AS nothing FROM public.knob WITH NO DATA;
    CREATE UNIQUE INDEX ON public.slow (id)";
const REFRESH_SLOW: &str =
    "[refresh]\nviews = [\"public.slow\"]\n[jobs.refresh]\nschedule = \"@every 1s\"\n";
/// Sessions that refresh it now.
const REFRESHING: &str = "
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'pgsteward/job' AND state = 'active' AND query LIKE '%REFRESH MATERIALIZED VIEW%'";

/// A series of the metrics page by its name and, after spaces, parts of its labels; if it is there.
async fn metric(address: SocketAddr, series: &str) -> Option<f64> {
    let page = http::get(address, "/metrics").await;
    assert_eq!(page.status, 200);
    let mut words = series.split(' ');
    let name = words.next()?;
    let parts: Vec<&str> = words.collect();
    let is_it = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && parts.iter().all(|p| line.contains(p))
    };
    let line = page.body.lines().find(is_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn wait_metric(daemon: &Daemon, series: &str, wanted: impl Fn(f64) -> bool) {
    wait_until(series, BOUND, async || metric(daemon.address(), series).await.is_some_and(&wanted))
        .await;
}

/// Waits until a query's only value is what is wanted.
async fn wait_sql(client: &TestClient, sql: &str, wanted: impl Fn(i64) -> bool) {
    wait_until(sql, BOUND, async || wanted(client.number(sql).await)).await;
}

/// The reason of `/health/` for the one database.
async fn reason(daemon: &Daemon) -> String {
    daemon.get("/health/").await.json()["targets"]["main"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

async fn wait_reason(daemon: &Daemon, wanted: &str) {
    wait_until(&format!("/health/ says {wanted}"), BOUND, async || reason(daemon).await == wanted)
        .await;
}

/// Runs a subcommand that must succeed.
fn succeed(setup: &Setup, arguments: &[&str]) -> String {
    let output = setup.command(arguments);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
