//! A job's context, built by hand over a database of the test's own.

use std::sync::Arc;
use std::time::Duration;

use pgsteward::config::{self, Builtin, Config, JobName, RetentionTable, Secret, SecretSource};
use pgsteward::db::{Database, Error, Purpose, TxOptions};
use pgsteward::jobs::progress::Progresses;
use pgsteward::jobs::retention::{preview, targets};
use pgsteward::jobs::{self, Context, Report};
use pgsteward::lifecycle::Tasks;
use pgsteward::sets::{self, Manifest};
use pgsteward::store::requests::RunOptions;
use pgsteward::telemetry::Metrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{BOUND, Role, Template, TestClient, TestDatabase, wait_until};

pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy)]
pub enum Job {
    Partitions,
    Retention,
    Vacuum,
    Refresh,
    AuditSeal,
}

impl Job {
    fn builtin(self) -> Builtin {
        match self {
            Job::Partitions => Builtin::Partitions,
            Job::Retention => Builtin::Retention,
            Job::Vacuum => Builtin::Vacuum,
            Job::Refresh => Builtin::Refresh,
            Job::AuditSeal => Builtin::AuditSeal,
        }
    }

    fn name(self) -> &'static str {
        self.builtin().as_str()
    }
}

/// A migrated database, a superuser to look with, and what a job is given.
pub struct Bench {
    pub admin: TestClient,
    pub config: Config,
    pub sets: Vec<&'static Manifest>,
    pub timeout: Duration,
    pub stop: CancellationToken,
    /// What the job believes to stand between.
    pub pooler: config::Pooler,
    pub metrics: Arc<Metrics>,
    url: String,
    tasks: Tasks,
    // Last, so that it is dropped after those that use it.
    pub database: TestDatabase,
}

impl Bench {
    pub async fn new() -> Bench {
        let database = TestDatabase::create(Template::Migrated).await;
        Bench {
            admin: database.client().await,
            config: config(),
            sets: sets::applied(&[]),
            timeout: Duration::from_secs(60),
            stop: CancellationToken::new(),
            pooler: config::Pooler::None,
            metrics: Arc::new(Metrics::new().unwrap()),
            url: database.url(),
            tasks: Tasks::new(),
            database,
        }
    }

    /// Runs jobs as a role that owns pgsteward's schema and is no superuser.
    pub async fn as_steward(&mut self) -> Role {
        let role = self.database.role("steward", "").await;
        // A member of a superuser has what he owns, not what he is.
        self.sql(&format!("GRANT postgres TO {}", role.name)).await;
        self.url.clone_from(&role.url);
        role
    }

    /// Runs jobs as a role that may use pgsteward's schema and owns nothing.
    pub async fn run_as(&mut self, role: &Role) {
        let name = &role.name;
        self.sql(&format!(
            "GRANT USAGE ON SCHEMA steward TO {name}; GRANT ALL ON ALL TABLES IN SCHEMA steward TO {name};
                           GRANT EXECUTE ON FUNCTION steward.uuid_v7 TO {name};
                           ALTER ROLE {name} BYPASSRLS"
        ))
        .await;
        self.url.clone_from(&role.url);
    }

    /// The statement that lets `role` vacuum or refresh what `owner` owns, by this server's version.
    pub async fn maintain_grant(&self, relation: &str, owner: &Role, role: &Role) -> String {
        if self.admin.number("SELECT current_setting('server_version_num')").await >= 170_000 {
            format!("GRANT MAINTAIN ON {relation} TO {}", role.name)
        } else {
            format!("GRANT {} TO {}", owner.name, role.name)
        }
    }

    pub async fn database_name(&self) -> String {
        self.admin.text("SELECT current_database()").await
    }

