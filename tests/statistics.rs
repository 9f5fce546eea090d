//! Statistics of tables and indexes, read from a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{BOUND, Role, Template, TestClient, TestDatabase, wait_until};
use pgsteward::config::{self, Secret, SecretSource};
use pgsteward::db::{Database, Purpose};
use pgsteward::lifecycle::Tasks;
use pgsteward::observe::statistics::{self, Statistics, Table};
use pgsteward::telemetry::Metrics;
use serde_json::Value;

struct StatisticsFixture {
    admin: TestClient,
    url: String,
    database: TestDatabase,
}

impl StatisticsFixture {
    async fn new() -> StatisticsFixture {
        let database = TestDatabase::create(Template::Empty).await;
        StatisticsFixture { admin: database.client().await, url: database.url(), database }
    }

    async fn sql(&self, sql: &str) {
        self.admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Runs `sql` in a session that ends, so that its counters are reported, and waits for `counted`.
    async fn sql_counted(&self, sql: &str, counted: &str) {
        let client = self.database.client().await;
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        drop(client);
        let counted = format!("SELECT ({counted})::int");
        wait_until("the changes are counted", BOUND, async || {
            self.admin.number(&counted).await == 1
        })
        .await;
    }

    fn db(&self) -> Arc<Database> {
        let url = Some(SecretSource::Inline(Secret::new(&self.url)));
        let config = config::Database { url, ..config::Database::default() };
        Database::new("main", &config, 1, &Tasks::new(), &Arc::new(Metrics::new().unwrap()))
    }

    async fn read(&self) -> Statistics {
        let db = self.db();
        let mut conn = db.acquire(Purpose::Control).await.unwrap();
        statistics::read(&mut conn, BOUND).await.unwrap()
    }

    async fn role(&mut self, name: &str) -> Role {
        self.database.role(name, "").await
    }
}

#[track_caller]
fn table<'s>(statistics: &'s Statistics, name: &str) -> &'s Table {
    let found = statistics.tables.iter().find(|table| table.name == name);
    found.unwrap_or_else(|| panic!("no {name}: {statistics:#?}"))
}

fn names(indexes: &[impl serde::Serialize]) -> Vec<String> {
    let name = |index| serde_json::to_value(index).unwrap()["name"].as_str().unwrap().to_owned();
    indexes.iter().map(name).collect()
}

/// Tables of every kind.
const TABLES: &str = r#"
CREATE TABLE worn (id int PRIMARY KEY, note text NOT NULL) WITH (autovacuum_enabled = off);
INSERT INTO worn SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n;
DELETE FROM worn WHERE id % 4 <> 0;
CREATE TABLE tight (id int PRIMARY KEY, note text) WITH (autovacuum_enabled = off);
INSERT INTO tight SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n;
CREATE TABLE never (id int) WITH (autovacuum_enabled = off);
CREATE TABLE wide (id int, body text) WITH (autovacuum_enabled = off);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
INSERT INTO wide SELECT n, repeat('x', 20000) FROM generate_series(1, 50) n;
CREATE TABLE days (day int, n int) PARTITION BY RANGE (day);
CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (day);
CREATE TABLE days_1_1 PARTITION OF days_1 FOR VALUES FROM (0) TO (5);
CREATE TABLE days_1_2 PARTITION OF days_1 FOR VALUES FROM (5) TO (10);
CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20);
CREATE INDEX days_n ON days (n);
INSERT INTO days SELECT n % 20, n FROM generate_series(1, 20000) n;
CREATE MATERIALIZED VIEW seen AS SELECT * FROM worn;
CREATE SCHEMA "Odd ""one";
CREATE TABLE "Odd ""one"."T" (id int);
"#;

