//! SIGTERM while jobs are at work.

use rustix::process::Signal;

use crate::account::Account;
use crate::harness::Daemon;
use crate::stage::{Stage, effect, job, outcome, running, wait_sql};

#[tokio::test]
async fn what_ends_in_time_is_let_and_what_does_not_is_cancelled_on_the_server() {
    let stage = Stage::new().await;
    let jobs = [
        job("quick", &format!("{}; SELECT public.gate(1)", effect("quick")), ""),
        job("slow", &format!("{}; SELECT public.gate(2)", effect("slow")), ""),
    ]
    .concat();
    let (quick, slow) = (stage.close(1).await, stage.close(2).await);
    let mut daemon = Daemon::spawn(stage.setup(&jobs)).await;
    quick.reached().await;
    slow.reached().await;
    let runs = [running(&stage.client, "quick").await, running(&stage.client, "slow").await];

    daemon.signal(Signal::TERM);
    daemon.wait_status("/readyz", 503).await;
    quick.open().await;
    wait_sql(
        &stage.client,
        &format!("SELECT count(*) FROM public.effects WHERE run_id = '{}'", runs[0]),
        |n| n == 1,
    )
    .await;
    assert_eq!(daemon.wait_exit().await.code(), Some(0), "{}", daemon.log());

    assert_eq!(outcome(&stage.client, &runs[0]).await, "succeeded");
    assert_eq!(outcome(&stage.client, &runs[1]).await, "cancelled shutdown");
    let error = format!("SELECT error FROM steward.job_runs WHERE id = '{}'", runs[1]);
    let error = stage.client.text(&error).await;
    let proven = "the daemon shut down; its statement was cancelled, and the server confirmed that";
    assert!(error.starts_with(proven), "{error}");
    // The server ends a session a moment after its client has left; nothing works or waits in one.
    let left = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'pgsteward/%'";
    assert_eq!(stage.client.number(&format!("{left} AND state <> 'idle'")).await, 0);
    wait_sql(&stage.client, left, |sessions| sessions == 0).await;
    for job in ["quick", "slow"] {
        Account::read(&stage.client, job, 1).await.check();
    }
    drop(slow);
}
