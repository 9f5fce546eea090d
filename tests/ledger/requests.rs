//! What people ask of jobs through the ledger: a run, a cancel.

use std::time::Duration;

use chrono::TimeDelta;
use pgsteward::store::claims::{ClaimKind, Verdict};
use pgsteward::store::requests::{CancelRequest, CancelResult, PendingRequests, poll_requests};
use pgsteward::store::runs::RunState;
use uuid::Uuid;

use crate::{Bench, INSTANCE, JOB, RunRequest};

async fn heard(bench: &Bench, upstream_jobs: &[&str]) -> PendingRequests {
    let upstream_jobs: Vec<String> = upstream_jobs.iter().map(|name| (*name).to_owned()).collect();
    poll_requests(&bench.conn().await, &upstream_jobs, Duration::from_secs(5)).await.unwrap()
}

#[tokio::test]
async fn a_run_that_is_asked_for_waits_is_heard_and_begins() {
    let bench = Bench::new().await;
    assert_eq!(heard(&bench, &[JOB]).await, PendingRequests::default());
    let id = bench.queued_by_wish().await;
    assert_eq!(bench.ask_for_a_run(JOB).await, RunRequest::Waiting(id), "a queue of one");
    let sql = "SELECT concat_ws(' ', kind, state, actor, abs(extract(epoch FROM due_at - clock_timestamp())) < 30) \
               FROM steward.job_runs";
    assert_eq!(bench.text(sql).await, "manual queued cli:ann t");
    assert_eq!(bench.state("queued_run_id").await, id.to_string());
    let queued = heard(&bench, &[]).await.queued;
    assert_eq!(queued.len(), 1);
    assert_eq!((queued[0].job.as_str(), queued[0].id, queued[0].manual), (JOB, id, true));

    let answer = bench.claim(&bench.ask(ClaimKind::Queued { id, skip: None }).await).await;
    let run = answer.run.unwrap();
    assert_eq!(
        (answer.verdict, run.due_at, answer.watermark),
        (Verdict::Run, queued[0].due_at, bench.watermark)
    );
    assert_eq!(heard(&bench, &[]).await.queued, []);
    // While it runs, another may be asked for.
    let second = bench.queued_by_wish().await;
    assert_ne!(second, id);
    assert!(bench.finish(run, RunState::Succeeded).await);
    assert_eq!(bench.settle(ClaimKind::Queued { id: second, skip: None }).await, Verdict::Run);
}

#[tokio::test]
async fn what_is_due_by_plan_waits_as_well_and_is_no_wish() {
    let bench = Bench::new().await;
    bench.running(0).await;
    let waiting = bench.queued(60).await;
    let queued = heard(&bench, &[]).await.queued;
    assert_eq!((queued[0].id, queued[0].manual), (waiting, false));
    assert_eq!(queued[0].due_at - bench.watermark, TimeDelta::seconds(60), "to the microsecond");
    assert_eq!(bench.ask_for_a_run(JOB).await, RunRequest::Waiting(waiting));
}

#[tokio::test]
async fn nothing_is_asked_of_what_is_paused_or_unknown() {
    let bench = Bench::new().await;
    bench.register_job("report", "when-how").await;
    let known = vec!["report".to_owned(), JOB.to_owned()];
    assert_eq!(bench.ask_for_a_run("unheard-of").await, RunRequest::Unknown(known.clone()));
    bench.pause(true).await;
    assert_eq!(
        bench.ask_for_a_run("*").await,
        RunRequest::Unknown(known),
        "the pause of all is no job"
    );
    assert_eq!(bench.ask_for_a_run(JOB).await, RunRequest::Paused("cli:ann".to_owned()));
    bench.pause(false).await;
    bench.sql("UPDATE steward.job_state SET paused_by = 'bob', paused_at = now() WHERE job = 'report'").await;
    assert_eq!(bench.ask_for_a_run("report").await, RunRequest::Paused("bob".to_owned()));
    assert!(
        matches!(bench.ask_for_a_run(JOB).await, RunRequest::Queued(_)),
        "another job's pause is none of its"
    );
    assert_eq!(bench.states().await, "queued");
}

