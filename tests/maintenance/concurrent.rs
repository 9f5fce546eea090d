//! Rows and tables that others change while retention works on them.

use pgsteward::db::Kind;

use crate::bench::{Bench, DAY, Job};
use crate::harness::{BOUND, wait_until};

/// `public.events` with more rows of one old instant than a slice takes, and one row of now.
async fn same_instant(bench: &mut Bench) {
    bench
        .sql(
            "CREATE TABLE public.events (ts timestamptz NOT NULL, n int);
             CREATE INDEX ON public.events (ts);
             INSERT INTO public.events SELECT '2001-01-01', n FROM generate_series(1, 2500) n;
             INSERT INTO public.events VALUES (now(), 0);
             ANALYZE public.events",
        )
        .await;
    bench.keep("public.events", "ts", 10 * DAY);
}

#[tokio::test]
async fn a_row_that_is_updated_while_a_slice_waits_for_it_is_kept() {
    for (update, kept) in [
        ("SET ts = now() WHERE n = 1", "0,1"),
        ("SET ts = now(), n = n + 5000 WHERE n BETWEEN 1 AND 3", "0,5001,5002,5003"),
    ] {
        let mut bench = Bench::new().await;
        same_instant(&mut bench).await;
        let application = bench.database.client().await;
        application.batch_execute(&format!("BEGIN; UPDATE public.events {update}")).await.unwrap();
        let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
            bench.job_waits_for_lock().await;
            application.batch_execute("COMMIT").await.unwrap();
        });
        let left = "SELECT string_agg(n::text, ',' ORDER BY n) FROM public.events";
        assert_eq!(bench.admin.text(left).await, kept, "{update}");
        let updated = i64::try_from(kept.matches(',').count()).unwrap();
        assert_eq!(report.unwrap().rows, 2_500 - updated, "{update}");
    }
}

/// An index scan would compare each row of the instant with the whole array of `ctid`s.
#[tokio::test]
async fn the_conditions_of_a_delete_by_ctid_leave_its_plan_a_tid_scan() {
    let mut bench = Bench::new().await;
    same_instant(&mut bench).await;
    for due in ["t.ts = '2001-01-01'", "t.ts >= '-infinity' AND t.ts < '2001-01-02'"] {
        let plan = bench
            .admin
            .query(
                &format!(
                    "EXPLAIN DELETE FROM ONLY public.events AS t WHERE t.ctid = ANY (ARRAY(
                         SELECT t.ctid FROM ONLY public.events AS t WHERE {due} LIMIT 1000))
                        AND ({due}) IS TRUE"
                ),
                &[],
            )
            .await
            .unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        assert!(plan.iter().any(|line| line.contains("->  Tid Scan on events t ")), "{plan:#?}");
    }
}

/// Runs retention while another transaction holds `lock`, and makes `change` in that transaction
/// when the first slice waits for it. Returns the error, and how many rows of `counted` the run
/// deleted.
async fn change_under_lock(
    bench: &mut Bench,
    lock: &str,
    change: &str,
    counted: &str,
) -> (String, i64) {
    // By default, a snapshot from before the lock would show the catalog as it was.
    let name = bench.database_name().await;
    let isolation = "default_transaction_isolation = 'repeatable read'";
    bench.sql(&format!("ALTER DATABASE {name} SET {isolation}")).await;
    let other = bench.database.client().await;
    other.batch_execute(&format!("BEGIN; {lock}")).await.unwrap();
    let (outcome, before) = tokio::join!(bench.run(Job::Retention), async {
        bench.job_waits_for_lock().await;
        other.batch_execute(change).await.unwrap();
        let before = format!("SELECT count(*) FROM {counted}");
        let before: i64 = other.query_one(&before, &[]).await.unwrap().get(0);
        other.batch_execute("COMMIT").await.unwrap();
        before
    });
    let error = outcome.expect_err(change);
    assert_eq!(error.kind(), Kind::Sql, "{error}");
    let detail = bench.last_detail(Job::Retention).await.to_string();
    assert!(detail.contains("changed during the run"), "{detail}");
    (error.to_string(), before - bench.count(counted).await)
}

