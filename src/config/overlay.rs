//! Applies systemd's directories, the environment and the flags to the file's tree.
//!
//! From weak to strong: `STATE_DIRECTORY` and `CREDENTIALS_DIRECTORY` (only for keys without
//! another value), the file, the variables with names of their own (`DATABASE_URL` …), the
//! variables
//! `PGSTEWARD__SECTION__KEY`, the flags. An empty variable counts as missing, because `${NAME:-}`
//! in a compose file sets one. A secret in one form replaces the weaker ones in every form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::load::Args;
use super::problem::{Origin, Problem};
use super::read::variable_of;
use super::table::Key;
use super::tree::{Node, Value};
use super::{Builtin, MAIN, keys};

/// Two underscores separate the sections, because a key may contain one.
const PREFIX: &str = "PGSTEWARD__";
/// The suffixes of a secret's key, one per form.
const FORMS: [&str; 3] = ["", "_file", "_command"];
const DATABASE: &str = "database.";

/// The findings beside the tree.
#[derive(Debug, Default)]
pub(super) struct Overlaid {
    pub problems: Vec<Problem>,
    pub warnings: Vec<String>,
}

/// Applies all of it to the file's tree.
pub(super) fn apply(tree: &mut Node, args: &Args, env: &BTreeMap<String, String>) -> Overlaid {
    let mut overlaid = Overlaid::default();
    let given =
        |name: &str| env.get(name).map(String::as_str).filter(|text| !text.trim().is_empty());
    let mut declared: Vec<(String, &Key)> = Vec::new();
    keys::declared(&mut |path, key| declared.push((path, key)));
    let mut overlay = Overlay {
        main: main_database(tree),
        secrets: declared.iter().filter(|(_, key)| key.is_secret()).map(|(_, k)| k.name).collect(),
        tree,
    };

    for (path, key) in &declared {
        let Some((name, text)) = key.variable.and_then(|name| Some((name, given(name)?))) else {
            continue;
        };
        let Some(path) = overlay.resolve_main(path) else {
            overlaid.warnings.push(format!(
                "{name} is not used, because the configuration names its databases: set {} for one \
                 of them",
                variable_of(&path.replacen(DATABASE, "databases.name.", 1))
            ));
            continue;
        };
        // The one number without a unit: the name has always meant seconds.
        let seconds =
            name == "DB_QUERY_TIMEOUT" && text.trim().bytes().all(|byte| byte.is_ascii_digit());
        let text = if seconds { format!("{}s", text.trim()) } else { text.to_owned() };
        overlay.set(path, Node::loose(text, Origin::Environment(name.to_owned())));
    }
    let mut seen = BTreeMap::new();
    for (name, text) in env.iter().filter(|(_, text)| !text.trim().is_empty()) {
        let Some(segments) = segments(name) else { continue };
        let path = overlay.resolve(&segments);
        let origin = Origin::Environment(name.clone());
        if let Some(first) = seen.insert(path.clone(), name) {
            let found = format!("the same key as in {first}");
            overlaid.problems.push(Problem::new(
                origin.clone(),
                path.join("."),
                found,
                "only one of them",
            ));
        }
        overlay.set(path, Node::loose(text.as_str(), origin));
    }
    overlay.flags(args);

    if let Some(directory) = given("CREDENTIALS_DIRECTORY") {
        for (path, key) in &declared {
            if let (Some(name), Some(path)) = (key.credential, overlay.resolve_main(path)) {
                overlay.credential(path, Path::new(directory).join(name).as_path());
            }
        }
    }
    // Several are separated by colons; the first is the unit's own.
    if let Some(directory) = given("STATE_DIRECTORY").and_then(|list| list.split(':').next())
        && overlay.tree.at(&["state_dir"]).is_none()
    {
        let origin = Origin::Environment("STATE_DIRECTORY".to_owned());
        overlay.set(split("state_dir"), Node::loose(directory, origin));
    }
    overlaid
}

/// Warns of variables that name a key but for an underscore. Other variables with the prefix are
/// not ours: Kubernetes sets some for a service with the name `pgsteward`.
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

struct Overlay<'t> {
    tree: &'t mut Node,
    /// The table of the database that `database.*` means; none if the file names only other ones.
    main: Option<&'static [&'static str]>,
    /// The keys that have several forms.
    secrets: BTreeSet<&'static str>,
}