#[tokio::test]
async fn sizes_counts_and_bloat_are_measured() {
    let fixture = StatisticsFixture::new().await;
    fixture.sql("CREATE TEMPORARY TABLE passing (id int)").await;
    fixture.sql_counted(TABLES, "pg_stat_get_live_tuples('tight'::regclass) = 20000 AND pg_stat_get_live_tuples('days_2'::regclass) = 10000").await;
    fixture.sql("VACUUM (ANALYZE) worn, tight, wide, days, seen").await;
    fixture.sql("SELECT count(*) FROM worn; SET enable_seqscan = off; SELECT count(*) FROM tight WHERE id = 3").await;
    let counted = "SELECT pg_stat_get_numscans('tight_pkey'::regclass)";
    wait_until("the scan is counted", BOUND, async || fixture.admin.number(counted).await == 1)
        .await;
    let found = fixture.read().await;
    assert_eq!(
        (found.tables_total, found.tables_left_out, found.tables.len()),
        (7, 0, 7),
        "{found:#?}"
    );
    assert!(found.tables.is_sorted_by_key(|table| -table.total_bytes));
    let size = fixture.admin.number("SELECT pg_database_size(current_database())").await;
    assert!((found.size_bytes.unwrap() - size).abs() < 1024 * 1024);
    assert!(found.unavailable.is_empty(), "{:?}", found.unavailable);

    let size_of = async |sql: &str| fixture.admin.number(&format!("SELECT {sql}")).await;
    let tight = table(&found, "tight");
    assert_eq!(tight.table_bytes, size_of("pg_relation_size('tight')").await);
    assert_eq!(tight.index_bytes, size_of("pg_indexes_size('tight')").await);
    assert_eq!(tight.total_bytes, tight.table_bytes + tight.index_bytes + tight.toast_bytes);
    assert_eq!(
        (tight.rows_estimate, tight.live_rows, tight.dead_rows, tight.dead_ratio),
        (20_000, 20_000, 0, Some(0.0))
    );
    assert_eq!((tight.index_scans, tight.changed_since_analyze), (1, 0));
    assert!(
        tight.xid_age.unwrap() < 10_000
            && tight.last_vacuum.is_some()
            && tight.last_autovacuum.is_none()
    );
    let bloat = tight.bloat_bytes.unwrap();
    assert!(
        bloat < tight.table_bytes / 10,
        "{bloat} of {} in a table without any",
        tight.table_bytes
    );
    let worn = table(&found, "worn");
    let bloat = worn.bloat_bytes.unwrap();
    assert!(
        (60..=80).contains(&(bloat * 100 / worn.table_bytes)),
        "{bloat} of {}: three quarters are gone",
        worn.table_bytes
    );
    assert!(worn.seq_scans > 0);
    let wide = table(&found, "wide");
    assert!(wide.toast_bytes >= 50 * 20_000, "{wide:?}");

    let days = table(&found, "days");
    assert_eq!(
        (days.kind.as_str(), days.partitions, days.live_rows),
        ("partitioned", Some(3), 20_000)
    );
    let sum = "sum(pg_relation_size(relid)) FROM pg_partition_tree('days') WHERE isleaf";
    assert_eq!(days.table_bytes, size_of(sum).await);
    assert!(
        days.bloat_bytes.is_some() && days.last_analyze.is_some() && days.index_bytes > 0,
        "{days:?}"
    );
    assert_eq!(table(&found, "seen").kind, "materialized_view");
    let never = table(&found, "never");
    assert_eq!(
        (never.dead_ratio, never.bloat_bytes, never.rows_estimate),
        (None, None, 0),
        "{never:?}"
    );
    assert_eq!(table(&found, "T").schema, "Odd \"one");
}

