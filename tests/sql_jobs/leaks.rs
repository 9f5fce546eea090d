//! What a script leaves in its session is not there for the next.

use crate::stage::Stage;

/// Everything about a session that can be seen from inside, but for the process.
const SESSION: &str = "
    SELECT 'user: ' || session_user || ' ' || current_user
    UNION ALL SELECT name || ' = ' || setting FROM pg_settings
               WHERE category <> 'Customized Options' AND name NOT LIKE 'transaction%'
    UNION ALL SELECT 'own = ' || coalesce(nullif(current_setting('own.thing', true), ''), 'unset')
    UNION ALL SELECT 'channel: ' || c FROM pg_listening_channels() AS c
    UNION ALL SELECT 'prepared: ' || name FROM pg_prepared_statements
    UNION ALL SELECT 'cursor: ' || name FROM pg_cursors WHERE is_holdable
    UNION ALL SELECT 'lock: ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
    UNION ALL SELECT 'temp: ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'";

const MESS: &str = "
    SET work_mem = '77MB'; SET search_path = nowhere; SET TimeZone = 'Asia/Tokyo'; SET client_encoding = 'LATIN1';
    SET session_replication_role = replica; SET default_transaction_read_only = on; SET statement_timeout = 0;
    SELECT pg_catalog.set_config('own.thing', 'x', false); LISTEN somebody; PREPARE p AS SELECT 1;
    DECLARE c CURSOR WITH HOLD FOR SELECT 1; CREATE TEMP TABLE left_over (a int);
    SELECT pg_advisory_lock(4711); SELECT pg_advisory_lock(4711); SELECT pg_catalog.nextval('public.s');
    SET SESSION AUTHORIZATION messy";

#[tokio::test]
async fn nothing_outlives_the_script() {
    let mut stage = Stage::new().await;
    let role = stage.database.role("messy", "").await.name;
    stage.sql("CREATE SEQUENCE s").await;
    let mess = MESS.replace("messy", &role);
    for (job, state) in [
        (format!("sql = '''{mess}'''"), "succeeded"),
        (format!("sql = '''{mess}; SELECT 1 / 0'''"), "failed"),
        (format!("transaction = false\nsql = '''{}'''", mess.replace("DECLARE c CURSOR WITH HOLD FOR SELECT 1;", "")), "succeeded"),
        ("transaction = false\nsql = '''SET work_mem = '9MB'; SELECT pg_advisory_lock(1); SELECT 1 / 0'''".to_owned(), "failed"),
    ] {
        let (pid, before) = session(&stage).await;
        let run = stage.run(&job).await;
        assert_eq!(run.state, state, "{job}: {run:?}");
        let (same, after) = session(&stage).await;
        assert_eq!(before, after, "after {job}");
        assert_eq!(pid, same, "the session was put back, not closed, after {job}");
        let conn = stage.db.acquire(pgsteward::db::Purpose::Job).await.unwrap();
        let error = conn.batch("ask for the last value", "SELECT currval('public.s')").await.expect_err("it is forgotten");
        assert!(error.to_string().contains("not yet defined in this session"), "{error}");
    }
}

async fn session(stage: &Stage) -> (i32, Vec<String>) {
    let conn = stage.db.acquire(pgsteward::db::Purpose::Job).await.unwrap();
    let mut lines: Vec<String> = conn.batch_values("look", SESSION).await.unwrap().into_iter().flatten().collect();
    lines.sort();
    (conn.process().unwrap().0, lines)
}

/// A session that cannot be put back is closed.
#[tokio::test]
async fn what_cannot_be_put_back_is_closed() {
    let stage = Stage::new().await;
    let (pid, _) = session(&stage).await;
    // It goes on in the session's own exception handler: no error, and no connection.
    stage.run("retries = 0\nsql = '''SELECT pg_terminate_backend(pg_backend_pid())'''").await.ended("failed", "connection_lost", &[]);
    let (other, _) = session(&stage).await;
    assert_ne!(pid, other);
}
