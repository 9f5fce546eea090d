//! VACUUM and ANALYZE of the tables that need it, the neediest first.
//!
//! ```text
//! read counters ─► judge need ─► for each: read again, check the right to, VACUUM, look what it did
//! ```
//! VACUUM fails silently: without ownership it only warns, a table that is locked it passes over, and
//! rows that somebody's snapshot can still see it leaves. So the right is checked before, notices
//! are kept, the counters are read after, and where the dead rows did not go the holder of the
//! oldest snapshot is named.
//!
//! It runs with SKIP_LOCKED (it waits for nobody), without truncating the table's tail (that needs
//! the strongest lock, and replays it on standbys), and since PostgreSQL 16 in a small ring of buffers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use super::attempts::{Failures, LOCK_TIMEOUT, NotPermitted, rest, short};
use super::{Context, Report, acts, unfenced};
use crate::config::{Mode, Vacuum};
use crate::db::{Error, Kind, Tx};
use crate::observe::tables::vacuum::{
    Counters, LastMaintenance, counters, has_buffer_usage_limit, ineligible, last_maintenance,
    xmin_holder,
};
use crate::store::requests::RunOptions;

/// PostgreSQL's own `autovacuum_analyze_threshold`: fewer changed rows say nothing.
const CHANGED_MIN: i64 = 50;
/// PostgreSQL's own `autovacuum_vacuum_insert_threshold` and `…_scale_factor`: a table that only grows
/// needs VACUUM too, for its visibility map and for freezing.
const INSERTED_MIN: i64 = 1_000;
const INSERTED_RATIO: f64 = 0.2;
/// Statistics arrive a moment after the command; up to 14 through a collector that may be late.
const STATISTICS_WAIT: Duration = Duration::from_secs(2);
const STATISTICS_STEP: Duration = Duration::from_millis(50);

/// What a table needs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Need {
    vacuum: bool,
    analyze: bool,
    /// How many times the threshold that it is furthest over.
    urgency: f64,
}

/// Judges the counters of one table.
fn judge(table: &Counters, config: &Vacuum) -> Option<Need> {
    let over = |count: i64, min: i64, ratio: f64, of: f64| {
        count as f64 / (min as f64).max(ratio * of).max(1.0)
    };
    let dead_min = i64::try_from(config.dead_rows_min).unwrap_or(i64::MAX);
    let dead = over(table.dead, dead_min, config.dead_ratio, table.live as f64);
    let inserted = over(table.inserted, INSERTED_MIN, INSERTED_RATIO, table.rows);
    let changed = over(table.changed, CHANGED_MIN, config.changed_ratio, table.rows);
    let vacuum = !table.parent && (dead >= 1.0 || inserted >= 1.0);
    let analyze = changed >= 1.0 || table.stale_parent;
    let urgency = if table.parent { changed } else { dead.max(inserted).max(changed) };
    (vacuum || analyze).then_some(Need { vacuum, analyze, urgency })
}

