//! Runs the commands of the documents: SQL blocks against a migrated database, `pgsteward …` and
//! `curl …` lines against a running daemon, in the order of the documents.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::markdown::{Document, user_documents, words};
use crate::harness::http::{self, Response};
use crate::harness::{Daemon, Setup, Template, TestClient, TestDatabase};

const TOKEN: &str = "pgs_of_the_documents_0123456789abcdef0123456789";

/// Directories of an installation, which the documents name.
const STATE_DIR: &str = "/var/lib/pgsteward";

/// The exit code for an id that does not exist: the documents show ids of other runs and events.
const USAGE: i32 = 64;
/// The exit code for a run that was requested while another one waits.
const TRY_LATER: i32 = 75;

/// The objects of an application, by the names that the documents use.
const APPLICATION: &str = "
    CREATE SCHEMA app;
    CREATE TABLE app.orders (created_at timestamptz NOT NULL DEFAULT now(), amount numeric);
    CREATE TABLE app.report (day date, orders bigint, amount numeric);
    CREATE TABLE public.events (created_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON public.events (created_at);";

/// The configuration of the daemon: what the README shows, with the job of its own SQL.
fn configuration(folder: &Path) -> String {
    let readme = Document::read("README.md");
    let job = readme.blocks().into_iter().find(|block| block.text.contains("[jobs.daily-report]"));
    let sha256: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "state_dir = {folder:?}\n\
         [retention.tables.\"public.events\"]\ncolumn = \"created_at\"\nkeep = \"180d\"\n\
         [auth.tokens.docs]\nrole = \"admin\"\nsha256 = \"{sha256}\"\n{job}",
        job = job.expect("README shows a job of its own SQL").text
    )
}

/// Runs each statement of a block by itself, as psql does.
async fn run_sql(client: &TestClient, document: &Document, sql: &str) {
    for statement in sql.split_inclusive(";\n").filter(|statement| statement.contains(';')) {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{}: {error:?} in:\n{statement}", document.path);
        }
    }
}

fn sql_blocks(document: &Document) -> impl Iterator<Item = String> + use<> {
    document.blocks().into_iter().filter(|block| block.language == "sql").map(|block| block.text)
}

