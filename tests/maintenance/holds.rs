//! Legal holds: what they keep from being purged, whatever retention is doing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use pgsteward::db::{Error, Kind, Purpose, TxOptions};
use pgsteward::store::holds::{self, ReleaseResult, Scope};
use uuid::Uuid;

use crate::bench::{Bench, Job};
use crate::harness::{BOUND, TestClient, wait_until};

/// Places a hold, waiting for a purge for as long as this.
async fn try_place(bench: &Bench, scope: &Scope, wait: Duration) -> Result<Uuid, Error> {
    let db = bench.open();
    let mut conn = db.acquire(Purpose::Check).await.unwrap();
    let options = holds::purge_options(TxOptions::within(BOUND)).lock_timeout(wait);
    conn.transaction(&options, |tx| Box::pin(holds::place(tx, scope, "a case", "cli:tester"))).await
}

pub async fn place(bench: &Bench, scope: &Scope) -> Uuid {
    try_place(bench, scope, BOUND).await.unwrap()
}

pub async fn release(bench: &Bench, id: Uuid) -> ReleaseResult {
    let db = bench.open();
    let mut conn = db.acquire(Purpose::Check).await.unwrap();
    let options = holds::purge_options(TxOptions::within(BOUND));
    conn.transaction(&options, |tx| Box::pin(holds::release(tx, id, "closed", "cli:tester")))
        .await
        .unwrap()
}

pub fn of_user(user: &str) -> Scope {
    Scope { user_id: Some(user.to_owned()), ..Scope::default() }
}

/// Logs events of one transaction: `count` by each user, a second apart from this instant on.
pub async fn log(bench: &Bench, from: &str, count: u32, users: &[&str]) {
    let sql = "
        INSERT INTO steward.audit_logs (created_at, user_id, action, source)
        SELECT $1::text::timestamptz + n * interval '1 second', user_id, 'test', 'application'
          FROM generate_series(0, $2 - 1) n, unnest($3::text[]) user_id";
    let count = i32::try_from(count).unwrap();
    bench.admin.execute(sql, &[&from, &count, &users]).await.unwrap();
}

/// The test's own events that are left.
const LEFT: &str = "steward.audit_logs WHERE action = 'test'";

fn of(user: &str) -> String {
    format!("{LEFT} AND user_id = '{user}'")
}

/// Six events of 2001, three each at two instants.
const SIX: &str = "
    INSERT INTO steward.audit_logs (created_at, action, user_id, resource_type, resource_id, source) VALUES
      ('2001-01-01Z', 'a', 'u1', 'vms', '1', 'application'), ('2001-01-01Z', 'b', 'u1', 'vms', '2', 'application'),
      ('2001-01-01Z', 'c', 'u2', 'vms', '1', 'application'), ('2001-06-01Z', 'd', 'u2', 'users', '1', 'application'),
      ('2001-06-01Z', 'e', NULL, NULL, NULL, 'application'), ('2001-06-01Z', 'f', 'u1', NULL, NULL, 'application')";
const LETTERS: &str = "
    SELECT coalesce(string_agg(action, '' ORDER BY action), '') FROM steward.audit_logs WHERE length(action) = 1";

fn scope(user: &str, resource: &str, from: &str, until: &str) -> Scope {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let instant = |text: &str| given(text).map(|text| text.parse::<DateTime<Utc>>().unwrap());
    let (resource_type, resource_id) = resource.split_once('/').unwrap_or((resource, ""));
    Scope {
        user_id: given(user),
        resource_type: given(resource_type),
        resource_id: given(resource_id),
        begins_at: instant(from),
        ends_at: instant(until),
    }
}

#[tokio::test]
async fn rows_that_meet_every_condition_of_a_hold_stay_until_it_is_released() {
    let bench = Bench::new().await;
    let (early, late) = ("2001-01-01T00:00:00Z", "2001-06-01T00:00:00Z");
    let table = [
        (scope("u1", "", "", ""), "abf"),
        (scope("", "vms", "", ""), "abc"),
        (scope("", "vms/1", "", ""), "ac"),
        (scope("", "", late, ""), "def"),
        (scope("", "", "", late), "abc"),
        (scope("", "", early, "2001-01-01T00:00:00.000001Z"), "abc"),
        (scope("u1", "vms", "", ""), "ab"),
        (scope("u1", "", late, ""), "f"),
        (scope("u2", "vms/1", early, late), "c"),
        (scope("u2", "vms/1", late, ""), ""),
        (scope("nobody", "", "", ""), ""),
    ];
    for (scope, kept) in table {
        bench.sql(SIX).await;
        let hold = place(&bench, &scope).await;
        let report = bench.run(Job::Retention).await.unwrap();
        assert_eq!(bench.admin.text(LETTERS).await, kept, "{scope:?}");
        assert_eq!(report.warnings, Vec::<String>::new());
        let notes = &report.detail["steward.audit_logs"]["notes"];
        let told = format!(
            "rows before the cutoff that are on hold and stay: {}; holds in force: 1",
            kept.len()
        );
        let told = if kept.is_empty() { serde_json::json!([]) } else { serde_json::json!([told]) };
        assert_eq!(notes, &told, "{scope:?}");
        assert_eq!(release(&bench, hold).await, ReleaseResult::Released);
        bench.run(Job::Retention).await.unwrap();
        assert_eq!(bench.admin.text(LETTERS).await, "", "released: {scope:?}");
    }
}

