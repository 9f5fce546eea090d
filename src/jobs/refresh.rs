//! Materialized views brought up to date.
//!
//! ```text
//! look up ─► not permitted? told ─► nothing changed beneath? unchanged
//!         ─► not populated: REFRESH ─► unique index: REFRESH CONCURRENTLY ─► none: refused
//! ```
//! A plain REFRESH locks readers out for as long as it takes, so it is done only where there is
//! nothing to read yet. What lies beneath is read before the refresh and kept in the run's detail; the
//! next run compares. A refresh is one fenced transaction.
//!
//! The pinned `search_path` holds inside too, as PostgreSQL 17 does for everybody: functions that a view
//! uses must set their own.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::attempts::{Failures, LOCK_TIMEOUT, LockAttempts, NotPermitted, short};
use super::{Context, Report, acts};
use crate::config::{Builtin, Config, Mode};
use crate::db::{Error, Kind, Tx, TxOptions};
use crate::observe::tables::views::{SourceState, View, find, source_state};
use crate::sets::Manifest;
use crate::store;
use crate::store::requests::RunOptions;

/// What a later run must know of the last refresh of a view; kept in the run's detail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Refreshed {
    fingerprint: String,
    refreshed_at: DateTime<Utc>,
}

/// Refreshes the views of the applied sets and those of the configuration.
pub async fn run(ctx: &mut Context<'_>) -> Result<Report, Error> {
    let mut report = Report::default();
    if ctx.config.mode == Mode::Observe {
        report.skipped = Some("mode = observe: nothing of the user's is refreshed".to_owned());
        return Ok(report);
    }
    let mut views = configured(ctx.config, ctx.sets);
    views.retain(|view| ctx.options.covers(view));
    if views.is_empty() {
        let why =
            if ctx.options.tables.is_some() { "none of these views is" } else { "no view is" };
        report.skipped = Some(format!("{why} named in refresh.views"));
        return Ok(report);
    }
    let options = short(ctx).read_only();
    let last = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(
                async move { store::run_history::last_detail(tx, Builtin::Refresh.as_str()).await },
            )
        })
        .await?
        .unwrap_or_default();

    let mut detail = serde_json::Map::new();
    let mut failures = Failures::default();
    let mut acts = acts::Done::new();
    let mut not_permitted = NotPermitted::default();
    let mut nothing_else = true;
    let total = views.len();
    for (done, name) in views.into_iter().enumerate() {
        if ctx.stopping() {
            report.stopped = true;
            break;
        }
        ctx.tell(done, total, name, "refresh");
        match one(ctx, name, last.get(name)).await {
            Ok(Treated::Barred(grant)) => {
                detail.insert(
                    name.to_owned(),
                    json!({ "skipped": format!("not permitted, needs {grant}") }),
                );
                not_permitted.keep(name, &grant);
                continue;
            }
            Ok(Treated::Refreshed(outcome)) => {
                report.rows += 1;
                acts.push((name.to_owned(), outcome["how"].clone()));
                detail.insert(name.to_owned(), outcome);
            }
            Ok(Treated::Unchanged(outcome)) => {
                detail.insert(name.to_owned(), outcome);
            }
            Err(error) => failures.keep(name, error)?,
        }
        nothing_else = false;
    }
    if let Err(error) = acts::record(ctx, "maintenance.refresh", "views", acts).await {
        failures.keep("the audit trail", error)?;
    }
    report.failure = failures.finish();
    let nothing_else = nothing_else && !report.stopped;
    not_permitted.tell(&mut report, nothing_else);
    report.detail = detail.into();
    Ok(report)
}

/// Returns the views of the applied sets, then those of the configuration.
pub fn configured<'a>(config: &'a Config, sets: &[&Manifest]) -> Vec<&'a str> {
    let mut views: Vec<&str> = sets.iter().flat_map(|set| set.views).copied().collect();
    let more = config.refresh.views.iter().map(String::as_str);
    let more: Vec<&str> = more.filter(|view| !views.contains(view)).collect();
    views.extend(more);
    views
}

