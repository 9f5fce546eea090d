//! Why there is no throw-away server.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Each says what was found, what is wanted and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EphemeralError {
    /// No installation was found anywhere.
    #[error(
        "no PostgreSQL server binaries found (looked in {}); install a server: {install}; \
         or name the folder of `postgres` and `initdb` in PGSTEWARD_PG_BIN",
        list(.searched)
    )]
    NoBinaries { searched: Vec<PathBuf>, install: String },

    /// `PGSTEWARD_PG_BIN` is set to something that cannot be used; nothing else is tried then.
    #[error(
        "PGSTEWARD_PG_BIN={} cannot be used: {reason}; wanted is a folder with `postgres` and `initdb`, \
         for example /usr/lib/postgresql/17/bin",
        .path.display()
    )]
    BadOverride { path: PathBuf, reason: String },

    /// Only servers that are too old were found.
    #[error("the newest PostgreSQL server found is {found} in {}; wanted is {wanted} or newer: {install}", .bin.display())]
    TooOld { found: String, bin: PathBuf, wanted: u32, install: String },

    /// We are root, a server refuses to be, and there is nobody else to be.
    #[error(
        "a PostgreSQL server does not run as root, and neither `postgres` nor `nobody` is in /etc/passwd; \
         run as an ordinary user, or create the user `postgres`"
    )]
    NoAccount,

    /// No folder for the data.
    #[error("no folder for a throw-away server: {}; set TMPDIR to a writable folder with a short path", .0.join("; "))]
    NoFolder(Vec<String>),

    /// An operation on a file or a process failed.
    #[error("throw-away server: cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },

    /// `initdb` ended with an error.
    #[error("initdb failed in {}: {}", .folder.display(), Output(.output))]
    Initdb { folder: PathBuf, output: String },

    /// The server ended instead of becoming ready.
    #[error("the throw-away server in {} ended at start: {}", .folder.display(), Output(.output))]
    Ended { folder: PathBuf, output: String },

    /// The server did not become ready in time.
    #[error("the throw-away server in {} was not ready within {} s: {}", .folder.display(), .bound.as_secs(), Output(.output))]
    NotReady { folder: PathBuf, bound: Duration, output: String },
}

impl EphemeralError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> EphemeralError {
        let what = what.into();
        move |source| EphemeralError::Io { what, source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    names.join(", ")
}

/// The end of a log, and what it means where that is known.
struct Output<'a>(&'a str);

impl fmt::Display for Output<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // C-locale texts of errno: the server runs with LC_ALL=C.
        let advice = [
            (
                "No space left on device",
                "the disk is full: free some space, or set TMPDIR to a folder that has it",
            ),
            (
                "Permission denied",
                "the server's account may not go there: set TMPDIR, or PGSTEWARD_PG_BIN",
            ),
            ("Cannot allocate memory", "the machine is out of memory"),
        ];
        for (sign, meaning) in advice {
            if self.0.contains(sign) {
                write!(f, "{meaning}. ")?;
            }
        }
        if self.0.trim().is_empty() {
            f.write_str("it wrote nothing")
        } else {
            write!(f, "it wrote:\n{}", self.0.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_before_the_log() {
        let error = EphemeralError::Initdb {
            folder: "/dev/shm/x".into(),
            output: "initdb: error: could not write file: No space left on device\n".into(),
        };
        let text = error.to_string();
        assert!(text.starts_with("initdb failed in /dev/shm/x: the disk is full"), "{text}");
        assert!(text.ends_with("No space left on device"), "{text}");
    }

    #[test]
    fn silence_is_said() {
        let error = EphemeralError::Ended { folder: "/x".into(), output: " \n".into() };
        assert_eq!(
            error.to_string(),
            "the throw-away server in /x ended at start: it wrote nothing"
        );
    }
}
