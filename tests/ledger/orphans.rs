//! Runs that nobody ends any more, slots that were changed by hand, and quarantines.

use pgsteward::store::orphans::{self, Quarantined};
use pgsteward::store::runs::{self, Backend, RunState};
use uuid::Uuid;

use crate::harness::BOUND;
use crate::{Bench, JOB};

async fn mend(bench: &Bench) -> u64 {
    orphans::repair_slots(&mut bench.conn().await, BOUND).await.unwrap()
}

#[tokio::test]
async fn a_lease_that_lasts_is_not_reaped_and_a_freed_slot_is_the_dead_runs_only() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    assert_eq!(bench.reap().await, []);
    // The slot belongs to a newer run by now: reaping the older must leave it.
    let other = Uuid::now_v7();
    bench.sql(&format!("UPDATE steward.job_state SET running_run_id = '{other}'")).await;
    bench.let_expire(run.id).await;
    assert_eq!(bench.reap().await.len(), 1);
    assert_eq!(bench.slot().await, other.to_string());
    assert_eq!(bench.state("failed_total").await, "0");
}

/// Caught: a reap that only looks for leases in the past.
#[tokio::test]
async fn a_lease_from_before_the_clock_was_set_back_is_reaped() {
    let bench = Bench::new().await;
    bench.running(1).await;
    let ahead = |by: &str| {
        format!("UPDATE steward.job_runs SET lease_until = clock_timestamp() + interval '{by}'")
    };
    bench.sql(&ahead("9 min")).await;
    assert_eq!(bench.reap().await, [], "that may be a lease");
    bench.sql(&ahead("1 day")).await;
    assert_eq!(bench.reap().await.len(), 1);
    assert_eq!(bench.states().await, "lost lease_expired");
}

/// What its process does on the server is fenced, or is unknown: only in the second case must the job wait
/// for it.
#[tokio::test]
async fn a_lost_run_that_was_not_fenced_puts_its_job_in_quarantine() {
    let bench = Bench::new().await;
    let backend = Backend { pid: 4711, start_us: 1_700_000_000_123_456 };
    for (place, noted, suspect) in
        [(1, None, false), (2, Some(None), false), (3, Some(Some(backend)), true)]
    {
        let run = bench.running(place).await;
        if let Some(backend) = noted {
            runs::record_unfenced(&mut bench.conn().await, run.id, run.epoch, backend, BOUND)
                .await
                .unwrap();
        }
        bench.let_expire(run.id).await;
        assert_eq!(bench.reap().await.len(), 1);
        let quarantined = orphans::quarantined_jobs(&mut bench.conn().await, BOUND).await.unwrap();
        let expected = Quarantined { job: JOB.to_owned(), run_id: run.id, backend: Some(backend) };
        assert_eq!(quarantined, if suspect { vec![expected] } else { Vec::new() });
        let told = bench
            .text(&format!("SELECT error FROM steward.job_runs WHERE id = '{}'", run.id))
            .await;
        assert_eq!(told.contains("what they did stands"), noted.is_some(), "{told}");
        assert_eq!(
            bench.state("concat_ws(' ', failed_total, last_state)").await,
            format!("{place} lost")
        );
    }
}

#[tokio::test]
async fn a_quarantine_is_ended_for_the_run_that_it_was_made_for() {
    let bench = Bench::new().await;
    let (old, new) = (Uuid::now_v7(), Uuid::now_v7());
    bench.sql(&format!("UPDATE steward.job_state SET quarantined_run_id = '{new}'")).await;
    let gone = Quarantined { job: JOB.to_owned(), run_id: new, backend: None };
    assert_eq!(
        orphans::quarantined_jobs(&mut bench.conn().await, BOUND).await.unwrap(),
        [gone],
        "its row is gone"
    );
    orphans::release_quarantine(&mut bench.conn().await, JOB, old, BOUND).await.unwrap();
    orphans::release_quarantine(&mut bench.conn().await, "another", new, BOUND).await.unwrap();
    assert_eq!(bench.state("quarantined_run_id").await, new.to_string());
    orphans::release_quarantine(&mut bench.conn().await, JOB, new, BOUND).await.unwrap();
    assert_eq!(bench.state("quarantined_run_id").await, "NULL");
}

