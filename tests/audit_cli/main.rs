//! `pgsteward audit list` and `export`, the built binary against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod export;
mod filters;
mod memory;
mod output;
mod paging;
mod shown;

use std::process::{Child, Command, Output, Stdio};

use harness::{Setup, Template, TestClient, TestDatabase};
use serde_json::Value;

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

    /// Ended with this code, and said all of this on standard error.
    #[track_caller]
    fn refused(&self, code: i32, wanted: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(wanted.iter().all(|text| self.err.contains(text)), "wanted {wanted:?}: {self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }

    #[track_caller]
    fn succeeded(self) -> Said {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Standard output, a JSON document on each line.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }
}

/// A migrated database with nothing in its trail.
struct Trail {
    database: TestDatabase,
    client: TestClient,
    setup: Setup,
}

impl Trail {
    async fn new() -> Trail {
        let database = TestDatabase::create(Template::Migrated).await;
        let client = database.client().await;
        client.batch_execute("TRUNCATE steward.audit_logs").await.unwrap();
        let setup = Setup::new().database(&database.url());
        Trail { database, client, setup }
    }

    /// Runs `pgsteward audit …` to its end.
    fn audit(&self, arguments: &[&str]) -> Said {
        Said::of(self.setup.command(&[&["audit"], arguments].concat()))
    }

    /// Starts `pgsteward audit …`.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgsteward"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .env("DATABASE_URL", self.database.url())
            .arg("audit")
            .args(arguments)
            .args(["--config", "/dev/null"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Records so many events, ten thousand at a time of one instant.
    async fn fill(&self, events: usize) {
        let sql = "
            SELECT steward.log_audit_events(jsonb_agg(jsonb_build_object(
                       'action', CASE WHEN i % 2 = 0 THEN 'user.login' ELSE 'vm.start' END, 'user_id', 'user-' || i % 7,
                       'resource_type', 'vm', 'resource_id', i::text, 'ip_address', '10.0.0.' || i % 200,
                       'user_agent', 'curl/8.0', 'request_id', gen_random_uuid(),
                       'old_values', jsonb_build_object('status', 'stopped', 'n', i),
                       'new_values', jsonb_build_object('status', 'running', 'n', i + 1))))
              FROM generate_series(1, $1::bigint) i";
        let mut left = events;
        while left > 0 {
            let some = left.min(10_000);
            self.client.execute(sql, &[&(some as i64)]).await.unwrap();
            left -= some;
        }
    }
}