#[tokio::test]
async fn reading_never_waits_for_a_locked_table() {
    let fixture = StatisticsFixture::new().await;
    fixture.sql(TABLES).await;
    fixture
        .sql(
            "CREATE INDEX tight_a ON tight (lower(note)) WHERE id > 7; CREATE INDEX tight_b ON tight (lower(note))   WHERE id > 7;
             CREATE TABLE computed (id int CHECK (id > 0), twice int GENERATED ALWAYS AS (id * 2) STORED)",
        )
        .await;
    fixture.sql("VACUUM (ANALYZE) worn, tight, wide, days").await;
    let holder = fixture.database.client().await;
    holder
        .batch_execute(r#"BEGIN; LOCK TABLE worn, tight, never, wide, days, computed, "Odd ""one"."T"; REFRESH MATERIALIZED VIEW seen"#)
        .await
        .unwrap();
    let relations =
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation > 16383";
    assert!(fixture.admin.number(relations).await >= 12);
    let db = fixture.db();
    let mut conn = db.acquire(Purpose::Control).await.unwrap();
    let found = statistics::read(&mut conn, Duration::from_secs(2)).await.unwrap();
    assert_eq!(found.tables_total, 8);
    let duplicate = &found.indexes.duplicate[0];
    assert_eq!(duplicate.names, ["tight_a", "tight_b"], "expressions are compared all the same");
    drop(holder);
}

#[tokio::test]
async fn useless_indexes_are_listed_with_their_remedies() {
    let fixture = StatisticsFixture::new().await;
    fixture
        .sql_counted(
            "CREATE TABLE shop (id int PRIMARY KEY, a int, b text, c int NOT NULL) WITH (autovacuum_enabled = off);
             INSERT INTO shop SELECT n, n, n::text, n % 7 FROM generate_series(1, 20000) n;
             CREATE INDEX shop_unused ON shop (b);
             CREATE UNIQUE INDEX shop_unique ON shop (a);
             CREATE INDEX shop_small ON shop (c) WHERE id < 5;
             CREATE INDEX \"Same one\" ON shop (id);
             CREATE INDEX shop_include ON shop (id) INCLUDE (a);
             CREATE INDEX shop_down ON shop (id DESC);
             CREATE TABLE quiet (id int, n int); CREATE INDEX quiet_n ON quiet (n);
             INSERT INTO quiet SELECT n, n FROM generate_series(1, 20000) n;
             CREATE TABLE days (day int, n int) PARTITION BY RANGE (day);
             CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (0) TO (10);
             CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20);
             CREATE INDEX days_n ON days (n); CREATE INDEX days_same ON days (n); CREATE INDEX days_day ON days (day);
             INSERT INTO days SELECT n % 20, n FROM generate_series(1, 20000) n",
            "pg_stat_get_live_tuples('quiet'::regclass) = 20000",
        )
        .await;
    fixture.sql("SELECT pg_stat_reset()").await;
    fixture.sql("VACUUM (ANALYZE) shop, quiet, days").await;
    fixture.sql("SET enable_seqscan = off").await;
    fixture.sql("SELECT count(*) FROM shop WHERE a = 3; SELECT count(*) FROM days WHERE day = 3 AND n > 0").await;
    assert!(
        fixture
            .admin
            .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY shop_broken ON shop (c)")
            .await
            .is_err()
    );
    let counted = "SELECT least(pg_stat_get_numscans('shop_unique'::regclass), pg_stat_get_numscans('days_1_day_idx'::regclass))";
    wait_until("the scans are counted", BOUND, async || fixture.admin.number(counted).await > 0)
        .await;
    let found = fixture.read().await;
    let mut unused = names(&found.indexes.unused);
    unused.sort();
    assert!(unused.contains(&"shop_unused".to_owned()), "{unused:?}");
    assert!(
        unused.contains(&"days_n".to_owned()) && !unused.contains(&"days_day".to_owned()),
        "{unused:?}"
    );
    for used in ["shop_pkey", "shop_unique", "shop_small", "quiet_n", "days_1_n_idx", "shop_broken"]
    {
        assert!(!unused.contains(&used.to_owned()), "{used} in {unused:?}");
    }
    let reset = found.stats_reset_at.expect("the counters were reset");
    assert_eq!(found.indexes.unused[0].since, Some(reset));

    let [invalid] = &found.indexes.invalid[..] else { panic!("{:?}", found.indexes.invalid) };
    assert_eq!(
        (invalid.name.as_str(), invalid.table.as_str(), invalid.being_built),
        ("shop_broken", "shop", false)
    );
    assert_eq!(
        invalid.remedy.as_deref(),
        Some(r#"REINDEX INDEX CONCURRENTLY "public"."shop_broken""#)
    );

    let duplicate = &found.indexes.duplicate;
    assert_eq!(duplicate.len(), 2, "{duplicate:#?}");
    let shop = duplicate.iter().find(|duplicate| duplicate.table == "shop").unwrap();
    assert_eq!(shop.names, ["shop_pkey", "Same one"]);
    assert_eq!(shop.remedy.as_deref(), Some(r#"DROP INDEX CONCURRENTLY "public"."Same one""#));
    assert_eq!(shop.bytes, fixture.admin.number("SELECT pg_relation_size('\"Same one\"')").await);
    let days = duplicate.iter().find(|duplicate| duplicate.table == "days").unwrap();
    assert_eq!(days.names.len(), 2);
    assert!(
        days.remedy.as_deref().unwrap().starts_with("DROP INDEX \"public\".\"days_"),
        "{days:?}"
    );
    // The server accepts the remedies.
    for sql in [shop.remedy.as_deref().unwrap(), days.remedy.as_deref().unwrap()] {
        fixture.sql(sql).await;
    }
    assert!(fixture.read().await.indexes.duplicate.is_empty());
}

#[tokio::test]
async fn an_index_that_is_being_built_has_no_remedy() {
    let fixture = StatisticsFixture::new().await;
    fixture.sql("CREATE TABLE shop (id int); INSERT INTO shop VALUES (1)").await;
    let holder = fixture.database.client().await;
    holder.batch_execute("BEGIN; INSERT INTO shop VALUES (2)").await.unwrap();
    let builder = fixture.database.client().await;
    let building = tokio::spawn(async move {
        builder.batch_execute("CREATE INDEX CONCURRENTLY slow ON shop (id)").await
    });
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    wait_until("the index is begun", BOUND, async || fixture.admin.number(invalid).await == 1)
        .await;
    let found = fixture.read().await.indexes.invalid;
    assert_eq!(
        (found[0].name.as_str(), found[0].being_built, &found[0].remedy),
        ("slow", true, &None)
    );
    holder.batch_execute("COMMIT").await.unwrap();
    building.await.unwrap().unwrap();
    assert!(fixture.read().await.indexes.invalid.is_empty());
}

#[tokio::test]
async fn a_role_learns_what_is_hidden_from_it() {
    let mut fixture = StatisticsFixture::new().await;
    fixture.sql(TABLES).await;
    fixture.sql("VACUUM (ANALYZE) worn, tight, wide, days").await;
    let role = fixture.role("plain").await;
    fixture.url = role.url.clone();
    // Up to PostgreSQL 14 the counters arrive later, through a collector process.
    wait_until("the counters", BOUND, async || table(&fixture.read().await, "worn").live_rows > 0)
        .await;
    let plain = fixture.read().await;
    let what: Vec<&str> =
        plain.unavailable.iter().map(|unavailable| unavailable.what.as_str()).collect();
    assert_eq!(what, ["indexes being built", "bloat"]);
    assert!(
        plain.unavailable.iter().all(|unavailable| unavailable.code == "not_permitted"),
        "{:?}",
        plain.unavailable
    );
    let worn = table(&plain, "worn");
    assert!(worn.table_bytes > 0 && worn.live_rows > 0 && worn.bloat_bytes.is_none(), "{worn:?}");
    // The remedies work.
    for unavailable in &plain.unavailable {
        fixture.sql(&unavailable.remedy).await;
    }
    let monitor = fixture.read().await;
    assert!(monitor.unavailable.is_empty(), "{:?}", monitor.unavailable);
    assert!(table(&monitor, "worn").bloat_bytes > Some(0));

    let json = serde_json::to_value(&monitor).unwrap();
    assert_eq!(json["tables"][0]["kind"], Value::from("table"));
    assert!(json["measured_at"].as_str().unwrap().ends_with('Z'), "{}", json["measured_at"]);
    assert!(json["indexes"]["unused"].is_array());
}

#[tokio::test]
async fn many_tables_cost_little() {
    let fixture = StatisticsFixture::new().await;
    fixture
        .sql("CREATE TABLE big (id int PRIMARY KEY); INSERT INTO big SELECT generate_series(1, 10000); ANALYZE big")
        .await;
    for _ in 0..4 {
        fixture
            .sql(
                "DO $$ DECLARE n int; BEGIN
                     FOR n IN SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'many\\_%' AND relkind = 'r') + g
                                FROM generate_series(1, 250) g LOOP
                         EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, note text)', n);
                     END LOOP; END $$",
            )
            .await;
    }
    let db = fixture.db();
    let mut conn = db.acquire(Purpose::Control).await.unwrap();
    let _ = statistics::read(&mut conn, BOUND).await.unwrap();
    let begun = Instant::now();
    let found = statistics::read(&mut conn, BOUND).await.unwrap();
    let took = begun.elapsed();
    assert_eq!((found.tables_total, found.tables_left_out, found.tables.len()), (1001, 801, 200));
    assert_eq!(found.tables[0].name, "big");
    // The bound is generous, because a test machine may be loaded.
    assert!(took < Duration::from_secs(2), "{took:?}");
}
