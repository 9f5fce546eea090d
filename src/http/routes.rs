//! The table of routes, and finding one in it.

use std::future::ready;

use hyper::Method;

use super::query::decode;
use super::{Access, BodyLimit, Handler, Route, api, health, index, page, probes};

/// What pgsteward answers. The paths are the labels of its metrics.
pub fn routes() -> Vec<Route> {
    let mut routes = probes();
    routes.extend(reads());
    routes.extend(mutations());
    routes
}

const fn get(path: &'static str, access: Access, about: &'static str, handler: Handler) -> Route {
    Route { method: Method::GET, path, access, body: BodyLimit::Usual, about, handler }
}

const fn post(path: &'static str, access: Access, about: &'static str, handler: Handler) -> Route {
    Route { method: Method::POST, path, access, body: BodyLimit::Usual, about, handler }
}

fn probes() -> Vec<Route> {
    let open = |path, about, handler| get(path, Access::Open, about, handler);
    vec![
        open("/", "the dashboard for a browser, else this list", |c| {
            Box::pin(ready(Ok(page::home(c))))
        }),
        open("/page/{file}", "a file of the dashboard", |c| Box::pin(ready(page::file(c)))),
        open("/livez", "whether the process and its pipeline are alive", |c| {
            Box::pin(ready(Ok(probes::livez(c))))
        }),
        open("/livez/{check}", "one check of /livez", |c| Box::pin(ready(probes::livez_check(c)))),
        open("/readyz", "whether to send traffic", |c| Box::pin(ready(Ok(probes::readyz(c))))),
        open("/readyz/{check}", "one check of /readyz", |c| {
            Box::pin(ready(probes::readyz_check(c)))
        }),
        open("/healthz", "as /livez, with the databases' status in the body", |c| {
            Box::pin(ready(probes::healthz(c)))
        }),
        open(
            "/healthz/{check}",
            "one check of /healthz; /healthz/database is the databases' own",
            |c| Box::pin(ready(probes::healthz_check(c))),
        ),
        open("/openapi.json", "this API, for programs", |c| Box::pin(ready(Ok(index::openapi(c))))),
        open("/metrics", "metrics for Prometheus", |c| Box::pin(ready(index::metrics(c)))),
    ]
}

fn reads() -> Vec<Route> {
    use Access::{AnyRole, OptionalAuth, Viewer};
    vec![
        get("/health/", OptionalAuth, "the databases' health, 503 when one is unhealthy", |c| {
            Box::pin(ready(health::health(c)))
        }),
        get("/whoami", AnyRole, "what these credentials are good for", |c| {
            Box::pin(ready(api::whoami::whoami(c)))
        }),
        get("/health/database", Viewer, "everything known of a database, from memory", |c| {
            Box::pin(ready(api::database::database(c)))
        }),
        get(
            "/health/database/statistics",
            Viewer,
            "tables and indexes: sizes, dead rows, what is of no use",
            |c| Box::pin(api::statistics::statistics(c)),
        ),
        get("/health/system", Viewer, "the history of measurements, in pages or buckets", |c| {
            Box::pin(api::history::system(c))
        }),
        get(
            "/health/connections",
            Viewer,
            "the history of connections, in pages or buckets",
            |c| Box::pin(api::history::connections(c)),
        ),
        get(
            "/health/database/migrations",
            Viewer,
            "which migrations are applied and pending",
            |c| Box::pin(api::migrations::status(c)),
        ),
        get("/health/retention", Viewer, "what is removed when, and what is due", |c| {
            Box::pin(api::cleanup::retention(c))
        }),
        get("/health/audit", AnyRole, "the audit trail: all for an admin, else one's own", |c| {
            Box::pin(api::audit::list(c))
        }),
        get("/jobs", Viewer, "jobs with their plan and how they stand", |c| {
            Box::pin(api::jobs::list(c))
        }),
        get("/jobs/{name}/runs", Viewer, "the newest runs of a job", |c| {
            Box::pin(api::jobs::runs(c))
        }),
        get("/runs/{id}", Viewer, "one run", |c| Box::pin(api::runs::get(c))),
        get(
            "/runs/{id}/events",
            Viewer,
            "one run, followed to its end by server-sent events",
            |c| Box::pin(api::runs::follow(c)),
        ),
    ]
}

fn mutations() -> Vec<Route> {
    use Access::{Admin, Events, Operator};
    let events = post("/audit/events", Events, "record events of an application", |c| {
        Box::pin(api::events::write(c))
    });
    vec![
        Route { body: BodyLimit::Batch, ..events },
        post(
            "/health/database/optimize",
            Operator,
            "VACUUM, ANALYZE and REFRESH what needs it",
            |c| Box::pin(api::optimize::optimize(c)),
        ),
        post("/health/database/migrations", Admin, "apply pending migrations", |c| {
            Box::pin(api::migrations::apply(c))
        }),
        post("/health/cleanup", Operator, "remove what is past its retention", |c| {
            Box::pin(api::cleanup::cleanup(c))
        }),
        post("/jobs/{name}/run", Operator, "run a job now", |c| Box::pin(api::jobs::run(c))),
        post("/jobs/{name}/pause", Operator, "pause a job, or all (*)", |c| {
            Box::pin(api::jobs::pause(c))
        }),
        post("/jobs/{name}/resume", Operator, "resume a job, or all (*)", |c| {
            Box::pin(api::jobs::resume(c))
        }),
        post("/runs/{id}/cancel", Operator, "cancel a run", |c| Box::pin(api::runs::cancel(c))),
    ]
}

/// Where a method and a path lead.
#[derive(Debug)]
pub enum RouteMatch<'r> {
    Route {
        route: &'r Route,
        segment: Option<String>,
    },
    /// The path exists, not with this method: those that it has, for the `Allow` header.
    OtherMethods {
        path: &'static str,
        allow: String,
    },
    Nothing,
    /// A percent sign without its two digits.
    Malformed,
}

/// Looks a request up. HEAD is answered by GET; a slash at the end does not count.
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

/// The value of an `Allow` header.
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

/// None: another path. Some: this one, with the segment that stands for `{check}`.
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
    fn methods_of_one_path_are_told_together() {
        assert_eq!(
            allow([Method::GET, Method::POST, Method::GET].iter()),
            "GET, HEAD, OPTIONS, POST"
        );
        assert_eq!(allow([Method::POST].iter()), "OPTIONS, POST");
    }
}
