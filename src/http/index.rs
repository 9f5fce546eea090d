//! The list of endpoints, and the page of metrics.

use std::fmt::Write;

use hyper::StatusCode;

use super::response::{text, with_body};
use super::{Context, HttpError, Response};

/// Written by hand; the shapes are those of the handlers.
const OPENAPI: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openapi.json"));

/// The list of endpoints, as plain text.
pub fn index(context: &Context<'_>) -> Response {
    let mut list = concat!("pgsteward ", env!("CARGO_PKG_VERSION"), "\n\n").to_owned();
    for route in context.routes {
        // Writing to a String cannot fail.
        let _ = writeln!(
            list,
            "{:<5} {:<30} {:<9} {}",
            route.method,
            route.path,
            route.access.as_str(),
            route.about
        );
    }
    text(StatusCode::OK, list)
}

/// `GET /openapi.json`: OpenAPI 3.1, held against the table of routes by a test.
pub fn openapi(_: &Context<'_>) -> Result<Response, HttpError> {
    Ok(with_body(StatusCode::OK, "application/json", OPENAPI))
}

/// `GET /metrics`: text format 0.0.4.
pub fn metrics(context: &Context<'_>) -> Result<Response, HttpError> {
    match context.state.metrics.encode() {
        Ok(page) => Ok(with_body(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)),
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the page of metrics could not be written"
            );
            let detail = "the page of metrics could not be written; the log says why";
            Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", detail))
        }
    }
}
