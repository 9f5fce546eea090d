//! Down, in order; every bundled version undone exactly.

use pgsteward::config;
use pgsteward::migrate::{self, Target, source};
use pgsteward::sets::BUNDLED;

use super::digest::{self, Digest};
use super::harness::{Template, TestDatabase};
use super::{Folder, database, migrate, options, pgsteward, up, versions};

/// Three files whose down files write down that they ran.
fn folder() -> Folder {
    let folder = Folder::new(&[("001_log.sql", "CREATE TABLE log (id serial, what text);")]);
    folder.write("001_log.down.sql", "COMMENT ON TABLE log IS 'undone'");
    for version in 2..=4 {
        folder.write(
            &format!("00{version}_step.sql"),
            format!("INSERT INTO log (what) VALUES ('up {version}')"),
        );
        folder.write(
            &format!("00{version}_step.down.sql"),
            format!("INSERT INTO log (what) VALUES ('down {version}')"),
        );
    }
    folder
}

const LOG: &str = "SELECT string_agg(what, ', ' ORDER BY id) FROM log WHERE what LIKE 'down%'";

#[tokio::test]
async fn versions_are_undone_from_the_newest_down_to_the_target() {
    let db = TestDatabase::create(Template::Empty).await;
    let (client, folder) = (db.client().await, folder());
    up(&db.url(), &folder).await.ok();
    let down = async |arguments: &[&str]| {
        migrate(&db.url(), &folder, &[&["down"], arguments].concat()).await
    };
    let done = down(&[]).await.ok();
    assert!(done.out.contains("rolled back app/004_step"), "{done:?}");
    assert_eq!(versions(&client, "app").await, "1,2,3");
    down(&["--to", "7"]).await.fails(64, &["has no applied version 7; found 1, 2, 3"]);
    let done = down(&["--to", "1", "--json"]).await.ok();
    let done: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let undone: Vec<_> = done["rolled_back"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["version"].as_i64())
        .collect();
    assert_eq!(undone, [Some(3), Some(2)]);
    assert_eq!(client.text(LOG).await, "down 4, down 3, down 2");
    down(&["--all"]).await.ok();
    assert_eq!(client.text("SELECT obj_description('log'::regclass)").await, "undone");
    assert_eq!(versions(&client, "app").await, "");
    assert!(down(&[]).await.ok().out.contains("0 rolled back"));
    down(&["--set", "typo"]).await.fails(64, &["no migration of a set \"typo\""]);
}

/// Both in the transaction of the file, so that a failure leaves neither; with a name that is hard to quote.
#[tokio::test]
async fn each_migration_and_each_rollback_leaves_one_row_of_the_trail() {
    let db = TestDatabase::create(Template::Empty).await;
    let (client, folder) = (db.client().await, folder());
    let options = migrate::Options { actor: "o'brien $pgsteward$ \\".to_owned(), ..options() };
    let config = config::Migrations { dir: Some(folder.path().to_owned()), ..Default::default() };
    let sets =
        migrate::configured_sets(&config::Config { migrations: config, ..Default::default() })
            .unwrap();
    migrate::up(&database(&db.url()), &sets, &options).await.unwrap();
    let wrong = "SELECT count(*) FROM steward.schema_migrations m FULL JOIN
            (SELECT * FROM steward.audit_logs WHERE action = 'migration.applied') l
            ON l.resource_id = format('%s/%s_%s', set_name, lpad(version::text, 3, '0'), name)
           AND l.details = jsonb_build_object('checksum', checksum) AND l.actor = applied_by
           AND l.resource_type = 'migration' AND l.source = 'pgsteward' AND l.xid::text = m.xmin::text
         WHERE (l.id IS NULL OR m.version IS NULL) AND NOT coalesce(set_name = 'steward' AND version < 3, false)";
    assert_eq!(client.number(wrong).await, 0);
    assert_eq!(client.text("SELECT actor FROM steward.audit_logs LIMIT 1").await, options.actor);

    folder.write("005_step.sql", "INSERT INTO lgo DEFAULT VALUES");
    folder.write("003_step.down.sql", "INSERT INTO lgo DEFAULT VALUES");
    let trail = "SELECT string_agg(action || ' ' || resource_id, ', ' ORDER BY created_at) FROM steward.audit_logs
                  WHERE action LIKE 'migration.%' AND resource_id LIKE 'app/%'";
    let applied = client.text(trail).await;
    up(&db.url(), &folder).await.fails(3, &["lgo"]);
    assert_eq!(client.text(trail).await, applied, "a failure leaves none");
    migrate(&db.url(), &folder, &["down", "--to", "2"]).await.fails(3, &["lgo"]);
    assert_eq!(client.text(trail).await, format!("{applied}, migration.rolled_back app/004_step"));

    // What takes the trail away cannot be in it.
    migrate(&db.url(), &folder, &["down", "--set", "steward", "--all", "--yes"]).await.ok();
    assert_eq!(client.text("SELECT to_regclass('steward.audit_logs')").await, "NULL");
}