    pub async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.admin.number(&format!("SELECT count(*) FROM {table}")).await
    }

    pub fn keep(&mut self, table: &str, column: &str, keep: Duration) {
        let rule = RetentionTable { column: column.to_owned(), keep };
        self.config.retention.tables.insert(table.to_owned(), rule);
    }

    /// Waits until the job's session waits for a lock.
    pub async fn job_waits_for_lock(&self) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND application_name = 'pgsteward/job' AND wait_event_type = 'Lock'";
        wait_until("the job waits for a lock", crate::harness::BOUND, async || {
            self.admin.number(sql).await > 0
        })
        .await;
    }

    /// The database as a job or a command opens it.
    pub fn open(&self) -> Arc<Database> {
        let url = Some(SecretSource::Inline(Secret::new(&self.url)));
        let settings = config::Database { url, pooler: self.pooler, ..config::Database::default() };
        Database::new("main", &settings, 2, &self.tasks, &self.metrics)
    }

    /// One run, claimed and closed as the runner does it.
    pub async fn run(&self, job: Job) -> Result<Report, Error> {
        let db = self.open();
        let config = Arc::new(self.config.clone());
        let run_id = Uuid::now_v7();
        self.sql(&format!(
            "INSERT INTO steward.job_runs (id, job, kind, due_at, state, instance, epoch, lease_until, started_at)
             VALUES ('{run_id}', '{}', 'scheduled', clock_timestamp(), 'running', 'test', 1,
                     clock_timestamp() + interval '10 minutes', clock_timestamp())",
            job.name()
        ))
        .await;
        let mut conn = db.acquire(Purpose::Job).await.unwrap();
        let settings = "SELECT name || ' = ' || setting FROM pg_settings WHERE category <> 'Customized Options'";
        let session = conn.batch_values("read settings", settings).await.unwrap();
        let name = JobName::from(job.builtin());
        let mut ctx = Context {
            db: &db,
            config: &config,
            metrics: &self.metrics,
            conn: &mut conn,
            run_id,
            epoch: 1,
            deadline: Instant::now() + self.timeout,
            stop: self.stop.clone(),
            sets: &self.sets,
            job: &name,
            spec: &config.jobs.all[&name],
            unfenced: false,
            attempt: 1,
            progress: &Progresses::default(),
            options: RunOptions::default(),
        };
        let outcome = match job {
            Job::Partitions => jobs::partitions::run(&mut ctx).await,
            Job::Retention => jobs::retention::run(&mut ctx).await,
            Job::Vacuum => jobs::vacuum::run(&mut ctx).await,
            Job::Refresh => jobs::refresh::run(&mut ctx).await,
            Job::AuditSeal => jobs::seal::run(&mut ctx).await,
        };
        // The next user of the connection relies on what the login set.
        let now = conn.batch_values("read settings", settings).await;
        let now = now.expect("the connection outlives its job");
        let left: Vec<_> =
            now.iter().filter(|setting| !session.contains(setting)).flatten().collect();
        assert!(left.is_empty(), "{job:?} left {left:?}");
        let (state, detail) = match &outcome {
            Ok(report) if report.failure.is_none() => ("succeeded", report.detail.clone()),
            Ok(report) => ("failed", report.detail.clone()),
            Err(_) => ("failed", serde_json::Value::Null),
        };
        let close = "UPDATE steward.job_runs SET state = $1, detail = $2, finished_at = clock_timestamp() WHERE id = $3";
        self.admin.execute(close, &[&state, &detail, &run_id]).await.unwrap();
        match outcome {
            Ok(Report { failure: Some(error), .. }) => Err(error),
            outcome => outcome,
        }
    }

    /// What retention would remove now.
    pub async fn previews(&self) -> Vec<preview::Preview> {
        let db = self.open();
        let mut conn = db.acquire(Purpose::Job).await.unwrap();
        let targets = &targets::targets(&self.config, &self.sets);
        let mut options = TxOptions::within(BOUND).read_only();
        options.prelude = "SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'; ".to_owned();
        conn.transaction(&options, |tx| {
            Box::pin(async move {
                let mut previews = Vec::new();
                for target in targets {
                    previews.push(preview::look(tx, target).await?);
                }
                Ok(previews)
            })
        })
        .await
        .unwrap()
    }

    /// What the newest run of a job wrote down.
    pub async fn last_detail(&self, job: Job) -> serde_json::Value {
        let sql = "SELECT detail FROM steward.job_runs WHERE job = $1 ORDER BY due_at DESC LIMIT 1";
        self.admin.query_one(sql, &[&job.name()]).await.unwrap().get(0)
    }
}

/// The defaults, without pauses.
fn config() -> Config {
    let mut config = Config::default();
    config.retention.duty = 1.0;
    config
}
