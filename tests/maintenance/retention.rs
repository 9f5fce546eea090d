//! Rows past their time, by slices.

use std::sync::Arc;
use std::time::Duration;

use pgsteward::config::{self, Mode, Secret, SecretSource};
use pgsteward::db::{Database, Kind, Purpose, TxOptions};
use pgsteward::lifecycle::Tasks;
use pgsteward::observe::tables::pressure::{self, Pressure};
use pgsteward::sets::BUNDLED;
use pgsteward::telemetry::Metrics;

use crate::bench::{Bench, DAY, Job};
use crate::harness::{BOUND, PrivateServer, wait_until};

/// `public.events` with this many rows of 20 days ago, one a second, and 100 of now.
async fn events(bench: &mut Bench, old: i64) {
    bench
        .sql(&format!(
            "CREATE TABLE public.events (ts timestamptz NOT NULL, n int); CREATE INDEX ON public.events (ts);
             INSERT INTO public.events SELECT now() - interval '20 days' + n * interval '1 s', n FROM generate_series(1, {old}) n;
             INSERT INTO public.events SELECT now() - n * interval '1 s', n FROM generate_series(1, 100) n"
        ))
        .await;
    bench.keep("public.events", "ts", 10 * DAY);
}

#[tokio::test]
async fn rows_before_the_cutoff_go_and_all_others_stay() {
    let mut bench = Bench::new().await;
    events(&mut bench, 3_500).await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(report.rows, 3_500);
    assert_eq!(bench.count("public.events").await, 100);
    let detail = &report.detail["public.events"];
    assert_eq!(
        (&detail["rows"], &detail["strategy"][0]),
        (&3_500.into(), &"slices".into()),
        "{detail}"
    );
    let oldest =
        bench.admin.text("SET timezone = 'UTC'; SELECT min(ts)::text FROM public.events").await;
    assert_eq!(detail["oldest_left"], oldest.as_str());
    assert_eq!(
        bench
            .metrics
            .retention_rows_deleted_total
            .with_label_values(&["main", "public.events"])
            .get(),
        3_500
    );
    let record = "SELECT string_agg(action || ' ' || coalesce(details ->> 'rows', '-'), ', ' ORDER BY created_at)
                    FROM steward.audit_logs WHERE resource_id = 'public.events' AND source = 'pgsteward'";
    assert_eq!(bench.admin.text(record).await, "retention.purging -, retention.purged 3500");

    let again = bench.run(Job::Retention).await.unwrap();
    assert_eq!(again.rows, 0);
    let recorded = "steward.audit_logs WHERE resource_id = 'public.events'";
    assert_eq!(bench.count(recorded).await, 2, "nothing done, nothing recorded");
}

#[tokio::test]
async fn the_cutoff_is_exact_to_the_microsecond_and_fixed_once() {
    let mut bench = Bench::new().await;
    events(&mut bench, 1_500).await;
    // The first slice's audit row tells the cutoff: rows are put at its edge before the second slice.
    bench
        .sql(
            "CREATE FUNCTION public.edge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.action = 'retention.purging' THEN
                 INSERT INTO public.events VALUES
                   ((NEW.details ->> 'cutoff')::timestamptz - interval '1 microsecond', -1),
                   ((NEW.details ->> 'cutoff')::timestamptz, -2);
               END IF; RETURN NULL; END $$;
             CREATE TRIGGER edge AFTER INSERT ON steward.audit_logs FOR EACH ROW EXECUTE FUNCTION public.edge()",
        )
        .await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(report.rows, 1_501);
    assert_eq!(
        bench.admin.text("SELECT string_agg(n::text, ',') FROM public.events WHERE n < 0").await,
        "-2"
    );
}

#[tokio::test]
async fn many_rows_of_one_instant_end() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    bench
        .sql(
            "INSERT INTO public.events SELECT '2001-01-01', n FROM generate_series(1, 4500) n;
             INSERT INTO public.events SELECT '-infinity', n FROM generate_series(1, 1500) n;
             INSERT INTO public.events SELECT 'infinity', n FROM generate_series(1, 3) n",
        )
        .await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(report.rows, 10 + 4_500 + 1_500);
    assert_eq!(bench.count("public.events").await, 103);
}

#[tokio::test]
async fn rows_are_ordered_by_their_time_not_by_how_it_is_spelt() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    bench.sql("TRUNCATE public.events; INSERT INTO public.events VALUES ('10000-01-01', 1), ('9999-12-31', 2)").await;
    let report = bench.run(Job::Retention).await.unwrap();
    let oldest = report.detail["public.events"]["oldest_left"].as_str().unwrap_or_default();
    assert!(oldest.starts_with("9999-12-31"), "{}", report.detail);
}

