//! What is laid over the file: systemd's directories, the environment, the flags.
//!
//! From weak to strong: `STATE_DIRECTORY` and `CREDENTIALS_DIRECTORY` (only where nothing else is
//! said), the file, the variables with plain names (`DATABASE_URL` …), the variables
//! `PGSTEWARD__SECTION__KEY`, the flags. An empty variable counts as none, since a compose file's
//! `${NAME:-}` sets one. A secret in one form replaces the weaker ones in every form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Builtin;
use super::defaults::MAIN;
use super::load::Args;
use super::problem::{Origin, Problem};
use super::read::variable_of;
use super::tree::{Node, Value};

/// Two underscores part the sections: a key may hold one.
const PREFIX: &str = "PGSTEWARD__";

/// Variables of the database, by plain name.
const DATABASE_VARIABLES: [(&str, &[&str]); 7] = [
    ("DATABASE_URL", &["url"]),
    ("SUPABASE_URL", &["supabase", "url"]),
    ("SUPABASE_SERVICE_KEY", &["supabase", "service_key"]),
    ("SUPABASE_DB_PASSWORD", &["supabase", "db_password"]),
    ("DB_POOL_MIN_SIZE", &["pool_min_size"]),
    ("DB_POOL_MAX_SIZE", &["pool_max_size"]),
    ("DB_QUERY_TIMEOUT", &["query_timeout"]),
];

/// Variables of the process, by plain name.
const PROCESS_VARIABLES: [(&str, &[&str]); 3] = [
    ("ENVIRONMENT", &["environment"]),
    ("USE_IN_MEMORY_DB", &["development", "ephemeral"]),
    ("SUPABASE_JWT_SECRET", &["auth", "jwt", "secret"]),
];

/// Files in systemd's credentials directory, with the secret of the database that each stands for.
const CREDENTIALS: [(&str, &[&str]); 5] = [
    ("database_url", &["url"]),
    ("database_direct_url", &["direct_url"]),
    ("database_password", &["password"]),
    ("supabase_service_key", &["supabase", "service_key"]),
    ("supabase_db_password", &["supabase", "db_password"]),
];

/// Secrets of databases, jobs, sinks and callers, each of which has several forms.
const SECRETS: [&str; 8] = [
    "url",
    "direct_url",
    "password",
    "service_key",
    "db_password",
    "login_url",
    "webhook_url",
    "secret",
];
const FORMS: [&str; 3] = ["", "_file", "_command"];

/// What came out beside the tree.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// Lays all of it over the file's tree.
pub(super) fn apply(tree: &mut Node, args: &Args, env: &BTreeMap<String, String>) -> Outcome {
    let mut outcome = Outcome::default();
    let said =
        |name: &str| env.get(name).map(String::as_str).filter(|text| !text.trim().is_empty());
    let database = main_database(tree);

    for (name, key) in PROCESS_VARIABLES {
        if let Some(text) = said(name) {
            lay(tree, owned(key), Node::loose(text, Origin::Environment(name.to_owned())));
        }
    }
    for (name, key) in DATABASE_VARIABLES {
        let Some(text) = said(name) else { continue };
        let Some(database) = &database else {
            outcome.warnings.push(format!(
                "{name} is not used, since the configuration names its databases: say {} for one of them",
                variable_of(&format!("databases.name.{}", key.join(".")))
            ));
            continue;
        };
        // The one number without a unit: by its name it has always been seconds.
        let seconds =
            name == "DB_QUERY_TIMEOUT" && text.trim().bytes().all(|byte| byte.is_ascii_digit());
        let text = if seconds { format!("{}s", text.trim()) } else { text.to_owned() };
        let path = [database.clone(), owned(key)].concat();
        lay(tree, path, Node::loose(text, Origin::Environment(name.to_owned())));
    }
    let mut seen = BTreeMap::new();
    for (name, text) in env.iter().filter(|(_, text)| !text.trim().is_empty()) {
        let Some(segments) = segments(name) else { continue };
        let path = resolve(tree, database.as_deref(), &segments);
        if let Some(first) = seen.insert(path.clone(), name) {
            outcome.problems.push(Problem::new(
                Origin::Environment(name.clone()),
                path.join("."),
                format!("the same key as in {first}"),
                "one of them",
            ));
        }
        lay(tree, path, Node::loose(text.as_str(), Origin::Environment(name.clone())));
    }
    flags(tree, args);

    if let Some(folder) = said("CREDENTIALS_DIRECTORY") {
        credentials(tree, database.as_deref(), Path::new(folder));
    }
    // Several are separated by colons; the first is the unit's own.
    if let Some(folder) = said("STATE_DIRECTORY").and_then(|folders| folders.split(':').next())
        && tree.at(&["state_dir"]).is_none()
    {
        lay(
            tree,
            owned(&["state_dir"]),
            Node::loose(folder, Origin::Environment("STATE_DIRECTORY".to_owned())),
        );
    }
    outcome
}

