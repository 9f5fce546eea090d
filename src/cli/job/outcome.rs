//! How a run ended, for people and for the exit code.

use crate::cli::{Exit, Session, print, print_json};
use crate::store::run_history::RunEntry;

use super::text::duration;

/// Whether its effect could commit only while it held its lease.
pub fn guarantee(entry: &RunEntry) -> &'static str {
    match entry.fenced {
        Some(true) => "fenced",
        Some(false) => "at least once",
        None => "",
    }
}

/// Tells how a run ended; the exit code is 0 only where it succeeded.
pub fn tell(session: &Session, entry: &RunEntry) -> Exit {
    if session.json {
        print_json(entry);
    } else {
        print(&text(entry));
    }
    if entry.state == "succeeded" { Exit::Ok } else { Exit::Run }
}

fn text(entry: &RunEntry) -> String {
    let took =
        entry.duration_ms.map(|ms| format!(" in {}", duration(ms as f64))).unwrap_or_default();
    let rows = entry.rows_affected.map(|rows| format!(", {rows} rows")).unwrap_or_default();
    let attempts =
        if entry.attempts > 1 { format!(", {} attempts", entry.attempts) } else { String::new() };
    let instance =
        entry.instance.as_ref().map(|instance| format!(", on {instance}")).unwrap_or_default();
    let reason =
        entry.reason.as_ref().map(|reason| format!("\n  reason: {reason}")).unwrap_or_default();
    let error = entry.error.as_ref().map(|error| format!("\n  error: {error}")).unwrap_or_default();
    let state = entry.state.replace('_', " ");
    let notices =
        entry.detail.as_ref().and_then(|detail| detail["notices"].as_array()).into_iter().flatten();
    let warned =
        notices.filter_map(|notice| notice.as_str()).filter(|notice| notice.starts_with("WARNING"));
    let warned: String = warned.map(|warning| format!("\n  {warning}")).collect();
    format!(
        "run {} of {}: {state}{took}{rows}{attempts}{instance}{reason}{error}{warned}",
        entry.id, entry.job
    )
}
