//! The run's shared server.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use pgsteward::db::ephemeral::{Ephemeral, Options};
use tokio::runtime::{Handle, Runtime};

/// A server that tests share; they may make databases and roles in it, and must leave it running.
#[derive(Debug, Clone)]
pub struct TestServer {
    pub socket_dir: PathBuf,
    pub port: u16,
    /// The superuser `postgres`'s.
    pub password: String,
    /// Where `psql`, `pg_dump` and the like may be.
    pub bin_dir: PathBuf,
}

impl TestServer {
    /// As superuser, through the Unix socket.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", &self.password, database)
    }

    /// As somebody, through the Unix socket.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        let folder = self.socket_dir.display();
        format!("postgresql://{user}:{password}@/{database}?host={folder}&port={}", self.port)
    }

    /// As superuser, over TCP to `address`: the server's own, or a proxy's.
    pub fn url_at(&self, address: SocketAddr, database: &str) -> String {
        format!("postgresql://postgres:{}@{address}/{database}", self.password)
    }

    /// The server's TCP address.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn of(server: &Ephemeral) -> TestServer {
        TestServer {
            socket_dir: server.socket_dir().to_owned(),
            port: server.port(),
            password: server.password().expose().to_owned(),
            bin_dir: server.bin_dir().to_owned(),
        }
    }

    /// From the `connection.env` of a throw-away server.
    fn read(file: &str) -> TestServer {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_else(|error| panic!("PGSTEWARD_TEST_SERVER: {path}: {error}"))
        };
        let text = read(file);
        let values: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once('=')).collect();
        let value = |key: &str| {
            *values.get(key).unwrap_or_else(|| panic!("PGSTEWARD_TEST_SERVER: {file} has no {key}"))
        };
        let pgpass = read(value("PGPASSFILE"));
        TestServer {
            socket_dir: value("PGHOST").into(),
            port: value("PGPORT").parse().expect("PGPORT is a port"),
            password: pgpass.trim_end().rsplit(':').next().unwrap_or_default().to_owned(),
            bin_dir: value("PGSTEWARD_PG_BIN").into(),
        }
    }
}

/// The run's server; started by the first who asks where no one did before.
pub fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var("PGSTEWARD_TEST_SERVER") {
        Ok(file) => TestServer::read(&file),
        Err(_) => start_own(),
    })
}

fn start_own() -> TestServer {
    // A static is not dropped at exit; the server's supervisor sees the process end.
    static OWN: OnceLock<Mutex<Ephemeral>> = OnceLock::new();
    let started = background(Ephemeral::start(shared_options()));
    let own = started.unwrap_or_else(|error| panic!("no server to test against: {error}"));
    let server = TestServer::of(&own);
    assert!(OWN.set(Mutex::new(own)).is_ok(), "the process's server is started once");
    server
}

/// Room for as many tests at once as a large machine runs.
pub fn shared_options() -> Options {
    let mut options = Options::from_env();
    options.settings = vec![("max_connections".to_owned(), "200".to_owned())];
    options
}

/// Runs a future to its end on a runtime that lives as long as the process: for what must outlive a
/// test's own runtime, and for `Drop`.
pub fn background<T: Send>(future: impl Future<Output = T> + Send) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    });
    // On a thread of its own: the caller may be on a runtime's thread, which must not block on another's.
    std::thread::scope(|scope| scope.spawn(|| runtime.block_on(future)).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
