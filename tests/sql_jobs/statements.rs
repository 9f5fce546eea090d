//! Statement by statement.

use serde_json::json;

use crate::harness::{BOUND, Template, TestDatabase, wait_until};
use crate::stage::Stage;

#[tokio::test]
async fn what_cannot_be_in_a_transaction_runs_here() {
    let stage = Stage::new().await;
    stage
        .sql(
            "CREATE TABLE t (a int); CREATE PROCEDURE p() LANGUAGE plpgsql AS
              $$ BEGIN INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2); COMMIT; END $$",
        )
        .await;
    let run = stage
        .run(
            "transaction = false\nsql = '''CALL p(); INSERT INTO t VALUES (3), (4); VACUUM (ANALYZE) t;
              CREATE INDEX CONCURRENTLY i ON t (a)'''",
        )
        .await
        .succeeded();
    assert_eq!((run.fenced, run.rows), (Some(false), 2), "{run:?}");
    assert!(run.backend.is_some(), "the row names who may still be at work: {run:?}");
    assert_eq!(run.detail, json!({ "statements": 4, "completed": 4 }));
    assert_eq!(stage.count("t").await, 4);
    assert_eq!(
        stage.admin.text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass").await,
        "t"
    );
    // Three transactions of the procedure and the INSERT: none of ours around them.
    assert_eq!(stage.admin.number("SELECT count(DISTINCT xmin::text) FROM t").await, 3);
}

#[tokio::test]
async fn a_failure_tells_how_far_it_came() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)").await;
    let job = "transaction = false\nsql = '''INSERT INTO t VALUES (2);\nVACUUM t;\n  CREATE UNIQUE INDEX CONCURRENTLY i ON t (a);\nSELECT 1'''";
    let run = stage.run(job).await.ended(
        "failed",
        "sql",
        &[
            "statements 1 to 2 had completed and stay",
            "statement 3 of 4, line 3, column 3:",
            "leaves an invalid index",
            "DROP INDEX",
            "could not create unique index",
        ],
    );
    assert_eq!(run.detail, json!({ "statements": 4, "completed": 2 }));
    assert_eq!(run.attempts, 1, "what was done in part is not begun again by itself");
    assert_eq!(stage.count("t").await, 3);
    assert_eq!(
        stage.admin.text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass").await,
        "f"
    );
    stage.run("transaction = false\nsql = '''SELECT 1;\nSELECT 'ä', nothing'''").await.ended(
        "failed",
        "sql",
        &["statement 1 had completed and stays", "line 2, column 13", "\"nothing\" does not exist"],
    );
}

/// The claim is looked at before each statement, not only before the first.
#[tokio::test]
async fn a_run_that_was_taken_over_begins_no_further_statement() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let job = "transaction = false\nsql = '''INSERT INTO t VALUES (1);
        UPDATE steward.job_runs SET epoch = epoch + 1 WHERE state = 'running'; INSERT INTO t VALUES (2)'''";
    let id = stage.start(job).await;
    let (runner, took) = (&stage.runner, "SELECT count(*) FROM steward.job_runs WHERE epoch = 2");
    wait_until("the run is taken over, and stops", BOUND, async || {
        stage.admin.number(took).await == 1 && runner.count() == 0
    })
    .await;
    assert_eq!(stage.admin.text("SELECT string_agg(a::text, ',') FROM t").await, "1");
    let row = format!("SELECT state FROM steward.job_runs WHERE id = '{id}'");
    assert_eq!(stage.admin.text(&row).await, "running", "its end is for whoever has it now");
}

#[tokio::test]
async fn the_role_holds_for_every_statement_and_ends_with_them() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("worker", "").await.name;
    stage.sql(&format!("CREATE TABLE t (who text); GRANT INSERT ON t TO {role}")).await;
    let job = format!(
        "transaction = false\nrole = '{role}'\nsql = '''INSERT INTO t VALUES (current_user); INSERT INTO t VALUES (current_user)'''"
    );
    stage.run(&job).await.succeeded();
    assert_eq!(
        stage.admin.text("SELECT string_agg(who, ' ') FROM t").await,
        format!("{role} {role}")
    );
    stage.run("sql = 'INSERT INTO t VALUES (current_user)'").await.succeeded();
    assert_eq!(
        stage.admin.number(&format!("SELECT count(*) FROM t WHERE who = '{role}'")).await,
        2
    );
}

#[tokio::test]
async fn behind_a_transaction_pooler_it_asks_for_a_way_past_it() {
    let database = TestDatabase::create(Template::Migrated).await;
    let url = database.url();
    let stage = Stage::over(database, &url, pgsteward::config::Pooler::Transaction).await;
    stage.sql("CREATE TABLE t (a int)").await;
    let run = stage.run("transaction = false\nsql = 'INSERT INTO t VALUES (1)'").await;
    assert!(run.state == "skipped" && run.reason.starts_with("needs_direct_url: "), "{run:?}");
    assert_eq!(stage.count("t").await, 0);
}