/// Sessions in the westernmost zone, in a western one and in the easternmost write rows of now, rows
/// just younger than `keep`, and rows that are past in every zone. Partitions end around the cutoff.
#[tokio::test]
async fn columns_without_time_zone_never_lose_a_row_too_early() {
    const HOURS: Duration = Duration::from_secs(6 * 60 * 60);
    let mut bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.locals (t timestamp, zone text, label text);
             CREATE INDEX ON public.locals (t);
             CREATE TABLE public.days (d date, zone text, label text); CREATE INDEX ON public.days (d);
             CREATE TABLE public.parts (t timestamp, n int) PARTITION BY RANGE (t);
             CREATE INDEX ON public.parts (t);
             CREATE TABLE public.dayparts (d date, n int) PARTITION BY RANGE (d);
             CREATE INDEX ON public.dayparts (d);
             -- Upper bounds just before and just after the cutoff of the westernmost zone.
             DO $$ DECLARE west timestamp := now() AT TIME ZONE 'Etc/GMT+12' - interval '6 hours';
             BEGIN
                 EXECUTE format('CREATE TABLE public.parts_past PARTITION OF public.parts
                                     FOR VALUES FROM (%L) TO (%L)', west - interval '2 h', west - interval '1 h');
                 EXECUTE format('CREATE TABLE public.parts_young PARTITION OF public.parts
                                     FOR VALUES FROM (%L) TO (%L)', west - interval '1 h', west + interval '1 h');
                 EXECUTE format('CREATE TABLE public.dayparts_past PARTITION OF public.dayparts
                                     FOR VALUES FROM (%L) TO (%L)', west::date - 1, west::date);
                 EXECUTE format('CREATE TABLE public.dayparts_young PARTITION OF public.dayparts
                                     FOR VALUES FROM (%L) TO (%L)', west::date, west::date + 2);
             END $$",
        )
        .await;
    // The clock of a zone that lies `h` hours east of UTC-12 is `h` hours ahead, so its rows stay for
    // `h` hours longer.
    for (zone, hours_late) in
        [("Etc/GMT+12", 0), ("America/Los_Angeles", 5), ("Pacific/Kiritimati", 26)]
    {
        bench
            .sql(&format!(
                "SET timezone = '{zone}';
                 INSERT INTO public.locals VALUES
                     (localtimestamp, '{zone}', 'now'),
                     (localtimestamp - interval '5 h 50 min', '{zone}', 'young'),
                     (localtimestamp - interval '6 h' - interval '{hours_late} h' - interval '61 min',
                      '{zone}', 'past');
                 INSERT INTO public.days VALUES
                     (localtimestamp::date, '{zone}', 'now'),
                     ((localtimestamp - interval '5 h 50 min')::date, '{zone}', 'young'),
                     ((localtimestamp - interval '6 h' - interval '{hours_late} h' - interval '25 h')::date,
                      '{zone}', 'past')"
            ))
            .await;
    }
    for (table, column) in [("locals", "t"), ("days", "d"), ("parts", "t"), ("dayparts", "d")] {
        bench.keep(&format!("public.{table}"), column, HOURS);
    }
    let previews = bench.previews().await;
    let report = bench.run(Job::Retention).await.unwrap();
    for table in ["locals", "days"] {
        let left = format!("public.{table} WHERE label <> 'past'");
        assert_eq!(bench.count(&left).await, 6, "{table}: {}", report.detail);
        let left = format!("public.{table} WHERE label = 'past'");
        assert_eq!(bench.count(&left).await, 0, "{table}: {}", report.detail);
    }
    for table in ["parts", "dayparts"] {
        let dropped = serde_json::json!([format!("public.{table}_past")]);
        let name = format!("public.{table}");
        assert_eq!(report.detail[&name]["partitions"], dropped, "{}", report.detail);
        let preview = previews.iter().find(|preview| preview.table == name).unwrap();
        assert_eq!(serde_json::json!(preview.partitions), dropped, "{preview:?}");
    }
    for table in ["public.locals", "public.days"] {
        let preview = previews.iter().find(|preview| preview.table == table).unwrap();
        assert_eq!(preview.rows_due, Some(3), "{preview:?}");
    }
}

#[tokio::test]
async fn row_level_security_is_an_error_and_stops_no_other_table() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    let owner = bench.database.role("owner", "").await;
    let steward = bench.as_steward().await;
    bench
        .sql(&format!(
            "CREATE TABLE public.guarded (ts timestamptz); CREATE INDEX ON public.guarded (ts);
             INSERT INTO public.guarded VALUES ('2001-01-01');
             ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
             CREATE POLICY none ON public.guarded USING (false);
             ALTER TABLE public.guarded OWNER TO {0};
             GRANT SELECT, DELETE ON public.guarded TO {1};
             CREATE TABLE public.closed (ts timestamptz); ALTER TABLE public.closed OWNER TO {0}",
            owner.name, steward.name
        ))
        .await;
    bench.keep("public.guarded", "ts", 10 * DAY);
    bench.keep("public.closed", "ts", 10 * DAY);
    let error = bench.run(Job::Retention).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Permission, "{text}");
    assert!(text.starts_with("2 failed"), "{text}");
    assert!(
        text.contains("public.guarded (permission)") && text.contains("row-level security"),
        "{text}"
    );
    assert!(text.contains("GRANT SELECT, DELETE ON \"public\".\"closed\""), "{text}");
    let detail = bench.last_detail(Job::Retention).await;
    assert!(
        detail["public.guarded"]["error"].as_str().unwrap().contains("row-level security"),
        "{detail}"
    );
    assert_eq!(bench.count("public.guarded").await, 1);
    assert_eq!(bench.count("public.events").await, 100, "the table beside it was purged");
}

#[tokio::test]
async fn what_cannot_be_purged_safely_is_refused() {
    let mut bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.big (ts timestamptz, pad text);
             INSERT INTO public.big SELECT '2001-01-01', repeat('x', 900) FROM generate_series(1, 10000);
             CREATE INDEX ON public.big (ts) WHERE pad IS NULL;
             CREATE TABLE public.small (ts timestamptz); INSERT INTO public.small VALUES ('2001-01-01');
             CREATE VIEW public.seen AS SELECT * FROM public.small;
             CREATE TABLE public.worded (ts text);
             CREATE EXTENSION IF NOT EXISTS postgres_fdw;
             CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
             CREATE FOREIGN TABLE public.far (ts timestamptz) SERVER far",
        )
        .await;
    for table in ["big", "small", "seen", "worded", "far", "missing"] {
        bench.keep(&format!("public.{table}"), "ts", 10 * DAY);
    }
    bench.keep("public.other_column", "ts", DAY);
    bench.sql("CREATE TABLE public.other_column (at timestamptz)").await;
    bench.keep("steward.audit_logs", "created_at", DAY);
    let text = bench.run(Job::Retention).await.unwrap_err().to_string();
    for wanted in [
        "7 failed",
        "CREATE INDEX CONCURRENTLY ON \"public\".\"big\" (\"ts\")",
        "public.seen is a view",
        "column ts of public.worded is of type text",
        "public.far is a foreign table",
        "table public.missing does not exist",
        "public.other_column has no column ts",
        "pgsteward's own tables have keys of their own",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert_eq!(bench.count("public.big").await, 10_000);
    assert_eq!(bench.count("public.small").await, 0, "a small table needs no index");
}

#[tokio::test]
async fn a_locked_row_holds_up_no_other_row() {
    let mut bench = Bench::new().await;
    events(&mut bench, 2_500).await;
    let other = bench.database.client().await;
    other
        .batch_execute("BEGIN; SELECT 1 FROM public.events WHERE n = 1200 AND ts < now() - interval '1 day' FOR UPDATE")
        .await
        .unwrap();
    let error = bench.run(Job::Retention).await.unwrap_err();
    assert_eq!(error.kind(), Kind::LockTimeout, "{error}");
    assert!(error.to_string().contains("2499 rows and 0 partitions removed"), "{error}");
    assert_eq!(bench.count("public.events").await, 101);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(bench.run(Job::Retention).await.unwrap().rows, 1);
}

#[tokio::test]
async fn rows_that_a_trigger_keeps_are_told() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    bench
        .sql(
            "INSERT INTO public.events SELECT '2001-01-01', n FROM generate_series(1, 1100) n;
             CREATE FUNCTION public.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER keep BEFORE DELETE ON public.events FOR EACH ROW EXECUTE FUNCTION public.keep()",
        )
        .await;
    let error = tokio::time::timeout(BOUND, bench.run(Job::Retention)).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("a row of 2001-01-01 00:00:00+00 is left before the cutoff"),
        "{error}"
    );
}