/// What a run would do to a view.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Planned {
    /// `schema.view`
    pub object: String,
    pub refresh: bool,
    /// How, or why.
    pub why: String,
    /// Why it would be left alone.
    pub skipped: Option<String>,
}

/// What a run would do now. Changes nothing.
pub async fn plan(
    tx: &Tx<'_>,
    config: &Config,
    sets: &[&Manifest],
    options: &RunOptions,
) -> Result<Vec<Planned>, Error> {
    let last =
        store::run_history::last_detail(tx, Builtin::Refresh.as_str()).await?.unwrap_or_default();
    let mut planned = Vec::new();
    for name in configured(config, sets).into_iter().filter(|view| options.covers(view)) {
        let (schema, relation) = name.split_once('.').unwrap_or(("public", name));
        let mut one =
            Planned { object: name.to_owned(), refresh: false, why: String::new(), skipped: None };
        match find(tx, schema, relation).await? {
            None => one.skipped = Some("there is no view of this name".to_owned()),
            Some(view) => {
                let now = source_state(tx, view.oid).await?;
                match decide(&view, &now, last.get(name), config.refresh.max_staleness) {
                    Decision::Refresh(How::Plain) => {
                        (one.refresh, one.why) = (true, "it holds nothing yet".to_owned());
                    }
                    Decision::Refresh(How::Concurrently) => {
                        (one.refresh, one.why) =
                            (true, "it may have changed; readers go on meanwhile".to_owned());
                    }
                    Decision::Unchanged(_) => one.why = "nothing has changed beneath it".to_owned(),
                    Decision::Barred => {
                        one.skipped = Some(format!("not permitted, needs {}", view.grant));
                    }
                    Decision::Refuse(why) => one.skipped = Some(why),
                }
            }
        }
        planned.push(one);
    }
    Ok(planned)
}

/// What became of a view, with the detail; or the GRANT that it needs.
enum Treated {
    Refreshed(Value),
    Unchanged(Value),
    Barred(String),
}

async fn one(ctx: &mut Context<'_>, name: &str, last: Option<&Value>) -> Result<Treated, Error> {
    let (schema, relation) = name.split_once('.').unwrap_or(("public", name));
    let options = short(ctx).read_only();
    let (view, now) = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let Some(view) = find(tx, schema, relation).await? else { return Ok(None) };
                let now = source_state(tx, view.oid).await?;
                Ok(Some((view, now)))
            })
        })
        .await?
        .ok_or_else(|| {
            let what =
                format!("there is no view {name} (names are compared exactly, case included)");
            Error::new(Kind::Sql, what)
        })?;
    let how = match decide(&view, &now, last, ctx.config.refresh.max_staleness) {
        Decision::Refresh(how) => how,
        Decision::Barred => return Ok(Treated::Barred(view.grant)),
        Decision::Unchanged(kept) => {
            return Ok(Treated::Unchanged(
                json!({ "unchanged": true, "fingerprint": kept.fingerprint, "refreshed_at": kept.refreshed_at }),
            ));
        }
        Decision::Refuse(what) => return Err(Error::new(Kind::Sql, what)),
    };
    let took = refresh(ctx, &view, how).await?;
    let mut outcome = json!({
        "how": how,
        "duration_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "refreshed_at": now.now,
    });
    match now.unprovable {
        Some(why) => outcome["always_because"] = json!(why),
        None => outcome["fingerprint"] = json!(now.fingerprint),
    }
    Ok(Treated::Refreshed(outcome))
}

/// How a view is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum How {
    Plain,
    Concurrently,
}

#[derive(Debug, Clone, PartialEq)]
enum Decision {
    Refresh(How),
    Unchanged(Refreshed),
    /// This role may not.
    Barred,
    Refuse(String),
}

