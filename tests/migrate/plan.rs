//! What files and history together allow, and what the commands print and return.

use pgsteward::migrate::verify;
use pgsteward::sets;

use super::harness::{Daemon, Setup, Template, TestDatabase};
use super::{Folder, command, configured, database, migrate, pgsteward, up, versions};

const FIRST: &str = "CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n";

#[tokio::test]
async fn a_folder_and_an_address_are_enough_and_nothing_else_is_applied() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_a.sql", FIRST), ("README.md", "not SQL")]);
    let done = up(&db.url(), &folder).await.ok();
    assert!(done.out.contains("applied app/001_a in"), "{done:?}");
    assert!(done.out.contains("1 applied now, 1 in all"), "{done:?}");
    assert_eq!(done.err, "");
    let client = db.client().await;
    let all = "SELECT string_agg(set_name || version, ',') FROM steward.schema_migrations";
    assert_eq!(client.text(all).await, "app1");
    let tables = "SELECT string_agg(c.oid::regclass::text, ',' ORDER BY relname) FROM pg_class c
                   WHERE relkind IN ('r', 'p') AND relnamespace IN (to_regnamespace('steward'), 'public'::regnamespace)";
    assert_eq!(client.text(tables).await, "a,steward.schema_migrations");
    let done = up(&db.url(), &folder).await.ok();
    assert!(done.out.contains("0 applied now, 1 in all"), "{done:?}");
}

#[tokio::test]
async fn the_status_in_json_has_a_fixed_shape() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[
        ("001_a.sql", FIRST),
        ("001_a.down.sql", "DROP TABLE a"),
        ("20261122093000_b.sql", ""),
    ]);
    let before = migrate(&db.url(), &folder, &["status", "--json"]).await.ok();
    let client = db.client().await;
    assert_eq!(
        client.text("SELECT to_regnamespace('steward') IS NULL").await,
        "t",
        "looking changes nothing"
    );
    let before: serde_json::Value = serde_json::from_str(&before.out).unwrap();
    assert_eq!(before[0]["state"], "pending");

    folder.remove("20261122093000_b.sql");
    up(&db.url(), &folder).await.ok();
    folder.write("20261122093000_b.sql", "");
    let done = migrate(&db.url(), &folder, &["status", "--json"]).await.ok();
    let mut lines: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let first = lines[0].as_object_mut().unwrap();
    let at = first.remove("applied_at").unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(at.as_str().unwrap()).is_ok(), "{at}");
    assert!(first.remove("duration_ms").unwrap().is_u64());
    assert!(first.remove("applied_by").unwrap().as_str().unwrap().starts_with("cli:"));
    let wanted = serde_json::json!([
        { "set": "app", "version": 1, "name": "a", "state": "applied", "reversible": true },
        { "set": "app", "version": 20_261_122_093_000_i64, "name": "b", "state": "pending", "reversible": false,
          "applied_at": null, "applied_by": null, "duration_ms": null },
    ]);
    assert_eq!(lines, wanted);

    let text = migrate(&db.url(), &folder, &["status"]).await.ok().out;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["migration", "state", "applied", "at", "by"]);
    assert_eq!(rows[1][..2], ["app/001_a", "applied"]);
    assert_eq!(rows[2], ["app/20261122093000_b", "pending"]);
}

#[tokio::test]
async fn an_edited_file_is_refused_and_named() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_a.sql", FIRST)]);
    up(&db.url(), &folder).await.ok();
    folder.write("001_a.sql", FIRST.replace("(1)", "(2)"));
    // Nothing is pending: nothing to be done, but who edited it expects something.
    up(&db.url(), &folder).await.fails(3, &["app/001_a changed after being applied"]);
    folder.write("002_b.sql", "CREATE TABLE b ();");
    let told = [
        "app/001_a changed after being applied; restore the file",
        "nothing was applied, 1 pending",
    ];
    up(&db.url(), &folder).await.fails(3, &told);
    assert_eq!(versions(&db.client().await, "app").await, "1");
    assert!(migrate(&db.url(), &folder, &["status"]).await.ok().out.contains("edited"));

    // The daemon serves next to it when nothing waits, and says so.
    folder.remove("002_b.sql");
    let config = format!("[migrations]\ndir = {:?}\n", folder.text());
    let config = format!("mode = \"maintain\"\n{config}");
    let daemon = Daemon::spawn(Setup::new().database(&db.url()).config(&config)).await;
    let line = daemon.wait_log("app/001_a was edited after being applied").await;
    assert!(line.contains("the schema is not what was migrated"), "{line}");
}

#[tokio::test]
async fn a_reformatted_file_is_the_same_file() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_a.sql", FIRST), ("002_b.sql", FIRST), ("003_c.sql", FIRST)]);
    folder.write("002_b.sql", "SELECT 2");
    folder.write("003_c.sql", "SELECT 3");
    up(&db.url(), &folder).await.ok();
    folder.write("001_a.sql", FIRST.replace('\n', "\r\n"));
    folder.write("002_b.sql", "\u{feff}-- Copyright\n/* all of it */ SELECT\n\t2");
    folder.write("004_d.sql", "SELECT 4");
    let done = up(&db.url(), &folder).await.ok();
    assert!(done.out.contains("1 applied now, 4 in all"), "{done:?}");
    let lines: serde_json::Value =
        serde_json::from_str(&migrate(&db.url(), &folder, &["status", "--json"]).await.ok().out)
            .unwrap();
    let states: Vec<&str> =
        lines.as_array().unwrap().iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["reformatted", "reformatted", "applied", "applied"]);
}