#[tokio::test]
async fn placing_and_releasing_leave_rows_in_the_trail() {
    let bench = Bench::new().await;
    let hold = place(&bench, &scope("u1", "vms/1", "2001-01-01T00:00:00Z", "")).await;
    assert_eq!(release(&bench, hold).await, ReleaseResult::Released);
    let again = release(&bench, hold).await;
    assert!(
        matches!(&again, ReleaseResult::AlreadyReleased { by, .. } if by == "cli:tester"),
        "{again:?}"
    );
    assert_eq!(release(&bench, Uuid::nil()).await, ReleaseResult::Unknown);
    let sql = format!(
        "SELECT string_agg(concat_ws(' ', action, actor, details), '; ' ORDER BY created_at) FROM steward.audit_logs
          WHERE resource_type = 'audit_hold' AND resource_id = '{hold}'"
    );
    let scope = r#""user_id": "u1", "begins_at": "2001-01-01T00:00:00Z", "resource_id": "1", "resource_type": "vms"}"#;
    let wanted = format!(
        "audit.hold_placed cli:tester {{\"reason\": \"a case\", {scope}; \
         audit.hold_released cli:tester {{\"reason\": \"closed\", {scope}"
    );
    assert_eq!(bench.admin.text(&sql).await, wanted);
    assert_eq!(bench.count("steward.audit_logs WHERE resource_type = 'audit_hold'").await, 2);
}

/// The bounds of a month's partition of the trail that is long past, and its name.
pub async fn past_month(bench: &Bench) -> (String, String) {
    bench.sql("SELECT steward.ensure_partitions('steward.audit_logs', 'month', 3, 7)").await;
    let begins = "date_trunc('month', now() AT TIME ZONE 'UTC') - interval '6 months'";
    let begins =
        bench.admin.text(&format!("SELECT to_char({begins}, 'YYYY-MM-DD HH24:MI:SS\"Z\"')")).await;
    let holder = format!(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'steward.audit_logs'::regclass
            AND pg_get_expr(c.relpartbound, c.oid) LIKE '%FROM (''' || '{}' || '%'",
        &begins[..10]
    );
    (begins.clone(), format!("steward.{}", bench.admin.text(&holder).await))
}

#[tokio::test]
async fn a_partition_with_a_row_on_hold_keeps_that_row_alone_and_is_dropped_after_the_release() {
    let bench = Bench::new().await;
    let (month, partition) = past_month(&bench).await;
    log(&bench, &month, 500, &["u1"]).await;
    log(&bench, &month, 1, &["held"]).await;
    let hold = place(&bench, &of_user("held")).await;
    let report = bench.run(Job::Retention).await.unwrap();
    let detail = &report.detail["steward.audit_logs"];
    let dropped = detail["partitions"].as_array().unwrap();
    assert!(
        !dropped.is_empty() && !dropped.contains(&partition.as_str().into()),
        "{partition}: {detail}"
    );
    assert_eq!(detail["strategy"], serde_json::json!(["partitions", "slices"]), "{detail}");
    assert_eq!((bench.count(&partition).await, bench.count(&of("held")).await), (1, 1));

    release(&bench, hold).await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(report.detail["steward.audit_logs"]["partitions"], serde_json::json!([partition]));
    assert_eq!(bench.count(LEFT).await, 0);
}

/// Somebody who places a hold on `held` and has not committed yet.
async fn placing(bench: &Bench) -> TestClient {
    let other = bench.database.client().await;
    let sql = "BEGIN; INSERT INTO steward.audit_holds (id, user_id, reason, placed_by)
                      VALUES (gen_random_uuid(), 'held', 'a case', 'test')";
    other.batch_execute(sql).await.unwrap();
    other
}

/// One run, during which that hold is committed as soon as the run waits for it.
async fn run_beside_placing(bench: &Bench) {
    let other = placing(bench).await;
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        bench.job_waits_for_lock().await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    report.unwrap();
}

/// Whatever snapshot a transaction has from before it waited.
#[tokio::test]
async fn a_hold_that_commits_while_a_slice_waits_for_it_counts() {
    for isolation in ["read committed", "repeatable read", "serializable"] {
        let bench = Bench::new().await;
        let name = bench.database_name().await;
        bench
            .sql(&format!(
                "ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"
            ))
            .await;
        log(&bench, "2001-01-01Z", 10, &["u1", "held"]).await;
        run_beside_placing(&bench).await;
        assert_eq!(
            (bench.count(&of("held")).await, bench.count(LEFT).await),
            (10, 10),
            "{isolation}"
        );
    }
}

