//! How runs end: once, under their epoch, together with their slot, their totals and their effect.

use pgsteward::db::{Error, Kind, TxOptions};
use pgsteward::store::claims::Run;
use pgsteward::store::run_history::last_runs;
use pgsteward::store::runs::{self, Backend, FinishedRun, RunResult, RunState};

use crate::harness::BOUND;
use crate::{Bench, JOB, ended, fence, is_fenced};

#[tokio::test]
async fn a_run_is_ended_once_and_only_under_its_epoch() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    assert!(!bench.finish(Run { epoch: run.epoch + 1, ..run }, RunState::Succeeded).await);
    assert_eq!(
        (bench.states().await.as_str(), bench.slot().await),
        ("running", run.id.to_string())
    );
    assert!(bench.finish(run, RunState::Failed).await);
    assert_eq!((bench.states().await.as_str(), bench.slot().await.as_str()), ("failed", "NULL"));
    for epoch in [run.epoch, run.epoch + 1] {
        assert!(!bench.finish(Run { epoch, ..run }, RunState::Succeeded).await, "an end is an end");
    }
    let sql = "SELECT concat_ws('|', rows_affected, error, detail, attempts, fenced, lease_until, finished_at > started_at) \
               FROM steward.job_runs";
    assert_eq!(bench.text(sql).await, r#"3|it broke|{"tables": 3}|2|t|t"#);
    assert_eq!(bench.number("SELECT epoch FROM steward.job_runs").await, run.epoch + 1, "raised");
    assert_eq!(
        runs::read_state(&mut bench.conn().await, run.id, BOUND).await.unwrap().as_deref(),
        Some("failed")
    );
    let nobody = uuid::Uuid::now_v7();
    assert_eq!(runs::read_state(&mut bench.conn().await, nobody, BOUND).await.unwrap(), None);
}

#[tokio::test]
async fn totals_and_failures_in_a_row_follow_the_outcomes() {
    let bench = Bench::new().await;
    let columns = "concat_ws(' ', succeeded_total, failed_total, skipped_total, consecutive_failures, last_state, \
                   last_success_at IS NOT NULL, last_finished_at IS NOT NULL, running_since)";
    for (place, (state, expected)) in [
        (RunState::Failed, "0 1 0 1 failed f t"),
        (RunState::TimedOut, "0 2 0 2 timed_out f t"),
        (RunState::Cancelled, "0 2 0 2 cancelled f t"),
        (RunState::Succeeded, "1 2 0 0 succeeded t t"),
        (RunState::Skipped, "1 2 1 0 skipped t t"),
        (RunState::Failed, "1 3 1 1 failed t t"),
    ]
    .into_iter()
    .enumerate()
    {
        let run = bench.running(1 + place as i64).await;
        let mut end = ended(run, state);
        end.result.reason = (state == RunState::Skipped).then(|| "not_permitted".to_owned());
        assert!(runs::finish(&mut bench.conn().await, &end, BOUND, BOUND).await.unwrap());
        assert_eq!(bench.state(columns).await, expected);
    }
    let run = bench.running(10).await;
    bench.let_expire(run.id).await;
    bench.reap().await;
    assert_eq!(bench.state(columns).await, "1 4 1 2 lost t t");
}

#[tokio::test]
async fn the_last_runs_tell_failures_in_a_row() {
    let bench = Bench::new().await;
    let outcomes = [
        RunState::Failed,
        RunState::Succeeded,
        RunState::Failed,
        RunState::TimedOut,
        RunState::Cancelled,
    ];
    for (at, state) in outcomes.into_iter().enumerate() {
        let run = bench.running(1 + at as i64).await;
        assert!(bench.finish(run, state).await);
    }
    let last = last_runs(&mut bench.conn().await, BOUND).await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!(
        (last[0].job.as_str(), last[0].state.as_str(), last[0].failures),
        (JOB, "cancelled", 2)
    );
    assert!(last[0].last_success_at.is_some_and(|at| at < last[0].finished_at));
}

