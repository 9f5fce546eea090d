//! Reads `[jobs]` and `[jobs.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::read::{Fault, Section, quote};
use super::super::schedule::SCHEDULE;
use super::super::tables::{IDENTIFIER_MAX, ZONE, connection_string, days, secs, zone};
use super::super::{Jobs, Origin, Schedule};
use super::*;
use crate::sql::{self, Why};

/// Far more than anybody can keep in mind; each has series of its own in the metrics.
const JOBS_MAX: usize = 500;
/// Where a script of this size belongs is a function in the database.
const SQL_MAX: usize = 64 * 1024;

/// Reads `[jobs]` and every job in it.
pub(in crate::config) fn jobs(section: &Section<'_>) -> Jobs {
    let default = Jobs::default();
    let mut all: BTreeMap<JobName, Job> = Builtin::ALL
        .into_iter()
        .map(|builtin| {
            (
                builtin.into(),
                section.section(builtin.as_str(), |section| builtin_job(section, builtin)),
            )
        })
        .collect();
    let max_concurrent = section.integer("max_concurrent", default.max_concurrent, 1, 8);
    let lease = section.duration("lease", default.lease, secs(5), secs(300));
    let history_keep = section.duration("history_keep", default.history_keep, days(1), KEEP_MAX);
    let history_max = section.integer("history_max", default.history_max, 10, 1_000_000);
    for (name, origin) in section.own_tables() {
        // Those beyond are read too, so that they are not taken for unknown keys.
        if let Some(job) = section.section(name, |job| sql_job(job, section, name, origin)) {
            all.insert(JobName::new(name), job);
            if all.len() == JOBS_MAX + 1 {
                section.problem(
                    origin,
                    name,
                    "one job too many",
                    format!("up to {JOBS_MAX}, with the built-in ones"),
                );
            }
        }
    }
    Jobs { max_concurrent, lease, history_keep, history_max, all }
}

/// A hundred years: more than any history means, less than what overflows a date.
const KEEP_MAX: Duration = days(36_500);

fn builtin_job(section: &Section<'_>, builtin: Builtin) -> Job {
    let default = Job::of(builtin);
    let trigger = schedule(section).map_or(default.trigger.clone(), Trigger::Schedule);
    if builtin.is_measured() {
        return Job { trigger, ..timing(section, default) };
    }
    Job { trigger, ..policy(section, default) }
}

fn sql_job(
    section: &Section<'_>,
    parent: &Section<'_>,
    name: &str,
    origin: &Origin,
) -> Option<Job> {
    if !is_name(name) {
        let wanted = "a name of 1 to 48 characters a-z, 0-9, - or _ that begins with a letter, or one of the built-in \
                      jobs: health-probe, connection-metrics, partitions, retention, vacuum, refresh and audit-seal";
        parent.problem(origin, name, quote(name), wanted);
    }
    if !section.has("sql") {
        let fault = Fault::wanted("the key \"sql\"").near(name, Builtin::ALL.map(Builtin::as_str));
        parent.meant(origin, name, "no sql, and no built-in job of this name", fault);
    }
    let transaction = section.boolean("transaction", true);
    let sql =
        section.checked("sql", "SQL, one or several statements", |text| script(text, transaction));
    let work = SqlWork {
        sql: sql.unwrap_or_default(),
        transaction,
        role: section.text("role", IDENTIFIER_MAX),
        login: section.secret("login_url", false, connection_string),
        search_path: section.text("search_path", 1_024).unwrap_or_else(|| "public".to_owned()),
        lock_timeout: section.duration("lock_timeout", SECOND, Duration::from_millis(1), HOUR),
    };
    let has_sql = !work.sql.is_empty();
    let schedule = schedule(section);
    let after = section.list("after", "names of jobs", |name| match is_name(name) {
        true => Ok(()),
        false => Err(Fault::wanted("the name of a job")),
    });
    if section.has("schedule") && section.has("after") {
        parent.problem(origin, name, "schedule and after together", "one of them");
    }
    if work.role.is_some() && work.login.is_some() {
        parent.problem(
            origin,
            name,
            "role and login_url together",
            "one of them: a login comes with a role of its own",
        );
    }
    let trigger = match schedule {
        Some(schedule) => Trigger::Schedule(schedule),
        None if after.is_empty() => Trigger::Request,
        None => Trigger::After(after.iter().map(|name| JobName::new(name)).collect()),
    };
    let job = policy(section, Job { trigger, ..Job::sql(work) });
    has_sql.then_some(job)
}