/// `public.events` and `public.parts`, with so many old rows.
async fn tables(bench: &Bench, rows: i64) {
    bench
        .sql(&format!(
            "CREATE TABLE public.events (ts timestamptz NOT NULL, n int);
             CREATE INDEX ON public.events (ts);
             CREATE TABLE public.parts (ts timestamptz NOT NULL, n int) PARTITION BY RANGE (ts);
             CREATE INDEX ON public.parts (ts);
             CREATE TABLE public.parts_now PARTITION OF public.parts
                 FOR VALUES FROM ('2000-01-01') TO ('2120-01-01');
             INSERT INTO public.events
                 SELECT '2001-01-01'::timestamptz + n * interval '1 s', n
                   FROM generate_series(1, {rows}) n;
             INSERT INTO public.parts SELECT * FROM public.events"
        ))
        .await;
}

#[tokio::test]
async fn a_table_that_changes_before_a_slice_is_left_alone() {
    let mut bench = Bench::new().await;
    let owner = bench.database.role("other", "").await;
    let found_owner = format!("found {}", owner.name);
    let owned = format!("ALTER TABLE public.events OWNER TO {}", owner.name);
    let renewed = "CREATE TABLE public.events (ts timestamptz NOT NULL, n int);
                   INSERT INTO public.events
                       SELECT '2001-01-01', n FROM generate_series(1, 3000) n";
    let swapped = format!("ALTER TABLE public.events RENAME TO events_old; {renewed}");
    let replaced = format!("DROP TABLE public.events; {renewed}");
    // (statements, table that must keep its rows, expected in the error)
    let cases = [
        (swapped.as_str(), "public.events", "expected name public.events, found public.events_old"),
        (&replaced, "public.events", "expected a table of this OID, found none"),
        (
            "ALTER TABLE public.events RENAME TO gone",
            "public.gone",
            "expected a table of this name, found none",
        ),
        (
            "ALTER TABLE public.events ALTER ts TYPE timestamp",
            "public.events",
            "found ts timestamp without time zone (number 1)",
        ),
        (
            "ALTER TABLE public.events RENAME ts TO seen;
             ALTER TABLE public.events ADD ts timestamptz DEFAULT '2001-01-01'",
            "public.events",
            "found seen timestamp with time zone (number 1)",
        ),
        (
            "ALTER TABLE public.events DROP ts;
             ALTER TABLE public.events ADD ts timestamptz DEFAULT '2001-01-01'",
            "public.events",
            "expected column ts timestamp with time zone (number 1), found none",
        ),
        (&owned, "public.events", &found_owner),
    ];
    for (change, counted, expected) in cases {
        bench
            .sql("DROP TABLE IF EXISTS public.events, public.events_old, public.gone, public.parts")
            .await;
        tables(&bench, 100).await;
        bench.keep("public.events", "ts", 10 * DAY);
        let lock = "LOCK TABLE public.events IN SHARE MODE";
        let (error, deleted) = change_under_lock(&mut bench, lock, change, counted).await;
        assert!(error.contains(expected), "{change}: {error}");
        assert_eq!(deleted, 0, "{change}");
    }
}

#[tokio::test]
async fn a_table_that_is_exchanged_between_slices_is_left_alone() {
    let mut bench = Bench::new().await;
    tables(&bench, 20_000).await;
    bench.keep("public.events", "ts", 10 * DAY);
    bench.config.retention.duty = 0.01;
    let (outcome, ()) = tokio::join!(bench.run(Job::Retention), async {
        wait_until("a slice is gone", BOUND, async || bench.count("public.events").await < 20_000)
            .await;
        bench
            .sql(
                "CREATE TABLE public.events_new AS SELECT * FROM public.events;
                 BEGIN; ALTER TABLE public.events RENAME TO events_old;
                 ALTER TABLE public.events_new RENAME TO events; COMMIT",
            )
            .await;
    });
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("expected name public.events, found public.events_old"), "{error}");
    assert!(bench.count("public.events").await >= bench.count("public.events_old").await);
    assert!(bench.count("public.events_old").await > 0);
}