#[tokio::test]
async fn a_referenced_row_fails_its_table_alone() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    bench
        .sql(
            "CREATE TABLE public.cause (id int PRIMARY KEY, ts timestamptz); CREATE INDEX ON public.cause (ts);
             CREATE TABLE public.effect (cause int REFERENCES public.cause);
             INSERT INTO public.cause VALUES (1, '2001-01-01'); INSERT INTO public.effect VALUES (1)",
        )
        .await;
    bench.keep("public.cause", "ts", 10 * DAY);
    let text = bench.run(Job::Retention).await.unwrap_err().to_string();
    assert!(text.contains("1 failed: public.cause (sql)") && text.contains("effect"), "{text}");
    assert_eq!(bench.count("public.events").await, 100);
}

/// `public.cause`, an old row and a young one, and `public.effect`, which refers to both.
async fn cause(bench: &mut Bench, on_delete: &str, indexed: bool) {
    bench
        .sql(&format!(
            "CREATE TABLE public.cause (id int PRIMARY KEY, ts timestamptz); CREATE INDEX ON public.cause (ts);
             CREATE TABLE public.effect (cause int DEFAULT 2 CONSTRAINT effect_key REFERENCES public.cause {on_delete},
                                         ts timestamptz DEFAULT now());
             INSERT INTO public.cause VALUES (1, '2001-01-01'), (2, now());
             INSERT INTO public.effect VALUES (1), (2)"
        ))
        .await;
    if indexed {
        bench.sql("CREATE INDEX ON public.effect (cause) WHERE cause IS NOT NULL").await;
    }
    bench.keep("public.cause", "ts", 10 * DAY);
}

