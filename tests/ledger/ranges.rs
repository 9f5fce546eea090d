//! Ranges of instants that were not run, and what becomes of them when the clock is set back.

use futures_util::future::join_all;
use pgsteward::store::claims::{
    ClaimKind, ClaimResult, MissedRange, SkipReason, Verdict, reaching_over,
};
use pgsteward::store::runs::RunState;

use crate::Bench;
use crate::harness::{BOUND, wait_until};

/// `first..last xcount reason`, in seconds after the watermark of the beginning.
async fn ranges(bench: &Bench) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(concat(extract(epoch FROM due_at - '{0}')::int, '..',
                                           extract(epoch FROM last_due_at - '{0}')::int, ' x', missed_count, ' ', reason), ', '
                                    ORDER BY due_at), '')
           FROM steward.job_runs WHERE kind = 'missed'",
        bench.watermark
    );
    bench.text(&sql).await
}

#[tokio::test]
async fn instants_in_a_row_are_one_row_while_their_reason_is_the_same() {
    let bench = Bench::new().await;
    let missed = |first, last, count, reason| bench.missed(first, last, count, reason);
    bench.record(&[missed(1, 5, 5, SkipReason::Misfire)]).await;
    bench.assert_floor(5).await;
    bench.record(&[missed(6, 7, 2, SkipReason::Misfire)]).await;
    assert_eq!(ranges(&bench).await, "1..7 x7 misfire");
    // In one ask: what follows on is joined, what has another reason begins a row.
    bench
        .record(&[missed(8, 8, 1, SkipReason::Misfire), missed(9, 12, 4, SkipReason::Window)])
        .await;
    assert_eq!(ranges(&bench).await, "1..8 x8 misfire, 9..12 x4 window");
    // What is skipped by its judge is joined as well as what its asker gave up.
    bench.pause(true).await;
    bench.settle(bench.only(13)).await;
    bench.settle(bench.only(14)).await;
    bench.pause(false).await;
    assert_eq!(ranges(&bench).await, "1..8 x8 misfire, 9..12 x4 window, 13..14 x2 paused");
    assert_eq!(bench.state("skipped_total").await, "14");

    let run = bench.running(15).await;
    bench.finish(run, RunState::Succeeded).await;
    bench.pause(true).await;
    bench.settle(bench.only(16)).await;
    assert_eq!(
        ranges(&bench).await,
        "1..8 x8 misfire, 9..12 x4 window, 13..14 x2 paused, 16..16 x1 paused",
        "a run lies between"
    );
    let sql = "SELECT bool_and(state = 'skipped' AND finished_at IS NOT NULL AND actor = 'schedule') FROM steward.job_runs \
                WHERE kind = 'missed'";
    assert_eq!(bench.text(sql).await, "t");
}

/// The range before it is lengthened, though the row of the instant is made in the same transaction.
#[tokio::test]
async fn a_range_goes_on_up_to_the_instant_that_runs() {
    let bench = Bench::new().await;
    bench.record(&[bench.missed(1, 2, 2, SkipReason::Window)]).await;
    let missed = vec![bench.missed(3, 5, 3, SkipReason::Window)];
    assert_eq!(
        bench.settle(ClaimKind::Due { missed, fire: Some(bench.fire(6)) }).await,
        Verdict::Run
    );
    assert_eq!(bench.states().await, "skipped window x5, running");
    bench.assert_floor(6).await;
    assert_eq!(bench.state("skipped_total").await, "5");
}

/// Caught: claims that do not compare the watermark, or do not lock the row: a range would be recorded, or
/// lengthened and counted, more than once.
#[tokio::test]
async fn ten_instances_record_a_range_once() {
    let bench = Bench::new().await;
    for (first, last) in [(1, 5), (6, 9)] {
        let missed =
            vec![bench.missed(first, last, (last - first + 1) as i32, SkipReason::Misfire)];
        let ask = bench.ask(ClaimKind::Due { missed, fire: None }).await;
        let answers: Vec<ClaimResult> = join_all((0..10).map(|_| bench.claim(&ask))).await;
        assert_eq!(
            answers.iter().filter(|answer| answer.verdict == Verdict::Record).count(),
            1,
            "{answers:?}"
        );
        // Those that came while it was recorded left it alone.
        let knows = |answer: &ClaimResult| {
            answer.verdict == Verdict::Defer || answer.watermark == bench.due(last)
        };
        assert!(answers.iter().all(knows), "{answers:?}");
    }
    assert_eq!(ranges(&bench).await, "1..9 x9 misfire");
    assert_eq!(bench.state("skipped_total").await, "9");
}

#[tokio::test]
async fn a_count_stays_within_its_column() {
    let bench = Bench::new().await;
    bench.record(&[bench.missed(1, 5, i32::MAX, SkipReason::Misfire)]).await;
    bench.record(&[bench.missed(6, 7, i32::MAX, SkipReason::Misfire)]).await;
    assert_eq!(ranges(&bench).await, format!("1..7 x{} misfire", i32::MAX));
}

