//! `[jobs]`: the built-in jobs, and own SQL.

use std::time::Duration;

use pgsteward::config::{
    AfterFailure, Builtin, CatchUp, Job, JobName, Overlap, Schedule, Secret, SecretSource, SqlWork,
    Trigger, Windows, Work, Zone,
};

use super::Given;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A configuration with these lines for a job of own SQL.
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
fn a_job_of_own_sql_needs_no_other_key() {
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
        "a run that may have done a part is not retried"
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
        let lines = "databases = [\"main\"]\nretries = 0\noverlap = \"queue\"\ncatch_up = \
            \"all\"\nwindow = [\"22:00-06:00\"]\non_failure = \"ignore\"\n";
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
fn a_measurement_takes_no_key_but_schedule_and_timeout() {
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
                    "config.toml:2: jobs.{name}.{key}: expected one of enabled, schedule, \
                     timezone, timeout, found an unknown key"
                )
            );
        }
    }
    let report = Given::file("[jobs.vacuum]\nafter = [\"retention\"]\n").url().report();
    assert!(report.starts_with("config.toml:2: jobs.vacuum.after: expected one of "), "{report}");
}

/// One bad line each, and the whole report.
#[test]
fn problems_of_a_job_are_reported_where_they_stand() {
    for (lines, expected) in [
        (
            "schedule = \"@daily\"",
            "1: jobs.report: expected the key \"sql\", found neither sql nor a built-in job of \
             this name",
        ),
        ("sql = 5", "2: jobs.report.sql: expected SQL, one or several statements, found 5"),
        (
            "sql = \" -- nothing\\n ; \"",
            "2: jobs.report.sql: expected at least one statement, found none",
        ),
        (
            "sql = \"SELECT 1;\\nBEGIN;\"",
            "2: jobs.report.sql: expected no statement that begins or ends a transaction, \
             because all of it is one, found BEGIN in line 2 of it",
        ),
        (
            "sql = \"INSERT INTO t VALUES (1); COMMIT\"\ntransaction = false",
            "2: jobs.report.sql: expected transaction = true or a procedure that commits, \
             because each statement runs alone, found COMMIT in line 1 of it",
        ),
        (
            "sql = \"SELECT 1;\\n\\nVACUUM t;\"",
            "2: jobs.report.sql: expected statements that may run in a transaction, or \
             transaction = false, found \"VACUUM t\" in line 3 of it",
        ),
        (
            "sql = \"\\\\copy t from 'file'\"",
            "2: jobs.report.sql: expected SQL, because the server knows no commands of psql, \
             found the psql command \"\\\\copy t from 'file'\" in line 1 of it",
        ),
        (
            "sql = \"COPY t FROM STDIN\"",
            "2: jobs.report.sql: expected INSERT, or COPY of a file on the server, found COPY \
             through the client in line 1 of it",
        ),
        (
            "sql = \"SELECT 'open\"",
            "2: jobs.report.sql: expected complete SQL, found a string without an end in line 1 \
             of it",
        ),
        (
            "sql = \"SELECT 1 /* open\"\ntransaction = false",
            "2: jobs.report.sql: expected complete SQL, found a comment without an end in line 1 \
             of it",
        ),
        (
            "sql = \"SELECT '\\u0000'\"",
            "2: jobs.report.sql: expected SQL without a NUL character, found \"SELECT '\\0'\"",
        ),
        (
            "sql = \"SELECT 1\"\nschedule = \"@daily\"\nafter = [\"vacuum\"]",
            "1: jobs.report: expected only one of them, found schedule and after together",
        ),
        (
            "sql = \"SELECT 1\"\nrole = \"r\"\nlogin_url = \"postgresql://hunter2@db/app\"",
            "1: jobs.report: expected only one of them, because a login has a role of its own, \
             found role and login_url together",
        ),
        (
            "sql = \"SELECT 1\"\nlogin_url = \"postgresql://hunter2@db/app\"\nlogin_url_file = \
             \"x\"",
            "4: jobs.report.login_url_file: expected only one of them, found login_url and \
             login_url_file together",
        ),
        (
            "sql = \"SELECT 1\"\nlogin_url = \"mysql://hunter2@db/app\"",
            "3: jobs.report.login_url: expected a libpq URL such as \
             \"postgresql://user@host:5432/name\", or a \"key=value\" string, found a string",
        ),
        (
            "sql = \"SELECT 1\"\nretries = 11",
            "3: jobs.report.retries: expected a whole number from 0 to 10, found 11",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up_max = 1001",
            "3: jobs.report.catch_up_max: expected a whole number from 1 to 1000, found 1001",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up_max = 0",
            "3: jobs.report.catch_up_max: expected a whole number from 1 to 1000, found 0",
        ),
        (
            "sql = \"SELECT 1\"\ncatch_up = \"latests\"",
            "3: jobs.report.catch_up: found \"latests\", did you mean \"latest\"?",
        ),
        (
            "sql = \"SELECT 1\"\noverlap = \"wait\"",
            "3: jobs.report.overlap: expected one of \"skip\", \"queue\", found \"wait\"",
        ),
        (
            "sql = \"SELECT 1\"\non_failure = \"panic\"",
            "3: jobs.report.on_failure: expected one of \"report\", \"pause\", \"ignore\", found \
             \"panic\"",
        ),
        (
            "sql = \"SELECT 1\"\ndeadline = \"0s\"",
            "3: jobs.report.deadline: expected a duration from 1s to 366d, found \"0s\"",
        ),
        (
            "sql = \"SELECT 1\"\njitter = \"2d\"",
            "3: jobs.report.jitter: expected a duration from 0s to 1d, found \"2d\"",
        ),
        (
            "sql = \"SELECT 1\"\nlock_timeout = \"0s\"",
            "3: jobs.report.lock_timeout: expected a duration from 1ms to 1h, found \"0s\"",
        ),
        (
            "sql = \"SELECT 1\"\ntimeout = \"8d\"",
            "3: jobs.report.timeout: expected a duration from 1s to 7d, found \"8d\"",
        ),
        (
            "sql = \"SELECT 1\"\ntransaction = \"no\"",
            "3: jobs.report.transaction: expected true or false, found \"no\"",
        ),
        (
            "sql = \"SELECT 1\"\nafter = \"vacuum\"",
            "3: jobs.report.after: expected a list of names of jobs, found \"vacuum\"",
        ),
        (
            "sql = \"SELECT 1\"\nafter = [\"Vac uum\"]",
            "3: jobs.report.after: expected the name of a job, found \"Vac uum\"",
        ),
        (
            "sql = \"SELECT 1\"\nafter = [\"vacuum\", \"vacuum\"]",
            "3: jobs.report.after: expected each item once, found \"vacuum\" twice",
        ),
        (
            "sql = \"SELECT 1\"\nrole = \"\"",
            "3: jobs.report.role: expected text, found an empty string",
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
        let (begin, end) =
            (format!("config.toml:3: jobs.report.{key}: expected "), format!(", found {found}"));
        assert!(report.starts_with(&begin) && report.ends_with(&end), "{line}: {report}");
        assert_eq!(report.lines().count(), 1, "{line}: {report}");
    }
    for number in ["9", "1000001"] {
        let report = Given::file(format!("[jobs]\nhistory_max = {number}\n")).url().report();
        let expected = format!(
            "config.toml:2: jobs.history_max: expected a whole number from 10 to 1000000, found \
             {number}"
        );
        assert_eq!(report, expected);
    }
}

#[test]
fn statements_that_refuse_a_transaction_may_run_without_one() {
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
    let expected = "expected a name of 1 to 48 characters a-z, 0-9, - or _ that begins with a \
                    letter, or one of the built-in jobs: health-probe, connection-metrics, \
                    partitions, retention, vacuum, refresh, audit-seal";
    let long = "x".repeat(49);
    for name in ["Report", "1st", "-x", "a b", long.as_str(), "über"] {
        let report = Given::file(format!("[jobs.\"{name}\"]\n{sql}")).url().report();
        assert_eq!(report, format!("config.toml:1: jobs.{name}: {expected}, found \"{name}\""));
    }
    let report = Given::file(format!("[jobs.\"a.b\"]\n{sql}")).url().report();
    assert_eq!(report, format!("config.toml:1: jobs.\"a.b\": {expected}, found \"a.b\""));
    for name in ["a", "x-1_y", &"x".repeat(48)] {
        Given::file(format!("[jobs.{name}]\n{sql}")).url().config();
    }
    for (name, meant) in
        [("vacum", "vacuum"), ("retentoin", "retention"), ("health_probe", "health-probe")]
    {
        let report = Given::file(format!("[jobs.{name}]\ntimeout = \"1m\"\n")).url().report();
        let expected = format!(
            "config.toml:1: jobs.{name}: found neither sql nor a built-in job of this name, did \
             you mean \"{meant}\"?"
        );
        assert_eq!(report, expected);
    }
    let report = Given::file("[jobs]\nreport = \"SELECT 1\"\n").url().report();
    assert!(report.starts_with("config.toml:2: jobs.report: expected one of"), "{report}");
    let report = Given::file("[jobs]\nvacuum = 5\n").url().report();
    assert_eq!(report, "config.toml:2: jobs.vacuum: expected a table, found 5");
}

#[test]
fn a_job_and_all_of_them_are_bounded() {
    let filled = |bytes: usize| format!("SELECT '{}'", "x".repeat(bytes - 9));
    job(&format!("sql = \"{}\"\n", filled(64 * 1024)));
    let report = own(&format!("sql = \"{}\"\n", filled(64 * 1024 + 1))).report();
    let expected = "config.toml:2: jobs.report.sql: expected at most 65536 bytes; a function in \
        the database can be longer, found \"SELECT 'xxx";
    assert!(report.starts_with(expected) && report.ends_with("…\""), "{report}");
    assert!(report.len() < 250, "{report}");

    let many = |count: usize| {
        (0..count).map(|n| format!("[jobs.j{n:04}]\nsql = \"SELECT 1\"\n")).collect::<String>()
    };
    assert_eq!(Given::file(many(493)).url().config().jobs.all.len(), 500);
    assert_eq!(
        Given::file(many(600)).url().report(),
        "config.toml:987: jobs.j0493: expected up to 500 jobs, with the built-in ones, found one \
         more"
    );
}

#[test]
fn chains_have_a_beginning_and_name_jobs_with_runs() {
    let chained = |chains: &[(&str, &str)]| {
        let text: String = chains
            .iter()
            .map(|(name, after)| format!("[jobs.{name}]\nsql = \"SELECT 1\"\nafter = [{after}]\n"))
            .collect();
        Given::file(text).url()
    };
    let no_begin = "expected a chain that begins somewhere, because here each job waits for the \
                    next and none runs, found";
    for (chains, expected) in [
        (
            &[("a", "\"vacum\"")][..],
            "config.toml:3: jobs.a.after: found \"vacum\", did you mean \"vacuum\"?".to_owned(),
        ),
        (
            &[("a", "\"nothing-like-it\"")],
            "config.toml:3: jobs.a.after: expected the name of \
            another job, found \"nothing-like-it\""
                .to_owned(),
        ),
        (
            &[("a", "\"health-probe\"")],
            "config.toml:3: jobs.a.after: expected a job with runs, because a measurement is \
             taken all the time, found \"health-probe\""
                .to_owned(),
        ),
        (&[("a", "\"a\"")], format!("config.toml:3: jobs.a.after: {no_begin} a → a")),
        (
            &[("b", "\"a\""), ("a", "\"b\"")],
            format!("config.toml:6: jobs.a.after: {no_begin} a → b → a"),
        ),
        (
            &[("z", "\"c\""), ("c", "\"vacuum\", \"d\""), ("d", "\"e\""), ("e", "\"c\"")],
            format!("config.toml:6: jobs.c.after: {no_begin} c → d → e → c"),
        ),
    ] {
        assert_eq!(chained(chains).report(), expected);
    }
    let loaded =
        chained(&[("a", "\"vacuum\", \"retention\""), ("b", "\"a\""), ("c", "\"a\", \"b\"")])
            .holds();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    // An upstream job that cannot be read is reported once.
    let report =
        Given::file("[jobs.a]\nsql = \"\"\n[jobs.b]\nsql = \"SELECT 1\"\nafter = [\"a\"]\n")
            .url()
            .report();
    assert_eq!(report, "config.toml:2: jobs.a.sql: expected at least one statement, found none");
}

#[test]
fn a_chain_whose_upstream_job_does_not_run_is_a_warning() {
    let follower = "[jobs.b]\nsql = \"SELECT 1\"\nafter = [\"a\"]\n";
    let given =
        Given::file(format!("[jobs.a]\nsql = \"SELECT 1\"\nenabled = false\n{follower}")).url();
    let place = format!("({}:6)", given.path("config.toml").display());
    assert_eq!(
        given.holds().warnings,
        [format!(
            "jobs.b follows jobs.a, which is disabled: it runs when somebody runs that job by \
             hand {place}"
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
        "[jobs.a]\nsql = \"SELECT 1\"\ndatabases = [\"x\"]\n{follower}databases = \
         [\"x\"]\n{databases}"
    );
    assert_eq!(Given::file(both).holds().warnings, Vec::<String>::new());
}

#[test]
fn databases_of_a_job_must_be_configured() {
    let databases = "[databases.billing]\nurl = \"postgresql:///x\"\n[databases.app]\nurl = \
        \"postgresql:///y\"\n";
    let named =
        |names: &str| Given::file(format!("[jobs.vacuum]\ndatabases = [{names}]\n{databases}"));
    assert_eq!(
        named("\"app\", \"biling\", \"main\"").report(),
        "config.toml:2: jobs.vacuum.databases: found \"biling\", did you mean \
         \"billing\"?\nconfig.toml:2: jobs.vacuum.databases: expected one of \"app\", \
         \"billing\", found \"main\""
    );
    named("\"app\"").config();
    assert_eq!(
        Given::file("[jobs.vacuum]\ndatabases = [\"app\"]\n").url().report(),
        "config.toml:2: jobs.vacuum.databases: expected one of \"main\", found \"app\""
    );
}

#[test]
fn variables_reach_jobs_of_own_sql() {
    let text = "[jobs.daily-report]\nsql = \"SELECT 1\"\nschedule = \"@daily\"\nlogin_url = \
        \"postgresql:///a\"\n";
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
        "PGSTEWARD__JOBS__DAILY_REPORT__SCEDULE: jobs.daily-report.scedule: found an unknown \
         key, did you mean \"PGSTEWARD__JOBS__DAILY_REPORT__SCHEDULE\"?"
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
fn the_login_of_a_job_is_not_printed() {
    let config = own("sql = \"SELECT 1\"\nlogin_url = \"postgresql://hunter2@db/app\"\n").config();
    let Work::Sql(work) = &config.jobs.all["report"].work else { panic!() };
    assert_eq!(work.login, Some(SecretSource::Inline(Secret::new("postgresql://hunter2@db/app"))));
    let printed = format!("{config:?} {config:#?}");
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_window_that_never_opens_for_the_schedule_is_a_warning() {
    let job = |keys: &str| {
        Given::file(format!("[jobs.a]\nsql = \"SELECT 1\"\nschedule = \"0 12 * * *\"\n{keys}"))
            .url()
    };
    let never = "jobs.a: none of the next 400 instants of \"0 12 * * *\" lies inside its window, \
        so it will not run by itself";
    assert_eq!(job("window = [\"22:00-06:00\"]\n").holds().warnings, [never]);
    assert_eq!(job("blackout = [\"11:00-13:00\"]\n").holds().warnings, [never]);
    assert_eq!(job("window = [\"Sun\"]\n").holds().warnings, Vec::<String>::new());
}
