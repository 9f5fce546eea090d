//! `job pause` and `job resume`.

use crate::harness::{Daemon, Setup, Template, TestDatabase};
use crate::{EACH_SECOND, JOBS, audited, job, json, listed, wait_run, wait_sql};

const RAN: &str =
    "SELECT count(*) FROM steward.job_runs WHERE job = 'tick' AND state = 'succeeded'";
const SKIPPED: &str = "SELECT coalesce(sum(missed_count), 0) FROM steward.job_runs WHERE job = 'tick' AND reason = 'paused'";

#[tokio::test]
async fn the_pause_of_one_job_holds_on_every_instance_and_for_that_job_only() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let config = format!(
        "{JOBS}\n{EACH_SECOND}\n[jobs.tock]\nsql = \"SELECT 2\"\nschedule = \"@every 1s\"\n"
    );
    let setup = Setup::new().database(&database.url()).config(&config);
    let first = Daemon::spawn(setup.clone()).await;
    wait_sql(&client, RAN, |runs| runs > 0).await;
    let second = Daemon::spawn(setup.clone()).await;

    job(&setup, &["pause", "tick", "--reason", "index build"])
        .told(&["tick of database main is now paused"]);
    wait_sql(&client, SKIPPED, |instants| instants >= 1).await;
    let ran = client.number(RAN).await;
    let tock = "SELECT count(*) FROM steward.job_runs WHERE job = 'tock' AND state = 'succeeded'";
    let before = client.number(tock).await;
    first.kill().await;
    second.wait_log("this instance observes the database").await;
    let skipped = client.number(SKIPPED).await;
    wait_sql(&client, SKIPPED, |instants| instants >= skipped + 2).await;
    wait_sql(&client, tock, |runs| runs > before).await;
    assert_eq!(client.number(RAN).await, ran, "the second instance ran a paused job");

    let row = listed(&setup, "tick");
    assert_eq!(row["state"], "paused");
    assert_eq!(row["paused"]["reason"], "index build");
    job(&setup, &["list"]).told(&["tick: paused by cli:", ": index build"]);
    job(&setup, &["pause", "tick", "--reason", "another"])
        .told(&["is already paused, by cli:", "index build"]);
    job(&setup, &["resume", "tick"]).told(&["tick of database main is now running on schedule"]);
    job(&setup, &["resume", "tick"]).told(&["is already running on schedule"]);
    wait_sql(&client, RAN, |runs| runs > ran).await;
    assert_eq!(audited(&client).await, "job.pause tick, job.resume tick");

    job(&setup, &["pause", "tik"]).refused(64, &["no job \"tik\", did you mean \"tick\"?"]);
    job(&setup, &["resume", "nonsense"]).refused(64, &["no job \"nonsense\""]);
    job(&setup, &["pause", "health-probe"]).refused(64, &["measured on every tick"]);
    let said = job(&setup, &["pause"]);
    assert_eq!(said.code, Some(64), "{said:?}");
    let said = job(&setup, &["pause", "tick", "--all"]);
    assert_eq!(said.code, Some(64), "{said:?}");
}

#[tokio::test]
async fn all_jobs_are_paused_by_either_command() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let setup = Setup::new().database(&database.url()).config(JOBS);
    let paused = json(&setup, &["pause", "--all", "--reason", "fail-over"]);
    assert_eq!(paused, serde_json::json!({ "database": "main", "paused": true, "changed": true }));
    assert_eq!(json(&setup, &["pause", "--all"])["changed"], false);
    job(&setup, &["list"]).told(&[
        "all jobs are paused by cli:",
        ": fail-over",
        "no instance observes database main",
    ]);
    assert_eq!(listed(&setup, "slow")["state"], "paused");
    // A pause of its own outlives that of all.
    let one = json(&setup, &["pause", "slow"]);
    assert_eq!((&one["job"], &one["changed"]), (&"slow".into(), &true.into()));
    let said = job(&setup, &["resume", "slow"]);
    said.told(&["slow of database main is now running on schedule"]);
    assert!(said.err.contains("slow runs when all jobs are resumed"), "{said:?}");
    let said = setup.command(&["resume", "--all"]);
    assert!(
        String::from_utf8_lossy(&said.stdout)
            .contains("all jobs of database main are now running on schedule")
    );
    assert_eq!(
        audited(&client).await,
        "jobs.pause *, job.pause slow, job.resume slow, jobs.resume *"
    );
}

#[tokio::test]
async fn a_job_that_paused_itself_is_resumed() {
    let database = TestDatabase::create(Template::Migrated).await;
    let client = database.client().await;
    let config =
        JOBS.replace("sql = \"SELECT 1 / 0\"", "sql = \"SELECT 1 / 0\"\non_failure = \"pause\"");
    let setup = Setup::new().database(&database.url()).config(&config);
    assert_eq!(job(&setup, &["run", "wrong", "--here"]).code, Some(4));
    let id = wait_run(&client, "wrong", "failed").await;
    let paused =
        "SELECT string_agg(actor || ' ' || resource_id || ' ' || (details ->> 'run_id'), ', ')
                    FROM steward.audit_logs WHERE action = 'job.paused'";
    assert_eq!(client.text(paused).await, format!("on_failure wrong {id}"));
    job(&setup, &["run", "wrong", "--here"])
        .refused(75, &["wrong is paused by on_failure", &id, "job resume wrong"]);
    job(&setup, &["list", "wrong"]).told(&[
        "wrong: paused",
        "paused by on_failure",
        "division by zero",
        "1 in a row",
    ]);
    job(&setup, &["resume", "wrong"]).told(&["now running on schedule"]);
    assert_eq!(job(&setup, &["run", "wrong", "--here"]).code, Some(4));
    assert_eq!(listed(&setup, "wrong")["consecutive_failures"], 2);
    let acts = "SELECT string_agg(action, ' ' ORDER BY created_at) FROM steward.audit_logs WHERE action IN ('job.paused', 'job.resume')";
    assert_eq!(client.text(acts).await, "job.paused job.resume job.paused");
}
