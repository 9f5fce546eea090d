//! Under a login of its own.

use crate::stage::Stage;

fn own(url: &str, rest: &str) -> String {
    format!("login_url = \"{url}\"\n{rest}")
}

#[tokio::test]
async fn it_works_as_whom_it_logs_in_and_sees_no_ledger() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("worker", "").await;
    stage
        .sql(&format!(
            "CREATE TABLE t (who text, name text); GRANT ALL ON t TO {}; CREATE TABLE closed ()",
            role.name
        ))
        .await;
    let insert = "INSERT INTO t VALUES (session_user, current_setting('application_name'))";
    for transaction in [true, false] {
        let job =
            own(&role.url, &format!("transaction = {transaction}\nsql = \"{insert}; {insert}\""));
        let run = stage.run(&job).await.succeeded();
        assert_eq!((run.rows, run.fenced), (2, Some(false)), "{run:?}");
        assert!(run.backend.is_some(), "{run:?}");
    }
    let who =
        stage.admin.text("SELECT string_agg(DISTINCT who || ': ' || name, ', ') FROM t").await;
    assert_eq!(who, format!("{}: pgsteward/job own", role.name));
    stage
        .run(&own(&role.url, "sql = '''INSERT INTO t VALUES ('x');\nSELECT * FROM closed'''"))
        .await
        .ended(
            "failed",
            "permission",
            &["as the job's own login", "line 2", "permission denied for table closed"],
        );
    assert_eq!(stage.count("t").await, 4, "one transaction, though not fenced");
    stage.run(&own(&role.url, "sql = 'SELECT * FROM steward.job_runs'")).await.ended(
        "failed",
        "permission",
        &["permission denied for schema steward"],
    );
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{}'", role.name);
    crate::harness::wait_until("its connections are closed", crate::harness::BOUND, async || {
        stage.admin.number(&sql).await == 0
    })
    .await;
}

#[tokio::test]
async fn its_secret_is_told_nowhere() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("worker", "").await;
    let wrong = role.url.replace(&role.password, "hunter2");
    stage.sql(&format!("ALTER ROLE {} NOLOGIN", role.name)).await;
    let job = own(&wrong, "retries = 0\nsql = 'SELECT 1'");
    let run = stage.run(&job).await;
    assert_eq!(run.state, "failed");
    assert!(run.error.contains("the job's own login"), "{}", run.error);
    assert!(!run.error.contains("hunter2") && !run.error.contains(&role.password), "{}", run.error);
    let id = uuid::Uuid::nil();
    let order = crate::stage::order(&stage.database.url(), &job, id, &stage.config);
    assert!(!format!("{:?}", order.spec).contains("hunter2"));
}

/// Its connection is none of the pool's, and is cancelled all the same.
#[tokio::test]
async fn a_cut_ends_its_statement_too() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("worker", "").await;
    let id = stage.start(&own(&role.url, "sql = 'SELECT pg_sleep(600)'")).await;
    stage
        .job_is("it sleeps", &format!("usename = '{}' AND wait_event = 'PgSleep'", role.name))
        .await;
    stage.runner.cancel(id, "somebody");
    stage.ended(id).await.ended(
        "cancelled",
        "requested",
        &["cancelled by somebody", "the server confirmed that"],
    );
    let left = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'active'",
        role.name
    );
    assert_eq!(stage.admin.number(&left).await, 0);
}
