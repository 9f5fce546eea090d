//! The listener from outside, over real sockets, with boards that are filled by hand: no database is
//! needed for anything that it answers.

// A test that cannot go on panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use pgsteward::config;
use pgsteward::health::{Board, Component, Readiness, Report, Status};
use pgsteward::http::{
    Access, App, Authenticator, BindError, Body, BodyLimit, Response, Route, Rules, State, bind,
    routes, serve,
};
use pgsteward::lifecycle::Tasks;
use pgsteward::telemetry::Metrics;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No wait in these tests is longer.
const BOUND: Duration = Duration::from_secs(20);

fn limits() -> config::Http {
    config::Http {
        listen: ([127, 0, 0, 1], 0).into(),
        max_connections: 64,
        header_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(10),
        body_limit_bytes: 1024,
        ..config::Http::default()
    }
}

/// A listener on a free port, with what it reads from.
struct Server {
    address: SocketAddr,
    boards: BTreeMap<String, Arc<Board>>,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    tasks: Tasks,
}

impl Server {
    async fn start() -> Server {
        Server::with(limits(), routes(), BOUND).await
    }

    async fn with(limits: config::Http, routes: Vec<Route>, drain: Duration) -> Server {
        Server::of(&["main"], Duration::from_secs(60), limits, routes, drain).await
    }

    async fn of(
        targets: &[&str],
        stale_after: Duration,
        limits: config::Http,
        routes: Vec<Route>,
        drain: Duration,
    ) -> Server {
        let boards: BTreeMap<String, Arc<Board>> = targets
            .iter()
            .map(|t| ((*t).to_owned(), Arc::new(Board::new(t, stale_after))))
            .collect();
        let readiness = Arc::new(Readiness::new(targets.iter().copied(), Duration::from_secs(30)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let tasks = Tasks::new();
        let state = State {
            boards: boards.clone(),
            readiness: Arc::clone(&readiness),
            metrics: Arc::clone(&metrics),
            authenticator: Arc::new(Authenticator::new(Rules::default())),
            databases: Arc::default(),
            tasks: tasks.clone(),
            mutation_slots: Arc::new(tokio::sync::Semaphore::new(1)),
        };
        let app = App::with_routes(state, &limits, routes).drain_timeout(drain);
        let listener = bind(limits.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn("listener", serve(listener, app, tasks.clone(), tasks.stopping()));
        Server { address, boards, readiness, metrics, tasks }
    }

    async fn connect(&self) -> TcpStream {
        timeout(BOUND, TcpStream::connect(self.address)).await.unwrap().unwrap()
    }

    /// Sends bytes as they are, and reads until the server closes.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        // The server may have answered and closed before all is sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        read_to_end(&mut stream).await
    }

    async fn send(&self, method: &str, target: &str, headers: &str) -> Reply {
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        Reply::parse(&self.raw(request).await)
    }

    async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, "").await
    }

    fn publish(&self, target: &str, status: Status, reason: &'static str) {
        let component = Component {
            name: "connectivity",
            status,
            reason,
            message: "password authentication failed at db.internal:5432".to_owned(),
            remedy: Some("check the password of app at db.internal".to_owned()),
            since: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            measured: serde_json::json!({"host": "db.internal", "statement": "SELECT secret"}),
        };
        let now = chrono::Utc::now();
        self.boards[target].publish(Report::new(target, status, now, Some(1.5), vec![component]));
    }

    /// The count of requests of a route with a code.
    fn counted(&self, route: &str, code: &str) -> u64 {
        self.metrics.http_requests_total.with_label_values(&[route, code]).get()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// What came until the end; a reset counts as the end.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    let read = async {
        while let Ok(length) = stream.read(&mut chunk).await {
            if length == 0 {
                break;
            }
            all.extend_from_slice(&chunk[..length]);
        }
    };
    timeout(BOUND, read).await.expect("the connection is closed within the bound");
    String::from_utf8(all).unwrap()
}

/// Waits for a state.
async fn until(what: &str, mut state: impl FnMut() -> bool) {
    let wait = async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, wait).await.unwrap_or_else(|_| panic!("{what} within the bound"));
}

