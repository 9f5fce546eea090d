//! Partitions ahead.

use pgsteward::config::Mode;
use pgsteward::db::Kind;
use pgsteward::sets::BUNDLED;

use crate::bench::{Bench, Job};
use crate::harness::BOUND;

/// Takes away the partitions after the current one.
async fn drop_ahead(bench: &Bench, table: &str) {
    bench
        .sql(&format!(
            "DO $$ DECLARE p regclass; BEGIN
               FOR p IN SELECT c.oid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                         WHERE i.inhparent = '{table}'::regclass AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
                           AND substring(pg_get_expr(c.relpartbound, c.oid) FROM $r$FROM \\('([^']+)'$r$)::timestamptz > now()
               LOOP EXECUTE format('DROP TABLE %s', p); END LOOP; END $$"
        ))
        .await;
}

fn ahead(bench: &Bench, table: &str) -> i64 {
    bench.metrics.partitions_ahead.with_label_values(&["main", table]).get()
}

#[tokio::test]
async fn missing_partitions_are_made_and_counted() {
    let mut bench = Bench::new().await;
    for table in [
        "steward.system_health",
        "steward.connection_metrics",
        "steward.audit_logs",
        "public.vm_metrics",
    ] {
        drop_ahead(&bench, table).await;
    }
    let report = bench.run(Job::Partitions).await.unwrap();
    assert_eq!(
        report.rows,
        14 + 14 + 3,
        "vm_metrics is not ours unless the set is applied: {}",
        report.detail
    );
    assert_eq!(ahead(&bench, "steward.system_health"), 14);
    assert_eq!(ahead(&bench, "steward.audit_logs"), 3);

    bench.sets = BUNDLED.to_vec();
    let report = bench.run(Job::Partitions).await.unwrap();
    assert_eq!(report.rows, 3, "{}", report.detail);
    assert_eq!(ahead(&bench, "public.vm_metrics"), 3);
    assert_eq!(bench.run(Job::Partitions).await.unwrap().rows, 0);
}

#[tokio::test]
async fn observing_makes_only_our_own() {
    let mut bench = Bench::new().await;
    bench.sets = BUNDLED.to_vec();
    bench.config.mode = Mode::Observe;
    drop_ahead(&bench, "public.vm_metrics").await;
    drop_ahead(&bench, "steward.audit_logs").await;
    let before = bench.count("pg_inherits WHERE inhparent = 'public.vm_metrics'::regclass").await;
    let report = bench.run(Job::Partitions).await.unwrap();
    assert_eq!(report.rows, 3, "the audit trail's: {}", report.detail);
    assert!(report.detail.get("public.vm_metrics").is_none(), "{}", report.detail);
    assert_eq!(
        bench.count("pg_inherits WHERE inhparent = 'public.vm_metrics'::regclass").await,
        before
    );
}

#[tokio::test]
async fn a_table_that_fails_stops_no_other() {
    let bench = Bench::new().await;
    bench.sql("DROP TABLE steward.system_health CASCADE").await;
    drop_ahead(&bench, "steward.connection_metrics").await;
    // A row in the way of next month's partition.
    drop_ahead(&bench, "steward.audit_logs").await;
    bench
        .sql(
            "INSERT INTO steward.audit_logs (created_at, action, source)
             VALUES (date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '40 days', 'x', 'application')",
        )
        .await;
    let error = bench.run(Job::Partitions).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Sql, "{text}");
    assert!(
        text.contains("steward.system_health (sql): table steward.system_health does not exist"),
        "{text}"
    );
    assert!(
        text.contains("steward.audit_logs (sql)") && text.contains("audit_logs_default"),
        "{text}"
    );
    assert_eq!(ahead(&bench, "steward.connection_metrics"), 14);
    assert!(ahead(&bench, "steward.audit_logs") < 3, "the gauge tells the truth after a failure");
}

#[tokio::test]
async fn an_interrupted_detach_is_finished() {
    let bench = Bench::new().await;
    bench.sql("SELECT steward.ensure_partitions('steward.system_health', 'day', 14, 3)").await;
    pend_detach(&bench, "steward.system_health").await;
    bench.run(Job::Partitions).await.unwrap();
    assert_eq!(bench.count("pg_inherits WHERE inhdetachpending").await, 0);
}

/// Leaves the earliest partition with its detaching cut off, and returns it.
pub async fn pend_detach(bench: &Bench, parent: &str) -> String {
    let reader = bench.database.client().await;
    reader.batch_execute(&format!("BEGIN; SELECT count(*) FROM {parent}")).await.unwrap();
    let partition = bench
        .admin
        .text(&format!(
            "SELECT c.oid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = '{parent}'::regclass ORDER BY pg_get_expr(c.relpartbound, c.oid) LIMIT 1"
        ))
        .await;
    bench.sql("SET lock_timeout = '20ms'").await;
    let detach = format!("ALTER TABLE {parent} DETACH PARTITION {partition} CONCURRENTLY");
    bench.admin.batch_execute(&detach).await.expect_err("a reader is in the way");
    bench.sql("RESET lock_timeout").await;
    assert_eq!(bench.count("pg_inherits WHERE inhdetachpending").await, 1);
    reader.batch_execute("COMMIT").await.unwrap();
    partition
}

#[tokio::test]
async fn a_lock_is_tried_again_until_it_is_free() {
    let bench = Bench::new().await;
    drop_ahead(&bench, "steward.system_health").await;
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE steward.system_health IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let (report, ()) = tokio::join!(bench.run(Job::Partitions), async {
        bench.job_waits_for_lock().await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(report.unwrap().rows, 14);
}

#[tokio::test]
async fn a_lock_that_stays_fails_the_table_within_the_deadline() {
    let mut bench = Bench::new().await;
    bench.timeout = std::time::Duration::from_secs(4);
    drop_ahead(&bench, "steward.system_health").await;
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE steward.system_health IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let error = tokio::time::timeout(BOUND, bench.run(Job::Partitions)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert!(
        error.to_string().contains("steward.system_health (lock_timeout): lock not free in"),
        "{error}"
    );
}
