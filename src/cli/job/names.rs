//! Which job is meant, and which of them can be run.

use crate::cli::{Exit, say};
use crate::config::problem::nearest;
use crate::config::{Config, Job, JobName};

/// A job of the ledger, as this configuration has it; `None` where it has no such job.
///
/// # Errors
/// A measured job has no runs, and one for other databases does not run on this one: told here.
pub fn configured<'a>(
    config: &'a Config,
    database: &str,
    name: &str,
) -> Result<Option<(&'a JobName, &'a Job)>, Exit> {
    let Some((name, job)) = config.jobs.all.get_key_value(name) else { return Ok(None) };
    if job.is_measured() {
        say(&format!(
            "{name} is measured on every tick of the instance that observes, outside the ledger: it has no runs to be \
             asked for, paused or listed; jobs.{name}.enabled and jobs.{name}.schedule say whether and when, \
             `pgsteward health` measures once"
        ));
        return Err(Exit::Usage);
    }
    if !job.is_for(database) {
        let databases = job.databases.join(", ");
        say(&format!(
            "{name} does not run on database {database}: jobs.{name}.databases names {databases}"
        ));
        return Err(Exit::Usage);
    }
    Ok(Some((name, job)))
}

/// Tells that there is no such job, which is nearest, and which there are.
pub fn unknown(config: &Config, database: &str, name: &str, known: &[String]) -> Exit {
    let configured = config
        .jobs
        .all
        .iter()
        .filter(|(_, job)| job.is_for(database))
        .map(|(name, _)| name.as_str());
    let mut names: Vec<&str> = configured.chain(known.iter().map(String::as_str)).collect();
    names.sort_unstable();
    names.dedup();
    let near = nearest(name, names.iter().copied())
        .map(|near| format!(", did you mean {near:?}?"))
        .unwrap_or_default();
    say(&format!(
        "database {database} has no job {name:?}{near}{} known: {}",
        if near.is_empty() { ";" } else { "" },
        names.join(", ")
    ));
    Exit::Usage
}
