//! After a restore or failover, transaction ids start anew or continue, and verification finds nothing.

use std::process::Command;

use pgsteward::audit::Head;

use crate::fixture::AuditFixture;
use crate::harness::{BOUND, wait_until};

#[tokio::test]
async fn a_restore_from_a_dump_begins_an_epoch_and_adopts_unsealed_rows() {
    let old = AuditFixture::new().await;
    // Many transactions, so that its ids are far ahead of a new server's.
    old.sql(
        "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    )
    .await;
    old.log(1, 20).await;
    old.sql(
        "DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    )
    .await;
    old.seal().await;
    let head = Head::of(old.seal_of(1).await.as_ref().unwrap());
    // Not sealed when the dump was taken.
    old.log(21, 25).await;
    let file = old.server.ephemeral().socket_dir().join("dump.sql");
    run(&old, "pg_dump", &["--file", file.to_str().unwrap(), &old.server.url()]);

    // A server whose transaction ids are lower than those of the rows.
    let new = AuditFixture::bare(&[]).await;
    run(
        &new,
        "psql",
        &["-q", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().unwrap(), &new.server.url()],
    );
    let next: i64 = new.admin.number("SELECT pg_current_xact_id()").await;
    let highest = new.admin.number("SELECT max(xid::text::bigint) FROM steward.audit_logs").await;
    assert!(next < highest - 100, "this server's ids are lower: {next}, {highest}");
    new.log(30, 34).await;
    let found = new.verify_against(&[head]).await;
    assert!(found.is_sound(), "before the first seal: {found:?}");
    assert_eq!((found.rows, found.unsealed, found.heads_matched), (20, 10, 1));

    new.seal().await;
    let kinds = new
        .admin
        .text("SELECT string_agg(kind || ' ' || row_count, ', ' ORDER BY number) FROM steward.audit_seals")
        .await;
    assert!(kinds.starts_with("rows 20, adopted 10"), "{kinds}");
    assert_eq!(
        new.unsealed_since().await,
        None,
        "whatever transaction ids the rows of the other server have"
    );
    new.log(35, 35).await;
    assert!(new.unsealed_since().await.is_some());
    // Continues until the ids of the new server are among those of the old server's rows.
    for round in 0..5 {
        new.sql("DO $$ BEGIN FOR i IN 1..700 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$").await;
        new.log(40 + 10 * round, 49 + 10 * round).await;
        new.seal().await;
    }
    let next = new.admin.number("SELECT pg_current_xact_id()").await;
    assert!(next > highest, "they have met: {next}, {highest}");
    let found = new.verify_against(&[head]).await;
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.rows, found.unsealed, found.epochs.len()), (81, 0, 2));
    // Changes are found in rows sealed on the old server, adopted rows and rows sealed here.
    for n in [3, 23, 31, 55] {
        let id = new.id(n).await;
        new.sql(&format!("UPDATE steward.audit_logs SET actor = 'x' WHERE id = '{id}'")).await;
        let found = new.verify().await;
        assert_eq!(found.findings_total, 1, "{n}: {found:?}");
        new.sql(&format!("UPDATE steward.audit_logs SET actor = 'postgres' WHERE id = '{id}'"))
            .await;
    }
    assert!(new.verify().await.is_sound());
}

#[tokio::test]
async fn a_promotion_continues_on_a_new_timeline() {
    let mut fixture = AuditFixture::new().await;
    fixture.log(1, 4).await;
    fixture.seal().await;
    fixture.log(5, 6).await;
    fixture.server.stop().await;
    std::fs::write(fixture.server.ephemeral().data_dir().join("standby.signal"), "").unwrap();
    own_by_server(&fixture, "standby.signal");
    fixture.server.restart().await;
    fixture.reconnect().await;
    fixture.admin.text("SELECT pg_promote()").await;
    wait_until("the standby is promoted", BOUND, async || {
        fixture.admin.text("SELECT pg_is_in_recovery()").await == "f"
    })
    .await;
    fixture.log(7, 9).await;
    let sealed = fixture.seal().await;
    assert_eq!(sealed[0].row_count, 5);
    assert!(sealed[0].epoch.ends_with("/2"), "{}", sealed[0].epoch);
    let found = fixture.verify().await;
    assert!(found.is_sound() && found.rows == 9 && found.epochs.len() == 2, "{found:?}");
}

#[tokio::test]
async fn a_restored_backup_is_sound_but_lacks_heads_published_after_it() {
    let mut fixture = AuditFixture::new().await;
    fixture.log(1, 4).await;
    fixture.seal().await;
    let early = Head::of(fixture.seal_of(1).await.as_ref().unwrap());
    fixture.server.stop().await;
    let data = fixture.server.ephemeral().data_dir().to_owned();
    let copy = data.with_file_name("copy");
    assert!(Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap().success());
    fixture.server.restart().await;
    fixture.reconnect().await;
    fixture.log(5, 8).await;
    fixture.seal().await;
    let late = Head::of(fixture.seal_of(2).await.as_ref().unwrap());

    fixture.server.stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    fixture.server.restart().await;
    fixture.reconnect().await;
    fixture.log(15, 16).await;
    fixture.seal().await;
    let found = fixture.verify_against(&[early]).await;
    assert!(found.is_sound() && found.rows == 6, "{found:?}");
    assert_eq!(fixture.verify_against(&[late]).await.findings_total, 1);
}

impl AuditFixture {
    async fn seal_of(&self, number: i64) -> Option<pgsteward::store::seals::Seal> {
        use pgsteward::db::{Purpose, TxOptions};
        let mut conn = self.db.acquire(Purpose::Check).await.unwrap();
        let options = TxOptions::within(BOUND).read_only();
        conn.transaction(&options, |tx| Box::pin(pgsteward::store::seals::numbered(tx, number)))
            .await
            .unwrap()
    }
}

fn run(fixture: &AuditFixture, program: &str, args: &[&str]) {
    let path = fixture.server.ephemeral().bin_dir().join(program);
    let output = Command::new(&path)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives a file in the data directory the owner of that directory.
fn own_by_server(fixture: &AuditFixture, name: &str) {
    let data = fixture.server.ephemeral().data_dir();
    let reference = format!("--reference={}", data.display());
    assert!(Command::new("chown").arg(reference).arg(data.join(name)).status().unwrap().success());
}
