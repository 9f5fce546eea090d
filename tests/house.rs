//! The house rules, held by reading the source. Each rule has a check of itself: that it can fail.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// A breach: where, and what is wrong.
type Breaches = Vec<String>;

/// A file below the repository's root, comments and strings as they are.
struct Source {
    /// `src/db/mod.rs`
    path: String,
    text: String,
}

const FILE_LINES_MAX: usize = 560;

/// What may stand only behind one door.
struct Door {
    /// Any of these in the code (comments aside) needs the door.
    signs: &'static [&'static str],
    /// Files or folders that are the door.
    behind: &'static [&'static str],
    /// Files that may all the same, each with its reason.
    except: &'static [(&'static str, &'static str)],
    why: &'static str,
}

const DOORS: &[Door] = &[
    Door {
        signs: &["rustls::", "rustls_native_certs::", "tokio_postgres_rustls::", "tokio_rustls::"],
        behind: &[
            "src/db/tls.rs",
            "src/db/tls/",
            "src/http/tls.rs",
            "src/http/tls/",
            "src/webhook/tls.rs",
        ],
        except: &[],
        why: "what each sslmode means is decided in one place",
    },
    Door {
        signs: &["hyper::client::", "hyper_util::client::"],
        behind: &["src/webhook/"],
        except: &[],
        why: "what is sent out is bounded, and shows no secret",
    },
    Door {
        signs: &["tokio_cron_scheduler"],
        behind: &["src/scheduler/ticker.rs"],
        except: &[("src/telemetry/log.rs", "names it to quiet its log")],
        why: "the cron crate wakes us and decides nothing",
    },
    Door {
        signs: &["tokio::spawn(", "task::spawn(", "Handle::spawn(", "spawn_local("],
        behind: &["src/lifecycle.rs", "src/lifecycle/"],
        except: &[],
        why: "a task without a name cannot be waited for or named by a drain that hangs",
    },
    Door {
        signs: &["process::exit("],
        behind: &["src/main.rs"],
        except: &[("src/lifecycle/signals.rs", "a second signal ends the process at once")],
        why: "only main turns an outcome into an exit code",
    },
    Door {
        signs: &[
            "FROM steward.",
            "INTO steward.",
            "UPDATE steward.",
            "JOIN steward.",
            "TRUNCATE steward.",
        ],
        behind: &["src/store/", "src/store.rs"],
        except: &[],
        why: "the SQL on pgsteward's own tables is read and changed together",
    },
    Door {
        signs: &[
            "FROM pg_stat_",
            "JOIN pg_stat_",
            "FROM pg_catalog.",
            "JOIN pg_catalog.",
            "FROM pg_class",
            "JOIN pg_class",
        ],
        behind: &["src/observe/", "src/observe.rs"],
        except: &[
            (
                "src/db/session.rs",
                "proves in pg_stat_activity that a cancelled statement has ended",
            ),
            ("src/db/pooler.rs", "tells a pooler by the behaviour of backends"),
            ("src/db/login.rs", "sets only the session settings that this server has"),
        ],
        why: "what a catalog query needs (version, privilege) is known in one place",
    },
];

/// Paths of one machine, in anything of the repository; this checkout's own is another.
const MACHINE_PATHS: &[&str] = &["/home/", "/root/", "/Users/"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                collect(&path, wanted, found);
            }
        } else if wanted(&path)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path =
                path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            found.push(Source { path, text });
        }
    }
}

fn rust_files(below: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in below {
        collect(
            &root().join(folder),
            &|path| path.extension().is_some_and(|end| end == "rs"),
            &mut found,
        );
    }
    assert!(!found.is_empty(), "no sources found below {below:?}");
    found
}

fn hold(rule: &str, breaches: &[String]) {
    let mut shown = String::new();
    for breach in breaches {
        writeln!(shown, "  {breach}").unwrap();
    }
    assert!(breaches.is_empty(), "{rule}\n{shown}");
}

/// Lines with their numbers, line comments cut off. A `//` inside a string cuts too much: these
/// rules look for code, and the code before a URL is still seen.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// The modules of lib.rs, top to bottom.
fn reading_order(lib: &str) -> Vec<String> {
    code_lines(lib)
        .filter_map(|(_, line)| {
            let line = line.trim();
            let rest = line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("mod "))?;
            Some(rest.strip_suffix(';')?.to_owned())
        })
        .collect()
}