#[tokio::test]
async fn data_goes_only_with_a_yes() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder =
        Folder::new(&[("001_a.sql", "CREATE TABLE a ()"), ("001_a.down.sql", "DROP TABLE a")]);
    up(&db.url(), &folder).await.ok();
    migrate(&db.url(), &folder, &["down"])
        .await
        .fails(64, &["app/001_a removes data", "add --yes"]);
    assert_eq!(versions(&db.client().await, "app").await, "1");
    migrate(&db.url(), &folder, &["down", "--yes"]).await.ok();
    assert_eq!(versions(&db.client().await, "app").await, "");
}

#[tokio::test]
async fn a_rollback_that_fails_changes_nothing_and_can_be_mended() {
    let db = TestDatabase::create(Template::Empty).await;
    let (client, folder) = (db.client().await, folder());
    folder.write(
        "003_step.down.sql",
        "INSERT INTO log (what) VALUES ('down 3');\nINSERT INTO lgo DEFAULT VALUES;\n",
    );
    up(&db.url(), &folder).await.ok();
    let done = migrate(&db.url(), &folder, &["down", "--to", "2"]).await;
    done.fails(
        3,
        &["app/003_step.down.sql:2:13: rolled back whole", "lgo", "staying: app/004_step"],
    );
    assert_eq!(versions(&client, "app").await, "1,2,3");
    assert_eq!(client.text(LOG).await, "down 4");
    folder.write("003_step.down.sql", "INSERT INTO log (what) VALUES ('mended')");
    migrate(&db.url(), &folder, &["down", "--to", "2"]).await.ok();
    assert_eq!(client.text("SELECT what FROM log ORDER BY id DESC LIMIT 1").await, "mended");
}

#[tokio::test]
async fn a_version_without_a_down_file_stops_the_whole_rollback() {
    let db = TestDatabase::create(Template::Empty).await;
    let folder = folder();
    folder.remove("002_step.down.sql");
    up(&db.url(), &folder).await.ok();
    migrate(&db.url(), &folder, &["down", "--all"])
        .await
        .fails(3, &["app/002_step came without a down file", "Nothing was rolled back"]);
    assert_eq!(versions(&db.client().await, "app").await, "1,2,3,4");
    folder.write("002_step.down.sql", "SELECT 1");
    migrate(&db.url(), &folder, &["down", "--all"]).await.ok();
}

#[tokio::test]
async fn the_history_undoes_what_has_no_files_any_more() {
    let db = TestDatabase::create(Template::Empty).await;
    up(&db.url(), &folder()).await.ok();
    let nothing = Folder::new(&[]);
    migrate(&db.url(), &nothing, &["down", "--to", "2"]).await.ok();
    let client = db.client().await;
    assert_eq!(client.text(LOG).await, "down 4, down 3");
    assert_eq!(versions(&client, "app").await, "1,2");
    // Without any folder: the set goes by its name.
    pgsteward(&db.url(), &["migrate", "down", "--set", "app", "--all"]).await.ok();
    assert_eq!(versions(&client, "app").await, "");
}

#[tokio::test]
async fn every_bundled_version_is_undone_exactly() {
    let db = TestDatabase::create(Template::Empty).await;
    let (client, library) = (db.client().await, database(&db.url()));
    // With Supabase's roles there, so that grants are part of it. Roles are the whole server's: another
    // test may make them, at the same time.
    client
        .batch_execute(
            "DO $$ DECLARE r text; BEGIN
                 PERFORM pg_advisory_xact_lock(hashtext('supabase roles'));
                 FOREACH r IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
                     IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
                         EXECUTE format('CREATE ROLE %I %s', r, CASE r WHEN 'service_role' THEN 'BYPASSRLS' END);
                     END IF;
                 END LOOP;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$",
        )
        .await
        .unwrap();
    let all = BUNDLED.map(source::bundled);
    // Each level: the sets up to one version more, as one release after the other would bring them.
    let mut levels = Vec::new();
    let mut sets = all.clone();
    sets.iter_mut().for_each(|set| set.migrations.clear());
    for (position, set) in all.iter().enumerate() {
        for migration in &set.migrations {
            sets[position].migrations.push(migration.clone());
            levels.push((set.name.clone(), migration.version, sets.clone()));
        }
    }
    assert_eq!(levels.len(), 9);

    // The history's own table stays, so the lowest level is the one with it.
    pgsteward(&db.url(), &["migrate", "up", "--dir", &Folder::new(&[("1_a.sql", "")]).text()])
        .await
        .ok();
    let mut digests: Vec<Digest> = vec![digest::of(&client).await];
    for (.., sets) in &levels {
        migrate::up(&library, sets, &options()).await.unwrap();
        digests.push(digest::of(&client).await);
    }
    for pair in digests.windows(2) {
        assert_ne!(pair[0], pair[1], "each version changes something that the digest sees");
    }
    for (level, (set, version, sets)) in levels.iter().enumerate().rev() {
        let outcome = migrate::down(&library, sets, set, Target::One, &options()).await.unwrap();
        assert_eq!(outcome.changed[0].version, *version);
        digest::assert_same(
            &digests[level],
            &digest::of(&client).await,
            &format!("{set} {version} undone"),
        );
    }
    for ((set, version, sets), wanted) in levels.iter().zip(&digests[1..]) {
        migrate::up(&library, sets, &options()).await.unwrap();
        digest::assert_same(
            wanted,
            &digest::of(&client).await,
            &format!("{set} {version} applied again"),
        );
    }
}