async fn rewind(bench: &Bench, to: i64, cut: Option<(i64, i32)>) -> ClaimResult {
    let cut = cut.map(|(last, count)| (bench.due(last), count));
    bench.claim(&bench.ask(ClaimKind::Rewind { to: bench.due(to), cut }).await).await
}

/// The clock showed too much, and is set back: what was skipped after that is due again, what has run
/// is not.
#[tokio::test]
async fn a_floor_in_the_future_goes_back_with_its_ranges() {
    let bench = Bench::new().await;
    let range = |first, last, reason| {
        let missed: MissedRange = bench.missed(first, last, (last - first + 1) as i32, reason);
        missed
    };
    bench.record(&[range(1, 5, SkipReason::Misfire)]).await;
    let run = bench.running(10).await;
    bench.finish(run, RunState::Succeeded).await;
    bench.record(&[range(20, 30, SkipReason::Paused)]).await;
    let run = bench.running(40).await;
    bench.finish(run, RunState::Failed).await;
    bench.record(&[range(50, 55, SkipReason::Misfire)]).await;
    assert_eq!(ranges(&bench).await, "1..5 x5 misfire, 20..30 x11 paused, 50..55 x6 misfire");

    let over = async |at| {
        reaching_over(&mut bench.conn().await, crate::JOB, bench.due(at), BOUND).await.unwrap()
    };
    assert_eq!(over(25).await, Some(bench.due(20)));
    assert_eq!(over(20).await, Some(bench.due(20)));
    assert_eq!(over(30).await, None, "it ends there");
    assert_eq!(over(35).await, None);
    assert_eq!(over(15).await, None);

    let stale =
        bench.ask(ClaimKind::Rewind { to: bench.due(25), cut: Some((bench.due(25), 6)) }).await;
    let answer = rewind(&bench, 25, Some((25, 6))).await;
    assert_eq!((answer.verdict, answer.watermark), (Verdict::Record, bench.due(25)));
    assert_eq!(ranges(&bench).await, "1..5 x5 misfire, 20..25 x6 paused");
    assert_eq!(
        bench.register(crate::SPEC).await.above,
        [bench.due(40)],
        "what has run stays, and is told"
    );
    assert_eq!(
        bench.claim(&stale).await.verdict,
        Verdict::Stale,
        "a second one that knew the watermark of before"
    );

    // What was due comes again: the range goes on under the run that lies above it.
    bench.record(&[range(26, 28, SkipReason::Paused)]).await;
    bench.record(&[range(29, 29, SkipReason::Paused)]).await;
    assert_eq!(ranges(&bench).await, "1..5 x5 misfire, 20..29 x10 paused");
    assert_eq!(bench.settle(bench.only(40)).await, Verdict::Stale, "it has run already");
    bench.assert_floor(40).await;
    assert_eq!(
        bench.number("SELECT count(*) FROM steward.job_runs WHERE kind <> 'missed'").await,
        2
    );
}

#[tokio::test]
async fn a_floor_goes_back_also_where_no_range_reaches_over() {
    let bench = Bench::new().await;
    bench.record(&[bench.missed(1, 5, 5, SkipReason::Misfire)]).await;
    bench.register_job("beside", "when-how").await;
    bench.record(&[bench.missed(20, 30, 11, SkipReason::Window)]).await;
    let answer = rewind(&bench, 10, None).await;
    assert_eq!((answer.verdict, answer.watermark), (Verdict::Record, bench.due(10)));
    assert_eq!(ranges(&bench).await, "1..5 x5 misfire");
    assert!(bench.register(crate::SPEC).await.above.is_empty());
    bench.running(11).await;
}

/// Instants that come before one that stays due.
#[tokio::test]
async fn what_comes_before_an_instant_that_is_held_back_is_recorded() {
    let bench = Bench::new().await;
    bench.running(1).await;
    bench.began(20).await;
    let missed = vec![bench.missed(5, 9, 5, SkipReason::Misfire)];
    assert_eq!(
        bench.settle(ClaimKind::Due { missed, fire: Some(bench.fire(10)) }).await,
        Verdict::Defer
    );
    bench.assert_floor(9).await;
    assert_eq!(bench.states().await, "running, skipped misfire x5");
}

/// Caught: a range that is taken for lengthened because its row was there a moment ago.
#[tokio::test]
async fn a_range_that_is_pruned_while_it_is_lengthened_loses_nothing() {
    let bench = Bench::new().await;
    bench.record(&[bench.missed(1, 5, 5, SkipReason::Paused)]).await;
    let pruning = bench.client().await;
    pruning.batch_execute("BEGIN; DELETE FROM steward.job_runs").await.unwrap();
    let missed = vec![bench.missed(6, 7, 2, SkipReason::Paused)];
    let ask = bench.ask(ClaimKind::Due { missed, fire: None }).await;
    let committing = async {
        let watcher = bench.client().await;
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0";
        wait_until("the claim waits", BOUND, async || watcher.number(waits).await > 0).await;
        pruning.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(bench.claim(&ask), committing);
    assert_eq!(answer.verdict, Verdict::Record);
    assert_eq!(ranges(&bench).await, "6..7 x2 paused");
}
