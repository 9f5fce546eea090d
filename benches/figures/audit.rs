//! The audit trail: what it costs who is audited, how fast events go in, and how fast they are sealed,
//! verified and exported.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsteward::audit::{seal, verify};
use pgsteward::config::{self, Config, Secret, SecretSource};
use pgsteward::db::{Database, Purpose, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::migrate::{self, source};
use pgsteward::sets::STEWARD;
use pgsteward::store::audit_rows;
use pgsteward::telemetry::Metrics;

use super::ground::Ground;
use super::harness::TestClient;
use super::process;
use super::report::{Findings, Limit, Row, Sample};

const ROUNDS: usize = 5;
/// Of what the peer's trigger costs.
const OVERHEAD: f64 = 0.7;
const SINGLE: usize = 2_000;
const BULK: i64 = 10_000;
const TABLE_ROWS: i64 = 20_000;
const EVENTS_PER_SECOND: f64 = 20.0;
const ROWS_PER_SECOND: f64 = 200.0;
const EVENTS: i64 = 1_000_000;
const EXPORT_MIB: f64 = 40.0;

pub async fn measure(ground: &Ground) -> Findings {
    let mut findings = triggers(ground).await;
    findings.append(ingest(ground).await);
    findings.append(seals(ground).await);
    findings
}

async fn place(ground: &Ground, name: &str) -> (Arc<Database>, TestClient, String) {
    let url = ground.database(name).await;
    let config = config::Database {
        url: Some(SecretSource::Inline(Secret::new(&url))),
        pooler: config::Pooler::None,
        ..config::Database::default()
    };
    let db = Database::new(
        "bench",
        &config,
        2,
        &Tasks::new(),
        &Arc::new(Metrics::new().expect("metrics")),
    );
    let sets = [source::bundled(&STEWARD)];
    let options = migrate::Options::new(&Config::default().migrations, "bench");
    migrate::up(&db, &sets, &options).await.unwrap_or_else(|error| panic!("migrate: {error}"));
    (db, ground.client(name).await, url)
}

/// Three tables of one shape: without audit, with ours, with the peer's.
async fn triggers(ground: &Ground) -> Findings {
    let (_db, client, _) = place(ground, "bench_audit_triggers").await;
    client.batch_execute(include_str!("audit/peer.sql")).await.expect("the peer's trigger");
    for table in ["plain", "ours", "theirs"] {
        let sql = format!(
            "CREATE TABLE public.{table} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int UNIQUE, email text NOT NULL, name text,
                 status text NOT NULL DEFAULT 'active', credits numeric(12, 2) NOT NULL DEFAULT 0,
                 settings jsonb NOT NULL DEFAULT '{{\"theme\": \"dark\", \"lang\": \"en\"}}', created_at timestamptz NOT NULL DEFAULT now(),
                 updated_at timestamptz NOT NULL DEFAULT now(), secret text, last_ip inet, active boolean DEFAULT true);
             INSERT INTO public.{table} (n, email, name) SELECT n, 'user' || n || '@example.com', 'User ' || n
               FROM generate_series(1, {TABLE_ROWS}) n"
        );
        client.batch_execute(&sql).await.expect("fill a table");
    }
    client
        .batch_execute(
            "SELECT steward.audit_table('public.ours', ignore => '{updated_at}', redact => '{secret}');
             CREATE TRIGGER record_row AFTER INSERT OR UPDATE OR DELETE ON public.theirs FOR EACH ROW EXECUTE FUNCTION peer.record_row()",
        )
        .await
        .expect("audit");
    let mut findings = Findings::default();
    for (figure, unit, scale) in [
        ("single-row UPDATE", "µs", 1e6),
        ("UPDATE of 10,000 rows", "ms", 1e3),
        ("INSERT of 10,000 rows", "ms", 1e3),
    ] {
        let mut samples = [Sample::default(), Sample::default(), Sample::default()];
        let mut ratio = Sample::default();
        for round in 0..ROUNDS {
            let mut took = [0.0; 3];
            for (at, table) in ["plain", "ours", "theirs"].into_iter().enumerate() {
                client.batch_execute(&format!("VACUUM public.{table}")).await.expect("vacuum");
                took[at] = match figure {
                    "single-row UPDATE" => single(&client, table, round).await,
                    "UPDATE of 10,000 rows" => bulk(
                        &client,
                        &format!(
                            "UPDATE public.{table} SET name = md5(random()::text) WHERE n <= {BULK}"
                        ),
                    )
                    .await,
                    _ => insert(&client, table).await,
                };
                samples[at].push(took[at] * scale);
            }
            ratio.push((took[1] - took[0]) / (took[2] - took[0]));
        }
        let [plain, ours, theirs] = samples;
        findings.row(Row::new(
            format!("row audit, {figure}: overhead, of a usual trigger's"),
            Limit::AtMost(OVERHEAD),
            "",
            ratio,
        ));
        findings.row(Row::new("  without audit", Limit::Reference, unit, plain));
        findings.row(Row::new("  with row audit", Limit::Reference, unit, ours));
        findings.row(Row::new("  with the other trigger", Limit::Reference, unit, theirs));
    }
    findings.note(
        "row audit: beside a row trigger in supa_audit's shape, whole rows and five indexes"
            .to_owned(),
    );
    findings
}

/// Seconds a statement, each its own transaction.
async fn single(client: &TestClient, table: &str, round: usize) -> f64 {
    let sql = format!("UPDATE public.{table} SET name = $2 WHERE n = $1");
    let statement = client.prepare(&sql).await.expect("prepare");
    let begun = Instant::now();
    for n in 0..SINGLE {
        let row = (n * 7919 % TABLE_ROWS as usize) as i32 + 1;
        client.execute(&statement, &[&row, &format!("name {round} {n}")]).await.expect("update");
    }
    begun.elapsed().as_secs_f64() / SINGLE as f64
}