/// The table of the main database: `[database]` or `[databases.main]`. If the file names only other
/// databases there is none, so that a `DATABASE_URL` left in the environment does not add one.
fn main_database(tree: &Node) -> Option<&'static [&'static str]> {
    if tree.at(&["database"]).is_some() {
        return Some(&["database"]);
    }
    match tree.at(&["databases"]).and_then(Node::as_table) {
        Some(named) if named.contains_key(MAIN) => Some(&["databases", MAIN]),
        Some(named) if !named.is_empty() => None,
        _ => Some(&["database"]),
    }
}

impl Overlay<'_> {
    /// The place of a declared key in this tree.
    fn resolve_main(&self, path: &str) -> Option<Vec<String>> {
        match path.strip_prefix(DATABASE) {
            Some(rest) => {
                let table = self.main?.iter().map(|key| (*key).to_owned());
                Some(table.chain(split(rest)).collect())
            }
            None => Some(split(path)),
        }
    }

    /// The key that a variable means. Names that exist (in the file, or as a built-in job) are
    /// found whatever their case and dashes; all others are lower case.
    fn resolve(&self, segments: &[&str]) -> Vec<String> {
        let same =
            |a: &str, b: &str| a.replace('-', "_").eq_ignore_ascii_case(&b.replace('-', "_"));
        let mut path: Vec<String> = Vec::new();
        let mut node = Some(&*self.tree);
        for segment in segments {
            let table = node.and_then(Node::as_table);
            let existing =
                table.and_then(|table| table.keys().find(|key| same(key, segment)).cloned());
            let job = || {
                let jobs = path.len() == 1 && path[0] == "jobs";
                let names = Builtin::ALL.map(Builtin::as_str);
                names.into_iter().find(|name| jobs && same(name, segment)).map(str::to_owned)
            };
            let key = existing.or_else(job).unwrap_or_else(|| segment.to_lowercase());
            node = table.and_then(|table| table.get(&key));
            path.push(key);
        }
        match (path.first().map(String::as_str), self.main) {
            (Some("database"), Some(main)) => {
                let main = main.iter().map(|key| (*key).to_owned());
                main.chain(path.into_iter().skip(1)).collect()
            }
            _ => path,
        }
    }

    fn flags(&mut self, args: &Args) {
        if args.ephemeral {
            let node = Node { value: Value::Boolean(true), origin: Origin::Flag("--ephemeral") };
            self.set(split("development.ephemeral"), node);
        }
        if let Some(listen) = &args.listen {
            let node = Node::loose(listen.as_str(), Origin::Flag("--listen"));
            self.set(split("http.listen"), node);
        }
        if let Some(dir) = &args.migrations_dir {
            let node = Node::loose(dir.to_string_lossy(), Origin::Flag("--dir"));
            self.set(split("migrations.dir"), node);
        }
    }

    /// Uses a credential if its secret is given in no form.
    fn credential(&mut self, mut path: Vec<String>, file: &Path) {
        let Some(secret) = path.pop() else { return };
        let table = path.iter().try_fold(&*self.tree, |node, key| node.at(&[key]));
        let given = FORMS.iter().any(|form| {
            table.is_some_and(|table| table.at(&[&format!("{secret}{form}")]).is_some())
        });
        if !given && file.is_file() {
            path.push(format!("{secret}_file"));
            let origin = Origin::Credential(file.to_owned());
            self.set(path, Node::loose(file.to_string_lossy(), origin));
        }
    }

    /// Sets one value, and removes the weaker forms of the same secret.
    fn set(&mut self, path: Vec<String>, node: Node) {
        if let Some((key, table)) = path.split_last()
            && let Some(secret) = FORMS.iter().find_map(|form| {
                key.strip_suffix(form).filter(|secret| self.secrets.contains(secret))
            })
        {
            for other in FORMS.map(|form| format!("{secret}{form}")) {
                let path: Vec<&str> = table.iter().chain([&other]).map(String::as_str).collect();
                let weaker = |other: &Node| other.origin.level() < node.origin.level();
                if other != *key && self.tree.at(&path).is_some_and(weaker) {
                    self.tree.remove(table, &other);
                }
            }
        }
        // A value in the way is not the table that it should be, and is reported when it is read.
        let _ = self.tree.set(&path, node);
    }
}

/// `PGSTEWARD__HEALTH__STALE_AFTER` → `HEALTH`, `STALE_AFTER`.
fn segments(name: &str) -> Option<Vec<&str>> {
    let prefix = name.get(..PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then(|| name[PREFIX.len()..].split("__").collect())
}

fn split(path: &str) -> Vec<String> {
    path.split('.').map(str::to_owned).collect()
}
