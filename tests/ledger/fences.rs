//! The fence, and taking a run over: what a run that is no longer ours may still commit.

use std::time::Duration;

use pgsteward::db::TxOptions;
use pgsteward::store::runs::{self, Backend, RenewedLease, RunState};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::harness::{BOUND, wait_until};
use crate::{Bench, INSTANCE, JOB, LEASE, fence, is_fenced};

/// Caught: a fence that leaves out the id, the epoch, the lease or the state.
#[tokio::test]
async fn the_fence_passes_for_the_run_that_holds_its_lease_and_for_no_other() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let (id, epoch) = (run.id, run.epoch);
    let conn = &mut bench.conn().await;
    assert!(!is_fenced(fence(conn, id, epoch).await));
    assert!(is_fenced(fence(conn, Uuid::now_v7(), epoch).await), "another run");
    assert!(is_fenced(fence(conn, id, epoch + 1).await), "an epoch to come");

    bench.sql("UPDATE steward.job_runs SET epoch = epoch + 1").await;
    assert!(
        is_fenced(fence(conn, id, epoch).await),
        "an epoch that has passed, though running and leased"
    );
    assert!(!is_fenced(fence(conn, id, epoch + 1).await));

    bench.let_expire(id).await;
    assert!(
        is_fenced(fence(conn, id, epoch + 1).await),
        "a lease that has passed, though not reaped yet"
    );
    let ours = RenewedLease { id, cancel_by: None };
    assert_eq!(runs::renew(conn, &[(id, epoch + 1)], LEASE, BOUND).await.unwrap(), [ours]);
    assert!(!is_fenced(fence(conn, id, epoch + 1).await), "renewed before anybody reaped it");

    // Ended in some way that left lease and epoch alone.
    bench.sql("UPDATE steward.job_runs SET state = 'failed', finished_at = now()").await;
    assert!(is_fenced(fence(conn, id, epoch + 1).await), "an ended run");
}

/// Caught: `now()` in the fence, which is when the transaction began: a process that slept inside it
/// would still hold its lease.
#[tokio::test]
async fn the_fence_goes_by_the_clock_and_not_by_the_transaction() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let bench = &bench;
    let mut conn = bench.conn().await;
    let late = conn
        .transaction(&TxOptions::within(BOUND), |tx| {
            Box::pin(async move {
                tx.execute("begin", "SELECT now()", &[]).await?;
                bench.sql("UPDATE steward.job_runs SET lease_until = clock_timestamp()").await;
                runs::fence(tx, run.id, run.epoch).await
            })
        })
        .await;
    assert!(is_fenced(late));
}

/// The lease passes while a fenced transaction is open: the run may not be declared lost before that
/// transaction has ended, else what it commits would be a lost run's. Caught: a fence without FOR KEY
/// SHARE, a reap without FOR UPDATE.
#[tokio::test]
async fn a_run_is_not_reaped_under_an_open_fenced_transaction() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    bench.sql("CREATE TABLE public.effect (n int)").await;
    let mut zombie = bench.conn().await;
    let (inside, is_inside) = oneshot::channel();
    let (go, may_go) = oneshot::channel::<()>();
    let mut doors = Some((inside, may_go));
    let options = TxOptions::within(BOUND);
    let writing = async {
        let work = zombie.transaction(&options, |tx| {
            let doors = doors.take();
            Box::pin(async move {
                runs::fence(tx, run.id, run.epoch).await?;
                let (inside, may_go) = doors.expect("it runs once");
                inside.send(()).expect("the test waits");
                may_go.await.expect("the test lets it go");
                tx.execute("write", "INSERT INTO public.effect VALUES (1)", &[]).await
            })
        });
        work.await
    };
    let reaping = async {
        is_inside.await.unwrap();
        bench.let_expire(run.id).await;
        assert_eq!(bench.reap().await, [], "reaped under an open fenced transaction");
        assert_eq!(bench.states().await, "running");
        go.send(()).unwrap();
    };
    let (written, ()) = tokio::join!(writing, reaping);
    assert_eq!(written.unwrap(), 1, "it was fenced in time: its effect stands");

    let orphans = bench.reap().await;
    assert_eq!(orphans.len(), 1);
    assert_eq!(
        (orphans[0].id, orphans[0].job.as_str(), orphans[0].instance.as_str()),
        (run.id, JOB, INSTANCE)
    );
    assert!(is_fenced(fence(&mut zombie, run.id, run.epoch).await), "the dead run writes no more");
    assert!(!bench.finish(run, RunState::Succeeded).await, "nor does it end");
    assert_eq!(bench.states().await, "lost lease_expired");
    assert_eq!(bench.slot().await, "NULL");
    assert_eq!(bench.number("SELECT epoch FROM steward.job_runs").await, run.epoch + 1);
    bench.running(2).await;
}

