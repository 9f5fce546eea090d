//! Restored, failed over: transaction ids begin anew or go on, and nobody is accused.

use std::process::Command;

use pgsteward::audit::Head;

use crate::harness::{BOUND, wait_until};
use crate::stage::Stage;

#[tokio::test]
async fn a_restore_from_a_dump_begins_an_epoch_and_adopts_what_was_not_sealed() {
    let old = Stage::new().await;
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
    let new = Stage::bare(&[]).await;
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
    assert_eq!(new.unsealed_since().await, None, "whatever ids the rows of the other server bear");
    new.log(35, 35).await;
    assert!(new.unsealed_since().await.is_some());
    // More of the new server's, until its ids are among those of the old one's rows.
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
    // And what is changed is found all the same, sealed there, adopted, or sealed here.
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
async fn a_promotion_goes_on_under_a_new_timeline() {
    let mut stage = Stage::new().await;
    stage.log(1, 4).await;
    stage.seal().await;
    stage.log(5, 6).await;
    stage.server.stop().await;
    std::fs::write(stage.server.ephemeral().data_dir().join("standby.signal"), "").unwrap();
    own_by_server(&stage, "standby.signal");
    stage.server.restart().await;
    stage.reconnect().await;
    stage.admin.text("SELECT pg_promote()").await;
    wait_until("the standby is promoted", BOUND, async || {
        stage.admin.text("SELECT pg_is_in_recovery()").await == "f"
    })
    .await;
    stage.log(7, 9).await;
    let sealed = stage.seal().await;
    assert_eq!(sealed[0].row_count, 5);
    assert!(sealed[0].epoch.ends_with("/2"), "{}", sealed[0].epoch);
    let found = stage.verify().await;
    assert!(found.is_sound() && found.rows == 9 && found.epochs.len() == 2, "{found:?}");
}

#[tokio::test]
async fn a_backup_that_was_put_back_is_sound_but_not_what_was_published_after_it() {
    let mut stage = Stage::new().await;
    stage.log(1, 4).await;
    stage.seal().await;
    let early = Head::of(stage.seal_of(1).await.as_ref().unwrap());
    stage.server.stop().await;
    let data = stage.server.ephemeral().data_dir().to_owned();
    let copy = data.with_file_name("copy");
    assert!(Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap().success());
    stage.server.restart().await;
    stage.reconnect().await;
    stage.log(5, 8).await;
    stage.seal().await;
    let late = Head::of(stage.seal_of(2).await.as_ref().unwrap());

    stage.server.stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    stage.server.restart().await;
    stage.reconnect().await;
    stage.log(15, 16).await;
    stage.seal().await;
    let found = stage.verify_against(&[early]).await;
    assert!(found.is_sound() && found.rows == 6, "{found:?}");
    assert_eq!(stage.verify_against(&[late]).await.findings_total, 1);
}

impl Stage {
    async fn seal_of(&self, number: i64) -> Option<pgsteward::store::seals::Seal> {
        use pgsteward::db::{Purpose, TxOptions};
        let mut conn = self.db.acquire(Purpose::Check).await.unwrap();
        let options = TxOptions::within(BOUND).read_only();
        conn.transaction(&options, |tx| Box::pin(pgsteward::store::seals::numbered(tx, number)))
            .await
            .unwrap()
    }
}

fn run(stage: &Stage, program: &str, args: &[&str]) {
    let path = stage.server.ephemeral().bin_dir().join(program);
    let output = Command::new(&path)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A file of the server's folder belongs to whom the folder belongs to.
fn own_by_server(stage: &Stage, name: &str) {
    let data = stage.server.ephemeral().data_dir();
    let reference = format!("--reference={}", data.display());
    assert!(Command::new("chown").arg(reference).arg(data.join(name)).status().unwrap().success());
}
