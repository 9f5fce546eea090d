//! An instance is frozen past its lease, and wakes up to find another in its place.

use rustix::process::Signal;

use crate::deaths::hold_commit_unheard;
use crate::harness::{Daemon, Proxy};
use crate::stage::{
    Stage, by_way_of, close_accounts, effect, job, outcome, running, settle, wait_outcome, wait_sql,
};

/// It had claimed, and not begun: what it sends when it wakes up is refused.
#[tokio::test]
async fn frozen_between_claim_and_work_its_transaction_is_refused() {
    let stage = Stage::new().await;
    let proxy = Proxy::start(stage.database.server().address()).await;
    let jobs = job("tick", &effect("tick"), "");
    let direct = stage.database.url_at(proxy.address());
    let first = Daemon::spawn(by_way_of(&stage.database.url(), &direct, &jobs)).await;
    settle(&stage.client, &["tick"]).await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    proxy.blackhole().await;
    let sql = "SELECT count(*) FROM steward.job_runs r JOIN steward.job_runs m USING (job)
                WHERE r.state = 'running' AND m.reason = 'overlap' AND m.due_at > r.due_at";
    wait_sql(&stage.client, sql, |runs| runs > 0).await;
    let run = running(&stage.client, "tick").await;

    first.signal(Signal::STOP);
    wait_outcome(&stage.client, &run, "lost lease_expired").await;
    settle(&stage.client, &["tick"]).await;
    proxy.pass().await;
    first.signal(Signal::CONT);
    first.wait_metric("pgsteward_job_leases_lost_total", |runs| runs == 1.0).await;
    first.wait_log("this run").await;
    first.wait_metric("pgsteward_leader", |observing| observing == 0.0).await;
    assert_eq!(outcome(&stage.client, &run).await, "lost lease_expired");
    // The one that stood by observes now, and stops last: the first must not take over again.
    let account = close_accounts(&stage.client, vec![first, second], &["tick"]).await.remove(0);
    assert_eq!(account.count("lost"), 1, "{account:#?}");
}

/// One run's statement ends while nobody listens, so that its transaction stays open; the other's
/// COMMIT was sent before.
#[tokio::test]
async fn frozen_at_work_its_open_transaction_is_ended_and_what_was_sent_to_commit_stands() {
    let stage = Stage::new().await;
    stage.client.batch_execute(&hold_commit_unheard("committed", 2)).await.unwrap();
    let jobs = [
        job("tick", &format!("{}; SELECT public.gate(1)", effect("tick")), ""),
        job("committed", &effect("committed"), ""),
    ]
    .concat();
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    first.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    // What every start runs has ended: it is not to be frozen, too.
    let at_start = "SELECT count(*) FROM steward.job_runs WHERE job = 'partitions' AND finished_at IS NOT NULL";
    wait_sql(&stage.client, at_start, |runs| runs > 0).await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    let (working, committing) = (stage.close(1).await, stage.close(2).await);
    working.reached().await;
    committing.reached().await;
    let (tick, committed) =
        (running(&stage.client, "tick").await, running(&stage.client, "committed").await);

    // Nor is what else comes due now and then.
    let others = "SELECT count(*) FROM steward.job_runs WHERE state = 'running' AND job NOT IN ('tick', 'committed')";
    wait_sql(&stage.client, others, |runs| runs == 0).await;

    let told = "pgsteward_job_runs_total job_name=\"committed\" outcome=\"succeeded\"";
    let before = first.metric(told).await.unwrap_or_default();
    first.signal(Signal::STOP);
    committing.open().await;
    wait_outcome(&stage.client, &committed, "succeeded").await;
    second.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    // Its lease has passed, and its transaction holds the fence: nobody can take it over.
    let leases = "SELECT count(*) FROM steward.job_runs WHERE job = 'tick' AND lease_until < clock_timestamp()";
    wait_sql(&stage.client, leases, |runs| runs == 1).await;
    assert_eq!(outcome(&stage.client, &tick).await, "running");
    working.open().await;
    wait_outcome(&stage.client, &tick, "lost lease_expired").await;
    settle(&stage.client, &["tick", "committed"]).await;

    first.signal(Signal::CONT);
    first.wait_metric("pgsteward_job_leases_lost_total", |runs| runs == 1.0).await;
    first.wait_metric(told, |runs| runs == before + 1.0).await;
    let accounts = close_accounts(&stage.client, vec![first, second], &["tick", "committed"]).await;
    assert_eq!((accounts[0].count("lost"), accounts[1].count("lost")), (1, 0), "{accounts:#?}");
}

/// Its open transaction has locked the row of the lease: the server ends it, and the other takes over.
#[tokio::test]
async fn frozen_while_it_renews_its_lease_it_keeps_nobody_from_taking_it() {
    let stage = Stage::new().await;
    let hold = "CREATE TRIGGER hold BEFORE UPDATE ON steward.leases FOR EACH ROW EXECUTE FUNCTION public.gate_here(1)";
    stage.client.batch_execute(hold).await.unwrap();
    let jobs = job("tick", &effect("tick"), "");
    let first = Daemon::spawn(stage.setup(&jobs)).await;
    first.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    let second = Daemon::spawn(stage.setup(&jobs)).await;
    let gate = stage.close(1).await;
    gate.reached().await;
    let until = stage.client.text("SELECT expires_at FROM steward.leases").await;
    first.signal(Signal::STOP);
    gate.open().await;

    second.wait_metric("pgsteward_leader", |observing| observing == 1.0).await;
    let late =
        format!("SELECT extract(epoch FROM acquired_at - '{until}')::int FROM steward.leases");
    let late = stage.client.number(&late).await;
    assert!((0..12).contains(&late), "taken over {late} s after the lease ended");
    settle(&stage.client, &["tick"]).await;
    first.signal(Signal::CONT);
    first.wait_metric("pgsteward_leader", |observing| observing == 0.0).await;
    close_accounts(&stage.client, vec![first, second], &["tick"]).await;
}
