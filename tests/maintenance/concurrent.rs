//! Rows and tables that others change while retention works on them.

use crate::bench::{Bench, DAY, Job};

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
