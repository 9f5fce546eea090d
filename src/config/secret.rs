//! Secrets: text that never prints, and its sources.
//!
//! A secret in a file or from a command is read at every connect, so that a rotated password needs
//! no restart. Reading is bounded in time and size, and no error contains anything of the content.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// More than any password, token or connection string needs.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Text that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text that must not be printed.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Returns the text; for a server, never for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The source of a secret. Files and commands are read at every connect.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// The configuration itself, or the environment.
    Inline(Secret),
    /// A file that contains nothing else.
    File(PathBuf),
    /// A program and its arguments; its first line of output is the secret.
    Command(Vec<String>),
}

/// Shows only the program of a command, because its arguments may contain a secret.
impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::Inline(_) => f.write_str("Inline(…)"),
            SecretSource::File(path) => write!(f, "File({})", path.display()),
            SecretSource::Command(command) => write!(f, "Command({}, …)", program(command)),
        }
    }
}

/// Why a secret could not be read. Names its source and never its content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read the secret file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the secret file {} {fault}", path.display())]
    FileContent { path: PathBuf, fault: &'static str },
    #[error("reading the secret file {} took longer than {timeout:?}", path.display())]
    FileTimeout { path: PathBuf, timeout: Duration },
    #[error("cannot run the secret command {program}")]
    Command { program: String, source: io::Error },
    #[error("the secret command {program} failed with {status}; run it by hand to see its output")]
    CommandFailed { program: String, status: ExitStatus },
    #[error("the first line that the secret command {program} printed {fault}")]
    CommandOutput { program: String, fault: &'static str },
    #[error("the secret command {program} took longer than {timeout:?} and was killed")]
    CommandTimeout { program: String, timeout: Duration },
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// A file must be a regular one of at most 64 KiB; one trailing newline is removed. A command
    /// gets no standard input and must exit with 0; its first line is the secret.
    ///
    /// # Errors
    /// If the source cannot be read within `timeout`, is too large, empty, or not UTF-8. A command
    /// is killed with all processes that it started, also if the returned future is dropped.
    pub async fn load(&self, timeout: Duration) -> Result<Secret, SecretError> {
        match self {
            SecretSource::Inline(secret) => Ok(secret.clone()),
            SecretSource::File(path) => {
                let read = tokio::time::timeout(timeout, read_file(path)).await;
                read.unwrap_or_else(|_| {
                    Err(SecretError::FileTimeout { path: path.clone(), timeout })
                })
            }
            SecretSource::Command(command) => {
                let run = tokio::time::timeout(timeout, run_command(command)).await;
                let program = || program(command).to_owned();
                run.unwrap_or_else(|_| {
                    Err(SecretError::CommandTimeout { program: program(), timeout })
                })
            }
        }
    }
}

async fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let failed = |source| SecretError::File { path: path.to_owned(), source };
    let unfit = |fault| SecretError::FileContent { path: path.to_owned(), fault };
    // A pipe without a writer would block a thread for ever.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(unfit("is not a regular file"));
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(unfit("is larger than 64 KiB"));
    }
    let text = check(&bytes).map_err(unfit)?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() { Err(unfit("is empty")) } else { Ok(Secret::new(text)) }
}

async fn run_command(command: &[String]) -> Result<Secret, SecretError> {
    let name = program(command);
    let failed = |source| SecretError::Command { program: name.to_owned(), source };
    let unfit = |fault| SecretError::CommandOutput { program: name.to_owned(), fault };
    let Some((executable, arguments)) = command.split_first() else {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "no program is named")));
    };
    let mut child = Command::new(executable)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its messages may contain the secret and must not reach the log.
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let mut group = Group::of(&child);
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    }
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(unfit("is followed by more than 64 KiB of output"));
    }
    let status = child.wait().await.map_err(failed)?;
    group.disarm();
    if !status.success() {
        return Err(SecretError::CommandFailed { program: name.to_owned(), status });
    }
    let line = check(&bytes).map_err(unfit)?.lines().next().unwrap_or_default();
    if line.is_empty() { Err(unfit("is empty")) } else { Ok(Secret::new(line)) }
}

fn check(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    if text.contains('\0') {
        Err("contains a NUL byte, which PostgreSQL cannot take")
    } else {
        Ok(text)
    }
}

fn program(command: &[String]) -> &str {
    command.first().map_or("", String::as_str)
}

