//! The authenticated API of a running daemon, against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod audit;
mod control;
mod credentials;
mod document;
mod events;
mod operations;
mod reads;

use harness::{BOUND, Daemon, Setup, Template, TestDatabase, http, wait_until};
use pgsteward::http::auth::token;
use serde_json::Value;

/// A daemon over a migrated database, with a token for each role.
struct House {
    daemon: Daemon,
    db: TestDatabase,
}

/// Measures each second; jobs run when they are asked for.
const QUICK: &str = "
[database]
connect_timeout = \"2s\"
[migrations]
sets = [\"zentry\"]
[health]
recover_after = 1
[jobs]
lease = \"5s\"
[jobs.health-probe]
schedule = \"@every 1s\"
[jobs.connection-metrics]
schedule = \"@every 1s\"
";

/// The token of a role in these tests.
fn token_of(role: &str) -> String {
    format!("pgs_{role}_0123456789abcdef0123456789abcdef")
}

fn tokens() -> String {
    let table = |role: &str| {
        let digest = token::hex(&token::digest(&token_of(role)));
        format!("[auth.tokens.{role}]\nrole = \"{role}\"\nsha256 = \"{digest}\"\n")
    };
    ["viewer", "operator", "admin", "service"].map(table).concat()
}

impl House {
    async fn open() -> House {
        House::with("").await
    }

    async fn with(more: &str) -> House {
        let db = TestDatabase::create(Template::Migrated).await;
        let config = format!("{QUICK}{}{more}", tokens());
        let daemon = Daemon::spawn(Setup::new().database(&db.url()).config(&config)).await;
        daemon.wait_ready().await;
        // Whoever observes hears what is asked for.
        daemon.wait_metric("pgsteward_leader{target=\"main\"}", |value| value == 1.0).await;
        // And jobs are there to be asked for once they are registered.
        let client = db.client().await;
        let registered = "SELECT count(*) FROM steward.job_state WHERE spec_hash IS NOT NULL";
        wait_until("jobs are registered", BOUND, async || client.number(registered).await >= 5)
            .await;
        let house = House { daemon, db };
        wait_until("a whole measurement", BOUND, async || {
            house.get("viewer", "/health/database").await["components"]
                .as_array()
                .is_some_and(|parts| parts.len() == 11)
        })
        .await;
        house
    }

    async fn send(&self, role: &str, method: &str, path: &str, body: &str) -> http::Response {
        self.send_with(role, method, path, &[], body).await
    }

    async fn send_with(
        &self,
        role: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> http::Response {
        let bearer = format!("Bearer {}", token_of(role));
        let mut all = vec![("authorization", bearer.as_str())];
        if role.is_empty() {
            all.clear();
        }
        if !body.is_empty() {
            all.push(("content-type", "application/json"));
        }
        all.extend_from_slice(headers);
        http::request(self.daemon.address(), method, path, &all, body).await
    }

    async fn get(&self, role: &str, path: &str) -> Value {
        let answer = self.send(role, "GET", path, "").await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    /// Asks for something and waits for its end; the run.
    async fn done(&self, role: &str, path: &str, body: &str) -> Value {
        let answer = self.send_with(role, "POST", path, &[("prefer", "wait=25")], body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("preference-applied"), Some("wait=25"), "{path}");
        let told = answer.json();
        match told["runs"].as_array().map(Vec::as_slice) {
            None => told,
            Some([run]) => run.clone(),
            Some(several) => panic!("{path}: {} runs", several.len()),
        }
    }
}

/// Status and code of a problem.
fn problem(answer: &http::Response) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.body);
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}
