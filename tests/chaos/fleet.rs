//! Three instances over one database, and each instant of many jobs once.

use rustix::process::Signal;

use crate::harness::{BOUND, Daemon, wait_for};
use crate::stage::{Stage, close_accounts, effect, job, settle, wait_sql};

/// With about as many seconds, some hundred and fifty instants.
const JOBS: usize = 12;

async fn observer(daemons: &[Daemon]) -> usize {
    wait_for("one observes", BOUND, async || {
        for (place, daemon) in daemons.iter().enumerate() {
            if daemon.metric("pgsteward_leader").await == Some(1.0) {
                return Some(place);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn one_dies_one_freezes_and_each_instant_runs_once() {
    let stage = Stage::new().await;
    let names: Vec<String> = (0..JOBS).map(|number| format!("job-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let jobs: String =
        names.iter().map(|name| job(name, &effect(name), "catch_up = \"all\"")).collect();
    let mut daemons = Vec::new();
    for _ in 0..3 {
        daemons.push(Daemon::spawn(stage.setup(&jobs)).await);
    }
    settle(&stage.client, &names).await;
    let at = observer(&daemons).await;
    daemons.swap_remove(at).kill().await;
    let next = observer(&daemons).await;
    settle(&stage.client, &names).await;
    daemons[next].signal(Signal::STOP);
    let epoch = "SELECT epoch FROM steward.leases WHERE name = 'observer'";
    wait_sql(&stage.client, epoch, |epoch| epoch == 3).await;
    settle(&stage.client, &names).await;
    daemons[next].signal(Signal::CONT);
    daemons[next].wait_metric("pgsteward_leader", |observing| observing == 0.0).await;
    // The one that slept stops first: its place is not to be taken once more.
    let asleep = daemons.swap_remove(next);
    daemons.insert(0, asleep);

    let accounts = close_accounts(&stage.client, daemons, &names).await;
    let instants: usize = accounts.iter().map(|account| account.rows.len()).sum();
    // Two leases of five seconds pass meanwhile.
    assert!(instants >= 8 * JOBS, "{instants} instants");
    for account in &accounts {
        // A run that the dead one had begun is lost; every other instant ran.
        assert_eq!(
            account.count("succeeded") + account.count("lost"),
            account.rows.len(),
            "{account:#?}"
        );
    }
}