#[tokio::test]
async fn rows_of_tables_that_nobody_named_are_not_deleted_nor_changed() {
    for on_delete in ["CASCADE", "SET NULL", "SET DEFAULT"] {
        let mut bench = Bench::new().await;
        cause(&mut bench, &format!("ON DELETE {on_delete}"), true).await;
        let text = bench.run(Job::Retention).await.unwrap_err().to_string();
        assert!(
            text.contains(&format!("ON DELETE {on_delete}")) && text.contains("effect_key"),
            "{text}"
        );
        assert!(text.contains("public.effect is not named in retention"), "{text}");
        assert_eq!(bench.count("public.effect WHERE cause = 1").await, 1);
        assert_eq!(bench.count("public.cause").await, 2);

        // Named, but kept for longer; then for no longer.
        bench.keep("public.effect", "ts", 11 * DAY);
        let text = bench.run(Job::Retention).await.unwrap_err().to_string();
        assert!(text.contains("keeps public.effect for longer"), "{text}");
        bench.keep("public.effect", "ts", 10 * DAY);
        let report = bench.run(Job::Retention).await.unwrap();
        assert_eq!(bench.count("public.effect WHERE cause = 1").await, 0);
        let note = report.detail["public.cause"]["notes"][0].as_str().unwrap_or_default();
        assert!(note.contains("whatever their age"), "{}", report.detail);
        assert_eq!(report.warnings, Vec::<String>::new(), "an index over what is not NULL serves");
    }
}

#[tokio::test]
async fn a_cascade_is_followed_through_partitions_and_further_keys() {
    let mut bench = Bench::new().await;
    bench
        .sql(
            "CREATE TABLE public.cause (id int, ts timestamptz, PRIMARY KEY (id, ts)) PARTITION BY RANGE (ts);
             CREATE INDEX ON public.cause (ts);
             CREATE TABLE public.cause_1 PARTITION OF public.cause DEFAULT;
             CREATE TABLE public.effect (id int PRIMARY KEY, c int, cts timestamptz, ts timestamptz,
                                         FOREIGN KEY (c, cts) REFERENCES public.cause ON DELETE CASCADE);
             CREATE INDEX ON public.effect (cts, c);
             CREATE TABLE public.far (id int, effect int REFERENCES public.effect ON DELETE SET NULL) PARTITION BY HASH (id);
             CREATE TABLE public.far_1 PARTITION OF public.far FOR VALUES WITH (MODULUS 1, REMAINDER 0);
             CREATE INDEX ON public.far (effect);
             INSERT INTO public.cause VALUES (1, '2001-01-01');
             INSERT INTO public.effect VALUES (1, 1, '2001-01-01', now()); INSERT INTO public.far VALUES (1, 1)",
        )
        .await;
    bench.keep("public.cause", "ts", 10 * DAY);
    bench.keep("public.effect", "ts", 10 * DAY);
    let text = bench.run(Job::Retention).await.unwrap_err().to_string();
    assert!(
        text.contains("2 failed: public.cause")
            && text.contains("public.far is not named in retention"),
        "{text}"
    );
    assert!(!text.contains("far_1") && !text.contains("public.effect is not named"), "{text}");
    assert_eq!(bench.count("public.far WHERE effect = 1").await, 1);
}

