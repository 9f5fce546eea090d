//! `pgsteward audit list` and `export`: the built binary against a real database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use harness::{Setup, Template, TestClient, TestDatabase};
use serde_json::Value;

struct Stage {
    database: TestDatabase,
    client: TestClient,
    setup: Setup,
}

impl Stage {
    async fn new() -> Stage {
        let database = TestDatabase::create(Template::Migrated).await;
        let client = database.client().await;
        client.batch_execute("TRUNCATE steward.audit_logs").await.unwrap();
        let setup = Setup::new().database(&database.url());
        Stage { database, client, setup }
    }

    /// Events of one moment each call, over some users, things and addresses.
    async fn fill(&self, events: u32) {
        let sql = format!(
            "SELECT cardinality(steward.log_audit_events((SELECT jsonb_agg(jsonb_build_object('action', CASE n % 3 WHEN 0 THEN 'user.login'
                    WHEN 1 THEN 'user.logout' ELSE 'vm.start' END, 'user_id', 'u' || n % 7, 'resource_type', 'vm', 'resource_id', 'a/' || n % 5,
                    'ip_address', '192.0.2.' || n % 4, 'request_id', 'r' || n, 'details', jsonb_build_object('n', n)))
               FROM generate_series(1, {events}) n)))"
        );
        self.client.text(&sql).await;
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.setup.command(&[&["audit"], arguments].concat())
    }

    fn listed(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.run(&[&["list", "--json", "--limit", "10000"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        match output.stdout.is_empty() {
            true => Vec::new(),
            false => serde_json::from_slice(&output.stdout).unwrap(),
        }
    }
}

#[tokio::test]
async fn each_filter_finds_its_events_and_no_other() {
    let stage = Stage::new().await;
    stage.fill(420).await;
    stage.client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); SELECT steward.audit_table('t'); INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = 'b'").await.unwrap();
    let cases: [(&[&str], usize); 16] = [
        (&[], 423),
        (&["--user", "u3"], 60),
        (&["--user", "nobody"], 0),
        (&["--action", "user.login"], 140),
        (&["--action", "user.*"], 280),
        (&["--action", "user.%*"], 0),
        (&["--resource", "vm"], 420),
        (&["--resource", "vm/a/2"], 84),
        (&["--resource", "public.t/1"], 2),
        (&["--source", "trigger"], 2),
        (&["--actor", "postgres"], 423),
        (&["--ip", "192.0.2.1"], 105),
        (&["--ip", "192.0.2.0/30"], 420),
        (&["--request", "r17"], 1),
        (&["--since", "1h", "--until", "2100-01-01", "--user", "u1", "--action", "vm.start"], 20),
        (&["--until", "1h"], 0),
    ];
    for (arguments, wanted) in cases {
        assert_eq!(stage.listed(arguments).len(), wanted, "{arguments:?}");
        let exported = stage.run(&[&["export"], arguments].concat());
        assert_eq!(exported.status.code(), Some(0));
        assert_eq!(exported.stdout.iter().filter(|byte| **byte == b'\n').count(), wanted, "{arguments:?}");
    }
    let text = String::from_utf8(stage.run(&["list", "--source", "trigger"]).stdout).unwrap();
    assert!(text.contains(r#"v: "a" → "b""#) && text.contains("public.t/1"), "{text}");
    for wrong in [
        &["list", "--limit", "0"][..],
        &["list", "--since", "yesterday"],
        &["list", "--ip", "x"],
        &["list", "--source", "rumour"],
        &["list", "--before", "7"],
        &["export", "--format", "xml"],
        &["export", "--force"],
    ] {
        let said = stage.run(wrong);
        assert_eq!(said.status.code(), Some(64), "{wrong:?}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let missing = Setup::new().database(&stage.database.server().url("postgres")).command(&["audit", "list"]);
    assert_eq!(missing.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("pgsteward migrate up"));
}

#[tokio::test]
async fn pages_cover_everything_once_though_many_events_are_of_one_moment() {
    let stage = Stage::new().await;
    for _ in 0..3 {
        stage.fill(200).await;
    }
    let (mut seen, mut pages, mut before) = (BTreeSet::new(), 0, None::<String>);
    loop {
        let mut arguments = vec!["list", "--json", "--limit", "70"];
        if let Some(before) = &before {
            arguments.extend(["--before", before]);
        }
        let output = stage.run(&arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        for event in serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap_or_default() {
            assert!(seen.insert(event["id"].as_str().unwrap().to_owned()), "twice");
        }
        pages += 1;
        match told.trim().rsplit_once("older: --before ") {
            Some((_, cursor)) => before = Some(cursor.to_owned()),
            None => break,
        }
    }
    assert_eq!((seen.len(), pages), (600, 9));
}

#[tokio::test]
async fn what_is_exported_says_what_was_recorded() {
    let stage = Stage::new().await;
    stage
        .client
        .batch_execute(
            r#"SELECT steward.log_audit_event('odd', user_id => E'a,"b"\n\tü😀', resource_type => 's', resource_id => '', user_agent => E'x\ry',
                   old_values => '{"q": "\"quoted\", and\nmore", "n": 1.50}', new_values => '[1, null]', ip_address => '2001:db8::1');
               SELECT steward.log_audit_event(E'\u001b[31mred')"#,
        )
        .await
        .unwrap();
    let lines = String::from_utf8(stage.run(&["export"]).stdout).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["user_id"], "a,\"b\"\n\tü😀");
    assert_eq!(events[0]["old_values"], serde_json::json!({ "q": "\"quoted\", and\nmore", "n": 1.5 }));
    assert!(lines.contains(r#""n": 1.50"#), "numbers as PostgreSQL wrote them: {lines}");
    assert_eq!((&events[0]["resource_id"], &events[1]["resource_id"]), (&Value::from(""), &Value::Null));

    let csv = String::from_utf8(stage.run(&["export", "--format", "csv"]).stdout).unwrap();
    let rows = parse_csv(&csv);
    assert_eq!(rows.len(), 3);
    let column = |name: &str| rows[0].iter().position(|cell| cell.as_deref() == Some(name)).unwrap();
    let cell = |row: usize, name: &str| rows[row][column(name)].clone();
    assert_eq!(cell(1, "user_id").unwrap(), "a,\"b\"\n\tü😀");
    assert_eq!(cell(1, "user_agent").unwrap(), "x\ry");
    assert_eq!((cell(1, "resource_id"), cell(2, "resource_id")), (Some(String::new()), None));
    assert_eq!(cell(1, "new_values").unwrap(), "[1, null]");
    assert_eq!(cell(1, "id").unwrap(), events[0]["id"].as_str().unwrap());

    let text = String::from_utf8(stage.run(&["list"]).stdout).unwrap();
    assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}[31mred"), "{text}");
}

/// RFC 4180; a field without quotes and without characters is null.
fn parse_csv(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut rows, mut row, mut chars) = (Vec::new(), Vec::new(), text.chars().peekable());
    while chars.peek().is_some() {
        let mut field = String::new();
        let quoted = chars.next_if_eq(&'"').is_some();
        while let Some(c) = chars.next_if(|c| quoted || !matches!(c, ',' | '\r')) {
            match c {
                '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
                '"' if quoted => break,
                c => field.push(c),
            }
        }
        row.push((quoted || !field.is_empty()).then_some(field));
        match chars.next() {
            Some(',') => {}
            Some('\r') => {
                assert_eq!(chars.next(), Some('\n'));
                rows.push(std::mem::take(&mut row));
            }
            other => panic!("{other:?}"),
        }
    }
    rows
}

#[tokio::test]
async fn a_file_is_there_when_it_is_whole_and_is_not_replaced_unasked() {
    let stage = Stage::new().await;
    stage.fill(10).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.ndjson");
    let path = file.to_str().unwrap();
    assert_eq!(stage.run(&["export", "--output", path]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 10);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no partial file is left");
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(stage.run(&["export", "--output", path]).status.code(), Some(64));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_eq!(stage.run(&["export", "--output", path, "--force"]).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 10);
    let nowhere = dir.path().join("no/such/folder");
    assert_eq!(stage.run(&["export", "--output", nowhere.to_str().unwrap()]).status.code(), Some(69));
}

#[tokio::test]
async fn any_number_of_events_takes_the_same_memory() {
    let stage = Stage::new().await;
    let mut peaks = Vec::new();
    for events in [20_000, 80_000] {
        for _ in 0..events / 10_000 {
            stage.fill(10_000).await;
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgsteward"))
            .args(["audit", "export"])
            .env("DATABASE_URL", stage.database.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut out, mut buffer, mut lines, mut peak) = (child.stdout.take().unwrap(), vec![0; 1 << 16], 0, 0);
        loop {
            let count = out.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            lines += buffer[..count].iter().filter(|byte| **byte == b'\n').count();
            if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", child.id()))
                && let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))
            {
                peak = line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap();
            }
        }
        assert!(child.wait().unwrap().success());
        peaks.push((lines, peak));
    }
    assert_eq!((peaks[0].0, peaks[1].0), (20_000, 100_000));
    assert!(peaks[1].1 < 60_000 && peaks[1].1 < peaks[0].1 + 4_000, "KiB: {peaks:?}");
}

#[tokio::test]
async fn a_reader_that_goes_ends_it_quietly() {
    let stage = Stage::new().await;
    stage.fill(10_000).await;
    let output = Command::new("sh")
        .args(["-c", "\"$0\" audit export | head -n 2; exit 0", env!("CARGO_BIN_EXE_pgsteward")])
        .env("DATABASE_URL", stage.database.url())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