#[tokio::test]
async fn a_slot_whose_run_is_over_is_mended() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    bench
        .sql("UPDATE steward.job_runs SET state = 'lost', finished_at = now(), lease_until = NULL")
        .await;
    assert_eq!(mend(&bench).await, 1);
    assert_eq!(bench.state("concat(running_run_id, running_since)").await, "");
    let next = bench.running(1).await;
    bench.sql(&format!("DELETE FROM steward.job_runs WHERE id = '{}'", next.id)).await;
    assert_eq!(mend(&bench).await, 1, "its row is gone");
    assert_eq!(mend(&bench).await, 0);
    assert_ne!(run.id, bench.running(2).await.id);
}

/// The other way round: the server refuses a second run, and with it every claim of the batch.
#[tokio::test]
async fn a_run_without_its_slot_gets_it_back() {
    let bench = Bench::new().await;
    let run = bench.running(0).await;
    let since = bench.text("SELECT started_at FROM steward.job_runs").await;
    bench.sql("UPDATE steward.job_state SET running_run_id = NULL, running_since = NULL").await;
    assert_eq!(mend(&bench).await, 1);
    assert_eq!(
        (bench.slot().await, bench.state("running_since").await),
        (run.id.to_string(), since)
    );
    assert_eq!(mend(&bench).await, 0);
    assert!(bench.finish(run, RunState::Succeeded).await);
}

#[tokio::test]
async fn what_waits_without_a_slot_gets_one_and_a_slot_without_what_waits_loses_it() {
    let bench = Bench::new().await;
    bench.running(0).await;
    let waiting = bench.queued(60).await;
    bench.sql("UPDATE steward.job_state SET queued_run_id = NULL").await;
    assert_eq!(mend(&bench).await, 1);
    assert_eq!(bench.state("queued_run_id").await, waiting.to_string());
    bench.sql(&format!("DELETE FROM steward.job_runs WHERE id = '{waiting}'")).await;
    assert_eq!(mend(&bench).await, 1);
    assert_eq!(bench.state("queued_run_id").await, "NULL");
    assert_eq!(mend(&bench).await, 0);
}

/// Caught: a mend that frees the slots that it found suspect without looking again under the lock.
#[tokio::test]
async fn mending_never_frees_the_slot_of_a_run_that_was_claimed_meanwhile() {
    let bench = Bench::new().await;
    let gone = Uuid::now_v7();
    bench
        .sql(&format!(
            "UPDATE steward.job_state SET running_run_id = '{gone}', running_since = now()"
        ))
        .await;
    // Somebody repairs it by hand, and claims: not committed when the mend looks, committed when it acts.
    let other = bench.client().await;
    let claimed = Uuid::now_v7();
    other
        .batch_execute(&format!(
            "BEGIN;
             UPDATE steward.job_state SET running_run_id = '{claimed}', running_since = now() WHERE job = '{JOB}';
             INSERT INTO steward.job_runs (id, job, kind, due_at, state, instance, started_at, lease_until)
                  VALUES ('{claimed}', '{JOB}', 'scheduled', now(), 'running', 'i', now(), now() + interval '1 min')"
        ))
        .await
        .unwrap();
    let pid = other.number("SELECT pg_backend_pid()").await;
    let committing = async {
        let watcher = bench.client().await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {pid} = ANY (pg_blocking_pids(pid))"
        );
        crate::harness::wait_until("the mend waits", BOUND, async || {
            watcher.number(&sql).await == 1
        })
        .await;
        other.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(mend(&bench), committing);
    assert_eq!(bench.slot().await, claimed.to_string());
    assert_eq!(mend(&bench).await, 0);
}
