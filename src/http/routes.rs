//! The table of routes, and the lookup of a request in it.

use std::future::ready;

use hyper::Method;

use super::query::decode;
use super::{Access, BodyLimit, Route, api, health, index, page, probes};

/// Declares routes: method, path, access, handler, line for the index. A handler marked `now`
/// responds from memory, without waiting.
macro_rules! routes {
    ($($method:ident $path:literal $access:ident $($handler:ident)::+ $($now:ident)?, $about:literal;)*) => {
        vec![$(Route {
            method: Method::$method,
            path: $path,
            access: Access::$access,
            body: BodyLimit::Usual,
            about: $about,
            handler: |c| Box::pin(routes!(@call $($now)? $($handler)::+(c))),
        }),*]
    };
    (@call now $call:expr) => { ready($call) };
    (@call $call:expr) => { $call };
}

/// Returns the routes of the daemon. Their paths are labels of its metrics.
#[rustfmt::skip]
pub fn routes() -> Vec<Route> {
    let mut routes = routes! {
        GET "/" Open page::home now, "the dashboard for browsers, else this list";
        GET "/page/{file}" Open page::file now, "a file of the dashboard";
        GET "/livez" Open probes::livez now, "whether the process and its pipelines are alive";
        GET "/livez/{check}" Open probes::livez_check now, "one check of /livez";
        GET "/readyz" Open probes::readyz now, "whether the instance can take traffic";
        GET "/readyz/{check}" Open probes::readyz_check now, "one check of /readyz";
        GET "/healthz" Open probes::healthz now, "like /livez, with the status of the databases";
        GET "/healthz/{check}" Open probes::healthz_check now, "one check of /healthz";
        GET "/openapi.json" Open index::openapi now, "the OpenAPI document";
        GET "/metrics" Open index::metrics now, "metrics for Prometheus";
        GET "/health/" OptionalAuth health::health now, "health of the databases, 503 if unhealthy";
        GET "/whoami" AnyRole api::whoami::whoami now, "the caller's name and role";
        GET "/health/database" Viewer api::database::database now, "a database, from memory";
        GET "/health/database/statistics" Viewer api::statistics::statistics,
            "sizes, dead rows and unused indexes";
        GET "/health/system" Viewer api::history::system, "past measurements";
        GET "/health/connections" Viewer api::history::connections, "past numbers of connections";
        GET "/health/database/migrations" Viewer api::migrations::status,
            "applied and pending migrations";
        GET "/health/retention" Viewer api::cleanup::retention, "retention, and rows that are due";
        GET "/health/audit" AnyRole api::audit::list, "audit log: all for an admin, else one's own";
        GET "/jobs" Viewer api::jobs::list, "jobs with their schedule and state";
        GET "/jobs/{name}/runs" Viewer api::jobs::runs, "the newest runs of a job";
        GET "/runs/{id}" Viewer api::runs::get, "one run";
        GET "/runs/{id}/events" Viewer api::runs::follow, "follows a run by server-sent events";
        POST "/audit/events" Events api::events::write, "record events of an application";
        POST "/health/database/optimize" Operator api::optimize::optimize,
            "run VACUUM, ANALYZE and REFRESH where needed";
        POST "/health/database/migrations" Admin api::migrations::apply, "apply pending migrations";
        POST "/health/cleanup" Operator api::cleanup::cleanup, "delete expired rows";
        POST "/jobs/{name}/run" Operator api::jobs::run, "queue a run of a job";
        POST "/jobs/{name}/pause" Operator api::jobs::pause, "pause a job, or all (*)";
        POST "/jobs/{name}/resume" Operator api::jobs::resume, "resume a job, or all (*)";
        POST "/runs/{id}/cancel" Operator api::runs::cancel, "cancel a run";
    };
    for route in routes.iter_mut().filter(|route| route.access == Access::Events) {
        route.body = BodyLimit::Batch;
    }
    routes
}