/// First segments of every path that starts at the crate's root, with the line they start on:
/// `crate::a::b`, and each of `crate::{a, b::{c, d}}`, over several lines too.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let code: String = code_lines(text).flat_map(|(_, line)| [line, "\n"]).collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `some_crate::` are other things.
        if code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$')
        {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push((line, first_segment(rest))),
            Some(group) => {
                let (mut depth, mut start) = (0_usize, 0);
                for (index, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        ',' if depth == 0 => {
                            found.push((line, first_segment(group[start..index].trim_start())));
                            start = index + 1;
                        }
                        '}' if depth == 0 => {
                            found.push((line, first_segment(group[start..index].trim_start())));
                            break;
                        }
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    found.retain(|(_, segment)| !segment.is_empty());
    found
}

fn first_segment(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn downward_imports(order: &[String], source: &Source) -> Breaches {
    let below_src = source.path.strip_prefix("src/").unwrap_or(&source.path);
    let module = first_segment(below_src);
    let Some(place) = order.iter().position(|name| *name == module) else {
        return Vec::new(); // lib.rs and main.rs see everything.
    };
    crate_paths(&source.text)
        .into_iter()
        .filter_map(|(line, used)| match order.iter().position(|name| *name == used) {
            Some(at) if at <= place => None,
            Some(_) => Some(format!(
                "{}:{line}: `{module}` uses `{used}`, which lib.rs declares below it",
                source.path
            )),
            None => Some(format!("{}:{line}: `crate::{used}` is no module of lib.rs", source.path)),
        })
        .collect()
}

fn past_doors(doors: &[Door], source: &Source) -> Breaches {
    let at = |place: &str| {
        source.path == place || (place.ends_with('/') && source.path.starts_with(place))
    };
    let mut breaches = Vec::new();
    for door in doors {
        if door.behind.iter().any(|place| at(place))
            || door.except.iter().any(|(place, _)| at(place))
        {
            continue;
        }
        for (line, code) in code_lines(&source.text) {
            let folded = code.split_whitespace().collect::<Vec<_>>().join(" ");
            for sign in door.signs.iter().filter(|sign| contains_sign(&folded, sign)) {
                let place = door.behind.join(", ");
                breaches.push(format!(
                    "{}:{line}: `{sign}` belongs into {place}: {}",
                    source.path, door.why
                ));
            }
        }
    }
    breaches
}

/// SQL is found in any letter case; a path of Rust only as a whole one (`rustls::`, not `x_rustls::`).
fn contains_sign(line: &str, sign: &str) -> bool {
    let is_sql = sign.starts_with(|c: char| c.is_ascii_uppercase()) && sign.contains(' ');
    if is_sql {
        return line.to_ascii_uppercase().contains(&sign.to_ascii_uppercase());
    }
    line.match_indices(sign)
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// A DELETE by `ctid` whose conditions stand only in its subquery. If another transaction updates a
/// row while the DELETE waits for it, only the outer conditions are evaluated again.
fn bare_ctid_deletes(source: &Source) -> Breaches {
    const SIGN: &str = "ctid = ANY (ARRAY(";
    let mut breaches = Vec::new();
    for (at, _) in source.text.match_indices(SIGN) {
        let mut open = 2;
        let mut after = source.text[at + SIGN.len()..].chars();
        while open > 0 {
            match after.next() {
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some(_) => {}
                None => break,
            }
        }
        if !after.as_str().trim_start().starts_with("AND ") {
            let line = source.text[..at].matches('\n').count() + 1;
            breaches.push(format!(
                "{}:{line}: repeat the subquery's conditions after `ctid = ANY (…)`",
                source.path
            ));
        }
    }
    breaches
}

fn too_long(source: &Source) -> Breaches {
    let lines = source.text.lines().count();
    let breach =
        || format!("{}: {lines} lines, at most {FILE_LINES_MAX}: look for the seam", source.path);
    (lines > FILE_LINES_MAX).then(breach).into_iter().collect()
}

fn ignored_tests(source: &Source) -> Breaches {
    code_lines(&source.text)
        .filter(|(_, line)| line.trim_start().starts_with(concat!("#[", "ignore")))
        .map(|(line, _)| format!("{}:{line}: a test that is not run proves nothing", source.path))
        .collect()
}

fn untidy(source: &Source) -> Breaches {
    let mut breaches = Vec::new();
    for (index, line) in source.text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            breaches.push(format!(
                "{}:{}: white space at the end of the line",
                source.path,
                index + 1
            ));
        }
    }
    if !source.text.is_empty() && !source.text.ends_with('\n') {
        breaches.push(format!("{}: no end of line at the end", source.path));
    }
    breaches
}

fn machine_paths(source: &Source) -> Breaches {
    let lines = source.text.lines().enumerate();
    lines
        .filter_map(|(index, line)| {
            let here = concat!(env!("CARGO_MANIFEST_DIR"), "/");
            let sign =
                MACHINE_PATHS.iter().chain([&here]).find(|sign| starts_a_path(line, sign))?;
            Some(format!("{}:{}: `{sign}` is a path of one machine", source.path, index + 1))
        })
        .collect()
}

/// `/root/x` but not `some/root/x`.
fn starts_a_path(line: &str, sign: &str) -> bool {
    line.match_indices(sign).any(|(at, _)| {
        !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}>*".contains(c))
    })
}

/// Every text file of the repository that people write.
fn written_files() -> Vec<Source> {
    const ENDS: &[&str] = &[
        "rs", "toml", "sql", "md", "sh", "yaml", "yml", "service", "json", "conf", "html", "css",
        "js",
    ];
    const NAMES: &[&str] = &["Makefile", "run", "LICENSE", "Dockerfile", ".gitignore"];
    let mut found = Vec::new();
    let wanted = |path: &Path| {
        let end = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ENDS.contains(&end.as_str()) || NAMES.contains(&name.as_str())
    };
    collect(&root(), &wanted, &mut found);
    assert!(
        found.iter().any(|source| source.path == "Cargo.toml"),
        "the repository's root is read"
    );
    found
}

fn source(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn modules_use_only_what_lib_rs_declares_above_them() {
    let order = reading_order(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    assert!(order.len() > 10, "the modules of lib.rs are read: {order:?}");
    let breaches: Breaches =
        rust_files(&["src"]).iter().flat_map(|file| downward_imports(&order, file)).collect();
    hold("a module uses only modules above it in lib.rs", &breaches);
}

#[test]
fn doors_are_single() {
    let breaches: Breaches =
        rust_files(&["src"]).iter().flat_map(|file| past_doors(DOORS, file)).collect();
    hold("some things stand behind one door", &breaches);
}

#[test]
fn deletes_by_ctid_repeat_their_conditions() {
    let breaches: Breaches = rust_files(&["src"]).iter().flat_map(bare_ctid_deletes).collect();
    hold("a DELETE by ctid never removes a row that was just updated", &breaches);
}

#[test]
fn files_are_short() {
    let breaches: Breaches = rust_files(&["src"]).iter().flat_map(too_long).collect();
    hold("a file has one reason to change", &breaches);
}

#[test]
fn no_test_is_ignored() {
    let breaches: Breaches = rust_files(&["src", "tests"]).iter().flat_map(ignored_tests).collect();
    hold("every test runs", &breaches);
}

#[test]
fn files_are_tidy() {
    let breaches: Breaches = written_files().iter().flat_map(untidy).collect();
    hold("lines end where their text ends", &breaches);
}

#[test]
fn nothing_names_a_machine() {
    // This file names them to forbid them.
    let breaches: Breaches = written_files()
        .iter()
        .filter(|file| file.path != "tests/house.rs")
        .flat_map(machine_paths)
        .collect();
    hold("nothing written here depends on whose machine it was written on", &breaches);
}

mod the_rules_can_fail {
    use super::*;

    fn order() -> Vec<String> {
        let lib = "//! mod not_this;\npub mod config;\nmod telemetry;\n/// Words.\npub mod db;\n\npub mod http;\n";
        reading_order(lib)
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
            let breaches = downward_imports(&order(), &source("src/db/pool.rs", bad));
            assert_eq!(breaches.len(), 1, "{bad}: {breaches:?}");
        }
        assert_eq!(
            downward_imports(&order(), &source("src/telemetry.rs", "use crate::{db, http};")).len(),
            2
        );
    }

    #[test]
    fn an_import_that_points_up_or_elsewhere_is_none() {
        for good in [
            "use crate::config::{self, Secret};",
            "use crate::db::error::Kind; // not crate::http",
            "use crate::{config, telemetry::Metrics};",
            "//! See [`crate::http`].",
            "let x = $crate::http!();",
            "use other_crate::http;",
        ] {
            assert_eq!(
                downward_imports(&order(), &source("src/db/pool.rs", good)),
                Breaches::new(),
                "{good}"
            );
        }
        assert_eq!(
            downward_imports(&order(), &source("src/main.rs", "use crate::http;")),
            Breaches::new()
        );
    }

    #[test]
    fn every_door_shuts() {
        for (path, bad) in [
            ("src/http/mod.rs", "let config = rustls::ServerConfig::builder();"),
            ("src/webhook/mod.rs", "use tokio_rustls::TlsConnector;"),
            ("src/jobs/mod.rs", "use hyper::client::conn::http1;"),
            ("src/daemon/mod.rs", "use tokio_cron_scheduler::JobScheduler;"),
            ("src/daemon/mod.rs", "tokio::spawn(async {});"),
            ("src/cli/mod.rs", "std::process::exit(1)"),
            ("src/jobs/vacuum.rs", "\"select 1 from steward.job_runs\""),
            ("src/jobs/vacuum.rs", "UPDATE   steward.job_state"),
            ("src/jobs/vacuum.rs", "FROM pg_stat_user_tables s"),
            ("src/store/mod.rs", "JOIN pg_class c"),
        ] {
            assert_eq!(past_doors(DOORS, &source(path, bad)).len(), 1, "{path}: {bad}");
        }
    }

    #[test]
    fn a_door_opens_for_its_own() {
        for (path, good) in [
            ("src/db/tls.rs", "use rustls::ClientConfig;"),
            ("src/webhook/tls.rs", "use rustls::ClientConfig;"),
            ("src/http/tls.rs", "use rustls::ServerConfig;"),
            ("src/lifecycle.rs", "tokio::spawn(async {});"),
            ("src/store/runs.rs", "INSERT INTO steward.job_runs"),
            ("src/observe/tables.rs", "FROM pg_stat_user_tables"),
            ("src/daemon/mod.rs", "tasks.spawn(\"name\", future); // not tokio::spawn(…)"),
        ] {
            assert_eq!(past_doors(DOORS, &source(path, good)), Breaches::new(), "{path}: {good}");
        }
    }

    #[test]
    fn every_exception_has_its_reason() {
        for (place, reason) in DOORS.iter().flat_map(|door| door.except) {
            assert!(reason.len() > 20, "{place}: {reason:?}");
        }
    }

    #[test]
    fn a_delete_by_ctid_without_its_conditions_is_seen() {
        let delete = "DELETE FROM t WHERE ctid = ANY (ARRAY(SELECT f(ctid) FROM t WHERE a < $1))";
        let breaches = bare_ctid_deletes(&source("src/store/x.rs", &format!("\n{delete}\"")));
        assert_eq!(breaches.len(), 1, "{breaches:?}");
        assert!(breaches[0].starts_with("src/store/x.rs:2:"), "{breaches:?}");
        let good = source("src/store/x.rs", &format!("{delete}\n   AND a < $1"));
        assert_eq!(bare_ctid_deletes(&good), Breaches::new());
    }

    #[test]
    fn long_ignored_untidy_and_placed_are_seen() {
        let long = "x\n".repeat(FILE_LINES_MAX);
        assert_eq!(too_long(&source("a.rs", &long)), Breaches::new());
        assert_eq!(too_long(&source("a.rs", &(long + "x\n"))).len(), 1);
        assert_eq!(
            ignored_tests(&source("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}\n")).len(),
            1
        );
        assert_eq!(ignored_tests(&source("a.rs", "// #[ignore] is not used\n")), Breaches::new());
        assert_eq!(untidy(&source("a.rs", "a \nb\t\nc\r\nd")).len(), 4);
        assert_eq!(untidy(&source("a.rs", "a\n\nb\n")), Breaches::new());
        assert_eq!(machine_paths(&source("a.md", "see /root/x and\n/home/me\n")).len(), 2);
        assert_eq!(
            machine_paths(&source("a.md", "https://x.org/home/y ${HOME}/root/x\n")),
            Breaches::new()
        );
    }
}
