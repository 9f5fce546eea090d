//! `packaging/prometheus` and `packaging/grafana`: the rules are PromQL, fire when they should, and
//! name what is exported.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use chrono::{DateTime, Utc};
use pgsteward::config::{Builtin, Http, Job};
use pgsteward::db::Kind;
use pgsteward::sets::{BUNDLED, Period};
use pgsteward::store::runs::RunState;
use pgsteward::telemetry::metrics::{Family, Metrics};
use serde_json::Value;

use super::promql::{Named, named};
use super::{path, read, text, yaml};

const RULES: &str = "packaging/prometheus/alerts.yaml";
const TESTS: &str = "packaging/prometheus/alerts.test.yaml";
/// What a scrape adds to every series.
const SCRAPED: [&str; 3] = ["job", "namespace", "instance"];

fn rules() -> Vec<Value> {
    let file = yaml(RULES).remove(0);
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
}

fn alert(name: &str) -> Value {
    rules()
        .into_iter()
        .find(|rule| rule["alert"] == name)
        .unwrap_or_else(|| panic!("no alert {name}"))
}

fn expressions() -> Vec<Named> {
    rules().iter().map(|rule| named(text(rule, "/expr"))).collect()
}

/// The labels of every family that `telemetry::Metrics` declares, by name. A family without a series
/// is not on the page, so the declarations are the only complete list.
fn declared() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new().unwrap();
    let labels = |family: &Family| family.labels.iter().map(|l| (*l).to_owned()).collect();
    metrics.families().iter().map(|family| (family.name.to_owned(), labels(family))).collect()
}

#[test]
fn every_family_follows_the_conventions_of_prometheus() {
    for family in Metrics::new().unwrap().families() {
        let name = family.name;
        assert!(family.help.ends_with('.') && !family.help.contains("  "), "{name}: {family:?}");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}: {}", family.kind);
        assert_eq!(family.kind == "histogram", !family.buckets.is_empty(), "{name}");
        assert!(name.starts_with("pgsteward_") || name.starts_with("pg_"), "{name}");
        assert!(!name.contains("_ms") && !name.contains("milli"), "{name}: not a base unit");
    }
}

#[track_caller]
fn promtool(arguments: &[&str]) {
    let output =
        Command::new("promtool").args(arguments).current_dir(path("packaging/prometheus")).output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "promtool: {error}; install it: apt-get install -y --no-install-recommends prometheus"
        )
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "alerts.yaml"]);
}

#[test]
fn the_alerts_fire_and_do_not_fire() {
    promtool(&["test", "rules", "alerts.test.yaml"]);
}

#[test]
fn every_alert_is_tried_both_ways_and_says_what_to_do() {
    let file = yaml(TESTS).remove(0);
    let mut tried: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
    for test in file["tests"].as_array().unwrap() {
        for check in test["alert_rule_test"].as_array().unwrap() {
            let (fires, quiet) = tried.entry(text(check, "/alertname")).or_default();
            let some = !check["exp_alerts"].as_array().unwrap().is_empty();
            *fires |= some;
            *quiet |= !some;
        }
    }
    let mut names = BTreeSet::new();
    for rule in rules().iter().filter(|rule| rule.get("alert").is_some()) {
        let name = text(rule, "/alert");
        assert!(names.insert(name.to_owned()), "{name} stands there twice");
        assert_eq!(
            tried.get(name),
            Some(&(true, true)),
            "{name}: (fires, does not fire) in {TESTS}"
        );
        assert!(
            ["critical", "warning", "info"].contains(&text(rule, "/labels/severity")),
            "{name}"
        );
        assert!(text(rule, "/annotations/summary").len() > 20, "{name}");
        assert!(text(rule, "/annotations/description").len() > 80, "{name}: what is to be done?");
    }
    assert!(names.len() >= 25);
}

/// What expressions may name: all that is exported, and what Prometheus makes of it.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = declared();
    let page = String::from_utf8(Metrics::new().unwrap().encode().unwrap()).unwrap();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        known.entry(line.split(' ').next().unwrap().to_owned()).or_default();
    }
    // A histogram's name is never a series.
    let metrics = Metrics::new().unwrap();
    for Family { name, .. } in metrics.families().iter().filter(|f| f.kind == "histogram") {
        let mut labels = known.remove(*name).unwrap();
        known.insert(format!("{name}_count"), labels.clone());
        known.insert(format!("{name}_sum"), labels.clone());
        labels.insert("le".to_owned());
        known.insert(format!("{name}_bucket"), labels);
    }
    known.insert("up".to_owned(), BTreeSet::new());
    for rule in rules() {
        let Some(record) = rule["record"].as_str() else { continue };
        let mut labels = named(text(&rule, "/expr")).grouped;
        labels.extend(
            rule["labels"].as_object().into_iter().flat_map(|labels| labels.keys().cloned()),
        );
        known.insert(record.to_owned(), labels);
    }
    known
}

#[track_caller]
fn names_only(known: &BTreeMap<String, BTreeSet<String>>, expression: &Named) {
    let mut there: BTreeSet<&str> = SCRAPED.into();
    for selector in &expression.selectors {
        let labels = known.get(&selector.metric);
        let labels = labels.unwrap_or_else(|| panic!("{} is not exported", selector.metric));
        there.extend(labels.iter().map(String::as_str));
        for (label, ..) in &selector.matchers {
            let exists = labels.contains(label) || SCRAPED.contains(&label.as_str());
            assert!(exists, "{} has no label {label}", selector.metric);
        }
    }
    for label in &expression.grouped {
        assert!(there.contains(label.as_str()), "nothing in {expression:?} has the label {label}");
    }
}

