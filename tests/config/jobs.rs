//! `[jobs]`: the built-in ones, and SQL of one's own.

use std::time::Duration;

use pgsteward::config::{
    AfterFailure, Builtin, CatchUp, Job, JobName, Overlap, Schedule, Secret, SecretSource, SqlWork,
    Trigger, Windows, Work, Zone,
};

use super::Given;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The lines of a job of one's own, with what they come to.
fn own(lines: &str) -> Given {
    Given::file(format!("[jobs.report]\n{lines}")).url()
}

#[track_caller]
fn job(lines: &str) -> Job {
    own(lines).config().jobs.all.remove("report").unwrap()
}

fn windows(texts: &[&str]) -> Windows {
    texts.iter().map(|text| Windows::parse_one(text).unwrap()).collect()
}

#[test]
fn a_job_of_ones_own_needs_no_more_than_its_sql() {
    let work = SqlWork {
        sql: "SELECT 1".to_owned(),
        transaction: true,
        role: None,
        login: None,
        search_path: "public".to_owned(),
        lock_timeout: SECOND,
    };
    let expected = Job {
        work: Work::Sql(work.clone()),
        enabled: true,
        databases: Vec::new(),
        trigger: Trigger::Request,
        timezone: Zone::UTC,
        timeout: 10 * MINUTE,
        retries: 2,
        overlap: Overlap::Skip,
        catch_up: CatchUp::Latest,
        catch_up_max: 100,
        deadline: None,
        jitter: Duration::ZERO,
        window: Windows::default(),
        blackout: Windows::default(),
        on_failure: AfterFailure::Report,
    };
    assert_eq!(job("sql = \"  SELECT 1\\n\"\n"), expected);
    let work = Work::Sql(SqlWork { transaction: false, ..work });
    assert_eq!(
        job("sql = \"SELECT 1\"\ntransaction = false\n"),
        Job { work, retries: 0, ..expected },
        "what may have been done in part is not repeated"
    );
}

#[test]
fn every_key_of_a_job_is_taken() {
    let config = Given::file(
        r#"
[databases.app]
url = "postgresql:///app"
[databases.other]
url = "postgresql:///other"
[jobs]
history_max = 10
[jobs.report]
sql = """
INSERT INTO daily SELECT current_date;
CALL tidy();
"""
schedule = "0 30 6 * * Mon-Fri"
role = "Reporting"
search_path = "reports, public"
lock_timeout = "1m"
enabled = false
databases = ["other", "app"]
timezone = "Europe/Berlin"
timeout = "90s"
retries = 10
overlap = "queue"
catch_up = "all"
catch_up_max = 1000
deadline = "2h"
jitter = "5m"
window = ["Mon-Fri 22:00-06:00", "Sat,Sun"]
blackout = ["12-24..01-02"]
on_failure = "pause"
[jobs.after-it]
sql = "VACUUM (ANALYZE) reports.daily"
transaction = false
after = ["report", "retention"]
login_url_file = "/run/secrets/login"
catch_up = "none"
on_failure = "ignore"
"#,
    )
    .config();
    let expected = Job {
        work: Work::Sql(SqlWork {
            sql: "INSERT INTO daily SELECT current_date;\nCALL tidy();".to_owned(),
            transaction: true,
            role: Some("Reporting".to_owned()),
            login: None,
            search_path: "reports, public".to_owned(),
            lock_timeout: MINUTE,
        }),
        enabled: false,
        databases: vec!["other".to_owned(), "app".to_owned()],
        trigger: Trigger::Schedule(Schedule::parse("0 30 6 * * Mon-Fri").unwrap()),
        timezone: Zone::named("Europe/Berlin").unwrap(),
        timeout: 90 * SECOND,
        retries: 10,
        overlap: Overlap::Queue,
        catch_up: CatchUp::All,
        catch_up_max: 1000,
        deadline: Some(120 * MINUTE),
        jitter: 5 * MINUTE,
        window: windows(&["Mon-Fri 22:00-06:00", "Sat,Sun"]),
        blackout: windows(&["12-24..01-02"]),
        on_failure: AfterFailure::Pause,
    };
    assert_eq!(config.jobs.all["report"], expected);
    assert_eq!(config.jobs.history_max, 10);
    let after = &config.jobs.all["after-it"];
    assert_eq!(
        after.trigger,
        Trigger::After(vec![JobName::new("report"), JobName::new("retention")])
    );
    assert_eq!((after.catch_up, after.on_failure), (CatchUp::None, AfterFailure::Ignore));
    let Work::Sql(work) = &after.work else { panic!("{after:?}") };
    assert_eq!(work.login, Some(SecretSource::File("/run/secrets/login".into())));
    assert!(config.jobs.all["report"].is_for("app") && !config.jobs.all["report"].is_for("main"));
}

