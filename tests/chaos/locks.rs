//! Somebody else's hand in the database: sessions that are terminated, tables that are locked.

use std::collections::BTreeMap;

use crate::harness::{BOUND, Daemon, wait_until};
use crate::stage::{Stage, Watch, close_accounts, effect, job, settle, wait_sql};

/// How often each kind of session is ended.
const TIMES: usize = 6;

#[tokio::test]
async fn sessions_terminated_at_random_lose_nothing_and_double_nothing() {
    let stage = Stage::new().await;
    let names = ["one", "two", "three"];
    let jobs: String = names
        .map(|name| {
            job(
                name,
                &format!("{}; SELECT pg_sleep(0.2)", effect(name)),
                "retries = 1\noverlap = \"queue\"",
            )
        })
        .concat();
    let daemon = Daemon::spawn(
        stage.setup(&format!("{jobs}\n[jobs.health-probe]\nschedule = \"@every 1s\"\n")),
    )
    .await;
    let watch = Watch::livez(daemon.address());
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    wait_until("each kind of session is terminated often enough", BOUND, async || {
        let sql = "WITH one AS (
                       SELECT pid, application_name FROM pg_stat_activity
                        WHERE datname = current_database()
                          AND application_name IN ('pgsteward/observe', 'pgsteward/control', 'pgsteward/job')
                        ORDER BY random() LIMIT 1)
                   SELECT application_name FROM one WHERE pg_terminate_backend(pid)";
        if fastrand::u8(0..8) == 0 {
            for row in stage.client.query(sql, &[]).await.unwrap() {
                *ended.entry(row.get(0)).or_default() += 1;
            }
        }
        ended.len() == 3 && ended.values().all(|times| *times >= TIMES)
    })
    .await;
    watch.end().await;
    for account in close_accounts(&stage.client, vec![daemon], &names).await {
        assert!(account.count("succeeded") > 0, "{account:#?}");
    }
}

#[tokio::test]
async fn a_ledger_that_is_locked_for_long_is_accounted_for_afterwards() {
    let stage = Stage::new().await;
    let jobs = [
        job("latest", &effect("latest"), ""),
        job("all", &effect("all"), "catch_up = \"all\""),
        job("held", &format!("{}; SELECT public.gate(1)", effect("held")), ""),
    ]
    .concat();
    let gate = stage.close(1).await;
    let daemon = Daemon::spawn(stage.setup(&jobs)).await;
    settle(&stage.client, &["latest", "all"]).await;
    gate.reached().await;
    let watch = Watch::livez(daemon.address());
    let (blocker, locked_at) =
        (stage.database.client().await, "SELECT extract(epoch FROM clock_timestamp())::bigint");
    let begun = blocker.number(locked_at).await;
    // The run at the gate has locked its row, and ends against the wait for both.
    gate.open().await;
    wait_until("both tables are locked", BOUND, async || {
        let lock = "BEGIN; LOCK steward.job_runs, steward.job_state IN ACCESS EXCLUSIVE MODE";
        // A deadlock is no harm: the daemon tries again, too.
        let locked = blocker.batch_execute(lock).await.is_ok();
        if !locked {
            blocker.batch_execute("ROLLBACK").await.unwrap();
        }
        locked
    })
    .await;
    wait_sql(&stage.client, locked_at, |now| now - begun >= 15).await;
    watch.end().await;
    assert_eq!(daemon.get("/readyz").await.status, 200);
    blocker.batch_execute("COMMIT").await.unwrap();

    let accounts = close_accounts(&stage.client, vec![daemon], &["latest", "all", "held"]).await;
    let missed =
        |place: usize| accounts[place].rows.iter().filter(|row| row.kind == "missed").count();
    assert!(missed(0) > 0, "the newest runs, those before it are told of: {:#?}", accounts[0]);
}
