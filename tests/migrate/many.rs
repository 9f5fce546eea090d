//! Several migrators at once, and the bad ends of one.

use super::harness::{BOUND, Daemon, Setup, Template, TestDatabase, wait_until};
use super::{
    Folder, GATE, at_gate, begin_up, close_gate, end, lock_holders, open_gate, table_exists, up,
    versions,
};

fn ten_files() -> Folder {
    let folder = Folder::new(&[("001_log.sql", "CREATE TABLE log (version int);")]);
    for version in 2..=10 {
        // Neither CREATE IF NOT EXISTS nor a key: a second application would show.
        let text = format!("INSERT INTO log VALUES ({version}); SELECT pg_sleep(0.005);");
        folder.write(&format!("{version:03}_insert.sql"), text);
    }
    folder
}

const LOGGED: &str = "SELECT string_agg(version::text, ',' ORDER BY version) FROM log";

#[tokio::test]
async fn five_migrators_at_once_apply_each_file_once() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = ten_files();
    let running: Vec<_> = (0..5).map(|_| begin_up(&db.url(), &folder)).collect();
    let mut applied = 0;
    for child in running {
        let done = end(child).await.ok();
        applied += done.out.lines().filter(|line| line.starts_with("applied app/")).count();
    }
    assert_eq!(applied, 10);
    let client = db.client().await;
    assert_eq!(client.text(LOGGED).await, "2,3,4,5,6,7,8,9,10");
    assert_eq!(versions(&client, "app").await, "1,2,3,4,5,6,7,8,9,10");
}

#[tokio::test]
async fn two_daemons_at_once_apply_each_file_once() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = ten_files();
    let config = format!(
        "mode = \"maintain\"\n[migrations]\nsets = [\"zentry\"]\ndir = {:?}\n",
        folder.text()
    );
    let setup = Setup::new().database(&db.url()).config(&config);
    let daemons = [Daemon::launch(setup.clone()), Daemon::launch(setup)];
    for daemon in &daemons {
        daemon.wait_ready().await;
    }
    let applied: usize =
        daemons.iter().map(|daemon| daemon.log().matches("migration applied").count()).sum();
    assert_eq!(applied, 6 + 3 + 10);
    let client = db.client().await;
    assert_eq!(client.text(LOGGED).await, "2,3,4,5,6,7,8,9,10");
    for (set, all) in [("steward", "1,2,3,4,5,6"), ("zentry", "1,2,3")] {
        assert_eq!(versions(&client, set).await, all);
    }
}

#[tokio::test]
async fn a_killed_migrator_leaves_nothing_and_the_next_one_goes_on() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    close_gate(&client).await;
    let folder = Folder::new(&[
        ("001_a.sql", "CREATE TABLE a ();"),
        ("002_b.sql", &format!("CREATE TABLE b (); {GATE}")),
    ]);
    let mut child = begin_up(&db.url(), &folder);
    let backend = at_gate(&client).await;
    child.kill().await.unwrap();
    // client_connection_check_interval: the server sees within a second that nobody waits.
    let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {backend}");
    wait_until("the killed migrator's statement ends", BOUND, async || {
        client.number(&gone).await == 0
    })
    .await;
    assert_eq!(versions(&client, "app").await, "1");
    assert!(!table_exists(&client, "public.b").await);
    open_gate(&client).await;
    let done = up(&db.url(), &folder).await.ok();
    assert!(done.out.contains("1 applied now, 2 in all"), "{done:?}");
    assert!(table_exists(&client, "public.b").await);
}

#[tokio::test]
async fn a_terminated_session_leaves_nothing_and_is_told() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    close_gate(&client).await;
    let folder = Folder::new(&[("001_a.sql", &format!("CREATE TABLE a ();\n{GATE}"))]);
    let child = begin_up(&db.url(), &folder);
    let backend = at_gate(&client).await;
    assert_eq!(client.text(&format!("SELECT pg_terminate_backend({backend})")).await, "t");
    let done = end(child).await;
    done.fails(69, &["001_a.sql:2:1: the connection ended while it ran", "whole or not at all"]);
    assert!(!table_exists(&client, "public.a").await);
    open_gate(&client).await;
    up(&db.url(), &folder).await.ok();
    assert!(table_exists(&client, "public.a").await);
}

#[tokio::test]
async fn without_the_lock_no_further_file_is_begun() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    close_gate(&client).await;
    let folder = Folder::new(&[
        ("001_a.sql", &format!("CREATE TABLE a (); {GATE}")),
        ("002_b.sql", "CREATE TABLE b ();"),
    ]);
    let child = begin_up(&db.url(), &folder);
    at_gate(&client).await;
    let holder = client.number(&lock_holders()).await;
    assert_eq!(client.text(&format!("SELECT pg_terminate_backend({holder}, 30000)")).await, "t");
    // A second migrator takes the lock now, meets the row of the first, and does not apply it again.
    let second = begin_up(&db.url(), &folder);
    wait_until("the second migrator holds the lock", BOUND, async || {
        client.number(&format!("SELECT count(*) FROM ({}) AS holders", lock_holders())).await == 1
    })
    .await;
    open_gate(&client).await;
    let done = end(child).await;
    done.fails(69, &["the connection that held the migration lock ended", "staying: app/001_a"]);
    let done = end(second).await.ok();
    assert!(done.out.contains("1 applied now, 2 in all"), "{done:?}");
    assert_eq!(versions(&client, "app").await, "1,2");
}