/// What holds for every job.
fn timing(section: &Section<'_>, default: Job) -> Job {
    Job {
        enabled: section.boolean("enabled", default.enabled),
        timezone: section.checked("timezone", ZONE, zone).unwrap_or(default.timezone),
        timeout: section.duration("timeout", default.timeout, secs(1), days(7)),
        ..default
    }
}

/// What holds for every job of the ledger.
fn policy(section: &Section<'_>, default: Job) -> Job {
    let windows = |key: &str| {
        let texts = section.list(key, "times such as \"22:00-06:00\" or \"Sat,Sun\"", |text| {
            Windows::parse_one(text).map(drop).map_err(Fault::wanted)
        });
        // What does not parse is reported above.
        texts.iter().filter_map(|text| Windows::parse_one(text).ok()).collect::<Windows>()
    };
    let deadline = section.duration("deadline", Duration::ZERO, secs(1), days(366));
    Job {
        databases: section.list("databases", "names of databases", |_| Ok(())),
        retries: section.integer("retries", default.retries, 0, 10),
        overlap: section.choice(
            "overlap",
            default.overlap,
            &[("skip", Overlap::Skip), ("queue", Overlap::Queue)],
        ),
        catch_up: section.choice(
            "catch_up",
            default.catch_up,
            &[("none", CatchUp::None), ("latest", CatchUp::Latest), ("all", CatchUp::All)],
        ),
        catch_up_max: section.integer("catch_up_max", default.catch_up_max, 1, 1_000),
        deadline: (!deadline.is_zero()).then_some(deadline),
        jitter: section.duration("jitter", default.jitter, Duration::ZERO, days(1)),
        window: windows("window"),
        blackout: windows("blackout"),
        on_failure: section.choice(
            "on_failure",
            default.on_failure,
            &[
                ("report", AfterFailure::Report),
                ("pause", AfterFailure::Pause),
                ("ignore", AfterFailure::Ignore),
            ],
        ),
        ..timing(section, default)
    }
}

fn schedule(section: &Section<'_>) -> Option<Schedule> {
    section.checked("schedule", SCHEDULE, |text| Schedule::parse(text).map_err(Fault::wanted))
}

/// SQL that can run as it is wanted: as one transaction of ours, or statement by statement.
fn script(text: &str, transaction: bool) -> Result<String, Fault> {
    let text = sql::without_mark(text).trim();
    if text.len() > SQL_MAX {
        return Err(Fault::wanted(format!(
            "at most {SQL_MAX} bytes; a function in the database can be longer"
        )));
    }
    if text.contains('\0') {
        return Err(Fault::wanted("SQL without a NUL character"));
    }
    if sql::statements(text).is_empty() {
        return Err(Fault {
            found: Some("no statement".to_owned()),
            ..Fault::wanted("at least one")
        });
    }
    let refusal = sql::refusals(text)
        .into_iter()
        .find_map(|refusal| Some((refusal.line, refused(&refusal.why, transaction)?)));
    match refusal {
        None => Ok(text.to_owned()),
        Some((line, (found, wanted))) => Err(Fault {
            found: Some(format!("in line {line} of it {found}")),
            ..Fault::wanted(wanted)
        }),
    }
}

/// What was found and what is wanted instead; nothing where the statement is fine.
fn refused(why: &Why, transaction: bool) -> Option<(String, &'static str)> {
    Some(match why {
        Why::Transaction(word) if transaction => (
            word.clone(),
            "no statement that begins or ends a transaction: all of it is one already",
        ),
        Why::Transaction(word) => (
            word.clone(),
            "transaction = true, or a procedure that commits: here each statement runs by itself",
        ),
        Why::OutsideOnly(_) if !transaction => return None,
        Why::OutsideOnly(line) => {
            (quote(line), "transaction = false for it: PostgreSQL refuses it inside a transaction")
        }
        Why::Psql(line) => {
            (format!("the psql command {}", quote(line)), "SQL, which is all that the server knows")
        }
        Why::ClientCopy => {
            ("COPY through the client".to_owned(), "INSERT, or COPY of a file on the server")
        }
        Why::Unterminated(what) => (format!("{what} without an end"), "one with an end"),
    })
}

fn is_name(name: &str) -> bool {
    let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_');
    name.len() <= 48 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits)
}
