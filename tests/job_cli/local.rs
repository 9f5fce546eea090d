//! `job run --here`: in the command's own process.

use rustix::process::Signal;

use crate::harness::{BOUND, Daemon, Setup, Template, TestDatabase, wait_until};
use crate::{JOBS, Underway, WORKING, audited, job, json, wait_run, wait_sql};

#[tokio::test]
async fn a_run_here_needs_no_instance_and_goes_by_the_same_rules() {
    let database = TestDatabase::create(Template::Empty).await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    job(&setup, &["run", "quick", "--here"])
        .refused(69, &["steward/001_ledger", "not applied", "pgsteward migrate up"]);
    assert_eq!(setup.command(&["migrate", "up"]).status.code(), Some(0));
    let client = database.client().await;

    job(&setup, &["run", "quick", "--here"]).told(&["of quick: succeeded in "]);
    let ended = json(&setup, &["run", "quick", "--here"]);
    assert_eq!(
        (ended["state"].as_str(), ended["kind"].as_str()),
        (Some("succeeded"), Some("manual"))
    );
    assert_eq!(ended["fenced"], true);
    let said = job(&setup, &["run", "wrong", "--here"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(
        said.out.contains("of wrong: failed") && said.out.contains("division by zero"),
        "{said:?}"
    );
    job(&setup, &["run", "retention", "--here"]).told(&["of retention: succeeded"]);
    assert_eq!(
        audited(&client).await,
        "job.run quick, job.run quick, job.run wrong, job.run retention"
    );

    job(&setup, &["run", "qiuck", "--here"]).refused(64, &["did you mean \"quick\"?"]);
    job(&setup, &["run", "connection-metrics", "--here"]).refused(64, &["measured on every tick"]);
    assert_eq!(job(&setup, &["pause", "quick"]).code, Some(0));
    job(&setup, &["run", "quick", "--here"]).refused(75, &["quick is paused by cli:"]);
    assert_eq!(job(&setup, &["resume", "quick"]).code, Some(0));
    let observing = setup.clone().config(&format!("mode = \"observe\"\n{JOBS}"));
    let said = job(&observing, &["run", "quick", "--here"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.out.contains("skipped") && said.out.contains("mode = \"observe\""), "{said:?}");

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("PAUSE"), "").unwrap();
    let paused = setup
        .clone()
        .config(&format!("state_dir = {:?}\n{JOBS}", folder.path().display().to_string()));
    job(&paused, &["run", "quick", "--here"]).refused(75, &["paused on this machine by the file"]);
    assert_eq!(client.number("SELECT count(*) FROM steward.job_runs WHERE job = 'quick'").await, 3);
    assert_eq!(
        client
            .number("SELECT count(*) FROM steward.job_runs WHERE state IN ('queued', 'running')")
            .await,
        0
    );
}

#[tokio::test]
async fn beside_a_live_instance_there_is_one_run_at_a_time() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let _daemon = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, "SELECT count(*) FROM steward.job_state WHERE job = 'slow'", |rows| {
        rows == 1
    })
    .await;
    let spec = "SELECT spec_hash FROM steward.job_state WHERE job = 'slow'";
    let before = client.text(spec).await;

    // Here first: the instance queues behind it. No observer may take what is run here.
    let here = Underway::start(&database.url(), JOBS, &["run", "slow", "--here", "--json"]);
    let id = wait_run(&client, "slow", "running").await;
    let said = job(&setup, &["run", "slow", "--here"]);
    said.refused(75, &["slow runs already, since ", " UTC on ", &id]);
    assert_eq!(
        client.number("SELECT count(*) FROM steward.job_runs WHERE job = 'slow'").await,
        1,
        "nothing is left behind"
    );
    let behind = json(&setup, &["run", "slow", "--wait"]);
    let ended = here.ended().await.json();
    assert_eq!(
        (ended["id"].as_str(), ended["state"].as_str()),
        (Some(id.as_str()), Some("succeeded"))
    );
    assert_eq!(behind["state"], "succeeded", "{behind}");
    assert_ne!(behind["instance"], ended["instance"]);
    let overlap = "SELECT count(*) FROM steward.job_runs a JOIN steward.job_runs b ON a.job = b.job AND a.id < b.id
                    WHERE a.started_at < b.finished_at AND b.started_at < a.finished_at";
    assert_eq!(client.number(overlap).await, 0);

    // The other way round.
    assert_eq!(job(&setup, &["run", "slow"]).code, Some(0));
    let theirs = wait_run(&client, "slow", "running").await;
    job(&setup, &["run", "slow", "--here"]).refused(75, &["runs already, since ", &theirs]);
    wait_run(&client, "slow", "succeeded").await;

    // Another specification is run, told, and does not become the instances'.
    let other = setup.clone().config(&JOBS.replace("SELECT pg_sleep(2)", "SELECT 2"));
    wait_sql(
        &client,
        "SELECT count(running_run_id) FROM steward.job_state WHERE job = 'slow'",
        |runs| runs == 0,
    )
    .await;
    let said = job(&other, &["run", "slow", "--here"]);
    said.told(&["of slow: succeeded"]);
    assert!(said.err.contains("another specification"), "{said:?}");
    assert_eq!(client.text(spec).await, before);
}

