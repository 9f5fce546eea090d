//! The shell that stands between us and a server, so that the server dies with us.
//!
//! It runs one command and reads its own standard input, which only we hold open. However we end,
//! SIGKILL included, the kernel closes that pipe: the shell then stops the command (fast, after 10 s
//! immediately, after 15 s by force) and removes the folder. Told `keep`, it leaves the folder.
//!
//! ```text
//! stdin   a pipe of ours: orders, or its end
//! stdout  the folder's lock: held for as long as the shell lives
//! stderr  a pipe of ours whose other end only the command has: its end says that the command ended
//! ```
//! While it waits for us, an ended command is a zombie of the shell's, so its pid cannot be another's.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};

use super::account::Account;

/// Longer than the shell takes in its worst case.
const STOP_BOUND: Duration = Duration::from_secs(25);

/// For what a command started and left behind.
const LINGER_BOUND: Duration = Duration::from_secs(5);

/// `$1` is the folder, the rest the command. INT is a server's fast shutdown, which a TERM (smart)
/// does not soften; programs that a shell puts in the background ignore INT unless they say otherwise.
/// The whole process group (the watchers) is ended at the
/// end; backends have sessions of their own and are gone by then.
const SCRIPT: &str = r#"
folder=$1; shift
"$@" </dev/null >&2 2>>"$folder/server.log" &
command=$!
exec 2>/dev/null
read -r order || order=remove
kill -INT "$command"; kill -TERM "$command"
( sleep 10; kill -QUIT "$command"; sleep 5; kill -KILL "$command" ) &
wait "$command"; status=$?
trap '' TERM; kill -TERM 0
tries=0
while [ "$order" = remove ] && ! rm -rf "$folder" && [ "$tries" -lt 50 ]; do
    tries=$((tries + 1)); sleep 0.1
done
exit "$status"
"#;

/// A running supervisor.
#[derive(Debug)]
pub(super) struct Supervisor {
    child: Child,
    ended: ChildStderr,
}

/// What becomes of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    Keep,
    Remove,
}

impl Supervisor {
    /// Starts `program` under a supervisor, as `account` where one is given. Becoming another user
    /// also drops the supplementary groups (std does so when it sets the uid as root).
    pub fn start(
        folder: &Path,
        lock: File,
        account: Option<Account>,
        program: &Path,
        arguments: &[String],
    ) -> io::Result<Supervisor> {
        let mut shell = Command::new("/bin/sh");
        shell
            .arg("-c")
            .arg(SCRIPT)
            .arg("pgsteward-supervisor")
            .arg(folder)
            .arg(program)
            .args(arguments);
        // Nothing of our environment: no PG* variable bends the server, no secret is seen in /proc.
        shell
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        if let Some(libraries) = std::env::var_os("LD_LIBRARY_PATH") {
            shell.env("LD_LIBRARY_PATH", libraries);
        }
        shell.current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(lock).stderr(Stdio::piped());
        if let Some(account) = account {
            shell.uid(account.uid).gid(account.gid);
        }
        let mut child = shell.spawn()?;
        let ended =
            child.stderr.take().ok_or_else(|| io::Error::other("no pipe to the supervisor"))?;
        Ok(Supervisor { child, ended })
    }

    /// Resolves when the command, with everything it started, has ended.
    pub async fn command_ended(&mut self) {
        let mut scrap = [0; 512];
        // What a child of the server writes to its standard output is of no interest; an error is an end.
        while self.ended.read(&mut scrap).await.is_ok_and(|count| count > 0) {}
    }

    /// Stops the command if it runs, and returns its status. None: the supervisor had to be killed,
    /// or had been, so that command and folder may still be there.
    pub async fn stop(mut self, folder: Folder) -> Option<ExitStatus> {
        if let Some(mut orders) = self.child.stdin.take()
            && folder == Folder::Keep
        {
            // It fails only when the shell is gone, which `wait` tells.
            let _ = orders.write_all(b"keep\n").await;
        }
        let status = match tokio::time::timeout(STOP_BOUND, self.child.wait()).await {
            Ok(status) => status.ok().filter(|status| status.code().is_some()),
            Err(_) => {
                let _ = self.child.kill().await;
                None
            }
        };
        // Backends of a server that was killed outlive it by moments.
        let _ = tokio::time::timeout(LINGER_BOUND, self.command_ended()).await;
        status
    }
}
