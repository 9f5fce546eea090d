//! Modules use only modules above them, and siblings form no cycle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::{Source, Violations, assert_none, code_lines, root, rust_files};

/// Modules by name, each with the modules that it uses.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The modules that `lib.rs` declares, top to bottom.
fn reading_order(lib: &str) -> Vec<String> {
    code_lines(lib)
        .filter_map(|(_, line)| {
            let line = line.trim();
            let rest = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?;
            Some(rest.strip_suffix(';')?.to_owned())
        })
        .collect()
}

/// Every path that begins with `crate::`, `super::` or `self::`, with its line. A group such as
/// `crate::{a, b::{c, d}}` becomes a path for each of its members.
fn paths(text: &str) -> Vec<(usize, Vec<String>)> {
    let code: String = code_lines(text).flat_map(|(_, line)| [line, "\n"]).collect();
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_$:".contains(c)) {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut members = Vec::new();
            expand(&code[at..], Vec::new(), &mut members);
            found.extend(members.into_iter().map(|path| (line, path)));
        }
    }
    found
}

/// Reads one path, with its groups, and returns the rest of the text.
fn expand<'a>(text: &'a str, mut path: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let mut rest = text.trim_start();
    loop {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            paths.push(path);
            return rest;
        }
        path.push(rest[..end].to_owned());
        rest = &rest[end..];
        let Some(next) = rest.strip_prefix("::") else {
            paths.push(path);
            return rest;
        };
        rest = next;
        if let Some(group) = rest.strip_prefix('{') {
            let mut rest = group;
            loop {
                rest = expand(rest, path.clone(), paths);
                let end = rest.find([',', '}']).unwrap_or(rest.len());
                let more = rest[end..].starts_with(',');
                rest = rest.get(end + 1..).unwrap_or_default().trim_start();
                if !more || rest.starts_with('}') {
                    return rest.strip_prefix('}').unwrap_or(rest);
                }
            }
        }
    }
}

/// The path of a file's module: `src/db/tls.rs` is `db::tls`, `src/db/mod.rs` is `db`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

/// The absolute path, or none where `super` leads out of the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let (mut base, rest) = match path[0].as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (module.to_vec(), &path[1..]),
        _ => (module[..module.len().checked_sub(supers)?].to_vec(), &path[supers..]),
    };
    base.extend_from_slice(rest);
    Some(base)
}

fn downward_imports(order: &[String], source: &Source) -> Violations {
    let module = module_of(&source.path);
    let Some(position) = order.iter().position(|name| *name == module[0]) else {
        return Vec::new(); // lib.rs and main.rs may use everything.
    };
    let mut violations = Vec::new();
    for (line, path) in paths(&source.text) {
        let Some(used) = path.get(1).filter(|_| path[0] == "crate") else { continue };
        match order.iter().position(|name| name == used) {
            Some(at) if at <= position => {}
            Some(_) => violations.push(format!(
                "{}:{line}: `{}` uses `{used}`, which lib.rs declares below it",
                source.path, module[0]
            )),
            None => violations
                .push(format!("{}:{line}: `crate::{used}` is no module of lib.rs", source.path)),
        }
    }
    violations
}

/// What each module uses of its siblings, by their parent. Tests at the end of a file may use more.
fn sibling_graphs(sources: &[Source]) -> BTreeMap<String, Graph> {
    let modules: BTreeSet<Vec<String>> = sources.iter().map(|file| module_of(&file.path)).collect();
    let mut graphs: BTreeMap<String, Graph> = BTreeMap::new();
    for file in sources.iter().filter(|file| !file.path.contains("/tests")) {
        let module = module_of(&file.path);
        let code = file.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (_, path) in paths(code) {
            let Some(mut used) = absolute(&module, &path) else { continue };
            while !used.is_empty() && !modules.contains(&used) {
                used.pop();
            }
            let common = module.iter().zip(&used).take_while(|(a, b)| a == b).count();
            if common < module.len() && common < used.len() {
                let graph = graphs.entry(module[..common].join("::")).or_default();
                graph.entry(module[common].clone()).or_default().insert(used[common].clone());
            }
        }
    }
    graphs
}

