//! The list of endpoints, and the page of metrics.

use std::fmt::Write;

use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_SECURITY_POLICY};

use super::answer::{body, set, text};
use super::{Answer, Context, Refusal};

/// Written by hand; the shapes are those of the handlers.
const OPENAPI: &[u8] = include_bytes!("openapi.json");

/// `GET /`: plain text, or a page with links for a browser.
pub fn index(context: &Context<'_>) -> Answer {
    let title = concat!("pgsteward ", env!("CARGO_PKG_VERSION"));
    let browser = accepts(context, "text/html");
    let mut page = String::new();
    for route in context.routes {
        // Writing to a String cannot fail. What is written stands in the source: nothing to escape.
        let _ = match (browser, route.path.contains('{')) {
            (false, _) => writeln!(page, "{:<7} {:<18} {}", route.method, route.path, route.about),
            (true, true) => writeln!(page, "<li><code>{}</code>: {}</li>", route.path, route.about),
            (true, false) => writeln!(page, "<li><a href=\"{0}\">{0}</a>: {1}</li>", route.path, route.about),
        };
    }
    if !browser {
        return text(StatusCode::OK, format!("{title}\n\n{page}"));
    }
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<ul>\n{page}</ul>\n</html>\n"
    );
    let mut answer = body(StatusCode::OK, "text/html; charset=utf-8", page);
    set(&mut answer, CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'");
    answer
}

/// `GET /openapi.json`: OpenAPI 3.1, held against the table of routes by a test.
pub fn openapi(_: &Context<'_>) -> Answer {
    body(StatusCode::OK, "application/json", OPENAPI)
}

/// `GET /metrics`: text format 0.0.4.
pub fn metrics(context: &Context<'_>) -> Result<Answer, Refusal> {
    match context.state.metrics.encode() {
        Ok(page) => Ok(body(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the page of metrics could not be written");
            let detail = "the page of metrics could not be written; the log says why";
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", detail))
        }
    }
}

/// Whether the `Accept` header names a media type outright, and not with `q=0`.
pub fn accepts(context: &Context<'_>, media_type: &str) -> bool {
    let values = context.head.headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(media_type));
        let refused = |p: &str| p.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        named && !parts.any(refused)
    })
}
