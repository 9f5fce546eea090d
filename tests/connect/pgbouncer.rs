//! Behind PgBouncer, in session and in transaction mode.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgsteward::config::{Pooler, Secret, SecretSource};
use pgsteward::db::{Between, CancelOutcome, Kind, Purpose, Route, TxOptions};
use tempfile::TempDir;
use tokio_postgres::types::Type;

use crate::server::{
    PASSWORD, Running, Server, as_postgres, free_port, give_to_postgres, scratch, shared,
};
use crate::{config, connect, server_of, text, try_connect, wait_until};

struct PgBouncer {
    port: u16,
    process: Running,
    _dir: TempDir,
}

impl PgBouncer {
    async fn start(server: &Server, pool_mode: &str) -> PgBouncer {
        let dir = scratch();
        let port = free_port();
        let root = dir.path().display();
        fs::write(dir.path().join("users"), format!("\"worker\" \"{PASSWORD}\"\n")).unwrap();
        fs::write(
            dir.path().join("ini"),
            format!(
                "[databases]\npostgres = host={} port={} dbname=postgres\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {root}/users\npool_mode = {pool_mode}\n\
                 default_pool_size = 5\nquery_wait_timeout = 5\nlogfile = {root}/log\npidfile =\n",
                server.socket_dir.display(),
                server.port
            ),
        )
        .unwrap();
        give_to_postgres(dir.path());
        let process = as_postgres(Command::new("pgbouncer"))
            .arg("-q")
            .arg(dir.path().join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "no pgbouncer ({error}): apt-get install -y --no-install-recommends pgbouncer"
                )
            });
        let bouncer = PgBouncer { port, process: Running(process), _dir: dir };
        let url = bouncer.url();
        wait_until("pgbouncer answers", async || {
            try_connect(&url).await.is_ok_and(|conn| conn.announced_pid() != 0)
        })
        .await;
        bouncer
    }

    fn url(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=worker password='{PASSWORD}' dbname=postgres",
            self.port
        )
    }

    fn assert_alive(&mut self) {
        assert!(self.process.0.try_wait().unwrap().is_none(), "pgbouncer has ended");
    }
}

#[tokio::test]
async fn each_kind_is_recognised() {
    for (mode, between) in
        [("session", Between::SessionPooler), ("transaction", Between::TransactionPooler)]
    {
        let bouncer = PgBouncer::start(shared(), mode).await;
        let server = server_of(config(&bouncer.url()));
        for round in 0..3 {
            let conn = server.connect(Purpose::Check, Route::Pooled).await.unwrap();
            assert_eq!(conn.between(), between, "round {round}");
            assert_eq!(conn.has_session_state(), between == Between::SessionPooler);
            if between == Between::SessionPooler {
                assert_eq!(
                    text(&conn, "current_setting('search_path')").await,
                    "pg_catalog, pg_temp"
                );
            } else {
                // A setting of ours would be found by whoever gets the process next.
                assert_ne!(text(&conn, "current_setting('lock_timeout')").await, "5s");
            }
        }
        let mut told = config(&bouncer.url());
        told.pooler = Pooler::Transaction;
        let conn = server_of(told).connect(Purpose::Check, Route::Pooled).await.unwrap();
        assert!(!conn.has_session_state(), "as configured");
        // Which is said of `url`; `direct_url` goes past it.
        let mut both = config(&bouncer.url());
        both.pooler = Pooler::Transaction;
        both.direct_url = Some(SecretSource::Inline(Secret::new(shared().tcp("worker"))));
        let conn = server_of(both).connect(Purpose::Check, Route::Direct).await.unwrap();
        assert_eq!(conn.between(), Between::Nothing);
    }
    assert_eq!(connect(&shared().tcp("worker")).await.between(), Between::Nothing);
}

#[tokio::test]
async fn a_thousand_statements_in_transaction_mode() {
    let bouncer = PgBouncer::start(shared(), "transaction").await;
    let server = server_of(config(&bouncer.url()));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            let mut conn = server.connect(Purpose::Job, Route::Pooled).await.unwrap();
            for n in 0..125_i32 {
                let row = conn.row("double", "SELECT $1 * 2", &[(&n, Type::INT4)]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), n * 2);
                if n % 25 == 0 {
                    let bound = conn
                        .transaction(&TxOptions::within(Duration::from_secs(7)), |tx| {
                            Box::pin(async move {
                                let row = tx
                                    .row(
                                        "bound",
                                        "SELECT current_setting('statement_timeout')",
                                        &[],
                                    )
                                    .await?;
                                Ok(row.get::<_, String>(0))
                            })
                        })
                        .await
                        .unwrap();
                    assert_eq!(bound, "7s", "settings hold inside the transaction");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn cancels_reach_the_server_and_leave_pgbouncer_alive() {
    let mut bouncer = PgBouncer::start(shared(), "transaction").await;
    let conn = connect(&bouncer.url()).await;
    let canceller = conn.canceller();
    for round in 0..30 {
        let marker = format!("SELECT pg_sleep(60) /* {} round {round} */", bouncer.port);
        let running = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{marker}'"
        );
        let (outcome, error) = tokio::join!(
            async {
                wait_until("it runs", async || {
                    let running = running.clone();
                    tokio::task::spawn_blocking(move || shared().run(&running)).await.unwrap()
                        == "1"
                })
                .await;
                canceller.cancel(Duration::from_secs(10)).await
            },
            conn.batch("sleep", &marker),
        );
        assert_eq!(outcome, CancelOutcome::Ended, "round {round}");
        assert_eq!(error.unwrap_err().kind(), Kind::Cancelled, "round {round}");
    }
    bouncer.assert_alive();
    assert_eq!(text(&conn, "1").await, "1");
}

#[tokio::test]
async fn nobody_is_terminated_through_a_pooler() {
    let bouncer = PgBouncer::start(shared(), "transaction").await;
    let conn = connect(&bouncer.url()).await;
    let canceller = conn.canceller();
    let stubborn = format!(
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60) /* {} */; EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$",
        bouncer.port
    );
    let pid = format!(
        "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO%/* {} */%'",
        bouncer.port
    );
    let look = async || {
        let pid = pid.clone();
        tokio::task::spawn_blocking(move || shared().run(&pid)).await.unwrap()
    };
    let outcome = tokio::select! {
        outcome = async {
            wait_until("it runs", async || look().await != "0").await;
            canceller.cancel(Duration::from_secs(2)).await
        } => outcome,
        ended = conn.batch("swallow", &stubborn) => panic!("it ended: {ended:?}"),
    };
    assert_eq!(outcome, CancelOutcome::Unconfirmed);
    let pid = look().await;
    assert_ne!(pid, "0", "it still runs");
    tokio::task::spawn_blocking(move || {
        shared().run(&format!("SELECT pg_terminate_backend({pid})"))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn its_refusals_have_kinds() {
    let bouncer = PgBouncer::start(shared(), "transaction").await;
    for (rest, kind, says) in [
        ("password=wrong", Kind::Auth, "failed"),
        ("user=nobody_like_this", Kind::Auth, "fail"),
        ("dbname=missing", Kind::UnknownDatabase, "missing"),
        ("options='-c geqo=off'", Kind::Config, "ignore_startup_parameters"),
        ("sslmode=require", Kind::Tls, "does not offer TLS"),
    ] {
        let error = try_connect(&format!("{} {rest}", bouncer.url())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{rest}: {error}");
        assert!(error.to_string().contains(says), "{rest}: {error}");
    }
}
