//! Other sessions in the way: of the lock, and of the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::harness::{BOUND, PrivateServer, Template, TestDatabase, connect, wait_until};
use super::{
    Folder, GATE, LOCK_KEY, at_gate, begin_up, close_gate, configured, end, lock_holders,
    open_gate, table_exists, up,
};

#[tokio::test]
async fn the_lock_pins_no_snapshot_so_that_indexes_can_be_built_beside_it() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    // Under this default an open transaction keeps its first snapshot.
    client
        .batch_execute(&format!(
            "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
            db.name()
        ))
        .await
        .unwrap();
    close_gate(&client).await;
    let folder = Folder::new(&[("001_a.sql", GATE)]);
    let first = begin_up(&db.url(), &folder);
    at_gate(&client).await;
    let second = begin_up(&db.url(), &folder);
    let state = format!(
        "SELECT state || ' ' || (backend_xmin IS NULL AND backend_xid IS NULL)
           FROM pg_stat_activity WHERE pid = ({})",
        lock_holders()
    );
    wait_until("the holder is idle in its transaction", BOUND, async || {
        client.text(&state).await != "active true"
    })
    .await;
    assert_eq!(client.text(&state).await, "idle in transaction true");
    // The one that waits polls: between its tries it is in no transaction, and never waits in the server.
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state = 'idle' AND query = 'ROLLBACK'";
    wait_until("the second migrator waits", BOUND, async || client.number(waiting).await == 1)
        .await;
    assert_eq!(
        client
            .number("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            .await,
        0
    );
    open_gate(&client).await;
    end(first).await.ok();
    end(second).await.ok();
}

#[tokio::test]
async fn waiting_writes_no_errors_into_the_servers_log() {
    let server = PrivateServer::start(&[]).await;
    let client = server.client().await;
    client.batch_execute(&format!("SELECT pg_advisory_lock({LOCK_KEY})")).await.unwrap();
    let folder = Folder::new(&[("001_a.sql", "CREATE TABLE a ();")]);
    let waiting = begin_up(&server.url(), &folder);
    let tried = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    wait_until("it has tried a few times", BOUND, async || client.number(tried).await >= 4).await;
    client.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK_KEY})")).await.unwrap();
    end(waiting).await.ok();
    let log =
        std::fs::read_to_string(server.ephemeral().data_dir().parent().unwrap().join("server.log"))
            .unwrap();
    let bad: Vec<&str> =
        log.lines().filter(|line| line.contains("ERROR") || line.contains("WARNING")).collect();
    assert_eq!(bad, [] as [&str; 0]);
}

#[tokio::test]
async fn a_lock_that_is_not_to_be_had_names_its_holder() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    client
        .batch_execute(&format!(
            "SET application_name = 'the other one'; SELECT pg_advisory_lock({LOCK_KEY})"
        ))
        .await
        .unwrap();
    let pid = client.text("SELECT pg_backend_pid()").await;
    let folder = Folder::new(&[("001_a.sql", "CREATE TABLE a ();")]);
    let config = "[migrations]\nlock_budget = \"1s\"\n";
    let done = configured(&db.url(), config, &["migrate", "up", "--dir", &folder.text()]).await;
    done.fails(
        69,
        &["for another migrator", &format!("pid {pid}, the other one"), "migrations.lock_budget"],
    );
    assert!(!table_exists(&client, "public.a").await);
}

/// Reads a table again and again, and keeps the worst time and the count.
struct Readers {
    worst_us: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Readers {
    async fn start(url: &str, sql: &'static str) -> Readers {
        let (worst_us, reads) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let client = connect(url).await.unwrap();
            let (worst_us, reads) = (Arc::clone(&worst_us), Arc::clone(&reads));
            tasks.push(tokio::spawn(async move {
                loop {
                    let begun = Instant::now();
                    client.simple_query(sql).await.unwrap();
                    worst_us.fetch_max(
                        u64::try_from(begun.elapsed().as_micros()).unwrap(),
                        Ordering::Relaxed,
                    );
                    reads.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        Readers { worst_us, reads, tasks }
    }

    fn count(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn a_file_that_waits_for_a_table_does_not_hold_up_its_readers() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    client.batch_execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.unwrap();
    let long = db.client().await;
    long.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let readers = Readers::start(&db.url(), "SELECT * FROM t").await;
    // The first statement is done again with each attempt: the whole transaction is tried again.
    let folder =
        Folder::new(&[("001_b.sql", "CREATE TABLE made ();\nALTER TABLE t ADD COLUMN b int;")]);
    let child = begin_up(&db.url(), &folder);
    let begun = Instant::now();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock' AND relation = 't'::regclass";
    wait_until("the file has waited for its lock", BOUND, async || client.number(waits).await == 1)
        .await;
    // Behind a queued ACCESS EXCLUSIVE not one read would end before the long transaction does.
    let before = readers.count();
    wait_until("five seconds of reads beside the waiting file", BOUND, async || {
        begun.elapsed() > Duration::from_secs(5) && readers.count() > before + 500
    })
    .await;
    assert!(!table_exists(&client, "public.made").await);
    let ended = Instant::now();
    long.batch_execute("COMMIT").await.unwrap();
    let done = end(child).await.ok();
    let worst = Duration::from_micros(readers.worst_us.load(Ordering::Relaxed));
    println!(
        "{} reads beside the waiting file, the worst took {worst:?}; it landed {:?} after the last reader left",
        readers.count() - before,
        ended.elapsed()
    );
    assert!(done.out.contains("applied app/001_b"), "{done:?}");
    assert_eq!(
        client
            .text(
                "SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'b'"
            )
            .await,
        "1"
    );
}

#[tokio::test]
async fn a_table_that_is_not_to_be_had_within_the_budget_fails_the_file() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    client.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    let long = db.client().await;
    long.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let folder =
        Folder::new(&[("001_b.sql", "CREATE TABLE made ();\nALTER TABLE t ADD COLUMN b int;")]);
    let config = "[migrations]\nlock_budget = \"1s\"\n";
    let done = configured(&db.url(), config, &["migrate", "up", "--dir", &folder.text()]).await;
    let done =
        done.fails(3, &["001_b.sql:2:1: rolled back whole", "migrations.lock_budget", "55P03"]);
    let attempts =
        done.err.split("gave up after ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(attempts.parse::<u32>().unwrap() > 1, "{done:?}");
    assert!(!table_exists(&client, "public.made").await);
    long.batch_execute("COMMIT").await.unwrap();
    up(&db.url(), &folder).await.ok();
}