/// Vacuums and analyzes what needs it, at most `vacuum.tables_max` tables.
pub async fn run(ctx: &mut Context<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    if ctx.config.mode == Mode::Observe {
        report.skipped = Some("mode = observe: nothing of the user's is vacuumed".to_owned());
        return Ok(report);
    }
    if !ctx.conn.has_session_state() {
        report.skipped = Some(unfenced::NEEDS_SESSION.to_owned());
        return Ok(report);
    }
    let tables_max = ctx.config.vacuum.tables_max as usize;
    let (needy, others, polite) = look(ctx).await?;
    // What cannot be done takes no place from what can.
    let (mut needy, barred): (Vec<Counters>, Vec<Counters>) =
        needy.into_iter().partition(|t| obstacle(t).is_none());
    let more = needy.len().saturating_sub(tables_max) + barred.len().saturating_sub(tables_max);
    needy.truncate(tables_max);
    let total = needy.len();
    let mut not_permitted = NotPermitted::default();
    for table in barred.iter().filter(|table| !table.permitted) {
        not_permitted.keep(&table.name(), &table.grant);
    }
    let nothing_else = needy.is_empty() && barred.iter().all(|table| !table.permitted);

    let mut detail = serde_json::Map::new();
    let mut failures = Failures::default();
    let mut acts = acts::Done::new();
    for table in barred.iter().take(tables_max) {
        detail.insert(table.name(), json!({ "skipped": obstacle(table) }));
    }
    for (name, why) in others {
        detail.insert(name, json!({ "skipped": why }));
    }
    for (done, table) in needy.into_iter().enumerate() {
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        let name = table.name();
        ctx.tell(done, total, &name, "vacuum");
        match one(ctx, &table, polite).await {
            Ok(Treated::Done(outcome)) => {
                report.rows += 1;
                acts.push((name.clone(), commands(&outcome)));
                detail.insert(name, outcome);
            }
            Ok(Treated::Skipped(reason)) => {
                detail.insert(name, json!({ "skipped": reason }));
            }
            Err(error) => failures.keep(&name, error)?,
        }
        if ctx.time_left().is_zero() {
            failures.keep("the rest", Error::new(Kind::Timeout, "the job's deadline passed"))?;
            break;
        }
    }
    if let Err(error) = acts::record(ctx, "maintenance.vacuum", "tables", acts).await {
        failures.keep("the audit trail", error)?;
    }
    report.failure = failures.finish();
    not_permitted.tell(&mut report, nothing_else);
    if more > 0 {
        detail.insert("…".to_owned(), json!({ "left_for_the_next_run": more }));
    }
    report.detail = detail.into();
    Ok(report)
}

/// What a run would do to one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// `schema.table`
    pub object: String,
    pub vacuum: bool,
    pub analyze: bool,
    pub dead_rows: i64,
    pub live_rows: i64,
    pub changed_rows: i64,
    /// Why it would be left alone all the same.
    pub skipped: Option<String>,
}

/// What a run would do now, the neediest first. Changes nothing.
pub async fn plan(
    tx: &Tx<'_>,
    config: &Vacuum,
    options: &RunOptions,
) -> Result<Vec<Planned>, Error> {
    let needy = needy(counters(tx, &config.schemas_exclude, None).await?, config, options);
    let others = others(tx, config, options, &needy).await?;
    let planned = |(need, table): (Need, Counters)| Planned {
        object: table.name(),
        vacuum: need.vacuum,
        analyze: need.analyze,
        dead_rows: table.dead,
        live_rows: table.live,
        changed_rows: table.changed,
        skipped: obstacle(&table),
    };
    let others = others.into_iter().map(|(object, why)| Planned {
        object,
        vacuum: false,
        analyze: false,
        dead_rows: 0,
        live_rows: 0,
        changed_rows: 0,
        skipped: Some(why),
    });
    Ok(needy.into_iter().map(planned).take(config.tables_max as usize).chain(others).collect())
}

/// Of what was named, what is not among the needy, and why: whoever mistypes a name is to hear of it.
async fn others(
    tx: &Tx<'_>,
    config: &Vacuum,
    options: &RunOptions,
    needy: &[(Need, Counters)],
) -> Result<Vec<(String, String)>, Error> {
    let Some(named) = &options.tables else { return Ok(Vec::new()) };
    let is_needy = |name: &String| needy.iter().any(|(_, table)| table.name() == *name);
    let names: Vec<String> = named.iter().filter(|name| !is_needy(name)).cloned().collect();
    let reasons = ineligible(tx, &names, &config.schemas_exclude).await?;
    Ok(names
        .into_iter()
        .zip(reasons)
        .map(|(name, why)| (name, why.unwrap_or_else(|| "it needs nothing".to_owned())))
        .collect())
}

/// What needs something, the neediest first.
fn needy(tables: Vec<Counters>, config: &Vacuum, options: &RunOptions) -> Vec<(Need, Counters)> {
    let mut needy: Vec<(Need, Counters)> = tables
        .into_iter()
        .filter(|table| options.covers(&table.name()))
        .filter_map(|table| judge(&table, config).map(|need| (need, table)))
        .collect();
    needy.sort_by(|(a, _), (b, _)| b.urgency.total_cmp(&a.urgency));
    needy
}

/// Of an outcome, as the audit trail names it.
fn commands(outcome: &serde_json::Value) -> serde_json::Value {
    let done = ["vacuum", "analyze"].into_iter().filter(|command| outcome[command] == true);
    json!(done.collect::<Vec<_>>())
}

