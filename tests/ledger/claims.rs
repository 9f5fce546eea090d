//! Claims: who gets an instant, and what becomes of one that nobody may run.

use std::slice;

use futures_util::future::join_all;
use pgsteward::config::{JobName, Overlap};
use pgsteward::store::claims::{
    ClaimKind, ClaimRequest, Claimer, Fire, SkipReason, Verdict, claim,
};
use pgsteward::store::pauses::{self, Pause};
use pgsteward::store::runs::RunState;
use uuid::Uuid;

use crate::harness::BOUND;
use crate::{Bench, INSTANCE, JOB, LEASE};

/// Ten instances that know nothing of each other, each claiming the instant after the watermark that it
/// knows: all of it together. What each statement does for that is tested one by one below.
#[tokio::test]
async fn ten_instances_account_for_each_instant_once() {
    const INSTANTS: i64 = 40;
    let bench = Bench::new().await;
    let instance = async || {
        let mut conn = bench.conn().await;
        let mut ask = bench.ask(bench.only(60)).await;
        let mut ran = 0;
        loop {
            let next = (ask.watermark - bench.watermark).num_minutes() + 1;
            if next > INSTANTS {
                return ran;
            }
            ask.kind = bench.only(60 * next);
            let claimer = Claimer { instance: INSTANCE, lease: LEASE };
            let answers = claim(&mut conn, claimer, slice::from_ref(&ask), BOUND).await.unwrap();
            // Held back while another's run is under way, since it was due before that began.
            let is_held = answers[0].verdict == Verdict::Defer;
            assert!(
                is_held || answers[0].watermark > ask.watermark,
                "what is not ours has been another's: {answers:?}"
            );
            ask.watermark = answers[0].watermark;
            if let (Verdict::Run, Some(run)) = (answers[0].verdict, answers[0].run) {
                ran += 1;
                assert!(bench.finish(run, RunState::Succeeded).await);
            }
        }
    };
    let ran: i64 = join_all((0..10).map(|_| instance())).await.into_iter().sum();
    assert_eq!(ran, INSTANTS, "each was due before the run before it began");
    let rows = "SELECT count(*) || ' ' || count(DISTINCT due_at) FROM steward.job_runs WHERE state = 'succeeded'";
    assert_eq!(bench.text(rows).await, format!("{INSTANTS} {INSTANTS}"));
    assert_eq!(
        bench.state("concat_ws(' ', succeeded_total, skipped_total)").await,
        format!("{INSTANTS} 0")
    );
    bench.assert_floor(60 * INSTANTS).await;
    assert_eq!(bench.slot().await, "NULL");
}

/// Caught: a claim that reads the job's row without locking it, and takes the slot by what it read; and
/// one that waits for the lock, with every other job behind it.
#[tokio::test]
async fn a_claim_leaves_a_job_alone_that_another_is_settling_and_then_finds_its_plan_old() {
    let bench = Bench::new().await;
    let ask = bench.ask(bench.only(1)).await;
    let other = bench.client().await;
    let watermark = bench.due(5);
    other
        .batch_execute(&format!(
            "BEGIN; UPDATE steward.job_state SET claimed_floor = '{watermark}' WHERE job = '{JOB}'"
        ))
        .await
        .unwrap();
    let held = bench.claim(&ask).await;
    assert_eq!((held.verdict, held.run, held.watermark), (Verdict::Defer, None, ask.watermark));
    other.batch_execute("COMMIT").await.unwrap();
    let answer = bench.claim(&ask).await;
    assert_eq!((answer.verdict, answer.run, answer.watermark), (Verdict::Stale, None, watermark));
    assert_eq!(bench.states().await, "");
}

/// Caught: `judge` without its comparison of the watermark, or of the specification.
#[tokio::test]
async fn a_plan_made_before_a_change_is_worth_nothing() {
    let bench = Bench::new().await;
    let old = bench.ask(bench.only(2)).await;
    let run = bench.running(1).await;
    bench.finish(run, RunState::Succeeded).await;
    let answer = bench.claim(&old).await;
    assert_eq!(
        (answer.verdict, answer.watermark, answer.run),
        (Verdict::Stale, bench.due(1), None),
        "another watermark"
    );

    let old = bench.ask(bench.only(2)).await;
    bench.register("when-otherwise").await;
    assert_eq!(bench.claim(&old).await.verdict, Verdict::Stale, "another specification");
    let new = ClaimRequest { spec_hash: "when-otherwise".to_owned(), ..old };
    assert_eq!(
        bench.claim(&new).await.verdict,
        Verdict::Run,
        "the instant was left for the newer one"
    );
    let answer = bench.claim(&ClaimRequest { job: JobName::new("unheard-of"), ..new }).await;
    assert_eq!((answer.verdict, answer.run), (Verdict::Stale, None), "a job without a row");
    assert_eq!(bench.states().await, "succeeded, running");
    assert_eq!(
        bench.text("SELECT spec_hash FROM steward.job_runs WHERE state = 'running'").await,
        "when-otherwise"
    );
}

