//! What viewers are told, with the database there and away.

use serde_json::json;

use crate::harness::{BOUND, Daemon, PrivateServer, Setup, wait_until};
use crate::{House, http, problem, token_of, tokens};

#[tokio::test]
async fn everything_known_of_a_database_is_told() {
    let house = House::open().await;
    wait_until("a fresh connect is told", BOUND, async || {
        !house.get("viewer", "/health/database").await["connect_ms"].is_null()
    })
    .await;
    let told = house.get("viewer", "/health/database").await;
    assert_eq!((&told["target"], &told["is_leader"]), (&json!("main"), &json!(true)));
    assert_eq!(told["migrations"]["state"], "ready");
    assert!(told["connections"]["by_state"]["active"].as_i64().unwrap() >= 1, "{told}");
    assert!(told["connections"]["saturation"].as_f64().unwrap() > 0.0, "{told}");
    assert_eq!(told["components"].as_array().unwrap().len(), 11, "{told}");
    assert!(told["components"].as_array().unwrap().iter().all(|part| part["message"].is_string()));
    assert_eq!(told["pool"]["api"]["max"], 2);
    assert!(told["connect_ms"]["auth"].as_f64().unwrap() > 0.0, "{told}");
}

#[tokio::test]
async fn jobs_are_told_with_their_plan() {
    let house = House::open().await;
    let told = house.get("viewer", "/jobs").await;
    assert_eq!(told["source"], "database");
    let jobs = told["jobs"].as_array().unwrap();
    let retention = jobs.iter().find(|job| job["name"] == "retention").unwrap();
    assert_eq!((&retention["kind"], &retention["enabled"]), (&json!("builtin"), &json!(true)));
    assert_eq!(retention["upcoming"].as_array().unwrap().len(), 5, "{retention}");
    assert!(jobs.iter().any(|job| job["name"] == "health-probe" && job["state"] == "measured"));
    assert_eq!(
        problem(&house.send("viewer", "GET", "/jobs/nonsense/runs", "").await),
        (404, "no_such_job".to_owned())
    );
}

#[tokio::test]
async fn statistics_are_measured_once_for_all_and_kept() {
    let house = House::open().await;
    let path = "/health/database/statistics";
    let asked = futures_util::future::join_all((0..12).map(|_| house.get("viewer", path))).await;
    let fresh = asked.iter().filter(|told| told["cached"] == false).count();
    assert!(
        asked.iter().all(|told| told["measured_at"] == asked[0]["measured_at"]),
        "one look for all"
    );
    assert!(
        (1..=12).contains(&fresh)
            && asked[0]["tables"].as_array().is_some_and(|tables| tables.len() > 5)
    );
    let kept = house.send("viewer", "GET", path, "").await;
    assert_eq!(
        (&kept.json()["cached"], &kept.json()["measured_at"]),
        (&json!(true), &asked[0]["measured_at"])
    );
    let cached_for = kept
        .header("cache-control")
        .and_then(|value| value.strip_prefix("private, max-age="))
        .unwrap();
    assert!((200..=300).contains(&cached_for.parse::<u32>().unwrap()), "{cached_for}");
    let refused = house.send("viewer", "GET", "/health/database/statistics?refresh=true", "").await;
    assert_eq!(problem(&refused), (403, "forbidden".to_owned()));
    let anew = house.get("operator", "/health/database/statistics?refresh=true").await;
    assert_eq!(
        (&anew["cached"], anew["measured_at"] == asked[0]["measured_at"]),
        (&json!(false), false)
    );
}