#[test]
fn the_built_in_jobs_of_the_ledger_share_their_defaults() {
    let plain = |builtin: Builtin| {
        let partitions = Job::of(Builtin::Partitions);
        Job {
            work: partitions.work,
            trigger: partitions.trigger,
            timeout: partitions.timeout,
            ..Job::of(builtin)
        }
    };
    for builtin in Builtin::ALL.into_iter().filter(|builtin| !builtin.is_measured()) {
        assert_eq!(
            plain(builtin),
            Job::of(Builtin::Partitions),
            "{builtin:?}: the example shows them once"
        );
        let name = builtin.as_str();
        let lines = "databases = [\"main\"]\nretries = 0\noverlap = \"queue\"\ncatch_up = \"all\"\nwindow = [\"22:00-06:00\"]\non_failure = \"ignore\"\n";
        let config = Given::file(format!("[jobs.{name}]\n{lines}")).url().config();
        let job = &config.jobs.all[name];
        assert_eq!(
            (job.retries, job.overlap, job.catch_up),
            (0, Overlap::Queue, CatchUp::All),
            "{name}"
        );
        assert_eq!(
            (&job.window, job.on_failure),
            (&windows(&["22:00-06:00"]), AfterFailure::Ignore),
            "{name}"
        );
        assert_eq!(job.trigger, Job::of(builtin).trigger);
    }
}

#[test]
fn a_measurement_knows_when_and_how_long_and_nothing_else() {
    for name in ["health-probe", "connection-metrics"] {
        for line in [
            "retries = 1",
            "overlap = \"skip\"",
            "sql = \"SELECT 1\"",
            "window = []",
            "databases = []",
        ] {
            let key = line.split(' ').next().unwrap();
            assert_eq!(
                Given::file(format!("[jobs.{name}]\n{line}\n")).url().report(),
                format!(
                    "config.toml:2: jobs.{name}.{key}: found an unknown key, wanted one of schedule, enabled, timezone, timeout"
                )
            );
        }
    }
    let report = Given::file("[jobs.vacuum]\nafter = [\"retention\"]\n").url().report();
    assert!(
        report.starts_with("config.toml:2: jobs.vacuum.after: found an unknown key, wanted one of"),
        "{report}"
    );
}