/// The other order: a take-over that is not committed yet. Caught: a fence that takes no lock; it would
/// read the old row and pass.
#[tokio::test]
async fn a_fence_waits_for_a_take_over_and_then_refuses() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let taker = bench.client().await;
    let id = run.id;
    let take_over = format!(
        "BEGIN; SELECT FROM steward.job_runs WHERE id = '{id}' FOR UPDATE; \
         UPDATE steward.job_runs SET epoch = epoch + 1 WHERE id = '{id}'"
    );
    taker.batch_execute(&take_over).await.unwrap();
    let taker_pid = taker.number("SELECT pg_backend_pid()").await;

    let mut zombie = bench.conn().await;
    let fencing = fence(&mut zombie, id, run.epoch);
    let committing = async {
        let watcher = bench.client().await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {taker_pid} = ANY (pg_blocking_pids(pid))"
        );
        wait_until("the fence waits for the take-over", BOUND, async || {
            watcher.number(&sql).await == 1
        })
        .await;
        taker.batch_execute("COMMIT").await.unwrap();
    };
    let (fenced, ()) = tokio::join!(fencing, committing);
    assert!(is_fenced(fenced));
}

/// A run that was cut off may have a statement left on the server: its end waits for what that still
/// commits, and nothing after it passes the fence. Caught: an end without FOR UPDATE (its UPDATE alone
/// passes a KEY SHARE lock), or one that does not raise the epoch.
#[tokio::test]
async fn the_end_of_a_run_waits_for_what_it_still_commits() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let zombie = bench.client().await;
    let open = format!(
        "BEGIN; SELECT FROM steward.job_runs WHERE id = '{}' AND epoch = {} FOR KEY SHARE",
        run.id, run.epoch
    );
    zombie.batch_execute(&open).await.unwrap();
    let zombie_pid = zombie.number("SELECT pg_backend_pid()").await;
    let finishing = bench.finish(run, RunState::TimedOut);
    let committing = async {
        let watcher = bench.client().await;
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE {zombie_pid} = ANY (pg_blocking_pids(pid))"
        );
        wait_until("the end waits for the open transaction", BOUND, async || {
            watcher.number(&sql).await == 1
        })
        .await;
        zombie.batch_execute("COMMIT").await.unwrap();
    };
    let (finished, ()) = tokio::join!(finishing, committing);
    assert!(finished);
    assert!(
        is_fenced(fence(&mut bench.conn().await, run.id, run.epoch).await),
        "nothing of it is written any more"
    );
    assert_eq!(bench.number("SELECT epoch FROM steward.job_runs").await, run.epoch + 1);
}

