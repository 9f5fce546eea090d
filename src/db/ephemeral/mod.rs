//! A throw-away PostgreSQL server: a real one, for development, demonstrations and tests.
//!
//! [`Ephemeral::start`] finds the installed binaries, sweeps what dead processes left, makes a
//! folder (in memory where there is room), runs `initdb`, and starts a server with durability off
//! that listens on a Unix socket and on a free loopback port. A random password is needed on both;
//! it lies in files of mode 0600 inside the folder and is never logged nor on a command line.
//!
//! The server dies with this process, however that ends (see `supervisor`), and its folder goes
//! with it; what a power cut leaves, the next start sweeps. Root becomes `postgres` or `nobody` for
//! the server. Every step is bounded, and an error carries the end of the server's own log.
//!
//! ```text
//! FOLDER/connection.env   PGHOST, PGPORT, PGUSER, PGDATABASE, PGPASSFILE, PGSTEWARD_PG_BIN
//! FOLDER/pgpass           the password, for libpq
//! FOLDER/server.log  FOLDER/data  FOLDER/.s.PGSQL.PORT  FOLDER/lock
//! ```

mod account;
mod base;
mod binaries;
mod error;
mod fallback;
mod folder;
mod options;
mod supervisor;

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use account::Account;
use binaries::Binaries;
pub use error::EphemeralError;
pub use fallback::{Fallback, PATIENCE, Situation, fallback};
use folder::Folder;
pub use options::Options;
use supervisor::Supervisor;

use crate::config::Secret;

const SUPERUSER: &str = "postgres";

/// A port that was free may be taken before the server binds it.
const PORT_TRIES: usize = 5;

/// A running throw-away server. Dropping it stops the server and removes the folder without waiting;
/// [`Ephemeral::stop`] waits.
#[derive(Debug)]
pub struct Ephemeral {
    folder: Folder,
    binaries: Binaries,
    account: Option<Account>,
    password: Secret,
    port: u16,
    start_timeout: Duration,
    supervisor: Option<Supervisor>,
}

