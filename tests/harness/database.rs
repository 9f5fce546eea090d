//! A database per test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsteward::config;
use pgsteward::db::Database;
use pgsteward::lifecycle::Tasks;
use pgsteward::migrate::{self, source};
use pgsteward::sets::BUNDLED;
use pgsteward::telemetry::Metrics;
use tokio_postgres::error::SqlState;

use super::{BOUND, TestClient, TestServer, background, connect, server};

/// What a database starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// Nothing.
    Empty,
    /// pgsteward's own schema and the set `zentry`, applied.
    Migrated,
}

/// A database of one test; dropped with it, connections or not.
pub struct TestDatabase {
    server: &'static TestServer,
    name: String,
    roles: Vec<String>,
}

/// A login role of one test's.
#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub password: String,
    /// To the test's database, through the Unix socket.
    pub url: String,
}

const MIGRATED: &str = "pgsteward_template_migrated";
/// Any number, the same in every test process.
const TEMPLATE_LOCK: i64 = 0x7073_7465;

impl TestDatabase {
    /// Clones the template; the first who wants the migrated one of a run builds it.
    pub async fn create(template: Template) -> TestDatabase {
        let server = server();
        let admin = connect(&server.url("postgres")).await.expect("the test server answers");
        let source = match template {
            Template::Empty => "template0",
            Template::Migrated => {
                build_migrated(server, &admin).await;
                MIGRATED
            }
        };
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        clone_database(&admin, &name, source).await;
        TestDatabase { server, name, roles: Vec::new() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn server(&self) -> &'static TestServer {
        self.server
    }

    /// As superuser, through the Unix socket.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// As superuser over TCP, directly.
    pub fn tcp_url(&self) -> String {
        self.url_at(self.server.address())
    }

    /// As superuser over TCP to `address`, for a [`super::Proxy`].
    pub fn url_at(&self, address: std::net::SocketAddr) -> String {
        self.server.url_at(address, &self.name)
    }

    /// A connection as superuser.
    pub async fn client(&self) -> TestClient {
        connect(&self.url()).await.expect("the test's database answers")
    }

    /// Makes a login role, `attributes` as in CREATE ROLE (`""`, `NOINHERIT`, `CONNECTION LIMIT 1` …).
    /// Roles are the whole server's, so the name gets the database's as a prefix.
    pub async fn role(&mut self, name: &str, attributes: &str) -> Role {
        let name = format!("{}_{name}", self.name);
        let password = uuid::Uuid::new_v4().simple().to_string();
        let sql = format!("CREATE ROLE {name} LOGIN PASSWORD '{password}' {attributes}");
        self.client()
            .await
            .batch_execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("create role {name}: {error:?}"));
        self.roles.push(name.clone());
        let url = self.server.url_as(&name, &password, &self.name);
        Role { name, password, url }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let mut sql = vec![format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name)];
        sql.extend(self.roles.iter().map(|role| format!("DROP ROLE IF EXISTS {role}")));
        let url = self.server.url("postgres");
        let dropping = async {
            let admin = connect(&url).await?;
            for statement in &sql {
                admin.batch_execute(statement).await?;
            }
            Ok::<(), tokio_postgres::Error>(())
        };
        let dropped = background(async { tokio::time::timeout(BOUND, dropping).await });
        // The whole server is thrown away after the run: a database that stays harms nobody, and a
        // panic here would hide the test's own.
        if !matches!(dropped, Ok(Ok(()))) {
            eprintln!("cannot drop the test's database {}: {dropped:?}", self.name);
        }
    }
}

async fn build_migrated(server: &TestServer, admin: &TestClient) {
    let bound = Duration::from_secs(120).as_millis();
    let sql = format!(
        "SET statement_timeout = {bound}; SELECT pg_advisory_lock({TEMPLATE_LOCK}); RESET statement_timeout"
    );
    admin.batch_execute(&sql).await.expect("the lock of the migrated template");
    let count = format!("SELECT count(*) FROM pg_database WHERE datname = '{MIGRATED}'");
    if admin.number(&count).await == 0 {
        // Under another name until it is whole; one that a killed process left is taken away.
        let building = format!("{MIGRATED}_building");
        admin
            .batch_execute(&format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)"))
            .await
            .expect("drop a broken template");
        clone_database(admin, &building, "template0").await;
        migrate_template(&server.url(&building)).await;
        admin
            .batch_execute(&format!("ALTER DATABASE {building} RENAME TO {MIGRATED}"))
            .await
            .expect("name the template");
    }
    admin
        .batch_execute(&format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})"))
        .await
        .expect("unlock the template");
}

/// A database that was just left may have a backend that is still ending: tried again, for a while.
async fn clone_database(admin: &TestClient, name: &str, source: &str) {
    let sql = format!("CREATE DATABASE {name} TEMPLATE {source}");
    let start = Instant::now();
    loop {
        match admin.batch_execute(&sql).await {
            Ok(()) => return,
            Err(error)
                if error.code() == Some(&SqlState::OBJECT_IN_USE) && start.elapsed() < BOUND =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
}

/// By the library's own migrator, so that tests see the schema exactly as the daemon makes it.
async fn migrate_template(url: &str) {
    let config = config::Database {
        url: Some(config::SecretSource::Inline(config::Secret::new(url))),
        ..config::Database::default()
    };
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let tasks = Tasks::new();
    let db = Database::new("template", &config, 1, &tasks, &metrics);
    let sets = BUNDLED.map(source::bundled);
    let options = migrate::Options::new(&config::Config::default().migrations, "harness");
    migrate::up(&db, &sets, &options)
        .await
        .unwrap_or_else(|error| panic!("migrate the template: {error}"));
    // Its connections must be gone before the template can be named and cloned.
    drop(db);
    tasks.stop();
    let stragglers = tasks.drain(BOUND).await;
    assert!(stragglers.is_empty(), "{stragglers:?}");
}