/// Kills a command's whole process group when dropped: a shell's children outlive the shell.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &tokio::process::Child) -> Group {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Once the group's leader is reaped, its number may be reused.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::fs;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> SecretSource {
        SecretSource::Command(vec!["/bin/sh".into(), "-c".into(), script.into()])
    }

    #[tokio::test]
    async fn a_file_gives_its_text_without_the_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        for (content, secret) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            ("s3cret\r\n", "s3cret"),
            ("a\n\n", "a\n"),
            (" a ", " a "),
        ] {
            let path = folder.path().join("secret");
            fs::write(&path, content).unwrap();
            assert_eq!(
                SecretSource::File(path).load(SOON).await.unwrap().expose(),
                secret,
                "{content:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = SecretSource::File(path.clone());
        for secret in ["first", "second"] {
            fs::write(&path, secret).unwrap();
            assert_eq!(source.load(SOON).await.unwrap().expose(), secret);
        }
    }

    #[tokio::test]
    async fn an_unfit_file_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let source = SecretSource::File(path.clone());
        let named = |fault: &str| format!("the secret file {} {fault}", path.display());

        let missing = source.load(SOON).await.unwrap_err();
        assert_eq!(missing.to_string(), format!("cannot read the secret file {}", path.display()));
        assert!(missing.source().unwrap().to_string().contains("No such file"));
        for (content, fault) in [
            (b"".to_vec(), "is empty"),
            (b"\n".to_vec(), "is empty"),
            (vec![b'x'; 64 * 1024 + 1], "is larger than 64 KiB"),
            (b"hunter2\xff".to_vec(), "is not UTF-8"),
            (b"hunter2\0".to_vec(), "contains a NUL byte, which PostgreSQL cannot take"),
        ] {
            fs::write(&path, content).unwrap();
            let error = source.load(SOON).await.unwrap_err();
            assert_eq!(error.to_string(), named(fault));
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        fs::write(&path, vec![b'x'; 64 * 1024]).unwrap();
        assert_eq!(source.load(SOON).await.unwrap().expose().len(), 64 * 1024);
        let error = SecretSource::File(folder.path().to_owned()).load(SOON).await.unwrap_err();
        assert!(error.to_string().ends_with("is not a regular file"));
    }

    #[tokio::test]
    async fn a_command_gives_its_first_line() {
        for (script, secret) in [
            ("echo s3cret; echo more", "s3cret"),
            ("printf s3cret", "s3cret"),
            ("cat; echo x", "x"),
        ] {
            assert_eq!(shell(script).load(SOON).await.unwrap().expose(), secret, "{script}");
        }
    }

    #[tokio::test]
    async fn a_failing_command_is_named_and_not_quoted() {
        for (script, expected) in [
            (
                "echo hunter2; echo hunter2 >&2; exit 3",
                "the secret command /bin/sh failed with exit status: 3",
            ),
            ("true", "the first line that the secret command /bin/sh printed is empty"),
            ("head -c 70000 /dev/zero", "is followed by more than 64 KiB of output"),
            (
                "printf 'hunter2\\377'",
                "the first line that the secret command /bin/sh printed is not UTF-8",
            ),
        ] {
            let error = shell(script).load(SOON).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{script}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{script}: {error:?}");
        }
        let error = SecretSource::Command(vec!["/nonexistent/program".into()])
            .load(SOON)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "cannot run the secret command /nonexistent/program");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let pid_file = folder.path().join("pid");
        // The grandchild holds the pipe open: only a kill of the whole group ends it.
        let source = shell(&format!("sleep 1000 & echo $! > {}; wait", pid_file.display()));
        let error = source.load(Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, SecretError::CommandTimeout { .. }), "{error:?}");
        let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let gone = async {
            while runs(pid) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(SOON, gone).await.expect("the grandchild still runs");
    }

    /// An orphan that nobody reaps stays as a zombie, which no longer runs.
    fn runs(pid: i32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z')
        })
    }

    #[test]
    fn debug_shows_no_secret() {
        let sources = [
            SecretSource::Inline(Secret::new("hunter2")),
            shell("echo hunter2"),
            SecretSource::File("/run/pw".into()),
        ];
        assert_eq!(format!("{sources:?}"), "[Inline(…), Command(/bin/sh, …), File(/run/pw)]");
    }
}
