//! Partitions past their time, detached and dropped.

use pgsteward::config::Pooler;
use pgsteward::db::Kind;

use crate::bench::{Bench, DAY, Job};
use crate::harness::{BOUND, wait_until};
use crate::partitions::pend_detach;

/// `public.parts`: three months of 2001, and the decade of now, a row in each.
async fn parts(bench: &mut Bench, with_default: bool) {
    bench
        .sql(
            "CREATE TABLE public.parts (ts timestamptz NOT NULL, n int) PARTITION BY RANGE (ts);
             CREATE INDEX ON public.parts (ts);
             CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
             CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM ('2001-02-01') TO ('2001-03-01');
             CREATE TABLE public.parts_now PARTITION OF public.parts FOR VALUES FROM ('2020-01-01') TO ('2120-01-01');
             INSERT INTO public.parts VALUES ('2001-01-15', 1), ('2001-02-15', 2), ('2020-06-01', 3), (now(), 4)",
        )
        .await;
    if with_default {
        bench
            .sql(
                "CREATE TABLE public.parts_default PARTITION OF public.parts DEFAULT;
                 INSERT INTO public.parts VALUES ('2001-03-15', 5), ('2200-01-01', 6)",
            )
            .await;
    }
    bench.keep("public.parts", "ts", 30 * DAY);
}

const LEFT: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM public.parts";

#[tokio::test]
async fn past_partitions_are_dropped_and_the_rest_is_sliced() {
    for with_default in [false, true] {
        let mut bench = Bench::new().await;
        parts(&mut bench, with_default).await;
        let report = bench.run(Job::Retention).await.unwrap();
        let detail = &report.detail["public.parts"];
        assert_eq!(
            detail["partitions"],
            serde_json::json!(["public.parts_1", "public.parts_2"]),
            "{detail}"
        );
        assert_eq!(detail["strategy"], serde_json::json!(["partitions", "slices"]), "{detail}");
        let (left, rows) = if with_default { ("4,6", 2) } else { ("4", 1) };
        assert_eq!(bench.admin.text(LEFT).await, left);
        assert_eq!(
            detail["rows"], rows,
            "the row across the cutoff, and that of the default partition: {detail}"
        );
        assert_eq!(bench.count("pg_class WHERE relname IN ('parts_1', 'parts_2')").await, 0);
        assert_eq!(
            bench
                .metrics
                .retention_partitions_dropped_total
                .with_label_values(&["main", "public.parts"])
                .get(),
            2
        );
        let record = "SELECT string_agg(details ->> 'partition', ',' ORDER BY created_at) FROM steward.audit_logs
                       WHERE action = 'retention.dropped'";
        assert_eq!(bench.admin.text(record).await, "public.parts_1,public.parts_2");
    }
}

#[tokio::test]
async fn behind_a_transaction_pooler_both_steps_are_one_transaction() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    bench.pooler = Pooler::Transaction;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(
        report.detail["public.parts"]["partitions"].as_array().unwrap().len(),
        2,
        "{}",
        report.detail
    );
    assert_eq!(bench.admin.text(LEFT).await, "4");
}

#[tokio::test]
async fn a_lock_on_the_partition_is_tried_again() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    // What autovacuum holds: the first of the two transactions cannot begin.
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; LOCK TABLE public.parts_1 IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        bench.job_waits_for_lock().await;
        other.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(report.unwrap().detail["public.parts"]["partitions"].as_array().unwrap().len(), 2);
}

/// Detaches `parts_1` and leaves the journal as a run that was cut off does.
async fn detached(bench: &Bench, confirmed: bool) {
    bench
        .sql(&format!(
            "ALTER TABLE public.parts DETACH PARTITION public.parts_1;
             INSERT INTO steward.retirements
                    (partition, partition_name, parent, parent_name, upper_bound, detached, run_id)
             VALUES ('public.parts_1'::regclass, '\"public\".\"parts_1\"', 'public.parts'::regclass,
                     '\"public\".\"parts\"', '2001-02-01 00:00:00+00', {confirmed}, gen_random_uuid())"
        ))
        .await;
}

const JOURNAL: &str = "steward.retirements";
const FIRST: &str = "pg_class WHERE relname = 'parts_1'";

#[tokio::test]
async fn a_detached_partition_whose_rows_are_to_be_kept_now_is_not_dropped() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    detached(&bench, true).await;
    bench.keep("public.parts", "ts", 100 * 365 * DAY);
    let report = bench.run(Job::Retention).await.unwrap();
    let note = report.detail["public.parts"]["notes"][0].as_str().unwrap_or_default();
    assert!(note.starts_with("public.parts_1 was detached to be dropped"), "{}", report.detail);
    assert_eq!(bench.count("public.parts_1").await, 1);
    bench.keep("public.parts", "ts", 30 * DAY);
    bench.run(Job::Retention).await.unwrap();
    assert_eq!((bench.count(FIRST).await, bench.count(JOURNAL).await), (0, 0));
}

