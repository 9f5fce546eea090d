//! A cancel is proven, or said not to be.

use std::time::{Duration, Instant};

use pgsteward::db::{CancelOutcome, Kind};

use crate::server::shared;
use crate::{connect, text, wait_until};

/// Swallows every cancel.
const STUBBORN: &str = "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";

async fn runs(pid: i32, text: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND state = 'active' AND query LIKE '{text}%'"
    );
    tokio::task::spawn_blocking(move || shared().run(&sql)).await.unwrap() == "1"
}

#[tokio::test]
async fn a_cancelled_statement_has_ended() {
    for mode in ["disable", "require"] {
        let conn = connect(&format!("{} sslmode={mode}", shared().tcp("worker"))).await;
        let canceller = conn.canceller();
        let pid = conn.announced_pid();
        let (outcome, error) = tokio::join!(
            async {
                wait_until("it runs", async || runs(pid, "SELECT pg_sleep(60)").await).await;
                canceller.cancel(Duration::from_secs(10)).await
            },
            conn.batch("sleep", "SELECT pg_sleep(60)"),
        );
        assert_eq!(outcome, CancelOutcome::Ended);
        assert_eq!(error.unwrap_err().kind(), Kind::Cancelled);
        assert!(!runs(pid, "SELECT pg_sleep(60)").await);
        // The request that ended the one does not hit the next.
        for _ in 0..50 {
            assert_eq!(text(&conn, "1").await, "1");
        }
        // Nothing runs: still proven, and still harmless.
        assert_eq!(canceller.cancel(Duration::from_secs(10)).await, CancelOutcome::Ended);
        assert_eq!(text(&conn, "1").await, "1");
    }
}

#[tokio::test]
async fn a_statement_that_swallows_its_cancel_is_terminated() {
    let conn = connect(&shared().tcp("worker")).await;
    conn.batch("lift the bound", "SET statement_timeout = 0").await.unwrap();
    let pid = conn.announced_pid();
    let canceller = conn.canceller();
    let started = Instant::now();
    let (outcome, error) = tokio::join!(
        async {
            wait_until("it runs", async || runs(pid, "DO").await).await;
            canceller.cancel(Duration::from_secs(6)).await
        },
        conn.batch("swallow", STUBBORN),
    );
    assert_eq!(outcome, CancelOutcome::Terminated);
    assert_eq!(error.unwrap_err().kind(), Kind::ConnectionLost);
    assert!(started.elapsed() < crate::harness::BOUND);
    assert!(!runs(pid, "DO").await);
}

#[tokio::test]
async fn a_dropped_connection_does_not_leave_its_statement_running() {
    let conn = connect(&shared().tcp("worker")).await;
    conn.batch("lift the bound", "SET statement_timeout = 0").await.unwrap();
    let pid = conn.announced_pid();
    {
        let sleep = conn.batch("sleep", "SELECT pg_sleep(600)");
        tokio::pin!(sleep);
        tokio::select! {
            _ = &mut sleep => panic!("it slept for ten minutes"),
            () = wait_until("it runs", async || runs(pid, "SELECT pg_sleep(600)").await) => {}
        }
    }
    drop(conn);
    wait_until("the server notices", async || !runs(pid, "SELECT pg_sleep(600)").await).await;
}
