//! The API: requests of the current health by many, by a steady stream, and by who only keeps connections open; and
//! events of applications, beside the same events sent to the database itself.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgsteward::http::auth::token;

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, TestClient, wait_until};
use super::process::Memory;
use super::report::{Findings, Limit, Row, Sample};
use super::scrape::read_answer;

/// Connections that ask as fast as they are answered, over as many threads as there are cores to spare: one.
const CLIENTS: usize = 16;
const FOR: Duration = Duration::from_secs(5);
const REQUESTS_PER_SECOND: f64 = 20_000.0;
/// The steady stream: so many a second, each counted from when it was to be sent.
const STEADY: u32 = 1_000;
const STEADY_P99_MS: f64 = 5.0;
const IDLE: usize = 1_000;
const IDLE_MIB: f64 = 2.0;
const BATCH: usize = 1_000;
const EVENTS_PER_SECOND: f64 = 20_000.0;
const TOKEN: &str = "pgs_of_the_bench_0123456789abcdef0123456789";

pub async fn measure(ground: &Ground) -> Findings {
    let url = ground.database("bench_api").await;
    let digest = token::hex(&token::digest(TOKEN));
    let config = format!(
        "[migrations]\nsets = [\"zentry\"]\n[http]\nmax_connections = 1100\nheader_timeout = \"60s\"\n\
         [auth.tokens.bench]\nrole = \"admin\"\nsha256 = \"{digest}\"\n"
    );
    let daemon = Daemon::spawn(Setup::new().database(&url).config(&config)).await;
    wait_until("a whole measurement", BOUND, async || {
        daemon.get("/health/").await.json()["targets"]["main"]["components"]
            .as_object()
            .is_some_and(|c| c.len() == 11)
    })
    .await;
    let (address, pid) = (daemon.address(), daemon.pid());
    let length = daemon.get("/health/").await.body.len();
    // Threads of their own: what measures must not share a queue with what is measured.
    let load = move || {
        (idle(address, pid, false), many(address), steady(address), idle(address, pid, true))
    };
    let (silent, many, steady, kept) =
        tokio::task::spawn_blocking(load).await.expect("the load ends");
    let client = ground.client("bench_api").await;
    let (by_api, by_sql) = (events(address).await, events_by_sql(&client).await);
    daemon.terminate().await;
    let mut findings = Findings::of([
        Row::new(
            "GET /health/, requests each second",
            Limit::AtLeast(REQUESTS_PER_SECOND),
            "",
            Sample::one(many),
        ),
        Row::percentile(
            "GET /health/ at 1,000 a second, p50",
            0.5,
            Limit::Reference,
            "ms",
            &steady,
        ),
        Row::percentile(
            "GET /health/ at 1,000 a second, p99",
            0.99,
            Limit::AtMost(STEADY_P99_MS),
            "ms",
            &steady,
        ),
        Row::new(
            "resident growth under 1,000 idle connections",
            Limit::AtMost(IDLE_MIB),
            "MiB",
            Sample::one(silent),
        ),
        Row::new(
            "the same, each kept open after an answer",
            Limit::Reference,
            "MiB",
            Sample::one(kept),
        ),
        Row::new(
            "POST /audit/events, events each second",
            Limit::AtLeast(EVENTS_PER_SECOND),
            "",
            Sample::one(by_api),
        ),
        Row::new(
            "the same by log_audit_events, events each second",
            Limit::Reference,
            "",
            Sample::one(by_sql),
        ),
        Row::new("the ratio of both", Limit::Reference, "", Sample::one(by_api / by_sql)),
    ]);
    findings.note(format!(
        "an answer of GET /health/ has {length} bytes; {CLIENTS} kept-alive connections of one thread beside the \
         daemon; events in batches of {BATCH} over one connection"
    ));
    findings
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(BOUND)).expect("a bound");
    stream
}

fn request(address: SocketAddr) -> String {
    format!("GET /health/ HTTP/1.1\r\nhost: {address}\r\n\r\n")
}

