//! How a run ended, for people and for the exit code.

use crate::cli::{Exit, print};
use crate::store::run_history::Entry;

use super::text::duration;

/// Whether its effect could commit only while it held its lease.
pub fn guarantee(entry: &Entry) -> &'static str {
    match entry.fenced {
        Some(true) => "fenced",
        Some(false) => "at least once",
        None => "",
    }
}

/// Prints it, and says what the exit code is.
pub fn print_over(entry: &Entry) {
    let took = entry.duration_ms.map(|ms| format!(" in {}", duration(ms as f64))).unwrap_or_default();
    let rows = entry.rows_affected.map(|rows| format!(", {rows} rows")).unwrap_or_default();
    let attempts = if entry.attempts > 1 { format!(", {} attempts", entry.attempts) } else { String::new() };
    let instance = entry.instance.as_ref().map(|instance| format!(", on {instance}")).unwrap_or_default();
    let state = entry.state.replace('_', " ");
    print(&format!("run {} of {}: {state}{took}{rows}{attempts}{instance}", entry.id, entry.job));
    if let Some(reason) = &entry.reason {
        print(&format!("  reason: {reason}"));
    }
    if let Some(error) = &entry.error {
        print(&format!("  error: {error}"));
    }
}

/// 0 only where it succeeded.
pub fn exit(entry: &Entry) -> Exit {
    if entry.state == "succeeded" { Exit::Ok } else { Exit::Run }
}
