//! Purges of the audit trail: the chain of seals tells of each before it begins.

use std::time::Duration;

use pgsteward::audit::verify::{Verification, VerifyOptions, verify};
use pgsteward::db::{Kind, Purpose};

use crate::bench::{Bench, DAY, Job};
use crate::harness::{BOUND, wait_until};
use crate::holds::{log, of_user, past_month, place, release};

const PURGES: &str = "steward.audit_seals WHERE kind = 'purge'";
const EVENTS: &str = "steward.audit_logs WHERE action = 'test'";

/// Seals all there is, and returns the number of the newest entry. Transactions of other databases on the server hold
/// sealing up for a while.
async fn seal(bench: &Bench) -> i64 {
    let unsealed = "steward.audit_logs l WHERE (l.xid, l.id) >= (
        SELECT s.xid_below, s.id_below FROM steward.audit_seals s WHERE s.kind = 'rows' ORDER BY number DESC LIMIT 1)";
    wait_until("everything is sealed", BOUND, async || {
        bench.run(Job::AuditSeal).await.unwrap();
        bench.count("steward.audit_seals WHERE kind = 'rows'").await > 0
            && bench.count(unsealed).await == 0
    })
    .await;
    bench.admin.number("SELECT max(number) FROM steward.audit_seals").await
}

async fn verified(bench: &Bench) -> Verification {
    let question = VerifyOptions { against: Vec::new(), min_keep: 30 * DAY };
    let db = bench.open();
    let found = verify(&mut db.acquire(Purpose::Check).await.unwrap(), &question).await.unwrap();
    assert!(found.is_sound(), "{:?}", found.findings);
    found
}

/// The numbers of the seals that have leaves.
async fn with_leaves(bench: &Bench) -> Vec<i64> {
    let sql = "SELECT coalesce(array_agg(seal ORDER BY seal), '{}') FROM steward.audit_leaves";
    bench.admin.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn the_certificate_stands_before_the_first_row_is_gone() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 7, &["u1"]).await;
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE steward.audit_logs_default IN SHARE MODE")
        .await
        .unwrap();
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert_eq!((bench.count(EVENTS).await, bench.count(PURGES).await), (7, 1));
    let cutoff = bench.last_detail(Job::Retention).await["steward.audit_logs"]["cutoff"]
        .as_str()
        .unwrap()
        .to_owned();
    let same = format!("{PURGES} AND number = 1 AND row_count = 7 AND cutoff = '{cutoff}'");
    assert_eq!(bench.count(&same).await, 1, "{cutoff}");
    let by = "SELECT sealed_by FROM steward.audit_seals";
    assert!(bench.admin.text(by).await.starts_with("job:retention "));
    other.batch_execute("COMMIT").await.unwrap();

    bench.run(Job::Retention).await.unwrap();
    assert_eq!((bench.count(EVENTS).await, bench.count(PURGES).await), (0, 2));
    bench.run(Job::Retention).await.unwrap();
    assert_eq!(bench.count(PURGES).await, 2, "nothing was due");
}

#[tokio::test]
async fn the_certificate_stands_before_the_first_partition_is_dropped() {
    let mut bench = Bench::new().await;
    let (month, partition) = past_month(&bench).await;
    log(&bench, &month, 7, &["u1"]).await;
    let reader = bench.database.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM steward.audit_logs").await.unwrap();
    bench.timeout = Duration::from_secs(4);
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert_eq!((bench.count(&partition).await, bench.count(PURGES).await), (7, 1));
    reader.batch_execute("COMMIT").await.unwrap();
    bench.timeout = Duration::from_secs(60);
    let report = bench.run(Job::Retention).await.unwrap();
    let dropped = report.detail["steward.audit_logs"]["partitions"].as_array().unwrap();
    assert!(dropped.contains(&partition.as_str().into()), "{}", report.detail);
}

/// A run that dies with its certificate written and a deletion not yet committed.
#[tokio::test]
async fn a_run_that_is_cut_off_leaves_a_certificate_and_rows() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 7, &["u1"]).await;
    let other = bench.database.client().await;
    other.batch_execute(&format!("BEGIN; SELECT FROM {EVENTS} FOR UPDATE")).await.unwrap();
    tokio::select! {
        outcome = bench.run(Job::Retention) => panic!("it cannot end before the lock: {outcome:?}"),
        () = bench.job_waits_for_lock() => {}
    }
    other.batch_execute("COMMIT").await.unwrap();
    let job = "pg_stat_activity WHERE datname = current_database() AND application_name = 'pgsteward/job'";
    wait_until("the cut off run's session is gone", BOUND, async || bench.count(job).await == 0)
        .await;
    assert_eq!((bench.count(EVENTS).await, bench.count(PURGES).await), (7, 1));
}