#[tokio::test]
async fn history_is_told_in_pages_and_buckets() {
    let house = House::open().await;
    let path = "/health/system?component=connectivity&limit=1";
    wait_until("two measurements are written", BOUND, async || {
        house.get("viewer", path).await["next"].is_string()
    })
    .await;
    let first = house.get("viewer", path).await;
    let next = first["next"].as_str().unwrap();
    let second = house.get("viewer", &format!("{path}&cursor={next}")).await;
    let at = |page: &serde_json::Value| page["items"][0]["created_at"].as_str().unwrap().to_owned();
    assert!(at(&second) < at(&first) && first["source"] == "database", "{first} {second}");
    let buckets = house.get("viewer", "/health/system?bucket=3600&since=2h").await;
    let samples: i64 = buckets["buckets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| bucket["samples"].as_i64().unwrap())
        .sum();
    assert!(samples >= 2, "{buckets}");
    wait_until("connections are written", BOUND, async || {
        house.get("viewer", "/health/connections?bucket=60").await["buckets"]
            .as_array()
            .is_some_and(|b| !b.is_empty())
    })
    .await;
    for wrong in ["bucket=0", "limit=0", "cursor=x", "status=well", "nonsense=1"] {
        let answer = house.send("viewer", "GET", &format!("/health/system?{wrong}"), "").await;
        assert_eq!(problem(&answer), (400, "invalid_request".to_owned()), "{wrong}");
    }
}

#[tokio::test]
async fn with_the_database_down_memory_answers_and_the_rest_says_why_not() {
    let mut server = PrivateServer::start(&[]).await;
    let config = format!("{}{}", crate::QUICK, tokens());
    let daemon = Daemon::spawn(Setup::new().database(&server.url()).config(&config)).await;
    daemon.wait_ready().await;
    let bearer = format!("Bearer {}", token_of("admin"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let get =
        async |path: &str| http::request(daemon.address(), "GET", path, &headers[..1], "").await;
    let post = async |path: &str| {
        http::request(daemon.address(), "POST", path, &headers, "{\"action\":\"a\"}").await
    };
    wait_until("a whole measurement", BOUND, async || {
        get("/health/database").await.json()["server"].is_object()
    })
    .await;
    server.stop().await;
    wait_until("the outage is seen", BOUND, async || {
        get("/health/database").await.json()["status"] == "unhealthy"
    })
    .await;
    let told = get("/health/database").await.json();
    assert_eq!(told["components"][0]["name"], "connectivity", "{told}");
    let jobs = get("/jobs").await.json();
    assert_eq!(jobs["source"], "memory", "{jobs}");
    assert!(
        jobs["jobs"].as_array().unwrap().iter().any(|job| job["next_due"].is_string()),
        "{jobs}"
    );
    // Of what was not read, nothing is claimed.
    let retention =
        jobs["jobs"].as_array().unwrap().iter().find(|job| job["name"] == "retention").unwrap();
    assert_eq!(
        (&retention["state"], &retention["succeeded_total"]),
        (&json!("unknown"), &json!(null)),
        "{jobs}"
    );
    for path in ["/health/system", "/health/system?bucket=60", "/health/connections?bucket=60"] {
        let told = get(path).await.json();
        assert_eq!(told["source"], "memory", "{path}: {told}");
        assert!(told["reason"].is_string(), "{path}: {told}");
    }
    let system = get("/health/system?component=connectivity").await.json();
    assert_eq!(system["items"][0]["status"], "unhealthy", "{system}");
    for path in
        ["/health/audit", "/jobs/vacuum/runs", "/health/retention", "/health/database/migrations"]
    {
        let answer = get(path).await;
        assert_eq!(
            problem(&answer),
            (503, "database_unavailable".to_owned()),
            "{path}: {}",
            answer.body
        );
        assert!(answer.header("retry-after").is_some(), "{path}");
        assert!(
            !answer.body.contains("/tmp") && !answer.body.contains("postgres"),
            "{}",
            answer.body
        );
    }
    let refused = post("/audit/events").await;
    assert_eq!(
        problem(&refused),
        (503, "database_unavailable".to_owned()),
        "never accepted, never lost"
    );
    server.restart().await;
    wait_until("the recovery is seen", BOUND, async || {
        get("/health/database").await.json()["status"] == "healthy"
    })
    .await;
    assert_eq!(post("/audit/events").await.status, 201);
}
