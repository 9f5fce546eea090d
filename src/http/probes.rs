//! `/livez`, `/readyz` and `/healthz`, by Kubernetes' conventions.
//!
//! Machines look at the status code: 200 or 503. For people, `?verbose` lists the checks,
//! `?exclude=NAME` leaves one out, and `/readyz/NAME` asks for one alone; see "Kubernetes API health
//! endpoints" in its documentation, of which the wording is kept.

use std::fmt::Write;
use std::time::Instant;

use hyper::StatusCode;

use super::health::{self, HealthSummary};
use super::response::text;
use super::{Context, HttpError, Response};
use crate::health::{Check, Status};

/// A check that is shown and does not decide.
const INFORMATIONAL: &str = "database";

/// `GET /livez`
pub fn livez(context: &Context<'_>) -> Result<Response, HttpError> {
    Ok(report("livez", &context.state.readiness.livez(Instant::now()), context, "ok"))
}

/// `GET /livez/{check}`
pub fn livez_check(context: &Context<'_>) -> Result<Response, HttpError> {
    single("livez", context.state.readiness.livez(Instant::now()), context)
}

/// `GET /readyz`
pub fn readyz(context: &Context<'_>) -> Result<Response, HttpError> {
    Ok(report("readyz", &context.state.readiness.readyz(Instant::now()), context, "ok"))
}

/// `GET /readyz/{check}`
pub fn readyz_check(context: &Context<'_>) -> Result<Response, HttpError> {
    single("readyz", context.state.readiness.readyz(Instant::now()), context)
}

/// `GET /healthz`: the code is that of `/livez`, the databases' status stands in the body.
pub fn healthz(context: &Context<'_>) -> Result<Response, HttpError> {
    let summaries = health::summaries(context)?;
    let checks = [context.state.readiness.pipeline(Instant::now()), database(&summaries)];
    let mut passed = "ok\n".to_owned();
    for summary in &summaries {
        // Writing to a String cannot fail.
        let _ = writeln!(passed, "database {}: {}", summary.target, summary.words());
    }
    Ok(report("healthz", &checks, context, &passed))
}

/// `GET /healthz/{check}`
pub fn healthz_check(context: &Context<'_>) -> Result<Response, HttpError> {
    let summaries = health::summaries(context)?;
    single(
        "healthz",
        vec![context.state.readiness.pipeline(Instant::now()), database(&summaries)],
        context,
    )
}

/// Passes when every database is known to be healthy or degraded. What was not measured, or not
/// lately, is not known.
fn database(summaries: &[HealthSummary]) -> Check {
    let failed: Vec<String> = summaries
        .iter()
        .filter(|summary| matches!(summary.status, Status::Unhealthy | Status::Unknown))
        .map(|summary| format!("{} is {}", summary.target, summary.words()))
        .collect();
    let outcome = if failed.is_empty() { Ok(()) } else { Err(failed.join(", ")) };
    Check::new(INFORMATIONAL, outcome)
}

/// The answer to a whole endpoint.
fn report(endpoint: &str, checks: &[Check], context: &Context<'_>, passed: &str) -> Response {
    let mut excluded: Vec<&str> = context.query.all("exclude").collect();
    excluded.sort_unstable();
    excluded.dedup();
    let mut lines = String::new();
    let mut failed = false;
    // Writing to a String cannot fail.
    for Check { name, outcome } in checks {
        if let Some(at) = excluded.iter().position(|other| other == name) {
            excluded.remove(at);
            let _ = writeln!(lines, "[+]{name} excluded: ok");
            continue;
        }
        let _ = match outcome {
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(reason) => writeln!(lines, "[-]{name} failed: {reason}"),
        };
        failed |= outcome.is_err() && name != INFORMATIONAL;
    }
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        let names = names.join(", ");
        let _ =
            writeln!(lines, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    match (failed, context.query.has("verbose")) {
        (true, _) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{lines}{endpoint} check failed\n"))
        }
        (false, true) => text(StatusCode::OK, format!("{lines}{endpoint} check passed\n")),
        (false, false) => text(StatusCode::OK, passed.to_owned()),
    }
}

/// The answer to one check alone.
fn single(
    endpoint: &str,
    checks: Vec<Check>,
    context: &Context<'_>,
) -> Result<Response, HttpError> {
    let wanted = context.segment.as_deref().unwrap_or_default();
    let verbose = context.query.has("verbose");
    match checks.into_iter().find(|check| check.name == wanted) {
        Some(Check { name, outcome: Ok(()) }) if verbose => {
            Ok(text(StatusCode::OK, format!("[+]{name} ok\n")))
        }
        Some(Check { outcome: Ok(()), .. }) => Ok(text(StatusCode::OK, "ok")),
        Some(Check { name, outcome: Err(reason) }) => {
            Ok(text(StatusCode::SERVICE_UNAVAILABLE, format!("[-]{name} failed: {reason}\n")))
        }
        None => {
            let detail =
                format!("/{endpoint} has no check of this name; /{endpoint}?verbose lists them");
            Err(HttpError::new(StatusCode::NOT_FOUND, "no_such_check", detail))
        }
    }
}