#[tokio::test]
async fn nothing_is_certified_where_every_row_is_on_hold() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 3, &["held"]).await;
    place(&bench, &of_user("held")).await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!((bench.count(EVENTS).await, bench.count(PURGES).await), (3, 0));
    let detail = &report.detail["steward.audit_logs"];
    assert!(detail["notes"][0].as_str().unwrap().contains("stay: 3"), "{detail}");
}

#[tokio::test]
async fn sealing_goes_on_after_a_purge_that_came_first() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 3, &["u1"]).await;
    bench.run(Job::Retention).await.unwrap();
    let newest = seal(&bench).await;
    assert!(newest > 1);
    let linked = "steward.audit_seals s JOIN steward.audit_seals p ON s.previous = p.head
                  WHERE p.number = 1 AND p.kind = 'purge' AND s.number = 2 AND s.kind = 'rows' AND s.xid_from = '0'";
    assert_eq!(bench.count(linked).await, 1);
    log(&bench, "2001-01-01Z", 3, &["u1"]).await;
    bench.run(Job::Retention).await.unwrap();
    seal(&bench).await;
    let found = verified(&bench).await;
    assert!(found.entries > newest.unsigned_abs() && found.unsealed == 0, "{found:?}");
}

#[tokio::test]
async fn leaves_are_forgotten_when_no_row_of_their_seal_is_left() {
    let bench = Bench::new().await;
    seal(&bench).await;
    log(&bench, "2001-01-01Z", 5, &["u1"]).await;
    let all_past = seal(&bench).await;
    log(&bench, "2001-01-01Z", 5, &["u1", "held"]).await;
    let held = seal(&bench).await;
    bench
        .sql(
            "INSERT INTO steward.audit_logs (created_at, action, source)
             VALUES ('2001-01-01Z', 'test', 'application'), (clock_timestamp(), 'test', 'application')",
        )
        .await;
    let half_past = seal(&bench).await;
    let hold = place(&bench, &of_user("held")).await;
    let before = with_leaves(&bench).await;
    assert!([all_past, held, half_past].iter().all(|seal| before.contains(seal)), "{before:?}");

    bench.run(Job::Retention).await.unwrap();
    let after = with_leaves(&bench).await;
    let wanted: Vec<i64> = before.iter().copied().filter(|seal| *seal != all_past).collect();
    assert_eq!(
        after, wanted,
        "of {all_past} no row is left, of {held} some are on hold, of {half_past} one is young"
    );
    let found = verified(&bench).await;
    assert_eq!(found.purged, 5 + 5 + 1, "{found:?}");

    release(&bench, hold).await;
    bench.run(Job::Retention).await.unwrap();
    let after = with_leaves(&bench).await;
    assert!(!after.contains(&held) && after.contains(&half_past), "{after:?}");
    let roots = format!(
        "steward.audit_seals WHERE number IN ({all_past}, {held}, {half_past}) AND root IS NOT NULL"
    );
    assert_eq!(bench.count(&roots).await, 3, "roots stay");
    assert_eq!(verified(&bench).await.purged, 5 + 10 + 1);
}

#[tokio::test]
async fn an_altered_newest_entry_refuses_the_purge() {
    let mut bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 1, &["u1"]).await;
    bench.run(Job::Retention).await.unwrap();
    bench.sql("UPDATE steward.audit_seals SET row_count = row_count + 1").await;
    bench
        .sql("CREATE TABLE public.zz (ts timestamptz); INSERT INTO public.zz VALUES ('2001-01-01')")
        .await;
    bench.keep("public.zz", "ts", DAY);
    log(&bench, "2001-01-01Z", 4, &["u1"]).await;
    let error = bench.run(Job::Retention).await.unwrap_err().to_string();
    assert!(error.starts_with("1 failed: steward.audit_logs (sql)"), "{error}");
    assert!(error.contains("entry 1 of steward.audit_seals was altered"), "{error}");
    assert_eq!((bench.count(EVENTS).await, bench.count(PURGES).await), (4, 1));
    assert_eq!(bench.count("public.zz").await, 0, "the table beside it was purged");
}

/// Both would take the same number.
#[tokio::test]
async fn a_sealer_and_a_purge_wait_for_each_other() {
    let bench = Bench::new().await;
    log(&bench, "2001-01-01Z", 1, &["u1"]).await;
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE steward.audit_seals IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    let waiting =
        "pg_stat_activity WHERE datname = current_database() AND application_name = 'pgsteward/job'
                   AND wait_event_type = 'Lock'";
    let (purge, seal, ()) =
        tokio::join!(bench.run(Job::Retention), bench.run(Job::AuditSeal), async {
            wait_until("both wait", BOUND, async || bench.count(waiting).await == 2).await;
            other.batch_execute("COMMIT").await.unwrap();
        });
    purge.unwrap();
    seal.unwrap();
    assert_eq!(bench.count(PURGES).await, 1);
    tokio::time::timeout(Duration::from_secs(30), verified(&bench)).await.unwrap();
}
