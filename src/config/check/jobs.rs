//! Contradictions between jobs, and between jobs and databases.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::super::problem::{Problem, nearest};
use super::super::read::quote;
use super::super::tree::Node;
use super::super::{Config, Job, JobName, Trigger};
use super::Findings;

/// The instants that are compared with a job's windows: more than a year of a daily job.
const INSTANTS_MAX: usize = 400;

type Jobs = BTreeMap<JobName, Job>;

/// Checks that named databases and upstream jobs exist, that windows can open, and that chains have
/// a beginning.
pub(super) fn jobs(findings: &mut Findings, config: &Config, tree: &Node) {
    for (name, job) in &config.jobs.all {
        let known: Vec<&str> = config.databases.keys().map(String::as_str).collect();
        let expected = format!(
            "one of {}",
            known.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
        );
        for database in job.databases.iter().filter(|name| !known.contains(&name.as_str())) {
            let meant = nearest(database, known.iter().copied());
            findings.job_problem(tree, (name, "databases"), quote(database), &expected, meant);
        }
        window_opens(findings, name, job);
        for upstream in upstream_jobs(job) {
            follows(findings, config, tree, (name, job), upstream);
        }
    }
    for cycle in cycles(&config.jobs.all) {
        let path = cycle.iter().chain(cycle.first()).map(|name| name.as_str()).collect::<Vec<_>>();
        let expected =
            "a chain that begins somewhere, because here each job waits for the next and none runs";
        findings.job_problem(tree, (cycle[0], "after"), path.join(" → "), expected, None);
    }
}

impl Findings {
    fn job_problem(
        &mut self,
        tree: &Node,
        (name, key): (&JobName, &str),
        found: String,
        expected: &str,
        meant: Option<&str>,
    ) {
        let path = ["jobs", name.as_str(), key];
        let problem = Problem::new(tree.origin_of(&path), path.join("."), found, expected);
        self.problems.push(problem.meant(meant.map(str::to_owned)));
    }
}

fn upstream_jobs(job: &Job) -> &[JobName] {
    match &job.trigger {
        Trigger::After(names) => names,
        Trigger::Schedule(_) | Trigger::Request => &[],
    }
}

/// Warns if all instants of a schedule lie outside the job's windows.
fn window_opens(findings: &mut Findings, name: &JobName, job: &Job) {
    let Some(schedule) = job.schedule() else { return };
    if job.window.is_empty() && job.blackout.is_empty() {
        return;
    }
    let next = |at: &DateTime<Utc>| schedule.next_after(*at, job.timezone);
    let is_open = |at: &DateTime<Utc>| {
        (job.window.is_empty() || job.window.contains(*at, job.timezone))
            && !job.blackout.contains(*at, job.timezone)
    };
    if !std::iter::successors(next(&Utc::now()), next).take(INSTANTS_MAX).any(|at| is_open(&at)) {
        findings.warnings.push(format!(
            "jobs.{name}: none of the next {INSTANTS_MAX} instants of \"{}\" lies inside its \
             window, so it will not run by itself",
            schedule.text()
        ));
    }
}

fn follows(
    findings: &mut Findings,
    config: &Config,
    tree: &Node,
    (name, job): (&JobName, &Job),
    upstream: &JobName,
) {
    let found = || quote(upstream.as_str());
    let Some(upstream_job) = config.jobs.all.get(upstream) else {
        // A job that is there and cannot be read has been reported as such.
        if tree.at(&["jobs", upstream.as_str()]).is_none() {
            let others =
                config.jobs.all.iter().filter(|(other, job)| *other != name && !job.is_measured());
            let meant = nearest(upstream.as_str(), others.map(|(other, _)| other.as_str()));
            let expected = "the name of another job";
            findings.job_problem(tree, (name, "after"), found(), expected, meant);
        }
        return;
    };
    if upstream_job.is_measured() {
        let expected = "a job with runs, because a measurement is taken all the time";
        findings.job_problem(tree, (name, "after"), found(), expected, None);
    }
    let origin = || tree.origin_of(&["jobs", name.as_str(), "after"]);
    if job.enabled && !upstream_job.enabled {
        findings.warnings.push(format!(
            "jobs.{name} follows jobs.{upstream}, which is disabled: it runs when somebody runs \
             that job by hand ({})",
            origin()
        ));
    }
    let databases = config.databases.keys().map(String::as_str);
    let missing: Vec<&str> = databases
        .filter(|name| job.enabled && job.is_for(name) && !upstream_job.is_for(name))
        .collect();
    if !missing.is_empty() {
        findings.warnings.push(format!(
            "jobs.{name} follows jobs.{upstream}, which does not run on {}: there it never runs \
             ({})",
            missing.join(", "),
            origin()
        ));
    }
}

/// Returns chains that lead back to their beginning, each from its first name in the alphabet. Of
/// several that share a job some may be missing; they are found once the others are corrected.
fn cycles(jobs: &Jobs) -> Vec<Vec<&JobName>> {
    let mut search = Search { jobs, path: Vec::new(), done: BTreeSet::new(), found: Vec::new() };
    jobs.keys().for_each(|name| search.visit(name));
    search.found
}

/// A depth-first search. It recurses, and the limit of jobs bounds its depth.
struct Search<'a> {
    jobs: &'a Jobs,
    path: Vec<&'a JobName>,
    done: BTreeSet<&'a JobName>,
    found: Vec<Vec<&'a JobName>>,
}

impl<'a> Search<'a> {
    fn visit(&mut self, name: &'a JobName) {
        if self.done.insert(name) {
            self.path.push(name);
            for upstream in self.jobs.get(name).map_or(&[][..], upstream_jobs) {
                if let Some((upstream, _)) = self.jobs.get_key_value(upstream) {
                    self.visit(upstream);
                }
            }
            self.path.pop();
        } else if let Some(begin) = self.path.iter().position(|at| *at == name) {
            let mut cycle = self.path[begin..].to_vec();
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at]).unwrap_or_default();
            cycle.rotate_left(first);
            self.found.push(cycle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chained(chains: &[(&str, &[&str])]) -> Vec<String> {
        let job = |upstream: &[&str]| Job {
            trigger: Trigger::After(upstream.iter().map(|name| JobName::new(name)).collect()),
            ..Job::default()
        };
        let jobs: Jobs =
            chains.iter().map(|(name, leaders)| (JobName::new(name), job(leaders))).collect();
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
