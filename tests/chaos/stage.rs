//! A database with jobs that leave effects, and gates at which their runs can be held.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;

use crate::account::Account;
use crate::harness::{
    BOUND, Daemon, Setup, Template, TestClient, TestDatabase, connect, http, wait_for, wait_until,
};

/// What every configuration here begins with: a lane for each job.
fn config(database: &str, lease: &str, jobs: &str) -> String {
    format!("[database]\n{database}\n[jobs]\nmax_concurrent = 8\nlease = \"{lease}\"\n{jobs}")
}

/// Effects name their run, so that they can be counted against the ledger, and carry no constraint:
/// a second one is to be seen, not refused.
const TABLES: &str = "
    CREATE TABLE public.effects (
        run_id uuid NOT NULL, job text NOT NULL, due_at timestamptz NOT NULL, at timestamptz NOT NULL,
        pid int NOT NULL DEFAULT pg_backend_pid());
    CREATE TABLE public.commits (job text NOT NULL);
    CREATE FUNCTION public.gate(number int) RETURNS void LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(7, number); END $$;
    CREATE FUNCTION public.gate_here() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM public.gate(TG_ARGV[0]::int); RETURN NEW; END $$;";

/// A database of one test on the shared server.
pub struct Stage {
    pub database: TestDatabase,
    pub client: TestClient,
}

impl Stage {
    pub async fn new() -> Stage {
        let database = TestDatabase::create(Template::Migrated).await;
        let client = database.client().await;
        prepare(&client).await;
        Stage { database, client }
    }

    /// A daemon with these jobs, past the proxy of none.
    pub fn setup(&self, jobs: &str) -> Setup {
        setup(&self.database.url(), jobs)
    }

    pub async fn close(&self, number: i32) -> RunPolicy {
        RunPolicy::close(&self.database.url(), number).await
    }
}

/// Makes the table of effects and the gates.
pub async fn prepare(client: &TestClient) {
    client.batch_execute(TABLES).await.unwrap();
}

/// A daemon with these jobs; its leases are as short as they may be.
pub fn setup(url: &str, jobs: &str) -> Setup {
    Setup::new().database(url).config(&config("connect_timeout = \"2s\"", "5s", jobs))
}

/// The same with a lease that outlasts what the test does.
pub fn patient(url: &str, jobs: &str) -> Setup {
    Setup::new().database(url).config(&config("connect_timeout = \"2s\"", "15s", jobs))
}

/// The same with short leases, and jobs that connect by another address, for as long as it takes.
pub fn by_way_of(url: &str, direct_url: &str, jobs: &str) -> Setup {
    let database = format!("connect_timeout = \"60s\"\ndirect_url = \"{direct_url}\"");
    Setup::new().database(url).config(&config(&database, "5s", jobs))
}

/// A job due each second.
pub fn job(name: &str, sql: &str, more: &str) -> String {
    format!(
        "[jobs.{name}]\nschedule = \"@every 1s\"\ntimeout = \"60s\"\nlock_timeout = \"1h\"\n{more}\n\
         sql = '''\n{sql}\n'''\n"
    )
}

/// SQL that leaves an effect of the job's run.
pub fn effect(name: &str) -> String {
    format!(
        "INSERT INTO public.effects SELECT id, job, due_at, clock_timestamp() FROM steward.job_runs \
         WHERE job = '{name}' AND state = 'running'"
    )
}

/// Runs wait here while it is closed: at a call of `public.gate`, or a trigger on `public.gate_here`.
pub struct RunPolicy {
    holder: TestClient,
    number: i32,
}

impl RunPolicy {
    pub async fn close(url: &str, number: i32) -> RunPolicy {
        let holder = connect(url).await.unwrap();
        holder.batch_execute(&format!("SELECT pg_advisory_lock(7, {number})")).await.unwrap();
        RunPolicy { holder, number }
    }