#[tokio::test]
async fn nothing_at_or_below_the_floor_runs_also_when_its_row_is_gone() {
    let bench = Bench::new().await;
    let old = bench.ask(bench.only(10)).await;
    let run = bench.running(10).await;
    bench.finish(run, RunState::Succeeded).await;
    bench.sql("DELETE FROM steward.job_runs").await;
    for seconds in [1, 10] {
        let ask = ClaimRequest { kind: bench.only(seconds), ..old.clone() };
        assert_eq!(bench.claim(&ask).await.verdict, Verdict::Stale, "{seconds}");
    }
    assert_eq!(bench.states().await, "");
    bench.running(11).await;
}

/// After the clock was set back, say. Caught: an INSERT without ON CONFLICT (an error, and the whole
/// batch with it), or a slot that is taken by a claim that made no row.
#[tokio::test]
async fn an_instant_above_the_floor_that_has_a_row_is_not_run_again() {
    let bench = Bench::new().await;
    let run = bench.running(10).await;
    bench.finish(run, RunState::Succeeded).await;
    bench.set_floor(0).await;
    for overlap in [Overlap::Skip, Overlap::Queue] {
        let row = bench.register_job("beside", "when-how").await;
        let fire = Fire { due_at: bench.due(10), overlap, ..bench.fire(10) };
        let again = bench.ask(ClaimKind::Due { missed: Vec::new(), fire: Some(fire) }).await;
        let fire = Fire { due_at: row.watermark + chrono::TimeDelta::milliseconds(1), ..fire };
        let beside = ClaimRequest {
            job: JobName::new("beside"),
            watermark: row.watermark,
            kind: ClaimKind::Due { missed: Vec::new(), fire: Some(fire) },
            ..again.clone()
        };
        let claimer = Claimer { instance: INSTANCE, lease: LEASE };
        let answers =
            claim(&mut bench.conn().await, claimer, &[again, beside], BOUND).await.unwrap();
        assert_eq!(
            (answers[0].verdict, answers[0].run, answers[0].watermark),
            (Verdict::Stale, None, bench.due(10))
        );
        assert_eq!(answers[1].verdict, Verdict::Run, "{answers:?}");
        assert_eq!(bench.state("concat(running_run_id, queued_run_id)").await, "");
        bench
            .sql(
                "DELETE FROM steward.job_runs WHERE job = 'beside'; DELETE FROM steward.job_state WHERE job = 'beside'",
            )
            .await;
        bench.set_floor(0).await;
    }
    // With the slot taken, nothing is queued either.
    let run = bench.running(11).await;
    bench.set_floor(0).await;
    bench.began(0).await;
    let fire = Fire { overlap: Overlap::Queue, ..bench.fire(10) };
    assert_eq!(
        bench.settle(ClaimKind::Due { missed: Vec::new(), fire: Some(fire) }).await,
        Verdict::Stale
    );
    assert_eq!(
        bench.state("concat_ws(' ', running_run_id, queued_run_id)").await,
        run.id.to_string()
    );
    assert_eq!(bench.states().await, "succeeded, running");
}

/// Caught, by the ten: claims that do not compare the watermark, or do not lock the row.
#[tokio::test]
async fn what_comes_due_during_a_run_is_skipped_and_what_was_due_before_it_began_is_not() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    let ask = bench.ask(bench.only(60)).await;
    let claims = join_all((0..10).map(|_| bench.claim(&ask))).await;
    let skipped =
        claims.iter().filter(|answer| answer.verdict == Verdict::Skip(SkipReason::Overlap)).count();
    assert_eq!((skipped, claims.len()), (1, 10), "{claims:?}");
    assert_eq!(bench.states().await, "running, skipped overlap x1");
    assert_eq!(bench.slot().await, run.id.to_string(), "the slot stays the first run's");
    assert!(bench.finish(run, RunState::Succeeded).await);
    bench.running(61).await;

    // A run that began later than this instant was due leaves it due.
    bench.began(63).await;
    assert_eq!(bench.settle(bench.only(62)).await, Verdict::Defer);
    bench.assert_floor(61).await;
    assert_eq!(bench.settle(bench.only(63)).await, Verdict::Skip(SkipReason::Overlap));
}

#[tokio::test]
async fn one_waits_for_the_run_before_it_and_those_after_are_skipped() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    let waiting = bench.queued(60).await;
    assert_eq!(bench.state("queued_run_id").await, waiting.to_string());
    let third = Fire { overlap: Overlap::Queue, ..bench.fire(61) };
    assert_eq!(
        bench.settle(ClaimKind::Due { missed: Vec::new(), fire: Some(third) }).await,
        Verdict::Skip(SkipReason::Overlap)
    );
    assert_eq!(bench.states().await, "running, queued, skipped overlap x1");
    let begin = ClaimKind::Queued { id: waiting, skip: None };
    assert_eq!(bench.settle(begin.clone()).await, Verdict::Defer, "the slot is taken");
    assert!(bench.finish(run, RunState::Succeeded).await);
    assert_eq!(bench.settle(bench.only(62)).await, Verdict::Defer, "who waits goes first");

    let answer = bench.claim(&bench.ask(begin.clone()).await).await;
    let second = answer.run.unwrap();
    assert_eq!((answer.verdict, second.id, second.due_at), (Verdict::Run, waiting, bench.due(60)));
    assert_eq!(answer.watermark, bench.due(61), "a run that begins late moves no watermark");
    assert_eq!(
        bench.state("concat_ws(' ', running_run_id, queued_run_id)").await,
        waiting.to_string()
    );
    let sql = "SELECT lease_until > clock_timestamp() AND started_at IS NOT NULL AND attempts = 1 FROM steward.job_runs \
                WHERE state = 'running'";
    assert_eq!(bench.text(sql).await, "t");
    assert_eq!(bench.settle(begin).await, Verdict::Stale, "it waits no more");
    assert!(bench.finish(second, RunState::Succeeded).await);
    bench.running(63).await;
}

