//! WAL on its way out and in: standbys, slots and archiving.

use serde_json::json;

use super::{Verdict, not_permitted, span, unknown};
use crate::config;
use crate::observe::{Archiver, Replication, Slot, Snapshot};

pub(super) fn replication(snapshot: &Snapshot, limits: &config::Health) -> Verdict {
    const NAME: &str = "replication";
    let parts = ["replication", "replication slots", "archiver"];
    let unavailable =
        snapshot.unavailable.iter().find(|unavailable| parts.contains(&unavailable.what.as_str()));
    let found = archiving(snapshot.archiver.as_ref())
        .or_else(|| snapshot.slots.as_deref().and_then(slots))
        .or_else(|| snapshot.replication.as_ref().and_then(|streaming| lag(streaming, limits)));
    let hidden = snapshot
        .replication
        .iter()
        .flat_map(|streaming| &streaming.replicas)
        .filter(|r| r.state.is_none());
    let hidden = if snapshot.sees_all { 0 } else { hidden.count() as i64 };
    let verdict = match found {
        Some((reason, message, remedy)) => Verdict::degraded(NAME, reason, message).remedy(remedy),
        None => match unavailable {
            Some(unavailable) => unknown(NAME, unavailable),
            None if hidden > 0 => not_permitted(NAME, snapshot, hidden),
            None => {
                Verdict::healthy(NAME, "standbys, slots and archiving keep up, where there are any")
            }
        },
    };
    verdict.measured(json!({
        "in_recovery": snapshot.in_recovery,
        "standby": snapshot.replication.as_ref().and_then(|streaming| streaming.standby.as_ref()),
        "replicas": snapshot.replication.as_ref().map(|streaming| &streaming.replicas),
        "slots": snapshot.slots,
        "archiver": snapshot.archiver,
    }))
}

/// Reason, message and remedy.
type Finding = Option<(&'static str, String, String)>;

fn archiving(archiver: Option<&Archiver>) -> Finding {
    let archiver = archiver.filter(|archiver| archiver.enabled && archiver.failing)?;
    let since = match archiver.since_success_seconds {
        Some(seconds) => format!("the last success was {} ago", span(seconds)),
        None => "it never succeeded".to_owned(),
    };
    Some((
        "archiving_failed",
        format!("WAL archiving fails, {since}; WAL accumulates in pg_wal"),
        "see the server's log for the error of archive_command or archive_library".to_owned(),
    ))
}

/// A slot nobody reads is dangerous once it retains more than `max_wal_size`, which is what the
/// server itself calls `extended`.
fn slots(slots: &[Slot]) -> Finding {
    let lost = slots.iter().find(|slot| slot.wal_status.as_deref() == Some("lost"));
    if let Some(slot) = lost {
        return Some((
            "slot_lost",
            format!("the replication slot '{}' has lost WAL that it needed", slot.name),
            "drop the slot and set up its consumer again from a new copy".to_owned(),
        ));
    }
    let stuck = slots.iter().find(|slot| {
        slot.wal_status.as_deref() == Some("unreserved")
            || !slot.active && slot.wal_status.as_deref() == Some("extended")
    })?;
    Some((
        "slot_retains_wal",
        format!(
            "the replication slot '{}' ({}) retains {:.0} MiB of WAL, more than max_wal_size",
            stuck.name,
            if stuck.active { "active" } else { "inactive" },
            stuck.retained_bytes.unwrap_or_default() / 1_048_576.0,
        ),
        format!("start its consumer, or run `SELECT pg_drop_replication_slot('{}')`", stuck.name),
    ))
}

fn lag(streaming: &Replication, limits: &config::Health) -> Finding {
    let limit = limits.replication_lag_degraded.as_secs_f64();
    if let Some(standby) = &streaming.standby
        && let Some(seconds) = standby.lag_seconds.filter(|seconds| *seconds >= limit)
    {
        let (seconds, limit) = (span(seconds), span(limit));
        return Some(if standby.receiver {
            (
                "standby_lag",
                format!("this standby lags {seconds} behind its primary, the limit is {limit}"),
                "look for load on this standby, a slow disk or a slow network".to_owned(),
            )
        } else {
            (
                "receiver_down",
                format!(
                    "this standby receives nothing from a primary and has replayed nothing for \
                     {seconds}, the limit is {limit}"
                ),
                "see its log for why the WAL receiver does not connect".to_owned(),
            )
        });
    }
    let late = streaming
        .replicas
        .iter()
        .find(|replica| replica.lag_seconds.is_some_and(|seconds| seconds >= limit))?;
    Some((
        "replica_lag",
        format!(
            "the standby '{}' lags {}, the limit is {}",
            late.name.as_deref().unwrap_or("?"),
            span(late.lag_seconds.unwrap_or_default()),
            span(limit)
        ),
        "look for load on the standby, a slow disk or a slow network".to_owned(),
    ))
}
