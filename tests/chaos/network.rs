//! The network swallows everything for longer than a lease, and heals.

use crate::harness::{Daemon, Proxy};
use crate::stage::{
    Stage, Watch, close_accounts, effect, gone, job, outcome, running, setup, wait_sql,
};

#[tokio::test]
async fn a_silent_network_ends_with_every_run_told_by_its_row() {
    let stage = Stage::new().await;
    let jobs = [
        job("tick", &format!("{}; SELECT public.gate(1)", effect("tick")), "retries = 0"),
        job("other", &effect("other"), "catch_up = \"all\""),
    ]
    .concat();
    let proxy = Proxy::start(stage.database.server().address()).await;
    let gate = stage.close(1).await;
    let daemon = Daemon::spawn(setup(&stage.database.url_at(proxy.address()), &jobs)).await;
    let watch = Watch::livez(daemon.address());
    let working = gate.reached().await;
    let run = running(&stage.client, "tick").await;

    proxy.blackhole().await;
    // It believes in its lease for less than the lease lasts.
    daemon.wait_metric("pgsteward_leader", |observing| observing == 0.0).await;
    let expired =
        "SELECT (expires_at < clock_timestamp())::int FROM steward.leases WHERE name = 'observer'";
    wait_sql(&stage.client, expired, |expired| expired == 1).await;
    // Its statement ends, and nobody hears of it: the open transaction is not left to stand.
    gate.open().await;
    gone(&stage.client, &[working]).await;
    assert_eq!(outcome(&stage.client, &run).await, "running");
    proxy.pass().await;

    daemon.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    wait_sql(
        &stage.client,
        &format!("SELECT count(*) FROM steward.job_runs WHERE id = '{run}' AND state IN ('lost', 'failed')"),
        |runs| runs == 1,
    )
    .await;
    watch.end().await;
    close_accounts(&stage.client, vec![daemon], &["tick", "other"]).await;
}