/// The result of a lookup.
#[derive(Debug)]
pub enum RouteMatch<'r> {
    Route {
        route: &'r Route,
        segment: Option<String>,
    },
    /// The path exists with other methods, which the header `Allow` lists.
    OtherMethods {
        path: &'static str,
        allow: String,
    },
    Nothing,
    /// The path is not valid percent-encoding.
    Malformed,
}

/// Finds the route of a request. GET also serves HEAD. Ignores a slash at the end.
pub fn find_route<'r>(routes: &'r [Route], method: &Method, path: &str) -> RouteMatch<'r> {
    let expected = if method == Method::HEAD { &Method::GET } else { method };
    let mut others: Vec<&Route> = Vec::new();
    for route in routes {
        let Some(segment) = matches(route.path, path) else { continue };
        if route.method != *expected {
            others.push(route);
            continue;
        }
        return match segment.map(|text| decode(text, false)) {
            None => RouteMatch::Route { route, segment: None },
            Some(Some(segment)) => RouteMatch::Route { route, segment: Some(segment) },
            Some(None) => RouteMatch::Malformed,
        };
    }
    match others.first() {
        Some(first) => RouteMatch::OtherMethods {
            path: first.path,
            allow: allow(others.iter().map(|r| &r.method)),
        },
        None => RouteMatch::Nothing,
    }
}

/// Returns the value of the header `Allow`.
pub fn allow<'m>(methods: impl Iterator<Item = &'m Method>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for method in methods {
        names.push(method.as_str());
        if method == Method::GET {
            names.push("HEAD");
        }
    }
    names.push("OPTIONS");
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// Returns `Some` if the path matches, with the segment at the place of `{name}`.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<Option<&'p str>> {
    let mut segment = None;
    let mut expected = trimmed(pattern).split('/');
    let mut found = trimmed(path).split('/');
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return Some(segment),
            (Some(name), Some(text)) if name.starts_with('{') && !text.is_empty() => {
                segment = Some(text);
            }
            (Some(literal), Some(text)) if literal == text => {}
            _ => return None,
        }
    }
}

fn trimmed(path: &str) -> &str {
    path.strip_suffix('/').unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_the_table_says() {
        let table = routes();
        let cases = [
            ("GET", "/", "/ -"),
            ("HEAD", "/livez", "/livez -"),
            ("GET", "/livez/", "/livez -"),
            ("GET", "/health", "/health/ -"),
            ("GET", "/health/", "/health/ -"),
            ("GET", "/readyz/connected%3Amain", "/readyz/{check} connected:main"),
            ("GET", "/readyz/connected:main/", "/readyz/{check} connected:main"),
            ("GET", "/readyz/a%2Fb", "/readyz/{check} a/b"),
            ("GET", "/readyz/%", "malformed"),
            ("GET", "/readyz/a/b", "nothing"),
            ("GET", "/readyz//", "nothing"),
            ("GET", "//livez", "nothing"),
            ("GET", "/LIVEZ", "nothing"),
            ("GET", "", "/ -"),
            ("GET", "*", "nothing"),
            ("GET", "/livez/{check}", "/livez/{check} {check}"),
            ("POST", "/livez", "405 GET, HEAD, OPTIONS"),
            ("DELETE", "/readyz/%", "405 GET, HEAD, OPTIONS"),
            ("POST", "/nowhere", "nothing"),
        ];
        for (method, path, expected) in cases {
            let found = match find_route(&table, &method.parse().unwrap(), path) {
                RouteMatch::Route { route, segment } => {
                    format!("{} {}", route.path, segment.as_deref().unwrap_or("-"))
                }
                RouteMatch::OtherMethods { allow, .. } => format!("405 {allow}"),
                RouteMatch::Nothing => "nothing".to_owned(),
                RouteMatch::Malformed => "malformed".to_owned(),
            };
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn methods_of_one_path_are_listed_together() {
        assert_eq!(
            allow([Method::GET, Method::POST, Method::GET].iter()),
            "GET, HEAD, OPTIONS, POST"
        );
        assert_eq!(allow([Method::POST].iter()), "OPTIONS, POST");
    }
}