#[tokio::test]
async fn a_file_below_the_newest_is_refused_and_named() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("002_b.sql", "SELECT 2")]);
    up(&db.url(), &folder).await.ok();
    folder.write("001_late.sql", "CREATE TABLE late ()");
    folder.write("003_c.sql", "CREATE TABLE c ()");
    up(&db.url(), &folder).await.fails(3, &["app/001_late would be applied after a newer version"]);
    assert_eq!(versions(&db.client().await, "app").await, "2");
    assert!(migrate(&db.url(), &folder, &["status"]).await.ok().out.contains("out_of_order"));
}

#[tokio::test]
async fn a_history_ahead_of_the_files_serves() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_a.sql", "SELECT 1"), ("002_newer.sql", "SELECT 2")]);
    up(&db.url(), &folder).await.ok();
    folder.remove("002_newer.sql");
    let done = up(&db.url(), &folder).await.ok();
    assert!(done.out.contains("0 applied now, 2 in all"), "{done:?}");
    assert!(migrate(&db.url(), &folder, &["status"]).await.ok().out.contains("no_file"));
    let config = format!("mode = \"maintain\"\n[migrations]\ndir = {:?}\n", folder.text());
    let daemon = Daemon::spawn(Setup::new().database(&db.url()).config(&config)).await;
    let line = daemon.wait_log("that this version has no file for").await;
    assert!(line.contains("app/002_newer"), "{line}");
}

#[tokio::test]
async fn what_is_missing_of_the_schema_is_named() {
    let db = TestDatabase::create(Template::Migrated).await;
    let client = db.client().await;
    let library = database(&db.url());
    let sets = sets::BUNDLED;
    let missing = async || {
        let conn = library.acquire(pgsteward::db::Purpose::Migrate).await.unwrap();
        verify::missing_objects(&conn, &sets).await.unwrap()
    };
    assert_eq!(missing().await, [] as [String; 0]);
    client
        .batch_execute(
            "DROP MATERIALIZED VIEW public.user_statistics CASCADE;
             DROP FUNCTION steward.audit_table CASCADE;
             ALTER TABLE steward.leases RENAME TO rents; CREATE VIEW steward.leases AS SELECT 1 AS a;
             DROP INDEX steward.job_runs_running_key;
             ALTER TABLE public.vms DISABLE TRIGGER steward_audit_update",
        )
        .await
        .unwrap();
    assert_eq!(
        missing().await,
        [
            "table steward.leases",
            "function steward.audit_table",
            "unique index steward.job_runs_running_key",
            "view public.user_statistics",
            "unique index public.user_statistics_user_id_key",
            "trigger public.vms.steward_audit_update",
        ]
    );
}

#[tokio::test]
async fn exit_codes_say_what_kind_of_failure_it_is() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_a.sql", "SELECT 1")]);
    let nobody = "postgresql://postgres@127.0.0.1:1/postgres?connect_timeout=2";
    up(nobody, &folder).await.fails(69, &["127.0.0.1"]);
    pgsteward(&db.url(), &["migrate", "sideways"]).await.fails(64, &["sideways"]);
    pgsteward(&db.url(), &["migrate", "down", "--all", "--to", "1"]).await.fails(64, &["--to"]);
    configured(&db.url(), "[migrations]\nserch_path = \"a\"\n", &["migrate", "up"])
        .await
        .fails(78, &["search_path"]);
    let none =
        command("", &["migrate", "status"]).env_remove("DATABASE_URL").output().await.unwrap();
    let error = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(78), "{error}");
    assert!(error.contains("DATABASE_URL"), "{error}");
    let missing = pgsteward(&db.url(), &["migrate", "up", "--dir", "/nowhere/at/all"]).await;
    missing.fails(3, &["/nowhere/at/all: read the folder: No such file"]);
    folder.write("002_nul.sql", "SELECT '\0'");
    folder.write("create.sql", "SELECT 1");
    up(&db.url(), &folder)
        .await
        .fails(3, &["002_nul.sql: line 1: found a NUL byte", "create.sql: found no version"]);
}

#[tokio::test]
async fn a_file_with_both_directions_is_refused_by_every_reader_before_anything_runs() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[
        ("001_users.sql", "CREATE TABLE users (id int);"),
        (
            "002_orders.sql",
            "-- migrate:up\nCREATE TABLE orders ();\n\n-- migrate:down\nDROP TABLE orders;\n",
        ),
        ("003_items.sql", "SELECT 1;\n-- +goose Down\nDROP TABLE users;\n"),
    ]);
    let told = [
        "002_orders.sql:1: found \"-- migrate:up\", a section marker of dbmate",
        "003_items.sql:2: found \"-- +goose Down\", a section marker of goose",
        "expected one file per direction, NNN_name.sql and NNN_name.down.sql",
    ];
    for command in [["up"].as_slice(), &["status"], &["down", "--yes"]] {
        migrate(&db.url(), &folder, command).await.fails(3, &told);
    }
    let config = format!("mode = \"maintain\"\n[migrations]\ndir = {:?}\n", folder.text());
    configured(&db.url(), &config, &["check"]).await.fails(78, &told);
    configured(&db.url(), &config, &["migrate", "up"]).await.fails(3, &told);
    let daemon = Daemon::launch(Setup::new().database(&db.url()).config(&config));
    let line = daemon.wait_log("migrating failed").await;
    assert!(line.contains("002_orders.sql:1:") && line.contains("003_items.sql:2:"), "{line}");
    let client = db.client().await;
    assert_eq!(client.text("SELECT to_regclass('public.users') IS NULL").await, "t");
}
