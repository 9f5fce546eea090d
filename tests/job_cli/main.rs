//! `pgsteward job …`, the built binary against real servers, beside daemons and without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod away;
mod cancel;
mod local;
mod look;
mod pause;
mod run;

use std::process::{Child, Command, Output, Stdio};

use harness::{BOUND, Setup, TestClient, wait_for, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Short leases; jobs that run when they are asked to, and one each second; nothing built in.
const JOBS: &str = r#"
[database]
connect_timeout = "2s"
[jobs]
lease = "5s"
[jobs.partitions]
enabled = false
[jobs.retention]
timezone = "Europe/Berlin"
[jobs.vacuum]
enabled = false
[jobs.refresh]
enabled = false
[jobs.quick]
sql = "SELECT 1"
[jobs.slow]
sql = "SELECT pg_sleep(2)"
[jobs.endless]
sql = "SELECT pg_sleep(600)"
[jobs.wrong]
sql = "SELECT 1 / 0"
"#;

const EACH_SECOND: &str = "[jobs.tick]\nsql = \"SELECT 1\"\nschedule = \"@every 1s\"\n";

/// How a command ended, and what it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Said {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Ended with this code, and said all of this on standard error.
    #[track_caller]
    fn refused(&self, code: i32, wanted: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(wanted.iter().all(|text| self.err.contains(text)), "wanted {wanted:?}: {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }

    /// Succeeded, and said all of this.
    #[track_caller]
    fn told(&self, wanted: &[&str]) {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert!(wanted.iter().all(|text| self.out.contains(text)), "wanted {wanted:?}: {self:?}");
    }
}

/// Runs `pgsteward job …` to its end.
fn job(setup: &Setup, arguments: &[&str]) -> Said {
    Said::of(setup.command(&[&["job"], arguments].concat()))
}

/// The same, in JSON; it must succeed.
#[track_caller]
fn json(setup: &Setup, arguments: &[&str]) -> Value {
    let said = job(setup, &[arguments, &["--json"]].concat());
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:?}");
    said.json()
}

/// The row of a job in `job list --json`.
#[track_caller]
fn listed(setup: &Setup, name: &str) -> Value {
    let listed = json(setup, &["list", name]);
    listed["jobs"][0].clone()
}

/// A command under way.
struct Underway {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Underway {
    fn start(url: &str, config: &str, arguments: &[&str]) -> Underway {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", url);
        command.arg("job").args(arguments).arg("--config").arg(path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Underway { child: command.spawn().unwrap(), _folder: folder }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Its end, and what it said: little enough for the pipes to hold.
    async fn ended(mut self) -> Said {
        wait_until("the command ends", BOUND * 2, async || {
            self.child.try_wait().unwrap().is_some()
        })
        .await;
        let mut child = self.child;
        let status = child.wait().unwrap();
        let read = |mut pipe: Box<dyn std::io::Read>| {
            let mut text = Vec::new();
            pipe.read_to_end(&mut text).unwrap();
            text
        };
        let stdout = read(Box::new(child.stdout.take().unwrap()));
        let stderr = read(Box::new(child.stderr.take().unwrap()));
        Said::of(Output { status, stdout, stderr })
    }
}

/// Waits until a query's only value is what is wanted.
async fn wait_sql(client: &TestClient, sql: &str, wanted: impl Fn(i64) -> bool) {
    wait_until(sql, BOUND, async || wanted(client.number(sql).await)).await;
}

/// Waits until a job has a run in this state, and returns its id.
async fn wait_run(client: &TestClient, job: &str, state: &str) -> String {
    let sql = format!(
        "SELECT coalesce(max(id::text), '') FROM steward.job_runs WHERE job = '{job}' AND state = '{state}'"
    );
    wait_for(&format!("{job} has a run that is {state}"), BOUND, async || {
        Some(client.text(&sql).await).filter(|id| !id.is_empty())
    })
    .await
}

/// Sessions that work for a job now.
const WORKING: &str = "
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name LIKE 'pgsteward/job%' AND state = 'active'
       AND query LIKE '%pg_sleep%'";

/// The actions of the audit trail on jobs, in order.
async fn audited(client: &TestClient) -> String {
    let sql =
        "SELECT coalesce(string_agg(action || ' ' || resource_id, ', ' ORDER BY created_at), '')
                 FROM steward.audit_logs WHERE action LIKE 'job%' AND actor LIKE 'cli:%'";
    client.text(sql).await
}
