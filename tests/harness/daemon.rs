//! The built binary as a child process.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::http::{self, Response};
use super::{BOUND, wait_for, wait_until};

/// Lines kept; a daemon that writes more loses its oldest.
const LINES_MAX: usize = 20_000;

/// What a daemon is started with. Its environment holds `PATH` and what is given here.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    config: Option<String>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    prelude: Option<String>,
    everywhere: bool,
}

impl Setup {
    pub fn new() -> Setup {
        Setup::default()
    }

    /// For a database: sets `DATABASE_URL`.
    pub fn database(self, url: &str) -> Setup {
        self.env("DATABASE_URL", url)
    }

    /// The text of its configuration file; without one it runs on defaults (`--config` is then an
    /// empty file, so that the machine's own plays no part).
    pub fn config(mut self, toml: &str) -> Setup {
        self.config = Some(toml.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Listens on every address of this machine, not on loopback alone.
    pub fn everywhere(mut self) -> Setup {
        self.everywhere = true;
        self
    }

    /// Further arguments of `run`.
    pub fn arg(mut self, argument: &str) -> Setup {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Commands of a shell that becomes the daemon: `ulimit`, `trap`, `umask`.
    pub fn shell(mut self, prelude: &str) -> Setup {
        self.prelude = Some(prelude.to_owned());
        self
    }

    /// Runs another subcommand to its end, with the same file and environment: status, output, errors.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = self.base(&folder);
        command.args(arguments).args(["--config", &config_path(&folder)]);
        command.output().expect("the binary runs")
    }

    fn base(&self, folder: &tempfile::TempDir) -> Command {
        let text = self.config.as_deref().unwrap_or_default();
        std::fs::write(config_path(folder), text).expect("write the configuration");
        let binary = env!("CARGO_BIN_EXE_pgsteward");
        let mut command = match &self.prelude {
            None => Command::new(binary),
            Some(prelude) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &format!("{prelude} && exec \"$0\" \"$@\""), binary]);
                command
            }
        };
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }
}

fn config_path(folder: &tempfile::TempDir) -> String {
    folder.path().join("config.toml").display().to_string()
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    address: SocketAddr,
    lines: Arc<Mutex<VecDeque<String>>>,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts it and waits until `/readyz` answers 200.
    pub async fn spawn(setup: Setup) -> Daemon {
        let daemon = Daemon::launch(setup);
        daemon.wait_ready().await;
        daemon
    }

    /// Starts it and waits for nothing.
    pub fn launch(setup: Setup) -> Daemon {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = setup.base(&folder);
        let listen = if setup.everywhere {
            format!("0.0.0.0:{}", address.port())
        } else {
            address.to_string()
        };
        command.args(["run", "--config", &config_path(&folder), "--listen", &listen]);
        command.args(&setup.arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (stderr, sink) = (child.stderr.take().expect("stderr is piped"), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = sink.lock().unwrap();
                lines.push_back(line);
                if lines.len() > LINES_MAX {
                    lines.pop_front();
                }
            }
        });
        Daemon { child, address, lines, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Rewrites its configuration file; SIGHUP has it read.
    pub fn rewrite_config(&self, toml: &str) {
        std::fs::write(config_path(&self.folder), toml).expect("write the configuration");
    }

    pub async fn get(&self, path: &str) -> Response {
        http::get(self.address, path).await
    }

    /// A series of its metrics page by its name and, after spaces, parts of its labels; if it is there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let page = self.get("/metrics").await;
        assert_eq!(page.status, 200);
        let mut words = series.split(' ');
        let name = words.next()?;
        let parts: Vec<&str> = words.collect();
        let is_it = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && parts.iter().all(|part| line.contains(part))
        };
        page.body.lines().find(is_it)?.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until a series has a value that is wanted.
    pub async fn wait_metric(&self, series: &str, wanted: impl Fn(f64) -> bool) {
        let mut last = None;
        let asking = wait_until("", BOUND * 2, async || {
            last = self.metric(series).await;
            last.is_some_and(&wanted)
        });
        if tokio::time::timeout(BOUND, asking).await.is_err() {
            panic!("{series} is {last:?}\nlog:\n{}", self.log());
        }
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&self) {
        self.wait_status("/readyz", 200).await;
    }

    /// Waits until a path answers with a status.
    pub async fn wait_status(&self, path: &str, status: u16) -> Response {
        let mut last = String::from("no answer yet");
        let asking = wait_for("", BOUND * 2, async || {
            match http::try_request(self.address, "GET", path, &[], "").await {
                Ok(response) if response.status == status => Some(response),
                other => {
                    last = format!("{other:?}");
                    None
                }
            }
        });
        match tokio::time::timeout(BOUND, asking).await {
            Ok(response) => response,
            Err(_) => {
                panic!("{path} did not come to answer {status}; last: {last}\nlog:\n{}", self.log())
            }
        }
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Waits for a line that contains `text`, and returns it.
    pub async fn wait_log(&self, text: &str) -> String {
        let found = || self.lines.lock().unwrap().iter().find(|line| line.contains(text)).cloned();
        let looking = wait_for("", BOUND * 2, async || found());
        match tokio::time::timeout(BOUND, looking).await {
            Ok(line) => line,
            Err(_) => panic!("no line with {text:?} in the log:\n{}", self.log()),
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("signal the daemon");
    }

    /// SIGTERM, then its exit status.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit().await
    }

    /// SIGKILL; returns when it is gone.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait_exit().await;
    }

    /// Waits for its end.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let Daemon { child, .. } = self;
        let waiting = wait_for("", BOUND * 2, async || {
            child.try_wait().expect("the child can be waited for")
        });
        match tokio::time::timeout(BOUND, waiting).await {
            Ok(status) => status,
            Err(_) => panic!("the daemon did not end; log:\n{}", self.log()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the daemon at {}:\n{}", self.address, self.log());
        }
    }
}

/// Below the ports of outgoing connections, and one of many, so that no other test has it.
pub fn free_port() -> u16 {
    for _ in 0..100 {
        let port = fastrand::u16(10_000..20_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 20000")
}
