//! The server that everything is measured on, and what it logged.

use std::fs;
use std::path::PathBuf;

use super::harness::{PrivateServer, TestClient, connect};

/// A throw-away server that trusts whoever comes, so that no figure holds the price of SCRAM.
pub struct Ground {
    server: PrivateServer,
}

/// A client message that the server was busy with.
#[derive(Debug)]
pub struct Statement {
    pub application: String,
    /// `statement` of the simple protocol, else `parse`, `bind` or `execute`.
    pub step: String,
    pub millis: f64,
}

impl Ground {
    pub async fn lay() -> Ground {
        // The prefix costs nothing until a database logs its statements; see `log_statements`.
        let settings = [
            ("log_line_prefix", "%a|%d|"),
            ("max_wal_size", "4GB"),
            ("shared_buffers", "128MB"),
            ("autovacuum", "off"),
        ];
        let server = PrivateServer::start(&settings).await;
        server.prepend_hba("local all all trust\nhost all all 127.0.0.1/32 trust");
        server.reload().await;
        Ground { server }
    }

    /// Its version, and what it leaves out.
    pub fn version(&self) -> String {
        let (major, minor) = self.server.ephemeral().version();
        format!("PostgreSQL {major}.{minor} (fsync off, trust, TCP without TLS)")
    }

    /// The folder of `psql`.
    pub fn bin_dir(&self) -> PathBuf {
        self.server.ephemeral().bin_dir().to_owned()
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@{}/{database}?sslmode=disable", self.server.address())
    }

    /// Makes an empty database, and returns its URL.
    pub async fn database(&self, name: &str) -> String {
        let admin = self.client("postgres").await;
        admin
            .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await
            .expect("drop a database");
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .expect("make a database");
        self.url(name)
    }

    /// A database's sessions log each message of a client from their start on, with its duration.
    pub async fn log_statements(&self, database: &str) {
        let sql = format!("ALTER DATABASE {database} SET log_min_duration_statement = 0");
        self.client("postgres").await.batch_execute(&sql).await.expect("set a database up");
    }

    pub async fn client(&self, database: &str) -> TestClient {
        connect(&self.url(database)).await.expect("the server answers")
    }

    /// The end of the log, to read from later.
    pub fn log_end(&self) -> usize {
        self.log().len()
    }

    /// What a database was asked since, by applications whose names begin so.
    pub fn statements(&self, since: usize, database: &str, application: &str) -> Vec<Statement> {
        let log = self.log();
        log[since..].lines().filter_map(|line| statement(line, database, application)).collect()
    }

    fn log(&self) -> String {
        let path = self.server.ephemeral().socket_dir().join("server.log");
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// `application|database|LOG:  duration: 0.123 ms  statement: …`
fn statement(line: &str, database: &str, application: &str) -> Option<Statement> {
    let mut fields = line.splitn(3, '|');
    let of = fields.next().filter(|name| name.starts_with(application))?;
    fields.next().filter(|name| *name == database)?;
    let (millis, rest) = fields.next()?.strip_prefix("LOG:  duration: ")?.split_once(" ms  ")?;
    let step = rest.split([' ', ':']).next()?;
    Some(Statement {
        application: of.to_owned(),
        step: step.to_owned(),
        millis: millis.parse().ok()?,
    })
}