#[tokio::test]
async fn a_key_without_an_index_is_told_and_refused_where_the_child_is_large() {
    let mut bench = Bench::new().await;
    cause(&mut bench, "", false).await;
    bench.sql("DELETE FROM public.effect WHERE cause = 1").await;
    let mend = "CREATE INDEX CONCURRENTLY ON \"public\".\"effect\" (cause)";
    let report = bench.run(Job::Retention).await.unwrap();
    let [warning] = &report.warnings[..] else { panic!("{report:?}") };
    assert!(warning.starts_with("public.cause: ") && warning.ends_with(mend), "{warning}");
    assert_eq!(report.rows, 1);

    bench
        .sql(
            "ALTER TABLE public.effect ADD pad text;
             INSERT INTO public.effect SELECT 2, now(), repeat('x', 900) FROM generate_series(1, 10000);
             INSERT INTO public.cause VALUES (1, '2001-01-01')",
        )
        .await;
    let text = bench.run(Job::Retention).await.unwrap_err().to_string();
    assert!(text.ends_with(mend), "{text}");
    assert_eq!(bench.count("public.cause").await, 2);
    bench.sql("CREATE INDEX ON public.effect (cause)").await;
    assert_eq!(bench.run(Job::Retention).await.unwrap().rows, 1);
}

