//! VACUUM and ANALYZE by need.

use std::time::Duration;

use pgsteward::config::{Mode, Pooler};
use pgsteward::db::Kind;

use crate::bench::{Bench, Job};
use crate::harness::{BOUND, wait_until};

/// A table with dead rows that autovacuum leaves to us, once the statistics know.
async fn churned(bench: &Bench, table: &str, rows: i64) {
    bench
        .sql(&format!(
            "CREATE TABLE {table} (n int) WITH (autovacuum_enabled = off);
             INSERT INTO {table} SELECT generate_series(1, {rows}); UPDATE {table} SET n = n + 1"
        ))
        .await;
    known(bench, table, rows).await;
}

async fn known(bench: &Bench, table: &str, dead: i64) {
    let sql = format!("SELECT pg_stat_get_dead_tuples('{table}'::regclass)");
    wait_until("the statistics know the dead rows", BOUND, async || {
        bench.admin.number(&sql).await >= dead
    })
    .await;
}

#[tokio::test]
async fn dead_rows_go_and_statistics_come() {
    let bench = Bench::new().await;
    churned(&bench, "public.worn", 3_000).await;
    churned(&bench, "public.\"Odd \"\" name\"", 3_000).await;
    bench.sql("CREATE TABLE public.calm (n int)").await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    for table in ["public.worn", "public.Odd \" name"] {
        let detail = &report.detail[table];
        assert_eq!(
            (&detail["vacuum"], &detail["analyze"]),
            (&true.into(), &true.into()),
            "{}",
            report.detail
        );
        assert!(detail["dead_before"].as_i64().unwrap() >= 3_000, "{detail}");
        assert_eq!(detail["dead_after"], 0, "{detail}");
    }
    assert!(report.detail.get("public.calm").is_none(), "{}", report.detail);
    assert_eq!(bench.count("pg_stats WHERE tablename = 'worn'").await, 1);
    let told = "SELECT count(*) FROM steward.audit_logs WHERE action = 'maintenance.vacuum'";
    let whole = format!(
        "{told} AND source = 'pgsteward' AND actor = 'job:vacuum' AND resource_type = 'database'
            AND details -> 'tables' -> 'public.worn' = '[\"vacuum\", \"analyze\"]'
            AND details -> 'tables' ? 'public.Odd \" name' AND NOT details -> 'tables' ? 'public.calm'
            AND EXISTS (SELECT FROM steward.job_runs WHERE id = (details ->> 'run_id')::uuid)"
    );
    assert_eq!((bench.admin.number(told).await, bench.admin.number(&whole).await), (1, 1));
    // The rows of the first run may need something themselves by now.
    let again = bench.run(Job::Vacuum).await.unwrap();
    assert!(again.detail.get("public.worn").is_none(), "{}", again.detail);
    assert_eq!(bench.admin.number(told).await, 1 + i64::from(again.rows > 0));
}

#[tokio::test]
async fn who_holds_the_dead_rows_is_named() {
    let bench = Bench::new().await;
    let holder = bench.database.client().await;
    holder
        .batch_execute(
            "SET application_name = 'sleepy'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
        )
        .await
        .unwrap();
    churned(&bench, "public.worn", 3_000).await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    let held = report.detail["public.worn"]["held_by"].as_str().unwrap_or_default();
    assert!(held.contains("sleepy") && held.contains("idle in transaction"), "{}", report.detail);
}

#[tokio::test]
async fn a_table_of_another_owner_is_skipped_with_the_grant() {
    let mut bench = Bench::new().await;
    let owner = bench.database.role("owner", "").await;
    churned(&bench, "public.theirs", 3_000).await;
    bench.sql(&format!("ALTER TABLE public.theirs OWNER TO {}", owner.name)).await;
    let steward = bench.database.role("vacuumer", "").await;
    // pgsteward's own schema for the fence, and nothing else.
    bench.run_as(&steward).await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    let grant = bench.maintain_grant("public.theirs", &owner, &steward).await;
    let reason = report.skipped.as_deref().unwrap_or_default();
    assert!(reason.starts_with("not_permitted: ") && reason.contains(&grant), "{report:?}");
    assert!(
        report.detail["public.theirs"]["skipped"].as_str().unwrap_or_default().contains(&grant),
        "{report:?}"
    );
    assert!(report.warnings.is_empty(), "{report:?}");

    // The statement that it names mends it.
    bench.sql(&grant).await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert_eq!((report.rows, &report.skipped), (1, &None), "{report:?}");
}

#[tokio::test]
async fn what_is_not_permitted_takes_no_place_from_what_is() {
    let mut bench = Bench::new().await;
    let steward = bench.database.role("vacuumer", "").await;
    churned(&bench, "public.theirs", 9_000).await;
    churned(&bench, "public.mine", 2_000).await;
    bench.sql(&format!("ALTER TABLE public.mine OWNER TO {}", steward.name)).await;
    bench.run_as(&steward).await;
    bench.config.vacuum.tables_max = 1;
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert_eq!(report.detail["public.mine"]["dead_after"], 0, "{}", report.detail);
    assert!(report.detail["public.theirs"]["skipped"].is_string(), "{}", report.detail);
    assert!(report.skipped.is_none(), "{report:?}");
    let [warning] = &report.warnings[..] else { panic!("{report:?}") };
    // The superuser's: nobody is told to become one.
    assert!(
        warning.starts_with("public.theirs: not permitted, needs ")
            && !warning.contains("GRANT postgres"),
        "{warning}"
    );
}

