//! Which databases are meant: the configured ones, or a development server.

use std::path::Path;

use super::super::keys::MAIN;
use super::super::problem::{Origin, Problem};
use super::super::tree::{Node, Value};
use super::super::{Config, Database, Environment};
use super::Findings;

const PASSWORDS: [&str; 3] = ["password", "password_file", "password_command"];

/// Settles the databases. In development, a missing database is replaced by a development server.
pub(in crate::config) fn databases(config: &mut Config, tree: &Node) -> Findings {
    let mut findings = Findings::default();
    if config.development.ephemeral {
        development_server(config, tree, &mut findings);
        return findings;
    }
    let twice = tree.at(&["database"]).is_some() && tree.at(&["databases", MAIN]).is_some();
    let mut fall_back = false;
    // If there are two of the name, which one is meant is reported already.
    for (name, database) in config.databases.iter().filter(|(name, _)| !(twice && *name == MAIN)) {
        let (table, alone) = (table_of(tree, name), config.databases.len() == 1 && name == MAIN);
        match lack(tree, &table, database) {
            None => {}
            Some(Lack::Problem(problem)) => findings.problems.push(problem),
            Some(Lack::Address) if alone && config.environment == Environment::Development => {
                fall_back = true;
                findings.warnings.push(
                    "no database is configured: in development a development server is used, and \
                     its data is lost at the end"
                        .to_owned(),
                );
            }
            Some(Lack::Address) => findings.problems.push(missing(tree, name, &table)),
        }
    }
    config.development.ephemeral = fall_back;
    findings
}

/// What a database lacks.
enum Lack {
    /// Nothing names it.
    Address,
    Problem(Problem),
}

/// Finds whether a database lacks an address, or a password where only Supabase's address is given.
fn lack(tree: &Node, table: &[&str], database: &Database) -> Option<Lack> {
    let at = |keys: &[&str]| tree.at(&[table, keys].concat());
    let given = |keys: &[&str]| at(keys).is_some();
    let problem = |keys: &[&str], found: &str, expected: &str| {
        let path = [table, keys].concat();
        Some(Lack::Problem(Problem::new(tree.origin_of(&path), path.join("."), found, expected)))
    };
    // A value that cannot be used is an address too, and was reported.
    if given(&["url"]) || given(&["url_file"]) {
        return None;
    }
    match (&database.supabase, at(&["supabase", "url"]).map(|node| &node.value)) {
        (Some(supabase), _) => {
            let forms = [["supabase", "db_password"], ["supabase", "db_password_file"]];
            let password = supabase.db_password.is_some()
                || forms.iter().any(|key| given(key))
                || PASSWORDS.iter().any(|key| given(&[key]));
            let expected = "SUPABASE_DB_PASSWORD, supabase.db_password or \
                            supabase.db_password_file (the service key is not a password)";
            let found = "no password of the database beside it";
            if password { None } else { problem(&["supabase", "url"], found, expected) }
        }
        // Not shown, because it may be a connection string with a password.
        (None, Some(Value::Text(_) | Value::Loose(_))) => {
            problem(&["supabase", "url"], "a string", r#""https://PROJECT.supabase.co""#)
        }
        (None, Some(_)) => None,
        (None, None) => {
            // An empty header means nothing: the example has one.
            let begun = at(&["supabase"]).filter(|node| {
                node.origin.is_file() && node.as_table().is_some_and(|table| !table.is_empty())
            });
            let expected = r#"supabase.url = "https://PROJECT.supabase.co", or SUPABASE_URL"#;
            begun.and_then(|_| problem(&["supabase"], "no url", expected)).or(Some(Lack::Address))
        }
    }
}

fn missing(tree: &Node, name: &str, table: &[&str]) -> Problem {
    let expected = if name == MAIN {
        "DATABASE_URL, or database.url, or SUPABASE_URL with SUPABASE_DB_PASSWORD; for a \
         development server --ephemeral or USE_IN_MEMORY_DB=true"
    } else {
        "a url, a url_file or a supabase.url"
    };
    let key = format!("{}.url", table.join("."));
    Problem::new(tree.origin_of(table), key, "no database", expected)
}

/// Replaces all databases by a development server. It takes precedence over a database from the
/// environment, because developers have a `DATABASE_URL` in all their shells. A file that asks for
/// both contradicts itself.
fn development_server(config: &mut Config, tree: &Node, findings: &mut Findings) {
    let asked = tree.origin_of(&["development", "ephemeral"]);
    if config.environment == Environment::Production && tree.at(&["environment"]).is_some() {
        findings.warnings.push(format!(
            "{asked} asks for a development server in production: its data is lost at the end"
        ));
    }
    for name in config.databases.keys() {
        let table = table_of(tree, name);
        let urls: [&[&str]; 4] = [&["url"], &["url_file"], &["supabase", "url"], &[]];
        let mut paths = urls.iter().map(|key| [table.as_slice(), key].concat());
        // The table alone is an address for no other database than the main one.
        let given = paths.find(|path| tree.at(path).is_some());
        let Some(path) = given.filter(|path| path.len() > table.len() || name != MAIN) else {
            continue;
        };
        let origin = tree.origin_of(&path);
        if asked.is_file() && origin.is_file() {
            let line = asked.line().unwrap_or_default();
            let found = format!("a database beside development.ephemeral = true in line {line}");
            findings.problems.push(Problem::new(origin, path.join("."), found, "only one of them"));
        } else {
            let place = describe(&origin, &path);
            findings
                .warnings
                .push(format!("{place} is not used: {asked} asks for a development server"));
        }
    }
    let main = config.databases.remove(MAIN).unwrap_or_default();
    let main = Database { url: None, direct_url: None, password: None, supabase: None, ..main };
    config.databases = [(MAIN.to_owned(), main)].into();
}

/// Names a value. A variable's name suffices; a line needs its key.
fn describe(origin: &Origin, path: &[&str]) -> String {
    match origin {
        Origin::Environment(name) => name.clone(),
        Origin::File { path: file, line } => {
            format!("{} ({}:{line})", path.join("."), Path::new(file).display())
        }
        other => format!("{} ({other})", path.join(".")),
    }
}

/// The path of a database's table in the tree.
pub(super) fn table_of<'a>(tree: &Node, name: &'a str) -> Vec<&'a str> {
    if name == MAIN && tree.at(&["databases", MAIN]).is_none() {
        vec!["database"]
    } else {
        vec!["databases", name]
    }
}
