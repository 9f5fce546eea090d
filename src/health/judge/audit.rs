//! Whether the audit trail records what it should, and is sealed.

use std::time::Duration;

use serde_json::json;

use super::upkeep::some;
use super::{Audit, Status, Verdict, span};

/// Sealing runs each minute; what holds it up for this long is a transaction that somebody forgot, or a
/// job that does not run.
const SEALED_WITHIN: Duration = Duration::from_secs(30 * 60);

pub(super) fn audit(audit: Option<&Audit>) -> Verdict {
    const NAME: &str = "audit";
    let Some(audit) = audit else {
        return Verdict::new(
            NAME,
            Status::Unknown,
            "not_measured",
            "the audit trail has not been looked at yet",
        );
    };
    let unsealed = audit.unsealed.filter(|age| *age >= SEALED_WITHIN);
    let verdict = if !audit.gaps.is_empty() {
        Verdict::degraded(
            NAME,
            "not_audited",
            format!("changes go unrecorded: {}", some(&audit.gaps)),
        )
        .remedy(
            "run `SELECT steward.audit_table('…')` again with the table's ignore and redact; if the \
             table is gone or must not be audited any more, `SELECT steward.unaudit_table('…')`",
        )
    } else if audit.lost_lately {
        let losses = audit.losses;
        Verdict::degraded(
            NAME,
            "events_lost",
            format!("statements were not recorded ({losses} so far)"),
        )
        .remedy("see the server's log for the warnings `audit of …`")
    } else if let Some(age) = unsealed {
        let age = span(age.as_secs_f64());
        Verdict::degraded(NAME, "seal_late", format!("a row has not been sealed for {age}")).remedy(
            "see the job `audit-seal`, and look in pg_stat_activity and pg_prepared_xacts for a \
             transaction of that age",
        )
    } else {
        Verdict::healthy(NAME, "every audited table has its triggers, and the trail is sealed")
    };
    verdict.measured(json!({
        "gaps": audit.gaps.len(),
        "losses": audit.losses,
        "seal": audit.seal,
        "unsealed_seconds": audit.unsealed.map(|age| age.as_secs()),
    }))
}