#[tokio::test]
async fn a_leaf_or_parent_that_changes_before_a_slice_is_left_alone() {
    let mut bench = Bench::new().await;
    let owner = bench.database.role("other", "").await;
    let found_owner = format!("found {}", owner.name);
    let owned = format!("ALTER TABLE public.parts_now OWNER TO {}", owner.name);
    let cases = [
        (
            "ALTER TABLE public.parts DETACH PARTITION public.parts_now",
            "public.parts_now",
            "expected it beneath public.parts, found it detached",
        ),
        (
            "ALTER TABLE public.parts DETACH PARTITION public.parts_now;
             ALTER TABLE public.parts_now RENAME TO parts_old;
             CREATE TABLE public.parts_now PARTITION OF public.parts DEFAULT;
             INSERT INTO public.parts SELECT '2001-01-01', n FROM generate_series(1, 3000) n",
            "public.parts_now",
            "expected name public.parts_now, found public.parts_old",
        ),
        (
            "ALTER TABLE public.parts RENAME TO parts_old;
             ALTER TABLE public.events RENAME TO parts",
            "public.parts_now",
            "expected name public.parts, found public.parts_old",
        ),
        (
            "ALTER TABLE public.parts RENAME ts TO seen",
            "public.parts_now",
            "found seen timestamp with time zone (number 1)",
        ),
        (&owned, "public.parts_now", &found_owner),
    ];
    for (change, counted, expected) in cases {
        bench
            .sql(
                "DROP TABLE IF EXISTS public.events, public.parts, public.parts_old,
                                      public.parts_now",
            )
            .await;
        tables(&bench, 100).await;
        bench.keep("public.parts", "ts", 10 * DAY);
        let lock = "LOCK TABLE ONLY public.parts IN ACCESS EXCLUSIVE MODE";
        let (error, deleted) = change_under_lock(&mut bench, lock, change, counted).await;
        assert!(error.contains(expected), "{change}: {error}");
        assert_eq!(deleted, 0, "{change}");
    }
}

/// An administrator changes a past partition, or its parent, while the job waits for the lock.
#[tokio::test]
async fn a_partition_that_changes_before_its_detach_is_not_dropped() {
    let mut bench = Bench::new().await;
    let owner = bench.database.role("other", "").await;
    let found_owner = format!("found {}", owner.name);
    let owned = format!("ALTER TABLE public.past OWNER TO {}", owner.name);
    let renamed = "ALTER TABLE public.past RENAME TO kept";
    let swapped = "ALTER TABLE public.past RENAME TO kept;
                   CREATE TABLE public.past PARTITION OF public.split
                       FOR VALUES FROM ('2002-01-01') TO ('2003-01-01');
                   INSERT INTO public.split VALUES ('2002-06-01')";
    let parent = "ALTER TABLE public.split RENAME TO split_old;
                  CREATE TABLE public.split (ts timestamptz NOT NULL) PARTITION BY RANGE (ts)";
    // (statements, expected in the error)
    let cases = [
        (owned.as_str(), found_owner.as_str()),
        (renamed, "changed during the run: expected"),
        (swapped, "expected name public.past, found public.kept"),
        (parent, "expected name public.split, found public.split_old"),
    ];
    for with_default in [false, true] {
        for (change, expected) in cases {
            bench
                .sql(
                    "DELETE FROM steward.retirements;
                     DROP TABLE IF EXISTS public.split, public.split_old, public.past, public.kept;
                     CREATE TABLE public.split (ts timestamptz NOT NULL) PARTITION BY RANGE (ts);
                     CREATE TABLE public.past PARTITION OF public.split
                         FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
                     INSERT INTO public.split VALUES ('2001-06-01')",
                )
                .await;
            if with_default {
                bench.sql("CREATE TABLE public.rest PARTITION OF public.split DEFAULT").await;
            }
            bench.keep("public.split", "ts", 10 * DAY);
            let other = bench.database.client().await;
            let hold = "BEGIN; LOCK TABLE ONLY public.split IN SHARE UPDATE EXCLUSIVE MODE";
            other.batch_execute(hold).await.unwrap();
            let (outcome, ()) = tokio::join!(bench.run(Job::Retention), async {
                bench.job_waits_for_lock().await;
                other.batch_execute(&format!("{change}; COMMIT")).await.unwrap();
            });
            let error = outcome.expect_err(change).to_string();
            assert!(error.contains(expected), "{with_default}, {change}: {error}");
            let kept =
                "pg_class WHERE oid IN (to_regclass('public.past'), to_regclass('public.kept'))";
            let tables = if change == swapped { 2 } else { 1 };
            assert_eq!(bench.count(kept).await, tables, "{with_default}, {change}");
            // One that was detached before its owner was seen to change is dropped by a later run.
            let stale = "steward.retirements WHERE NOT detached";
            assert_eq!(bench.count(stale).await, 0, "{with_default}, {change}");
        }
    }
}
