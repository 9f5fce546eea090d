//! What is kept in order over time: ids before they wrap, the schema, partitions, jobs.

use serde_json::json;

use super::{Jobs, PartitionsNeeded, Schema, Status, Verdict, unavailable};
use crate::config;
use crate::observe::Snapshot;

/// Both counters have 31 bits before they wrap: PostgreSQL, "Preventing Transaction ID Wraparound
/// Failures" (section 25.1.5 of its documentation).
const WRAP: f64 = 2_147_483_648.0;

pub(super) fn wraparound(snapshot: &Snapshot, limits: &config::Health) -> Verdict {
    const NAME: &str = "wraparound";
    let Some(ages) = &snapshot.ages else {
        return unavailable(NAME, snapshot, &["wraparound"]);
    };
    let Some(oldest) = ages.iter().max_by_key(|age| age.xid_age.max(age.mxid_age)) else {
        return Verdict::new(NAME, Status::Unknown, "not_measured", "the server shows no database");
    };
    let (what, age) = if oldest.xid_age >= oldest.mxid_age {
        ("transaction ids", oldest.xid_age)
    } else {
        ("multixact ids", oldest.mxid_age)
    };
    let share = age as f64 / WRAP;
    let found =
        format!("the database {} has used {:.0} % of its {what}", oldest.name, share * 100.0);
    let remedy =
        "end old transactions, prepared transactions and slots, then VACUUM its oldest tables";
    let verdict = if share >= limits.wraparound_unhealthy {
        let limit = limits.wraparound_unhealthy * 100.0;
        Verdict::unhealthy(NAME, "wraparound_near", format!("{found}, the limit is {limit:.0} %"))
            .remedy(remedy)
    } else if share >= limits.wraparound_degraded {
        let limit = limits.wraparound_degraded * 100.0;
        Verdict::degraded(NAME, "wraparound_ahead", format!("{found}, the limit is {limit:.0} %"))
            .remedy(remedy)
    } else {
        Verdict::healthy(NAME, found)
    };
    let own = ages.iter().find(|age| age.own);
    verdict.measured(json!({ "oldest": oldest, "own": own }))
}

pub(super) fn schema(schema: Option<&Schema>) -> Verdict {
    const NAME: &str = "schema";
    let Some(schema) = schema else {
        return Verdict::new(
            NAME,
            Status::Unknown,
            "not_measured",
            "the schema has not been verified yet",
        );
    };
    let verdict = if schema.untrusted {
        Verdict::unhealthy(
            NAME,
            "untrusted_schema",
            "another role controls the schema steward, so nothing of it is used and no job runs",
        )
        .remedy("see the log or `pgsteward check --connect` for the owner and the statements")
    } else if schema.failed.is_some() && !schema.mismatches.is_empty() {
        Verdict::unhealthy(
            NAME,
            "schema_mismatch",
            format!("no migration is applied, and no job runs: {}", some(&schema.mismatches)),
        )
        .remedy("restore the file, or write the change as a new migration")
    } else if let Some(failed) = &schema.failed {
        Verdict::unhealthy(NAME, "migration_failed", format!("a migration failed: {failed}"))
            .remedy("correct the file; it is retried when the file changes or on SIGHUP")
    } else if !schema.mismatches.is_empty() {
        let count = schema.mismatches.len();
        Verdict::degraded(
            NAME,
            "schema_mismatch",
            format!("{count} differ from what was applied: {}", some(&schema.mismatches)),
        )
        .remedy("see `pgsteward migrate status`")
    } else {
        Verdict::healthy(NAME, "the schema is as it was migrated")
    };
    verdict
        .measured(json!({ "mismatches": schema.mismatches.iter().take(SHOWN).collect::<Vec<_>>() }))
}

pub(super) fn partitions(snapshot: &Snapshot, needed: &[PartitionsNeeded]) -> Verdict {
    const NAME: &str = "partitions";
    let Some(seen) = &snapshot.partitions else {
        return unavailable(NAME, snapshot, &["partitions"]);
    };
    let (mut closed, mut short, mut measured) = (Vec::new(), Vec::new(), serde_json::Map::new());
    for need in needed {
        let Some(table) = seen.iter().find(|table| table.table == need.table) else {
            closed.push(format!("{} is no partitioned table", need.table));
            continue;
        };
        let ahead = table.ahead(snapshot.time);
        measured.insert(need.table.clone(), json!(ahead));
        match ahead {
            None if table.default => short.push(format!("{} has none for today", need.table)),
            None => closed.push(format!("{} has none for today and takes no rows", need.table)),
            Some(ahead) if ahead < need.ahead => {
                short.push(format!("{} has {ahead} of {} ahead", need.table, need.ahead));
            }
            Some(_) => {}
        }
    }
    let remedy = "see the last run of the job `partitions`, which creates them";
    let verdict = if !closed.is_empty() {
        Verdict::unhealthy(NAME, "partition_missing", format!("partitions: {}", some(&closed)))
            .remedy(remedy)
    } else if !short.is_empty() {
        Verdict::degraded(NAME, "partitions_short", format!("partitions: {}", some(&short)))
            .remedy(remedy)
    } else {
        Verdict::healthy(NAME, "every partitioned table has its partitions ahead")
    };
    verdict.measured(measured.into())
}

pub(super) fn jobs(jobs: Option<&Jobs>) -> Verdict {
    const NAME: &str = "jobs";
    let Some(jobs) = jobs else {
        return Verdict::new(
            NAME,
            Status::Unknown,
            "not_measured",
            "no job has been scheduled yet",
        );
    };
    let names: Vec<&str> = jobs.failing.iter().map(|job| job.name.as_str()).collect();
    let verdict = if !jobs.failing.is_empty() {
        let failing: Vec<String> =
            jobs.failing.iter().map(|job| format!("{} ({})", job.name, job.error)).collect();
        Verdict::degraded(
            NAME,
            "jobs_failing",
            format!("the last run failed of: {}", some(&failing)),
        )
        .remedy("correct the cause that the error names, then run the job again")
    } else if let Some(by) = &jobs.paused {
        Verdict::degraded(NAME, "paused", format!("all jobs are paused by {by}"))
            .remedy("resume them with `pgsteward resume --all`")
    } else if !jobs.not_permitted.is_empty() {
        let each: Vec<String> =
            jobs.not_permitted.iter().map(|job| format!("{}: {}", job.name, job.error)).collect();
        Verdict::degraded(NAME, "not_permitted", some(&each))
            .remedy("grant the privileges that the message names, or disable the job")
    } else if jobs.warnings.is_empty() {
        Verdict::healthy(NAME, "no job's last run failed")
    } else {
        Verdict::healthy(NAME, format!("no job's last run failed, but: {}", some(&jobs.warnings)))
    };
    let not_permitted: Vec<&str> = jobs.not_permitted.iter().map(|job| job.name.as_str()).collect();
    verdict.measured(json!({
        "failing": names,
        "paused": jobs.paused.is_some(),
        "not_permitted": not_permitted,
        "warnings": jobs.warnings.len(),
    }))
}

/// How many names a message or a measurement lists.
const SHOWN: usize = 5;

pub(super) fn some(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
