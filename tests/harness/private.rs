//! A server that a test may do anything to.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};

use pgsteward::db::ephemeral::{Ephemeral, Options};
use rustix::process::{Pid, Signal, kill_process};

use super::{BOUND, TestClient, connect, wait_until};

/// A throw-away server of one test. Dropping it takes it away.
pub struct PrivateServer {
    server: Ephemeral,
}

impl PrivateServer {
    /// Starts one with further lines of `postgresql.conf`. Unlike the shared server it loses no
    /// commit when it is killed.
    pub async fn start(settings: &[(&str, &str)]) -> PrivateServer {
        let mut options = Options::from_env();
        let durable = [("synchronous_commit", "on")];
        options.settings = durable
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let server = Ephemeral::start(options)
            .await
            .unwrap_or_else(|error| panic!("no private server: {error}"));
        PrivateServer { server }
    }

    /// The server itself: `port()`, `socket_dir()`, `data_dir()`, `bin_dir()`, `version()`.
    pub fn ephemeral(&self) -> &Ephemeral {
        &self.server
    }

    /// As superuser to the database `postgres`, through the Unix socket.
    pub fn url(&self) -> String {
        self.server.url().expose().to_owned()
    }

    /// As superuser over TCP, to any database at any address (the server's own, or a proxy's).
    pub fn url_at(&self, address: SocketAddr, database: &str) -> String {
        format!("postgresql://postgres:{}@{address}/{database}", self.server.password().expose())
    }

    /// The server's TCP address; it stays the same through restarts.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.port()).into()
    }

    /// A connection as superuser.
    pub async fn client(&self) -> TestClient {
        connect(&self.url()).await.expect("the private server answers")
    }

    /// Stops it (fast) or, if it was killed, finds it dead; then starts it again.
    pub async fn restart(&mut self) {
        self.server.restart().await.unwrap_or_else(|error| panic!("restart: {error}"));
    }

    /// Stops it (fast shutdown); [`PrivateServer::restart`] brings it back.
    pub async fn stop(&mut self) {
        self.server.pause().await;
    }

    /// SIGKILL for the postmaster; returns when its backends have gone too.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        tokio::time::timeout(BOUND, self.server.ended())
            .await
            .expect("a killed server's processes end");
    }

    /// Sends a signal to the postmaster: `STOP` makes a server that accepts and stays silent, but
    /// its backends run on. `CONT` before the end.
    pub fn signal(&self, signal: Signal) {
        let pid =
            self.server.postmaster_pid().and_then(Pid::from_raw).expect("the private server runs");
        kill_process(pid, signal).expect("signal the postmaster");
    }

    /// Adds lines to `postgresql.conf`; [`PrivateServer::reload`] or `restart` applies them.
    pub fn append_conf(&self, lines: &str) {
        self.append("postgresql.conf", lines);
    }

    /// Puts lines before the others of `pg_hba.conf`, where the first that fits decides.
    pub fn prepend_hba(&self, lines: &str) {
        let file = self.server.data_dir().join("pg_hba.conf");
        let before = std::fs::read_to_string(&file).expect("read pg_hba.conf");
        std::fs::write(&file, format!("{lines}\n{before}")).expect("write pg_hba.conf");
    }

    /// Adds lines at the end of `pg_hba.conf`, where they matter only for what no other line fits.
    pub fn append_hba(&self, lines: &str) {
        self.append("pg_hba.conf", lines);
    }

    /// Has the configuration read again; returns when the server has.
    pub async fn reload(&self) {
        let client = self.client().await;
        let before = client.text("SELECT pg_conf_load_time()").await;
        client.text("SELECT pg_reload_conf()").await;
        wait_until("the server reads its configuration again", BOUND, async || {
            // A new backend has the postmaster's time; one that is refused has met the new pg_hba.conf.
            match connect(&self.url()).await {
                Ok(client) => client.text("SELECT pg_conf_load_time()").await != before,
                Err(_) => true,
            }
        })
        .await;
    }

    fn append(&self, name: &str, lines: &str) {
        let file = self.server.data_dir().join(name);
        let mut file = OpenOptions::new()
            .append(true)
            .open(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        file.write_all(format!("\n{lines}\n").as_bytes()).expect("append to a file of the server");
    }
}
