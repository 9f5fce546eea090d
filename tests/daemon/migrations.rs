//! Migrations at start, and what a failed one does.

use std::fs;

use crate::harness::{BOUND, Daemon, Setup, Template, TestDatabase, wait_until};
use crate::{each_second, metric, quick, wait_metric, wait_sql};

const BROKEN: &str = "CREATE TABLE half (id int);\n\nCREATE TABEL oops (id int);\n";

fn with_folder(folder: &std::path::Path, more: &str) -> String {
    quick(&format!("[migrations]\ndir = {:?}\n{more}", folder.display().to_string()))
}

#[tokio::test]
async fn a_broken_file_is_rolled_back_named_and_tried_again_when_it_is_mended() {
    let database = TestDatabase::create(Template::Empty).await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("001_broken.sql"), BROKEN).unwrap();
    let config = with_folder(folder.path(), &each_second("vacuum"));
    let daemon = Daemon::launch(Setup::new().database(&database.url()).config(&config));

    let line = daemon.wait_log("001_broken.sql:3:").await;
    assert!(line.contains("CREATE TABEL oops") && line.contains("syntax error"), "{line}");
    let unready = daemon.wait_status("/readyz", 503).await.body;
    assert!(unready.contains("001_broken.sql"), "{unready}");
    assert!(!unready.contains("TABEL"), "no SQL for readers without credentials: {unready}");
    assert_eq!(metric(daemon.address(), "pgsteward_migration_failed").await, Some(1.0));
    assert_eq!(daemon.get("/livez").await.status, 200);
    let client = database.client().await;
    assert_eq!(client.text("SELECT to_regclass('public.half')").await, "NULL");

    // It observes all the same, and several seconds' worth of it are no run of a job.
    wait_metric(&daemon, "pgsteward_leader", |value| value == 1.0).await;
    let probes = "pgsteward_job_runs_total job_name=\"health-probe\" outcome=\"succeeded\"";
    let before = metric(daemon.address(), probes).await.unwrap_or_default();
    wait_metric(&daemon, probes, |value| value >= before + 3.0).await;
    assert_eq!(client.number("SELECT count(*) FROM steward.job_runs").await, 0);
    let tried = daemon.log().lines().filter(|line| line.contains("migrating failed")).count();
    assert_eq!(tried, 1, "the same file was tried again");

    fs::write(folder.path().join("001_broken.sql"), BROKEN.replace("TABEL", "TABLE")).unwrap();
    daemon.wait_ready().await;
    assert_eq!(client.text("SELECT to_regclass('public.oops')").await, "oops");
    wait_sql(&client, "SELECT count(*) FROM steward.job_runs WHERE job = 'vacuum'", |runs| {
        runs > 0
    })
    .await;
    assert_eq!(metric(daemon.address(), "pgsteward_migration_failed").await, Some(0.0));
}

#[tokio::test]
async fn an_edited_file_keeps_what_is_pending_from_being_applied_and_is_named_everywhere() {
    let database = TestDatabase::create(Template::Empty).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("001_a.sql", "CREATE TABLE public.a (id int);\n");
    let setup = Setup::new().database(&database.url()).config(&with_folder(folder.path(), ""));
    crate::succeed(&setup, &["migrate", "up"]);
    write("001_a.sql", "CREATE TABLE public.a (id bigint);\n");
    write("002_b.sql", "CREATE TABLE public.b (id int);\n");

    let daemon = Daemon::launch(setup);
    let line = daemon.wait_log("migrating failed").await;
    assert!(
        line.contains("\"file\":\"app/001_a\"") && line.contains("nothing was applied, 1 pending"),
        "{line}"
    );
    let unready = "[-]migrations:main failed: migration app/001_a failed: edited";
    wait_until("/readyz names the file", BOUND, async || {
        daemon.get("/readyz").await.body.contains(unready)
    })
    .await;
    wait_until("health tells", BOUND, async || {
        let schema =
            daemon.get("/health/").await.json()["targets"]["main"]["components"]["schema"].clone();
        schema["status"] == "unhealthy" && schema["reason"] == "schema_mismatch"
    })
    .await;
    let line = daemon.wait_log("\"component\":\"schema\"").await;
    assert!(
        line.contains("app/001_a was edited") && line.contains("\"level\":\"error\""),
        "{line}"
    );
    assert_eq!(metric(daemon.address(), "pgsteward_schema_mismatches").await, Some(1.0));
    assert_eq!(database.client().await.text("SELECT to_regclass('public.b')").await, "NULL");

    write("001_a.sql", "CREATE TABLE public.a (id int);\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_ready().await;
    wait_metric(&daemon, "pgsteward_schema_mismatches", |count| count == 0.0).await;
}

#[tokio::test]
async fn on_failure_exit_ends_the_process_with_its_own_code() {
    let database = TestDatabase::create(Template::Empty).await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("001_broken.sql"), BROKEN).unwrap();
    let config = with_folder(folder.path(), "on_failure = \"exit\"\n");
    let mut daemon = Daemon::launch(Setup::new().database(&database.url()).config(&config));
    assert_eq!(daemon.wait_exit().await.code(), Some(3), "{}", daemon.log());
    assert!(daemon.log().contains("001_broken.sql:3:"), "{}", daemon.log());
}

#[tokio::test]
async fn on_failure_exit_is_about_the_start() {
    let database = TestDatabase::create(Template::Empty).await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("001_sound.sql"), "CREATE TABLE public.sound (id int);\n")
        .unwrap();
    let config = with_folder(folder.path(), "on_failure = \"exit\"\n");
    let daemon = Daemon::launch(Setup::new().database(&database.url()).config(&config));
    daemon.wait_ready().await;
    fs::write(folder.path().join("002_broken.sql"), BROKEN).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_log("migrating failed").await;
    wait_until("the failure shows", BOUND, async || {
        metric(daemon.address(), "pgsteward_migration_failed").await == Some(1.0)
    })
    .await;
    fs::remove_file(folder.path().join("002_broken.sql")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    wait_until("it is served on", BOUND, async || {
        metric(daemon.address(), "pgsteward_migration_failed").await == Some(0.0)
    })
    .await;
}

#[tokio::test]
async fn sighup_tries_again_too() {
    let database = TestDatabase::create(Template::Empty).await;
    let client = database.client().await;
    let folder = tempfile::tempdir().unwrap();
    // Right by itself, wrong in this database.
    fs::write(
        folder.path().join("001_needs.sql"),
        "ALTER TABLE public.elsewhere ADD COLUMN n int;\n",
    )
    .unwrap();
    let daemon = Daemon::launch(
        Setup::new().database(&database.url()).config(&with_folder(folder.path(), "")),
    );
    daemon.wait_log("migrating failed").await;
    client.batch_execute("CREATE TABLE public.elsewhere (id int)").await.unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.wait_ready().await;
    let column = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.elsewhere'::regclass AND attname = 'n'";
    wait_until("the column is there", BOUND, async || client.number(column).await == 1).await;
}