#[tokio::test]
async fn a_cancel_reaches_what_waits_at_once_and_what_runs_by_who_runs_it() {
    let bench = Bench::new().await;
    assert_eq!(bench.cancel(Uuid::now_v7()).await, CancelResult::Unknown);
    let run = bench.running(0).await;
    let waiting = bench.queued(60).await;
    let job = JOB.to_owned();
    assert_eq!(bench.cancel(waiting).await, CancelResult::Dequeued { job: job.clone() });
    assert_eq!(
        bench.cancel(waiting).await,
        CancelResult::AlreadyFinished { job: job.clone(), state: "cancelled".to_owned() }
    );
    assert_eq!(bench.states().await, "running, cancelled requested");
    let told = "SELECT concat_ws('|', cancel_by, error, finished_at IS NOT NULL) FROM steward.job_runs WHERE state = 'cancelled'";
    assert_eq!(bench.text(told).await, "cli:ann|cancelled by cli:ann before it began|t");
    assert_eq!(
        bench.state("concat_ws(' ', running_run_id, queued_run_id)").await,
        run.id.to_string()
    );
    assert_eq!(
        bench.settle(ClaimKind::Queued { id: waiting, skip: None }).await,
        Verdict::Stale,
        "it does not begin"
    );

    let asked =
        |again| CancelResult::Requested { job: job.clone(), instance: INSTANCE.to_owned(), again };
    assert_eq!(bench.cancel(run.id).await, asked(false));
    let wish = CancelRequest { id: run.id, by: "cli:ann".to_owned() };
    assert_eq!(heard(&bench, &[]).await.cancel, std::slice::from_ref(&wish));
    let id = run.id;
    let again = bench
        .within(move |tx| Box::pin(pgsteward::store::requests::cancel(tx, id, "cli:bob")))
        .await
        .unwrap();
    assert_eq!(again, asked(true));
    assert_eq!(heard(&bench, &[]).await.cancel, [wish], "who asked first stays");
    assert_eq!(
        bench.states().await,
        "running, cancelled requested",
        "whoever runs it says how it ends"
    );
    assert!(bench.finish(run, RunState::Cancelled).await);
    assert_eq!(heard(&bench, &[]).await, PendingRequests::default());
    assert_eq!(
        bench.cancel(run.id).await,
        CancelResult::AlreadyFinished { job, state: "cancelled".to_owned() }
    );
}

/// The two lock the run and its job in another order. Caught: a deadlock that is told instead of tried
/// again.
#[tokio::test]
async fn a_cancel_and_the_end_of_the_run_do_not_hinder_each_other() {
    let bench = Bench::new().await;
    for round in 0..20 {
        let run = bench.running(round).await;
        let (cancelled, finished) =
            tokio::join!(bench.cancel(run.id), bench.finish(run, RunState::Succeeded));
        assert!(finished);
        assert!(
            matches!(
                cancelled,
                CancelResult::Requested { .. } | CancelResult::AlreadyFinished { .. }
            ),
            "{cancelled:?}"
        );
    }
}

#[tokio::test]
async fn successes_are_told_of_those_that_others_follow() {
    let bench = Bench::new().await;
    bench.register_job("o'brien", "when-how").await;
    let run = bench.running(1).await;
    assert_eq!(heard(&bench, &[JOB, "o'brien"]).await.succeeded, [], "none has succeeded");
    bench.finish(run, RunState::Succeeded).await;
    let at = bench.register(crate::SPEC).await.last_success_at;
    bench.sql("UPDATE steward.job_state SET last_success_at = now() WHERE job = 'o''brien'").await;
    let succeeded = heard(&bench, &[JOB]).await.succeeded;
    assert_eq!(succeeded.len(), 1);
    assert_eq!((succeeded[0].job.as_str(), Some(succeeded[0].at)), (JOB, at));
    assert_eq!(heard(&bench, &[JOB, "o'brien"]).await.succeeded.len(), 2);
    assert_eq!(heard(&bench, &[]).await.succeeded, []);
}
