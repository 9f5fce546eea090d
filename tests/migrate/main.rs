//! Migrations on a real server, through the built command and through the library.
//!
//! - [`apply`]: what a file may say and leave behind, and how its errors are placed.
//! - [`plan`]: what files and history together allow, and what the commands print and return.
//! - [`many`]: several migrators at once, and the bad ends of one.
//! - [`locks`]: other sessions in the way.
//! - [`pooler`]: behind PgBouncer in transaction mode.
//! - [`access`]: roles, standbys and schemas that do not let us write.
//! - [`rollback`]: down, in order; every bundled version undone exactly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod apply;
mod digest;
mod locks;
mod many;
mod plan;
mod pooler;
mod rollback;

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use harness::{BOUND, Setup, TestClient, wait_until};
use pgsteward::config::{self, Secret, SecretSource};
use pgsteward::db::Database;
use pgsteward::lifecycle::Tasks;
use pgsteward::migrate::Options;
use pgsteward::telemetry::Metrics;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A folder of SQL files.
pub struct Folder(TempDir);

impl Folder {
    pub fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.path().join(name)).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn text(&self) -> String {
        self.0.path().display().to_string()
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    fn of(output: Output) -> Done {
        Done {
            code: output.status.code().expect("it was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Ended with `code`, and every part stands in what it wrote to standard error.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Done {
        assert_eq!(self.code, code, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in:\n{}", self.err);
        }
        self
    }
}

/// `pgsteward` as anybody calls it: no configuration file, `DATABASE_URL` alone.
pub fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("DATABASE_URL", url);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn pgsteward(url: &str, arguments: &[&str]) -> Done {
    Done::of(command(url, arguments).output().await.unwrap())
}

/// `pgsteward migrate … --dir FOLDER`
pub async fn migrate(url: &str, folder: &Folder, arguments: &[&str]) -> Done {
    let folder = folder.text();
    pgsteward(url, &[&["migrate"], arguments, &["--dir", &folder]].concat()).await
}

pub async fn up(url: &str, folder: &Folder) -> Done {
    migrate(url, folder, &["up"]).await
}

/// `pgsteward migrate up --dir FOLDER`, left running.
pub fn begin_up(url: &str, folder: &Folder) -> Child {
    command(url, &["migrate", "up", "--dir", &folder.text()]).spawn().unwrap()
}

pub async fn end(child: Child) -> Done {
    Done::of(tokio::time::timeout(BOUND, child.wait_with_output()).await.expect("it ends").unwrap())
}

/// With a configuration file.
pub async fn configured(url: &str, config: &str, arguments: &[&str]) -> Done {
    let setup = Setup::new().database(url).config(config);
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let run = move || setup.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    Done::of(tokio::task::spawn_blocking(run).await.unwrap())
}

/// What the history holds of a set, as `1,2,3`.
pub async fn versions(client: &TestClient, set: &str) -> String {
    let sql = format!(
        "SELECT coalesce(string_agg(version::text, ',' ORDER BY version), '')
           FROM steward.schema_migrations WHERE set_name = '{set}'"
    );
    client.text(&sql).await
}

pub async fn table_exists(client: &TestClient, table: &str) -> bool {
    client.text(&format!("SELECT to_regclass('{table}') IS NOT NULL")).await == "t"
}

/// A file that goes on once the table `gate` is empty; see [`close_gate`].
pub const GATE: &str = "DO $$ BEGIN WHILE EXISTS (SELECT FROM public.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;";

pub async fn close_gate(client: &TestClient) {
    client.batch_execute("CREATE TABLE public.gate AS SELECT 1 AS closed").await.unwrap();
}

pub async fn open_gate(client: &TestClient) {
    client.batch_execute("DELETE FROM public.gate").await.unwrap();
}

const AT_GATE: &str = "FROM pg_stat_activity
     WHERE datname = current_database() AND state = 'active' AND query LIKE '%public.gate%' AND pid <> pg_backend_pid()";

/// Waits until a migrator's file stands at the gate; returns its session's process.
pub async fn at_gate(client: &TestClient) -> i64 {
    wait_until("a file waits at the gate", BOUND, async || {
        client.number(&format!("SELECT count(*) {AT_GATE}")).await == 1
    })
    .await;
    client.number(&format!("SELECT pid {AT_GATE}")).await
}

/// The key of the migration lock, fixed for all versions of pgsteward.
pub const LOCK_KEY: i64 = i64::from_be_bytes(*b"pgstewar");

/// Sessions of this database that hold the migration lock.
pub fn lock_holders() -> String {
    format!(
        "SELECT l.pid FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32) + l.objid::bigint = {LOCK_KEY}"
    )
}

/// The library's own view of a database.
pub fn database(url: &str) -> Arc<Database> {
    let config = config::Database {
        url: Some(SecretSource::Inline(Secret::new(url))),
        ..config::Database::default()
    };
    Database::new("main", &config, 1, &Tasks::new(), &Arc::new(Metrics::new().unwrap()))
}

pub fn options() -> Options {
    Options::new(&config::Config::default().migrations, "test")
}
