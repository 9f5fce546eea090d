//! What contradicts itself, though each value by itself is fine; and which database is meant.

mod auth;
mod jobs;

use std::path::Path;
use std::time::Duration;

use super::defaults::MAIN;
use super::problem::{Origin, Problem};
use super::schedule::Kind;
use super::tree::Node;
use super::value::print_duration;
use super::{Builtin, Config, Database, Environment, Job};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl Findings {
    /// Adds a problem with the first of `keys` that is said somewhere; the others are what it contradicts.
    fn contradiction(&mut self, tree: &Node, keys: &[&[&str]], found: String, wanted: String) {
        let said = keys.iter().find(|path| tree.at(path).is_some());
        if let Some(path) = said.or(keys.first()) {
            self.problems.push(Problem::new(tree.origin_of(path), path.join("."), found, wanted));
        }
    }
}

/// Checks the values against each other.
pub(super) fn contradictions(config: &Config, tree: &Node) -> Findings {
    let mut findings = Findings::default();
    for (name, database) in &config.databases {
        pool(&mut findings, tree, name, database);
    }
    if tree.at(&["database"]).is_some() && tree.at(&["databases", MAIN]).is_some() {
        findings.contradiction(
            tree,
            &[&["databases", MAIN]],
            "[database] too, which is the same".to_owned(),
            "one of them".to_owned(),
        );
    }
    let health = &config.health;
    for (unhealthy, degraded, high, low) in [
        (
            "connections_unhealthy",
            "connections_degraded",
            health.connections_unhealthy,
            health.connections_degraded,
        ),
        (
            "wraparound_unhealthy",
            "wraparound_degraded",
            health.wraparound_unhealthy,
            health.wraparound_degraded,
        ),
    ] {
        if high < low {
            let wanted = format!("at least health.{degraded} ({low})");
            findings.contradiction(
                tree,
                &[&["health", unhealthy], &["health", degraded]],
                compared(tree, "health", unhealthy, &high.to_string()),
                wanted,
            );
        }
    }
    let retention = &config.retention;
    at_least(
        &mut findings,
        tree,
        ("retention", "audit_logs", retention.audit_logs),
        ("retention", "min_keep", retention.min_keep),
    );
    let migrations = &config.migrations;
    if migrations.sets.iter().any(|set| set == "zentry")
        && migrations.search_path.trim() != "public"
    {
        findings.contradiction(
            tree,
            &[&["migrations", "search_path"]],
            format!("{:?}", migrations.search_path),
            "\"public\", where the set \"zentry\" lives and its jobs look for it".to_owned(),
        );
    }
    at_least(
        &mut findings,
        tree,
        ("migrations", "lock_budget", migrations.lock_budget),
        ("migrations", "lock_timeout", migrations.lock_timeout),
    );
    staleness(&mut findings, config, tree);
    jobs::jobs(&mut findings, config, tree);
    auth::auth(&mut findings, config, tree, chrono::Utc::now());
    findings
}

fn pool(findings: &mut Findings, tree: &Node, name: &str, database: &Database) {
    let (min, max) = (database.pool_min_size, database.pool_max_size);
    if min > max {
        let table = table_of(tree, name);
        let key = |key| [table.as_slice(), &[key]].concat();
        let (min_key, max_key) = (key("pool_min_size"), key("pool_max_size"));
        findings.contradiction(
            tree,
            &[&min_key, &max_key],
            format!("pool_min_size = {min} with pool_max_size = {max}"),
            "a minimum up to the maximum".to_owned(),
        );
    }
}

/// A measurement must not go stale before the next one can be there.
fn staleness(findings: &mut Findings, config: &Config, tree: &Node) {
    let Some(schedule) = config.jobs.enabled(Builtin::HealthProbe).and_then(Job::schedule) else {
        return;
    };
    if let Kind::Every(interval) = schedule.kind() {
        let least = interval.saturating_mul(2);
        if config.health.stale_after < least {
            findings.contradiction(
                tree,
                &[&["health", "stale_after"], &["jobs", "health-probe", "schedule"]],
                format!(
                    "health.stale_after = {} with jobs.health-probe.schedule = \"{}\"",
                    print_duration(config.health.stale_after),
                    schedule.text()
                ),
                format!(
                    "a health.stale_after of at least twice the interval ({})",
                    print_duration(least)
                ),
            );
        }
    }
}

fn at_least(
    findings: &mut Findings,
    tree: &Node,
    high: (&str, &str, Duration),
    low: (&str, &str, Duration),
) {
    if high.2 < low.2 {
        findings.contradiction(
            tree,
            &[&[high.0, high.1], &[low.0, low.1]],
            compared(tree, high.0, high.1, &print_duration(high.2)),
            format!("at least {}.{} ({})", low.0, low.1, print_duration(low.2)),
        );
    }
}

/// A value as it was said; with its key when it is a default, for then the problem stands elsewhere.
fn compared(tree: &Node, section: &str, key: &str, value: &str) -> String {
    match tree.at(&[section, key]) {
        Some(_) => value.to_owned(),
        None => format!("{section}.{key} = {value} by default"),
    }
}