#[tokio::test]
async fn every_sql_block_runs() {
    let database = TestDatabase::create(Template::Migrated).await;
    let admin = database.client().await;
    // Roles belong to the whole server; no other test uses these names.
    let (app, owner, steward) = ("docs_app", "docs_app_owner", "docs_pgsteward");
    let named = |sql: &str| {
        sql.replace("TO app;", &format!("TO {app};"))
            .replace("app_owner", owner)
            .replace(" pgsteward;", &format!(" {steward};"))
            .replace("BY pgsteward TO", &format!("BY {steward} TO"))
    };
    let drop_roles = format!("DROP ROLE IF EXISTS {app}, {owner}, {steward}");
    admin.batch_execute(&drop_roles).await.expect("no roles of an earlier run");
    for role in [app, owner, steward] {
        admin.batch_execute(&format!("CREATE ROLE {role}")).await.expect("a role");
    }
    admin.batch_execute(APPLICATION).await.expect("the application");
    let mut seen = 0;
    // operations.md ends with the removal of everything, so it comes last.
    for path in ["docs/audit.md", "docs/jobs.md", "docs/operations.md"] {
        let document = Document::read(path);
        for sql in sql_blocks(&document) {
            seen += 1;
            run_sql(&admin, &document, &named(&sql)).await;
        }
        for line in document.block_lines("sh") {
            let words = words(&line);
            if words.first().is_some_and(|word| word == "psql") {
                let at = words.iter().position(|word| word == "-c").expect("psql -c SQL");
                admin
                    .batch_execute(&words[at + 1])
                    .await
                    .unwrap_or_else(|e| panic!("{line}: {e:?}"));
            }
        }
    }
    assert!(seen >= 4, "only {seen} blocks of SQL are found");
    let left = admin.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'steward'").await;
    assert_eq!(left, 0, "the schema steward is left after the removal");
    let left =
        admin.number(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{steward}'")).await;
    assert_eq!(left, 0, "the role is left after the removal");
    admin.batch_execute(&drop_roles).await.expect("the roles go");
}

#[tokio::test]
async fn every_command_and_request_runs() {
    let database = TestDatabase::create(Template::Migrated).await;
    database.client().await.batch_execute(APPLICATION).await.expect("the application");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let migrations = folder.path().join("migrations");
    std::fs::create_dir(&migrations).expect("a folder");
    for (name, sql) in [
        ("001_orders.sql", "CREATE TABLE public.orders (id bigint)"),
        ("001_orders.down.sql", "DROP TABLE public.orders"),
        ("002_orders_placed_at.sql", "ALTER TABLE public.orders ADD placed_at timestamptz"),
        ("002_orders_placed_at.down.sql", "ALTER TABLE public.orders DROP placed_at"),
    ] {
        std::fs::write(migrations.join(name), sql).expect("a migration");
    }
    let setup = Setup::new().database(&database.url()).config(&configuration(folder.path()));
    let daemon = Daemon::spawn(setup.clone()).await;
    // Seals the log once, so that there is a head to verify against.
    let sealed = setup.command(&["job", "run", "audit-seal", "--wait"]);
    assert_eq!(sealed.status.code(), Some(0), "{sealed:?}");

    let setup = setup.shell(&format!("cd {}", folder.path().display()));
    let (mut commands, mut requests) = (0, 0);
    for document in user_documents() {
        let mut last_run = String::new();
        for line in document.block_lines("sh") {
            let words = words(&line);
            match words.first().map(String::as_str) {
                Some("pgsteward") if words.get(1).is_none_or(|command| command != "run") => {
                    commands += 1;
                    command_runs(&setup, folder.path(), &line, &words[1..]);
                }
                Some("curl") => {
                    requests += 1;
                    request_runs(&daemon, &line.replace("$RUN", &last_run)).await;
                }
                Some(word) if word.starts_with("RUN=$(curl") => {
                    requests += 1;
                    let response = request_runs(&daemon, &line).await;
                    last_run = response.json()["run_id"].as_str().expect("a run").to_owned();
                }
                _ => {}
            }
        }
    }
    assert!(commands > 30 && requests > 25, "only {commands} commands and {requests} requests");
    assert_eq!(daemon.terminate().await.code(), Some(0));
}

fn command_runs(setup: &Setup, folder: &Path, line: &str, arguments: &[String]) {
    let state_dir = folder.display().to_string();
    let arguments: Vec<String> =
        arguments.iter().map(|argument| argument.replace(STATE_DIR, &state_dir)).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = setup.command(&arguments);
    let code = output.status.code().expect("an exit code");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let names_an_id = arguments.iter().any(|argument| {
        argument.len() >= 12 && argument.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
    });
    let expected = match arguments.as_slice() {
        _ if names_an_id => code == USAGE,
        ["job", "run", ..] => code == 0 || code == TRY_LATER,
        // Healthy, degraded, unhealthy or unknown.
        ["health", ..] => code <= 3,
        _ => code == 0,
    };
    assert!(expected, "{line}: exit code {code}: {stderr}");
}

/// Sends what a `curl` line would send.
async fn request_runs(daemon: &Daemon, line: &str) -> Response {
    let line = line.replace("$TOKEN", TOKEN);
    let line = line.strip_prefix("RUN=$(").unwrap_or(&line);
    let (mut method, mut path, mut body) = ("GET".to_owned(), None, String::new());
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut words = words(line).into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-H" => {
                let header = words.next().expect("a header");
                let (name, value) = header.split_once(": ").expect("NAME: VALUE");
                headers.push((name.to_owned(), value.to_owned()));
            }
            "--json" => {
                body = words.next().expect("a body");
                headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
                method = "POST".to_owned();
            }
            "-X" => method = words.next().expect("a method"),
            "-o" => drop(words.next()),
            "-s" | "-N" => {}
            url => path = url.split_once(":8432").map(|(_, path)| path.to_owned()),
        }
    }
    let path = path.unwrap_or_else(|| panic!("{line}: no URL of the daemon"));
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let response = http::request(daemon.address(), &method, &path, &headers, &body).await;
    // The run of the example may have ended before it is cancelled.
    let expected = response.status < 400 || path.ends_with("/cancel") && response.status == 409;
    assert!(expected, "{line}: {} {}", response.status, response.body);
    response
}