async fn bulk(client: &TestClient, sql: &str) -> f64 {
    let begun = Instant::now();
    client.batch_execute(sql).await.expect("a bulk change");
    begun.elapsed().as_secs_f64()
}

async fn insert(client: &TestClient, table: &str) -> f64 {
    let sql = format!(
        "INSERT INTO public.{table} (n, email, name) SELECT {TABLE_ROWS} + n, 'x' || n, 'y' FROM generate_series(1, {BULK}) n"
    );
    let took = bulk(client, &sql).await;
    let undo = format!(
        "BEGIN; ALTER TABLE public.{table} DISABLE TRIGGER USER; DELETE FROM public.{table} WHERE n > {TABLE_ROWS};
         ALTER TABLE public.{table} ENABLE TRIGGER USER; COMMIT"
    );
    client.batch_execute(&undo).await.expect("undo");
    took
}

/// As an application tells them.
const BATCH: &str = "SELECT jsonb_agg(jsonb_build_object('action', 'user.login', 'user_id', 'user-' || n % 5000, 'resource_type', 'session',
        'resource_id', n::text, 'ip_address', '192.0.2.' || n % 250, 'user_agent', 'Mozilla/5.0 (X11; Linux x86_64)',
        'new_values', jsonb_build_object('mfa', true, 'n', n)))::text FROM generate_series(1, 1000) n";

async fn ingest(ground: &Ground) -> Findings {
    let (_db, client, _) = place(ground, "bench_audit_ingest").await;
    let events = client.text(BATCH).await;
    let statement = client
        .prepare("SELECT cardinality(steward.log_audit_events($1::text::jsonb))")
        .await
        .expect("prepare");
    let mut rate = Sample::default();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..50 {
            let count: i32 =
                client.query_one(&statement, &[&events]).await.expect("log events").get(0);
            assert_eq!(count, 1000);
        }
        rate.push(50.0 / begun.elapsed().as_secs_f64());
    }
    Findings::of([Row::new(
        "audit events in batches of 1,000",
        Limit::AtLeast(EVENTS_PER_SECOND),
        "1,000/s",
        rate,
    )])
}

async fn seals(ground: &Ground) -> Findings {
    let (db, client, url) = place(ground, "bench_audit_seals").await;
    let events = client.text(BATCH).await;
    let statement = client
        .prepare("SELECT cardinality(steward.log_audit_events($1::text::jsonb))")
        .await
        .expect("prepare");
    for _ in 0..EVENTS / 1000 {
        client.execute(&statement, &[&events]).await.expect("log events");
    }
    client.batch_execute("VACUUM (ANALYZE) steward.audit_logs").await.expect("vacuum");
    client.batch_execute("CHECKPOINT").await.expect("checkpoint");

    let mut conn = db.acquire(Purpose::Job).await.expect("a connection");
    let options = audit_rows::by_index(TxOptions::within(Duration::from_secs(60)));
    let (mut sealed, begun) = (0, Instant::now());
    loop {
        let outcome = conn
            .transaction(&options, |tx| Box::pin(seal::append_rows(tx, "bench")))
            .await
            .expect("seal");
        sealed += outcome.seal.map_or(0, |seal| seal.row_count);
        if !outcome.more {
            break;
        }
    }
    let sealing = Sample::one(sealed as f64 / begun.elapsed().as_secs_f64() / 1e3);
    assert!(sealed >= EVENTS, "{sealed} of {EVENTS} events are sealed");
    let mut verifying = Sample::default();
    for _ in 0..3 {
        let begun = Instant::now();
        let found =
            verify::verify(&mut conn, &verify::VerifyOptions::default()).await.expect("verify");
        assert!(found.is_sound() && found.rows as i64 == sealed, "{found:?}");
        verifying.push(found.rows as f64 / begun.elapsed().as_secs_f64() / 1e3);
    }
    let mut findings = Findings::of([
        Row::new("audit rows sealed", Limit::AtLeast(ROWS_PER_SECOND), "1,000/s", sealing),
        Row::new("audit rows verified", Limit::AtLeast(ROWS_PER_SECOND), "1,000/s", verifying),
    ]);
    findings.append(export(&url));
    let leaves = client.number("SELECT pg_total_relation_size('steward.audit_leaves')").await;
    findings.note(format!("seals: {sealed} rows, {} bytes of leaves a row", leaves / sealed));
    findings
}

fn export(url: &str) -> Findings {
    let mut findings = Findings::default();
    for format in ["ndjson", "csv"] {
        let begun = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgsteward"))
            .args(["audit", "export", "--format", format])
            .env("DATABASE_URL", url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary is there");
        let mut peak = 0;
        let status = loop {
            peak = peak.max(process::peak_kib(child.id()).unwrap_or_default());
            match child.try_wait().expect("the child can be waited for") {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let took = begun.elapsed();
        assert!(status.success(), "{status}");
        let rate = Sample::one(EVENTS as f64 / took.as_secs_f64() / 1e3);
        findings.row(Row::new(
            format!("export of {EVENTS} audit events as {format}, resident at most"),
            Limit::AtMost(EXPORT_MIB),
            "MiB",
            Sample::one(peak as f64 / 1024.0),
        ));
        findings.row(Row::new("  events", Limit::Reference, "1,000/s", rate));
    }
    findings
}