#[tokio::test]
async fn a_hold_that_commits_while_a_drop_waits_for_it_counts() {
    let bench = Bench::new().await;
    let (month, partition) = past_month(&bench).await;
    log(&bench, &month, 10, &["u1", "held"]).await;
    run_beside_placing(&bench).await;
    assert_eq!((bench.count(&partition).await, bench.count(&of("held")).await), (10, 10));
}

#[tokio::test]
async fn a_hold_that_is_placed_between_slices_keeps_what_is_there_when_it_is_placed() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 2_000, &["u1", "held"]).await;
    // The second slice waits for this row.
    let other = bench.database.client().await;
    let row = "SELECT FROM steward.audit_logs WHERE user_id = 'u1' AND created_at = '2001-01-01 00:12:00Z' FOR UPDATE";
    other.batch_execute(&format!("BEGIN; {row}")).await.unwrap();
    let (report, there) = tokio::join!(bench.run(Job::Retention), async {
        bench.job_waits_for_lock().await;
        place(&bench, &of_user("held")).await;
        let there = bench.count(&of("held")).await;
        other.batch_execute("COMMIT").await.unwrap();
        there
    });
    report.unwrap();
    assert!((1..2_000).contains(&there), "a slice was deleted before, and not all: {there}");
    assert_eq!(bench.count(&of("held")).await, there);
    assert_eq!(bench.count(&of("u1")).await, 0);
}

#[tokio::test]
async fn a_purge_under_way_is_waited_for_and_a_hold_that_stays_open_fails_the_trail_alone() {
    let mut bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 1, &["u1"]).await;
    let purge = bench.database.client().await;
    purge.batch_execute("BEGIN; LOCK TABLE steward.audit_holds IN SHARE MODE").await.unwrap();
    let error = try_place(&bench, &of_user("u2"), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout);
    assert!(
        error.to_string().starts_with("wait for the transaction that purges the audit trail"),
        "{error}"
    );
    purge.batch_execute("COMMIT").await.unwrap();

    let other = placing(&bench).await;
    bench.timeout = Duration::from_secs(4);
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("1 failed: steward.audit_logs (lock_timeout)"), "{text}");
    assert!(text.contains("wait for a hold that is being placed or released"), "{text}");
    assert!(!text.contains("rows of"), "no row is locked: {text}");
    assert_eq!(bench.count(LEFT).await, 1);
    other.batch_execute("ROLLBACK").await.unwrap();
    bench.timeout = Duration::from_secs(60);
    bench.run(Job::Retention).await.unwrap();
    assert_eq!(bench.count(LEFT).await, 0);
}

#[tokio::test]
async fn many_rows_of_one_instant_end_though_some_are_held() {
    for (held, others) in [(1_500, 3_000), (3_000, 10), (500, 600)] {
        let bench = Bench::new().await;
        for (user, count) in [("held", held), ("u1", others)] {
            bench
                .sql(&format!(
                    "INSERT INTO steward.audit_logs (created_at, user_id, action, source)
                     SELECT '2001-01-01Z', '{user}', 'test', 'application' FROM generate_series(1, {count})"
                ))
                .await;
        }
        log(&bench, "2001-01-02Z", 1_200, &["u1", "held"]).await;
        place(&bench, &of_user("held")).await;
        tokio::time::timeout(BOUND, bench.run(Job::Retention))
            .await
            .expect("the walk ends")
            .unwrap();
        assert_eq!(
            (bench.count(&of("held")).await, bench.count(&of("u1")).await),
            (held + 1_200, 0)
        );
    }
}

#[tokio::test]
async fn rows_on_hold_stay_where_slices_skip_locked_rows() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 20, &["u1", "held"]).await;
    place(&bench, &of_user("held")).await;
    let other = bench.database.client().await;
    other
        .batch_execute(&format!("BEGIN; SELECT FROM {} LIMIT 1 FOR UPDATE", of("u1")))
        .await
        .unwrap();
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        wait_until("all but the locked row are gone", BOUND, async || {
            bench.count(&of("u1")).await == 1
        })
        .await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    report.unwrap();
    assert_eq!((bench.count(&of("held")).await, bench.count(&of("u1")).await), (20, 0));
}

#[tokio::test]
async fn holds_are_bounded_in_number() {
    let bench = Bench::new().await;
    bench
        .sql(
            "INSERT INTO steward.audit_holds (id, user_id, reason, placed_by)
             SELECT gen_random_uuid(), 'u' || n, 'many', 'test' FROM generate_series(1, 1000) n",
        )
        .await;
    let error = try_place(&bench, &of_user("one more"), BOUND).await.unwrap_err();
    assert!(error.to_string().contains("1000 holds in force"), "{error}");
    bench.sql("UPDATE steward.audit_holds SET released_by = 'test', released_at = now() WHERE user_id = 'u1'").await;
    place(&bench, &of_user("one more")).await;
    assert_eq!(bench.count("steward.audit_logs WHERE action = 'audit.hold_placed'").await, 1);
}
