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
    assert_eq!((&told["target"], &told["observer"]), (&json!("main"), &json!(true)));
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
    assert_eq!(retention["next_dues"].as_array().unwrap().len(), 5, "{retention}");
    assert!(jobs.iter().any(|job| job["name"] == "health-probe" && job["ticks"] == true));
    assert_eq!(problem(&house.send("viewer", "GET", "/jobs/nonsense/runs", "").await), (404, "no_such_job".to_owned()));
}

#[tokio::test]
async fn with_the_database_down_memory_answers_and_the_rest_says_why_not() {
    let mut server = PrivateServer::start(&[]).await;
    let config = format!("{}{}", crate::QUICK, tokens());
    let daemon = Daemon::spawn(Setup::new().database(&server.url()).config(&config)).await;
    daemon.wait_ready().await;
    let bearer = format!("Bearer {}", token_of("admin"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let get = async |path: &str| http::request(daemon.address(), "GET", path, &headers[..1], "").await;
    let post = async |path: &str| http::request(daemon.address(), "POST", path, &headers, "{\"action\":\"a\"}").await;
    wait_until("a whole measurement", BOUND, async || get("/health/database").await.json()["server"].is_object()).await;
    server.stop().await;
    wait_until("the outage is seen", BOUND, async || get("/health/database").await.json()["status"] == "unhealthy")
        .await;
    let told = get("/health/database").await.json();
    assert_eq!(told["components"][0]["name"], "connectivity", "{told}");
    let jobs = get("/jobs").await.json();
    assert_eq!(jobs["source"], "memory", "{jobs}");
    assert!(jobs["jobs"].as_array().unwrap().iter().any(|job| job["next_due"].is_string()), "{jobs}");
    for path in ["/health/audit", "/jobs/vacuum/runs", "/health/retention", "/health/database/migrations"] {
        let answer = get(path).await;
        assert_eq!(problem(&answer), (503, "database_unavailable".to_owned()), "{path}: {}", answer.body);
        assert!(answer.header("retry-after").is_some(), "{path}");
        assert!(!answer.body.contains("/tmp") && !answer.body.contains("postgres"), "{}", answer.body);
    }
    let refused = post("/audit/events").await;
    assert_eq!(problem(&refused), (503, "database_unavailable".to_owned()), "never accepted, never lost");
    server.restart().await;
    wait_until("the recovery is seen", BOUND, async || get("/health/database").await.json()["status"] == "healthy")
        .await;
    assert_eq!(post("/audit/events").await.status, 201);
}
