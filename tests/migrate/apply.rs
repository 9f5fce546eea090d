//! What a file may say and leave behind, and how its errors are placed.

use pgsteward::migrate::source::{Migration, Set, checksum};

use super::harness::{Template, TestDatabase};
use super::{Folder, configured, database, migrate, options, table_exists, up, versions};

/// Applies one bad file after a good one: `placed` is `:line:column`.
async fn fails_at(text: &str, placed: &str, parts: &[&str]) {
    let db = TestDatabase::create(Template::Empty).await;
    let folder =
        Folder::new(&[("001_good.sql", "CREATE TABLE good (id int);"), ("002_bad.sql", text)]);
    let place = format!("002_bad.sql{placed}: rolled back whole, nothing of it was applied");
    let done = up(&db.url(), &folder).await;
    done.fails(
        3,
        &[&[place.as_str(), "done before that, and staying: app/001_good"], parts].concat(),
    );
    let client = db.client().await;
    assert_eq!(versions(&client, "app").await, "1");
    assert!(table_exists(&client, "public.good").await);
    assert!(!table_exists(&client, "public.bad").await);
}

#[tokio::test]
async fn a_syntax_error_is_placed_in_characters_after_other_scripts_and_line_ends() {
    fails_at(
        "\u{feff}CREATE TABLE bad (id int);\r\nSELECT 'Zürich – 東京';\r\n\r\n  CREATE TABEL b (id int);\r\n",
        ":4:10",
        &["statement: CREATE TABEL b (id int)", "syntax error at or near \"TABEL\"", "SQLSTATE 42601"],
    )
    .await;
}

#[tokio::test]
async fn a_missing_parenthesis_is_placed_in_the_file_also_at_its_end() {
    fails_at("CREATE TABLE bad (id int;\nSELECT 1;\n", ":1:25", &["at or near \";\""]).await;
    fails_at(
        "SELECT 1;\n\nCREATE TABLE bad (id int",
        ":3:1",
        &["statement: CREATE TABLE bad (id int"],
    )
    .await;
}

#[tokio::test]
async fn a_run_time_error_is_placed_at_its_statement() {
    fails_at(
        "CREATE TABLE bad (id int PRIMARY KEY);\n-- ö;\nINSERT INTO bad VALUES (1);\n  INSERT INTO bad VALUES (1);\n",
        ":4:3",
        &["statement: INSERT INTO bad VALUES (1)", "23505"],
    )
    .await;
    fails_at("SELECT 1;\nSELECT 'ä', nope;\n", ":2:13", &["column \"nope\" does not exist"]).await;
}

#[tokio::test]
async fn an_error_inside_a_body_is_placed_inside_the_body() {
    fails_at(
        "CREATE TABLE bad (id int);\nDO $$\nBEGIN\n  PERFORM 'ä';\n  INSERT INTO nowhere VALUES (1);\nEND $$;\n",
        ":5:15",
        &["statement: DO $$", "relation \"nowhere\" does not exist"],
    )
    .await;
    fails_at(
        "SELECT 1;\nCREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $f$\nBEGIN\n  RETRUN 1;\nEND $f$;\n",
        ":4:3",
        &["statement: CREATE FUNCTION f()", "RETRUN"],
    )
    .await;
    // Text that was put together at run time stands nowhere in the file.
    fails_at("SELECT 1;\nDO $$ BEGIN EXECUTE 'SELEC ' || 1; END $$;\n", ":2:1", &["SELEC"]).await;
}

#[tokio::test]
async fn a_deferred_constraint_fails_the_file() {
    fails_at(
        "CREATE TABLE bad (id int PRIMARY KEY, up int REFERENCES bad DEFERRABLE INITIALLY DEFERRED);\n\
         INSERT INTO bad VALUES (1, 2);\n",
        "",
        &["23503"],
    )
    .await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_ended_and_placed() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[("001_slow.sql", "CREATE TABLE slow ();\nSELECT pg_sleep(60);\n")]);
    let config = "[migrations]\nstatement_timeout = \"1s\"\n";
    let done = configured(&db.url(), config, &["migrate", "up", "--dir", &folder.text()]).await;
    done.fails(
        3,
        &["001_slow.sql:2:1: rolled back whole", "see migrations.statement_timeout", "57014"],
    );
    assert!(!table_exists(&db.client().await, "public.slow").await);
}

