//! `job run`: asked for through the ledger.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{BOUND, Daemon, PrivateServer, Setup, Template, TestDatabase, wait_until};
use crate::{EACH_SECOND, JOBS, Underway, WORKING, audited, job, json, wait_run, wait_sql};

#[tokio::test]
async fn a_run_is_picked_up_by_a_live_instance_and_its_end_is_told() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let _daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'slow'", |rows| {
        rows == 1
    })
    .await;

    let begun = Instant::now();
    let asked = json(&setup, &["run", "quick"]);
    let id = asked["run_id"].as_str().unwrap().to_owned();
    assert_eq!((asked["job"].as_str(), asked["state"].as_str()), (Some("quick"), Some("queued")));
    let sql = format!(
        "SELECT count(*) FROM steward.job_runs WHERE id = '{id}' AND started_at IS NOT NULL"
    );
    wait_sql(&client, &sql, |rows| rows == 1).await;
    let sql = format!(
        "SELECT (1000 * extract(epoch FROM started_at - due_at))::bigint FROM steward.job_runs WHERE id = '{id}'"
    );
    let ms = client.number(&sql).await;
    println!("picked up {ms} ms after it was asked for, seen after {:?}", begun.elapsed());
    assert!((0..5_000).contains(&ms), "{ms} ms");
    wait_run(&client, "quick", "succeeded").await;
    let row = format!(
        "SELECT kind || ' ' || split_part(actor, ':', 1) FROM steward.job_runs WHERE id = '{id}'"
    );
    assert_eq!(client.text(&row).await, "manual cli");
    assert_eq!(audited(&client).await, "job.run quick");

    job(&setup, &["run", "quick"]).told(&["run ", "of quick is asked for"]);
    wait_until("it has run", BOUND, async || {
        client.number("SELECT succeeded_total FROM steward.job_state WHERE job = 'quick'").await
            == 2
    })
    .await;

    let said = job(&setup, &["run", "slow", "--wait"]);
    said.told(&["of slow is asked for", "of slow: succeeded in 2.", ", on "]);
    let ended = json(&setup, &["run", "quick", "--wait"]);
    assert_eq!(
        (ended["state"].as_str(), ended["kind"].as_str()),
        (Some("succeeded"), Some("manual"))
    );
    assert_eq!(ended["fenced"], true);

    let said = job(&setup, &["run", "wrong", "--wait"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(
        said.out.contains("of wrong: failed") && said.out.contains("division by zero"),
        "{said:?}"
    );
}

#[tokio::test]
async fn who_asks_in_vain_is_told_why_and_leaves_nothing_behind() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    job(&setup, &["run", "quick"]).refused(69, &["own tables are missing", "pgsteward migrate up"]);
    let daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'slow'", |rows| {
        rows == 1
    })
    .await;

    job(&setup, &["run", "qiuck"])
        .refused(64, &["no job \"qiuck\"", "did you mean \"quick\"?", "endless", "wrong"]);
    job(&setup, &["run", "nonsense"]).refused(64, &["no job \"nonsense\"; known: "]);
    job(&setup, &["run", "health-probe"])
        .refused(64, &["measured on every tick", "outside the ledger"]);
    let other = setup.clone().config(&format!("{JOBS}\n{EACH_SECOND}"));
    job(&other, &["run", "tick"])
        .refused(75, &["no instance of database main has registered it", "--here"]);

    assert_eq!(job(&setup, &["pause", "quick", "--reason", "index build"]).code, Some(0));
    job(&setup, &["run", "quick"])
        .refused(75, &["paused by cli:", ": index build", "pgsteward job resume quick"]);
    assert_eq!(job(&setup, &["pause", "--all"]).code, Some(0));
    job(&setup, &["run", "slow"])
        .refused(75, &["all jobs are paused by cli:", "pgsteward job resume --all"]);
    assert_eq!(job(&setup, &["resume", "--all"]).code, Some(0));
    assert_eq!(job(&setup, &["resume", "quick"]).code, Some(0));

    assert_eq!(job(&setup, &["run", "endless"]).code, Some(0));
    wait_run(&client, "endless", "running").await;
    let waits = json(&setup, &["run", "endless"])["run_id"].as_str().unwrap().to_owned();
    job(&setup, &["run", "endless"])
        .refused(75, &["waits already", &waits, "pgsteward job cancel"]);

    daemon.kill().await;
    let observed = "SELECT count(*) FROM steward.leases WHERE name = 'observer' AND expires_at > clock_timestamp()";
    wait_sql(&client, observed, |leases| leases == 0).await;
    job(&setup, &["run", "quick"]).refused(69, &["no instance observes database main", "--here"]);
    job(&setup, &["run", "quick", "--wait"]).refused(69, &["no instance observes database main"]);
    assert_eq!(client.number("SELECT count(*) FROM steward.job_runs WHERE job = 'quick'").await, 0);
    assert_eq!(
        client
            .number("SELECT count(queued_run_id) FROM steward.job_state WHERE job = 'quick'")
            .await,
        0
    );
}

#[tokio::test]
async fn waiting_outlives_a_restart_of_the_server() {
    let mut server = PrivateServer::start(&[]).await;
    let setup = Setup::new().database(&server.url()).config(JOBS);
    let daemon = Daemon::spawn(setup.clone()).await;
    let client = server.client().await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'slow'", |rows| {
        rows == 1
    })
    .await;
    let waiting = Underway::start(&server.url(), JOBS, &["run", "slow", "--wait", "--json"]);
    wait_sql(&client, WORKING, |sessions| sessions == 1).await;
    drop(client);
    server.restart().await;
    let said = waiting.ended().await;
    assert_eq!(said.code, Some(0), "{said:?}\n{}", daemon.log());
    let ended = said.json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(
        ended["attempts"].as_i64() >= Some(2),
        "the attempt that the restart cut off is one: {ended}"
    );
    let client = server.client().await;
    assert_eq!(
        client.text("SELECT string_agg(state, ' ') FROM steward.job_runs WHERE job = 'slow'").await,
        "succeeded"
    );
}

#[tokio::test]
async fn who_stops_waiting_does_not_stop_the_run() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let _daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'slow'", |rows| {
        rows == 1
    })
    .await;
    let waiting = Underway::start(&database.url(), JOBS, &["run", "slow", "--wait"]);
    let id = wait_run(&client, "slow", "running").await;
    let begun = Instant::now();
    waiting.signal(Signal::INT);
    let said = waiting.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.err.contains(&format!("pgsteward job cancel {id}")), "{said:?}");
    assert_eq!(wait_run(&client, "slow", "succeeded").await, id);
}
