//! Jobs and runs, asked for by callers.

use serde_json::{Value, json};

use crate::harness::{BOUND, wait_until};
use crate::{House, http, problem, token_of};

#[tokio::test]
async fn a_job_is_run_waited_for_and_on_the_record() {
    let house = House::open().await;
    let run = house.done("operator", "/jobs/partitions/run", "").await;
    assert_eq!(
        (run["state"].as_str(), run["actor"].as_str()),
        (Some("succeeded"), Some("token:operator")),
        "{run}"
    );
    let id = run["id"].as_str().unwrap();
    assert_eq!(house.get("viewer", &format!("/runs/{id}")).await, run);
    let listed = house.get("viewer", "/jobs/partitions/runs?limit=1").await;
    assert_eq!(listed["runs"][0]["id"], id);
    let client = house.db.client().await;
    let recorded = format!(
        "SELECT concat_ws(' ', actor, ip_address, user_agent, request_id, resource_id) FROM steward.audit_logs
          WHERE action = 'job.run' AND details ->> 'run_id' = '{id}'"
    );
    let told = client.text(&recorded).await;
    assert!(
        told.starts_with("token:operator 127.0.0.1 ") && told.ends_with(" partitions"),
        "{told}"
    );
}

#[tokio::test]
async fn what_cannot_be_run_is_told_with_its_code() {
    let house = House::open().await;
    let post = async |path: &str, body: &str| house.send("operator", "POST", path, body).await;
    assert_eq!(problem(&post("/jobs/nonsense/run", "").await), (404, "no_such_job".to_owned()));
    assert_eq!(
        problem(&post("/jobs/retention/run", "[]").await),
        (400, "invalid_request".to_owned())
    );
    assert_eq!(
        problem(&post("/jobs/retention/run?x=1", "").await),
        (400, "invalid_request".to_owned())
    );
    assert_eq!(
        problem(&post("/jobs/retention/pause", "{\"why\":1}").await),
        (400, "invalid_request".to_owned())
    );
    assert_eq!(
        problem(&post("/runs/nonsense/cancel", "").await),
        (400, "invalid_request".to_owned())
    );
    let nobody = "/runs/01890000-0000-7000-8000-000000000000/cancel";
    assert_eq!(problem(&post(nobody, "").await), (404, "no_such_run".to_owned()));
    assert_eq!(
        problem(&post("/jobs/retention/run?target=other", "").await),
        (404, "no_such_target".to_owned())
    );
    for path in
        ["/jobs/health-probe/run", "/jobs/health-probe/pause", "/jobs/connection-metrics/resume"]
    {
        assert_eq!(problem(&post(path, "").await), (409, "job_has_no_runs".to_owned()), "{path}");
    }
    let plain = house
        .send_with("operator", "POST", "/jobs/retention/run", &[("content-type", "text/plain")], "")
        .await;
    assert_eq!(plain.status, 202, "a request without a body has no type: {}", plain.body);
    let bearer = format!("Bearer {}", token_of("operator"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "text/plain")];
    let typed =
        http::request(house.daemon.address(), "POST", "/jobs/vacuum/run", &headers, "{}").await;
    assert_eq!(problem(&typed), (415, "unsupported_media_type".to_owned()));
}

#[tokio::test]
async fn jobs_are_paused_and_resumed_one_and_all() {
    let house = House::open().await;
    let paused = house
        .send("operator", "POST", "/jobs/vacuum/pause", "{\"reason\":\"release\"}")
        .await
        .json();
    assert_eq!(
        (&paused["changed"], &paused["paused"]["reason"]),
        (&json!(true), &json!("release"))
    );
    let again = house.send("operator", "POST", "/jobs/vacuum/pause", "").await.json();
    assert_eq!(
        (&again["changed"], &again["paused"]["by"]),
        (&json!(false), &json!("token:operator"))
    );
    let refused = house.send("operator", "POST", "/jobs/vacuum/run", "").await;
    assert_eq!(problem(&refused), (409, "paused".to_owned()));
    let resumed = house.send("operator", "POST", "/jobs/vacuum/resume", "").await.json();
    assert_eq!((&resumed["changed"], &resumed["paused"]), (&json!(true), &Value::Null));

    assert_eq!(house.send("operator", "POST", "/jobs/*/pause", "").await.json()["changed"], true);
    assert_eq!(
        problem(&house.send("operator", "POST", "/jobs/refresh/run", "").await),
        (409, "paused".to_owned())
    );
    assert_eq!(house.get("viewer", "/jobs").await["paused"]["by"], "token:operator");
    wait_until("the daemon knows", BOUND, async || {
        house.get("viewer", "/health/database").await["paused"]["by"] == "token:operator"
    })
    .await;
    assert_eq!(house.send("operator", "POST", "/jobs/*/resume", "").await.json()["changed"], true);
    let client = house.db.client().await;
    let recorded = client
        .text("SELECT string_agg(action, ' ' ORDER BY id) FROM steward.audit_logs WHERE action ~ '^jobs?\\.'")
        .await;
    assert_eq!(recorded, "job.pause job.resume jobs.pause jobs.resume");
}