#[tokio::test]
async fn what_may_not_be_ours_is_told_and_never_dropped() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    detached(&bench, false).await;
    for _ in 0..2 {
        let report = bench.run(Job::Retention).await.unwrap();
        let [warning] = &report.warnings[..] else { panic!("{report:?}") };
        assert!(
            warning.starts_with("public.parts: public.parts_1 was to be detached and dropped"),
            "{warning}"
        );
        assert_eq!(bench.count("public.parts_1").await, 1);
    }
    // One of the ways out that it names.
    bench.sql("ALTER TABLE public.parts_1 RENAME TO parts_kept").await;
    assert_eq!(bench.run(Job::Retention).await.unwrap().warnings, Vec::<String>::new());
    assert_eq!((bench.count("public.parts_kept").await, bench.count(JOURNAL).await), (1, 0));
}

#[tokio::test]
async fn a_confirmed_table_that_was_renamed_replaced_or_attached_again_is_left_alone() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    detached(&bench, true).await;
    bench
        .sql("ALTER TABLE public.parts_1 RENAME TO parts_kept; CREATE TABLE public.parts_1 AS SELECT 1 AS other")
        .await;
    bench.run(Job::Retention).await.unwrap();
    assert_eq!(
        (bench.count("public.parts_kept").await, bench.count("public.parts_1").await),
        (1, 1)
    );
    assert_eq!(bench.count(JOURNAL).await, 0);

    // Attached again, with the same bounds: past, so it goes the whole way once more, announced anew.
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    detached(&bench, true).await;
    bench
        .sql(
            "ALTER TABLE public.parts ATTACH PARTITION public.parts_1 FOR VALUES FROM ('2001-01-01') TO ('2001-02-01')",
        )
        .await;
    bench.keep("public.parts", "ts", 100 * 365 * DAY);
    bench.run(Job::Retention).await.unwrap();
    assert_eq!(
        bench.count(JOURNAL).await,
        0,
        "or it would be dropped after an operator's next detach"
    );
    assert_eq!(bench.admin.text(LEFT).await, "1,2,3,4");
}

/// An operator takes a partition off, to keep it, while the job stands in the parent's queue.
#[tokio::test]
async fn a_partition_that_an_operator_takes_off_meanwhile_is_his() {
    for with_default in [false, true] {
        let mut bench = Bench::new().await;
        parts(&mut bench, with_default).await;
        bench.sql("COMMENT ON TABLE public.parts_1 IS 'the auditors want this one'").await;
        let operator = bench.database.client().await;
        operator
            .batch_execute("BEGIN; LOCK TABLE ONLY public.parts IN SHARE UPDATE EXCLUSIVE MODE")
            .await
            .unwrap();
        let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
            bench.job_waits_for_lock().await;
            operator
                .batch_execute("ALTER TABLE public.parts DETACH PARTITION public.parts_1; COMMIT")
                .await
                .unwrap();
        });
        let report = report.unwrap();
        let detail = &report.detail["public.parts"];
        assert_eq!(detail["partitions"], serde_json::json!(["public.parts_2"]), "{detail}");
        assert!(
            detail["notes"][0].as_str().unwrap().starts_with("public.parts_1 was detached"),
            "{detail}"
        );
        assert_eq!(bench.count(JOURNAL).await, 0);

        let again = bench.run(Job::Retention).await.unwrap();
        assert_eq!(
            bench.count("public.parts_1").await,
            1,
            "a later run takes it for nobody's: {}",
            again.detail
        );
        let comment = "SELECT obj_description('public.parts_1'::regclass)";
        assert_eq!(bench.admin.text(comment).await, "the auditors want this one");
    }
}

#[tokio::test]
async fn a_lock_that_stays_leaves_no_trap_behind() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    bench.timeout = std::time::Duration::from_secs(5);
    let operator = bench.database.client().await;
    operator
        .batch_execute("BEGIN; LOCK TABLE ONLY public.parts IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert_eq!(bench.count(JOURNAL).await, 0, "nothing was begun, so nothing is announced");
    operator
        .batch_execute("ALTER TABLE public.parts DETACH PARTITION public.parts_1; COMMIT")
        .await
        .unwrap();

    bench.run(Job::Retention).await.unwrap();
    assert_eq!(bench.count("public.parts_1").await, 1);
}

#[tokio::test]
async fn our_own_daily_partitions_are_retired() {
    let bench = Bench::new().await;
    bench.sql("SELECT steward.ensure_partitions('steward.system_health', 'day', 14, 50)").await;
    let report = bench.run(Job::Retention).await.unwrap();
    let dropped = report.detail["steward.system_health"]["partitions"].as_array().unwrap().len();
    // Of 50 days behind, those that ended 45 days ago or more.
    assert_eq!(dropped, 5, "{}", report.detail);
    assert_eq!(
        bench.count("pg_inherits WHERE inhparent = 'steward.system_health'::regclass").await,
        14 + 1 + 45
    );
}

