//! What a script leaves in its session is not there for the next.

use pgsteward::config::Pooler;
use pgsteward::db::Purpose;

use crate::harness::{Template, TestDatabase};
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

/// Each statement by itself could do nothing more after this one, and such a cursor needs a transaction.
fn apart(mess: &str) -> String {
    let read_only = "SET default_transaction_read_only = on;";
    let rest = mess.replace(read_only, "").replace("DECLARE c CURSOR WITH HOLD FOR SELECT 1;", "");
    rest.replace("SET SESSION", &format!("{read_only} SET SESSION"))
}

#[tokio::test]
async fn nothing_outlives_the_script() {
    for pooler in [Pooler::None, Pooler::Transaction] {
        let database = TestDatabase::create(Template::Migrated).await;
        let url = database.url();
        // Told that a pooler stands between, the daemon cannot rely on meeting the session again; here it does.
        let mut stage = Stage::over(database, &url, pooler).await;
        let role = stage.database.role("messy", "").await.name;
        stage.sql("CREATE SEQUENCE s").await;
        let mess = MESS.replace("messy", &role);
        let failing = "SET work_mem = '9MB'; SELECT pg_advisory_lock(1); SELECT 1 / 0";
        for (job, state) in [
            (format!("sql = '''{mess}'''"), "succeeded"),
            (format!("sql = '''{mess}; SELECT 1 / 0'''"), "failed"),
            (format!("transaction = false\nsql = '''{}'''", apart(&mess)), "succeeded"),
            (format!("transaction = false\nsql = '''{failing}'''"), "failed"),
        ] {
            if pooler == Pooler::Transaction && job.starts_with("transaction") {
                continue;
            }
            let (pid, before) = session(&stage).await;
            let run = stage.run(&job).await;
            assert_eq!(run.state, state, "{job}: {run:?}");
            let (same, after) = session(&stage).await;
            assert_eq!(before, after, "{pooler:?}, after {job}");
            assert_eq!(pid, same, "the session was put back, not closed, after {job}");
            let conn = stage.db.acquire(Purpose::Job).await.unwrap();
            let last = conn.batch("ask for the last value", "SELECT currval('public.s')").await;
            let error = last.expect_err("it is forgotten").to_string();
            assert!(error.contains("not yet defined in this session"), "{error}");
        }
    }
}

async fn session(stage: &Stage) -> (i32, Vec<String>) {
    let conn = stage.db.acquire(Purpose::Job).await.unwrap();
    let mut lines: Vec<String> =
        conn.batch_values("look", SESSION).await.unwrap().into_iter().flatten().collect();
    lines.sort();
    let pid = conn.batch_values("look", "SELECT pg_backend_pid()").await.unwrap();
    (pid[0].as_deref().unwrap().parse().unwrap(), lines)
}

#[tokio::test]
async fn a_session_that_ended_is_not_lent_again() {
    let stage = Stage::new().await;
    let (pid, _) = session(&stage).await;
    let end = "SELECT pg_terminate_backend(pg_backend_pid())";
    stage.run(&format!("retries = 0\nsql = '{end}'")).await.ended("failed", "connection_lost", &[]);
    let (other, _) = session(&stage).await;
    assert_ne!(pid, other);
}

/// A connection that holds somebody else's SQL is closed, unless it was put back.
#[tokio::test]
async fn what_was_not_put_back_is_closed() {
    let stage = Stage::new().await;
    let (pid, _) = session(&stage).await;
    let conn = stage.db.acquire(Purpose::Job).await.unwrap();
    conn.soil();
    conn.clean().await.unwrap();
    drop(conn);
    assert_eq!(session(&stage).await.0, pid);
    stage.db.acquire(Purpose::Job).await.unwrap().soil();
    assert_ne!(session(&stage).await.0, pid);
}
