//! A transaction ends with its closure, however that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pgsteward::db::{Database, Error, Kind, Purpose, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::telemetry::Metrics;

use crate::config;
use crate::harness::BOUND;
use crate::server::shared;

fn database() -> Arc<Database> {
    let metrics = Arc::new(Metrics::new().unwrap());
    Database::new("main", &config(&shared().tcp("worker")), 2, &Tasks::new(), &metrics)
}

fn options() -> TxOptions {
    TxOptions::within(Duration::from_secs(10))
}

/// How many rows have this name, seen from outside.
async fn marks(name: &'static str) -> String {
    let sql = format!("SELECT count(*) FROM public.marks WHERE name = '{name}'");
    tokio::task::spawn_blocking(move || shared().run(&sql)).await.unwrap()
}

async fn insert(
    db: &Database,
    name: &'static str,
    end: impl Fn() -> Result<(), Error> + Copy + Send + Sync,
) -> Result<(), Error> {
    let mut conn = db.acquire(Purpose::Control).await?;
    conn.transaction(&options(), |tx| {
        Box::pin(async move {
            tx.batch("mark", &format!("INSERT INTO public.marks VALUES ('{name}')")).await?;
            end()
        })
    })
    .await
}

#[tokio::test]
async fn ok_commits_and_err_rolls_back() {
    let db = database();
    insert(&db, "ok", || Ok(())).await.unwrap();
    assert_eq!(marks("ok").await, "1");
    let error =
        insert(&db, "err", || Err(Error::new(Kind::Sql, "changed my mind"))).await.unwrap_err();
    assert!(error.to_string().contains("changed my mind"), "{error}");
    assert_eq!(marks("err").await, "0");
    insert(&db, "after err", || Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_panic_rolls_back_and_the_pool_lives() {
    let db = database();
    let task = {
        let db = Arc::clone(&db);
        tokio::spawn(async move { insert(&db, "panic", || panic!("on purpose")).await })
    };
    assert!(task.await.unwrap_err().is_panic());
    assert_eq!(marks("panic").await, "0");
    // The purpose has one connection only: the broken one was not given back.
    insert(&db, "after panic", || Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_dropped_transaction_rolls_back_and_the_pool_lives() {
    let db = database();
    let mut conn = db.acquire(Purpose::Control).await.unwrap();
    let (started, begun) = tokio::sync::oneshot::channel();
    let started = Arc::new(std::sync::Mutex::new(Some(started)));
    let task = tokio::spawn(async move {
        conn.transaction(&options(), |tx| {
            let started = Arc::clone(&started);
            Box::pin(async move {
                tx.batch("mark", "INSERT INTO public.marks VALUES ('drop')").await?;
                let _ = started.lock().unwrap().take().unwrap().send(());
                std::future::pending::<Result<(), Error>>().await
            })
        })
        .await
    });
    tokio::time::timeout(BOUND, begun).await.unwrap().unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    // The row's lock is free only when the server has rolled back: bounded by lock_timeout.
    insert(&db, "drop", || Ok(())).await.unwrap();
    assert_eq!(marks("drop").await, "1");
}

#[tokio::test]
async fn the_commit_of_a_failed_transaction_is_an_error() {
    let db = database();
    let mut conn = db.acquire(Purpose::Control).await.unwrap();
    let error = conn
        .transaction(&options(), |tx| {
            Box::pin(async move {
                tx.batch("mark", "INSERT INTO public.marks VALUES ('failed')").await?;
                // Swallowed, so that the closure ends well in a transaction that is lost.
                let _ = tx.batch("fail", "SELECT 1/0").await;
                Ok(())
            })
        })
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate().map(|code| code.code()), Some("25P02"), "{error}");
    assert_eq!(marks("failed").await, "0");
    assert_eq!(conn.row("go on", "SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn a_conflict_runs_again_within_its_bound() {
    let db = database();
    let mut conn = db.acquire(Purpose::Control).await.unwrap();
    for (failures, outcome) in [(2, Ok(3)), (9, Err(Kind::Conflict))] {
        let runs = AtomicU32::new(0);
        let runs = &runs;
        let result = conn
            .transaction(&options(), |tx| {
                Box::pin(async move {
                    let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
                    if run <= failures {
                        tx.batch("conflict", "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$").await?;
                    }
                    Ok(run)
                })
            })
            .await;
        assert_eq!(result.map_err(|error| error.kind()), outcome);
        assert_eq!(runs.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_statement_given_up_halfway_does_not_come_back_from_the_pool() {
    let db = database();
    let pid = {
        let conn = db.acquire(Purpose::Control).await.unwrap();
        // Polled once and dropped: it may not even have left yet.
        let sleep = conn.batch("sleep", "SELECT pg_sleep(60)");
        tokio::pin!(sleep);
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(sleep.as_mut().poll(cx).is_pending()))
                .await;
        assert!(polled);
        conn.announced_pid()
    };
    let conn = db.acquire(Purpose::Control).await.unwrap();
    assert_ne!(conn.announced_pid(), pid);
    assert_eq!(conn.row("go on", "SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn an_error_leaves_the_connection_in_the_pool() {
    let db = database();
    let mut pids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let conn = db.acquire(Purpose::Control).await.unwrap();
        pids.insert(conn.announced_pid());
        assert_eq!(conn.rows("fail", "SELECT 1/0", &[]).await.unwrap_err().kind(), Kind::Sql);
    }
    assert_eq!(pids.len(), 1, "one session served all");
}

#[tokio::test]
async fn an_error_names_the_constraint_and_not_the_row() {
    let db = database();
    let conn = db.acquire(Purpose::Control).await.unwrap();
    let sql = "CREATE TEMP TABLE guests (name text CONSTRAINT guests_once UNIQUE);
               INSERT INTO guests VALUES ('Ada Lovelace');
               INSERT INTO guests VALUES ('Ada Lovelace')";
    let text = conn.batch("invite", sql).await.unwrap_err().to_string();
    assert!(text.contains("guests_once") && text.contains("23505"), "{text}");
    assert!(!text.contains("Lovelace"), "{text}");
}

#[tokio::test]
async fn a_pool_that_nobody_uses_holds_nothing() {
    let metrics = Arc::new(Metrics::new().unwrap());
    let mut settings = config(&shared().tcp("worker"));
    settings.pool_min_size = 3;
    settings.pool_max_size = 3;
    let db = Database::new("main", &settings, 2, &Tasks::new(), &metrics);
    drop(db.acquire(Purpose::Control).await.unwrap());
    db.export();
    let open = |purpose| db.stats()[&purpose].open;
    assert_eq!((open(Purpose::Control), open(Purpose::Api), open(Purpose::Job)), (1, 0, 0));
    let page = String::from_utf8(metrics.encode().unwrap()).unwrap();
    assert!(
        page.contains(
            "pgsteward_pool_connections{purpose=\"control\",state=\"idle\",target=\"main\"} 1"
        ),
        "{page}"
    );
    assert!(
        page.contains("pgsteward_pool_max_connections{purpose=\"api\",target=\"main\"} 3"),
        "{page}"
    );
}