fn decide(
    view: &View,
    now: &SourceState,
    last: Option<&Value>,
    max_staleness: Duration,
) -> Decision {
    let quoted = view.quoted();
    if !view.materialized {
        return Decision::Refuse(format!(
            "{quoted} is no materialized view; remove it from refresh.views"
        ));
    }
    if !view.permitted {
        return Decision::Barred;
    }
    if !view.populated {
        return Decision::Refresh(How::Plain);
    }
    if !view.unique_index {
        return Decision::Refuse(format!(
            "{quoted} has no unique index over plain columns and all rows, so refreshing it would lock its readers \
             out: CREATE UNIQUE INDEX CONCURRENTLY ON {quoted} (…)"
        ));
    }
    let last = last.and_then(|last| Refreshed::deserialize(last).ok());
    match last {
        Some(last)
            if now.unprovable.is_none()
                && last.fingerprint == now.fingerprint
                && (now.now - last.refreshed_at).to_std().is_ok_and(|age| age < max_staleness) =>
        {
            Decision::Unchanged(last)
        }
        _ => Decision::Refresh(How::Concurrently),
    }
}

async fn refresh(ctx: &mut Context<'_>, view: &View, how: How) -> Result<Duration, Error> {
    let concurrently = if how == How::Concurrently { "CONCURRENTLY " } else { "" };
    let sql = &format!("REFRESH MATERIALIZED VIEW {concurrently}{}", view.quoted());
    let mut attempts = LockAttempts::new();
    loop {
        let started = Instant::now();
        let options = TxOptions::within(ctx.time_left()).lock_timeout(LOCK_TIMEOUT);
        let done = ctx
            .transaction(&options, |tx| Box::pin(async move { tx.batch("refresh", sql).await }))
            .await;
        match done {
            Ok(()) => return Ok(started.elapsed()),
            Err(error) => attempts.after(ctx, error).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn view() -> View {
        View {
            oid: 1,
            schema: "s".to_owned(),
            table: "v".to_owned(),
            grant: String::new(),
            materialized: true,
            populated: true,
            permitted: true,
            unique_index: true,
        }
    }

    fn source_state() -> SourceState {
        SourceState {
            unprovable: None,
            fingerprint: "f".to_owned(),
            now: DateTime::UNIX_EPOCH + HOUR,
        }
    }

    fn last(fingerprint: &str, age: Duration) -> Value {
        json!({ "fingerprint": fingerprint, "refreshed_at": source_state().now - age })
    }

    #[test]
    fn a_view_is_unchanged_only_when_that_is_proven_and_recent() {
        let minute = Duration::from_secs(60);
        let unprovable = SourceState { unprovable: Some("now()".to_owned()), ..source_state() };
        let cases = [
            ("the same", Some(last("f", minute)), source_state(), true),
            ("changed beneath", Some(last("g", minute)), source_state(), false),
            ("not provable", Some(last("f", minute)), unprovable, false),
            ("too long ago", Some(last("f", HOUR)), source_state(), false),
            (
                "the clock went back",
                Some(json!({"fingerprint": "f", "refreshed_at": "2099-01-01T00:00:00Z"})),
                source_state(),
                false,
            ),
            ("never", None, source_state(), false),
            (
                "last time it was not provable",
                Some(json!({"how": "concurrently"})),
                source_state(),
                false,
            ),
        ];
        for (what, last, now, unchanged) in cases {
            let decision = decide(&view(), &now, last.as_ref(), HOUR);
            assert_eq!(
                matches!(decision, Decision::Unchanged(_)),
                unchanged,
                "{what}: {decision:?}"
            );
        }
    }

    #[test]
    fn readers_are_locked_out_only_where_there_is_nothing_to_read() {
        let empty = View { populated: false, unique_index: false, ..view() };
        assert_eq!(decide(&empty, &source_state(), None, HOUR), Decision::Refresh(How::Plain));
        let bare = View { unique_index: false, ..view() };
        assert!(matches!(decide(&bare, &source_state(), None, HOUR), Decision::Refuse(_)));
        assert_eq!(
            decide(&view(), &source_state(), None, HOUR),
            Decision::Refresh(How::Concurrently)
        );
    }
}