/// The modules that can be reached from themselves.
fn cyclic(graph: &Graph) -> Vec<&str> {
    let reaches_itself = |start: &str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = vec![start];
        while let Some(module) = next.pop() {
            for used in graph.get(module).into_iter().flatten() {
                if used == start {
                    return true;
                }
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
        false
    };
    graph.keys().map(String::as_str).filter(|module| reaches_itself(module)).collect()
}

/// Modules whose siblings still form a cycle. An entry goes as soon as its cycle is open.
const CLOSED_CYCLES: &[&str] = &[
    "config",
    "db",
    "db::ephemeral",
    "jobs",
    "jobs::retention",
    "migrate",
    "observe",
    "observe::tables",
    "scheduler",
];

fn sibling_cycles(sources: &[Source]) -> Violations {
    let mut violations = Vec::new();
    for (parent, graph) in sibling_graphs(sources) {
        let cyclic = cyclic(&graph);
        if !cyclic.is_empty() {
            violations.push(format!("src/{parent}: a cycle of {}", cyclic.join(", ")));
        }
    }
    violations
}

#[test]
fn modules_use_only_what_lib_rs_declares_above_them() {
    let order = reading_order(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    assert!(order.len() > 10, "the modules of lib.rs are read: {order:?}");
    let violations: Violations =
        rust_files(&["src/"]).iter().flat_map(|file| downward_imports(&order, file)).collect();
    assert_none("a module uses only modules above it in lib.rs", &violations);
}

#[test]
fn siblings_form_no_cycle() {
    let sources = rust_files(&["src/"]);
    let mut violations = sibling_cycles(&sources);
    for known in CLOSED_CYCLES {
        let cycle = format!("src/{known}: ");
        let count = violations.len();
        violations.retain(|violation| !violation.starts_with(&cycle));
        if violations.len() == count {
            violations.push(format!("src/{known}: has no cycle, remove it from CLOSED_CYCLES"));
        }
    }
    assert_none("sibling modules form no cycle", &violations);
}

mod can_fail {
    use super::*;

    fn order() -> Vec<String> {
        reading_order(
            "//! mod not_this;\npub mod config;\nmod telemetry;\n/// Words.\npub mod db;\n\n\
             pub mod http;\n",
        )
    }

    #[test]
    fn the_order_is_read_top_to_bottom() {
        assert_eq!(order(), ["config", "telemetry", "db", "http"]);
    }

    #[test]
    fn an_import_that_points_down_is_seen_in_every_form() {
        for bad in [
            "use crate::http;",
            "use crate::http::Response;",
            "    use crate::{config, http::{self, Response}};",
            "use crate::{\n    config::{Secret, value},\n    http,\n};",
            "pub(in crate::http) fn f() {}",
            "fn f() -> crate::http::Response { todo() }",
            "use crate::nowhere::X;",
        ] {
            let seen: BTreeSet<String> =
                downward_imports(&order(), &Source::new("src/db/pool.rs", bad))
                    .into_iter()
                    .collect();
            assert_eq!(seen.len(), 1, "{bad}: {seen:?}");
        }
        let two = Source::new("src/telemetry.rs", "use crate::{db, http};");
        assert_eq!(downward_imports(&order(), &two).len(), 2);
    }

    #[test]
    fn an_import_that_points_up_or_elsewhere_is_allowed() {
        for good in [
            "use crate::config::{self, Secret};",
            "use crate::db::error::Kind; // not crate::http",
            "use crate::{config, telemetry::Metrics};",
            "//! See [`crate::http`].",
            "let x = $crate::http!();",
            "use other_crate::http;",
        ] {
            let violations = downward_imports(&order(), &Source::new("src/db/pool.rs", good));
            assert_eq!(violations, Violations::new(), "{good}");
        }
        let main = Source::new("src/main.rs", "use crate::http;");
        assert_eq!(downward_imports(&order(), &main), Violations::new());
    }

    #[test]
    fn a_cycle_of_siblings_is_seen() {
        let files = |a: &str, b: &str, c: &str| {
            [
                Source::new("src/db/mod.rs", "pub mod a; pub mod b; pub mod c;"),
                Source::new("src/db/a.rs", a),
                Source::new("src/db/b/mod.rs", b),
                Source::new("src/db/c.rs", c),
            ]
        };
        for (a, b, c) in [
            ("use super::b::X;", "use super::a::Y;", ""),
            ("use super::{c, b::{X, Z}};", "use crate::db::c::f;", "fn f(_: super::a::Y) {}"),
        ] {
            assert_eq!(sibling_cycles(&files(a, b, c)).len(), 1, "{a} {b} {c}");
        }
        let (a, b) = ("use super::b::X;", "use super::c::X; use super::Own;");
        let test_only = "#[cfg(test)]\nmod tests {\n    use super::super::a::X;\n}\n";
        assert_eq!(sibling_cycles(&files(a, b, test_only)), Violations::new());
    }
}