/// What works outside transactions checks its claim by this statement, right before it begins. Caught:
/// the same as of the fence.
#[tokio::test]
async fn a_run_that_is_no_longer_ours_cannot_begin_unfenced() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let conn = &mut bench.conn().await;
    let backend = Some(Backend { pid: 4711, start_us: 1_700_000_000_123_456 });
    runs::record_unfenced(conn, run.id, run.epoch, backend, BOUND).await.unwrap();
    let noted = "SELECT concat_ws(' ', fenced, backend_pid, (extract(epoch FROM backend_start) * 1000000)::bigint) \
                 FROM steward.job_runs";
    assert_eq!(bench.text(noted).await, "f 4711 1700000000123456", "to the microsecond");
    for (id, epoch) in [(Uuid::now_v7(), run.epoch), (run.id, run.epoch + 1)] {
        assert!(is_fenced(runs::record_unfenced(conn, id, epoch, None, BOUND).await));
    }
    bench.let_expire(run.id).await;
    assert!(
        is_fenced(runs::record_unfenced(conn, run.id, run.epoch, None, BOUND).await),
        "a lease that has passed"
    );
    assert_eq!(
        bench.text(noted).await,
        "f 4711 1700000000123456",
        "what was refused changes nothing"
    );
    assert_eq!(bench.reap().await.len(), 1);
    assert!(is_fenced(runs::record_unfenced(conn, run.id, run.epoch, None, BOUND).await), "lost");
    let next = bench.sql("UPDATE steward.job_state SET quarantined_run_id = NULL");
    next.await;
    let next = bench.running(2).await;
    bench.finish(next, RunState::Failed).await;
    assert!(
        is_fenced(runs::record_unfenced(conn, next.id, next.epoch + 1, None, BOUND).await),
        "ended"
    );
}

#[tokio::test]
async fn renewing_extends_what_is_ours_and_says_what_is_not() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let (id, epoch) = (run.id, run.epoch);
    let left =
        "SELECT extract(epoch FROM lease_until - clock_timestamp())::bigint FROM steward.job_runs";
    let conn = &mut bench.conn().await;
    let ours = RenewedLease { id, cancel_by: None };
    let long = Duration::from_secs(1200);
    assert_eq!(
        runs::renew(conn, &[(Uuid::now_v7(), 1), (id, epoch)], long, BOUND).await.unwrap(),
        [ours]
    );
    assert!(bench.number(left).await > 1000);
    assert_eq!(runs::renew(conn, &[(id, epoch + 1)], long * 10, BOUND).await.unwrap(), []);
    assert!(bench.number(left).await <= 1200, "another epoch's renewal changes nothing");
    bench.cancel(id).await;
    let unwanted = RenewedLease { id, cancel_by: Some("cli:ann".to_owned()) };
    assert_eq!(
        runs::renew(conn, &[(id, epoch)], LEASE, BOUND).await.unwrap(),
        [unwanted],
        "the wish is told along"
    );
    assert!(bench.finish(run, RunState::Cancelled).await);
    assert_eq!(runs::renew(conn, &[(id, epoch)], LEASE, BOUND).await.unwrap(), []);
    assert_eq!(
        runs::renew(conn, &[(id, epoch + 1)], LEASE, BOUND).await.unwrap(),
        [],
        "an ended run has no lease"
    );
    assert_eq!(bench.text("SELECT lease_until FROM steward.job_runs").await, "NULL");
}

/// A run that is long over its commit holds its own row; the leases of the others are renewed all the same.
///
/// Caught: a renewal that waits for the row, with those of every other run.
#[tokio::test]
async fn renewing_waits_for_no_run_that_is_committing() {
    let bench = Bench::new().await;
    let run = bench.running(1).await;
    let committing = bench.client().await;
    let hold =
        format!("BEGIN; UPDATE steward.job_runs SET rows_affected = 7 WHERE id = '{}'", run.id);
    committing.batch_execute(&hold).await.unwrap();
    let (conn, held) = (&mut bench.conn().await, [(run.id, run.epoch)]);
    let renewing = runs::renew(conn, &held, LEASE, BOUND);
    let renewed = tokio::time::timeout(Duration::from_secs(4), renewing)
        .await
        .expect("it waits for nobody")
        .unwrap();
    assert_eq!(renewed, [RenewedLease { id: run.id, cancel_by: None }], "it is still ours");
    committing.batch_execute("ROLLBACK").await.unwrap();
}
