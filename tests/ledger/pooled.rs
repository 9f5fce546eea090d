//! The same through a transaction pooler, where each transaction may meet another server process.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use futures_util::future::join_all;
use pgsteward::config::Pooler;
use pgsteward::db::TxOptions;
use pgsteward::store::claims::{ClaimKind, ClaimResult, SkipReason, Verdict};
use pgsteward::store::requests::poll_requests;
use pgsteward::store::runs::{self, RunState};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::{BOUND, Template, TestDatabase, connect, wait_until};
use crate::{Bench, LEASE, ended, fence, is_fenced};

/// PgBouncer in transaction mode before a database, with few server connections for many clients.
struct PgBouncer {
    process: Child,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    async fn start(database: &TestDatabase) -> PgBouncer {
        let base = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let dir = tempfile::Builder::new().prefix("pgsteward-ledger-").tempdir_in(base).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = database.server();
        let ini = dir.path().join("ini");
        fs::write(
            &ini,
            format!(
                "[databases]\n{0} = host={1} port={2} dbname={0} user=postgres password='{3}'\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = transaction\ndefault_pool_size = 3\nquery_wait_timeout = 20\npidfile =\nlogfile = {4}/log\n",
                database.name(),
                server.socket_dir.display(),
                server.port,
                server.password,
                dir.path().display(),
            ),
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        // It refuses root.
        if rustix::process::geteuid().is_root() {
            let users = fs::read_to_string("/etc/passwd").unwrap();
            let line = users
                .lines()
                .find(|line| line.starts_with("postgres:"))
                .expect("a user to run servers as");
            let ids: Vec<u32> =
                line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
            command.uid(ids[0]).gid(ids[1]);
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
            for path in [dir.path(), &ini] {
                chown(path, Some(ids[0]), Some(ids[1])).unwrap();
            }
        }
        let process = command
            .arg("-q")
            .arg(&ini)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "no pgbouncer ({error}): apt-get install -y --no-install-recommends pgbouncer"
                )
            });
        let bouncer = PgBouncer { process, port, _dir: dir };
        let url = bouncer.url(database);
        wait_until("pgbouncer answers", BOUND, async || connect(&url).await.is_ok()).await;
        bouncer
    }

    fn url(&self, database: &TestDatabase) -> String {
        format!("postgresql://anybody@127.0.0.1:{}/{}", self.port, database.name())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn bench() -> (Bench, PgBouncer) {
    let database = TestDatabase::create(Template::Migrated).await;
    let bouncer = PgBouncer::start(&database).await;
    let url = bouncer.url(&database);
    (Bench::over(database, &url, Pooler::Transaction).await, bouncer)
}

/// Caught: a named statement, a session-level lock or setting, a temporary table.
#[tokio::test]
async fn the_whole_life_of_runs_goes_through_a_transaction_pooler() {
    let (bench, _bouncer) = bench().await;
    assert!(!bench.conn().await.has_session_state());
    for round in 1..=5 {
        let ask = bench.ask(bench.only(60 * round)).await;
        let answers = join_all((0..8).map(|_| bench.claim(&ask))).await;
        let runs: Vec<_> = answers.iter().filter_map(|answer| answer.run).collect();
        assert_eq!(runs.len(), 1, "{answers:?}");
        let lost =
            |answer: &&ClaimResult| matches!(answer.verdict, Verdict::Stale | Verdict::Defer);
        assert_eq!(answers.iter().filter(lost).count(), 7, "{answers:?}");
        let conn = &mut bench.conn().await;
        assert!(!is_fenced(fence(conn, runs[0].id, 1).await));
        assert_eq!(runs::renew(conn, &[(runs[0].id, 1)], LEASE, BOUND).await.unwrap().len(), 1);
        assert!(bench.finish(runs[0], RunState::Succeeded).await);
        assert!(is_fenced(fence(conn, runs[0].id, 1).await));
    }
    bench.record(&[bench.missed(301, 302, 2, SkipReason::Misfire)]).await;
    bench.record(&[bench.missed(303, 303, 1, SkipReason::Misfire)]).await;
    let id = bench.queued_by_wish().await;
    assert_eq!(poll_requests(&bench.conn().await, &[], BOUND).await.unwrap().queued[0].id, id);
    let run =
        bench.claim(&bench.ask(ClaimKind::Queued { id, skip: None }).await).await.run.unwrap();
    bench.let_expire(run.id).await;
    assert_eq!(bench.reap().await.len(), 1);
    assert!(!bench.finish(run, RunState::Succeeded).await);
    let outcomes = "SELECT string_agg(concat(state, ' ', coalesce(missed_count, n)), ', ' ORDER BY state) FROM \
                    (SELECT state, missed_count, count(*) AS n FROM steward.job_runs GROUP BY 1, 2) AS o";
    assert_eq!(bench.text(outcomes).await, "lost 1, skipped 3, succeeded 5");
}

/// The take-over while a fenced transaction is open, and the record in the transaction of the effect.
#[tokio::test]
async fn fences_hold_through_a_transaction_pooler() {
    let (bench, _bouncer) = bench().await;
    bench.sql("CREATE TABLE public.effect (n int)").await;
    let run = bench.running(1).await;
    let end = &ended(run, RunState::Succeeded);
    let mut worker = bench.conn().await;
    let (inside, is_inside) = oneshot::channel();
    let (go, may_go) = oneshot::channel::<()>();
    let mut doors = Some((inside, may_go));
    let options = TxOptions::within(BOUND);
    let writing = async {
        let work = worker.transaction(&options, |tx| {
            let doors = doors.take();
            Box::pin(async move {
                runs::fence(tx, run.id, run.epoch).await?;
                let (inside, may_go) = doors.expect("it runs once");
                inside.send(()).expect("the test waits");
                may_go.await.expect("the test lets it go");
                tx.execute("write", "INSERT INTO public.effect VALUES (1)", &[]).await?;
                runs::finish_in(tx, end).await
            })
        });
        work.await
    };
    let reaping = async {
        is_inside.await.unwrap();
        bench.let_expire(run.id).await;
        assert_eq!(bench.reap().await, [], "reaped under an open fenced transaction");
        go.send(()).unwrap();
    };
    let (recorded, ()) = tokio::join!(writing, reaping);
    assert!(recorded.unwrap());
    assert_eq!(bench.states().await, "succeeded");
    assert_eq!(bench.reap().await, []);

    let run = bench.running(60).await;
    bench.let_expire(run.id).await;
    assert_eq!(bench.reap().await.len(), 1);
    let end = &ended(run, RunState::Succeeded);
    let late = worker
        .transaction(&options, |tx| {
            Box::pin(async move {
                tx.execute("write", "INSERT INTO public.effect VALUES (2)", &[]).await?;
                runs::fence(tx, end.id, end.epoch).await?;
                runs::finish_in(tx, end).await
            })
        })
        .await;
    assert!(is_fenced(late));
    assert_eq!(
        bench.number("SELECT sum(n) FROM public.effect").await,
        1,
        "the dead run wrote nothing"
    );
    assert_eq!(bench.states().await, "succeeded, lost lease_expired");
}
