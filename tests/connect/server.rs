//! A throw-away server that dies with the test run, and certificates for it.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// For anything that has to happen.
pub const BOUND: Duration = Duration::from_secs(30);

pub const PASSWORD: &str = "s3cr:t/w@rd";

/// The one that most tests share, with roles for each way to be let in or not.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start(
            &[],
            "local     all all                       scram-sha-256\n\
             host      all rejected     127.0.0.1/32 reject\n\
             hostssl   all tls_only     127.0.0.1/32 scram-sha-256\n\
             hostnossl all plain_only   127.0.0.1/32 scram-sha-256\n\
             hostssl   all cert_user    127.0.0.1/32 cert\n\
             host      all plain_only   127.0.0.1/32 reject\n\
             host      all tls_only     127.0.0.1/32 reject\n\
             host      all cert_user    127.0.0.1/32 reject\n\
             host      all all          127.0.0.1/32 scram-sha-256\n",
        );
        for role in ["rejected", "tls_only", "plain_only", "cert_user", "single CONNECTION LIMIT 1", "worker"] {
            let (name, rest) = role.split_once(' ').unwrap_or((role, ""));
            server.psql(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {rest}"));
        }
        server.psql("CREATE TABLE public.marks (name text PRIMARY KEY)");
        server.psql("GRANT ALL ON public.marks TO PUBLIC");
        server
    })
}

pub struct Server {
    pub port: u16,
    pub dir: TempDir,
    supervisor: Child,
}

impl Server {
    /// Starts one with TLS: `server.crt` is for `localhost`, signed by `ca.crt`; `client.crt` is for the
    /// role `cert_user`; `other.crt` is an authority that signed nothing.
    pub fn start(settings: &[&str], hba: &str) -> Server {
        let dir = scratch();
        let bin = bin_dir();
        let data = dir.path().join("data");
        make_certificates(dir.path());
        fs::write(dir.path().join("pw"), PASSWORD).unwrap();
        give_to_postgres(dir.path());
        let initdb = as_postgres(Command::new(bin.join("initdb")))
            .args(["-N", "--locale=C", "--encoding=UTF8", "-U", "postgres", "--auth=scram-sha-256", "-D"])
            .arg(&data)
            .arg("--pwfile")
            .arg(dir.path().join("pw"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        if !hba.is_empty() {
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
        }
        let port = free_port();
        let root = dir.path().display();
        let mut conf = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        writeln!(
            conf,
            "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{root}'\nfsync = off\n\
             ssl = on\nssl_cert_file = '{root}/server.crt'\nssl_key_file = '{root}/server.key'\n\
             ssl_ca_file = '{root}/ca.crt'\nlog_min_messages = fatal\n{}",
            settings.join("\n")
        )
        .unwrap();
        if settings.iter().any(|setting| setting.starts_with("hot_standby")) {
            fs::write(data.join("standby.signal"), "").unwrap();
        }
        give_to_postgres(dir.path());
        // The shell lives as long as its standard input, which is ours: it ends with this process,
        // however that ends, and takes the server with it.
        let script = "\"$1\" -D \"$2\" >/dev/null 2>\"$3/log\" </dev/null & pid=$!; cat >/dev/null; kill -INT $pid; wait; rm -rf \"$3\"";
        let supervisor = as_postgres(Command::new("/bin/sh"))
            .args(["-c", script, "sh"])
            .arg(bin.join("postgres"))
            .arg(&data)
            .arg(dir.path())
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Server { port, dir, supervisor };
        server.wait_until_it_answers();
        server
    }

    fn wait_until_it_answers(&self) {
        let ready = bin_dir().join("pg_isready");
        let deadline = Instant::now() + BOUND;
        loop {
            let mut command = Command::new(&ready);
            let output = command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).output().unwrap();
            // 0: accepts; 1: rejects for now, which some tests want.
            if matches!(output.status.code(), Some(0 | 1)) {
                return;
            }
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the server does not come up: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Key-value settings for a role over TCP; more can follow.
    pub fn tcp(&self, user: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} password='{PASSWORD}' dbname=postgres", self.port)
    }

    /// As superuser through the Unix socket.
    pub fn socket(&self) -> String {
        format!(
            "host={} port={} user=postgres password='{PASSWORD}' dbname=postgres",
            self.dir.path().display(),
            self.port
        )
    }

    /// Runs a statement beside the code under test, and returns what it printed.
    pub fn psql(&self, sql: &str) -> String {
        let output = Command::new(bin_dir().join("psql"))
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d"])
            .arg(self.socket())
            .args(["-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// A process that is ended with its group when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

pub fn scratch() -> TempDir {
    let base = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let dir = tempfile::Builder::new().prefix("pgsteward-connect-").tempdir_in(base).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The newest installed server's.
pub fn bin_dir() -> PathBuf {
    let installed =
        fs::read_dir("/usr/lib/postgresql").map(|found| found.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let newest = installed
        .into_iter()
        .filter(|entry| entry.path().join("bin/initdb").exists())
        .max_by_key(|entry| entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0));
    newest.expect("no PostgreSQL server in /usr/lib/postgresql: apt-get install -y postgresql").path().join("bin")
}

/// Servers refuse root.
pub fn as_postgres(mut command: Command) -> Command {
    if let Some((uid, gid)) = postgres_ids() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

pub fn give_to_postgres(dir: &Path) {
    let Some((uid, gid)) = postgres_ids() else { return };
    chown(dir, Some(uid), Some(gid)).unwrap();
    for entry in fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file()) {
        chown(entry.path(), Some(uid), Some(gid)).unwrap();
    }
}

fn postgres_ids() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres to run servers as");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

fn make_certificates(dir: &Path) {
    let write = |name: &str, pem: &str| {
        fs::write(dir.join(name), pem).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), Issuer::new(params, key))
    };
    let (ca, issuer) = authority("test authority");
    write("ca.crt", &ca);
    write("other.crt", &authority("another authority").0);
    for (file, name, common_name) in [("server", "localhost", "localhost"), ("client", "client.test", "cert_user")] {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        write(&format!("{file}.crt"), &params.signed_by(&key, &issuer).unwrap().pem());
        write(&format!("{file}.key"), &key.serialize_pem());
    }
    // A certificate that is an authority and its own signer, as `openssl req -x509` makes them.
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    write("self.crt", &params.self_signed(&key).unwrap().pem());
    write("self.key", &key.serialize_pem());
}