/// One bad line each, and all that is said of it.
#[test]
fn what_a_job_cannot_be_is_told_where_it_stands() {
    for (lines, expected) in [
        (
            "schedule = \"@daily\"",
            "1: jobs.report: found no sql, and no built-in job of this name, wanted the key \"sql\"",
        ),
        ("sql = 5", "2: jobs.report.sql: found 5, wanted SQL, one or several statements"),
        (
            "sql = \" -- nothing\\n ; \"",
            "2: jobs.report.sql: found no statement, wanted at least one",
        ),
        (
            "sql = \"SELECT 1;\\nBEGIN;\"",
            "2: jobs.report.sql: found in line 2 of it BEGIN, wanted no statement that begins or ends a transaction: all of it \
             is one already",
        ),
        (
            "sql = \"INSERT INTO t VALUES (1); COMMIT\"\ntransaction = false",
            "2: jobs.report.sql: found in line 1 of it COMMIT, wanted transaction = true, or a procedure that commits: here \
             each statement runs by itself",
        ),
        (
            "sql = \"SELECT 1;\\n\\nVACUUM t;\"",
            "2: jobs.report.sql: found in line 3 of it \"VACUUM t\", wanted transaction = false for it: PostgreSQL refuses it \
             inside a transaction",
        ),
        (
            "sql = \"\\\\copy t from 'file'\"",
            "2: jobs.report.sql: found in line 1 of it the psql command \"\\\\copy t from 'file'\", wanted SQL, which is all \
             that the server knows",
        ),
        (
            "sql = \"COPY t FROM STDIN\"",
            "2: jobs.report.sql: found in line 1 of it COPY through the client, wanted INSERT, or COPY of a file on the server",
        ),
        (
            "sql = \"SELECT 'open\"",
            "2: jobs.report.sql: found in line 1 of it a string without an end, wanted one with an end",
        ),
        (
            "sql = \"SELECT 1 /* open\"\ntransaction = false",
            "2: jobs.report.sql: found in line 1 of it a comment without an end, wanted one with an end",
        ),
        (
            "sql = \"SELECT '\\u0000'\"",
            "2: jobs.report.sql: found \"SELECT '\\0'\", wanted SQL without a NUL character",
        ),
        (
            "sql = \"SELECT 1\"\nschedule = \"@daily\"\nafter = [\"vacuum\"]",
            "1: jobs.report: found schedule and after together, wanted one of them",
        ),
        (
            "sql = \"SELECT 1\"\nrole = \"r\"\nlogin_url = \"postgresql://hunter2@db/app\"",
            "1: jobs.report: found role and login_url together, wanted one of them: a login comes with a role of its own",
        ),
        (
            "sql = \"SELECT 1\"\nlogin_url = \"postgresql://hunter2@db/app\"\nlogin_url_file = \"x\"",
            "4: jobs.report.login_url_file: found login_url and login_url_file together, wanted one of them",
        ),
        (
            "sql = \"SELECT 1\"\nlogin_url = \"mysql://hunter2@db/app\"",
            "3: jobs.report.login_url: found a string, wanted a libpq URL such as \"postgresql://user@host:5432/name\", or a \
             \"key=value\" string",
        ),
        (
            "sql = \"SELECT 1\"\nretries = 11",
            "3: jobs.report.retries: found 11, wanted a whole number from 0 to 10",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up_max = 1001",
            "3: jobs.report.catch_up_max: found 1001, wanted a whole number from 1 to 1000",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up_max = 0",
            "3: jobs.report.catch_up_max: found 0, wanted a whole number from 1 to 1000",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up = \"latests\"",
            "3: jobs.report.catch_up: found \"latests\", did you mean \"latest\"?",
        ),
        (
            "sql = \"SELECT 1\"\noverlap = \"wait\"",
            "3: jobs.report.overlap: found \"wait\", wanted one of \"skip\", \"queue\"",
        ),
        (
            "sql = \"SELECT 1\"\non_failure = \"panic\"",
            "3: jobs.report.on_failure: found \"panic\", wanted one of \"report\", \"pause\", \"ignore\"",
        ),
        (
            "sql = \"SELECT 1\"\ndeadline = \"0s\"",
            "3: jobs.report.deadline: found \"0s\", wanted a duration from 1s to 366d",
        ),
        (
            "sql = \"SELECT 1\"\njitter = \"2d\"",
            "3: jobs.report.jitter: found \"2d\", wanted a duration from 0s to 1d",
        ),
        (
            "sql = \"SELECT 1\"\nlock_timeout = \"0s\"",
            "3: jobs.report.lock_timeout: found \"0s\", wanted a duration from 1ms to 1h",
        ),
        (
            "sql = \"SELECT 1\"\ntimeout = \"8d\"",
            "3: jobs.report.timeout: found \"8d\", wanted a duration from 1s to 7d",
        ),
        (
            "sql = \"SELECT 1\"\ntransaction = \"no\"",
            "3: jobs.report.transaction: found \"no\", wanted true or false",
        ),
        (
            "sql = \"SELECT 1\"\nafter = \"vacuum\"",
            "3: jobs.report.after: found \"vacuum\", wanted a list of names of jobs",
        ),
        (
            "sql = \"SELECT 1\"\nafter = [\"Vac uum\"]",
            "3: jobs.report.after: found \"Vac uum\", wanted the name of a job",
        ),
        (
            "sql = \"SELECT 1\"\nafter = [\"vacuum\", \"vacuum\"]",
            "3: jobs.report.after: found \"vacuum\" twice, wanted each once",
        ),
        (
            "sql = \"SELECT 1\"\nrole = \"\"",
            "3: jobs.report.role: found an empty string, wanted some text",
        ),
        (
            "sql = \"SELECT 1\"\nshedule = \"@daily\"",
            "3: jobs.report.shedule: found an unknown key, did you mean \"schedule\"?",
        ),
    ] {
        assert_eq!(own(lines).report(), format!("config.toml:{expected}"), "{lines}");
    }
    for (line, found) in [
        ("window = [\"22:00-22:00\"]", "\"22:00-22:00\""),
        ("window = [\"25:00-26:00\"]", "\"25:00-26:00\""),
        ("blackout = [\"Son\"]", "\"Son\""),
        ("blackout = [\"2026-02-30\"]", "\"2026-02-30\""),
        ("window = [\"Sat\", 5]", "5"),
    ] {
        let key = line.split(' ').next().unwrap();
        let report = own(&format!("sql = \"SELECT 1\"\n{line}\n")).report();
        let expected = format!("config.toml:3: jobs.report.{key}: found {found}, ");
        assert!(report.starts_with(&expected) && report.lines().count() == 1, "{line}: {report}");
    }
    for (line, wanted) in
        [("history_max = 9", "from 10 to 1000000"), ("history_max = 1000001", "from 10 to 1000000")]
    {
        let report = Given::file(format!("[jobs]\n{line}\n")).url().report();
        assert!(
            report.starts_with("config.toml:2: jobs.history_max") && report.ends_with(wanted),
            "{report}"
        );
    }
}