#[test]
fn the_rules_name_only_what_is_exported() {
    let known = known();
    assert!(
        known.contains_key("pgsteward_job_start_delay_seconds_bucket"),
        "histograms are told apart"
    );
    for expression in expressions() {
        names_only(&known, &expression);
    }
    // Annotations ask, too.
    for rule in rules() {
        let summary =
            rule.pointer("/annotations/summary").and_then(Value::as_str).unwrap_or_default();
        for (start, _) in summary.match_indices("pgsteward_") {
            let metric: String = summary[start..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            assert!(known.contains_key(&metric), "{metric} in {summary}");
        }
    }
}

#[test]
fn the_dashboard_draws_only_what_is_exported() {
    let known = known();
    let dashboard: Value = serde_json::from_str(&read("packaging/grafana/dashboard.json")).unwrap();
    let mut drawn = 0;
    for target in dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let expression = text(target, "/expr");
        names_only(&known, &named(expression));
        // As Grafana fills it in, it must be PromQL.
        let filled = expression.replace("$__rate_interval", "1m");
        let rule = serde_json::json!({"groups": [{"name": "g", "rules": [{"record": "r", "expr": filled}]}]});
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rule.to_string()).unwrap();
        promtool(&["check", "rules", file.path().to_str().unwrap()]);
        drawn += 1;
    }
    assert!(drawn >= 12);
}

#[test]
fn no_metric_has_a_label_that_a_scrape_sets_itself() {
    for (family, labels) in declared() {
        for label in SCRAPED {
            assert!(
                !labels.contains(label),
                "{family}: Prometheus would rename {label} to exported_{label}"
            );
        }
    }
}

#[test]
fn the_rules_match_values_that_exist() {
    let outcomes = [
        RunState::Succeeded,
        RunState::Failed,
        RunState::TimedOut,
        RunState::Cancelled,
        RunState::Skipped,
        RunState::Lost,
    ];
    let outcomes: BTreeSet<&str> = outcomes.map(RunState::as_str).into();
    let jobs: BTreeSet<&str> = Builtin::ALL.map(Builtin::as_str).into();
    let mut seen = 0;
    for selector in expressions().iter().flat_map(|expression| &expression.selectors) {
        for (label, _, value) in &selector.matchers {
            let exist = match label.as_str() {
                "outcome" => &outcomes,
                "job_name" => &jobs,
                _ => continue,
            };
            for value in value.split('|') {
                assert!(exist.contains(value), "{label} is never {value:?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 0);
    let down = alert("PgstewardDatabaseDown");
    for kind in [
        Kind::Unreachable,
        Kind::Timeout,
        Kind::Refused,
        Kind::StartingUp,
        Kind::InRecovery,
        Kind::TooManyConnections,
        Kind::Auth,
        Kind::Hba,
        Kind::Tls,
        Kind::UnknownDatabase,
        Kind::Permission,
    ] {
        assert!(
            text(&down, "/annotations/description").contains(kind.as_str()),
            "{} has no advice",
            kind.as_str()
        );
    }
    let port = format!(":{}\"", Http::default().listen.port());
    assert!(text(&alert("PgstewardDown"), "/expr").contains(&port));
}

#[test]
fn every_job_has_time_for_its_interval_and_its_run() {
    let mut bounds = BTreeMap::new();
    for rule in
        rules().iter().filter(|rule| rule["record"] == "pgsteward_job:success_within:seconds")
    {
        let expr = text(rule, "/expr").strip_prefix("vector(").unwrap().strip_suffix(')').unwrap();
        let seconds: i64 =
            expr.split('*').map(|factor| factor.trim().parse::<i64>().unwrap()).product();
        bounds.insert(text(rule, "/labels/job_name").to_owned(), seconds);
    }
    assert_eq!(bounds.len(), Builtin::ALL.len());
    let now: DateTime<Utc> = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    for builtin in Builtin::ALL {
        let job = Job::of(builtin);
        let schedule = job.schedule().expect("a built-in job goes by a schedule");
        let first = schedule.next_after(now, job.timezone).unwrap();
        let interval = schedule.next_after(first, job.timezone).unwrap() - first;
        let least = interval.num_seconds() + i64::try_from(job.timeout.as_secs()).unwrap();
        let bound = bounds[builtin.as_str()];
        assert!(
            least < bound && bound <= 30 * least.max(10),
            "{builtin:?}: {bound} s for at least {least} s"
        );
    }
}

#[test]
fn every_partitioned_table_is_watched_by_its_width() {
    let limit = |name: &str| -> i32 {
        text(&alert(name), "/expr").rsplit_once('<').unwrap().1.trim().parse().unwrap()
    };
    for table in BUNDLED.iter().flat_map(|set| set.partitioned) {
        let daily = ["system_health", "connection_metrics"].contains(&table.table);
        assert_eq!(
            daily,
            table.period == Period::Day,
            "{}: see the table= in the alerts",
            table.name()
        );
        let alert = if daily { "PgstewardPartitionsLow" } else { "PgstewardMonthlyPartitionsLow" };
        // At the turn there is one less, until the job runs again.
        assert!(limit(alert) < table.ahead && limit(alert) > 0, "{}", table.name());
    }
}