#[tokio::test]
async fn files_that_say_nothing_are_applied() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[
        ("001_empty.sql", ""),
        ("002_comment.sql", "-- nothing to do here"),
        ("003_semicolons.sql", ";;\n;"),
        ("004_ends_in_a_comment.sql", "CREATE TABLE a (id int) -- no semicolon, no line end"),
        ("005_mark.sql", "\u{feff}CREATE TABLE b (id int);"),
        ("006_text.sql", "COMMENT ON TABLE b IS 'it''s \\ $pgsteward$ \u{1F418}';"),
    ]);
    up(&db.url(), &folder).await.ok();
    let client = db.client().await;
    assert_eq!(versions(&client, "app").await, "1,2,3,4,5,6");
    assert!(table_exists(&client, "public.a").await && table_exists(&client, "public.b").await);
    let kept = "SELECT string_agg(statements_done::text, ',' ORDER BY version) FROM steward.schema_migrations";
    assert_eq!(client.text(kept).await, "0,0,0,1,1,1");
    let sql = client.text("SELECT up_sql FROM steward.schema_migrations WHERE version = 6").await;
    assert_eq!(sql, "COMMENT ON TABLE b IS 'it''s \\ $pgsteward$ \u{1F418}';");
    let checksum_of_5 =
        client.text("SELECT checksum FROM steward.schema_migrations WHERE version = 5").await;
    assert_eq!(
        checksum_of_5,
        checksum("\u{feff}CREATE TABLE b (id int);".as_bytes()),
        "of the bytes, mark included"
    );
}

#[tokio::test]
async fn nothing_that_a_file_sets_outlives_it() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let other = db.role("other", "").await.name;
    let client = db.client().await;
    let name = db.name();
    client
        .batch_execute(&format!(
            "ALTER DATABASE {name} SET TimeZone = 'Europe/Berlin';
             ALTER DATABASE {name} SET standard_conforming_strings = off;
             ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
        ))
        .await
        .unwrap();
    let look = "AS SELECT current_setting('search_path') AS path, current_setting('TimeZone') AS zone,
           current_setting('lock_timeout') AS lock, current_setting('statement_timeout') AS statement,
           current_setting('work_mem') AS memory, current_setting('standard_conforming_strings') AS strings,
           current_setting('transaction_isolation') AS isolation, current_setting('session_replication_role') AS replication,
           current_setting('client_connection_check_interval') AS checks,
           current_user::text AS who, session_user::text AS login, to_regclass('pg_temp.scratch') IS NULL AS clean";
    let folder = Folder::new(&[
        ("001_before.sql", &format!("CREATE TABLE public.before {look}")),
        (
            "002_sets.sql",
            &format!(
                "CREATE TEMP TABLE scratch (id int);
                 SET search_path = nowhere; SET TimeZone = 'Asia/Tokyo'; SET lock_timeout = '7s';
                 SET statement_timeout = '1d'; SET work_mem = '1GB'; SET standard_conforming_strings = off;
                 SET session_replication_role = replica; SET client_connection_check_interval = 0;
                 SET ROLE {other}; SET SESSION AUTHORIZATION {other};"
            ),
        ),
        ("003_after.sql", &format!("CREATE TABLE public.after {look}")),
    ]);
    up(&db.url(), &folder).await.ok();
    let seen = "SELECT row_to_json(t)::text FROM public.";
    let (before, after) = (
        client.text(&format!("{seen}before t")).await,
        client.text(&format!("{seen}after t")).await,
    );
    assert_eq!(before, after);
    let before: serde_json::Value = serde_json::from_str(&before).unwrap();
    for (key, wanted) in [
        ("path", "public"),
        // As the database says it, like psql.
        ("zone", "Europe/Berlin"),
        ("lock", "20ms"),
        ("statement", "1h"),
        ("strings", "on"),
        ("isolation", "read committed"),
        // Resetting must not lose what ends a statement whose client is gone.
        ("checks", "1s"),
        ("who", "postgres"),
    ] {
        assert_eq!(before[key], wanted, "{key} in {before}");
    }
    assert_eq!(before["clean"], true);
}