#[test]
fn what_needs_no_transaction_of_ours_may_run_outside_one() {
    for sql in [
        "VACUUM t",
        "CREATE INDEX CONCURRENTLY ON t (a)",
        "CALL commits()",
        "SELECT 1; REINDEX TABLE CONCURRENTLY t",
    ] {
        job(&format!("sql = \"{sql}\"\ntransaction = false\n"));
    }
    // A word in a string, a body or a name is no statement.
    for sql in [
        "SELECT 'BEGIN; COMMIT'",
        "DO $$ BEGIN PERFORM 1; END $$",
        "UPDATE vacuum SET \\\"commit\\\" = 1",
    ] {
        job(&format!("sql = \"{sql}\"\n"));
    }
}

#[test]
fn names_are_checked_and_near_ones_named() {
    let sql = "sql = \"SELECT 1\"\n";
    let wanted = "wanted a name of 1 to 48 characters a-z, 0-9, - or _ that begins with a letter, or one of the built-in jobs: \
                  health-probe, connection-metrics, partitions, retention, vacuum, refresh and audit-seal";
    let long = "x".repeat(49);
    for name in ["Report", "1st", "-x", "a b", long.as_str(), "über"] {
        let report = Given::file(format!("[jobs.\"{name}\"]\n{sql}")).url().report();
        assert_eq!(report, format!("config.toml:1: jobs.{name}: found \"{name}\", {wanted}"));
    }
    let report = Given::file(format!("[jobs.\"a.b\"]\n{sql}")).url().report();
    assert_eq!(report, format!("config.toml:1: jobs.\"a.b\": found \"a.b\", {wanted}"));
    for name in ["a", "x-1_y", &"x".repeat(48)] {
        Given::file(format!("[jobs.{name}]\n{sql}")).url().config();
    }
    for (name, meant) in
        [("vacum", "vacuum"), ("retentoin", "retention"), ("health_probe", "health-probe")]
    {
        let report = Given::file(format!("[jobs.{name}]\ntimeout = \"1m\"\n")).url().report();
        let said = format!(
            "config.toml:1: jobs.{name}: found no sql, and no built-in job of this name, did you mean \"{meant}\"?"
        );
        assert_eq!(report, said);
    }
    let report = Given::file("[jobs]\nreport = \"SELECT 1\"\n").url().report();
    assert!(
        report.starts_with("config.toml:2: jobs.report: found an unknown key, wanted one of"),
        "{report}"
    );
    let report = Given::file("[jobs]\nvacuum = 5\n").url().report();
    assert_eq!(report, "config.toml:2: jobs.vacuum: found 5, wanted a table");
}

