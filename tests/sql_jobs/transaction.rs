//! As one transaction.

use std::sync::Arc;

use pgsteward::config::{Config, Mode, Pooler};
use pgsteward::migrate::{self, source};
use pgsteward::sets::STEWARD;
use serde_json::json;

use crate::harness::{BOUND, PrivateServer, wait_until};
use crate::stage::{self, Stage};

#[tokio::test]
async fn the_effect_and_its_record_commit_together() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let run = stage
        .run(
            "sql = '''INSERT INTO t SELECT generate_series(1, 5); UPDATE t SET a = 0 WHERE a < 3; SELECT * FROM t;
              WITH gone AS (DELETE FROM t WHERE a = 5 RETURNING a) SELECT * FROM gone;
              CREATE TABLE copy_of_t AS SELECT * FROM t; DELETE FROM t WHERE a = 4 RETURNING a -- a comment'''",
        )
        .await
        .succeeded();
    assert_eq!(
        (run.rows, run.attempts, run.fenced),
        (5 + 2 + 1, 1, Some(true)),
        "SELECTs affect nothing: {run:?}"
    );
    assert_eq!(stage.count("t").await, 3);
    // The row was written by the transaction that wrote the table.
    let same = "SELECT count(*) FROM steward.job_runs r, copy_of_t c WHERE r.xmin = c.xmin";
    assert!(stage.admin.number(same).await > 0);
    let slot = "SELECT running_run_id IS NULL AND last_state = 'succeeded' FROM steward.job_state WHERE job = 'own'";
    assert_eq!(stage.admin.text(slot).await, "t");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let stage = Stage::new().await;
    stage
        .sql(
            "CREATE TABLE t (a int);
              CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
              $$ BEGIN IF NEW.state = 'succeeded' THEN RAISE 'no room for success'; END IF; RETURN NEW; END $$;
              CREATE TRIGGER refuse BEFORE UPDATE ON steward.job_runs FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    stage.run("sql = 'INSERT INTO t VALUES (1)'").await.ended(
        "failed",
        "sql",
        &["end a run", "no room for success"],
    );
    assert_eq!(stage.count("t").await, 0, "the effect went with its record");
}

#[tokio::test]
async fn a_session_that_is_ended_leaves_nothing() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let run = stage
        .run("retries = 0\nsql = 'INSERT INTO t VALUES (1); SELECT pg_terminate_backend(pg_backend_pid())'")
        .await
        .ended("failed", "connection_lost", &["terminating connection"]);
    assert_eq!((stage.count("t").await, run.fenced), (0, Some(true)));
    stage.run("sql = 'INSERT INTO t VALUES (2)'").await.succeeded();
}

/// The server commits, and ends the session before it says so.
#[tokio::test]
async fn a_commit_that_nobody_confirmed_is_told_by_its_row() {
    let server = PrivateServer::start(&[]).await;
    let (db, runner) = stage::runner(&server.url(), Pooler::None);
    let options = migrate::Options::new(&Config::default().migrations, "test");
    let set = source::bundled(&STEWARD);
    migrate::up(&db, &[set], &options).await.unwrap_or_else(|error| panic!("{error}"));
    let admin = server.client().await;
    // Nobody confirms: the wait after the commit ends only with its session.
    server.append_conf("synchronous_standby_names = 'nobody'\nsynchronous_commit = local\n");
    server.reload().await;
    wait_until("the setting holds", BOUND, async || {
        admin.text("SHOW synchronous_standby_names").await == "nobody"
    })
    .await;
    admin
        .batch_execute(
            "CREATE TABLE t (a int);
             CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.state = 'succeeded' THEN PERFORM set_config('synchronous_commit', 'on', true); END IF;
                 RETURN NEW; END $$;
             CREATE TRIGGER wait BEFORE UPDATE ON steward.job_runs FOR EACH ROW EXECUTE FUNCTION wait()",
        )
        .await
        .unwrap();
    let id = stage::claim(&admin).await;
    let order =
        stage::order(&server.url(), "sql = 'INSERT INTO t VALUES (1)'", id, &Config::default());
    let lane = pgsteward::scheduler::worker_slots::WorkerSlots::new(1).take(&order.spec).unwrap();
    runner.start(order, lane);
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    wait_until("it waits after its commit", BOUND, async || admin.number(end).await > 0).await;
    let run = stage::ended(&admin, &runner, id).await.succeeded();
    assert_eq!((admin.number("SELECT count(*) FROM t").await, run.rows, run.attempts), (1, 1, 1));
}

#[tokio::test]
async fn a_failure_rolls_everything_back_and_says_where() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int PRIMARY KEY)").await;
    stage
        .run("sql = '''\nINSERT INTO t VALUES (1);\n-- the next one fails\n  INSERT INTO t\n  VALUES (1);\nSELECT 1'''")
        .await
        .ended("failed", "sql", &["statement 2 of 3, line 3, column 3:", "duplicate key"]);
    assert_eq!(stage.count("t").await, 0);
    let run = stage.run("retries = 3\nsql = '''SELECT 'ä';\nSELEC 1'''").await;
    let run = run.ended("failed", "sql", &["statement 2 of 2, line 2, column 1:", "syntax error"]);
    assert_eq!(run.attempts, 1, "time does not mend it");
    stage
        .run("sql = '''SELECT 1;\nDO $$\nBEGIN\n  PERFORM 1;\n  INSERT INTO nothing VALUES (1);\nEND $$'''")
        .await
        .ended("failed", "sql", &["statement 2 of 2, line 5", "\"nothing\" does not exist"]);
}

#[tokio::test]
async fn deferred_constraints_are_checked_before_it_counts_as_done() {
    let stage = Stage::new().await;
    stage
        .sql("CREATE TABLE p (a int PRIMARY KEY); CREATE TABLE c (a int REFERENCES p DEFERRABLE INITIALLY DEFERRED)")
        .await;
    stage.run("sql = 'INSERT INTO c VALUES (1)'").await.ended(
        "failed",
        "sql",
        &["a deferred constraint", "violates foreign key"],
    );
    stage.run("sql = 'INSERT INTO c VALUES (1); INSERT INTO p VALUES (1)'").await.succeeded();
}

#[tokio::test]
async fn notices_are_kept_and_bounded() {
    let stage = Stage::new().await;
    let run = stage
        .run("sql = '''DO $$ BEGIN RAISE NOTICE 'hello %', 1; RAISE WARNING 'mind'; END $$'''")
        .await
        .succeeded();
    assert_eq!(run.detail, json!({ "notices": ["NOTICE: hello 1", "WARNING: mind"] }));
    let warned = async || {
        let warnings = || stage.runner.standing.read()["own"].warnings.clone();
        wait_until("the warning is told", BOUND, async || warnings() == ["WARNING: mind"]).await;
    };
    warned().await;
    let flood = "sql = '''DO $$ BEGIN FOR i IN 1..2000 LOOP RAISE NOTICE '% %', i, repeat('ä', 20000); END LOOP; END $$'''";
    let run = stage.run(flood).await.succeeded();
    let notices = run.detail["notices"].as_array().unwrap();
    assert_eq!((notices.len(), run.detail["notices_dropped"].as_i64()), (64, Some(1936)));
    assert!(
        notices.iter().all(|notice| notice.as_str().unwrap().chars().count() == 501),
        "{:?}",
        notices[0]
    );
    assert!(notices[63].as_str().unwrap().starts_with("NOTICE: 2000 "), "the newest are kept");
    // A failed run tells them too, and none is told twice.
    let run =
        stage.run("sql = '''DO $$ BEGIN RAISE NOTICE 'before'; PERFORM 1 / 0; END $$'''").await;
    let run = run.ended("failed", "sql", &["division by zero"]);
    assert_eq!(run.detail, json!({ "notices": ["NOTICE: before"] }));
}

#[tokio::test]
async fn a_procedure_that_commits_is_refused() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int); CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$").await;
    for sql in ["CALL p()", "DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$"] {
        let job = format!("sql = '''{sql}'''");
        stage.run(&job).await.ended(
            "failed",
            "sql",
            &["use transaction = false", "invalid transaction termination"],
        );
        assert_eq!(stage.count("t").await, 0);
    }
}

/// What the reader of the configuration refuses, and may some day be told apart from what it is not.
#[tokio::test]
async fn ending_the_transaction_from_within_is_found_out() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    for (sql, left) in [
        ("INSERT INTO public.t VALUES (1); COMMIT; BEGIN; INSERT INTO public.t VALUES (2)", "1"),
        ("INSERT INTO public.t VALUES (3); COMMIT; SELECT 1 / 0", "1,3"),
        ("INSERT INTO public.t VALUES (4); ROLLBACK; BEGIN", "1,3"),
    ] {
        let id = stage::claim(&stage.admin).await;
        let mut order = stage::order(&stage.database.url(), "sql = 'SELECT 1'", id, &stage.config);
        if let pgsteward::config::Work::Sql(work) = &mut order.spec.work {
            work.sql = sql.to_owned();
        }
        let lane =
            pgsteward::scheduler::worker_slots::WorkerSlots::new(1).take(&order.spec).unwrap();
        stage.runner.start(order, lane);
        let run = stage.ended(id).await;
        run.ended(
            "failed",
            "sql",
            &["ended the transaction that it was given", "transaction = false"],
        );
        assert_eq!(stage.admin.text("SELECT string_agg(a::text, ',') FROM t").await, left, "{sql}");
    }
}

#[tokio::test]
async fn the_jobs_zone_is_the_sqls() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (zone text)").await;
    let sql = "sql = \"INSERT INTO t VALUES (current_setting('timezone'))\"\ntimezone = 'Pacific/Auckland'";
    stage.run(sql).await.succeeded();
    stage.run(&format!("{sql}\ntransaction = false")).await.succeeded();
    stage.run("sql = \"INSERT INTO t VALUES (current_setting('timezone'))\"").await.succeeded();
    let zones = "SELECT string_agg(zone, ' ' ORDER BY ctid) FROM t";
    assert_eq!(stage.admin.text(zones).await, "Pacific/Auckland Pacific/Auckland UTC");
}

#[tokio::test]
async fn the_role_is_taken_and_put_back() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("worker", "").await.name;
    stage
        .sql(&format!(
            "CREATE TABLE t (who text, path text, name text); GRANT INSERT ON t TO {role}; CREATE TABLE closed ()"
        ))
        .await;
    let insert = "INSERT INTO t VALUES (current_user, current_setting('search_path'), current_setting('application_name'))";
    let job = format!("role = '{role}'\nsearch_path = 'public, pg_temp'\nsql = \"{insert}\"");
    stage.run(&job).await.succeeded();
    let row = stage.admin.text("SELECT who || '; ' || path || '; ' || name FROM t").await;
    assert_eq!(row, format!("{role}; public, pg_temp; pgsteward/job own"));
    stage
        .run(&format!("role = '{role}'\nsql = '''SELECT 1;\nSELECT * FROM closed'''"))
        .await
        .ended(
            "failed",
            "permission",
            &[&format!("as role \"{role}\""), "line 2", "permission denied for table closed"],
        );
    stage.run("role = 'no\"body'\nsql = 'SELECT 1'").await.ended(
        "failed",
        "sql",
        &["role \"no\"\"body\" cannot be had by this login; it needs GRANT", "does not exist"],
    );
}

#[tokio::test]
async fn passing_reasons_are_tried_again_and_counted() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int); CREATE SEQUENCE tries").await;
    let once = "sql = '''INSERT INTO t VALUES (1); DO $$ BEGIN IF nextval('tries') = 1 THEN
                RAISE 'not now' USING ERRCODE = 'serialization_failure'; END IF; END $$'''";
    let run = stage.run(once).await.succeeded();
    assert_eq!((run.attempts, stage.count("t").await), (2, 1));
    let run =
        stage.run("retries = 1\nsql = '''DO $$ BEGIN RAISE 'x' USING ERRCODE = 'deadlock_detected'; END $$'''").await;
    assert_eq!(run.ended("failed", "conflict", &[]).attempts, 2);

    let blocker = stage.database.client().await;
    blocker.batch_execute("BEGIN; LOCK t").await.unwrap();
    let id =
        stage.start("retries = 9\nlock_timeout = '50ms'\nsql = 'INSERT INTO t VALUES (2)'").await;
    let retries =
        || stage.runner.metrics.job_retries_total.with_label_values(&["main", "own"]).get();
    let before = retries();
    wait_until("the lock was not had in time", BOUND, async || retries() > before).await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let run = stage.ended(id).await.succeeded();
    assert!(run.attempts >= 2, "{run:?}");
    assert_eq!(stage.count("t").await, 2);
}

#[tokio::test]
async fn observing_changes_nothing() {
    let mut stage = Stage::new().await;
    stage.config.mode = Mode::Observe;
    stage.sql("CREATE TABLE t (a int)").await;
    let run = stage.run("sql = 'INSERT INTO t VALUES (1)'").await;
    assert!(run.state == "skipped" && run.reason.starts_with("mode_observe"), "{run:?}");
    assert_eq!(stage.count("t").await, 0);
}

/// Whoever takes the run over while it works.
#[tokio::test]
async fn a_lease_that_passed_lets_nothing_begin() {
    let stage = Stage::new().await;
    stage.sql("CREATE TABLE t (a int)").await;
    let id = stage::claim(&stage.admin).await;
    stage.sql("UPDATE steward.job_runs SET lease_until = clock_timestamp() - interval '1 s'").await;
    let order =
        stage::order(&stage.database.url(), "sql = 'INSERT INTO t VALUES (1)'", id, &stage.config);
    let lane = pgsteward::scheduler::worker_slots::WorkerSlots::new(1).take(&order.spec).unwrap();
    Arc::clone(&stage.runner).start(order, lane);
    stage.ended(id).await.ended("failed", "fenced", &["no longer holds its lease"]);
    assert_eq!(stage.count("t").await, 0);
}
