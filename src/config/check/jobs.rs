//! What jobs say of each other, and of databases.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::super::problem::{Problem, nearest};
use super::super::read::quote;
use super::super::tree::Node;
use super::super::{Config, Job, JobName, Trigger};
use super::Findings;

/// More than a year of a daily job.
const LOOKED_AT: usize = 400;

type Jobs = BTreeMap<JobName, Job>;

/// Names that must exist, and chains that must begin somewhere.
pub(super) fn jobs(findings: &mut Findings, config: &Config, tree: &Node) {
    for (name, job) in &config.jobs.all {
        databases(findings, config, tree, name, job);
        opens(findings, name, job);
        if let Trigger::After(leaders) = &job.trigger {
            for leader in leaders {
                follows(findings, config, tree, (name, job), leader);
            }
        }
    }
    for cycle in cycles(&config.jobs.all) {
        let path = cycle
            .iter()
            .chain(cycle.first())
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(" → ");
        let key = ["jobs", cycle[0].as_str(), "after"];
        let wanted =
            "a chain that begins somewhere: here each waits for the next, and none ever runs";
        findings.problems.push(Problem::new(tree.origin_of(&key), key.join("."), path, wanted));
    }
}

/// A schedule whose instants all lie outside the job's windows.
fn opens(findings: &mut Findings, name: &JobName, job: &Job) {
    let Some(schedule) =
        job.schedule().filter(|_| !job.window.is_empty() || !job.blackout.is_empty())
    else {
        return;
    };
    let next = |at: &DateTime<Utc>| schedule.next_after(*at, job.timezone);
    let is_open = |at: &DateTime<Utc>| {
        (job.window.is_empty() || job.window.contains(*at, job.timezone))
            && !job.blackout.contains(*at, job.timezone)
    };
    if !std::iter::successors(next(&Utc::now()), next).take(LOOKED_AT).any(|at| is_open(&at)) {
        findings.warnings.push(format!(
            "jobs.{name}: none of the next {LOOKED_AT} instants of \"{}\" lies inside its window, so it will not run by itself",
            schedule.text()
        ));
    }
}

fn databases(findings: &mut Findings, config: &Config, tree: &Node, name: &JobName, job: &Job) {
    let path = ["jobs", name.as_str(), "databases"];
    for database in
        job.databases.iter().filter(|database| !config.databases.contains_key(*database))
    {
        let known = || config.databases.keys().map(String::as_str);
        let wanted = format!("one of {}", known().map(quote).collect::<Vec<_>>().join(", "));
        let problem = Problem::new(tree.origin_of(&path), path.join("."), quote(database), wanted);
        findings.problems.push(problem.meant(nearest(database, known()).map(str::to_owned)));
    }
}

fn follows(
    findings: &mut Findings,
    config: &Config,
    tree: &Node,
    (name, job): (&JobName, &Job),
    leader: &JobName,
) {
    let path = ["jobs", name.as_str(), "after"];
    let mut problem = |wanted: &str, meant: Option<&str>| {
        let problem =
            Problem::new(tree.origin_of(&path), path.join("."), quote(leader.as_str()), wanted);
        findings.problems.push(problem.meant(meant.map(str::to_owned)));
    };
    let Some(led_by) = config.jobs.all.get(leader.as_str()) else {
        // One that is there and cannot be read has been reported as such.
        if tree.at(&["jobs", leader.as_str()]).is_none() {
            let others =
                config.jobs.all.iter().filter(|(other, job)| *other != name && !job.is_measured());
            problem(
                "the name of another job",
                nearest(leader.as_str(), others.map(|(other, _)| other.as_str())),
            );
        }
        return;
    };
    if led_by.is_measured() {
        problem("a job of the ledger: this one is a measurement, taken all the time", None);
    }
    let origin = || tree.origin_of(&path);
    if job.enabled && !led_by.enabled {
        findings.warnings.push(format!(
            "jobs.{name} follows jobs.{leader}, which is disabled: it runs when somebody runs that by hand ({})",
            origin()
        ));
    }
    let missing: Vec<&str> = config
        .databases
        .keys()
        .map(String::as_str)
        .filter(|database| job.enabled && job.is_for(database) && !led_by.is_for(database))
        .collect();
    if !missing.is_empty() {
        findings.warnings.push(format!(
            "jobs.{name} follows jobs.{leader}, which does not run on {}: there it never runs ({})",
            missing.join(", "),
            origin()
        ));
    }
}

