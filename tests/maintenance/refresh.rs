//! Materialized views.

use pgsteward::config::Mode;
use pgsteward::db::Kind;
use pgsteward::sets::BUNDLED;

use crate::bench::{Bench, Job};
use crate::harness::{BOUND, wait_until};

/// `public.base` and over it `public.sums`, with its unique index.
async fn sums(bench: &mut Bench) {
    bench
        .sql(
            "CREATE TABLE public.base (k int, v int); INSERT INTO public.base VALUES (1, 10), (2, 20);
             CREATE MATERIALIZED VIEW public.sums AS SELECT k, sum(v) AS v FROM public.base GROUP BY k;
             CREATE UNIQUE INDEX ON public.sums (k)",
        )
        .await;
    settle(bench, 2).await;
    bench.config.refresh.views = vec!["public.sums".to_owned()];
}

/// Waits until the statistics know of this many inserts, so that a later change of them is ours.
async fn settle(bench: &Bench, inserted: i64) {
    let sql = "SELECT pg_stat_get_tuples_inserted('public.base'::regclass)";
    wait_until("the statistics know", BOUND, async || bench.admin.number(sql).await == inserted)
        .await;
}

const ACTS: &str = "SELECT count(*) FROM steward.audit_logs
    WHERE action = 'maintenance.refresh' AND actor = 'job:refresh' AND resource_type = 'database'
      AND details -> 'views' = '{\"public.sums\": \"concurrently\"}' AND details ? 'run_id'";
const TOTAL: &str = "SELECT coalesce(sum(v), 0) FROM public.sums";

#[tokio::test]
async fn a_view_is_refreshed_when_what_lies_beneath_has_changed() {
    let mut bench = Bench::new().await;
    sums(&mut bench).await;
    let first = bench.run(Job::Refresh).await.unwrap();
    assert_eq!(first.detail["public.sums"]["how"], "concurrently", "{}", first.detail);
    for _ in 0..2 {
        let again = bench.run(Job::Refresh).await.unwrap();
        assert_eq!(again.detail["public.sums"]["unchanged"], true, "{}", again.detail);
        assert_eq!(
            again.detail["public.sums"]["refreshed_at"],
            first.detail["public.sums"]["refreshed_at"]
        );
    }
    assert_eq!(bench.admin.number(ACTS).await, 1, "one row of the run that did something");

    bench.sql("INSERT INTO public.base VALUES (3, 30)").await;
    settle(&bench, 3).await;
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1);
    assert_eq!(bench.admin.number(TOTAL).await, 60);

    // Moves no counter.
    bench.sql("TRUNCATE public.base").await;
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1);
    assert_eq!(bench.admin.number(TOTAL).await, 0);

    bench.run(Job::Refresh).await.unwrap();
    bench.config.refresh.max_staleness = std::time::Duration::ZERO;
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1, "too long ago to believe counters");
}

#[tokio::test]
async fn a_partition_or_a_view_between_counts_as_beneath() {
    let mut bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.base (k int, v int) PARTITION BY RANGE (k);
             CREATE TABLE public.base_1 PARTITION OF public.base FOR VALUES FROM (0) TO (10);
             CREATE TABLE public.base_2 (k int, v int); INSERT INTO public.base_2 VALUES (11, 5);
             CREATE VIEW public.between AS SELECT * FROM public.base;
             CREATE MATERIALIZED VIEW public.sums AS SELECT k, sum(v) AS v FROM public.between GROUP BY k;
             CREATE UNIQUE INDEX ON public.sums (k)",
        )
        .await;
    bench.config.refresh.views = vec!["public.sums".to_owned()];
    bench.run(Job::Refresh).await.unwrap();
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 0);
    bench
        .sql("ALTER TABLE public.base ATTACH PARTITION public.base_2 FOR VALUES FROM (10) TO (20)")
        .await;
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1);
    assert_eq!(bench.admin.number(TOTAL).await, 5);
    bench
        .sql("CREATE OR REPLACE VIEW public.between AS SELECT k, v * 2 AS v FROM public.base")
        .await;
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1);
    assert_eq!(bench.admin.number(TOTAL).await, 10);
}

#[tokio::test]
async fn a_view_that_depends_on_more_than_its_tables_is_always_refreshed() {
    let mut bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.base (k int, t timestamptz);
             CREATE FUNCTION public.mine(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
             CREATE MATERIALIZED VIEW public.by_now AS SELECT k FROM public.base WHERE t < now();
             CREATE MATERIALIZED VIEW public.by_date AS SELECT k FROM public.base WHERE t < current_date;
             CREATE MATERIALIZED VIEW public.by_function AS SELECT public.mine(k) AS k FROM public.base;
             CREATE MATERIALIZED VIEW public.by_zone AS SELECT k, t::text FROM public.base;
             CREATE MATERIALIZED VIEW public.by_catalog AS SELECT oid::int AS k FROM pg_catalog.pg_class;
             CREATE MATERIALIZED VIEW public.by_sample AS SELECT k FROM public.base TABLESAMPLE system (10)",
        )
        .await;
    for view in ["by_now", "by_date", "by_function", "by_zone", "by_catalog", "by_sample"] {
        bench.sql(&format!("CREATE UNIQUE INDEX ON public.{view} (k)")).await;
        bench.config.refresh.views.push(format!("public.{view}"));
    }
    let report = bench.run(Job::Refresh).await.unwrap();
    assert_eq!(report.rows, 6);
    for view in ["by_now", "by_date", "by_function", "by_zone", "by_catalog", "by_sample"] {
        let why = &report.detail[format!("public.{view}")]["always_because"];
        assert!(why.is_string(), "{view}: {}", report.detail);
    }
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 6);
}

