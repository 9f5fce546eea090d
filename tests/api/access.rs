//! Who may: every route with every role, and without.

use pgsteward::http::{Access, routes};

use crate::harness::{BOUND, wait_until};
use crate::{House, http, problem, token_of};

/// The path with something in the place of each name in braces.
fn filled(path: &str) -> String {
    path.replace("{id}", "01890000-0000-7000-8000-000000000000")
        .replace("{name}", "no-such-job")
        .replace("{check}", "pipeline")
        .replace("{file}", "app.js")
}

fn allowed(access: Access, role: &str) -> bool {
    match access {
        Access::Open | Access::OptionalAuth => true,
        Access::AnyRole => !role.is_empty(),
        Access::Viewer => matches!(role, "viewer" | "operator" | "admin"),
        Access::Operator => matches!(role, "operator" | "admin"),
        Access::Admin => role == "admin",
        Access::Events => matches!(role, "service" | "admin"),
    }
}

#[tokio::test]
async fn every_route_with_every_role_and_without() {
    let house = House::open().await;
    let mut looked = 0;
    for route in routes() {
        for role in ["", "viewer", "operator", "admin", "service"] {
            // A body that every change refuses, so that nothing is done: what is asked here is who may.
            let body = if route.method == hyper::Method::POST { "{\"nonsense\":1}" } else { "" };
            let path = filled(route.path);
            let answer = house.send(role, route.method.as_str(), &path, body).await;
            let what =
                format!("{} {path} as {role:?}: {} {}", route.method, answer.status, answer.body);
            assert!(answer.status < 500, "{what}");
            match (allowed(route.access, role), role) {
                (true, _) => assert!(!matches!(answer.status, 401 | 403), "{what}"),
                (false, "") => {
                    assert_eq!(problem(&answer), (401, "unauthenticated".to_owned()), "{what}");
                }
                (false, _) => assert_eq!(problem(&answer), (403, "forbidden".to_owned()), "{what}"),
            }
            looked += 1;
        }
    }
    assert!(looked > 100, "{looked} looked at");
}

#[tokio::test]
async fn wrong_credentials_are_refused_alike_limited_counted_and_on_the_record() {
    let house = House::open().await;
    let address = house.daemon.address();
    let call = async |credentials: &str| {
        http::request(address, "GET", "/health/database", &[("authorization", credentials)], "")
            .await
    };
    let wrong = ["Bearer pgs_wrong", "Basic YTpi", "Bearer", "Bearer a.b.c", "bearer  "];
    // What is open stays so, and tells no more.
    let open = http::request(address, "GET", "/health/", &[("authorization", wrong[0])], "").await;
    assert!(open.status == 200 && !open.body.contains("\"measured\""), "{}", open.body);
    let mut told = Vec::new();
    for credentials in wrong {
        let answer = call(credentials).await;
        assert_eq!(problem(&answer), (401, "invalid_credentials".to_owned()), "{credentials}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        told.push(answer.json()["detail"].clone());
    }
    told.dedup();
    assert_eq!(told.len(), 1, "they differ: {told:?}");
    // Ten at once; then one each six seconds.
    let mut last = call("Bearer pgs_wrong").await;
    for _ in 0..20 {
        last = call("Bearer pgs_wrong").await;
    }
    assert_eq!(problem(&last), (429, "too_many_failures".to_owned()));
    let wait: u64 = last.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    let counted =
        house.daemon.metric("pgsteward_http_auth_failures_total{reason=\"unknown_token\"}").await;
    assert!(counted.is_some_and(|count| (4.0..=12.0).contains(&count)), "{counted:?}");
    let client = house.db.client().await;
    let recorded = "SELECT count(*) FROM steward.audit_logs WHERE action = 'auth.failed' AND ip_address = '127.0.0.1'
                       AND resource_id = '/health/database' AND details ->> 'reason' = 'unknown_token'";
    wait_until("failed attempts in the trail", BOUND, async || client.number(recorded).await >= 1)
        .await;
    assert!(!house.daemon.log().contains("pgs_wrong"), "a credential is in the log");
    // Open routes are open all the same, and so is the house to who has a token.
    assert_eq!(house.send("viewer", "GET", "/whoami", "").await.status, 200);
    assert_eq!(house.send("", "GET", "/livez", "").await.status, 200);
}

#[tokio::test]
async fn without_tokens_the_command_that_makes_one_is_named() {
    let db = crate::TestDatabase::create(crate::Template::Migrated).await;
    let daemon = crate::Daemon::spawn(crate::Setup::new().database(&db.url())).await;
    daemon.wait_ready().await;
    for (method, path) in
        [("GET", "/health/database"), ("POST", "/health/cleanup"), ("GET", "/whoami")]
    {
        let answer = http::request(daemon.address(), method, path, &[], "").await;
        assert_eq!(problem(&answer), (403, "no_credentials_configured".to_owned()), "{path}");
        assert!(answer.body.contains("pgsteward token new"), "{}", answer.body);
    }
    assert_eq!(daemon.get("/health/").await.status, 200);
    let with_some =
        http::request(daemon.address(), "GET", "/health/", &[("authorization", "Bearer x")], "")
            .await;
    assert_eq!(with_some.status, 200, "what is open stays open: {}", with_some.body);
}

#[tokio::test]
async fn details_are_told_to_who_may_read_them() {
    let house = House::open().await;
    let message = |health: &serde_json::Value| {
        health["targets"]["main"]["components"]["connectivity"]["message"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(message(&house.get("", "/health/").await), None);
    assert_eq!(message(&house.get("service", "/health/").await), None);
    assert!(message(&house.get("viewer", "/health/").await).is_some());
    let who = house.get("operator", "/whoami").await;
    assert_eq!(
        who,
        serde_json::json!({ "actor": "token:operator", "role": "operator", "user": null })
    );
}

#[tokio::test]
async fn other_origins_read_only_where_they_are_configured() {
    let house = House::with("[http]\ncors_origins = [\"https://ops.example.com\"]\n").await;
    let address = house.daemon.address();
    let ask = async |method: &str, origin: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {}", token_of("viewer"));
        let mut headers = vec![("origin", origin), ("authorization", bearer.as_str())];
        headers.extend_from_slice(more);
        http::request(address, method, "/jobs", &headers, "").await
    };
    let ours = ask("GET", "https://ops.example.com", &[]).await;
    assert_eq!(ours.header("access-control-allow-origin"), Some("https://ops.example.com"));
    let other = ask("GET", "https://evil.example.com", &[]).await;
    assert_eq!((other.status, other.header("access-control-allow-origin")), (200, None));
    assert_eq!(other.header("vary"), Some("Origin"));
    let before =
        ask("OPTIONS", "https://ops.example.com", &[("access-control-request-method", "GET")])
            .await;
    assert_eq!(before.status, 204);
    assert!(before.header("access-control-allow-headers").unwrap().contains("authorization"));
    let before =
        ask("OPTIONS", "https://evil.example.com", &[("access-control-request-method", "GET")])
            .await;
    assert_eq!(before.header("access-control-allow-methods"), None);
}
