//! Finding an installed server: the newest one wins.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::error::EphemeralError;

/// The oldest major version that pgsteward supports.
const OLDEST: u32 = 14;

/// No version question takes longer; one that does is no usable binary.
const ASK_BOUND: Duration = Duration::from_secs(10);

/// Folders that hold one `bin` per version: (parent, prefix of the version's folder, below it).
const VERSIONED: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/usr/lib", "postgresql", "bin"),
    ("/opt/homebrew/opt", "postgresql", "bin"),
    ("/usr/local/opt", "postgresql", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Folders that hold one installation.
const SINGLE: [&str; 4] =
    ["/usr/local/pgsql/bin", "/usr/lib/postgresql/bin", "/usr/local/bin", "/usr/bin"];

/// A usable installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    /// The folder of `postgres` and `initdb`.
    pub dir: PathBuf,
    /// Major and minor.
    pub version: (u32, u32),
}

impl Binaries {
    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// `named` (from `PGSTEWARD_PG_BIN`) alone where given; else the newest of what `PATH`,
    /// `pg_config` and the distributions' folders hold.
    pub async fn find(
        named: Option<&Path>,
        path: Option<&OsStr>,
    ) -> Result<Binaries, EphemeralError> {
        if let Some(dir) = named {
            let bad = |reason| EphemeralError::BadOverride { path: dir.to_owned(), reason };
            let found = ask(dir).await.map_err(bad)?;
            return found.new_enough();
        }
        let mut searched: Vec<PathBuf> =
            path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        searched.retain(|dir| dir.is_absolute());
        if let Some(dir) = bindir_of_pg_config(&searched).await {
            searched.push(dir);
        }
        searched.extend(installed());
        newest(&searched).await
    }

    fn new_enough(self) -> Result<Binaries, EphemeralError> {
        if self.version.0 >= OLDEST {
            return Ok(self);
        }
        let found = format!("{}.{}", self.version.0, self.version.1);
        Err(EphemeralError::TooOld {
            found,
            bin: self.dir,
            wanted: OLDEST,
            install: install_command(),
        })
    }
}

async fn newest(searched: &[PathBuf]) -> Result<Binaries, EphemeralError> {
    let mut best: Option<Binaries> = None;
    let mut asked: Vec<PathBuf> = Vec::new();
    for dir in searched {
        for dir in resolve(dir) {
            if asked.contains(&dir) {
                continue;
            }
            if let Ok(found) = ask(&dir).await
                && best.as_ref().is_none_or(|best| found.version > best.version)
            {
                best = Some(found);
            }
            asked.push(dir);
        }
    }
    match best {
        Some(best) => best.new_enough(),
        None => {
            let mut searched = searched.to_vec();
            searched.dedup();
            Err(EphemeralError::NoBinaries { searched, install: install_command() })
        }
    }
}

/// A folder on `PATH` often holds a link into the real one, where the client's programs lie too:
/// that one first, and the link only where it is incomplete.
fn resolve(dir: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(dir.join("postgres")).ok();
    let real = real.as_deref().and_then(Path::parent).filter(|real| *real != dir);
    real.into_iter().chain([dir]).map(Path::to_owned).collect()
}

/// The version that lives in a folder, or why none can be used.
async fn ask(dir: &Path) -> Result<Binaries, String> {
    for name in ["postgres", "initdb"] {
        let file = dir.join(name);
        let meta = fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return Err(format!("{} is no program", file.display()));
        }
    }
    let said = output(&dir.join("postgres"), "--version").await?;
    let version =
        parse_version(&said).ok_or_else(|| format!("`postgres --version` said {said:?}"))?;
    Ok(Binaries { dir: dir.to_owned(), version })
}

async fn bindir_of_pg_config(path: &[PathBuf]) -> Option<PathBuf> {
    let program = path.iter().map(|dir| dir.join("pg_config")).find(|file| file.is_file())?;
    // A pg_config that fails (only the client's headers are installed) is no reason to stop looking.
    output(&program, "--bindir").await.ok().map(PathBuf::from)
}

async fn output(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(ASK_BOUND, command.output()).await;
    let shown = format!("{} {argument}", program.display());
    let output = ended
        .map_err(|_| format!("`{shown}` did not answer within {} s", ASK_BOUND.as_secs()))?
        .map_err(|error| format!("`{shown}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{shown}` ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let (_, rest) = said.split_once("(PostgreSQL) ")?;
    let number = rest.split_whitespace().next()?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    // A beta or release candidate is older than its .0, which is the nearest number there is.
    let is_release = number.contains('.');
    let minor =
        if is_release { parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0) } else { 0 };
    Some((major, minor))
}

fn installed() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (parent, prefix, below) in VERSIONED {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| entry.path().join(below))
            .filter(|dir| dir.join("postgres").is_file())
            .collect();
        found.sort();
        dirs.append(&mut found);
    }
    dirs.extend(SINGLE.map(PathBuf::from));
    dirs
}