#[tokio::test]
async fn a_reader_delays_the_detach_and_is_not_delayed() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    let reader = bench.database.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM public.parts").await.unwrap();
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        wait_until("the detach is pending", BOUND, async || {
            bench.count("pg_inherits WHERE inhdetachpending").await == 1
        })
        .await;
        // Others read and write the table meanwhile.
        bench.sql("SET lock_timeout = '200ms'; SELECT count(*) FROM public.parts; INSERT INTO public.parts VALUES (now(), 7)").await;
        reader.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(report.unwrap().detail["public.parts"]["partitions"].as_array().unwrap().len(), 2);
    assert_eq!(bench.admin.text(LEFT).await, "4,7");
}

#[tokio::test]
async fn beside_a_default_partition_a_reader_makes_it_try_again() {
    let mut bench = Bench::new().await;
    parts(&mut bench, true).await;
    let reader = bench.database.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM public.parts").await.unwrap();
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        bench.job_waits_for_lock().await;
        bench.sql("SET lock_timeout = '200ms'; SELECT count(*) FROM public.parts").await;
        reader.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(report.unwrap().detail["public.parts"]["partitions"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_reader_that_stays_fails_the_table_alone_and_a_later_run_finishes() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    bench
        .sql("CREATE TABLE public.zz (ts timestamptz); INSERT INTO public.zz VALUES ('2001-01-01')")
        .await;
    bench.keep("public.zz", "ts", DAY);
    let reader = bench.database.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM public.parts").await.unwrap();
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert!(error.to_string().starts_with("1 failed: public.parts (lock_timeout)"), "{error}");
    assert_eq!(bench.count("public.zz").await, 0);
    assert_eq!(bench.count("pg_inherits WHERE inhdetachpending").await, 1);
    reader.batch_execute("COMMIT").await.unwrap();

    let report = bench.run(Job::Retention).await.unwrap();
    let detail = &report.detail["public.parts"];
    assert_eq!(detail["partitions"].as_array().unwrap().len(), 2, "{detail}");
    assert!(
        detail["notes"][0].as_str().unwrap().contains("interrupted detach of public.parts_1"),
        "{detail}"
    );
    assert_eq!(bench.count("pg_class WHERE relname IN ('parts_1', 'parts_2')").await, 0);
}

#[tokio::test]
async fn a_run_cut_off_between_detach_and_drop_is_resumed() {
    for finished_by_hand in [false, true] {
        let mut bench = Bench::new().await;
        parts(&mut bench, false).await;
        let reader = bench.database.client().await;
        reader.batch_execute("BEGIN; SELECT count(*) FROM public.parts").await.unwrap();
        // Dropping the run's future leaves everything where it is, as a crash does.
        tokio::select! {
            outcome = bench.run(Job::Retention) => panic!("it cannot end before the reader: {outcome:?}"),
            () = wait_until("the detach is known to be ours", BOUND, async || {
                bench.count("steward.retirements WHERE detached").await == 1
            }) => {}
        }
        let job = "pg_stat_activity WHERE datname = current_database() AND application_name = 'pgsteward/job'";
        wait_until("the cut off run's session is gone", BOUND, async || {
            bench.count(job).await == 0
        })
        .await;
        assert_eq!(bench.count("pg_inherits WHERE inhdetachpending").await, 1);
        reader.batch_execute("COMMIT").await.unwrap();
        bench.sql("DELETE FROM steward.job_runs").await;
        if finished_by_hand {
            bench.sql("ALTER TABLE public.parts DETACH PARTITION public.parts_1 FINALIZE").await;
        }
        let report = bench.run(Job::Retention).await.unwrap();
        let both = serde_json::json!(["public.parts_1", "public.parts_2"]);
        assert_eq!(report.detail["public.parts"]["partitions"], both, "{}", report.detail);
        assert_eq!((bench.count(FIRST).await, bench.count(JOURNAL).await), (0, 0));
    }
}

#[tokio::test]
async fn what_somebody_else_detached_is_not_dropped() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    let partition = pend_detach(&bench, "public.parts").await;
    assert_eq!(partition, "parts_1");
    bench.run(Job::Retention).await.unwrap();
    assert_eq!(
        bench.count("public.parts_1").await,
        1,
        "its detach was finished; the table is its owner's"
    );
}

#[tokio::test]
async fn partitions_of_another_owner_are_emptied_and_kept() {
    let mut bench = Bench::new().await;
    parts(&mut bench, false).await;
    let owner = bench.database.role("owner", "").await;
    let steward = bench.as_steward().await;
    bench
        .sql(&format!(
            "ALTER TABLE public.parts OWNER TO {0}; ALTER TABLE public.parts_1 OWNER TO {0};
             ALTER TABLE public.parts_2 OWNER TO {0}; ALTER TABLE public.parts_now OWNER TO {0};
             GRANT SELECT, DELETE ON public.parts, public.parts_1, public.parts_2, public.parts_now TO {1}",
            owner.name, steward.name
        ))
        .await;
    let report = bench.run(Job::Retention).await.unwrap();
    let detail = &report.detail["public.parts"];
    assert_eq!(detail["rows"], 3, "{detail}");
    assert!(
        detail["notes"][0]
            .as_str()
            .unwrap()
            .contains("public.parts_1 is wholly past but not owned"),
        "{detail}"
    );
    assert_eq!(bench.count("pg_class WHERE relname IN ('parts_1', 'parts_2')").await, 2);
}
