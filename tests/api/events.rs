//! `POST /audit/events`: accepted means committed.

use std::time::Duration;

use pgsteward::http::BATCHES_MAX;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{BOUND, Daemon, PrivateServer, Setup, wait_until};
use crate::{House, http, problem, token_of, tokens};

#[tokio::test]
async fn events_are_recorded_as_they_were_told() {
    let house = House::open().await;
    let one = json!({
        "action": "user.login", "user_id": "user-123", "resource_type": "session", "resource_id": "s\t1\\n",
        "old_values": null, "new_values": {"k": "ü\n\\ \u{1f600}", "n": 1}, "ip_address": "10.1.2.3",
        "user_agent": "curl/8", "request_id": "r-1", "details": [1, 2],
    });
    let answer = house.send("service", "POST", "/audit/events", &one.to_string()).await;
    assert_eq!(
        (answer.status, answer.json()),
        (201, json!({ "accepted": 1, "replayed": false, "target": "main" })),
        "{}",
        answer.body
    );
    let listed = house.get("admin", "/health/audit?action=user.login").await;
    let event = &listed["items"][0];
    for name in [
        "action",
        "user_id",
        "resource_type",
        "resource_id",
        "old_values",
        "new_values",
        "ip_address",
        "user_agent",
        "request_id",
        "details",
    ] {
        assert_eq!(event[name], one[name], "{name}: {event}");
    }
    assert_eq!(
        (&event["actor"], &event["source"]),
        (&json!("token:service"), &json!("application"))
    );
}

#[tokio::test]
async fn all_of_a_batch_or_none() {
    let house = House::open().await;
    let client = house.db.client().await;
    let count = "SELECT count(*) FROM steward.audit_logs WHERE source = 'application'";
    let many: Vec<_> =
        (0..1000).map(|n| json!({ "action": "bulk", "resource_id": n.to_string() })).collect();
    let answer = house
        .send("service", "POST", "/audit/events", &json!({ "events": many }).to_string())
        .await;
    assert_eq!(
        (answer.status, answer.json()["accepted"].as_i64()),
        (201, Some(1000)),
        "{}",
        answer.body
    );
    assert_eq!(client.number(count).await, 1000);
    let in_order = "SELECT count(*) FROM (SELECT resource_id::int AS n, row_number() OVER (ORDER BY id) - 1 AS place
                                            FROM steward.audit_logs WHERE action = 'bulk') t WHERE n <> place";
    assert_eq!(client.number(in_order).await, 0);
    let refused = [
        (json!({ "events": [{ "action": "a" }, { "action": "" }] }).to_string(), "event 2"),
        (
            json!({ "events": [{ "action": "a" }, { "action": "b", "who": 1 }] }).to_string(),
            "unknown field",
        ),
        // A number that PostgreSQL cannot hold is found by PostgreSQL.
        (r#"{"events":[{"action":"a"},{"action":"b","details":1e999999}]}"#.to_owned(), "event 2"),
    ];
    for (body, wanted) in refused {
        let answer = house.send("service", "POST", "/audit/events", &body).await;
        assert!(
            matches!(answer.status, 400 | 422) && answer.body.contains(wanted),
            "{body}: {}",
            answer.body
        );
    }
    assert_eq!(client.number(count).await, 1000);
    let answer = house.send("service", "POST", "/audit/events", "").await;
    assert_eq!(problem(&answer), (415, "unsupported_media_type".to_owned()));
}

#[tokio::test]
async fn the_same_key_records_once_however_often_and_at_once() {
    let house = House::open().await;
    let body = json!({ "events": [{ "action": "once" }, { "action": "once" }] }).to_string();
    let key = [("idempotency-key", "batch-1")];
    let send = || house.send_with("service", "POST", "/audit/events", &key, &body);
    let (a, b, c) = tokio::join!(send(), send(), send());
    let mut replayed: Vec<bool> =
        [a, b, c].iter().map(|answer| answer.json()["replayed"] == true).collect();
    replayed.sort_unstable();
    assert_eq!(replayed, [false, true, true]);
    let client = house.db.client().await;
    assert_eq!(
        client.number("SELECT count(*) FROM steward.audit_logs WHERE action = 'once'").await,
        2
    );
}

/// Whoever was told that its events are recorded finds them, whatever ended in between; and who was not told sends
/// again under the same key, and finds them once.
#[tokio::test]
async fn accepted_means_committed_through_kills_of_daemon_and_server() {
    let mut server = PrivateServer::start(&[]).await;
    let url = server.url();
    let setup = || Setup::new().database(&url).config(&format!("{}{}", crate::QUICK, tokens()));
    let mut daemon = Daemon::spawn(setup()).await;
    daemon.wait_ready().await;
    let bearer = format!("Bearer {}", token_of("service"));
    let mut accepted = Vec::new();
    for round in 0..24_u64 {
        let key = format!("key-{round}");
        let events: Vec<_> =
            (0..500).map(|_| json!({ "action": "kept", "resource_id": key })).collect();
        let body = json!({ "events": events }).to_string();
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", &*key),
        ];
        let address = daemon.address();
        let sending = http::try_request(address, "POST", "/audit/events", &headers, &body);
        // Somewhere between reading the request and answering it.
        let killing = async {
            tokio::time::sleep(Duration::from_micros(round * 700)).await;
            match round % 3 {
                0 => daemon.signal(rustix::process::Signal::KILL),
                1 => server.signal(rustix::process::Signal::QUIT),
                _ => {}
            }
        };
        let (sent, ()) = tokio::join!(sending, killing);
        let was_told = sent.is_ok_and(|answer| answer.status == 201);
        match round % 3 {
            0 => {
                daemon.wait_exit().await;
                daemon = Daemon::spawn(setup()).await;
            }
            1 => server.restart().await,
            _ => {}
        }
        daemon.wait_ready().await;
        if !was_told {
            // Again, until it is told.
            let address = daemon.address();
            wait_until("the events are accepted", BOUND, async || {
                let sent =
                    http::try_request(address, "POST", "/audit/events", &headers, &body).await;
                sent.is_ok_and(|answer| answer.status == 201)
            })
            .await;
        }
        accepted.push((key, was_told));
    }
    assert!(accepted.iter().any(|(_, told)| !told), "no kill hit a request: {accepted:?}");
    let client = server.client().await;
    for (key, _) in &accepted {
        let count = format!(
            "SELECT count(*) FROM steward.audit_logs WHERE action = 'kept' AND resource_id = '{key}'"
        );
        assert_eq!(client.number(&count).await, 500, "{key}");
    }
}

/// Large bodies have few places; small ones need none.
#[tokio::test]
async fn slow_batches_keep_no_single_event_waiting() {
    let house = House::open().await;
    let head = format!(
        "POST /audit/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 1000000\r\nexpect: 100-continue\r\n\r\n",
        token_of("service")
    );
    let mut slow = Vec::new();
    for place in 0..4 {
        let mut stream = TcpStream::connect(house.daemon.address()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // Who has one of the places is told to go on.
        if place < BATCHES_MAX {
            let mut told = [0; 64];
            let length =
                tokio::time::timeout(BOUND, stream.read(&mut told)).await.unwrap().unwrap();
            assert!(
                told[..length].starts_with(b"HTTP/1.1 100 "),
                "{}",
                String::from_utf8_lossy(&told[..length])
            );
        }
        slow.push(stream);
    }
    let begun = std::time::Instant::now();
    let answer = house.send("service", "POST", "/audit/events", "{\"action\":\"quick\"}").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
