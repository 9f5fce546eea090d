//! A runner over a database of the test's own, and jobs as a configuration says them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgsteward::config::{self, Args, Config, JobName, Pooler, Secret, SecretSource};
use pgsteward::db::Database;
use pgsteward::lifecycle::Tasks;
use pgsteward::scheduler::RuntimeStatus;
use pgsteward::scheduler::ledger::Ledger;
use pgsteward::scheduler::runner::{ClaimedRun, Runner};
use pgsteward::scheduler::worker_slots::WorkerSlots;
use pgsteward::sets::applied;
use pgsteward::telemetry::Metrics;
use serde_json::Value;
use uuid::Uuid;

use crate::harness::{BOUND, Template, TestClient, TestDatabase, wait_for, wait_until};

pub const JOB: &str = "own";
const LEASE: Duration = Duration::from_secs(600);

/// A run's row, ended.
#[derive(Debug)]
pub struct Run {
    pub state: String,
    pub reason: String,
    pub error: String,
    pub rows: i64,
    pub detail: Value,
    pub attempts: i32,
    pub fenced: Option<bool>,
    pub backend: Option<i32>,
}

impl Run {
    #[track_caller]
    pub fn succeeded(self) -> Run {
        assert_eq!(self.state, "succeeded", "{self:?}");
        assert_eq!((self.reason.as_str(), self.error.as_str()), ("", ""), "{self:?}");
        self
    }

    /// Ended so, and the error holds each of these.
    #[track_caller]
    pub fn ended(self, state: &str, reason: &str, texts: &[&str]) -> Run {
        assert_eq!((self.state.as_str(), self.reason.as_str()), (state, reason), "{self:?}");
        for text in texts {
            assert!(self.error.contains(text), "no {text:?} in: {}", self.error);
        }
        self
    }
}

pub struct Stage {
    pub admin: TestClient,
    pub db: Arc<Database>,
    pub runner: Arc<Runner>,
    pub config: Config,
    worker_slots: WorkerSlots,
    url: String,
    // Last, so that it is dropped after those that use it.
    pub database: TestDatabase,
}

impl Stage {
    pub async fn new() -> Stage {
        let database = TestDatabase::create(Template::Migrated).await;
        let url = database.url();
        Stage::over(database, &url, Pooler::None).await
    }

    /// Where the daemon reaches the database by this address.
    pub async fn over(database: TestDatabase, url: &str, pooler: Pooler) -> Stage {
        let admin = database.client().await;
        let (db, runner) = runner(url, pooler);
        let (config, url) = (Config::default(), url.to_owned());
        Stage { admin, db, runner, config, worker_slots: WorkerSlots::new(2), url, database }
    }

    pub async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.admin.number(&format!("SELECT count(*) FROM {table}")).await
    }

    /// Claims and starts a run of a job as `[jobs.own]` says it.
    pub async fn start(&self, job: &str) -> Uuid {
        let id = claim(&self.admin).await;
        let order = order(&self.url, job, id, &self.config);
        let lane = self.worker_slots.take(&order.spec).expect("a lane is free");
        self.runner.start(order, lane);
        id
    }

    pub async fn run(&self, job: &str) -> Run {
        let id = self.start(job).await;
        self.ended(id).await
    }

    pub async fn ended(&self, id: Uuid) -> Run {
        ended(&self.admin, &self.runner, id).await
    }

    /// Waits until the job's session shows up so: a condition on `pg_stat_activity`.
    pub async fn job_is(&self, what: &str, condition: &str) -> i32 {
        let sql = format!(
            "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name LIKE 'pgsteward/job%' AND {condition}"
        );
        let pid = wait_for(what, BOUND, async || {
            Some(self.admin.number(&sql).await).filter(|pid| *pid > 0)
        })
        .await;
        i32::try_from(pid).unwrap()
    }
}

pub fn runner(url: &str, pooler: Pooler) -> (Arc<Database>, Arc<Runner>) {
    let (tasks, metrics) = (Tasks::new(), Arc::new(Metrics::new().unwrap()));
    let url = Some(SecretSource::Inline(Secret::new(url)));
    let settings = config::Database { url, pooler, ..config::Database::default() };
    // One connection for jobs: each run has the session of the one before.
    let db = Database::new("main", &settings, 1, &tasks, &metrics);
    let ledger =
        Arc::new(Ledger::new(Arc::clone(&db), "test/1".to_owned(), LEASE, Arc::clone(&metrics)));
    let runner =
        Runner::new(Arc::clone(&db), ledger, metrics, Arc::new(RuntimeStatus::default()), tasks);
    (db, runner)
}

pub fn order(url: &str, job: &str, id: Uuid, base: &Config) -> ClaimedRun {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, format!("[jobs.{JOB}]\n{job}\n")).unwrap();
    let environment = BTreeMap::from([("DATABASE_URL".to_owned(), url.to_owned())]);
    let args = Args { path: Some(path), ..Args::default() };
    let read = config::load(&args, &environment)
        .unwrap_or_else(|problems| panic!("{job}: {problems}"))
        .config;
    let name = JobName::new(JOB);
    let spec = read.jobs.all[&name].clone();
    let config = Arc::new(Config { mode: base.mode, ..read });
    ClaimedRun { job: name, spec, id, epoch: 1, lag: Duration::ZERO, config, sets: applied(&[]) }
}

/// A running row with the job's slot, as a claim makes them.
pub async fn claim(admin: &TestClient) -> Uuid {
    let id = Uuid::now_v7();
    let sql = format!(
        "INSERT INTO steward.job_state (job) VALUES ('{JOB}') ON CONFLICT DO NOTHING;
         INSERT INTO steward.job_runs (id, job, kind, due_at, state, instance, epoch, lease_until, started_at)
         VALUES ('{id}', '{JOB}', 'scheduled', clock_timestamp(), 'running', 'test/1', 1,
                 clock_timestamp() + interval '10 minutes', clock_timestamp());
         UPDATE steward.job_state SET running_run_id = '{id}', running_since = now() WHERE job = '{JOB}'"
    );
    admin.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    id
}

pub async fn ended(admin: &TestClient, runner: &Runner, id: Uuid) -> Run {
    let over =
        format!("SELECT count(*) FROM steward.job_runs WHERE id = '{id}' AND state <> 'running'");
    // Longer than a retry and a cancel that has to be proven.
    wait_until("the run ends", BOUND * 2, async || {
        admin.number(&over).await == 1 && runner.count() == 0
    })
    .await;
    let sql = "SELECT state, coalesce(reason, ''), coalesce(error, ''), coalesce(rows_affected, -1), detail,
                      attempts, fenced, backend_pid FROM steward.job_runs WHERE id = $1";
    let row = admin.query_one(sql, &[&id]).await.unwrap();
    Run {
        state: row.get(0),
        reason: row.get(1),
        error: row.get(2),
        rows: row.get(3),
        detail: row.get::<_, Option<Value>>(4).unwrap_or_default(),
        attempts: row.get(5),
        fenced: row.get(6),
        backend: row.get(7),
    }
}
