//! The jobs' rows: first seen, changed, and the history that is pruned beneath them.

use chrono::TimeDelta;
use pgsteward::store::claims::{ClaimKind, SkipReason};
use pgsteward::store::pruning::prune_job;
use pgsteward::store::run_history::prune;
use pgsteward::store::runs::RunState;

use crate::harness::BOUND;
use crate::{Bench, JOB};

#[tokio::test]
async fn the_floor_of_a_job_is_when_it_was_first_seen() {
    let bench = Bench::new().await;
    let watermark = bench.register_job("new", crate::SPEC).await.watermark;
    let sql =
        "SELECT extract(epoch FROM first_seen)::bigint FROM steward.job_state WHERE job = 'new'";
    let seen = bench.number(sql).await;
    assert!((watermark.timestamp() - seen).abs() <= 1);
    assert!(
        (bench.number("SELECT extract(epoch FROM clock_timestamp())::bigint").await - seen).abs()
            < 30
    );
    assert_eq!(
        bench.register_job("new", crate::SPEC).await.watermark,
        watermark,
        "registered again, it stays"
    );
    assert_eq!(bench.register(crate::SPEC).await.watermark, bench.watermark);
}

/// What stands before the dash is the schedule. Caught: a register that compares the whole, or nothing.
#[tokio::test]
async fn a_changed_schedule_counts_from_now_on_and_nothing_else_does() {
    let bench = Bench::new().await;
    assert_eq!(bench.register("when-otherwise").await.watermark, bench.watermark);
    let moved = bench.register("otherwise-otherwise").await.watermark;
    assert!(moved > bench.watermark);
    assert_eq!(bench.state("spec_hash").await, "otherwise-otherwise");
    assert_eq!(bench.register("otherwise-how").await.watermark, moved);
    // Never back: what lies below a watermark in the future has been accounted for.
    bench
        .sql("UPDATE steward.job_state SET claimed_floor = clock_timestamp() + interval '1 h'")
        .await;
    let ahead = bench.register("otherwise-how").await.watermark;
    assert_eq!(bench.register("when-how").await.watermark, ahead);
    // A row without a specification: what its schedule was is not known.
    bench.sql("UPDATE steward.job_state SET spec_hash = NULL, claimed_floor = '2020-01-01'").await;
    assert!(bench.register("when-how").await.watermark > moved);
}

#[tokio::test]
async fn runs_above_the_floor_are_told_but_for_those_that_were_asked_for() {
    let bench = Bench::new().await;
    let id = bench.queued_by_wish().await;
    assert!(bench.register(crate::SPEC).await.above.is_empty());
    let run =
        bench.claim(&bench.ask(ClaimKind::Queued { id, skip: None }).await).await.run.unwrap();
    bench.finish(run, RunState::Succeeded).await;
    for seconds in [10, 20] {
        let run = bench.running(seconds).await;
        bench.finish(run, RunState::Succeeded).await;
    }
    bench.set_floor(10).await;
    assert_eq!(bench.register(crate::SPEC).await.above, [bench.due(20)]);
    bench.set_floor(0).await;
    assert_eq!(bench.register(crate::SPEC).await.above, [bench.due(10), bench.due(20)], "in order");
}

/// Prunes all that has ended; failures only where `failures` says so.
async fn prune_ended(bench: &Bench, failures: bool, limit: i64) -> u64 {
    let before = if failures { "infinity" } else { "-infinity" };
    bench.within(move |tx| Box::pin(prune(tx, "infinity", before, limit))).await.unwrap()
}

/// Caught: a prune that looks at the age alone. The unique row is what keeps an instant above the watermark
/// from being run twice.
#[tokio::test]
async fn history_is_pruned_below_the_floor_only() {
    let bench = Bench::new().await;
    for (seconds, state) in
        [(1, RunState::Succeeded), (2, RunState::Failed), (3, RunState::Succeeded)]
    {
        let run = bench.running(seconds).await;
        bench.finish(run, state).await;
    }
    bench.record(&[bench.missed(4, 8, 5, SkipReason::Misfire)]).await;
    bench.set_floor(6).await;
    assert_eq!(prune_ended(&bench, false, 1).await, 1, "as many as one transaction may");
    assert_eq!(prune_ended(&bench, false, 100).await, 1);
    assert_eq!(
        bench.states().await,
        "failed, skipped misfire x5",
        "the range ends above the watermark"
    );
    assert_eq!(prune_ended(&bench, true, 100).await, 1);
    bench.set_floor(0).await;
    let run = bench.running(9).await;
    bench.set_floor(8).await;
    assert_eq!(prune_ended(&bench, true, 100).await, 1, "the range");
    bench.set_floor(20).await;
    assert_eq!(prune_ended(&bench, true, 100).await, 0, "what runs stays");
    bench.finish(run, RunState::Succeeded).await;
    bench.set_floor(8).await;
    assert_eq!(prune_ended(&bench, true, 100).await, 0, "above the watermark");
    bench.sql("DELETE FROM steward.job_state").await;
    assert_eq!(prune_ended(&bench, true, 100).await, 1, "a job that is no more has no watermark");
}