/// What a job's connection to this server reads of the pressure on it.
async fn pressure_at(url: &str) -> Pressure {
    let metrics = Arc::new(Metrics::new().unwrap());
    let url = Some(SecretSource::Inline(Secret::new(url)));
    let settings = config::Database { url, ..config::Database::default() };
    let db = Database::new("main", &settings, 1, &Tasks::new(), &metrics);
    let mut conn = db.acquire(Purpose::Job).await.unwrap();
    let options = TxOptions::within(BOUND).read_only();
    conn.transaction(&options, |tx| Box::pin(async move { pressure::read(tx).await }))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_lag_that_is_hidden_is_not_taken_for_none() {
    // A standby is seen by every test of a shared server.
    let server = PrivateServer::start(&[]).await;
    let admin = server.client().await;
    admin
        .batch_execute(
            "CREATE ROLE plain LOGIN PASSWORD 'p'; CREATE ROLE monitor LOGIN PASSWORD 'p' IN ROLE pg_monitor",
        )
        .await
        .unwrap();
    let url = |role: &str| format!("postgresql://{role}:p@{}/postgres", server.address());
    assert!(!pressure_at(&url("plain")).await.lag_hidden, "there is no standby");
    // A session that asks to be a standby's, without being one.
    let standby = tokio::process::Command::new(server.ephemeral().bin_dir().join("psql"))
        .arg(format!("{}?replication=true", server.url_at(server.address(), "postgres")))
        .stdin(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("psql starts");
    wait_until("the standby is seen", BOUND, async || {
        admin.number("SELECT count(*) FROM pg_stat_replication").await > 0
    })
    .await;
    assert!(pressure_at(&url("plain")).await.lag_hidden);
    assert!(!pressure_at(&url("monitor")).await.lag_hidden);
    drop(standby);
}

#[tokio::test]
async fn that_wal_is_not_archived_is_seen_and_ends() {
    let server = PrivateServer::start(&[
        ("archive_mode", "on"),
        ("archive_command", "false"),
        ("wal_level", "replica"),
    ])
    .await;
    let admin = server.client().await;
    // The server archives nothing before there is a whole segment.
    admin.batch_execute("CREATE TABLE t AS SELECT 1; SELECT pg_switch_wal()").await.unwrap();
    wait_until("archiving fails", BOUND, async || pressure_at(&server.url()).await.archiving_fails)
        .await;
    admin.batch_execute("ALTER SYSTEM SET archive_command = 'true'").await.unwrap();
    server.reload().await;
    wait_until("archiving goes on", BOUND, async || {
        !pressure_at(&server.url()).await.archiving_fails
    })
    .await;
}

#[tokio::test]
async fn a_table_of_that_name_is_not_the_bundled_set_s() {
    let bench = Bench::new().await;
    bench.sql("INSERT INTO public.vm_metrics (vm_id, cpu_percent, memory_percent, created_at) VALUES (gen_random_uuid(), 1, 2, '2001-01-01')").await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert!(report.detail.get("public.vm_metrics").is_none(), "{}", report.detail);
    assert_eq!(bench.count("public.vm_metrics").await, 1);
}

#[tokio::test]
async fn a_job_told_to_stop_ends_at_the_next_slice() {
    let mut bench = Bench::new().await;
    events(&mut bench, 20_000).await;
    bench.config.retention.duty = 0.01;
    let (report, ()) = tokio::join!(bench.run(Job::Retention), async {
        wait_until("a slice is gone", BOUND, async || bench.count("public.events").await < 20_100)
            .await;
        bench.stop.cancel();
    });
    let report = report.unwrap();
    assert!(report.stopped);
    assert!((1..20_000).contains(&report.rows), "{}", report.rows);
    assert_eq!(bench.count("public.events").await, 20_100 - report.rows);
}

#[tokio::test]
async fn the_deadline_ends_it_and_the_next_run_goes_on() {
    let mut bench = Bench::new().await;
    events(&mut bench, 60_000).await;
    bench.config.retention.duty = 0.01;
    // Long enough for our own tables on a busy machine, too short for all rows at this duty.
    bench.timeout = Duration::from_secs(4);
    let error = tokio::time::timeout(BOUND, bench.run(Job::Retention)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    let left = bench.count("public.events").await;
    assert!((101..60_100).contains(&left), "{left}");
    bench.timeout = Duration::from_secs(60);
    bench.config.retention.duty = 1.0;
    assert_eq!(bench.run(Job::Retention).await.unwrap().rows, left - 100);
}

#[tokio::test]
async fn observing_purges_only_our_own() {
    let mut bench = Bench::new().await;
    events(&mut bench, 10).await;
    bench.config.mode = Mode::Observe;
    bench.sets = BUNDLED.to_vec();
    bench
        .sql("INSERT INTO steward.audit_logs (created_at, action, source) VALUES ('2001-01-01', 'x', 'application')")
        .await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(bench.count("public.events").await, 110);
    assert_eq!(bench.count("steward.audit_logs WHERE action = 'x'").await, 0);
    assert!(report.detail.get("public.vm_metrics").is_none(), "{}", report.detail);
}

#[tokio::test]
async fn the_audit_trail_is_never_kept_shorter_than_its_floor() {
    let mut bench = Bench::new().await;
    bench.config.retention.audit_logs = DAY;
    bench
        .sql(
            "INSERT INTO steward.audit_logs (created_at, action, source)
             VALUES (now() - interval '29 days', 'young', 'application'), (now() - interval '31 days', 'old', 'application')",
        )
        .await;
    bench.run(Job::Retention).await.unwrap();
    let left =
        "SELECT string_agg(action, ',') FROM steward.audit_logs WHERE source = 'application'";
    assert_eq!(bench.admin.text(left).await, "young");
}

#[tokio::test]
async fn history_is_pruned_below_the_floor_and_failures_stay_longer() {
    let bench = Bench::new().await;
    bench
        .sql(
            "INSERT INTO steward.job_state (job, claimed_floor) VALUES ('a', now() - interval '35 days');
             INSERT INTO steward.job_runs (id, job, kind, due_at, state, instance, lease_until, started_at, finished_at, reason)
             SELECT gen_random_uuid(), job, 'scheduled', now() - due, state, 'i', now(), now() - due,
                    CASE WHEN state <> 'running' THEN now() - due END, label
               FROM (VALUES
                 ('a', interval '40 days', 'succeeded', 'gone'),
                 ('a', interval '32 days', 'succeeded', 'above the floor'),
                 ('a', interval '41 days', 'failed', 'failed'),
                 ('a', interval '61 days', 'failed', 'gone'),
                 ('a', interval '42 days', 'running', 'open'),
                 ('b', interval '40 days', 'skipped', 'gone'),
                 ('b', interval '29 days', 'succeeded', 'young')) AS v (job, due, state, label)",
        )
        .await;
    let report = bench.run(Job::Retention).await.unwrap();
    assert_eq!(report.detail["steward.job_runs"]["rows"], 3);
    let left = "SELECT string_agg(reason, ', ' ORDER BY reason) FROM steward.job_runs";
    assert_eq!(bench.admin.text(left).await, "above the floor, failed, open, young");
}