#[tokio::test]
async fn the_bundled_view_is_refreshed_where_the_set_is_applied() {
    let mut bench = Bench::new().await;
    assert!(bench.run(Job::Refresh).await.unwrap().skipped.is_some());
    bench.sets = BUNDLED.to_vec();
    let report = bench.run(Job::Refresh).await.unwrap();
    assert_eq!(report.rows, 1, "{}", report.detail);
    let again = bench.run(Job::Refresh).await.unwrap();
    let detail = &again.detail["public.user_statistics"];
    assert_eq!(
        detail["unchanged"], true,
        "its definition is a pure function of its tables: {detail}"
    );
    bench.config.mode = Mode::Observe;
    assert!(bench.run(Job::Refresh).await.unwrap().skipped.unwrap().contains("observe"));
}

#[tokio::test]
async fn what_would_lock_readers_out_is_refused_and_stops_no_other() {
    let mut bench = Bench::new().await;
    sums(&mut bench).await;
    bench
        .sql(
            "CREATE MATERIALIZED VIEW public.bare AS SELECT 1 AS k;
             CREATE MATERIALIZED VIEW public.partial AS SELECT 1 AS k;
             CREATE UNIQUE INDEX ON public.partial (k) WHERE k > 0;
             CREATE VIEW public.plain AS SELECT 1 AS k;
             CREATE MATERIALIZED VIEW public.fresh AS SELECT 1 AS k WITH NO DATA",
        )
        .await;
    let names = [
        "public.bare",
        "public.partial",
        "public.plain",
        "public.absent",
        "public.fresh",
        "public.sums",
    ];
    bench.config.refresh.views = names.map(str::to_owned).to_vec();
    let error = bench.run(Job::Refresh).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Sql, "{text}");
    for wanted in [
        "4 failed",
        "CREATE UNIQUE INDEX CONCURRENTLY ON \"public\".\"bare\"",
        "CREATE UNIQUE INDEX CONCURRENTLY ON \"public\".\"partial\"",
        "\"public\".\"plain\" is no materialized view",
        "there is no view public.absent",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert_eq!(
        bench.count("public.fresh").await,
        1,
        "not populated: nobody could read it, so a plain refresh"
    );
}

#[tokio::test]
async fn a_view_of_another_owner_is_skipped_with_the_grant() {
    let mut bench = Bench::new().await;
    sums(&mut bench).await;
    let owner = bench.database.role("owner", "").await;
    bench.sql(&format!("ALTER MATERIALIZED VIEW public.sums OWNER TO {}", owner.name)).await;
    let steward = bench.as_steward().await;
    let report = bench.run(Job::Refresh).await.unwrap();
    let grant = bench.maintain_grant("public.sums", &owner, &steward).await;
    let reason = report.skipped.as_deref().unwrap_or_default();
    assert!(reason.starts_with("not_permitted: ") && reason.contains(&grant), "{report:?}");
    assert!(
        report.detail["public.sums"]["skipped"].as_str().unwrap_or_default().contains(&grant),
        "{report:?}"
    );

    bench.sql("CREATE MATERIALIZED VIEW public.mine AS SELECT 1 AS k; CREATE UNIQUE INDEX ON public.mine (k)").await;
    bench.sql(&format!("ALTER MATERIALIZED VIEW public.mine OWNER TO {}", steward.name)).await;
    bench.config.refresh.views.push("public.mine".to_owned());
    let report = bench.run(Job::Refresh).await.unwrap();
    assert_eq!((report.rows, &report.skipped), (1, &None), "{report:?}");
    assert_eq!(report.warnings, [format!("public.sums: not permitted, needs {grant}")]);
}

#[tokio::test]
async fn readers_go_on_and_a_lock_is_waited_for_politely() {
    let mut bench = Bench::new().await;
    sums(&mut bench).await;
    let reader = bench.database.client().await;
    reader.batch_execute("BEGIN; SELECT * FROM public.sums").await.unwrap();
    assert_eq!(bench.run(Job::Refresh).await.unwrap().rows, 1, "a reader does not hold it up");
    reader
        .batch_execute("COMMIT; BEGIN; LOCK TABLE public.base IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    bench.config.refresh.max_staleness = std::time::Duration::ZERO;
    let (report, ()) = tokio::join!(bench.run(Job::Refresh), async {
        bench.job_waits_for_lock().await;
        reader.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(report.unwrap().rows, 1);
}
