//! The dashboard: one page over the API, of files that stand in this binary. It loads nothing from elsewhere, runs
//! nothing that is not in these files, and holds nothing by itself: what it shows it asks for with the caller's token.

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderName, IF_NONE_MATCH, REFERRER_POLICY, VARY,
    X_FRAME_OPTIONS,
};

use sha2::{Digest, Sha256};

use super::answer::{body, set};
use super::index::index;
use super::negotiation::preferred;
use super::{Answer, Context, Refusal};
use crate::audit::hex;

/// No script, style or connection but to where the page came from, nothing inline, and no frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PERMISSIONS: &str = "camera=(), geolocation=(), microphone=(), payment=(), usb=()";
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Of all files together: they go with each other.
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
        /// Name, type and content of what the page consists of.
        const FILES: &[(&str, &str, &[u8])] = &[$(($name, $kind, include_bytes!(concat!("page/", $name)))),*];
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

files! {
    "api.js": SCRIPT, "app.js": SCRIPT, "audit.js": SCRIPT, "charts.js": SCRIPT, "dom.js": SCRIPT, "format.js": SCRIPT,
    "jobs.js": SCRIPT, "migrations.js": SCRIPT, "overview.js": SCRIPT, "parts.js": SCRIPT, "poll.js": SCRIPT,
    "runs.js": SCRIPT, "tables.js": SCRIPT, "upkeep.js": SCRIPT,
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

/// `GET /`: the page for a browser, the list of endpoints for everybody else.
pub fn home(context: &Context<'_>) -> Answer {
    let mut answer = match preferred(context.head, &["text/plain", "text/html"]) {
        "text/html" => given(context, "text/html; charset=utf-8", PAGE),
        _ => index(context),
    };
    set(&mut answer, VARY, "Accept");
    answer
}

/// `GET /page/{file}`
pub fn file(context: &Context<'_>) -> Result<Answer, Refusal> {
    let wanted = context.segment.as_deref().unwrap_or_default();
    match FILES.iter().find(|(name, ..)| *name == wanted) {
        Some((_, kind, content)) => Ok(given(context, kind, content)),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", "the page has no such file")),
    }
}

/// A file, or that the browser has it already. Browsers ask each time: after an update no file is of the version before.
fn given(context: &Context<'_>, kind: &'static str, content: &'static [u8]) -> Answer {
    // A proxy that compresses makes the tag a weak one.
    let is_ours = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == *TAG;
    let sent = context
        .head
        .headers
        .get_all(IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let known = sent.flat_map(|value| value.split(',')).any(|tag| is_ours(tag.trim()));
    let mut answer = match known {
        true => body(StatusCode::NOT_MODIFIED, kind, Bytes::new()),
        false => body(StatusCode::OK, kind, Bytes::from_static(content)),
    };
    set(&mut answer, ETAG, &TAG);
    set(&mut answer, CACHE_CONTROL, "no-cache");
    set(&mut answer, CONTENT_SECURITY_POLICY, POLICY);
    set(&mut answer, REFERRER_POLICY, "no-referrer");
    set(&mut answer, X_FRAME_OPTIONS, "DENY");
    set(&mut answer, OPENER_POLICY, "same-origin");
    set(&mut answer, PERMISSIONS_POLICY, PERMISSIONS);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served_and_every_reference_leads_to_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/page");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        there.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        served.sort_unstable();
        assert_eq!(served, there);
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
                "something from elsewhere"
            );
        }
        // Without indentation: the width of the source text must not favour dense code.
        let size = |content: &[u8]| -> usize {
            content.split(|byte| *byte == b'\n').map(|line| line.trim_ascii_start().len() + 1).sum()
        };
        let total: usize = FILES.iter().map(|(.., content)| *content).chain([PAGE]).map(size).sum();
        assert!(total <= 160 * 1024, "{total} bytes");
    }
}
