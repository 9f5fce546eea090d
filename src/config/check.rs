//! Contradictions between values that are valid by themselves, and which database is meant.

mod auth;
mod database;
mod jobs;

use super::keys::MAIN;
use super::problem::Problem;
use super::schedule::Kind;
use super::tree::Node;
use super::value::print_duration;
use super::{Builtin, Config, Job};
use crate::sets;

pub(super) use database::databases;

/// Problems and warnings.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

impl Findings {
    /// Adds a problem with the first of `keys` that is given; it contradicts the others.
    fn contradiction(
        &mut self,
        tree: &Node,
        keys: &[&[&str]],
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let given = keys.iter().find(|path| tree.at(path).is_some());
        if let Some(path) = given.or(keys.first()) {
            let problem = Problem::new(tree.origin_of(path), path.join("."), found, expected);
            self.problems.push(problem);
        }
    }

    /// Adds a problem if `high` is less than `low`. Each is a section, a key and its value.
    fn at_least<T: PartialOrd>(
        &mut self,
        tree: &Node,
        high: (&str, &str, T),
        low: (&str, &str, T),
        print: impl Fn(&T) -> String,
    ) {
        if high.2 < low.2 {
            let (high_key, low_key) = ([high.0, high.1], [low.0, low.1]);
            let value = print(&high.2);
            // If it is a default, the problem stands at the other key.
            let found = match tree.at(&high_key) {
                Some(_) => value,
                None => format!("{} = {value} by default", high_key.join(".")),
            };
            let expected = format!("at least {} ({})", low_key.join("."), print(&low.2));
            self.contradiction(tree, &[&high_key, &low_key], found, expected);
        }
    }
}

/// Checks the values against each other.
pub(super) fn contradictions(config: &Config, tree: &Node) -> Findings {
    let mut findings = Findings::default();
    for (name, database) in &config.databases {
        let (min, max) = (database.pool_min_size, database.pool_max_size);
        if min > max {
            let table = database::table_of(tree, name);
            let key = |key| [table.as_slice(), &[key]].concat();
            findings.contradiction(
                tree,
                &[&key("pool_min_size"), &key("pool_max_size")],
                format!("pool_min_size = {min} with pool_max_size = {max}"),
                "a minimum up to the maximum",
            );
        }
    }
    if tree.at(&["database"]).is_some() && tree.at(&["databases", MAIN]).is_some() {
        let found = "[database] too, which is the same";
        findings.contradiction(tree, &[&["databases", MAIN]], found, "only one of them");
    }
    let health = &config.health;
    findings.at_least(
        tree,
        ("health", "connections_unhealthy", health.connections_unhealthy),
        ("health", "connections_degraded", health.connections_degraded),
        <_>::to_string,
    );
    findings.at_least(
        tree,
        ("health", "wraparound_unhealthy", health.wraparound_unhealthy),
        ("health", "wraparound_degraded", health.wraparound_degraded),
        <_>::to_string,
    );
    let (retention, migrations) = (&config.retention, &config.migrations);
    findings.at_least(
        tree,
        ("retention", "audit_logs", retention.audit_logs),
        ("retention", "min_keep", retention.min_keep),
        |duration| print_duration(*duration),
    );
    findings.at_least(
        tree,
        ("migrations", "lock_budget", migrations.lock_budget),
        ("migrations", "lock_timeout", migrations.lock_timeout),
        |duration| print_duration(*duration),
    );
    let sets = migrations.sets.iter().filter_map(|name| sets::find(name));
    for set in sets.filter(|set| migrations.search_path.trim() != set.schema) {
        findings.contradiction(
            tree,
            &[&["migrations", "search_path"]],
            format!("{:?}", migrations.search_path),
            format!(
                "{:?}, where the set {:?} creates its tables and its jobs look for them",
                set.schema, set.name
            ),
        );
    }
    staleness(&mut findings, config, tree);
    jobs::jobs(&mut findings, config, tree);
    auth::auth(&mut findings, config, tree, chrono::Utc::now());
    findings
}

/// A measurement must not become stale before the next one can be there.
fn staleness(findings: &mut Findings, config: &Config, tree: &Node) {
    let schedule = config.jobs.enabled(Builtin::HealthProbe).and_then(Job::schedule);
    let Some((schedule, Kind::Every(interval))) = schedule.map(|s| (s, s.kind())) else { return };
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
