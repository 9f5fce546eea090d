//! `GET /health/audit`: pages, exports, and who sees what.

use serde_json::{Value, json};

use crate::{House, problem};

async fn with_events(count: usize) -> House {
    let house = House::open().await;
    let events: Vec<_> = (0..count)
        .map(|n| json!({ "action": format!("act.{}", n % 2), "user_id": format!("u-{}", n % 3), "resource_id": n.to_string() }))
        .collect();
    let answer = house
        .send("service", "POST", "/audit/events", &json!({ "events": events }).to_string())
        .await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    house
}

#[tokio::test]
async fn pages_go_on_where_the_one_before_ended() {
    let house = with_events(25).await;
    for (order, first) in [("newest", "24"), ("oldest", "0")] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/health/audit?action=act.*&limit=10&order={order}{cursor}");
            let page = house.get("admin", &path).await;
            let items = page["items"].as_array().unwrap();
            seen.extend(
                items.iter().map(|event| event["resource_id"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={}", next.replace('+', "%2B")),
                None => break,
            }
        }
        assert_eq!((seen.len(), seen[0].as_str()), (25, first), "{order}");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 25, "{order}: something shows twice");
    }
    let of_user = house.get("admin", "/health/audit?user_id=u-1&action=act.1").await;
    assert_eq!(of_user["items"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn exports_hold_everything() {
    let house = with_events(2500).await;
    let csv = house
        .send_with("admin", "GET", "/health/audit?action=act.*", &[("accept", "text/csv")], "")
        .await;
    assert_eq!(csv.status, 200);
    assert!(csv.header("content-disposition").unwrap().contains("audit.csv"));
    assert_eq!(csv.body.matches("\r\n").count(), 2501);
    let limited = house.send("admin", "GET", "/health/audit?format=csv&limit=2", "").await;
    assert_eq!(problem(&limited), (422, "pagination_not_supported".to_owned()), "{}", limited.body);
    let newest = house
        .send("admin", "GET", "/health/audit?action=act.0&format=ndjson&order=newest", "")
        .await;
    assert!(
        newest.body.lines().next().unwrap().contains("\"2498\""),
        "{:?}",
        newest.body.lines().next()
    );
    let ndjson = house.send("admin", "GET", "/health/audit?action=act.0&format=ndjson", "").await;
    let lines: Vec<Value> =
        ndjson.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1250);
    assert_eq!(lines[0]["resource_id"], "0", "the oldest comes first");
    let none = house.send("admin", "GET", "/health/audit?action=never&format=ndjson", "").await;
    assert_eq!((none.status, none.body.as_str()), (200, ""));
}

#[tokio::test]
async fn who_is_no_admin_sees_its_own() {
    let house = with_events(3).await;
    house.send("operator", "POST", "/jobs/vacuum/pause", "").await;
    let own = house.get("operator", "/health/audit").await;
    assert_eq!(own["scope"], "own");
    let items = own["items"].as_array().unwrap();
    assert!(
        !items.is_empty() && items.iter().all(|event| event["actor"] == "token:operator"),
        "{own}"
    );
    assert_eq!(house.get("viewer", "/health/audit").await["items"], json!([]));
    let other = house.send("viewer", "GET", "/health/audit?actor=token:operator", "").await;
    assert_eq!(problem(&other), (403, "forbidden".to_owned()));
    assert_eq!(house.get("admin", "/health/audit?actor=token:operator").await["scope"], "all");
}

#[tokio::test]
async fn every_bad_question_is_answered_with_what_is_wanted() {
    let house = House::open().await;
    for question in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "cursor=x",
        "order=up",
        "format=xml",
        "since=yesterday",
        "ip=localhost",
        "source=me",
        "action=*",
        "nonsense=1",
        "user_id=%00",
        "limit=1&limit=2",
        "order=",
        "user_id=",
    ] {
        let answer = house.send("admin", "GET", &format!("/health/audit?{question}"), "").await;
        assert_eq!(
            problem(&answer),
            (400, "invalid_request".to_owned()),
            "{question}: {}",
            answer.body
        );
    }
    let empty =
        house.send("admin", "GET", "/health/audit?since=2026-02-01&until=2026-01-01", "").await;
    assert_eq!(problem(&empty), (422, "empty_range".to_owned()));
}
