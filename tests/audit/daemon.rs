//! The daemon seals, publishes and reports problems; the command line verifies and proves.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{BOUND, Daemon, PrivateServer, Setup, connect, wait_until};

const CONFIG: &str = r#"
[health]
recover_after = 1
[jobs]
lease = "5s"
[jobs.health-probe]
schedule = "@every 1s"
[jobs.audit-seal]
schedule = "@every 1s"
[jobs.vacuum]
enabled = false
[jobs.refresh]
enabled = false
"#;

fn setup(server: &PrivateServer, state: &Path) -> Setup {
    let url = server.url_at(server.address(), "postgres");
    Setup::new()
        .database(&url)
        .config(&format!("state_dir = {:?}\n{CONFIG}", state.display().to_string()))
}

#[tokio::test]
async fn the_daemon_seals_and_publishes_and_the_command_line_checks_it() {
    let server = PrivateServer::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let setup = setup(&server, state.path());
    let daemon = Daemon::spawn(setup.clone()).await;
    let client = connect(&server.url()).await.unwrap();
    let id = client.text("SELECT steward.log_audit_event('user.login', user_id => 'user-1')").await;
    daemon.wait_metric("pgsteward_audit_last_seal_number", |seal| seal >= 1.0).await;
    let line = daemon.wait_log("audit trail sealed").await;
    let file = state.path().join("audit-heads-main.jsonl");
    wait_until("the event is sealed and its head written", BOUND, async || {
        let rows =
            client.number("SELECT coalesce(sum(row_count), 0) FROM steward.audit_seals").await;
        rows >= 1 && fs::read_to_string(&file).unwrap_or_default().contains("\"seal\":1,")
    })
    .await;
    let first: Value =
        serde_json::from_str(fs::read_to_string(&file).unwrap().lines().next().unwrap()).unwrap();
    let head = format!("1:{}", first["head"].as_str().unwrap());
    assert!(line.contains("1:"), "{line}");
    daemon
        .wait_metric("pgsteward_audit_last_published_seal_number sink=\"file\"", |seal| seal >= 1.0)
        .await;

    for against in [file.to_str().unwrap(), &head] {
        let verified = setup.command(&["audit", "verify", "--against", against, "--json"]);
        assert_eq!(
            verified.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&verified.stdout)
        );
        let found: Value = serde_json::from_slice(&verified.stdout).unwrap();
        assert_eq!(found["findings_total"], 0);
        assert!(found["heads_matched"].as_u64() >= Some(1), "{found}");
    }
    let proof = setup.command(&["audit", "prove", &id]);
    assert_eq!(proof.status.code(), Some(0), "{}", String::from_utf8_lossy(&proof.stderr));
    let kept = state.path().join("proof.json");
    fs::write(&kept, &proof.stdout).unwrap();
    let proven: Value = serde_json::from_slice(&proof.stdout).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check-proof.py");
    let checked = Command::new("python3")
        .arg(script)
        .arg(&kept)
        .arg(proven["head"].as_str().unwrap())
        .status()
        .unwrap();
    assert!(checked.success());

    client
        .batch_execute(&format!(
            "UPDATE steward.audit_logs SET user_id = 'user-2' WHERE id = '{id}'"
        ))
        .await
        .unwrap();
    let verified = setup.command(&["audit", "verify"]);
    let text = String::from_utf8(verified.stdout).unwrap();
    assert_eq!(verified.status.code(), Some(5), "{text}");
    assert!(
        text.contains("is NOT as it was sealed") && text.contains(&format!("event {id} of ")),
        "{text}"
    );
    assert!(text.contains("no head was given"), "{text}");
    assert_eq!(setup.command(&["audit", "prove", &id]).status.code(), Some(5));
    for (wrong, code) in [
        (&["audit", "verify", "--against", "nonsense"][..], 64),
        (&["audit", "verify", "--against", "/"], 64),
        (&["audit", "verify", "--against", kept.to_str().unwrap()], 64),
        (&["audit", "prove", "nonsense"], 64),
        (&["audit", "prove", "01a21a97-05e3-7685-9433-1c2e3e46558e"], 64),
    ] {
        let said = setup.command(wrong);
        assert_eq!(
            said.status.code(),
            Some(code),
            "{wrong:?}: {}",
            String::from_utf8_lossy(&said.stderr)
        );
    }
    assert!(daemon.terminate().await.success());
}

