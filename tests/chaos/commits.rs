//! The server dies, or its answer to a COMMIT does.

use crate::deaths::{hold_commit, hold_commit_unheard};
use crate::harness::{BOUND, Daemon, PrivateServer, Proxy, connect, wait_for};
use crate::stage::{
    RunPolicy, Stage, close_accounts, effect, gone, job, outcome, patient, prepare, running,
    wait_outcome, wait_sql,
};

#[tokio::test]
async fn a_server_killed_at_work_and_at_a_commit_leaves_no_effect_and_what_may_be_tried_again_is() {
    let mut server = PrivateServer::start(&[]).await;
    let client = server.client().await;
    prepare(&client).await;
    let migrated = patient(&server.url(), "").command(&["migrate", "up"]);
    assert!(migrated.status.success(), "{migrated:?}");
    client.batch_execute(&hold_commit("committing", 3)).await.unwrap();
    let jobs = [
        job("once", &format!("{}; SELECT public.gate(1)", effect("once")), "retries = 0"),
        // The server is away for longer than so many attempts would take: what finds none is no attempt.
        job("again", &format!("{}; SELECT public.gate(2)", effect("again")), "retries = 2"),
        job("committing", &effect("committing"), "retries = 0"),
    ]
    .concat();
    let mut gates = Vec::new();
    for number in 1..=3 {
        gates.push(RunPolicy::close(&server.url(), number).await);
    }
    let daemon = Daemon::spawn(patient(&server.url(), &jobs)).await;
    for gate in &gates {
        gate.reached().await;
    }
    let mut runs = Vec::new();
    for job in ["once", "again", "committing"] {
        runs.push(running(&client, job).await);
    }

    server.kill().await;
    daemon.wait_metric("pgsteward_database_up", |up| up == 0.0).await;
    assert_eq!(daemon.get("/livez").await.status, 200);
    server.restart().await;
    // The gates were open as soon as the server was dead.
    let client =
        wait_for("the server is back", BOUND, async || connect(&server.url()).await.ok()).await;
    wait_outcome(&client, &runs[0], "failed connection_lost").await;
    wait_outcome(&client, &runs[1], "succeeded").await;
    wait_outcome(&client, &runs[2], "failed connection_lost").await;
    let attempts = format!("SELECT attempts FROM steward.job_runs WHERE id = '{}'", runs[1]);
    assert!(client.number(&attempts).await > 1);
    close_accounts(&client, vec![daemon], &["once", "again", "committing"]).await;
}

/// Two runs have sent their COMMIT and hear nothing more: one of them has committed, one has not.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_by_the_row_and_not_done_again() {
    let stage = Stage::new().await;
    let holds = [hold_commit_unheard("committed", 1), hold_commit("undone", 2)].concat();
    stage.client.batch_execute(&holds).await.unwrap();
    let jobs = [
        job("committed", &effect("committed"), "retries = 10"),
        job("undone", &effect("undone"), "retries = 10"),
    ]
    .concat();
    let proxy = Proxy::start(stage.database.server().address()).await;
    let (first, second) = (stage.close(1).await, stage.close(2).await);
    let daemon = Daemon::spawn(patient(&stage.database.url_at(proxy.address()), &jobs)).await;
    first.reached().await;
    let undone_by = second.reached().await;
    let (committed, undone) =
        (running(&stage.client, "committed").await, running(&stage.client, "undone").await);

    proxy.blackhole().await;
    first.open().await;
    wait_outcome(&stage.client, &committed, "succeeded").await;
    proxy.cut().await;
    gone(&stage.client, &[undone_by]).await;
    second.open().await;
    assert_eq!(outcome(&stage.client, &undone).await, "running");
    proxy.pass().await;

    daemon.wait_log("its row proves that it did").await;
    wait_outcome(&stage.client, &undone, "succeeded").await;
    for (run, times) in [(&committed, 1), (&undone, 2)] {
        let sql = format!("SELECT attempts FROM steward.job_runs WHERE id = '{run}'");
        wait_sql(
            &stage.client,
            &sql,
            |attempts| if times == 1 { attempts == 1 } else { attempts > 1 },
        )
        .await;
    }
    let told = "pgsteward_job_runs_total job_name=\"committed\" outcome=\"succeeded\"";
    daemon.wait_metric(told, |runs| runs >= 1.0).await;
    assert_eq!(
        daemon.metric("pgsteward_job_runs_total job_name=\"committed\" outcome=\"failed\"").await,
        None
    );
    close_accounts(&stage.client, vec![daemon], &["committed", "undone"]).await;
}

/// The next attempt begins while the one before it has still not committed, and must not repeat it.
#[tokio::test]
async fn a_retry_beside_a_commit_that_is_still_under_way_gives_way_to_it() {
    let stage = Stage::new().await;
    stage.client.batch_execute(&hold_commit_unheard("tick", 1)).await.unwrap();
    let jobs = job("tick", &effect("tick"), "retries = 10");
    let proxy = Proxy::start(stage.database.server().address()).await;
    let gate = stage.close(1).await;
    let daemon = Daemon::spawn(patient(&stage.database.url_at(proxy.address()), &jobs)).await;
    let committing = gate.reached().await;
    let run = running(&stage.client, "tick").await;
    proxy.cut().await;
    proxy.pass().await;
    // It has done everything but record its success, which the first one has locked.
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE {committing} = ANY (pg_blocking_pids(pid))
                             AND application_name LIKE 'pgsteward/job%'"
    );
    wait_sql(&stage.client, &waiting, |sessions| sessions > 0).await;
    gate.open().await;
    wait_outcome(&stage.client, &run, "succeeded").await;
    daemon.wait_log("its row proves that it did").await;
    close_accounts(&stage.client, vec![daemon], &["tick"]).await;
}