#[tokio::test]
async fn ctrl_c_cancels_a_run_here_on_the_server() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    for signal in [Signal::INT, Signal::TERM] {
        let here = Underway::start(&database.url(), JOBS, &["run", "endless", "--here"]);
        wait_sql(&client, WORKING, |sessions| sessions == 1).await;
        here.signal(signal);
        let said = here.ended().await;
        assert_eq!(said.code, Some(4), "{said:?}");
        assert!(
            said.out.contains("of endless: cancelled") && said.out.contains("the server confirmed"),
            "{said:?}"
        );
        assert_eq!(client.number(WORKING).await, 0);
        assert_eq!(client.number("SELECT count(running_run_id) FROM steward.job_state").await, 0);
    }
}

#[tokio::test]
async fn a_run_here_hears_who_wants_it_cancelled_and_keeps_its_lease() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let here = Underway::start(&database.url(), JOBS, &["run", "endless", "--here", "--json"]);
    let id = wait_run(&client, "endless", "running").await;
    let first =
        client.text("SELECT lease_until FROM steward.job_runs WHERE state = 'running'").await;
    wait_until("the lease is renewed past its first end", BOUND, async || {
        let sql = format!("SELECT count(*) FROM steward.job_runs WHERE state = 'running' AND lease_until > '{first}' AND clock_timestamp() > '{first}'");
        client.number(&sql).await == 1
    })
    .await;
    job(&setup, &["cancel", &id]).told(&["is asked to cancel it"]);
    let said = here.ended().await;
    assert_eq!(said.code, Some(4), "{said:?}");
    assert_eq!(said.json()["state"], "cancelled");
    assert_eq!(client.number(WORKING).await, 0);
}

#[tokio::test]
async fn what_a_killed_run_here_leaves_is_cleared_up_by_the_next() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let config = JOBS.replace("pg_sleep(2)", "pg_sleep(0.5)");
    let setup = Setup::new().database(&database.url()).config(&config);
    let here = Underway::start(
        &database.url(),
        &config.replace("pg_sleep(0.5)", "pg_sleep(60)"),
        &["run", "slow", "--here"],
    );
    let id = wait_run(&client, "slow", "running").await;
    wait_sql(&client, WORKING, |sessions| sessions == 1).await;
    here.signal(Signal::KILL);
    here.ended().await;
    job(&setup, &["run", "slow", "--here"]).refused(75, &["runs already", &id]);
    wait_sql(
        &client,
        "SELECT count(*) FROM steward.job_runs WHERE lease_until > clock_timestamp()",
        |runs| runs == 0,
    )
    .await;
    job(&setup, &["run", "slow", "--here"]).told(&["of slow: succeeded"]);
    assert_eq!(
        client.text(&format!("SELECT state FROM steward.job_runs WHERE id = '{id}'")).await,
        "lost"
    );
}

#[tokio::test]
async fn a_run_here_that_was_taken_over_is_stopped() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let here = Underway::start(&database.url(), JOBS, &["run", "endless", "--here"]);
    let id = wait_run(&client, "endless", "running").await;
    wait_sql(&client, WORKING, |sessions| sessions == 1).await;
    // What an observer does that finds its lease passed.
    let reap = format!(
        "WITH ended AS (
            UPDATE steward.job_runs SET state = 'lost', reason = 'lease_expired', epoch = epoch + 1, lease_until = NULL,
                   finished_at = clock_timestamp() WHERE id = '{id}' RETURNING id
        )
        UPDATE steward.job_state s SET running_run_id = NULL, running_since = NULL FROM ended WHERE running_run_id = ended.id"
    );
    client.batch_execute(&reap).await.unwrap();
    let said = here.ended().await;
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.out.contains("of endless: lost"), "{said:?}");
    wait_sql(&client, WORKING, |sessions| sessions == 0).await;
}