/// Chains that lead back to where they began, each from its first name in the alphabet. Of several that
/// have a job in common not all are found: those that are left show when these are mended.
fn cycles(jobs: &Jobs) -> Vec<Vec<&JobName>> {
    let mut found = Vec::new();
    let mut done = BTreeSet::new();
    for start in jobs.keys() {
        // The way from the start to here, each with those it waits for that are still to be looked at.
        let mut way: Vec<(&JobName, Vec<&JobName>)> = Vec::new();
        let mut next = Some(start);
        loop {
            if let Some(name) = next.take() {
                if let Some(begin) = way.iter().position(|(at, _)| *at == name) {
                    let mut cycle: Vec<&JobName> = way[begin..].iter().map(|(at, _)| *at).collect();
                    let first = cycle
                        .iter()
                        .enumerate()
                        .min_by_key(|(_, name)| **name)
                        .map_or(0, |(place, _)| place);
                    cycle.rotate_left(first);
                    found.push(cycle);
                } else if done.insert(name) {
                    way.push((name, leaders(jobs, name)));
                }
            }
            match way.last_mut() {
                Some((_, left)) if !left.is_empty() => next = left.pop(),
                Some(_) => drop(way.pop()),
                None => break,
            }
        }
    }
    found
}

fn leaders<'a>(jobs: &'a Jobs, name: &JobName) -> Vec<&'a JobName> {
    match jobs.get(name).map(|job| &job.trigger) {
        Some(Trigger::After(leaders)) => leaders
            .iter()
            .rev()
            .filter_map(|leader| jobs.get_key_value(leader))
            .map(|(name, _)| name)
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{SqlWork, Work};
    use super::*;

    fn chained(chains: &[(&str, &[&str])]) -> Vec<String> {
        let job = |leaders: &[&str]| Job {
            trigger: Trigger::After(leaders.iter().map(|name| JobName::new(name)).collect()),
            ..Job::sql(SqlWork {
                sql: String::new(),
                transaction: true,
                role: None,
                login: None,
                search_path: String::new(),
                lock_timeout: std::time::Duration::ZERO,
            })
        };
        let jobs: Jobs =
            chains.iter().map(|(name, leaders)| (JobName::new(name), job(leaders))).collect();
        assert!(jobs.values().all(|job| matches!(job.work, Work::Sql(_))));
        cycles(&jobs)
            .iter()
            .map(|cycle| cycle.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn chains_that_lead_back_are_found_and_others_are_not() {
        for (chains, expected) in [
            (&[("a", &["b"][..]), ("b", &[])][..], &[][..]),
            (&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"]), ("d", &[])], &[]),
            (&[("a", &["a"])], &["a"]),
            (&[("b", &["a"]), ("a", &["b"])], &["a b"]),
            (&[("a", &["x"]), ("x", &["c"]), ("c", &["b"]), ("b", &["x"])], &["b x c"]),
            (&[("a", &["b"]), ("b", &["a"]), ("c", &["d", "a"]), ("d", &["c"])], &["a b", "c d"]),
            (&[("a", &["nobody"])], &[]),
        ] {
            assert_eq!(chained(chains), expected, "{chains:?}");
        }
    }

    #[test]
    fn long_and_dense_chains_take_no_time() {
        let names: Vec<String> = (0..500).map(|n| format!("job-{n:03}")).collect();
        let before: Vec<Vec<&str>> =
            (0..500).map(|n| names[..n].iter().map(String::as_str).collect()).collect();
        let chains: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&before)
            .map(|(name, before)| (name.as_str(), before.as_slice()))
            .collect();
        assert_eq!(chained(&chains), Vec::<String>::new());
    }
}
