//! A migrated database on its own server, with functions that seal, verify and prove.

use std::sync::Arc;
use std::time::Duration;

use pgsteward::audit::verify::{Verification, VerifyOptions, verify};
use pgsteward::audit::{Head, prove, seal};
use pgsteward::config::{self, Secret, SecretSource};
use pgsteward::db::{Database, Error, Purpose, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::migrate::{self, source};
use pgsteward::sets::STEWARD;
use pgsteward::store::seals::Seal;
use pgsteward::store::{audit, audit_rows};
use pgsteward::telemetry::Metrics;
use uuid::Uuid;

use crate::harness::{PrivateServer, TestClient, connect};

pub struct AuditFixture {
    pub admin: TestClient,
    pub db: Arc<Database>,
    _tasks: Tasks,
    pub server: PrivateServer,
}

impl AuditFixture {
    pub async fn new() -> AuditFixture {
        AuditFixture::with(&[]).await
    }

    pub async fn with(settings: &[(&str, &str)]) -> AuditFixture {
        let fixture = AuditFixture::bare(settings).await;
        fixture.migrate().await;
        fixture
    }

    /// A server without any migration applied.
    pub async fn bare(settings: &[(&str, &str)]) -> AuditFixture {
        let server = PrivateServer::start(settings).await;
        let (db, tasks) = database(&server.url());
        AuditFixture { admin: server.client().await, db, _tasks: tasks, server }
    }

    pub async fn migrate(&self) {
        let sets = [source::bundled(&STEWARD)];
        let options = migrate::Options::new(&config::Config::default().migrations, "test");
        migrate::up(&self.db, &sets, &options).await.unwrap();
        // Removes the events that the migrations themselves recorded.
        self.sql("TRUNCATE steward.audit_logs").await;
    }

    /// Connects again after the server was restarted.
    pub async fn reconnect(&mut self) {
        let (db, tasks) = database(&self.server.url());
        self.admin = connect(&self.server.url()).await.unwrap();
        (self.db, self._tasks) = (db, tasks);
    }

    pub async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Logs events `first..=last`, each in a transaction of its own.
    pub async fn log(&self, first: u32, last: u32) {
        for n in first..=last {
            self.sql(&format!(
                "SELECT steward.log_audit_event('test.event', user_id => 'u{n}', details => '{{\"n\": {n}}}')"
            ))
            .await;
        }
    }

    /// Appends one seal.
    pub async fn seal_one(&self) -> Result<seal::Appended, Error> {
        let mut conn = self.db.acquire(Purpose::Job).await?;
        let options = audit_rows::by_index(TxOptions::within(Duration::from_secs(60)));
        conn.transaction(&options, |tx| Box::pin(seal::append_rows(tx, "test"))).await
    }

    /// Seals all rows that can be sealed.
    pub async fn seal(&self) -> Vec<Seal> {
        let mut seals = Vec::new();
        loop {
            let appended = self.seal_one().await.unwrap();
            seals.extend(appended.seal);
            if !appended.more {
                return seals;
            }
        }
    }

    pub async fn verify(&self) -> Verification {
        self.verify_against(&[]).await
    }

    pub async fn verify_against(&self, against: &[Head]) -> Verification {
        let options =
            VerifyOptions { against: against.to_vec(), min_keep: Duration::from_secs(30 * 86_400) };
        verify(&mut self.db.acquire(Purpose::Check).await.unwrap(), &options).await.unwrap()
    }

    pub async fn prove(&self, id: Uuid, to: Option<i64>) -> prove::ProofResult {
        let mut conn = self.db.acquire(Purpose::Check).await.unwrap();
        let options = TxOptions::within(Duration::from_secs(60)).read_only();
        conn.transaction(&options, |tx| Box::pin(prove::prove(tx, id, to))).await.unwrap()
    }

    /// The time of the oldest row that is not sealed.
    pub async fn unsealed_since(&self) -> Option<chrono::DateTime<chrono::Utc>> {
        let conn = &mut *self.db.acquire(Purpose::Check).await.unwrap();
        audit::read_status(conn, Duration::from_secs(10)).await.unwrap().unsealed_since
    }

    /// The id of an event of [`AuditFixture::log`].
    pub async fn id(&self, n: u32) -> Uuid {
        let sql = format!("SELECT id FROM steward.audit_logs WHERE user_id = 'u{n}'");
        self.admin.text(&sql).await.parse().unwrap()
    }
}

fn database(url: &str) -> (Arc<Database>, Tasks) {
    let config = config::Database {
        url: Some(SecretSource::Inline(Secret::new(url))),
        pooler: config::Pooler::None,
        ..config::Database::default()
    };
    let tasks = Tasks::new();
    let db = Database::new("test", &config, 2, &tasks, &Arc::new(Metrics::new().unwrap()));
    (db, tasks)
}
