//! Serves the dashboard: one page on top of the API, whose files are embedded in the binary.
//!
//! The page loads nothing from other hosts and has no inline script or style; the content security
//! policy forbids both. It has no data of its own: it calls the API with the person's token.

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_FRAME_OPTIONS,
};

use sha2::{Digest, Sha256};

use super::index::index;
use super::negotiation::preferred;
use super::response::{set_header, with_body};
use super::{Context, HttpError, Response};
use crate::audit::hex;

/// Allows scripts, styles and connections of the same origin only; forbids inline code and framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
const PERMISSIONS: &str = "camera=(), geolocation=(), microphone=(), payment=(), usb=()";
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// One tag for all files: they belong to one version.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for content in FILES.iter().map(|(.., content)| *content).chain([PAGE]) {
        digest.update(content);
    }
    format!("\"{}\"", hex(&digest.finalize()[..16]))
});

const PAGE: &[u8] = include_bytes!("page/index.html");

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        /// Name, media type and content of each file.
        const FILES: &[(&str, &str, &[u8])] =
            &[$(($name, $kind, include_bytes!(concat!("page/", $name)))),*];
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

files! {
    "api.js": SCRIPT, "app.js": SCRIPT, "audit.js": SCRIPT, "charts.js": SCRIPT, "dom.js": SCRIPT,
    "events.js": SCRIPT, "format.js": SCRIPT, "jobs.js": SCRIPT, "maintenance.js": SCRIPT,
    "migrations.js": SCRIPT, "notices.js": SCRIPT, "overview.js": SCRIPT, "poll.js": SCRIPT,
    "runs.js": SCRIPT, "signin.js": SCRIPT, "status.js": SCRIPT, "tables.js": SCRIPT,
    "trends.js": SCRIPT, "widgets.js": SCRIPT,
    "base.css": STYLE, "controls.css": STYLE, "tables.css": STYLE, "charts.css": STYLE,
    "narrow.css": STYLE,
    "icon.svg": "image/svg+xml",
}

/// `GET /`: the page for a browser, the list of endpoints for other clients.
pub fn home(context: &Context<'_>) -> Result<Response, HttpError> {
    let mut response = match preferred(context.head, &["text/plain", "text/html"]) {
        "text/html" => serve(context, "text/html; charset=utf-8", PAGE),
        _ => index(context),
    };
    set_header(&mut response, VARY, "Accept");
    Ok(response)
}

/// `GET /page/{file}`
pub fn file(context: &Context<'_>) -> Result<Response, HttpError> {
    let requested = context.segment.as_deref().unwrap_or_default();
    match FILES.iter().find(|(name, ..)| *name == requested) {
        Some((_, kind, content)) => Ok(serve(context, kind, content)),
        None => {
            Err(HttpError::new(StatusCode::NOT_FOUND, "not_found", "the page has no such file"))
        }
    }
}

/// Returns a file, or 304 if the browser has it. The browser revalidates each time, so that after an
/// update no file is from the former version.
fn serve(context: &Context<'_>, kind: &'static str, content: &'static [u8]) -> Response {
    // A proxy that compresses turns the tag into a weak one.
    let is_ours = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == *TAG;
    let tags = context
        .head
        .headers
        .get_all(IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let known = tags.flat_map(|value| value.split(',')).any(|tag| is_ours(tag.trim()));
    let mut response = match known {
        true => with_body(StatusCode::NOT_MODIFIED, kind, Bytes::new()),
        false => with_body(StatusCode::OK, kind, Bytes::from_static(content)),
    };
    set_header(&mut response, ETAG, &TAG);
    set_header(&mut response, CACHE_CONTROL, "no-cache");
    set_header(&mut response, CONTENT_SECURITY_POLICY, POLICY);
    set_header(&mut response, REFERRER_POLICY, "no-referrer");
    set_header(&mut response, X_FRAME_OPTIONS, "DENY");
    set_header(&mut response, OPENER_POLICY, "same-origin");
    set_header(&mut response, PERMISSIONS_POLICY, PERMISSIONS);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_and_every_reference_leads_to_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/page");
        let mut present: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        present.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        served.sort_unstable();
        assert_eq!(served, present);
        let all = FILES.iter().map(|(.., content)| *content).chain([PAGE]);
        for content in all {
            let text = std::str::from_utf8(content).unwrap();
            for quoted in text
                .split(['"', '\''])
                .filter(|quoted| quoted.ends_with(".js") || quoted.ends_with(".css"))
            {
                let name = quoted.rsplit('/').next().unwrap();
                assert!(served.contains(&name), "{quoted}");
            }
            assert!(
                !text.contains("innerHTML")
                    && !text.contains("localStorage")
                    && !text.contains("eval(")
            );
            let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !elsewhere.contains("://") && !text.contains("src=\"//"),
                "a reference to another host"
            );
        }
        // Without indentation and comments, so that the limit does not favour dense code.
        let code = |content: &'static [u8]| {
            let lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
            lines.filter(|line| ![&b"//"[..], b"/*", b"*"].iter().any(|c| line.starts_with(c)))
        };
        let files = FILES.iter().map(|(.., content)| *content).chain([PAGE]);
        let total: usize = files.flat_map(code).map(|line| line.len() + 1).sum();
        assert!(total <= 160 * 1024, "{total} bytes of code");
    }
}