#[derive(Debug)]
struct Reply {
    code: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn parse(text: &str) -> Reply {
        let (head, body) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.lines();
        let code = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Reply { code, headers: lines.map(header).collect(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// A problem as RFC 9457 tells it.
    #[track_caller]
    fn problem(&self, code: u16, name: &str) {
        assert_eq!(
            (self.code, self.header("content-type")),
            (code, "application/problem+json"),
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&code.into(), &name.into()),
            "{problem}"
        );
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{problem}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    }
}

#[tokio::test]
async fn every_route_answers_get_and_head_alike() {
    let server = Server::start().await;
    server.readiness.migrated("main");
    server.publish("main", Status::Healthy, "ok");
    let paths = [
        "/",
        "/livez",
        "/livez/pipeline",
        "/readyz",
        "/readyz/migrations:main",
        "/healthz",
        "/healthz/database",
    ];
    for path in paths.into_iter().chain(["/health", "/health/", "/metrics", "/livez/", "/?x=1"]) {
        let got = server.get(path).await;
        assert_eq!(got.code, 200, "{path} {got:?}");
        assert_eq!(got.header("cache-control"), "no-store", "{path}");
        assert_eq!(got.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(got.header("content-length"), got.body.len().to_string(), "{path}");
        let head = server.send("HEAD", path, "").await;
        assert_eq!((head.code, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.header("content-type"), got.header("content-type"), "{path}");
        let length: usize = head.header("content-length").parse().unwrap();
        // Ages and counts move between the two.
        let moves = path.starts_with("/health/") || path == "/health" || path == "/metrics";
        assert!(if moves { length > 100 } else { length == got.body.len() }, "{path} {head:?}");
    }
    for probe in ["/livez", "/readyz"] {
        assert_eq!(server.get(probe).await.body, "ok");
    }
}

#[tokio::test]
async fn the_index_lists_every_route() {
    let server = Server::start().await;
    let plain = server.get("/").await;
    let page = server.send("GET", "/", "Accept: text/html,*/*;q=0.8\r\n").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let refused = server.send("GET", "/", "Accept: text/html;q=0\r\n").await;
    assert_eq!(refused.header("content-type"), "text/plain; charset=utf-8");
    for route in routes() {
        assert!(plain.body.contains(route.path), "{}", route.path);
    }
    // What the browser gets runs nothing that is not in the binary's own files.
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    let script = server.get("/page/app.js").await;
    assert_eq!(
        (script.code, script.header("content-type")),
        (200, "text/javascript; charset=utf-8")
    );
    let again = server
        .send("GET", "/page/app.js", &format!("If-None-Match: {}\r\n", script.header("etag")))
        .await;
    assert_eq!((again.code, again.body.as_str()), (304, ""));
    server.get("/page/../Cargo.toml").await.problem(404, "not_found");
    server.get("/page/..%2fopenapi.json").await.problem(404, "not_found");
}

#[tokio::test]
async fn readiness_is_latched_and_liveness_never_hangs_on_the_database() {
    let server = Server::start().await;
    let readiness = &server.readiness;
    let step = async |ready: u16, line: &str| {
        assert_eq!(server.get("/livez").await.code, 200, "{line}");
        assert_eq!(server.get("/healthz").await.code, 200, "{line}");
        let got = server.get("/readyz?verbose").await;
        assert_eq!(got.code, ready, "{line}: {got:?}");
        assert!(got.body.lines().any(|found| found == line), "{line}: {got:?}");
    };
    step(503, "[-]connected:main failed: starting: connecting for the first time").await;
    readiness.connect_failed("main", "refused");
    step(503, "[-]connected:main failed: starting: connecting, last error refused").await;
    readiness.connected("main");
    step(503, "[-]migrations:main failed: starting: migrating").await;
    readiness.migration_failed("main", "002_x.sql", "syntax_error");
    step(503, "[-]migrations:main failed: migration 002_x.sql failed: syntax_error").await;
    readiness.migrated("main");
    step(200, "[+]migrations:main ok").await;
    server.publish("main", Status::Unhealthy, "refused");
    readiness.connect_failed("main", "refused");
    step(200, "[+]connected:main ok").await;
    readiness.drain();
    step(503, "[-]draining failed: the process is stopping").await;
}

#[tokio::test]
async fn a_dead_pipeline_fails_all_three() {
    let server = Server::start().await;
    server.readiness.migrated("main");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(100));
    server
        .readiness
        .beat("scheduler:main", long_ago.expect("the machine is up for longer than 100 s"));
    for (path, name) in [("/livez", "livez"), ("/readyz", "readyz"), ("/healthz", "healthz")] {
        let got = server.get(path).await;
        assert_eq!(got.code, 503, "{path}");
        assert!(
            got.body.contains("[-]pipeline failed: scheduler:main has not gone round for 10"),
            "{got:?}"
        );
        assert!(got.body.ends_with(&format!("{name} check failed\n")), "{got:?}");
        assert_eq!(server.get(&format!("{path}/pipeline")).await.code, 503);
        assert_eq!(server.get(&format!("{path}?exclude=pipeline")).await.code, 200);
    }
    server.readiness.beat("scheduler:main", Instant::now());
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn probes_speak_as_kubernetes_does() {
    let server = Server::start().await;
    let passed = server.get("/livez?verbose").await;
    assert_eq!(passed.body, "[+]pipeline ok\nlivez check passed\n");
    assert_eq!(passed.header("content-type"), "text/plain; charset=utf-8");
    server.readiness.migrated("main");
    let excluded = server
        .get("/readyz?verbose&exclude=connected%3Amain&exclude=no%22pe&exclude=pipeline")
        .await;
    let expected = "[+]draining ok\n[+]pipeline excluded: ok\n[+]connected:main excluded: ok\n[+]migrations:main ok\n\
                    warn: some health checks cannot be excluded: no matches for \"no\\\"pe\"\nreadyz check passed\n";
    assert_eq!(excluded.body, expected);
    assert_eq!(server.get("/readyz?exclude=nope").await.body, "ok");
    server.readiness.migration_failed("main", "f.sql", "x");
    let one = server.get("/readyz/migrations:main").await;
    assert_eq!(
        (one.code, one.body.as_str()),
        (503, "[-]migrations:main failed: migration f.sql failed: x\n")
    );
    assert_eq!(server.get("/readyz/draining").await.body, "ok");
    assert_eq!(server.get("/readyz/draining?verbose").await.body, "[+]draining ok\n");
    assert_eq!(
        server.get("/readyz?exclude=migrations:main").await.code,
        200,
        "what is excluded does not decide"
    );
    server.get("/readyz/nope").await.problem(404, "no_such_check");
    server.get("/livez/draining").await.problem(404, "no_such_check");
}

#[tokio::test]
async fn the_database_is_told_in_healthz_and_decides_only_its_own_check() {
    let server = Server::of(&["a", "b"], Duration::from_secs(60), limits(), routes(), BOUND).await;
    server.publish("a", Status::Healthy, "ok");
    let unmeasured = server.get("/healthz/database").await;
    assert_eq!(
        (unmeasured.code, unmeasured.body.as_str()),
        (503, "[-]database failed: b is unknown (not_measured)\n")
    );
    let table = [
        (Status::Healthy, "ok", 200, "ok\ndatabase a: healthy\ndatabase b: healthy\n"),
        (Status::Degraded, "slow", 200, "ok\ndatabase a: healthy\ndatabase b: degraded (slow)\n"),
        (
            Status::Unhealthy,
            "refused",
            503,
            "ok\ndatabase a: healthy\ndatabase b: unhealthy (refused)\n",
        ),
        (
            Status::Unknown,
            "not_permitted",
            503,
            "ok\ndatabase a: healthy\ndatabase b: unknown (not_permitted)\n",
        ),
    ];
    for (status, reason, code, body) in table {
        server.publish("b", status, reason);
        let all = server.get("/healthz").await;
        assert_eq!((all.code, all.body.as_str()), (200, body));
        let one = server.get("/healthz/database").await;
        assert_eq!(one.code, code, "{one:?}");
        assert_eq!(server.get("/healthz/database?target=a").await.code, 200);
        assert_eq!(server.get("/healthz/database?target=b").await.code, code);
        let verbose = server.get("/healthz?verbose").await;
        assert_eq!(verbose.code, 200);
        assert_eq!(verbose.body.contains("[+]database ok"), code == 200, "{verbose:?}");
    }
    server.get("/healthz?target=c").await.problem(404, "no_such_target");
}

#[tokio::test]
async fn health_tells_status_and_reason_and_nothing_of_the_inside() {
    let server = Server::start().await;
    let unmeasured = server.get("/health/").await;
    assert_eq!(unmeasured.code, 200);
    let main = &unmeasured.json()["targets"]["main"];
    assert_eq!((&main["status"], &main["reason"]), (&"unknown".into(), &"not_measured".into()));
    assert!(
        main["checked_at"].is_null() && main["age_seconds"].is_null() && main["since"].is_null(),
        "{main}"
    );

    let table = [
        (Status::Healthy, "healthy", 200),
        (Status::Degraded, "degraded", 200),
        (Status::Unhealthy, "unhealthy", 503),
    ];
    for (status, name, code) in table {
        server.publish("main", status, "auth");
        for accept in ["", "Accept: application/health+json\r\n"] {
            let got = server.send("GET", "/health", accept).await;
            assert_eq!(got.code, code, "{got:?}");
            for inside in ["db.internal", "password", "SELECT", "5432"] {
                assert!(!got.body.contains(inside), "{inside}: {got:?}");
            }
        }
        let got = server.get("/health/").await;
        assert_eq!(
            (got.header("content-type"), got.header("vary")),
            ("application/json", "Accept")
        );
        let json = got.json();
        let main = &json["targets"]["main"];
        assert_eq!((&json["status"], &main["status"]), (&name.into(), &name.into()));
        assert_eq!(
            (&main["reason"], &main["since"]),
            (&"auth".into(), &"2023-11-14T22:13:20.000Z".into())
        );
        assert_eq!((&main["stale"], &main["response_ms"]), (&false.into(), &1.5.into()));
        assert!((0.0..20.0).contains(&main["age_seconds"].as_f64().unwrap()), "{main}");
        assert!(chrono::DateTime::parse_from_rfc3339(main["checked_at"].as_str().unwrap()).is_ok());
        let part = serde_json::json!({"status": name, "reason": "auth", "since": "2023-11-14T22:13:20.000Z"});
        assert_eq!(main["components"], serde_json::json!({ "connectivity": part }));
    }
    server.get("/health/?target=nobody").await.problem(404, "no_such_target");
}

#[tokio::test]
async fn health_speaks_the_draft_where_it_is_asked_to() {
    let server = Server::start().await;
    let accept = "Accept: text/plain, application/HEALTH+json;q=0.9\r\n";
    let unmeasured = server.send("GET", "/health/", accept).await;
    assert_eq!(unmeasured.header("content-type"), "application/health+json");
    let json = unmeasured.json();
    assert_eq!(
        (&json["status"], &json["notes"][0]),
        (&"warn".into(), &"main: not_measured".into())
    );
    let table = [
        (Status::Healthy, "pass", 200),
        (Status::Degraded, "warn", 200),
        (Status::Unhealthy, "fail", 503),
    ];
    for (status, draft, code) in table {
        server.publish("main", status, "slow");
        let got = server.send("GET", "/health/", accept).await;
        let json = got.json();
        assert_eq!((got.code, &json["status"]), (code, &draft.into()), "{json}");
        let check = &json["checks"]["main:connectivity"][0];
        assert_eq!(
            (&check["status"], &check["componentType"]),
            (&draft.into(), &"datastore".into())
        );
        assert_eq!(check.get("output").is_some(), draft != "pass", "{check}");
        let time = &json["checks"]["main:responseTime"][0];
        assert_eq!((&time["observedValue"], &time["observedUnit"]), (&1.5.into(), &"ms".into()));
    }
    let refused = server.send("GET", "/health/", "Accept: application/health+json;q=0\r\n").await;
    assert_eq!(refused.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_stale_measurement_is_no_longer_believed() {
    let server = Server::of(&["main"], Duration::from_millis(1), limits(), routes(), BOUND).await;
    server.publish("main", Status::Healthy, "ok");
    until("stale", || server.boards["main"].read().stale).await;
    let got = server.get("/health/").await;
    let json = got.json();
    let main = &json["targets"]["main"];
    assert_eq!(
        (got.code, &main["status"], &main["reason"]),
        (200, &"unknown".into(), &"stale".into())
    );
    assert_eq!(main["components"]["connectivity"]["status"], "healthy", "as last measured");
    let draft = server.send("GET", "/health/", "Accept: application/health+json\r\n").await.json();
    assert_eq!(draft["checks"]["main:connectivity"][0]["status"], "warn", "{draft}");
    assert_eq!(server.get("/healthz/database").await.code, 503);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_a_problem_with_a_code() {
    let server = Server::start().await;
    server.get("/nowhere").await.problem(404, "not_found");
    server.get("/livez/a/b").await.problem(404, "not_found");
    server.get("/livez/%zz").await.problem(400, "bad_request");
    server.get("/livez?x=%").await.problem(400, "bad_request");
    server.get(&format!("/livez?{}", "x".repeat(5000))).await.problem(414, "uri_too_long");
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let got = server.send(method, "/health/", "Content-Length: 0\r\n").await;
        got.problem(405, "method_not_allowed");
        assert_eq!(got.header("allow"), "GET, HEAD, OPTIONS");
    }
    for (target, methods) in [("/metrics", "GET, HEAD, OPTIONS"), ("*", "GET, HEAD, OPTIONS, POST")]
    {
        let got = server.send("OPTIONS", target, "").await;
        assert_eq!(
            (got.code, got.header("allow"), got.body.as_str()),
            (204, methods, ""),
            "{target}"
        );
    }
    server.send("OPTIONS", "/nowhere", "").await.problem(404, "not_found");
    server.send("GET", "*", "").await.problem(404, "not_found");
    Reply::parse(&server.raw("GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n").await)
        .problem(400, "bad_request");
    let twice = "GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n";
    Reply::parse(&server.raw(twice).await).problem(400, "bad_request");
    assert_eq!(
        Reply::parse(&server.raw("GET /livez HTTP/1.0\r\n\r\n").await).code,
        200,
        "1.0 needs no Host"
    );
    assert_eq!(
        Reply::parse(&server.raw("GET http://x/livez HTTP/1.0\r\n\r\n").await).code,
        200,
        "absolute form"
    );
}

#[tokio::test]
async fn a_request_keeps_its_name_where_it_is_sane() {
    let server = Server::start().await;
    for sane in ["a", "0198f0d2.x_Y-z", &"r".repeat(64)] {
        let got = server.send("GET", "/livez", &format!("X-Request-Id: {sane}\r\n")).await;
        assert_eq!(got.header("x-request-id"), sane);
    }
    let mut minted = BTreeSet::new();
    for insane in ["", "a b", "x\tlevel=error", "é", &"r".repeat(65), "<script>"] {
        let got = server.send("GET", "/livez", &format!("X-Request-Id: {insane}\r\n")).await;
        let id: uuid::Uuid = got.header("x-request-id").parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
        assert!(minted.insert(id));
    }
}

#[tokio::test]
async fn requests_are_counted_by_pattern_never_by_path() {
    let server = Server::start().await;
    for path in ["/secret-path", "/livez/pipeline", "/livez/nope", "/livez", "/livez?x=1"] {
        server.get(path).await;
    }
    server.send("POST", "/livez", "Content-Length: 0\r\n").await;
    server.send("HEAD", "/livez", "").await;
    let counts = [
        ("unmatched", "404", 1),
        ("/livez/{check}", "200", 1),
        ("/livez/{check}", "404", 1),
        ("/livez", "200", 3),
        ("/livez", "405", 1),
    ];
    for (route, code, count) in counts {
        assert_eq!(server.counted(route, code), count, "{route} {code}");
    }
    assert_eq!(
        server
            .metrics
            .http_request_duration_seconds
            .with_label_values(&["/livez"])
            .get_sample_count(),
        4
    );
    let page = server.get("/metrics").await.body;
    assert!(!page.contains("secret-path") && !page.contains("nope"), "{page}");
}

/// A page with families of every type and a label value that needs escapes.
async fn full_page(server: &Server) -> String {
    let metrics = &server.metrics;
    metrics.database_up.with_label_values(&["main"]).set(1);
    metrics.health_status.with_label_values(&["main", "connectivity"]).set(0);
    metrics.pg_up.with_label_values(&["main"]).set(1);
    metrics.pg_stat_activity_connections.with_label_values(&["main", "a \"b\"\\\n", "idle"]).set(1);
    metrics.job_start_delay_seconds.with_label_values(&["main"]).observe(0.1);
    metrics.partitions_ahead.with_label_values(&["main", "steward.system_health"]).set(14);
    for path in ["/livez", "/readyz", "/health/", "/nowhere"] {
        server.get(path).await;
    }
    let got = server.get("/metrics").await;
    assert_eq!(
        (got.code, got.header("content-type")),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    got.body
}

#[tokio::test]
async fn the_page_of_metrics_is_well_formed() {
    let server = Server::start().await;
    let page = full_page(&server).await;
    let (mut helped, mut typed, mut series) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert!(helped.insert(name) && !text.is_empty(), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(typed.insert(name, kind).is_none(), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let number = value.parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
            assert!(series.insert(sample), "twice: {line}");
            let name = sample.split('{').next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .find(|family| typed.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            assert!(
                helped.contains(family) && typed.contains_key(family),
                "HELP and TYPE come first: {line}"
            );
            assert_eq!(typed[family] == "counter", family.ends_with("_total"), "{line}");
            assert!(number >= 0.0 || typed[family] == "gauge", "{line}");
        }
    }
    assert_eq!(helped, typed.keys().copied().collect());
    for own in [
        "pgsteward_build_info",
        "pgsteward_http_requests_total",
        "pgsteward_http_request_duration_seconds",
    ] {
        assert!(typed.contains_key(own), "{own}");
    }
    assert!(series.contains("pgsteward_http_connections"), "this one's connection");
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_the_page() {
    let server = Server::start().await;
    let page = full_page(&server).await;
    let started = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(child) => child,
        Err(error) => panic!(
            "promtool: {error}; install it: apt-get install -y --no-install-recommends prometheus"
        ),
    };
    std::io::Write::write_all(&mut promtool.stdin.take().unwrap(), page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    assert_eq!(said, "");
    assert!(output.status.success(), "{}", output.status);
}

#[tokio::test]
async fn connections_are_kept_and_pipelined() {
    let server = Server::start().await;
    let one = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answers = server.raw(format!("{one}{one}{last}")).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    until("the connection is no longer counted", || server.metrics.http_connections.get() == 0)
        .await;
}

#[tokio::test]
async fn a_head_that_does_not_arrive_is_waited_for_only_so_long() {
    let limits = config::Http { header_timeout: Duration::from_millis(300), ..limits() };
    let server = Server::with(limits, routes(), BOUND).await;
    // Nothing, a part, and an idle connection after an answer.
    for sent in ["", "GET /livez HTTP/1.1\r\nHost", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let begun = Instant::now();
        let got = server.raw(sent).await;
        assert_eq!(got.ends_with("ok"), sent.ends_with("\r\n\r\n"), "{got}");
        assert!(begun.elapsed() >= Duration::from_millis(250), "{sent:?} was given its time");
    }
    // A byte now and then does not help.
    let mut stream = server.connect().await;
    let drip = async {
        for byte in b"GET /livez HTTP/1.1\r\n".iter().chain(std::iter::repeat(&b'x')) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(BOUND, drip).await.expect("the server hangs up");
    until("no connection is left", || server.metrics.http_connections.get() == 0).await;
}

#[tokio::test]
async fn slow_clients_do_not_keep_others_out_for_long() {
    let limits =
        config::Http { max_connections: 8, header_timeout: Duration::from_secs(2), ..limits() };
    let server = Server::with(limits, routes(), BOUND).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.unwrap();
        slow.push(stream);
    }
    until("all places are taken", || server.metrics.http_connections.get() == 8).await;
    let mut refused = server.connect().await;
    assert_eq!(read_to_end(&mut refused).await, "", "the ninth is closed at once");
    assert_eq!(server.metrics.http_connections_rejected_total.get(), 1, "and counted");
    until("the slow ones are cut off", || server.metrics.http_connections.get() == 0).await;
    assert_eq!(server.get("/livez").await.body, "ok");
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let server = Server::start().await;
    let large = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let got = server.raw(large).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    let many = format!("GET /livez HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    let got = server.raw(many).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    until("both are counted", || server.counted("malformed", "431") == 2).await;
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let server = Server::start().await;
    let garbage: [&[u8]; 8] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET  /livez\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n",
    ];
    for bytes in garbage {
        let mut stream = server.connect().await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let got = read_to_end(&mut stream).await;
        assert!(
            got.is_empty() || got.starts_with("HTTP/1.1 400 "),
            "{} {got}",
            bytes.escape_ascii()
        );
    }
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        let mut stream = server.connect().await;
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        read_to_end(&mut stream).await;
    }
    until("no connection is left", || server.metrics.http_connections.get() == 0).await;
    assert!(server.counted("malformed", "400") > 100);
    assert_eq!(server.get("/livez").await.code, 200);
}

/// Routes that the daemon does not have: to fail, to dawdle, to read a body, to be private.
fn with_more_routes() -> Vec<Route> {
    fn text(body: impl Into<hyper::body::Bytes>) -> Response {
        Response::new(Body::full(body.into()))
    }
    let mut table = routes();
    let mut add = |method, path, access, handler| {
        table.push(Route {
            method,
            path,
            access,
            body: BodyLimit::Usual,
            about: "for a test",
            handler,
        });
    };
    add(Method::GET, "/panic", Access::Open, |_| Box::pin(async { panic!("on purpose") }));
    add(Method::GET, "/panic-at-once", Access::Open, |_| panic!("on purpose"));
    add(Method::GET, "/never", Access::Open, |_| Box::pin(std::future::pending()));
    add(Method::GET, "/gate", Access::Open, |c| {
        Box::pin(async {
            // The test opens the gate by this gauge, which is in reach of both.
            until("the gate is open", || c.state.metrics.config_last_reload_successful.get() == 0)
                .await;
            Ok(text("done"))
        })
    });
    add(Method::GET, "/large", Access::Open, |_| {
        Box::pin(async { Ok(text(vec![b'x'; 32 << 20])) })
    });
    add(Method::POST, "/echo", Access::Open, |c| Box::pin(async { Ok(text(c.body.clone())) }));
    add(Method::GET, "/private", Access::Viewer, |_| Box::pin(async { Ok(text("secret")) }));
    table
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_goes_on() {
    let server = Server::with(limits(), with_more_routes(), BOUND).await;
    server.get("/panic").await.problem(500, "internal");
    server.get("/panic-at-once").await.problem(500, "internal");
    let both = "GET /panic HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let got = server.raw(both).await;
    assert!(got.starts_with("HTTP/1.1 500 ") && got.ends_with("\r\n\r\nok"), "{got}");
    assert!(!got.contains("on purpose"), "{got}");
    assert_eq!(server.counted("/panic", "500"), 2);
}

#[tokio::test]
async fn what_wants_credentials_says_so() {
    let server = Server::with(limits(), with_more_routes(), BOUND).await;
    server.get("/private").await.problem(403, "no_credentials_configured");
}

#[tokio::test]
async fn an_answer_or_a_body_that_does_not_come_is_waited_for_only_so_long() {
    let limits = config::Http { request_timeout: Duration::from_millis(300), ..limits() };
    let server = Server::with(limits, with_more_routes(), BOUND).await;
    server.get("/never").await.problem(503, "timeout");
    let late = server.raw("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    Reply::parse(&late).problem(408, "request_timeout");
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_given_up() {
    let limits = config::Http { request_timeout: Duration::from_millis(500), ..limits() };
    let server = Server::with(limits, with_more_routes(), BOUND).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until("it is being answered", || server.counted("/large", "200") == 1).await;
    until("it is given up", || server.metrics.http_connections.get() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn bodies_are_read_up_to_the_limit() {
    let server = Server::with(limits(), with_more_routes(), BOUND).await;
    let post = async |headers: &str, body: &str| {
        Reply::parse(
            &server.raw(format!("POST /echo HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")).await,
        )
    };
    let fits = "y".repeat(1024);
    let close = "Connection: close\r\n";
    let got = post(&format!("{close}Content-Length: 1024\r\n"), &fits).await;
    assert_eq!((got.code, &got.body), (200, &fits));
    let got = post(
        &format!("{close}Transfer-Encoding: chunked\r\n"),
        &format!("400\r\n{fits}\r\n0\r\n\r\n"),
    )
    .await;
    assert_eq!((got.code, &got.body), (200, &fits));

    // Who sends too much is given the time to finish, and told then; who asks first is told at once.
    for (framing, begun) in
        [("Content-Length: 2000", ""), ("Transfer-Encoding: chunked", "7d0\r\n")]
    {
        let since = Instant::now();
        let begun = format!("{begun}{}", "y".repeat(1500));
        post(&format!("{framing}\r\n"), &begun).await.problem(413, "body_too_large");
        assert!(since.elapsed() >= Duration::from_millis(900), "{framing}");
    }
    // These close by themselves.
    let large = "y".repeat(200_000);
    let got = post("Content-Length: 200000\r\n", &large).await;
    got.problem(413, "body_too_large");
    assert_eq!(got.header("connection"), "close");
    let chunked = format!("30d40\r\n{large}\r\n0\r\n\r\n");
    post("Transfer-Encoding: chunked\r\n", &chunked).await.problem(413, "body_too_large");
    post("Expect: 100-continue\r\nContent-Length: 99999999999\r\n", "")
        .await
        .problem(413, "body_too_large");
    post("Transfer-Encoding: chunked\r\n", "zz\r\n").await.problem(400, "bad_request");
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn a_request_in_flight_is_answered_while_the_listener_closes() {
    let server = Server::with(limits(), with_more_routes(), BOUND).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut busy = server.connect().await;
    // The 405 comes first: when it is counted, the request behind it is in flight or about to be.
    busy.write_all(b"PUT /gate HTTP/1.1\r\nHost: x\r\n\r\nGET /gate HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    until("both are busy", || {
        server.counted("/livez", "200") == 1 && server.counted("/gate", "405") == 1
    })
    .await;
    server.tasks.stop();
    let got = read_to_end(&mut idle).await;
    assert!(got.ends_with("ok"), "an idle connection is closed: {got}");
    assert_eq!(server.counted("/gate", "200"), 0, "the other is still in flight");
    server.metrics.config_last_reload_successful.set(0);
    let got = read_to_end(&mut busy).await;
    let (_, second) = got.split_once("method_not_allowed").unwrap();
    assert!(
        second.contains("HTTP/1.1 200 OK\r\n") && second.contains("connection: close\r\n"),
        "{got}"
    );
    assert!(second.ends_with("\r\n\r\ndone"), "{got}");
    assert_eq!(server.tasks.drain(BOUND).await, [] as [&str; 0]);
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
    assert!(bind(server.address).await.is_ok(), "the address is free again");
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_asking_is_answered() {
    let server = Server::with(limits(), with_more_routes(), BOUND).await;
    let mut stream = server.connect().await;
    // The 405 tells that the server reads; what follows it ends with the client's side closed.
    stream.write_all(b"PUT /gate HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until("the server reads", || server.counted("/gate", "405") == 1).await;
    stream.write_all(b"GET /gate HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    // Time for the server to see the end, if it were to give up on it.
    for _ in 0..20 {
        assert_eq!(server.get("/livez").await.code, 200);
    }
    server.metrics.config_last_reload_successful.set(0);
    let got = read_to_end(&mut stream).await;
    assert!(got.ends_with("\r\n\r\ndone"), "{got:?}");
}

#[tokio::test]
async fn the_drain_ends_whatever_hangs() {
    let server = Server::with(limits(), with_more_routes(), Duration::from_millis(200)).await;
    let mut hanging = server.connect().await;
    hanging.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut half = server.connect().await;
    half.write_all(b"GET /livez HT").await.unwrap();
    until("both are open", || server.metrics.http_connections.get() == 2).await;
    server.tasks.stop();
    assert_eq!(server.tasks.drain(Duration::from_secs(5)).await, [] as [&str; 0]);
    assert_eq!(read_to_end(&mut hanging).await, "");
    assert_eq!(read_to_end(&mut half).await, "");
}

#[tokio::test]
async fn a_taken_port_names_its_owner() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("--listen"), "{text}");
    let BindError::InUse { owner, .. } = error else { panic!("{text}") };
    if cfg!(target_os = "linux") {
        let owner = owner.expect("our own sockets can be seen");
        assert_eq!(owner.pid, std::process::id());
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(owner.command, name.trim_end());
        assert!(text.contains(&format!("{} (pid {})", owner.command, owner.pid)), "{text}");
    }
    let nowhere = bind("192.0.2.1:8432".parse().unwrap()).await.unwrap_err();
    assert!(matches!(nowhere, BindError::NoAddress { .. }), "{nowhere}");
}

#[tokio::test]
async fn a_request_that_two_could_read_differently_is_refused_and_its_connection_ends() {
    let server = Server::start().await;
    let hidden = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    let shapes = [
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
        "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length : 4\r\n\r\nabcd",
        "POST /livez HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n",
        "POST /livez HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: x\r\nX-\u{e9}: a\r\n\r\n",
        "GET /li\u{0}vez HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    for shape in shapes {
        let told = server.raw(format!("{shape}{hidden}")).await;
        let answers = told.matches("HTTP/1.").count();
        assert!(
            answers <= 1 && !told.contains("# HELP"),
            "{shape:?} let something through: {told}"
        );
        assert!(told.is_empty() || !told.contains(" 200 "), "{shape:?}: {told}");
    }
    // Both lengths at once: the chunks count, and what follows them is a request of its own only where the connection
    // goes on, which is then answered as what it is, never as the body's rest.
    let both = "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let told = server.raw(format!("{both}{hidden}")).await;
    assert!(told.starts_with("HTTP/1.1 4"), "{told}");
    assert_eq!(server.get("/livez").await.code, 200);
}

#[tokio::test]
async fn a_thousand_connections_keep_nobody_out() {
    // Both ends of each are in this process.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum.map(|most| most.min(8192)).or(Some(8192));
    setrlimit(Resource::Nofile, files).unwrap();
    let server =
        Server::with(config::Http { max_connections: 1100, ..limits() }, routes(), BOUND).await;
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(server.connect().await);
    }
    until("all are open", || server.metrics.http_connections.get() >= 1000).await;
    for _ in 0..50 {
        assert_eq!(server.get("/health/").await.code, 200);
    }
    // Each of them is as good as any other.
    for stream in open.iter_mut().step_by(100) {
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(read_to_end(stream).await.starts_with("HTTP/1.1 200"));
    }
    drop(open);
    until("all are gone", || server.metrics.http_connections.get() == 0).await;
}