#[tokio::test]
async fn a_rewritten_chain_fails_the_job_until_the_file_is_moved() {
    let server = PrivateServer::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let setup = setup(&server, state.path());
    let daemon = Daemon::spawn(setup.clone()).await;
    let client = connect(&server.url()).await.unwrap();
    client.text("SELECT steward.log_audit_event('user.login')").await;
    let file = state.path().join("audit-heads-main.jsonl");
    wait_until("a head is written", BOUND, async || file.exists()).await;
    client.batch_execute("TRUNCATE steward.audit_leaves, steward.audit_seals").await.unwrap();
    let line = daemon.wait_log("does not hold head").await;
    assert!(line.contains("until it is moved away"), "{line}");
    wait_until("health says so", BOUND, async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]["jobs"]["reason"]
            == "jobs_failing"
    })
    .await;
    fs::rename(&file, state.path().join("looked-at")).unwrap();
    wait_until("the job recovers", BOUND, async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]["jobs"]["reason"]
            == "ok"
            && file.exists()
    })
    .await;
}

#[tokio::test]
async fn a_disabled_trigger_degrades_health() {
    let server = PrivateServer::start(&[]).await;
    let state = tempfile::tempdir().unwrap();
    let setup = setup(&server, state.path());
    let daemon = Daemon::spawn(setup.clone()).await;
    let client = connect(&server.url()).await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE public.t (id int PRIMARY KEY); SELECT steward.audit_table('public.t')",
        )
        .await
        .unwrap();
    let reason = async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]["audit"]["reason"]
            .clone()
    };
    wait_until("the audit log was checked", BOUND, async || reason().await == "ok").await;
    client
        .batch_execute("ALTER TABLE public.t DISABLE TRIGGER steward_audit_update")
        .await
        .unwrap();
    wait_until("health says so", BOUND, async || reason().await == "not_audited").await;
    daemon.wait_metric("pgsteward_audit_gaps", |gaps| gaps == 1.0).await;
    let said = String::from_utf8(setup.command(&["health"]).stdout).unwrap();
    assert!(said.contains("steward_audit_update of public.t is disabled"), "{said}");
    client.batch_execute("SELECT steward.audit_table('public.t')").await.unwrap();
    wait_until("health recovers", BOUND, async || reason().await == "ok").await;
}

#[tokio::test]
async fn posting_the_newest_head_is_retried_until_it_succeeds() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let receiver = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://user:hush@{}/hook?key=secret", receiver.local_addr().unwrap());
    let server = PrivateServer::start(&[]).await;
    let database = server.url_at(server.address(), "postgres");
    let config = format!("[audit]\nwebhook_url = {url:?}\n{CONFIG}");
    let daemon = Daemon::spawn(Setup::new().database(&database).config(&config)).await;
    let client = connect(&server.url()).await.unwrap();
    client.text("SELECT steward.log_audit_event('user.login')").await;
    let mut bodies = Vec::new();
    // The first attempt is refused.
    for status in ["503 Service Unavailable", "204 No Content"] {
        let (mut stream, _) =
            tokio::time::timeout(BOUND, receiver.accept()).await.unwrap().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream
            .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let request = String::from_utf8(request).unwrap();
        assert!(request.starts_with("POST /hook?key=secret HTTP/1.1"), "{request}");
        bodies.push(
            serde_json::from_str::<Value>(request.rsplit("\r\n\r\n").next().unwrap()).unwrap(),
        );
    }
    assert_eq!((&bodies[0]["seal"], &bodies[0]["head"]), (&bodies[1]["seal"], &bodies[1]["head"]));
    daemon
        .wait_metric("pgsteward_audit_last_published_seal_number sink=\"webhook\"", |seal| {
            seal >= 1.0
        })
        .await;
    daemon
        .wait_metric("pgsteward_audit_publish_failures_total sink=\"webhook\"", |count| {
            count == 1.0
        })
        .await;
    let log = daemon.log();
    assert!(
        log.contains("answered with status 503")
            && !log.contains("hush")
            && !log.contains("secret"),
        "{log}"
    );
}