/// Requests each second, when each connection asks again as soon as it is answered. One thread sends to all, then
/// reads from all: the least that a load can cost beside what it measures.
fn many(address: SocketAddr) -> f64 {
    let request = request(address);
    let mut streams: Vec<BufReader<TcpStream>> =
        (0..CLIENTS).map(|_| BufReader::new(connect(address))).collect();
    let (mut body, mut count) = (Vec::new(), 0_u64);
    let begun = Instant::now();
    while begun.elapsed() < FOR {
        for stream in &mut streams {
            stream.get_mut().write_all(request.as_bytes()).expect("ask");
        }
        for stream in &mut streams {
            read_answer(stream, &mut body);
            count += 1;
        }
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// How long answers take from when their requests were to be sent, whatever held the sender up.
fn steady(address: SocketAddr) -> Sample {
    const SENDERS: u32 = 4;
    let begun = Instant::now() + Duration::from_millis(50);
    let sender = |first: u32| {
        let mut stream = BufReader::new(connect(address));
        let (request, mut body) = (request(address), Vec::new());
        let mut times = Vec::new();
        for number in (first..STEADY * FOR.as_secs() as u32).step_by(SENDERS as usize) {
            let due = begun + Duration::from_secs(1) * number / STEADY;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            stream.get_mut().write_all(request.as_bytes()).expect("ask");
            read_answer(&mut stream, &mut body);
            times.push(due.elapsed());
        }
        times
    };
    let times = thread::scope(|scope| {
        let senders: Vec<_> =
            (0..SENDERS).map(|first| scope.spawn(move || sender(first))).collect();
        senders
            .into_iter()
            .flat_map(|sender| sender.join().expect("a sender ends"))
            .collect::<Vec<_>>()
    });
    Sample::millis(times)
}

/// Resident growth in MiB, while so many connections are open, which have asked nothing yet or been answered once.
fn idle(address: SocketAddr, pid: u32, answered: bool) -> f64 {
    let before = Memory::of(pid).resident;
    let request = request(address);
    let mut body = Vec::new();
    let open: Vec<BufReader<TcpStream>> = (0..IDLE)
        .map(|_| {
            let mut stream = BufReader::new(connect(address));
            if answered {
                stream.get_mut().write_all(request.as_bytes()).expect("ask");
                read_answer(&mut stream, &mut body);
            }
            stream
        })
        .collect();
    // Until all are accepted.
    thread::sleep(Duration::from_millis(300));
    let after = Memory::of(pid).resident;
    drop(open);
    after.saturating_sub(before) as f64 / 1024.0
}

/// Events each second through the API, one batch after the other.
async fn events(address: SocketAddr) -> f64 {
    let event = r#"{"action":"vm.started","user_id":"user-123","resource_type":"vm","resource_id":"vm-4711","ip_address":"10.1.2.3","user_agent":"bench/1","details":{"region":"eu","size":"m"}}"#;
    let body = format!("{{\"events\":[{}]}}", vec![event; BATCH].join(","));
    let head = format!(
        "POST /audit/events HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let batches = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&batches);
    let took = tokio::task::spawn_blocking(move || {
        let mut stream = connect(address);
        let begun = Instant::now();
        while begun.elapsed() < FOR {
            stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body.as_bytes()))
                .expect("send");
            let mut answer = [0; 4096];
            let length = stream.read(&mut answer).expect("an answer");
            assert!(
                answer[..length].starts_with(b"HTTP/1.1 201"),
                "{}",
                String::from_utf8_lossy(&answer[..length])
            );
            counted.fetch_add(1, Ordering::Relaxed);
        }
        begun.elapsed()
    });
    let took = took.await.expect("the load ends");
    batches.load(Ordering::Relaxed) as f64 * BATCH as f64 / took.as_secs_f64()
}

/// The same events by the function that applications call, over a connection of their own.
async fn events_by_sql(client: &TestClient) -> f64 {
    let event = r#"{"action":"vm.started","user_id":"user-123","resource_type":"vm","resource_id":"vm-4711","ip_address":"10.1.2.3","user_agent":"bench/1","details":{"region":"eu","size":"m"}}"#;
    let call =
        format!("SELECT 1 FROM steward.log_audit_events('[{}]')", vec![event; BATCH].join(","));
    let (begun, mut batches) = (Instant::now(), 0);
    while begun.elapsed() < FOR {
        client.batch_execute(&call).await.expect("record events");
        batches += 1;
    }
    f64::from(batches) * BATCH as f64 / begun.elapsed().as_secs_f64()
}