#[test]
fn there_are_bounds_for_a_job_and_for_all_of_them() {
    let filled = |bytes: usize| format!("SELECT '{}'", "x".repeat(bytes - 9));
    job(&format!("sql = \"{}\"\n", filled(64 * 1024)));
    let report = own(&format!("sql = \"{}\"\n", filled(64 * 1024 + 1))).report();
    assert!(report.starts_with("config.toml:2: jobs.report.sql: found \"SELECT 'xxx"), "{report}");
    assert!(
        report
            .ends_with("…\", wanted at most 65536 bytes; a function in the database can be longer"),
        "{report}"
    );
    assert!(report.len() < 250, "{report}");

    let many = |count: usize| {
        (0..count).map(|n| format!("[jobs.j{n:04}]\nsql = \"SELECT 1\"\n")).collect::<String>()
    };
    assert_eq!(Given::file(many(493)).url().config().jobs.all.len(), 500);
    assert_eq!(
        Given::file(many(600)).url().report(),
        "config.toml:987: jobs.j0493: found one job too many, wanted up to 500, with the built-in ones"
    );
}

#[test]
fn chains_begin_somewhere_and_name_jobs_of_the_ledger() {
    let chained = |chains: &[(&str, &str)]| {
        let text: String = chains
            .iter()
            .map(|(name, after)| format!("[jobs.{name}]\nsql = \"SELECT 1\"\nafter = [{after}]\n"))
            .collect();
        Given::file(text).url()
    };
    let no_begin =
        "wanted a chain that begins somewhere: here each waits for the next, and none ever runs";
    for (chains, expected) in [
        (&[("a", "\"vacum\"")][..], "config.toml:3: jobs.a.after: found \"vacum\", did you mean \"vacuum\"?".to_owned()),
        (&[("a", "\"nothing-like-it\"")], "config.toml:3: jobs.a.after: found \"nothing-like-it\", wanted the name of another job".to_owned()),
        (
            &[("a", "\"health-probe\"")],
            "config.toml:3: jobs.a.after: found \"health-probe\", wanted a job of the ledger: this one is a measurement, taken \
             all the time"
                .to_owned(),
        ),
        (&[("a", "\"a\"")], format!("config.toml:3: jobs.a.after: found a → a, {no_begin}")),
        (&[("b", "\"a\""), ("a", "\"b\"")], format!("config.toml:6: jobs.a.after: found a → b → a, {no_begin}")),
        (
            &[("z", "\"c\""), ("c", "\"vacuum\", \"d\""), ("d", "\"e\""), ("e", "\"c\"")],
            format!("config.toml:6: jobs.c.after: found c → d → e → c, {no_begin}"),
        ),
    ] {
        assert_eq!(chained(chains).report(), expected);
    }
    let loaded =
        chained(&[("a", "\"vacuum\", \"retention\""), ("b", "\"a\""), ("c", "\"a\", \"b\"")])
            .holds();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    // A leader that cannot be read is told once, as what it is.
    let report =
        Given::file("[jobs.a]\nsql = \"\"\n[jobs.b]\nsql = \"SELECT 1\"\nafter = [\"a\"]\n")
            .url()
            .report();
    assert_eq!(report, "config.toml:2: jobs.a.sql: found no statement, wanted at least one");
}

#[test]
fn a_chain_whose_leader_does_not_run_is_worth_a_word() {
    let follower = "[jobs.b]\nsql = \"SELECT 1\"\nafter = [\"a\"]\n";
    let given =
        Given::file(format!("[jobs.a]\nsql = \"SELECT 1\"\nenabled = false\n{follower}")).url();
    let place = format!("({}:6)", given.path("config.toml").display());
    assert_eq!(
        given.holds().warnings,
        [format!(
            "jobs.b follows jobs.a, which is disabled: it runs when somebody runs that by hand {place}"
        )]
    );
    let given = Given::file(format!(
        "[jobs.a]\nsql = \"SELECT 1\"\nenabled = false\n{follower}enabled = false\n"
    ))
    .url();
    assert_eq!(given.holds().warnings, Vec::<String>::new(), "neither runs");

    let databases =
        "[databases.x]\nurl = \"postgresql:///x\"\n[databases.y]\nurl = \"postgresql:///y\"\n";
    let given = Given::file(format!(
        "[jobs.a]\nsql = \"SELECT 1\"\ndatabases = [\"x\"]\n{follower}{databases}"
    ));
    let place = format!("({}:6)", given.path("config.toml").display());
    assert_eq!(
        given.holds().warnings,
        [format!("jobs.b follows jobs.a, which does not run on y: there it never runs {place}")]
    );
    let both = format!(
        "[jobs.a]\nsql = \"SELECT 1\"\ndatabases = [\"x\"]\n{follower}databases = [\"x\"]\n{databases}"
    );
    assert_eq!(Given::file(both).holds().warnings, Vec::<String>::new());
}

