//! The configuration from file, environment and flags: its values and the reports of its problems.

// A test that cannot continue panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod auth;
mod jobs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgsteward::config::load::{declared_keys, known_keys, load_or_default};
use pgsteward::config::{
    Args, Config, Environment, Loaded, LogLevel, Mode, Pooler, Problems, Secret, SecretSource, Zone,
};
use tempfile::TempDir;

const URL: &str = "postgresql://steward:hunter2@db/app";

/// A folder with a configuration file, and an environment.
struct Given {
    folder: TempDir,
    args: Args,
    env: BTreeMap<String, String>,
}

impl Given {
    fn nothing() -> Given {
        Given { folder: tempfile::tempdir().unwrap(), args: Args::default(), env: BTreeMap::new() }
    }

    fn file(text: impl AsRef<[u8]>) -> Given {
        let mut given = Given::nothing();
        let path = given.path("config.toml");
        std::fs::write(&path, text).unwrap();
        given.args.path = Some(path);
        given
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn env(mut self, name: &str, value: impl Into<String>) -> Given {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn url(self) -> Given {
        self.env("DATABASE_URL", URL)
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load_or_default(&self.args, &self.env, &self.path("default.toml"))
    }

    #[track_caller]
    fn holds(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[track_caller]
    fn config(&self) -> Config {
        self.holds().config
    }

    /// The report, with the folder left out.
    #[track_caller]
    fn report(&self) -> String {
        let problems = self.load().expect_err("this should not hold");
        assert!(!problems.is_empty());
        for text in [
            problems.to_string(),
            format!("{problems:?}"),
            serde_json::to_string(&problems).unwrap(),
        ] {
            assert!(!text.contains("hunter2"), "a secret is shown: {text}");
        }
        problems.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn inline(text: &str) -> Option<SecretSource> {
    Some(SecretSource::Inline(Secret::new(text)))
}

// ---------------------------------------------------------------- the example

fn example() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.example.toml"))
        .unwrap()
}

/// Tables of the example that stand for names of the user's; all of their keys are examples.
const EXAMPLE_TABLES: [&str; 4] =
    ["jobs.report.", "jobs.report-cleanup.", "retention.tables.", "auth.tokens.grafana."];

/// Whether the example shows a usable value for a key instead of its default.
fn without_default(path: &str) -> bool {
    let declared = declared_keys();
    // `deadline` stands at one job for all of them, and a secret's other forms are not declared.
    let path = path.replace("jobs.partitions.", "jobs.NAME.");
    let secret = path.strip_suffix("_file").or_else(|| path.strip_suffix("_command"));
    let lists = ["auth.jwt.issuer", "auth.jwt.audience", "database.supabase.url"];
    EXAMPLE_TABLES.iter().any(|table| path.starts_with(table))
        || lists.contains(&path.as_str())
        || secret.is_some_and(|secret| declared.contains_key(secret))
        || declared.get(&path).is_some_and(|key| !key.has_default)
}

/// Returns the example with those keys uncommented that `is_selected` selects by path, and the
/// paths of all keys that it documents.
fn uncommented(is_selected: impl Fn(&str) -> bool) -> (String, BTreeSet<String>) {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    let mut text = String::new();
    for line in example().lines() {
        let given = line.strip_prefix("# ").unwrap_or(line);
        let key = given.split(" = ").next().filter(|key| {
            given.contains(" = ")
                && !key.is_empty()
                && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        });
        if let Some(name) = given.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{name}.");
            if line.starts_with('[') || is_selected(&section) {
                text += &format!("{given}\n");
                continue;
            }
        } else if let Some(key) = key {
            let path = format!("{section}{key}");
            keys.insert(path.clone());
            if is_selected(&path) {
                text += &format!("{given}\n");
                continue;
            }
        }
        text += &format!("#{line}\n");
    }
    (text, keys)
}

#[test]
fn the_example_as_it_stands_changes_nothing() {
    let mut config = Given::file(example()).url().config();
    config.databases.get_mut("main").unwrap().url = None;
    assert_eq!(config, Config::default());
}

#[test]
fn the_example_shows_the_defaults() {
    let (text, _) = uncommented(|path| !without_default(path));
    let mut config = Given::file(text).url().config();
    config.databases.get_mut("main").unwrap().url = None;
    assert_eq!(config, Config::default());
}

#[test]
fn the_example_shows_usable_values_for_the_rest() {
    let has_forms = |path: &str| {
        ["url", "password", "service_key", "jwt.secret"].iter().any(|secret| path.contains(secret))
    };
    for form in ["", "_file", "_command"] {
        let (text, _) = uncommented(|path| {
            let other = ["_file", "_command"].iter().any(|other| path.ends_with(other));
            let supabase_url = path == "database.supabase.url";
            !has_forms(path)
                || supabase_url
                || (if form.is_empty() { !other } else { path.ends_with(form) })
        });
        // The command form alone names no database.
        let config = Given::file(text).url().config();
        let main = &config.databases["main"];
        assert_eq!(
            config.retention.tables["public.events"].keep,
            Duration::from_secs(180 * 86_400)
        );
        assert_eq!(main.supabase.as_ref().unwrap().url, "https://abcdefghijklmnopqrst.supabase.co");
        match (form, &main.password) {
            ("", Some(SecretSource::Inline(_)))
            | ("_file", Some(SecretSource::File(_)))
            | ("_command", Some(SecretSource::Command(_))) => {}
            (_, other) => panic!("{form}: {other:?}"),
        }
    }
}

#[test]
fn the_example_documents_every_key_and_no_other() {
    let (_, documented) = uncommented(|_| false);
    let known = known_keys();
    let named: BTreeSet<_> =
        known.iter().filter_map(|key| key.strip_prefix("databases.NAME.")).collect();
    let main: BTreeSet<_> = known.iter().filter_map(|key| key.strip_prefix("database.")).collect();
    assert_eq!(named, main, "[databases.NAME] takes what [database] takes");
    let own = |key: &str| key.strip_prefix("jobs.NAME.").map(str::to_owned);
    let built_in =
        |job: &str, key: &str| key.strip_prefix(&format!("jobs.{job}.")).map(str::to_owned);
    // What all jobs of the ledger take stands at one of them.
    let shared: BTreeSet<String> =
        known.iter().filter_map(|key| built_in("partitions", key)).collect();
    for job in ["retention", "vacuum", "refresh", "audit-seal"] {
        let of_job: BTreeSet<_> = known.iter().filter_map(|key| built_in(job, key)).collect();
        assert_eq!(of_job, shared, "{job} takes what partitions takes");
    }
    assert!(
        shared.iter().all(|key| known.contains(&format!("jobs.NAME.{key}"))),
        "your own take it too"
    );
    let stands_there = |key: &str| {
        let job = key.strip_prefix("jobs.").and_then(|rest| rest.split_once('.'));
        job.is_some_and(|(job, key)| {
            !["partitions", "health-probe", "connection-metrics"].contains(&job)
                && shared.contains(key)
        })
    };
    let examples: BTreeSet<String> = documented
        .iter()
        .filter_map(|key| {
            key.strip_prefix("jobs.report.").or_else(|| key.strip_prefix("jobs.report-cleanup."))
        })
        .map(str::to_owned)
        .collect();
    let sql: BTreeSet<String> = known.iter().filter_map(|key| own(key)).collect();
    assert!(examples.is_subset(&sql), "{examples:?}");
    let undocumented: Vec<_> =
        sql.difference(&examples).filter(|key| !shared.contains(*key)).collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");

    let of_example = |key: &String| key.starts_with("jobs.report");
    let documented: BTreeSet<String> =
        documented.into_iter().filter(|key| !of_example(key) && !stands_there(key)).collect();
    let known: BTreeSet<String> = known
        .iter()
        .filter(|key| !key.starts_with("databases.") && own(key).is_none() && !stands_there(key))
        .map(|key| {
            key.replace("schema.table", "public.events")
                .replace("auth.tokens.NAME.", "auth.tokens.grafana.")
        })
        .collect();
    assert_eq!(documented, known);
}

/// Whether a changed value applies at a reload, which environment variable and which credential a
/// key has, is declared once; the example must agree.
#[test]
fn the_example_names_restarts_variables_and_credentials() {
    let (text, header) = (example(), example().split("\n\n").take(3).collect::<String>());
    let known = known_keys();
    for (path, key) in declared_keys() {
        if let Some(variable) = key.variable {
            assert!(header.contains(variable), "the header of the example lacks {variable}");
            assert!(text.contains(&format!("({variable}")), "{path} lacks ({variable})");
            assert!(known.contains(&path), "{path} is declared and not read");
        }
        if let Some(credential) = key.credential {
            assert!(text.contains(credential), "the example lacks the credential {credential}");
        }
    }
    let documented: BTreeSet<String> = header
        .lines()
        .skip_while(|line| !line.starts_with("# A change of these keys"))
        .skip(1)
        .take_while(|line| line.len() > 1)
        .flat_map(|line| line.trim_start_matches("# ").split(", "))
        .map(|key| key.trim_end_matches([',', '.']).to_owned())
        .collect();
    let declared = declared_keys();
    let needs_restart = declared.iter().filter(|(_, key)| key.needs_restart).map(|(path, _)| path);
    // One table stands for all of its keys.
    let in_table = |path: &&String| path.starts_with("database.") || path.starts_with("http.");
    let mut expected: BTreeSet<String> =
        needs_restart.filter(|path| !in_table(path)).cloned().collect();
    expected.insert("http".to_owned());
    assert_eq!(documented, expected);
}

#[test]
fn a_reload_tells_which_keys_changed_and_which_need_a_restart() {
    let (before, mut after) = (Config::default(), Config::default());
    assert_eq!(before.changed(&after), [] as [&str; 0]);
    assert_eq!(before.needs_restart(&after), [] as [&str; 0]);
    after.jobs.max_concurrent += 1;
    after.jobs.history_max += 1;
    after.http.max_connections += 1;
    after.databases.insert("other".to_owned(), Default::default());
    assert_eq!(before.changed(&after), ["database", "http", "jobs"]);
    assert_eq!(
        before.needs_restart(&after),
        ["database", "http.max_connections", "jobs.max_concurrent"]
    );
}

// ---------------------------------------------------------------- the order of the sources

#[test]
fn file_then_environment_then_flags() {
    let text =
        "[http]\nlisten = \"127.0.0.1:1\"\n[log]\nlevel = \"warn\"\n[jobs]\nmax_concurrent = 3\n";
    let given = Given::file(text).url();
    let loaded = given.holds();
    assert_eq!(loaded.source, given.args.path);
    assert_eq!(loaded.warnings, Vec::<String>::new());
    assert_eq!(loaded.config.http.listen.port(), 1);

    let mut given =
        given.env("PGSTEWARD__HTTP__LISTEN", "127.0.0.1:2").env("PGSTEWARD__LOG__LEVEL", "debug");
    let config = given.config();
    assert_eq!((config.http.listen.port(), config.log.level), (2, LogLevel::Debug));
    given.args.listen = Some("127.0.0.1:3".to_owned());
    let config = given.config();
    assert_eq!(
        (config.http.listen.port(), config.log.level, config.jobs.max_concurrent),
        (3, LogLevel::Debug, 3)
    );
}

#[test]
fn a_value_that_the_environment_replaces_is_not_checked() {
    let given = Given::file("[http]\nlisten = \"nowhere\"\n")
        .url()
        .env("PGSTEWARD__HTTP__LISTEN", "127.0.0.1:2");
    assert_eq!(given.config().http.listen.port(), 2);
}

#[test]
fn the_default_file_is_read_if_it_is_there() {
    let given = Given::nothing().url();
    assert_eq!(given.holds().source, None);
    std::fs::write(given.path("default.toml"), "mode = \"observe\"\n").unwrap();
    let loaded = given.holds();
    assert_eq!(
        (loaded.source, loaded.config.mode),
        (Some(given.path("default.toml")), Mode::Observe)
    );
}

#[test]
fn variables_with_plain_names() {
    let config = Given::nothing()
        .url()
        .env("SUPABASE_URL", "https://abc.supabase.co/")
        .env("SUPABASE_SERVICE_KEY", "key")
        .env("SUPABASE_DB_PASSWORD", "pw")
        .env("ENVIRONMENT", "Development")
        .env("USE_IN_MEMORY_DB", "0")
        .env("DB_POOL_MIN_SIZE", "1")
        .env("DB_POOL_MAX_SIZE", "7")
        .env("DB_QUERY_TIMEOUT", "45")
        .env("STATE_DIRECTORY", "/var/lib/pgsteward:/var/lib/other")
        .config();
    let main = &config.databases["main"];
    let supabase = main.supabase.as_ref().unwrap();
    assert_eq!(main.url, inline(URL));
    assert_eq!(supabase.url, "https://abc.supabase.co");
    assert_eq!((&supabase.service_key, &supabase.db_password), (&inline("key"), &inline("pw")));
    assert_eq!((main.pool_min_size, main.pool_max_size), (1, 7));
    assert_eq!(main.query_timeout, Duration::from_secs(45));
    assert_eq!(
        (config.environment, config.development.ephemeral),
        (Environment::Development, false)
    );
    assert_eq!(config.state_dir, Some(PathBuf::from("/var/lib/pgsteward")));

    let config = Given::nothing().url().env("DB_QUERY_TIMEOUT", "1500ms").config();
    assert_eq!(config.databases["main"].query_timeout, Duration::from_millis(1500));
}

#[test]
fn every_other_key_by_its_path() {
    let config = Given::file(
        "[databases.my-app]\nurl = \
        \"postgresql:///a\"\n[retention.tables.\"public.Events\"]\ncolumn = \"at\"\nkeep = \
        \"9d\"\n",
    )
    .env("PGSTEWARD__JOBS__HEALTH_PROBE__SCHEDULE", "@every 20s")
    .env("PGSTEWARD__JOBS__CONNECTION-METRICS__ENABLED", "no")
    .env("pgsteward__jobs__retention__timezone", "Europe/Berlin")
    .env("PGSTEWARD__DATABASES__MY_APP__POOLER", "session")
    .env("PGSTEWARD__MIGRATIONS__SETS", "zentry")
    .env("PGSTEWARD__REFRESH__VIEWS", "public.a, public.b")
    .env("PGSTEWARD__VACUUM__SCHEMAS_EXCLUDE", r#"["x", "y,z"]"#)
    .env("PGSTEWARD__VACUUM__DEAD_RATIO", "0.25")
    .env("PGSTEWARD__HTTP__BODY_LIMIT", "1MiB")
    .env("PGSTEWARD__RETENTION__TABLES__PUBLIC.EVENTS__KEEP", "8d")
    .env("PGSTEWARD__RETENTION__DUTY", "")
    .config();
    assert_eq!(config.jobs.all["health-probe"].schedule().unwrap().text(), "@every 20s");
    assert!(!config.jobs.all["connection-metrics"].enabled);
    assert_eq!(config.jobs.all["retention"].timezone, Zone::named("Europe/Berlin").unwrap());
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["my-app"]);
    assert_eq!(config.databases["my-app"].pooler, Pooler::Session);
    assert_eq!(config.migrations.sets, ["zentry"]);
    assert_eq!(config.refresh.views, ["public.a", "public.b"]);
    assert_eq!(config.vacuum.schemas_exclude, ["x", "y,z"]);
    assert_eq!(config.vacuum.dead_ratio, 0.25);
    assert_eq!(config.http.body_limit_bytes, 1 << 20);
    assert_eq!(config.retention.tables["public.Events"].keep, Duration::from_secs(8 * 86_400));
    assert_eq!(config.retention.duty, 0.5);
}

#[test]
fn paths_in_the_file_count_from_its_folder() {
    let mut given = Given::file("[database]\nurl_file = \"url\"\n[migrations]\ndir = \"sql\"\n")
        .env("PGSTEWARD__STATE_DIR", "state");
    let config = given.config();
    assert_eq!(config.databases["main"].url, Some(SecretSource::File(given.path("url"))));
    assert_eq!(config.migrations.dir, Some(given.path("sql")));
    assert_eq!(config.state_dir, Some(PathBuf::from("state")));
    given.args.migrations_dir = Some(PathBuf::from("other"));
    assert_eq!(given.config().migrations.dir, Some(PathBuf::from("other")));
}

// ---------------------------------------------------------------- secrets

#[test]
fn a_stronger_source_replaces_every_form_of_a_secret() {
    let text = "[database]\nurl_file = \"/run/url\"\npassword_command = \"get pw\"\n";
    let main = Given::file(text).config().databases.remove("main").unwrap();
    assert_eq!(main.url, Some(SecretSource::File("/run/url".into())));
    assert_eq!(
        main.password,
        Some(SecretSource::Command(["/bin/sh", "-c", "get pw"].map(str::to_owned).to_vec()))
    );

    let given =
        Given::file(text).url().env("PGSTEWARD__DATABASE__PASSWORD_COMMAND", r#"["a", "b c"]"#);
    let main = given.config().databases.remove("main").unwrap();
    assert_eq!(main.url, inline(URL));
    assert_eq!(
        main.password,
        Some(SecretSource::Command(["a", "b c"].map(str::to_owned).to_vec()))
    );

    let main = given
        .env("PGSTEWARD__DATABASE__URL_FILE", "/other")
        .config()
        .databases
        .remove("main")
        .unwrap();
    assert_eq!(main.url, Some(SecretSource::File("/other".into())));
}

#[test]
fn credentials_of_systemd_serve_where_nothing_is_said() {
    let given = Given::nothing();
    for name in ["database_url", "database_password", "supabase_db_password", "unrelated"] {
        std::fs::write(given.path(name), "hunter2").unwrap();
    }
    let folder = given.folder.path().display().to_string();
    let given =
        given.env("CREDENTIALS_DIRECTORY", folder).env("SUPABASE_URL", "https://abc.supabase.co");
    let file = |name: &str| Some(SecretSource::File(given.path(name)));
    let main = given.config().databases.remove("main").unwrap();
    assert_eq!((&main.url, &main.password), (&file("database_url"), &file("database_password")));
    assert_eq!(main.supabase.unwrap().db_password, file("supabase_db_password"));

    let password = file("database_password");
    let given = given.url();
    let main = given.config().databases.remove("main").unwrap();
    assert_eq!((main.url, main.password), (inline(URL), password));
}

#[test]
fn supabase_takes_the_password_of_the_database() {
    let text = "[database]\npassword_file = \"/pw\"\nsupabase.url = \"https://abc.supabase.co\"\n";
    let main = Given::file(text).config().databases.remove("main").unwrap();
    assert_eq!(main.supabase.unwrap().db_password, Some(SecretSource::File("/pw".into())));
}

#[test]
fn white_space_belongs_to_a_password_and_not_to_a_url() {
    let given = Given::nothing()
        .env("DATABASE_URL", format!(" {URL}\n"))
        .env("PGSTEWARD__DATABASE__PASSWORD", " pw ");
    let main = given.config().databases.remove("main").unwrap();
    assert_eq!((main.url, main.password), (inline(URL), inline(" pw ")));
}

#[test]
fn debug_shows_no_secret() {
    let text = "[database]\npassword = \"hunter2\"\n[databases.b]\nurl = \
        \"postgresql:///b?password=hunter2\"\npassword_command = \"echo hunter2\"\nsupabase.url \
        = \"https://abc.supabase.co\"\nsupabase.service_key = \"hunter2\"\n";
    let config = Given::file(text).url().config();
    let printed = format!("{config:?} {config:#?}");
    assert!(!printed.contains("hunter2"), "{printed}");
}

// ---------------------------------------------------------------- which database

#[test]
fn a_development_server_takes_precedence_over_the_environment_with_a_warning() {
    let given = Given::nothing().url().env("USE_IN_MEMORY_DB", "true").env("DB_POOL_MAX_SIZE", "9");
    let loaded = given.holds();
    assert!(loaded.config.development.ephemeral);
    let main = &loaded.config.databases["main"];
    assert_eq!((&main.url, main.pool_max_size), (&None, 9));
    assert_eq!(
        loaded.warnings,
        ["DATABASE_URL is not used: USE_IN_MEMORY_DB asks for a development server"]
    );

    let mut given =
        Given::file("[databases.a]\nurl = \"postgresql:///a\"\n").env("ENVIRONMENT", "production");
    given.args.ephemeral = true;
    let loaded = given.holds();
    assert_eq!(loaded.config.databases.keys().collect::<Vec<_>>(), ["main"]);
    assert_eq!(
        loaded.warnings,
        [
            "--ephemeral asks for a development server in production: its data is lost at the end"
                .to_owned(),
            format!(
                "databases.a.url ({}:2) is not used: --ephemeral asks for a development server",
                given.path("config.toml").display()
            ),
        ]
    );

    let loaded = Given::file("[development]\nephemeral = true\n").url().holds();
    assert!(loaded.config.development.ephemeral);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);

    let mut given = Given::nothing();
    given.args.ephemeral = true;
    assert_eq!(given.holds().warnings, Vec::<String>::new());
    // A flag that is not given does not take back what the file says.
    assert!(Given::file("[development]\nephemeral = true\n").config().development.ephemeral);
}

#[test]
fn one_file_that_asks_for_both_is_refused() {
    let given = Given::file(
        "[development]\nephemeral = true\n[database]\nurl = \"postgresql://hunter2@x/y\"\n",
    );
    assert_eq!(
        given.report(),
        "config.toml:4: database.url: expected only one of them, found a database beside \
         development.ephemeral = true in line 2"
    );
    assert!(!given.env("USE_IN_MEMORY_DB", "false").config().development.ephemeral);
}

#[test]
fn without_a_database_only_development_starts() {
    assert_eq!(
        Given::nothing().report(),
        "configuration: database.url: expected DATABASE_URL, or database.url, or SUPABASE_URL \
         with SUPABASE_DB_PASSWORD; for a development server --ephemeral or \
         USE_IN_MEMORY_DB=true, found no database"
    );
    let loaded = Given::nothing().env("ENVIRONMENT", "development").holds();
    assert!(loaded.config.development.ephemeral);
    assert_eq!(loaded.warnings.len(), 1);
    // A malformed database is not a missing one.
    let report = Given::nothing()
        .env("ENVIRONMENT", "development")
        .env("DATABASE_URL", "mysql://hunter2@x")
        .report();
    assert_eq!(
        report,
        "DATABASE_URL: database.url: expected a libpq URL such as \
         \"postgresql://user@host:5432/name\", or a \"key=value\" string, found a string"
    );
    let report = Given::file("[databases.a]\npool_max_size = 3\n")
        .env("ENVIRONMENT", "development")
        .report();
    assert_eq!(
        report,
        "config.toml:1: databases.a.url: expected a url, a url_file or a supabase.url, found no \
         database"
    );
}

#[test]
fn a_connection_string_that_can_never_work_is_refused_wherever_it_is_given() {
    let report_of = |text: &str| Given::nothing().env("DATABASE_URL", text).report();
    for (text, fault) in [
        ("postgresql://a:hunter2@b/c?nonsense=1", "an unknown key after the password"),
        ("postgresql://a@b/c?sslmode=foo", "expected sslmode to be one of disable"),
        ("postgresql://a@b:notaport/c", "is not a port from 1 to 65535"),
        ("postgresql://a@b/c?gssencmode=require", "GSSAPI is not supported"),
        ("postgresql://a@b/c?sslcrl=/x", "revocation lists are not supported"),
        ("postgresql://a@b/c?sslmode=prefer&sslrootcert=/x", "falls back to plain text"),
        ("host=b user=a sslmode=verify-full", "needs sslrootcert"),
    ] {
        let report = report_of(text);
        let expected = "DATABASE_URL: database.url: expected a libpq URL such as \
                        \"postgresql://user@host:5432/name\", or a \"key=value\" string, found a \
                        string that cannot be used (";
        assert!(report.starts_with(expected) && report.contains(fault), "{text}: {report}");
    }
    let text = "[databases.a]\nurl = \"postgresql://a@b/c\"\ndirect_url = \
        \"postgresql://a@b/c?ssl=maybe\"\n[jobs.own]\nsql = \"SELECT 1\"\nlogin_url = \
        \"postgresql://a:hunter2@b:0/c\"\n";
    let report = Given::file(text).report();
    for (line, key) in report.lines().zip(["3: databases.a.direct_url", "6: jobs.own.login_url"]) {
        assert!(line.starts_with(&format!("config.toml:{key}: expected a libpq URL")), "{report}");
        assert!(line.contains("found a string that cannot be used ("), "{report}");
    }
    assert_eq!(report.lines().count(), 2, "{report}");
    // The content of a file is read at each connect.
    Given::file("[database]\nurl_file = \"/nowhere\"\n").config();
}

#[test]
fn the_example_lacks_nothing_but_a_database() {
    let report = Given::file(example()).report();
    assert!(
        report.ends_with("--ephemeral or USE_IN_MEMORY_DB=true, found no database"),
        "{report}"
    );
    assert!(
        report.contains("database.url: expected DATABASE_URL") && report.lines().count() == 1,
        "{report}"
    );
}

#[test]
fn a_stray_database_url_adds_no_database() {
    let loaded = Given::file("[databases.a]\nurl = \"postgresql:///a\"\n").url().holds();
    assert_eq!(loaded.config.databases.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(
        loaded.warnings,
        ["DATABASE_URL is not used, because the configuration names its databases: set \
            PGSTEWARD__DATABASES__NAME__URL for one of them"]
    );
    let config = Given::file("[databases.main]\npool_max_size = 5\n").url().config();
    assert_eq!(
        (&config.databases["main"].url, config.databases["main"].pool_max_size),
        (&inline(URL), 5)
    );
}

// ---------------------------------------------------------------- mistakes

#[test]
fn every_mistake_is_reported_at_once() {
    let given = Given::file(
        r#"mode = "observer"
colour = "red"

[database]
url = 5
password = "hunter2"
password_file = "/run/pw"
pool_min_size = 5
pool_max_size = 3

[health]
stale_after = "5 parsecs"
stale_aftr = "1m"
connections_degraded = 1.5

[jobs.retention]
schedule = "61 3 * * *"
timezone = "Berlin"
timeout = 30

[jobs.vacum]
enabled = true

[migrations]
sets = ["zentri"]

[http]
listen = ":8432"
body_limit = "64KB"

[retention.tables.events]
column = "at"
keep = "30d"
"#,
    );
    let mut given = given
        .env("PGSTEWARD__LOG__LEVLE", "info")
        .env("PGSTEWARD__JOBS__REFRESH__TIMEOUT", "8d")
        .env("DB_POOL_MIN_SIZE", "")
        .env("USE_IN_MEMORY_DB", "perhaps");
    given.args.migrations_dir = Some(PathBuf::from(""));
    let expected = r#"config.toml:1: mode: found "observer", did you mean "observe"?
config.toml:2: colour: expected one of environment, mode, state_dir, development, database, databases, migrations, http, log, health, jobs, retention, vacuum, refresh, spool, audit, auth, found an unknown key
config.toml:5: database.url: expected a string, found a number
config.toml:7: database.password_file: expected only one of them, found password and password_file together
config.toml:8: database.pool_min_size: expected a minimum up to the maximum, found pool_min_size = 5 with pool_max_size = 3
config.toml:12: health.stale_after: expected a duration such as "30s", "5m", "24h" or "90d", found "5 parsecs"
config.toml:13: health.stale_aftr: found an unknown key, did you mean "stale_after"?
config.toml:14: health.connections_degraded: expected a number from 0 to 1, found 1.5
config.toml:17: jobs.retention.schedule: expected numbers from 0 to 59, as "*", "59", "0-59", "*/2" or a list, in the field minute ("61"), found "61 3 * * *"
config.toml:18: jobs.retention.timezone: found "Berlin", did you mean "Europe/Berlin"?
config.toml:19: jobs.retention.timeout: expected a duration such as "30s", "5m", "24h" or "90d", found 30
config.toml:21: jobs.vacum: found neither sql nor a built-in job of this name, did you mean "vacuum"?
config.toml:25: migrations.sets: found "zentri", did you mean "zentry"?
config.toml:28: http.listen: expected an address with a port, such as "127.0.0.1:8432", "0.0.0.0:8432" or "[::1]:8432", found ":8432"
config.toml:29: http.body_limit: expected a size such as "64KiB" or "1MiB", found "64KB"
config.toml:31: retention.tables.events: expected a name with its schema, such as "public.events", found "events"
PGSTEWARD__JOBS__REFRESH__TIMEOUT: jobs.refresh.timeout: expected a duration from 1s to 7d, found "8d"
PGSTEWARD__LOG__LEVLE: log.levle: found an unknown key, did you mean "PGSTEWARD__LOG__LEVEL"?
USE_IN_MEMORY_DB: development.ephemeral: expected true or false, found "perhaps"
--dir: migrations.dir: expected text, found an empty string"#;
    assert_eq!(given.report(), expected);
}

#[test]
fn invalid_toml_hides_no_other_problem() {
    let report =
        Given::file("[health]\nstale_after = 5m\nrecover_after = \"x\"\n[log\nlevel = \"loud\"\n")
            .url()
            .report();
    let lines: Vec<&str> = report.lines().collect();
    let any = |begin: &str| lines.iter().any(|line| line.starts_with(begin));
    assert!(any("config.toml:2:15: expected valid TOML, found "), "{report}");
    assert!(any("config.toml:3: health.recover_after: expected a whole number"), "{report}");
    assert!(lines.iter().any(|line| line.starts_with("config.toml:4:")), "{report}");
    assert!(!report.contains("no database"), "{report}");

    let report = Given::file("[database]\nurl = \"postgresql://a:hunter2@b\nmode = 1\n").report();
    assert!(report.starts_with("config.toml:2:"), "{report}");
    let report = Given::file("mode = \"observe\"\nmode = \"maintain\"\n").url().report();
    assert!(report.starts_with("config.toml:2:1: expected valid TOML, found "), "{report}");
}

/// Breaks the example at random, with a fixed seed: every text is accepted or refused.
#[test]
fn no_text_ends_the_process() {
    let (text, _) = uncommented(|_| true);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n");
    let mut random = fastrand::Rng::with_seed(20_260_401);
    let mut refused = 0;
    for _ in 0..200 {
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..characters.len());
            let with =
                random.choice("\"'[]{}=.,#\n\r\\0é\u{0}".chars().collect::<Vec<_>>()).unwrap();
            match random.u8(..3) {
                0 => characters[at] = with,
                1 => characters.insert(at, with),
                _ => drop(characters.drain(at..(at + 20).min(characters.len()))),
            }
        }
        let given = Given::file(characters.into_iter().collect::<String>()).url();
        if let Err(problems) = given.load() {
            refused += 1;
            assert!(!problems.to_string().is_empty());
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn files_that_cannot_be_read() {
    let mut given = Given::nothing().url();
    given.args.path = Some(given.path("absent.toml"));
    assert_eq!(given.report(), "absent.toml: expected a readable TOML file, found no such file");
    given.args.path = Some(given.folder.path().join("."));
    assert!(
        given.report().contains("found a file that cannot be read: Is a directory"),
        "{}",
        given.report()
    );

    let report = Given::file(b"mode = \"observe\"\n# \xff\n").url().report();
    assert_eq!(
        report,
        "config.toml: expected a TOML file in UTF-8 of at most 1 MiB, found bytes in line 2 that \
         are not UTF-8"
    );
    let report = Given::file("#".repeat((1 << 20) + 1)).url().report();
    assert_eq!(
        report,
        "config.toml: expected a TOML file in UTF-8 of at most 1 MiB, found more than 1 MiB"
    );
    Given::file("#".repeat(1 << 20)).url().config();
    Given::file("\u{feff}mode = \"observe\"\r\n[log]\r\nlevel = \"warn\"\r\n").url().config();
}

#[test]
fn contradictions_are_reported_where_they_stand() {
    for (text, expected) in [
        (
            "[database]\n[databases.main]\n",
            "config.toml:2: databases.main: expected only one of them, found [database] too, \
             which is the same",
        ),
        (
            "[retention]\naudit_logs = \"10d\"\n",
            "config.toml:2: retention.audit_logs: expected at least retention.min_keep (30d), \
             found 10d",
        ),
        (
            "[retention]\nmin_keep = \"100d\"\n",
            "config.toml:2: retention.min_keep: expected at least retention.min_keep (100d), \
             found retention.audit_logs = 90d by default",
        ),
        (
            "[health]\nconnections_unhealthy = 0.5\n",
            "config.toml:2: health.connections_unhealthy: expected at least \
             health.connections_degraded (0.8), found 0.5",
        ),
        (
            "[health]\nwraparound_degraded = 0.9\n",
            "config.toml:2: health.wraparound_degraded: expected at least \
             health.wraparound_degraded (0.9), found health.wraparound_unhealthy = 0.75 by \
             default",
        ),
        (
            "[jobs.health-probe]\nschedule = \"@every 45s\"\n",
            "config.toml:2: jobs.health-probe.schedule: expected a health.stale_after of at \
             least twice the interval (90s), found health.stale_after = 1m with \
             jobs.health-probe.schedule = \"@every 45s\"",
        ),
        (
            "[migrations]\nlock_timeout = \"2s\"\nlock_budget = \"1s\"\n",
            "config.toml:3: migrations.lock_budget: expected at least migrations.lock_timeout \
             (2s), found 1s",
        ),
        (
            "[database]\npool_min_size = 3\n",
            "config.toml:2: database.pool_min_size: expected a minimum up to the maximum, found \
             pool_min_size = 3 with pool_max_size = 2",
        ),
        (
            "[databases.Main]\nurl = \"postgresql:///x\"\n[databases.main]\n",
            "config.toml:1: databases.Main: expected a name of 1 to 31 characters a-z, 0-9, - or \
             _ that begins with a letter, found \"Main\"",
        ),
        (
            "[retention.tables.\"public.events\"]\nkeep = \"1d\"\n",
            "config.toml:1: retention.tables.\"public.events\": expected column = \"…\" and keep \
             = \"…d\", found no key \"column\"",
        ),
        (
            "[refresh]\nviews = [\n\"public.a\",\n\"b\", 5]\n",
            "config.toml:4: refresh.views: expected a name with its schema, such as \
             \"public.events\", found \"b\"\nconfig.toml:4: refresh.views: expected names of \
             materialized views, found 5",
        ),
    ] {
        assert_eq!(Given::file(text).url().report(), expected);
    }
    assert_eq!(
        Given::nothing().url().env("PGSTEWARD__MIGRATIONS__SETS", "zentry,zentry").report(),
        "PGSTEWARD__MIGRATIONS__SETS: migrations.sets: expected each item once, found \"zentry\" \
         twice"
    );
    // A probe that is off, or by cron, bounds nothing.
    Given::file("[jobs.health-probe]\nschedule = \"@every 45s\"\nenabled = false\n").url().config();
    Given::file("[jobs.health-probe]\nschedule = \"*/5 * * * *\"\n").url().config();
}

#[test]
fn supabase_without_a_password_is_refused() {
    assert_eq!(
        Given::nothing()
            .env("SUPABASE_URL", "https://abc.supabase.co")
            .env("SUPABASE_SERVICE_KEY", "hunter2")
            .report(),
        "SUPABASE_URL: database.supabase.url: expected SUPABASE_DB_PASSWORD, \
         supabase.db_password or supabase.db_password_file (the service key is not a password), \
         found no password of the database beside it"
    );
    assert_eq!(
        Given::nothing()
            .env("SUPABASE_URL", "postgresql://postgres:hunter2@db.abc.supabase.co")
            .report(),
        "SUPABASE_URL: database.supabase.url: expected \"https://PROJECT.supabase.co\", found a \
         string"
    );
    assert_eq!(
        Given::file("[database.supabase]\ndb_password = \"hunter2\"\n").report(),
        "config.toml:1: database.supabase: expected supabase.url = \
         \"https://PROJECT.supabase.co\", or SUPABASE_URL, found no url"
    );
    // The application's own use of Supabase beside a DATABASE_URL is none of our business.
    Given::nothing()
        .url()
        .env("SUPABASE_URL", "https://abc.supabase.co")
        .env("SUPABASE_SERVICE_KEY", "k")
        .config();
    Given::nothing().url().env("SUPABASE_SERVICE_KEY", "k").config();
    let config = Given::nothing().url().env("SUPABASE_URL", "http://127.0.0.1:54321").config();
    assert_eq!(config.databases["main"].supabase, None);
}

#[test]
fn secrets_are_not_shown_whatever_is_wrong() {
    let report = Given::file(
        "[database]\nurl = \"hunter2\"\nulr = \"postgresql://hunter2@x/y\"\ndirect_url = \
         [\"hunter2\"]\npassword_command = [\"\", \"hunter2\"]\npassword = \
         \"\"\nsupabase.service_key = 2\n",
    )
    .report();
    assert_eq!(report.lines().count(), 7, "{report}");
    assert!(
        report.contains("config.toml:3: database.ulr: found an unknown key, did you mean \"url\"?"),
        "{report}"
    );
    assert!(
        report.contains("config.toml:6: database.password: expected text, found an empty string"),
        "{report}"
    );
}

#[test]
fn misspelt_variables_are_warned_of() {
    let loaded = Given::nothing()
        .url()
        .env("PGSTEWARD_LOG_LEVEL", "debug")
        .env("PGSTEWARD_JOBS__HEALTH_PROBE__TIMEOUT", "1s")
        .env("PGSTEWARD_PG_BIN", "/usr/lib/postgresql/15/bin")
        .env("PGSTEWARD_SERVICE_HOST", "10.0.0.1")
        .env("PGSTEWARD_PORT", "tcp://10.0.0.1:8432")
        .holds();
    assert_eq!(
        loaded.warnings,
        [
            "PGSTEWARD_JOBS__HEALTH_PROBE__TIMEOUT is not read: did you mean \
             PGSTEWARD__JOBS__HEALTH_PROBE__TIMEOUT, with two underscores?",
            "PGSTEWARD_LOG_LEVEL is not read: did you mean PGSTEWARD__LOG__LEVEL, with two \
             underscores?",
        ]
    );
    let report = Given::nothing()
        .url()
        .env("PGSTEWARD__LOG__LEVEL", "info")
        .env("pgsteward__log__level", "debug")
        .report();
    assert_eq!(
        report,
        "pgsteward__log__level: log.level: expected only one of them, found the same key as in \
         PGSTEWARD__LOG__LEVEL"
    );
    let report = Given::nothing()
        .url()
        .env("PGSTEWARD__LOG", "info")
        .env("PGSTEWARD__LOG__LEVEL", "debug")
        .report();
    assert_eq!(report, "PGSTEWARD__LOG: log: expected a table, found \"info\"");
    let report =
        Given::nothing().url().env("PGSTEWARD__", "x").env("PGSTEWARD__NOSUCH__KEY", "x").report();
    assert_eq!(report.lines().count(), 2, "{report}");
}

#[test]
fn the_bundled_set_lives_in_public_and_nowhere_else() {
    let given = Given::file(
        "[database]\nurl = \"postgres://db/app\"\n[migrations]\nsets = [\"zentry\"]\nsearch_path \
         = \"zentry\"\n",
    );
    let problems = given.load().unwrap_err().to_string();
    assert!(
        problems.contains("config.toml:5: migrations.search_path")
            && problems.contains("\"public\""),
        "{problems}"
    );
}

#[test]
fn heads_are_sent_by_https_and_no_url_is_shown() {
    let given = |url: &str| Given::file(format!("[audit]\nwebhook_url = {url:?}\n")).url();
    for right in [
        "https://h.example/p?q=1",
        "http://localhost:9/p",
        "http://127.0.0.1/p",
        "http://u:p@[::1]:80/",
    ] {
        assert!(given(right).config().audit.webhook_url.is_some(), "{right}");
    }
    for wrong in [
        "http://h.example/hush",
        "ftp://localhost/hush",
        "hush",
        "http://hush@h.example/?x=@localhost",
    ] {
        let report = given(wrong).report();
        assert!(
            report.contains("audit.webhook_url")
                && report.contains("https://heads.example.com/pgsteward"),
            "{report}"
        );
        assert!(!report.contains("hush"), "{report}");
    }
}
