//! Reads `[jobs]` and `[jobs.NAME]`.

use super::super::keys::is_name;
use super::super::problem::{Origin, nearest};
use super::super::read::{Fault, Section, quote};
use super::super::schedule::SCHEDULE;
use super::super::table::Table;
use super::*;
use crate::sql::{self, RefusalReason};

/// More than anybody can keep track of; each job has series of its own in the metrics.
const JOBS_MAX: usize = 500;
/// A longer script belongs into a function in the database.
const SQL_MAX: usize = 64 * 1024;
const NAME_MAX: usize = 48;

/// Reads every job. The built-in ones exist even if the configuration does not mention them.
pub(super) fn jobs(
    section: &Section<'_>,
    mut all: BTreeMap<JobName, Job>,
) -> BTreeMap<JobName, Job> {
    for builtin in Builtin::ALL {
        let only = builtin.is_measured().then_some(MEASURED);
        let job = section
            .section_of(builtin.as_str(), only, |section| Job::read(section, Job::of(builtin)));
        all.insert(builtin.into(), job);
    }
    for (name, origin) in section.own_tables() {
        // Tables beyond the limit are read too, because they are not unknown keys.
        if let Some(job) = section.section(name, |job| sql_job(job, section, name, origin)) {
            all.insert(JobName::new(name), job);
            if all.len() == JOBS_MAX + 1 {
                let expected = format!("up to {JOBS_MAX} jobs, with the built-in ones");
                section.problem(origin, name, "one more", expected);
            }
        }
    }
    all
}

fn sql_job(
    section: &Section<'_>,
    parent: &Section<'_>,
    name: &str,
    origin: &Origin,
) -> Option<Job> {
    let built_in = || Builtin::ALL.map(Builtin::as_str);
    if !is_name(name, NAME_MAX) {
        let expected = format!(
            "a name of 1 to {NAME_MAX} characters a-z, 0-9, - or _ that begins with a letter, or \
             one of the built-in jobs: {}",
            built_in().join(", ")
        );
        parent.problem(origin, name, quote(name), expected);
    }
    if !section.has("sql") {
        let fault = Fault::expected("the key \"sql\"").near(name, built_in());
        parent.fault(origin, name, fault.found("neither sql nor a built-in job of this name"));
    }
    let transaction = section.boolean("transaction", true);
    let job = Job::read(section, Job::sql(SqlWork { transaction, ..SqlWork::default() }));
    if section.has("schedule") && section.has("after") {
        parent.problem(origin, name, "schedule and after together", "only one of them");
    }
    match &job.work {
        Work::Sql(work) if work.role.is_some() && work.login.is_some() => {
            let expected = "only one of them, because a login has a role of its own";
            parent.problem(origin, name, "role and login_url together", expected);
        }
        _ => {}
    }
    matches!(&job.work, Work::Sql(work) if !work.sql.is_empty()).then_some(job)
}

pub(super) fn work(section: &Section<'_>, default: Work) -> Work {
    match default {
        Work::Builtin(_) => default,
        Work::Sql(default) => Work::Sql(SqlWork::read(section, default)),
    }
}

/// Reads `schedule`, and `after` for jobs of own SQL.
pub(super) fn trigger(section: &Section<'_>, default: Trigger) -> Trigger {
    let schedule = section
        .checked("schedule", SCHEDULE, |text| Schedule::parse(text).map_err(Fault::expected));
    if let Trigger::Schedule(_) = default {
        return schedule.map_or(default, Trigger::Schedule);
    }
    let after = section.list("after", Vec::new(), "names of jobs", |name| {
        is_name(name, NAME_MAX).then_some(()).ok_or_else(|| Fault::expected("the name of a job"))
    });
    match schedule {
        Some(schedule) => Trigger::Schedule(schedule),
        None if after.is_empty() => default,
        None => Trigger::After(after.iter().map(|name| JobName::new(name)).collect()),
    }
}

/// Which databases exist is checked later.
pub(super) fn any(_: &str) -> Result<(), Fault> {
    Ok(())
}

pub(super) fn window(section: &Section<'_>, _: Windows) -> Windows {
    windows(section, "window")
}

pub(super) fn blackout(section: &Section<'_>, _: Windows) -> Windows {
    windows(section, "blackout")
}

fn windows(section: &Section<'_>, key: &str) -> Windows {
    let mut windows = Vec::new();
    section.list(key, Vec::new(), r#"times such as "22:00-06:00" or "Sat,Sun""#, |text| {
        windows.push(Windows::parse_one(text).map_err(Fault::expected)?);
        Ok(())
    });
    windows.into_iter().collect()
}

pub(super) const ZONE: &str = r#"an IANA time zone such as "UTC" or "Europe/Berlin""#;

pub(super) fn zone(text: &str) -> Result<Zone, Fault> {
    let text = text.trim();
    Zone::named(text).ok_or_else(|| {
        // The most frequent mistake is to leave out the continent.
        let city = |name: &&str| {
            name.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(text))
        };
        let meant = Zone::names().find(city).or_else(|| nearest(text, Zone::names()));
        Fault { did_you_mean: meant.map(str::to_owned), ..Fault::expected(ZONE) }
    })
}

/// Reads SQL that can run in the way that `transaction` asks for.
pub(super) fn sql(section: &Section<'_>, default: String) -> String {
    // Read by its own line, too; the same problem is reported once.
    let transaction = section.boolean("transaction", true);
    let expected = "SQL, one or several statements";
    section.parsed("sql", default, expected, |text| script(text, transaction))
}

fn script(text: &str, transaction: bool) -> Result<String, Fault> {
    let text = sql::without_mark(text).trim();
    if text.len() > SQL_MAX {
        let expected = "bytes; a function in the database can be longer";
        return Err(Fault::expected(format!("at most {SQL_MAX} {expected}")));
    }
    if text.contains('\0') {
        return Err(Fault::expected("SQL without a NUL character"));
    }
    if sql::statements(text).is_empty() {
        return Err(Fault::expected("at least one statement").found("none"));
    }
    for refusal in sql::refusals(text) {
        if let Some((found, expected)) = refused(&refusal.reason, transaction) {
            let found = format!("{found} in line {} of it", refusal.line);
            return Err(Fault::expected(expected).found(found));
        }
    }
    Ok(text.to_owned())
}

/// Returns what was found and what is expected instead, or nothing if the statement may run.
fn refused(reason: &RefusalReason, transaction: bool) -> Option<(String, &'static str)> {
    Some(match reason {
        RefusalReason::Transaction(word) if transaction => (
            word.clone(),
            "no statement that begins or ends a transaction, because all of it is one",
        ),
        RefusalReason::Transaction(word) => (
            word.clone(),
            "transaction = true or a procedure that commits, because each statement runs alone",
        ),
        RefusalReason::OutsideOnly(_) if !transaction => return None,
        RefusalReason::OutsideOnly(line) => {
            (quote(line), "statements that may run in a transaction, or transaction = false")
        }
        RefusalReason::Psql(line) => (
            format!("the psql command {}", quote(line)),
            "SQL, because the server knows no commands of psql",
        ),
        RefusalReason::ClientCopy => {
            ("COPY through the client".to_owned(), "INSERT, or COPY of a file on the server")
        }
        RefusalReason::Unterminated(part) => (format!("{part} without an end"), "complete SQL"),
    })
}