    /// Waits until a session waits here; returns its process.
    pub async fn reached(&self) -> i64 {
        let sql = format!(
            "SELECT coalesce(min(l.pid), 0) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
              WHERE l.locktype = 'advisory' AND l.classid = 7 AND l.objid = {} AND NOT l.granted
                AND d.datname = current_database()",
            self.number
        );
        wait_for(&format!("gate {} is reached", self.number), BOUND, async || {
            Some(self.holder.number(&sql).await).filter(|pid| *pid != 0)
        })
        .await
    }

    pub async fn open(self) {
        let unlock = format!("SELECT pg_advisory_unlock(7, {})", self.number);
        assert_eq!(self.holder.text(&unlock).await, "t");
    }
}

/// Waits until a query's only value is what is wanted.
pub async fn wait_sql(client: &TestClient, sql: &str, wanted: impl Fn(i64) -> bool) {
    wait_until(sql, BOUND, async || wanted(client.number(sql).await)).await;
}

/// The run of a job that is under way, once there is one.
pub async fn running(client: &TestClient, job: &str) -> String {
    let sql = format!(
        "SELECT coalesce((SELECT id::text FROM steward.job_runs WHERE job = '{job}' AND state = 'running'), '')"
    );
    wait_for(&format!("a run of {job}"), BOUND, async || {
        Some(client.text(&sql).await).filter(|id| !id.is_empty())
    })
    .await
}

/// State and reason of a run.
pub async fn outcome(client: &TestClient, run: &str) -> String {
    client
        .text(&format!(
            "SELECT concat_ws(' ', state, reason) FROM steward.job_runs WHERE id = '{run}'"
        ))
        .await
}

/// Waits until a run ended so.
pub async fn wait_outcome(client: &TestClient, run: &str, wanted: &str) {
    let mut last = String::new();
    let asking = wait_until("", BOUND * 2, async || {
        last = outcome(client, run).await;
        last == wanted
    });
    if tokio::time::timeout(BOUND, asking).await.is_err() {
        panic!("run {run} is {last:?}, not {wanted:?}");
    }
}

/// Waits until server processes are gone.
pub async fn gone(client: &TestClient, pids: &[i64]) {
    let pids: Vec<String> = pids.iter().map(i64::to_string).collect();
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid IN ({})", pids.join(", "));
    wait_sql(client, &sql, |left| left == 0).await;
}

/// Waits until each job has ended a run that came due after now: whatever was, it is over.
pub async fn settle(client: &TestClient, jobs: &[&str]) {
    let now = client.text("SELECT clock_timestamp()").await;
    for job in jobs {
        let sql = format!(
            "SELECT count(*) FROM steward.job_runs WHERE job = '{job}' AND kind = 'scheduled'
                AND due_at > '{now}' AND finished_at IS NOT NULL"
        );
        wait_sql(client, &sql, |runs| runs > 0).await;
    }
}

/// Waits until the jobs run again, stops the daemons in order, and checks each job's account.
pub async fn close_accounts(
    client: &TestClient,
    daemons: Vec<Daemon>,
    jobs: &[&str],
) -> Vec<Account> {
    settle(client, jobs).await;
    for daemon in daemons {
        assert_eq!(daemon.terminate().await.code(), Some(0));
    }
    let mut accounts = Vec::new();
    for job in jobs {
        let account = Account::read(client, job, 1).await;
        account.check();
        accounts.push(account);
    }
    accounts
}

/// Asks a path again and again; every answer has to be 200.
pub struct Watch {
    asking: JoinHandle<()>,
    asked: Arc<AtomicUsize>,
}

impl Watch {
    pub fn livez(address: SocketAddr) -> Watch {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let asking = tokio::spawn(async move {
            loop {
                let answer = http::get(address, "/livez").await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        Watch { asking, asked }
    }

    /// Panics if one was not.
    pub async fn end(self) {
        self.asking.abort();
        match self.asking.await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => assert!(self.asked.load(Ordering::SeqCst) > 0, "nothing was asked"),
        }
    }
}