/// Variables that look like ours but for an underscore; a service named `pgsteward` makes Kubernetes
/// set others of that prefix, so only those that spell a key are worth a word.
pub(super) fn near_misses(env: &BTreeMap<String, String>, known: &BTreeSet<String>) -> Vec<String> {
    let spelt = |path: &str| path.replace(['.', '-'], "_").to_uppercase();
    env.keys()
        .filter_map(|name| {
            let rest = name.to_uppercase().strip_prefix("PGSTEWARD_")?.to_owned();
            if rest.starts_with('_') {
                return None;
            }
            let rest = rest.replace("__", "_");
            let path = known.iter().find(|path| spelt(path) == rest)?;
            Some(format!(
                "{name} is not read: did you mean {}, with two underscores?",
                variable_of(path)
            ))
        })
        .collect()
}

fn flags(tree: &mut Node, args: &Args) {
    if args.ephemeral {
        let node = Node { value: Value::Boolean(true), origin: Origin::Flag("--ephemeral") };
        lay(tree, owned(&["development", "ephemeral"]), node);
    }
    if let Some(listen) = &args.listen {
        lay(
            tree,
            owned(&["http", "listen"]),
            Node::loose(listen.as_str(), Origin::Flag("--listen")),
        );
    }
    if let Some(dir) = &args.migrations_dir {
        let node = Node::loose(dir.to_string_lossy(), Origin::Flag("--dir"));
        lay(tree, owned(&["migrations", "dir"]), node);
    }
}

/// Uses a credential where no form of its secret is said.
fn credentials(tree: &mut Node, database: Option<&[String]>, folder: &Path) {
    let Some(database) = database else { return };
    for (name, key) in CREDENTIALS {
        let file = folder.join(name);
        let path = [database, owned(key).as_slice()].concat();
        let Some((secret, table)) = path.split_last() else { continue };
        let said = FORMS.iter().any(|form| {
            let key = format!("{secret}{form}");
            let path: Vec<&str> = table.iter().map(String::as_str).chain([key.as_str()]).collect();
            tree.at(&path).is_some()
        });
        if !said && file.is_file() {
            let path = [table, &[format!("{secret}_file")]].concat();
            lay(tree, path, Node::loose(file.to_string_lossy(), Origin::Credential(file.clone())));
        }
    }
}

/// Where the variables with plain names go: `[database]`, or `[databases.main]`. Nowhere when the
/// file names other databases only: a `DATABASE_URL` left in the environment must not add one.
fn main_database(tree: &Node) -> Option<Vec<String>> {
    if tree.at(&["database"]).is_some() {
        return Some(owned(&["database"]));
    }
    match tree.at(&["databases"]).and_then(Node::as_table) {
        Some(many) if many.contains_key(MAIN) => Some(owned(&["databases", MAIN])),
        Some(many) if !many.is_empty() => None,
        _ => Some(owned(&["database"])),
    }
}

/// `PGSTEWARD__HEALTH__STALE_AFTER` → `HEALTH`, `STALE_AFTER`.
fn segments(name: &str) -> Option<Vec<&str>> {
    let prefix = name.get(..PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| name[PREFIX.len()..].split("__").collect())
}

/// The key that a variable means. Names that exist (in the file, or as a built-in job) are found
/// whatever their case and dashes; all others are in lower case.
fn resolve(tree: &Node, database: Option<&[String]>, segments: &[&str]) -> Vec<String> {
    let same = |a: &str, b: &str| a.replace('-', "_").eq_ignore_ascii_case(&b.replace('-', "_"));
    let mut path: Vec<String> = Vec::new();
    let mut node = Some(tree);
    for segment in segments {
        let table = node.and_then(Node::as_table);
        let existing = table.and_then(|table| table.keys().find(|key| same(key, segment)).cloned());
        let job = || {
            let jobs = path.len() == 1 && path[0] == "jobs";
            let names = Builtin::ALL.map(Builtin::as_str);
            names.into_iter().find(|name| jobs && same(name, segment)).map(str::to_owned)
        };
        let key = existing.or_else(job).unwrap_or_else(|| segment.to_lowercase());
        node = table.and_then(|table| table.get(&key));
        path.push(key);
    }
    match (path.first().map(String::as_str), database) {
        (Some("database"), Some(database)) => [database, &path[1..]].concat(),
        _ => path,
    }
}

/// Lays one value over the tree, and takes away the weaker forms of the same secret.
fn lay(tree: &mut Node, path: Vec<String>, node: Node) {
    if let Some((key, table)) = path.split_last()
        && path.first().is_some_and(|first| {
            first.starts_with("database") || ["jobs", "audit", "auth"].contains(&first.as_str())
        })
        && let Some(secret) =
            SECRETS.iter().find(|secret| FORMS.iter().any(|form| *key == format!("{secret}{form}")))
    {
        for other in FORMS.iter().map(|form| format!("{secret}{form}")).filter(|other| other != key)
        {
            let path: Vec<&str> =
                table.iter().map(String::as_str).chain([other.as_str()]).collect();
            if tree.at(&path).is_some_and(|weaker| weaker.origin.level() < node.origin.level()) {
                tree.remove(table, &other);
            }
        }
    }
    // What stands in the way is no table where one is wanted, and is reported when it is read.
    let _ = tree.set(&path, node);
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}