#[tokio::test]
async fn a_file_that_ends_its_transaction_is_refused_before_any_file_runs() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = Folder::new(&[
        ("001_good.sql", "CREATE TABLE good (id int);"),
        ("002_ends.sql", "CREATE TABLE a (id int);\nCOMMIT;\nCREATE INDEX CONCURRENTLY ON a (id);"),
    ]);
    let done = up(&db.url(), &folder).await;
    done.fails(
        3,
        &["002_ends.sql:2: found COMMIT", "002_ends.sql:3: found \"CREATE INDEX CONCURRENTLY"],
    );
    assert!(!table_exists(&db.client().await, "public.good").await);
    assert!(!table_exists(&db.client().await, "steward.schema_migrations").await);
}

#[tokio::test]
async fn a_transaction_ended_behind_our_back_is_told_as_it_is() {
    let db = TestDatabase::create(Template::Empty).await;
    let up = "CREATE TABLE a (); COMMIT; BEGIN; CREATE TABLE b ();";
    // A set made by hand: reading it from a folder would have refused it.
    let migration = Migration {
        set: "app".into(),
        version: 1,
        name: "ends".into(),
        file: "001_ends.sql".into(),
        up: up.into(),
        down: None,
        checksum: checksum(up.as_bytes()),
    };
    let sets = [Set { name: "app".into(), migrations: vec![migration] }];
    let error = pgsteward::migrate::up(&database(&db.url()), &sets, &options())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it ended the transaction that it was given; what it did before that stays"),
        "{error}"
    );
    assert!(!error.contains("rolled back whole"), "{error}");
    let client = db.client().await;
    assert!(table_exists(&client, "public.a").await && !table_exists(&client, "public.b").await);
}

#[tokio::test]
async fn files_run_under_the_configured_role_and_search_path() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let owner = db.role("owner", "").await.name;
    let client = db.client().await;
    client
        .batch_execute(&format!(
            "CREATE SCHEMA \"Odd, \"\"schema\" AUTHORIZATION {owner}; GRANT CREATE ON SCHEMA public TO {owner}"
        ))
        .await
        .unwrap();
    let folder = Folder::new(&[
        ("001_made.sql", "CREATE TABLE made (id int);"),
        ("001_made.down.sql", "DROP TABLE made"),
    ]);
    let config =
        format!("[migrations]\nrole = \"{owner}\"\nsearch_path = '\"Odd, \"\"schema\", PUBLIC'\n");
    configured(&db.url(), &config, &["migrate", "up", "--dir", &folder.text()]).await.ok();
    let made = "SELECT relnamespace::regnamespace::text || ' ' || relowner::regrole FROM pg_class WHERE relname = 'made'";
    assert_eq!(client.text(made).await, format!("\"Odd, \"\"schema\" {owner}"));
    let history =
        "SELECT relowner::regrole::text FROM pg_class WHERE relname = 'schema_migrations'";
    assert_eq!(client.text(history).await, "postgres", "the history is not the application's");
    let down = ["migrate", "down", "--yes", "--dir", &folder.text()];
    configured(&db.url(), &config, &down).await.ok();
    assert_eq!(client.text("SELECT count(*) FROM pg_class WHERE relname = 'made'").await, "0");

    let config = "[migrations]\nrole = \"nobody at all\"\n";
    let done = configured(&db.url(), config, &["migrate", "up", "--dir", &folder.text()]).await;
    done.fails(3, &["rolled back whole", "role \"nobody at all\" does not exist"]);
}

#[tokio::test]
async fn warnings_of_a_file_are_told() {
    let db = TestDatabase::create(Template::Empty).await;
    let warn = "DO $$ BEGIN RAISE NOTICE 'not this'; RAISE WARNING 'look at table %', 'a'; END $$;";
    let folder = Folder::new(&[("001_warns.sql", warn)]);
    let done = migrate(&db.url(), &folder, &["up"]).await.ok();
    assert!(done.err.contains("look at table a") && !done.err.contains("not this"), "{done:?}");
}
