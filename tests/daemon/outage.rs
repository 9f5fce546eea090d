//! The server goes away while there is work.

use crate::harness::{BOUND, Daemon, PrivateServer, Setup, connect, wait_for, wait_until};
use crate::{REFRESH_SLOW, REFRESHING, SLOW_VIEW, metric, quick, wait_reason, wait_sql};

#[tokio::test]
async fn a_server_killed_mid_job_leaves_a_failed_run_and_no_connection_and_the_next_fire_runs() {
    let mut server = PrivateServer::start(&[]).await;
    server.client().await.batch_execute(SLOW_VIEW).await.unwrap();
    // A lost connection is worth another attempt; here the first one is to be the last.
    let config = quick(&format!("{REFRESH_SLOW}retries = 0\n"));
    let daemon = Daemon::spawn(Setup::new().database(&server.url()).config(&config)).await;
    wait_sql(&server.client().await, REFRESHING, |sessions| sessions == 1).await;
    let run = server
        .client()
        .await
        .text("SELECT id FROM steward.job_runs WHERE state = 'running' AND job = 'refresh'")
        .await;

    server.kill().await;
    wait_until("health tells", BOUND, async || daemon.get("/health/").await.status == 503).await;
    wait_until("the reason settles", BOUND, async || {
        ["refused", "unreachable"].contains(&crate::reason(&daemon).await.as_str())
    })
    .await;
    let lost = daemon.wait_log("the database cannot be reached").await;
    assert!(
        lost.contains("\"level\":\"error\"") && lost.contains("\"component\":\"connectivity\""),
        "{lost}"
    );
    // From memory: also of a database that is dead.
    assert_eq!(metric(daemon.address(), "pgsteward_database_up").await, Some(0.0));
    assert_eq!(daemon.get("/livez").await.status, 200);
    assert_eq!(daemon.get("/readyz").await.status, 200, "readiness is latched");

    server.restart().await;
    let client =
        wait_for("the server is back", BOUND, async || connect(&server.url()).await.ok()).await;
    wait_sql(
        &client,
        &format!("SELECT count(*) FROM steward.job_runs WHERE id = '{run}' AND state <> 'running'"),
        |n| n == 1,
    )
    .await;
    let sql = format!(
        "SELECT concat_ws('|', state, reason, error) FROM steward.job_runs WHERE id = '{run}'"
    );
    let ended = client.text(&sql).await;
    assert!(ended.starts_with("failed|connection_lost|"), "{ended}");
    let jobs = async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]["jobs"]["status"]
            .clone()
    };
    wait_until("health tells of the failed job", BOUND, async || jobs().await == "degraded").await;
    let back = daemon.wait_log("the database is back after ").await;
    assert!(back.contains("\"level\":\"info\"") && back.contains("\"away_seconds\":"), "{back}");
    for text in ["the database cannot be reached", "the database is back after "] {
        let told = daemon.log().lines().filter(|line| line.contains(text)).count();
        assert_eq!(told, 1, "{text}:\n{}", daemon.log());
    }
    let failing = daemon.wait_log("\"component\":\"jobs\"").await;
    assert!(
        failing.contains("\"level\":\"warn\"") && failing.contains("\"reason\":\"jobs_failing\""),
        "{failing}"
    );
    assert!(failing.contains("the last run failed of: refresh"), "{failing}");

    client.batch_execute("UPDATE public.knob SET seconds = 0").await.unwrap();
    wait_sql(&client, REFRESHING, |sessions| sessions <= 1).await;
    // The next fire may sleep as the view did before the update: end that.
    client
        .batch_execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgsteward/job'")
        .await
        .unwrap();
    wait_sql(
        &client,
        "SELECT count(*) FROM steward.job_runs WHERE job = 'refresh' AND state = 'succeeded'",
        |n| n > 0,
    )
    .await;
    wait_reason(&daemon, "ok").await;
    let well = daemon.wait_log("no job's last run failed").await;
    assert!(well.contains("\"level\":\"info\"") && well.contains("\"was\":\"degraded\""), "{well}");
    wait_until("no connection too many", BOUND, async || {
        let sql = "SELECT concat_ws(' ', count(*) FILTER (WHERE application_name = 'pgsteward/observe') <= 1, \
                   count(*) FILTER (WHERE application_name = 'pgsteward/control') <= 1, \
                   count(*) FILTER (WHERE application_name = 'pgsteward/job') <= 2, \
                   count(*) FILTER (WHERE application_name IN ('pgsteward/check', 'pgsteward/migrate')) = 0) \
                   FROM pg_stat_activity";
        client.text(sql).await == "t t t t"
    })
    .await;
}

/// With attempts left, the run goes on when the server is back: one row, and no second fire of its instant.
#[tokio::test]
async fn a_run_whose_server_was_killed_is_tried_again_as_the_same_run() {
    let mut server = PrivateServer::start(&[]).await;
    server.client().await.batch_execute(SLOW_VIEW).await.unwrap();
    // A lease that outlasts the outage: else the run is lost, and its instant accounted for as such.
    let config = quick(REFRESH_SLOW).replace("lease = \"5s\"", "lease = \"2m\"");
    let daemon = Daemon::spawn(Setup::new().database(&server.url()).config(&config)).await;
    let client = server.client().await;
    wait_sql(&client, REFRESHING, |sessions| sessions == 1).await;
    let run = client
        .text("SELECT id FROM steward.job_runs WHERE state = 'running' AND job = 'refresh'")
        .await;
    // The next attempt finds nothing to wait for.
    client.batch_execute("UPDATE public.knob SET seconds = 0").await.unwrap();

    server.kill().await;
    server.restart().await;
    let client =
        wait_for("the server is back", BOUND, async || connect(&server.url()).await.ok()).await;
    let sql = format!(
        "SELECT concat_ws(' ', state, attempts > 1) FROM steward.job_runs WHERE id = '{run}'"
    );
    wait_until("the run ends well", BOUND, async || client.text(&sql).await == "succeeded t").await;
    assert_eq!(
        client
            .number("SELECT count(*) FROM steward.job_runs WHERE state IN ('failed', 'lost')")
            .await,
        0
    );
    assert_eq!(daemon.get("/livez").await.status, 200);
}