#[tokio::test]
async fn what_waits_too_long_or_meets_a_pause_ends_as_skipped() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    let late = bench.queued(60).await;
    let give_up = ClaimKind::Queued { id: late, skip: Some(SkipReason::Expired) };
    assert_eq!(bench.settle(give_up).await, Verdict::Skip(SkipReason::Expired));
    let paused = bench.queued(61).await;
    bench.pause(true).await;
    assert_eq!(
        bench.settle(ClaimKind::Queued { id: paused, skip: None }).await,
        Verdict::Skip(SkipReason::Paused)
    );
    assert_eq!(bench.states().await, "running, skipped expired, skipped paused");
    assert_eq!(
        bench.state("concat_ws(' ', running_run_id, queued_run_id, skipped_total)").await,
        format!("{} 2", run.id)
    );
}

/// Rows were changed by hand. Caught: a slot taken for a row that nobody can begin.
#[tokio::test]
async fn a_run_that_waits_no_more_is_not_begun() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    let waiting = bench.queued(60).await;
    bench.finish(run, RunState::Succeeded).await;
    bench.sql(&format!("DELETE FROM steward.job_runs WHERE id = '{waiting}'")).await;
    let answer = bench.claim(&bench.ask(ClaimKind::Queued { id: waiting, skip: None }).await).await;
    assert_eq!((answer.verdict, answer.run), (Verdict::Stale, None));
    assert_eq!(bench.state("concat(running_run_id, queued_run_id)").await, "");
    bench.running(61).await;
}

#[tokio::test]
async fn what_is_due_while_paused_is_recorded_as_skipped() {
    let bench = Bench::new().await;
    assert!(bench.pause(true).await);
    assert!(!bench.pause(true).await, "paused already");
    let Some(Pause { by, reason, .. }) =
        pauses::read(&mut bench.conn().await, BOUND).await.unwrap()
    else {
        panic!("not paused")
    };
    assert_eq!((by.as_str(), reason.as_deref()), ("cli:ann", Some("a fail-over")));
    assert_eq!(bench.settle(bench.only(1)).await, Verdict::Skip(SkipReason::Paused), "every job");
    assert!(bench.pause(false).await);
    assert!(!bench.pause(false).await, "running already");
    assert_eq!(pauses::read(&mut bench.conn().await, BOUND).await.unwrap(), None);
    assert_eq!(bench.states().await, "skipped paused x1");

    let by_file = ClaimRequest { paused: true, ..bench.ask(bench.only(2)).await };
    assert_eq!(
        bench.claim(&by_file).await.verdict,
        Verdict::Skip(SkipReason::Paused),
        "this instance"
    );
    let this_job = "UPDATE steward.job_state SET paused_by = 'ann', paused_at = now() WHERE job = ";
    bench.sql(&format!("{this_job}'{JOB}'")).await;
    assert_eq!(bench.settle(bench.only(3)).await, Verdict::Skip(SkipReason::Paused), "this job");
    bench.sql("UPDATE steward.job_state SET paused_by = NULL, paused_at = NULL").await;
    bench.register_job("beside", "when-how").await;
    bench.sql(&format!("{this_job}'beside'")).await;
    assert_eq!(bench.slot().await, "NULL");
    bench.running(4).await;
    assert_eq!(bench.states().await, "skipped paused x3, running");
    assert_eq!(bench.state("skipped_total").await, "3");
}

/// A run whose process may still be at work keeps the next from beginning, though the slot is free.
#[tokio::test]
async fn a_job_in_quarantine_does_not_begin() {
    let bench = Bench::new().await;
    let suspect = Uuid::now_v7();
    bench.sql(&format!("UPDATE steward.job_state SET quarantined_run_id = '{suspect}'")).await;
    assert_eq!(bench.settle(bench.only(1)).await, Verdict::Skip(SkipReason::Overlap));
    let waiting = bench.queued(2).await;
    assert_eq!(bench.settle(ClaimKind::Queued { id: waiting, skip: None }).await, Verdict::Defer);
    bench.sql("UPDATE steward.job_state SET quarantined_run_id = NULL").await;
    assert_eq!(bench.settle(ClaimKind::Queued { id: waiting, skip: None }).await, Verdict::Run);
}