/// Settles which databases are meant: the named ones, or a throw-away server.
pub(super) fn databases(config: &mut Config, tree: &Node) -> Findings {
    let mut findings = Findings::default();
    if config.ephemeral {
        ephemeral(config, tree, &mut findings);
        return findings;
    }
    let alone = config.databases.len() == 1;
    let twice = tree.at(&["database"]).is_some() && tree.at(&["databases", MAIN]).is_some();
    // Which of two is meant is reported already, and only the user can say what is missing in it.
    for (name, database) in config.databases.iter().filter(|(name, _)| !(twice && *name == MAIN)) {
        let table = table_of(tree, name);
        let said = |key: &str| tree.at(&[table.as_slice(), &[key]].concat()).is_some();
        let supabase = tree.at(&[table.as_slice(), &["supabase"]].concat());
        // Something is said, if wrongly: that was reported, and "nothing is said" would be untrue.
        let url_said = said("url") || said("url_file");
        let supabase_said = supabase.is_some_and(|node| node.at(&["url"]).is_some());
        if !url_said && !supabase_said {
            // An empty header says nothing, and the example has one.
            let begun =
                supabase.filter(|node| node.as_table().is_some_and(|table| !table.is_empty()));
            if let Some(node) = begun.filter(|node| node.origin.is_file()) {
                findings.problems.push(Problem::new(
                    node.origin.clone(),
                    format!("{}.supabase", table.join(".")),
                    "no url",
                    r#"supabase.url = "https://PROJECT.supabase.co", or SUPABASE_URL"#,
                ));
            } else if alone && name == MAIN && config.environment == Environment::Development {
                config.ephemeral = true;
                findings.warnings.push(
                    "no database is configured: in development a throw-away server is used, its data is lost at the end"
                        .to_owned(),
                );
            } else {
                findings.problems.push(missing(tree, name, &table));
            }
        }
        if database.url.is_none()
            && !url_said
            && database.supabase.as_ref().is_some_and(|s| s.db_password.is_none())
        {
            let path = [table.as_slice(), &["supabase", "url"]].concat();
            let any = ["db_password", "db_password_file"]
                .iter()
                .any(|key| supabase.is_some_and(|s| s.at(&[key]).is_some()))
                || ["password", "password_file", "password_command"].iter().any(|key| said(key));
            if !any {
                findings.problems.push(Problem::new(
                    tree.origin_of(&path),
                    path.join("."),
                    "no password for the database beside it",
                    "SUPABASE_DB_PASSWORD, supabase.db_password or supabase.db_password_file (the service key is none)",
                ));
            }
        }
    }
    findings
}

fn missing(tree: &Node, name: &str, table: &[&str]) -> Problem {
    let path = table.join(".");
    if name == MAIN {
        return Problem::new(
            tree.origin_of(table),
            format!("{path}.url"),
            "no database",
            "DATABASE_URL, or database.url, or SUPABASE_URL with SUPABASE_DB_PASSWORD; \
             for a throw-away server --ephemeral or USE_IN_MEMORY_DB=true",
        );
    }
    Problem::new(
        tree.origin_of(table),
        format!("{path}.url"),
        "no database",
        "a url, a url_file or a supabase.url",
    )
}

/// The throw-away server wins over every named one, since developers have a `DATABASE_URL` in all
/// their shells; but one file that says both does not know what it wants.
fn ephemeral(config: &mut Config, tree: &Node, findings: &mut Findings) {
    let asked = tree.origin_of(&["development", "ephemeral"]);
    if config.environment == Environment::Production && tree.at(&["environment"]).is_some() {
        findings.warnings.push(format!(
            "a throw-away server in production, as {asked} asks: its data is lost at the end"
        ));
    }
    for name in config.databases.keys() {
        let table = table_of(tree, name);
        let urls: [&[&str]; 4] = [&["url"], &["url_file"], &["supabase", "url"], &[]];
        let said = urls
            .iter()
            .map(|key| [table.as_slice(), key].concat())
            .find(|path| tree.at(path).is_some());
        let Some(path) = said.filter(|path| path.len() > table.len() || name != MAIN) else {
            continue;
        };
        let origin = tree.origin_of(&path);
        if asked.is_file() && origin.is_file() {
            findings.problems.push(Problem::new(
                origin,
                path.join("."),
                format!(
                    "a database beside development.ephemeral = true in line {}",
                    asked.line().unwrap_or_default()
                ),
                "one of them",
            ));
        } else {
            let place = describe(&origin, &path);
            findings
                .warnings
                .push(format!("{place} is not used: {asked} asks for a throw-away server"));
        }
    }
    let main = config.databases.remove(MAIN).unwrap_or_default();
    let main = Database { url: None, direct_url: None, password: None, supabase: None, ..main };
    config.databases = [(MAIN.to_owned(), main)].into();
}

/// A variable speaks for itself, a line needs its key.
fn describe(origin: &Origin, path: &[&str]) -> String {
    match origin {
        Origin::Environment(name) => name.clone(),
        Origin::File { path: file, line } => {
            format!("{} ({}:{line})", path.join("."), Path::new(file).display())
        }
        other => format!("{} ({other})", path.join(".")),
    }
}

/// Where a database stands in the tree.
fn table_of<'a>(tree: &Node, name: &'a str) -> Vec<&'a str> {
    if name == MAIN && tree.at(&["databases", MAIN]).is_none() {
        vec!["database"]
    } else {
        vec!["databases", name]
    }
}
