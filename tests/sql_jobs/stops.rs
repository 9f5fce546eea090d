//! What ends a run from outside, and what a run may cost.

use pgsteward::config::JobName;
use pgsteward::scheduler::runner::STOP_BOUND;

use crate::harness::{Daemon, Setup, Template, TestDatabase, wait_until};
use crate::stage::Stage;

/// Longer than a cancel that has to end in a termination.
const PATIENCE: std::time::Duration = STOP_BOUND;

#[tokio::test]
async fn the_deadline_ends_the_statement_on_the_server() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let id =
        stage.start("timeout = '1s'\nsql = 'INSERT INTO t VALUES (1); SELECT pg_sleep(600)'").await;
    let pid = stage.job_is("it sleeps", "wait_event = 'PgSleep'").await;
    stage.ended(id).await.ended(
        "timed_out",
        "timeout",
        &["over its timeout of 1 s", "the server confirmed that"],
    );
    let sleeping =
        format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active'");
    assert_eq!((stage.admin.number(&sleeping).await, stage.count("t").await), (0, 0));
}

/// Statement by statement the cut says how far it came.
#[tokio::test]
async fn the_deadline_tells_what_had_completed() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let job = "timeout = '1s'\ntransaction = false\nsql = 'INSERT INTO t VALUES (1); SELECT pg_sleep(600)'";
    let run = stage.run(job).await;
    let run = run.ended(
        "timed_out",
        "timeout",
        &["the server confirmed", "statement 1 had completed and stays"],
    );
    assert_eq!((stage.count("t").await, run.fenced), (1, Some(false)));
    assert_eq!(run.detail["completed"], 1);
}

#[tokio::test]
async fn a_statement_that_ignores_the_cancel_is_terminated() {
    let stage = Stage::new().await;
    let stubborn = "timeout = '1s'\nsql = '''DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600);
                    EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$'''";
    let id = stage.start(stubborn).await;
    let pid = stage.job_is("it sleeps", "wait_event = 'PgSleep'").await;
    let over =
        format!("SELECT count(*) FROM steward.job_runs WHERE id = '{id}' AND state <> 'running'");
    wait_until("it ends", PATIENCE, async || stage.admin.number(&over).await == 1).await;
    stage.ended(id).await.ended(
        "timed_out",
        "timeout",
        &["ignored the cancel, and its session was terminated"],
    );
    assert_eq!(
        stage
            .admin
            .number(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"))
            .await,
        0
    );
    stage.run("sql = 'SELECT 1'").await.succeeded();
}

/// The script's own bound is none of the run's.
#[tokio::test]
async fn a_statement_over_its_own_bound_has_failed() {
    let stage = Stage::new().await;
    let run =
        stage.run("sql = '''SET LOCAL statement_timeout = '50ms';\nSELECT pg_sleep(600)'''").await;
    run.ended("failed", "timeout", &["line 2", "statement timeout"]);
}

/// Whoever comes first, the server's bound or the runner's cut: it is the run that was out of time.
#[tokio::test]
async fn a_statement_that_ends_with_the_deadline_has_timed_out() {
    let stage = Stage::new().await;
    let run = stage
        .run("timeout = '2s'\nsql = '''SET LOCAL statement_timeout = 1800; SELECT pg_sleep(600)'''")
        .await;
    run.ended("timed_out", "timeout", &["over its timeout of 2 s"]);
}

#[tokio::test]
async fn an_error_without_end_is_cut() {
    let stage = Stage::new().await;
    let run = stage
        .run("sql = '''DO $$ BEGIN RAISE EXCEPTION '%', repeat('ä', 1000000); END $$'''")
        .await;
    let run = run.ended("failed", "sql", &["statement 1 of 1", "ää"]);
    assert!(run.error.len() < 10_000 && run.error.ends_with('…'), "{} bytes", run.error.len());
}

#[tokio::test]
async fn a_panic_is_an_outcome() {
    let stage = Stage::new().await;
    let job = JobName::new("own");
    assert!(!stage.runner.unledgered(job.clone(), PATIENCE, async { panic!("on purpose") }).await);
    let known = stage.runner.standing.read();
    let error = known[&job].last_error.clone().unwrap();
    assert!(error.contains("the job panicked: on purpose"), "{error}");
}

/// In the daemon itself, whose memory is measured.
#[tokio::test]
async fn rows_that_nobody_reads_cost_no_memory() {
    let database = TestDatabase::create(Template::Migrated).await;
    let admin = database.client().await;
    let config = "[jobs.big]\nschedule = \"@every 1s\"\n\
                  sql = \"SELECT repeat('x', 1000) FROM generate_series(1, 300000)\"\n";
    let daemon = Daemon::spawn(Setup::new().database(&database.url()).config(config)).await;
    let peak_before = peak_kib(daemon.pid());
    let done = "SELECT count(*) FROM steward.job_runs WHERE job = 'big' AND state = 'succeeded'";
    wait_until("300 MB were read", crate::harness::BOUND, async || admin.number(done).await > 0)
        .await;
    let grown = peak_kib(daemon.pid()) - peak_before;
    assert!(grown < 50 * 1024, "the daemon grew by {grown} KiB");
    let rows = "SELECT rows_affected FROM steward.job_runs WHERE job = 'big' AND state = 'succeeded' LIMIT 1";
    assert_eq!(admin.number(rows).await, 0);
    assert!(daemon.terminate().await.success());
}

/// The most memory that a process ever held.
fn peak_kib(pid: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
