//! Rows that commit late are sealed late, and none is missed.

use pgsteward::audit::seal::SEAL_ROWS;

use crate::fixture::AuditFixture;
use crate::harness::connect;

#[tokio::test]
async fn a_transaction_that_wrote_before_the_seal_and_commits_after_it_is_sealed_later() {
    let fixture = AuditFixture::with(&[("max_prepared_transactions", "2")]).await;
    fixture.log(1, 3).await;
    let late = connect(&fixture.server.url()).await.unwrap();
    late.batch_execute("BEGIN; SELECT steward.log_audit_event('late', user_id => 'late')")
        .await
        .unwrap();
    fixture.log(4, 6).await;
    let sealed = fixture.seal().await;
    assert_eq!(sealed[0].row_count, 3, "up to the open transaction");
    assert_eq!(fixture.seal().await, [], "nothing more for as long as it is open");
    // A reader does not delay sealing.
    late.batch_execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    let sealed = fixture.seal().await;
    assert_eq!(sealed[0].row_count, 4);

    late.batch_execute(
        "COMMIT; BEGIN; SELECT steward.log_audit_event('late', user_id => 'later'); PREPARE TRANSACTION 'p'",
    )
    .await
    .unwrap();
    fixture.log(7, 8).await;
    assert_eq!(fixture.seal().await, []);
    late.batch_execute("COMMIT PREPARED 'p'").await.unwrap();
    // Rolled back: nothing is missing.
    late.batch_execute("BEGIN; SELECT steward.log_audit_event('never'); ROLLBACK").await.unwrap();
    fixture.log(9, 9).await;
    let sealed = fixture.seal().await;
    assert_eq!(sealed[0].row_count, 4);
    let found = fixture.verify().await;
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.rows, found.unsealed), (11, 0));
}

#[tokio::test]
async fn rows_of_concurrent_writers_are_sealed_once_each() {
    let fixture = AuditFixture::new().await;
    let url = fixture.server.url();
    let mut writers = Vec::new();
    for writer in 0..6_u32 {
        let client = connect(&url).await.unwrap();
        writers.push(tokio::spawn(async move {
            for round in 0..40_u32 {
                let rows = 1 + (writer * 7 + round) % 5;
                let end = if (writer + round) % 4 == 0 { "ROLLBACK" } else { "COMMIT" };
                // Some transactions stay open for a while and use savepoints.
                let sql = format!(
                    "BEGIN; SELECT steward.log_audit_event('w', user_id => 'w{writer}'); SAVEPOINT s;
                     SELECT steward.log_audit_event('w') FROM generate_series(1, {rows}); SELECT pg_sleep({});
                     RELEASE s; {end}",
                    f64::from((writer * 13 + round * 5) % 7) / 500.0
                );
                client.batch_execute(&sql).await.unwrap();
            }
        }));
    }
    let mut entries = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        entries += fixture.seal().await.len();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    entries += fixture.seal().await.len();
    let rows = fixture.admin.number("SELECT count(*) FROM steward.audit_logs").await;
    let sealed = fixture
        .admin
        .number("SELECT count(DISTINCT id) FROM steward.audit_seals s CROSS JOIN LATERAL steward.audit_sealed_ids(s.number) i (id)")
        .await;
    let total = fixture.admin.number("SELECT sum(row_count) FROM steward.audit_seals").await;
    assert_eq!((sealed, total), (rows, rows), "each once");
    assert!(entries > 5, "sealed while they wrote: {entries}");
    let found = fixture.verify().await;
    assert!(found.is_sound() && found.rows as i64 == rows, "{found:?}");
}

#[tokio::test]
async fn two_sealers_at_once_make_one_chain() {
    let fixture = AuditFixture::new().await;
    fixture.log(1, 5).await;
    let (one, two) = tokio::join!(fixture.seal_one(), fixture.seal_one());
    let made = [&one, &two]
        .into_iter()
        .filter(|appended| appended.as_ref().is_ok_and(|appended| appended.seal.is_some()))
        .count();
    assert_eq!(made, 1, "{one:?} {two:?}");
    assert!(fixture.verify().await.is_sound());
}

#[tokio::test]
async fn a_transaction_with_more_rows_than_a_seal_holds_is_sealed_in_parts() {
    let fixture = AuditFixture::new().await;
    let rows = 2 * SEAL_ROWS + 100;
    fixture
        .sql(&format!(
            "CREATE TABLE t (id int PRIMARY KEY, v text); SELECT steward.audit_table('t');
             INSERT INTO t SELECT n, 'x' FROM generate_series(1, {rows}) n"
        ))
        .await;
    let sealed = fixture.seal().await;
    let counts: Vec<i64> = sealed.iter().map(|seal| seal.row_count).collect();
    assert_eq!(counts.iter().sum::<i64>(), rows as i64 + 1, "and the event of audit_table");
    assert_eq!(counts[..2], [SEAL_ROWS as i64; 2]);
    let found = fixture.verify().await;
    assert!(found.is_sound() && found.rows == rows as u64 + 1, "{found:?}");
}

#[tokio::test]
async fn rows_may_move_between_partitions() {
    let fixture = AuditFixture::new().await;
    // Without a partition of their own the rows go into the default partition.
    fixture
        .sql(
            "INSERT INTO steward.audit_logs (id, created_at, action, source)
              SELECT steward.uuid_v7('2031-05-05'), '2031-05-05', 'ahead', 'application' FROM generate_series(1, 20)",
        )
        .await;
    fixture.seal().await;
    fixture
        .sql(
            "BEGIN; CREATE TABLE moved AS SELECT * FROM steward.audit_logs_default; DELETE FROM steward.audit_logs_default;
             CREATE TABLE steward.of_may PARTITION OF steward.audit_logs FOR VALUES FROM ('2031-05-01') TO ('2031-06-01');
             INSERT INTO steward.audit_logs SELECT * FROM moved; COMMIT",
        )
        .await;
    let found = fixture.verify().await;
    assert!(found.is_sound() && found.rows == 20, "{found:?}");
}