#[tokio::test]
async fn behind_a_transaction_pooler_it_is_skipped_with_what_it_needs() {
    let mut bench = Bench::new().await;
    bench.pooler = Pooler::Transaction;
    churned(&bench, "public.worn", 3_000).await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert!(
        report.skipped.as_deref().unwrap_or_default().contains("database.direct_url"),
        "{report:?}"
    );
}

#[tokio::test]
async fn the_deadline_ends_a_vacuum_on_the_server() {
    let mut bench = Bench::new().await;
    churned(&bench, "public.worn", 3_000).await;
    // An index whose function dawdles in ANALYZE stands for a table that takes too long.
    bench
        .sql(
            "CREATE FUNCTION public.slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN PERFORM pg_sleep(0.1); RETURN n; END $$;
             CREATE STATISTICS public.worn_stats ON (public.slow(n)) FROM public.worn",
        )
        .await;
    bench.timeout = Duration::from_secs(2);
    let error = tokio::time::timeout(BOUND, bench.run(Job::Vacuum)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    assert!(error.to_string().contains("public.worn (timeout)"), "{error}");
    let busy = "pg_stat_activity WHERE datname = current_database() AND application_name = 'pgsteward/job' AND state = 'active'";
    assert_eq!(bench.count(busy).await, 0, "nothing goes on on the server");
}

#[tokio::test]
async fn a_locked_table_is_passed_over_and_told() {
    let bench = Bench::new().await;
    churned(&bench, "public.worn", 3_000).await;
    churned(&bench, "public.other", 2_000).await;
    let holder = bench.database.client().await;
    holder
        .batch_execute("BEGIN; LOCK TABLE public.worn IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    let report = bench.run(Job::Vacuum).await.unwrap();
    let skipped = report.detail["public.worn"]["skipped"].as_str().unwrap_or_default();
    assert!(
        skipped.contains("not done") && skipped.contains("lock not available"),
        "{}",
        report.detail
    );
    assert_eq!(report.detail["public.other"]["dead_after"], 0, "{}", report.detail);
}

#[tokio::test]
async fn the_neediest_come_first_and_the_rest_is_told() {
    let mut bench = Bench::new().await;
    bench.config.vacuum.tables_max = 1;
    churned(&bench, "public.less", 2_000).await;
    churned(&bench, "public.more", 9_000).await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert_eq!(report.rows, 1);
    assert!(report.detail.get("public.more").is_some(), "{}", report.detail);
    assert!(
        report.detail["…"]["left_for_the_next_run"].as_u64().unwrap() >= 1,
        "{}",
        report.detail
    );

    bench.config.vacuum.tables_max = 50;
    bench.config.vacuum.schemas_exclude = vec!["public".to_owned()];
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert!(report.detail.get("public.less").is_none(), "{}", report.detail);
}

#[tokio::test]
async fn a_parent_of_partitions_is_analyzed() {
    let bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.tree (n int) PARTITION BY RANGE (n);
             CREATE TABLE public.tree_1 PARTITION OF public.tree FOR VALUES FROM (0) TO (100000);
             INSERT INTO public.tree SELECT generate_series(1, 5000)",
        )
        .await;
    let changed = "SELECT pg_stat_get_mod_since_analyze('public.tree_1'::regclass)";
    wait_until("the statistics know", BOUND, async || bench.admin.number(changed).await >= 5_000)
        .await;
    let report = bench.run(Job::Vacuum).await.unwrap();
    let detail = &report.detail["public.tree"];
    assert_eq!(
        (&detail["vacuum"], &detail["analyze"]),
        (&false.into(), &true.into()),
        "{}",
        report.detail
    );
    assert_eq!(bench.count("pg_stats WHERE tablename = 'tree' AND inherited").await, 1);
}

#[tokio::test]
async fn a_table_that_fails_stops_no_other() {
    let bench = Bench::new().await;
    churned(&bench, "public.other", 2_000).await;
    bench
        .sql(
            "CREATE TABLE public.broken (n int) WITH (autovacuum_enabled = off);
             CREATE FUNCTION public.half(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                 $$ BEGIN RETURN n / coalesce(nullif(current_setting('pgsteward_test.broken', true), '')::int, 1); END $$;
             INSERT INTO public.broken SELECT generate_series(1, 9000);
             CREATE STATISTICS public.broken_stats ON (public.half(n)) FROM public.broken;
             UPDATE public.broken SET n = n + 1",
        )
        .await;
    let name = bench.database_name().await;
    bench.sql(&format!("ALTER DATABASE {name} SET pgsteward_test.broken = '0'")).await;
    known(&bench, "public.broken", 9_000).await;
    let error = bench.run(Job::Vacuum).await.unwrap_err();
    assert!(error.to_string().contains("1 failed: public.broken (sql)"), "{error}");
    assert_eq!(
        bench.admin.number("SELECT pg_stat_get_dead_tuples('public.other'::regclass)").await,
        0
    );
}

#[tokio::test]
async fn it_stops_when_told_and_does_nothing_when_observing() {
    let mut bench = Bench::new().await;
    churned(&bench, "public.worn", 3_000).await;
    bench.config.mode = Mode::Observe;
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert!(report.skipped.unwrap().contains("observe"));
    bench.config.mode = Mode::Maintain;
    bench.stop.cancel();
    let report = bench.run(Job::Vacuum).await.unwrap();
    assert!(report.stopped && report.rows == 0);
    assert!(
        bench.admin.number("SELECT pg_stat_get_dead_tuples('public.worn'::regclass)").await
            >= 3_000
    );
}