/// The tables that need something, the neediest first; what else was named, and why it needs nothing; and whether
/// VACUUM knows BUFFER_USAGE_LIMIT.
async fn look(
    ctx: &mut Context<'_>,
) -> Result<(Vec<Counters>, Vec<(String, String)>, bool), Error> {
    let (config, wanted) = (&ctx.config.vacuum, &ctx.options);
    let within = short(ctx).read_only();
    let read = ctx.conn.transaction(&within, |tx| {
        Box::pin(async move {
            let needy = needy(counters(tx, &config.schemas_exclude, None).await?, config, wanted);
            let others = others(tx, config, wanted, &needy).await?;
            Ok((
                needy.into_iter().map(|(_, table)| table).collect(),
                others,
                has_buffer_usage_limit(tx).await?,
            ))
        })
    });
    read.await
}

/// Why a table is left alone although it needs something.
fn obstacle(table: &Counters) -> Option<String> {
    if !table.permitted {
        Some(format!("not permitted, needs {}", table.grant))
    } else if table.being_vacuumed {
        Some("it is being vacuumed now".to_owned())
    } else {
        None
    }
}

enum Treated {
    Done(serde_json::Value),
    Skipped(String),
}

async fn one(ctx: &mut Context<'_>, table: &Counters, polite: bool) -> Result<Treated, Error> {
    let skipped = |reason: &str| Ok(Treated::Skipped(reason.to_owned()));
    // Autovacuum may have come first, or somebody may have dropped it.
    let config = &ctx.config.vacuum;
    let options = short(ctx).read_only();
    let (fresh, before) = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let fresh = counters(tx, &config.schemas_exclude, Some(table.oid)).await?.pop();
                Ok((fresh, last_maintenance(tx, table.oid).await?))
            })
        })
        .await?;
    let Some(table) = fresh else { return skipped("it no longer exists") };
    let Some(need) = judge(&table, config) else {
        return skipped("no longer needed: somebody else has done it");
    };
    if let Some(obstacle) = obstacle(&table) {
        return Ok(Treated::Skipped(obstacle));
    }

    let command = command(&table, need, polite);
    ctx.conn.take_notices();
    let started = Instant::now();
    let bound = ctx.time_left();
    unfenced::run(ctx, "vacuum", &command, bound, LOCK_TIMEOUT).await?;
    let took = started.elapsed();
    let (after, seen) = look_after(ctx, &table, need, before).await?;
    let notices = ctx.conn.take_notices();
    if !seen {
        let why = if notices.is_empty() {
            "the server recorded nothing".to_owned()
        } else {
            notices.join("; ")
        };
        return Ok(Treated::Skipped(format!("not done: {why}")));
    }
    let mut outcome = json!({
        "vacuum": need.vacuum,
        "analyze": need.analyze,
        "dead_before": table.dead,
        "dead_after": after.dead,
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    if !notices.is_empty() {
        outcome["notices"] = json!(notices);
    }
    if need.vacuum && table.dead > 0 && after.dead >= table.dead {
        outcome["held_by"] = json!(holder(ctx).await?);
    }
    Ok(Treated::Done(outcome))
}

fn command(table: &Counters, need: Need, polite: bool) -> String {
    if !need.vacuum {
        return format!("ANALYZE (SKIP_LOCKED) {}", table.quoted());
    }
    let analyze = if need.analyze { "ANALYZE, " } else { "" };
    let ring = if polite { ", BUFFER_USAGE_LIMIT '2MB'" } else { "" };
    format!("VACUUM ({analyze}SKIP_LOCKED, TRUNCATE false{ring}) {}", table.quoted())
}

/// Waits until the statistics show that it was done; false when they never do.
async fn look_after(
    ctx: &mut Context<'_>,
    table: &Counters,
    need: Need,
    before: LastMaintenance,
) -> Result<(LastMaintenance, bool), Error> {
    let since = Instant::now();
    let oid = table.oid;
    loop {
        let options = short(ctx).read_only();
        let after = ctx
            .conn
            .transaction(&options, |tx| Box::pin(async move { last_maintenance(tx, oid).await }))
            .await?;
        let newer = |new: Option<DateTime<Utc>>, old: Option<DateTime<Utc>>| new > old;
        let vacuumed = !need.vacuum || newer(after.vacuumed, before.vacuumed);
        let analyzed = !need.analyze || newer(after.analyzed, before.analyzed);
        if vacuumed && analyzed {
            return Ok((after, true));
        }
        if since.elapsed() >= STATISTICS_WAIT || ctx.stopping() || ctx.time_left().is_zero() {
            return Ok((after, false));
        }
        rest(ctx, STATISTICS_STEP).await;
    }
}

async fn holder(ctx: &mut Context<'_>) -> Result<String, Error> {
    let options = short(ctx).read_only();
    let holder =
        ctx.conn.transaction(&options, |tx| Box::pin(async move { xmin_holder(tx).await })).await?;
    Ok(holder.unwrap_or_else(|| {
        "nobody that this role can see; GRANT pg_monitor to see all sessions".to_owned()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Vacuum {
        Vacuum {
            dead_ratio: 0.1,
            dead_rows_min: 1_000,
            changed_ratio: 0.1,
            tables_max: 50,
            schemas_exclude: Vec::new(),
        }
    }

    fn table(live: i64, dead: i64, changed: i64, inserted: i64) -> Counters {
        Counters {
            oid: 1,
            schema: "public".to_owned(),
            table: "t".to_owned(),
            parent: false,
            permitted: true,
            grant: String::new(),
            live,
            dead,
            rows: live as f64,
            changed,
            inserted,
            stale_parent: false,
            being_vacuumed: false,
        }
    }

    #[test]
    fn need_is_judged_by_the_larger_of_count_and_ratio() {
        // (live, dead, changed, inserted since VACUUM) → (vacuum, analyze)
        let cases = [
            ((100, 999, 0, 0), None),
            ((100, 1_000, 0, 0), Some((true, false))),
            ((100_000, 9_999, 0, 0), None),
            ((100_000, 10_000, 0, 0), Some((true, false))),
            ((100_000, 10_000, 10_000, 0), Some((true, true))),
            ((100, 0, 49, 0), None),
            ((100, 0, 50, 0), Some((false, true))),
            ((10_000, 0, 999, 0), None),
            ((10_000, 0, 1_000, 0), Some((false, true))),
            ((1_000, 0, 0, 1_000), Some((true, false))),
            ((10_000, 0, 0, 1_999), None),
            ((10_000, 0, 0, 2_000), Some((true, false))),
            ((0, 0, 0, 0), None),
        ];
        for ((live, dead, changed, inserted), wanted) in cases {
            let need = judge(&table(live, dead, changed, inserted), &config());
            assert_eq!(
                need.map(|n| (n.vacuum, n.analyze)),
                wanted,
                "live {live}, dead {dead}, changed {changed}, inserted {inserted}"
            );
        }
    }

    #[test]
    fn a_parent_of_partitions_is_only_analyzed() {
        let mut parent = table(0, 5_000, 5_000, 5_000);
        parent.parent = true;
        let need = judge(&parent, &config()).expect("changed");
        assert!(need.analyze && !need.vacuum);
        assert_eq!(command(&parent, need, true), "ANALYZE (SKIP_LOCKED) \"public\".\"t\"");
    }

    #[test]
    fn the_furthest_over_its_threshold_is_the_neediest() {
        let small = judge(&table(100, 5_000, 0, 0), &config()).expect("5 times over");
        let large = judge(&table(1_000_000, 200_000, 0, 0), &config()).expect("twice over");
        assert!(small.urgency > large.urgency, "{small:?} {large:?}");
    }

    #[test]
    fn vacuum_waits_for_nobody_and_keeps_the_tail() {
        let need = Need { vacuum: true, analyze: true, urgency: 1.0 };
        let t = table(1, 1, 1, 1);
        assert_eq!(
            command(&t, need, false),
            "VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false) \"public\".\"t\""
        );
        assert_eq!(
            command(&t, need, true),
            "VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false, BUFFER_USAGE_LIMIT '2MB') \"public\".\"t\""
        );
    }
}