/// Runs an effect and the record of its success in one transaction, as a transactional job does.
async fn with_effect(bench: &Bench, end: &FinishedRun, fails: bool) -> Result<bool, Error> {
    let mut conn = bench.conn().await;
    conn.transaction(&TxOptions::within(BOUND), |tx| {
        Box::pin(async move {
            runs::fence(tx, end.id, end.epoch).await?;
            tx.execute("write", "INSERT INTO public.effect VALUES (1)", &[]).await?;
            let recorded = runs::finish_in(tx, end).await?;
            if fails {
                tx.execute("fail", "SELECT 1 / 0", &[]).await?;
            }
            Ok(recorded)
        })
    })
    .await
}

/// Caught: a record on another connection, or before or after the transaction of the effect.
#[tokio::test]
async fn an_effect_and_its_record_commit_together_or_not_at_all() {
    let bench = Bench::new().await;
    bench.sql("CREATE TABLE public.effect (n int)").await;
    let run = bench.running(1).await;
    let end = ended(run, RunState::Succeeded);
    let failed = with_effect(&bench, &end, true).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Sql, "{failed}");
    assert_eq!(
        (bench.states().await.as_str(), bench.slot().await),
        ("running", run.id.to_string())
    );
    assert_eq!(bench.number("SELECT count(*) FROM public.effect").await, 0);
    assert!(
        !is_fenced(fence(&mut bench.conn().await, run.id, run.epoch).await),
        "it may be tried again"
    );

    assert!(with_effect(&bench, &end, false).await.unwrap());
    assert_eq!((bench.states().await.as_str(), bench.slot().await.as_str()), ("succeeded", "NULL"));
    assert_eq!(bench.number("SELECT count(*) FROM public.effect").await, 1);
    assert_eq!(bench.number("SELECT epoch FROM steward.job_runs").await, run.epoch + 1);
    assert!(
        is_fenced(with_effect(&bench, &end, false).await),
        "a second attempt, since the answer was lost"
    );
    assert!(
        !bench.finish(run, RunState::Failed).await,
        "what the broken connection looked like is not what was"
    );
    assert_eq!(bench.number("SELECT count(*) FROM public.effect").await, 1);
    assert_eq!(bench.states().await, "succeeded");
}

#[tokio::test]
async fn a_failure_can_pause_the_job_and_leaves_another_pause_alone() {
    let bench = Bench::new().await;
    let pause = "concat_ws('|', paused_by, paused_at IS NOT NULL, paused_reason)";
    let mut end = ended(bench.running(1).await, RunState::Failed);
    end.pause_job = true;
    assert!(runs::finish(&mut bench.conn().await, &end, BOUND, BOUND).await.unwrap());
    assert_eq!(bench.state(pause).await, format!("on_failure|t|run {} failed", end.id));

    bench
        .sql(
            "UPDATE steward.job_state SET paused_by = NULL, paused_at = NULL, paused_reason = NULL",
        )
        .await;
    let mut end = ended(bench.running(2).await, RunState::Failed);
    bench.sql("UPDATE steward.job_state SET paused_by = 'ann', paused_at = now(), paused_reason = 'a move'").await;
    end.pause_job = true;
    assert!(runs::finish(&mut bench.conn().await, &end, BOUND, BOUND).await.unwrap());
    assert_eq!(bench.state(pause).await, "ann|t|a move");
}

/// A cancel that the server did not confirm.
#[tokio::test]
async fn an_end_with_a_process_that_may_still_work_puts_the_job_in_quarantine() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let end = ended(run, RunState::TimedOut);
    let backend = Backend { pid: 4711, start_us: 1_700_000_000_123_456 };
    let result = RunResult { quarantine: Some(backend), fenced: Some(false), ..end.result.clone() };
    assert!(
        runs::finish(&mut bench.conn().await, &FinishedRun { result, ..end }, BOUND, BOUND)
            .await
            .unwrap()
    );
    assert_eq!(bench.state("quarantined_run_id").await, run.id.to_string());
    let sql = "SELECT concat_ws(' ', fenced, backend_pid, (extract(epoch FROM backend_start) * 1000000)::bigint) \
               FROM steward.job_runs";
    assert_eq!(bench.text(sql).await, "f 4711 1700000000123456");
}