#[test]
fn databases_of_a_job_are_among_those_that_are_kept() {
    let databases = "[databases.billing]\nurl = \"postgresql:///x\"\n[databases.app]\nurl = \"postgresql:///y\"\n";
    let named =
        |names: &str| Given::file(format!("[jobs.vacuum]\ndatabases = [{names}]\n{databases}"));
    assert_eq!(
        named("\"app\", \"biling\", \"main\"").report(),
        "config.toml:2: jobs.vacuum.databases: found \"biling\", did you mean \"billing\"?\n\
         config.toml:2: jobs.vacuum.databases: found \"main\", wanted one of \"app\", \"billing\""
    );
    named("\"app\"").config();
    assert_eq!(
        Given::file("[jobs.vacuum]\ndatabases = [\"app\"]\n").url().report(),
        "config.toml:2: jobs.vacuum.databases: found \"app\", wanted one of \"main\""
    );
}

#[test]
fn variables_reach_jobs_of_ones_own() {
    let text = "[jobs.daily-report]\nsql = \"SELECT 1\"\nschedule = \"@daily\"\nlogin_url = \"postgresql:///a\"\n";
    let given = Given::file(text)
        .url()
        .env("PGSTEWARD__JOBS__DAILY_REPORT__SCHEDULE", "@hourly")
        .env("PGSTEWARD__JOBS__DAILY_REPORT__WINDOW", "22:00-06:00, Sat")
        .env("PGSTEWARD__JOBS__DAILY_REPORT__LOGIN_URL_FILE", "/run/login")
        .env("PGSTEWARD__JOBS__OTHER__SQL", "SELECT 2")
        .env("PGSTEWARD__JOBS__OTHER__AFTER", "daily-report");
    let config = given.config();
    let report = &config.jobs.all["daily-report"];
    assert_eq!(report.schedule().unwrap().text(), "@hourly");
    assert_eq!(report.window, windows(&["22:00-06:00", "Sat"]));
    let Work::Sql(work) = &report.work else { panic!("{report:?}") };
    assert_eq!(
        work.login,
        Some(SecretSource::File("/run/login".into())),
        "the stronger source replaces the other form"
    );
    assert_eq!(
        config.jobs.all["other"].trigger,
        Trigger::After(vec![JobName::new("daily-report")])
    );

    let report =
        Given::file(text).url().env("PGSTEWARD__JOBS__DAILY_REPORT__SCEDULE", "@hourly").report();
    assert_eq!(
        report,
        "PGSTEWARD__JOBS__DAILY_REPORT__SCEDULE: jobs.daily-report.scedule: found an unknown key, did you mean \
         \"PGSTEWARD__JOBS__DAILY_REPORT__SCHEDULE\"?"
    );
    let loaded =
        Given::file(text).url().env("PGSTEWARD_JOBS_DAILY_REPORT_SCHEDULE", "@hourly").holds();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(
        loaded.warnings[0].contains("did you mean PGSTEWARD__JOBS__DAILY_REPORT__SCHEDULE"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn the_login_of_a_job_is_no_reading_for_others() {
    let config = own("sql = \"SELECT 1\"\nlogin_url = \"postgresql://hunter2@db/app\"\n").config();
    let Work::Sql(work) = &config.jobs.all["report"].work else { panic!() };
    assert_eq!(work.login, Some(SecretSource::Inline(Secret::new("postgresql://hunter2@db/app"))));
    let printed = format!("{config:?} {config:#?}");
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_window_that_never_opens_for_the_schedule_is_worth_a_word() {
    let job = |keys: &str| {
        Given::file(format!("[jobs.a]\nsql = \"SELECT 1\"\nschedule = \"0 12 * * *\"\n{keys}"))
            .url()
    };
    let never = "jobs.a: none of the next 400 instants of \"0 12 * * *\" lies inside its window, so it will not run by itself";
    assert_eq!(job("window = [\"22:00-06:00\"]\n").holds().warnings, [never]);
    assert_eq!(job("blackout = [\"11:00-13:00\"]\n").holds().warnings, [never]);
    assert_eq!(job("window = [\"Sun\"]\n").holds().warnings, Vec::<String>::new());
}