/// A job that only runs when it is asked for has a watermark that never moves.
#[tokio::test]
async fn what_was_asked_for_is_pruned_whatever_the_floor() {
    let bench = Bench::new().await;
    let id = bench.queued_by_wish().await;
    assert_eq!(prune_ended(&bench, true, 100).await, 0, "what waits stays");
    let run =
        bench.claim(&bench.ask(ClaimKind::Queued { id, skip: None }).await).await.run.unwrap();
    assert!(run.due_at > bench.watermark + TimeDelta::hours(1), "now");
    bench.finish(run, RunState::Succeeded).await;
    assert_eq!(prune_ended(&bench, true, 100).await, 1);
}

/// Caught: a bound by the watermark also for runs that were asked for, which have none.
#[tokio::test]
async fn the_history_of_a_job_is_bounded_by_count() {
    let bench = Bench::new().await;
    let insert = |kind: &str, state: &str, count: i64| {
        format!(
            "INSERT INTO steward.job_runs (id, job, kind, due_at, state, actor, finished_at)
             SELECT gen_random_uuid(), '{JOB}', '{kind}', now() - interval '3 s' * n, '{state}', 'somebody', now()
               FROM generate_series(1, {count}) n"
        )
    };
    bench.sql(&insert("manual", "succeeded", 50)).await;
    let keep = async |keep| prune_job(&mut bench.conn().await, JOB, keep, BOUND).await.unwrap();
    assert_eq!(keep(20).await, 30);
    bench.sql("DELETE FROM steward.job_runs").await;
    bench.sql(&insert("scheduled", "failed", 50)).await;
    assert_eq!(
        keep(20).await,
        0,
        "above the watermark, an instant's row is what keeps it from running twice"
    );
    bench.sql("UPDATE steward.job_state SET claimed_floor = now()").await;
    assert_eq!(keep(20).await, 30);
    let oldest = "SELECT (now() - min(due_at) < interval '61 s')::text FROM steward.job_runs";
    assert_eq!(bench.text(oldest).await, "true", "the newest stay");
}

/// Successes that are old are thinned out; everything else stays.
#[tokio::test]
async fn old_successes_of_a_frequent_job_are_thinned_out() {
    let bench = Bench::new().await;
    let insert = |state: &str, ago: &str, step: &str, count: i64| {
        format!(
            "INSERT INTO steward.job_runs (id, job, kind, due_at, state, finished_at)
             SELECT gen_random_uuid(), '{JOB}', 'scheduled', date_trunc('hour', now()) - interval '{ago}' - interval '{step}' * n,
                    '{state}', now()
               FROM generate_series(1, {count}) n"
        )
    };
    bench.sql("UPDATE steward.job_state SET claimed_floor = now()").await;
    bench.sql(&insert("succeeded", "1 h", "10 s", 360)).await;
    bench.sql(&insert("succeeded", "12 h", "1 min", 120)).await;
    bench.sql(&insert("failed", "1 h 5 s", "10 s", 360)).await;
    prune_job(&mut bench.conn().await, JOB, 10_000, BOUND).await.unwrap();
    let count = async |sql: &str| {
        bench.number(&format!("SELECT count(*) FROM steward.job_runs WHERE {sql}")).await
    };
    assert_eq!(
        count("state = 'succeeded' AND due_at > now() - interval '6 hours'").await,
        60,
        "one a minute"
    );
    assert_eq!(
        count("state = 'succeeded' AND due_at < now() - interval '6 hours'").await,
        2,
        "one an hour"
    );
    assert_eq!(count("state = 'failed'").await, 360);
}