#[tokio::test]
async fn a_key_makes_a_request_be_done_once() {
    let house = House::open().await;
    let key = [("idempotency-key", "run-1")];
    let first = house.send_with("operator", "POST", "/jobs/partitions/run", &key, "").await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, None), "{}", first.body);
    let again = house.send_with("operator", "POST", "/jobs/partitions/run", &key, "").await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")));
    assert_eq!((again.json(), again.header("location")), (first.json(), first.header("location")));
    let other = house.send_with("operator", "POST", "/jobs/vacuum/run", &key, "").await;
    assert_eq!(problem(&other), (422, "idempotency_key_reused".to_owned()));
    let anothers = house.send_with("admin", "POST", "/jobs/vacuum/run", &key, "").await;
    assert_eq!(anothers.status, 202, "the key of another caller is another key: {}", anothers.body);
    // What was refused may be asked for again under the same key.
    let key = [("idempotency-key", "run-2")];
    house.send("operator", "POST", "/jobs/refresh/pause", "").await;
    assert_eq!(
        house.send_with("operator", "POST", "/jobs/refresh/run", &key, "").await.status,
        409
    );
    house.send("operator", "POST", "/jobs/refresh/resume", "").await;
    assert_eq!(
        house.send_with("operator", "POST", "/jobs/refresh/run", &key, "").await.status,
        202
    );
    for wrong in ["", "ä"] {
        let answer = house
            .send_with("operator", "POST", "/jobs/refresh/run", &[("idempotency-key", wrong)], "")
            .await;
        assert_eq!(answer.status, 400, "{wrong:?} {}", answer.body);
    }
}

/// A job that sleeps until it is cancelled.
const SLEEPER: &str = "[jobs.sleeper]\nsql = \"SELECT pg_sleep(300)\"\ntimeout = \"10m\"\n";

#[tokio::test]
async fn a_run_is_followed_and_cancelled() {
    let house = House::with(SLEEPER).await;
    let asked = house.send("operator", "POST", "/jobs/sleeper/run", "").await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let id = asked.json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(asked.header("location"), Some(format!("/runs/{id}").as_str()));
    assert_eq!(asked.json()["target"], "main");
    let follow = format!("/runs/{id}/events");
    let following = house.send("viewer", "GET", &follow, "");
    let cancel = async {
        wait_until("it runs", BOUND, async || {
            house.get("viewer", &format!("/runs/{id}")).await["state"] == "running"
        })
        .await;
        house.send("operator", "POST", &format!("/runs/{id}/cancel"), "").await
    };
    let (followed, cancelled) = tokio::join!(following, cancel);
    assert_eq!(
        (cancelled.status, &cancelled.json()["state"]),
        (202, &json!("cancelling")),
        "{}",
        cancelled.body
    );
    assert_eq!(followed.header("content-type"), Some("text/event-stream"));
    let states: Vec<String> = followed
        .body
        .split("event: run\ndata: ")
        .skip(1)
        .map(|event| serde_json::from_str::<Value>(event.split("\n\n").next().unwrap()).unwrap())
        .map(|run| run["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states.last().map(String::as_str), Some("cancelled"), "{states:?}");
    assert!(
        states.iter().any(|state| state == "running")
            && followed.body.ends_with("event: end\ndata: {}\n\n")
    );
    let over = house.send("operator", "POST", &format!("/runs/{id}/cancel"), "").await;
    assert_eq!(problem(&over), (409, "already_finished".to_owned()));
}

#[tokio::test]
async fn who_asks_twice_for_a_cancel_is_on_the_record_once() {
    let house = House::with(SLEEPER).await;
    let asked = house.send("operator", "POST", "/jobs/sleeper/run?target=main", "").await;
    let id = asked.json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(asked.header("location"), Some(format!("/runs/{id}?target=main").as_str()));
    let client = house.db.client().await;
    // Both before the instance can have heard of either, which looks once a second.
    let running =
        format!("SELECT count(*) FROM steward.job_runs WHERE id = '{id}' AND state = 'running'");
    wait_until("it runs", BOUND, async || client.number(&running).await == 1).await;
    let path = format!("/runs/{id}/cancel");
    let (first, second) =
        (house.send("operator", "POST", &path, ""), house.send("admin", "POST", &path, ""));
    let (first, second) = tokio::join!(first, second);
    assert!(
        [first.status, second.status].iter().all(|status| matches!(status, 202 | 409)),
        "{} {}",
        first.body,
        second.body
    );
    let recorded =
        "SELECT string_agg(resource_id, ' ') FROM steward.audit_logs WHERE action = 'job.cancel'";
    assert_eq!(client.text(recorded).await, id);
}

/// Who may follow is judged again after the rules have changed.
#[tokio::test]
async fn a_stream_ends_when_the_rules_are_read_again() {
    let house = House::with(SLEEPER).await;
    let asked = house.send("operator", "POST", "/jobs/sleeper/run", "").await;
    let id = asked.json()["run_id"].as_str().unwrap().to_owned();
    let path = format!("/runs/{id}/events");
    let reload = async {
        wait_until("it runs", BOUND, async || {
            house.get("viewer", &format!("/runs/{id}")).await["state"] == "running"
        })
        .await;
        house.daemon.signal(rustix::process::Signal::HUP);
    };
    let (followed, ()) = tokio::join!(house.send("viewer", "GET", &path, ""), reload);
    assert!(
        followed.body.contains("event: run") && !followed.body.contains("event: end"),
        "{}",
        followed.body
    );
    assert_eq!(house.get("viewer", &format!("/runs/{id}")).await["state"], "running");
    house.send("operator", "POST", &format!("/runs/{id}/cancel"), "").await;
}