/// The command that installs a server on this machine.
pub(super) fn install_command() -> String {
    let os_release = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    install_command_for(std::env::consts::OS, &os_release.unwrap_or_default()).to_owned()
}

fn install_command_for(os: &str, os_release: &str) -> &'static str {
    if os == "macos" {
        return "brew install postgresql@17";
    }
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    // ID first, then what it is like, nearest first.
    let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
    for id in ids.split_whitespace() {
        match id {
            "debian" | "ubuntu" => return "sudo apt-get install postgresql",
            "fedora" | "rhel" | "centos" => return "sudo dnf install postgresql-server",
            "alpine" => return "sudo apk add postgresql",
            "suse" | "opensuse" | "sles" => return "sudo zypper install postgresql-server",
            "arch" => return "sudo pacman -S postgresql",
            _ => {}
        }
    }
    "see https://www.postgresql.org/download/"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_distributions_print_them() {
        for (said, wanted) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18))),
            ("postgres (PostgreSQL) 17.2", Some((17, 2))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0))),
            ("postgres (PostgreSQL) 9.6.24", Some((9, 6))),
            ("postgres (EnterpriseDB) 17.2", None),
            ("", None),
        ] {
            assert_eq!(parse_version(said), wanted, "{said}");
        }
    }

    #[test]
    fn the_install_command_fits_the_platform() {
        for (os, os_release, wanted) in [
            ("linux", "ID=debian\n", "sudo apt-get install postgresql"),
            (
                "linux",
                "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                "sudo apt-get install postgresql",
            ),
            (
                "linux",
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                "sudo dnf install postgresql-server",
            ),
            ("linux", "ID=alpine\n", "sudo apk add postgresql"),
            (
                "linux",
                "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n",
                "sudo zypper install postgresql-server",
            ),
            ("linux", "ID=manjaro\nID_LIKE=arch\n", "sudo pacman -S postgresql"),
            ("linux", "", "see https://www.postgresql.org/download/"),
            ("macos", "", "brew install postgresql@17"),
        ] {
            assert_eq!(install_command_for(os, os_release), wanted, "{os} {os_release}");
        }
    }

    /// A folder with scripts that answer as a server's programs do.
    fn installation(name: &str, says: &str) -> PathBuf {
        let dir = std::env::temp_dir()
            .join(format!("pgsteward-binaries-{}-{name}", uuid::Uuid::new_v4().simple()));
        fs::create_dir_all(&dir).unwrap();
        for program in ["postgres", "initdb"] {
            let file = dir.join(program);
            fs::write(&file, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    #[tokio::test]
    async fn the_newest_wins_and_versions_compare_as_numbers() {
        let dirs = [
            installation("a", "postgres (PostgreSQL) 9.6.1"),
            installation("b", "postgres (PostgreSQL) 16.10"),
            installation("c", "postgres (PostgreSQL) 16.9"),
        ];
        let best = newest(&dirs).await.unwrap();
        assert_eq!((best.dir, best.version), (dirs[1].clone(), (16, 10)));
        for dir in dirs {
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[tokio::test]
    async fn nothing_found_says_where_it_looked_and_what_to_install() {
        let nowhere = PathBuf::from("/nonexistent/bin");
        let text = newest(std::slice::from_ref(&nowhere)).await.unwrap_err().to_string();
        assert!(text.contains("looked in /nonexistent/bin"), "{text}");
        assert!(text.contains(&install_command()), "{text}");
        assert!(text.contains("PGSTEWARD_PG_BIN"), "{text}");
    }

    #[tokio::test]
    async fn a_folder_that_was_named_is_used_alone_or_refused() {
        let nowhere = Path::new("/nonexistent/bin");
        let text = Binaries::find(Some(nowhere), None).await.unwrap_err().to_string();
        assert!(
            text.starts_with(
                "PGSTEWARD_PG_BIN=/nonexistent/bin cannot be used: /nonexistent/bin/postgres:"
            ),
            "{text}"
        );

        let odd = installation("odd", "hello");
        let text = Binaries::find(Some(&odd), None).await.unwrap_err().to_string();
        assert!(text.contains("`postgres --version` said \"hello\""), "{text}");
        fs::remove_dir_all(odd).unwrap();

        let old = installation("old", "postgres (PostgreSQL) 13.4");
        let text = Binaries::find(Some(&old), None).await.unwrap_err().to_string();
        assert!(text.contains("found is 13.4") && text.contains("14 or newer"), "{text}");
        fs::remove_dir_all(old).unwrap();
    }
}
