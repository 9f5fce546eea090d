//! `/metrics`: how long an answer takes, and what it asks of the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::ground::Ground;
use super::harness::{BOUND, Daemon, Setup, wait_until};
use super::peers;
use super::report::{Findings, Limit, Row, Sample};

const REQUESTS: usize = 1_000;
const TABLES: usize = 1_000;
const LIMIT_MS: f64 = 1.0;
/// The daemon's own beat may fall into one; the fewest statements count.
const WINDOWS: usize = 5;

pub async fn measure(ground: &Ground) -> Findings {
    let url = ground.database("bench_metrics").await;
    make_tables(ground, "bench_metrics", TABLES).await;
    ground.log_statements("bench_metrics").await;
    let config = "[migrations]\nsets = [\"zentry\"]\n";
    let daemon = Daemon::spawn(Setup::new().database(&url).config(config)).await;
    wait_until("the first probe is on the page", BOUND, async || {
        daemon.get("/metrics").await.body.contains("\npg_up")
    })
    .await;
    let mut sample = Sample::default();
    let mut asked = usize::MAX;
    for _ in 0..WINDOWS {
        let from = ground.log_end();
        sample = scrape(daemon.address(), REQUESTS);
        asked = asked.min(ground.statements(from, "bench_metrics", "pgsteward").len());
        if asked == 0 {
            break;
        }
    }
    let bytes = daemon.get("/metrics").await.body.len();
    daemon.terminate().await;
    let mut findings = Findings::of([
        Row::percentile("/metrics, p50", 0.5, Limit::AtMost(LIMIT_MS), "ms", &sample),
        Row::percentile("/metrics, p99", 0.99, Limit::AtMost(LIMIT_MS), "ms", &sample),
        Row::new(
            "statements per scrape",
            Limit::AtMost(0.0),
            "",
            Sample::one(asked as f64 / REQUESTS as f64),
        ),
    ]);
    findings.note(format!(
        "the page has {bytes} bytes, in a database of {TABLES} tables; one kept-alive connection"
    ));
    peers::exporters(ground, "bench_metrics", &mut findings).await;
    findings
}

/// Tables with an index each.
pub async fn make_tables(ground: &Ground, database: &str, count: usize) {
    let sql = format!(
        "DO $$ BEGIN FOR n IN 1..{count} LOOP
            EXECUTE format('CREATE TABLE public.t_%s (id bigint PRIMARY KEY, at timestamptz, what text)', n);
         END LOOP; END $$"
    );
    ground.client(database).await.batch_execute(&sql).await.expect("make tables");
}

/// Asks over one connection, one request after the other; from the request's first byte to the
/// answer's last.
pub fn scrape(address: SocketAddr, requests: usize) -> Sample {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(BOUND)).expect("a bound");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut body = Vec::new();
    let times = (0..requests).map(|_| {
        let begun = Instant::now();
        reader.get_mut().write_all(request.as_bytes()).expect("ask");
        read_answer(&mut reader, &mut body);
        begun.elapsed()
    });
    Sample::millis(times.collect::<Vec<Duration>>())
}

pub fn read_answer(reader: &mut BufReader<TcpStream>, body: &mut Vec<u8>) {
    let mut length = None;
    let mut chunked = false;
    let mut line = String::new();
    for at in 0.. {
        line.clear();
        reader.read_line(&mut line).expect("a line of the head");
        let text = line.trim_end().to_ascii_lowercase();
        match text.split_once(':') {
            _ if at == 0 => assert!(text.contains(" 200"), "an answer: {text:?}"),
            _ if text.is_empty() => break,
            Some(("content-length", value)) => length = value.trim().parse::<usize>().ok(),
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            _ => {}
        }
    }
    if chunked {
        loop {
            line.clear();
            reader.read_line(&mut line).expect("the size of a chunk");
            let size = usize::from_str_radix(line.trim(), 16).expect("a size in base 16");
            body.resize(size + 2, 0);
            reader.read_exact(body).expect("a chunk");
            if size == 0 {
                return;
            }
        }
    }
    body.resize(length.expect("an answer has a length"), 0);
    reader.read_exact(body).expect("the answer's body");
}