impl Ephemeral {
    /// Starts one and waits until it accepts connections.
    pub async fn start(options: Options) -> Result<Ephemeral, EphemeralError> {
        let binaries = Binaries::find(options.bin.as_deref(), options.path.as_deref()).await?;
        let account = Account::for_server()?;
        let bases = options.bases();
        let swept = bases.clone();
        run_blocking(move || Folder::sweep(&swept, account)).await;
        // From here to the first supervisor nothing awaits: a start that is given up leaves nothing.
        let folder = Folder::create(&bases, account)?;
        // Two random UUIDs: 244 bits of the operating system's.
        let password = Secret::new(format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        ));
        let start_timeout = options.start_timeout;
        let mut server = Ephemeral {
            folder,
            binaries,
            account,
            password,
            port: 0,
            start_timeout,
            supervisor: None,
        };
        match server.set_up(&options).await {
            Ok(()) => {
                let (major, minor) = server.binaries.version;
                tracing::info!(
                    folder = %server.folder.path().display(), port = server.port, version = %format_args!("{major}.{minor}"),
                    "throw-away PostgreSQL server started; its data ends with this process"
                );
                Ok(server)
            }
            Err(error) => {
                server.stop().await;
                Err(error)
            }
        }
    }

    async fn set_up(&mut self, options: &Options) -> Result<(), EphemeralError> {
        self.initdb().await?;
        self.configure(options)?;
        let pgpass = format!("*:*:*:{SUPERUSER}:{}\n", self.password.expose());
        self.folder.write_private("pgpass", &pgpass, None)?;
        self.serve_on_free_port().await?;
        self.folder.write_private("connection.env", &self.connection_env(), None)?;
        Ok(())
    }

    async fn initdb(&mut self) -> Result<(), EphemeralError> {
        let password =
            self.folder.write_private("initial-password", self.password.expose(), self.account)?;
        let mut arguments = vec![
            format!("--pgdata={}", self.folder.data().display()),
            format!("--pwfile={}", password.display()),
            format!("--username={SUPERUSER}"),
            "--auth=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--locale=C".to_owned(),
            "--wal-segsize=1".to_owned(),
            "-N".to_owned(),
        ];
        if self.binaries.version.0 >= 18 {
            arguments.push("--no-data-checksums".to_owned());
        }
        let mut initdb = self.supervise(&self.binaries.initdb(), &arguments)?;
        let in_time =
            tokio::time::timeout(self.start_timeout, initdb.command_ended()).await.is_ok();
        let status = initdb.stop(supervisor::Folder::Keep).await;
        // Its content is in `pgpass` too; a file that cannot be removed now goes with the folder.
        let _ = fs::remove_file(password);
        if in_time && status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        let folder = self.folder.path().to_owned();
        let output = self.folder.log_tail();
        Err(match in_time {
            true => EphemeralError::Initdb { folder, output },
            false => EphemeralError::NotReady { folder, bound: self.start_timeout, output },
        })
    }

    fn configure(&self, options: &Options) -> Result<(), EphemeralError> {
        let file = self.folder.data().join("postgresql.conf");
        fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .and_then(|mut conf| conf.write_all(options.conf().as_bytes()))
            .map_err(EphemeralError::io(format!("write {}", file.display())))
    }

    async fn serve_on_free_port(&mut self) -> Result<(), EphemeralError> {
        for _ in 1..PORT_TRIES {
            self.port = free_port()?;
            match self.serve().await {
                Err(EphemeralError::Ended { output, .. }) if output.contains("could not bind") => {
                    tracing::debug!(port = self.port, "a free port was taken meanwhile");
                    // So that the next attempt's error does not quote this one.
                    let _ = fs::write(self.folder.log(), "");
                }
                other => return other,
            }
        }
        self.port = free_port()?;
        self.serve().await
    }

    /// Starts the server process and waits until it accepts connections.
    async fn serve(&mut self) -> Result<(), EphemeralError> {
        let arguments = [
            format!("-D{}", self.folder.data().display()),
            format!("-p{}", self.port),
            format!("-k{}", self.folder.path().display()),
            "-clisten_addresses=127.0.0.1".to_owned(),
        ];
        // Of a server that was killed; its "ready" would be taken for the new one's.
        let _ = fs::remove_file(self.folder.data().join("postmaster.pid"));
        let mut supervisor = self.supervise(&self.binaries.postgres(), &arguments)?;
        let waited = tokio::select! {
            () = supervisor.command_ended() => Err(true),
            ready = tokio::time::timeout(self.start_timeout, self.accepts()) => ready.map_err(|_| false),
        };
        if let Err(ended) = waited {
            supervisor.stop(supervisor::Folder::Keep).await;
            let folder = self.folder.path().to_owned();
            let output = self.folder.log_tail();
            return Err(match ended {
                true => EphemeralError::Ended { folder, output },
                false => EphemeralError::NotReady { folder, bound: self.start_timeout, output },
            });
        }
        self.supervisor = Some(supervisor);
        Ok(())
    }

    /// The server writes its state into the eighth line of `postmaster.pid` (pg_ctl waits the same way).
    async fn accepts(&self) {
        let file = self.folder.data().join("postmaster.pid");
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn supervise(
        &self,
        program: &Path,
        arguments: &[String],
    ) -> Result<Supervisor, EphemeralError> {
        self.folder
            .share_lock()
            .and_then(|lock| {
                Supervisor::start(self.folder.path(), lock, self.account, program, arguments)
            })
            .map_err(EphemeralError::io(format!("start {} through /bin/sh", program.display())))
    }

    fn connection_env(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "PGHOST={folder}\nPGPORT={}\nPGUSER={SUPERUSER}\nPGDATABASE=postgres\nPGPASSFILE={folder}/pgpass\n\
             PGSTEWARD_PG_BIN={}\n",
            self.port,
            self.binaries.dir.display()
        )
    }

    /// Where to connect as superuser, through the Unix socket. Holds the password.
    pub fn url(&self) -> Secret {
        let (password, folder) = (self.password.expose(), self.folder.path().display());
        Secret::new(format!(
            "postgresql://{SUPERUSER}:{password}@/postgres?host={folder}&port={}",
            self.port
        ))
    }

    /// The superuser's password.
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// The folder of the Unix socket, of `connection.env` and of everything else.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The port on 127.0.0.1, and in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The cluster's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.data()
    }

    /// The folder of the binaries in use; `psql` is there too where the client is installed.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.dir
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.binaries.version
    }

    /// The server's process id; none when it is not running.
    pub fn postmaster_pid(&self) -> Option<i32> {
        folder::postmaster(&self.folder.data()).map(|pid| pid.as_raw_nonzero().get())
    }

    /// Resolves when the server has ended by itself. Its data is still there for [`Ephemeral::restart`].
    pub async fn ended(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.command_ended().await;
        }
    }

    /// Stops the server if it runs; the data stays until [`Ephemeral::restart`] or the end.
    pub async fn pause(&mut self) {
        self.release().await;
        self.hold();
    }

    /// Starts the server again on the same data, port and password.
    pub async fn restart(&mut self) -> Result<(), EphemeralError> {
        self.release().await;
        let served = self.serve().await;
        if served.is_err() {
            self.hold();
        }
        served
    }

    async fn release(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.stop(supervisor::Folder::Keep).await;
        }
        let data = self.folder.data();
        run_blocking(move || folder::end_orphan(&data)).await;
    }

    /// A supervisor without a server, so that the folder goes with us all the same.
    fn hold(&mut self) {
        match self.supervise(Path::new("/bin/sh"), &["-c".to_owned(), ":".to_owned()]) {
            Ok(supervisor) => self.supervisor = Some(supervisor),
            Err(error) => {
                tracing::warn!(%error, "the throw-away server's folder is left to the next start's sweep");
            }
        }
    }

    /// Stops the server and removes the folder.
    pub async fn stop(mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.stop(supervisor::Folder::Remove).await;
        }
        // Whatever the supervisor could not do, because it never ran or was killed.
        let path = self.folder.path().to_owned();
        if let Err(error) = run_blocking(move || self.folder.remove()).await {
            tracing::warn!(folder = %path.display(), %error, "cannot remove the throw-away server's folder");
        }
    }
}

/// Below 32768, where Linux takes the ports of outgoing connections: one of these could take the
/// port while the server is down for a restart.
fn free_port() -> Result<u16, EphemeralError> {
    let bind =
        |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|free| free.local_addr());
    for _ in 0..20 {
        if let Ok(address) = bind(fastrand::u16(20_000..32_768)) {
            return Ok(address.port());
        }
    }
    bind(0)
        .map(|address| address.port())
        .map_err(EphemeralError::io("find a free port on 127.0.0.1"))
}

/// File system work that may take a while (a leftover of gigabytes) stays off the runtime's threads.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // It cannot be cancelled: nobody holds the handle but us.
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
