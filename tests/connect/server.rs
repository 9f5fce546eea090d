//! Servers with TLS and with roles for each way to be let in or not, and certificates for them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio_postgres::SimpleQueryMessage;

use crate::harness::{PrivateServer, background, connect};

pub const PASSWORD: &str = "s3cr:t/w@rd";

/// The one that most tests share, with roles for each way to be let in or not.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Server::start(
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
        for role in [
            "rejected",
            "tls_only",
            "plain_only",
            "cert_user",
            "single CONNECTION LIMIT 1",
            "worker",
        ] {
            let (name, rest) = role.split_once(' ').unwrap_or((role, ""));
            server.run(&format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' {rest}"));
        }
        server.run("CREATE TABLE public.marks (name text PRIMARY KEY)");
        server.run("GRANT ALL ON public.marks TO PUBLIC");
        server
    })
}

pub struct Server {
    pub port: u16,
    /// Of the Unix socket.
    pub socket_dir: PathBuf,
    certificates: PathBuf,
    server: Mutex<PrivateServer>,
}

impl Server {
    /// Starts one with TLS and, where not empty, these rules instead of its own. `server.crt` is for
    /// `localhost`, signed by `ca.crt`; `client.crt` is for the role `cert_user`; `other.crt` is an
    /// authority that signed nothing.
    pub fn start(hba: &str) -> Server {
        Server::prepare(hba, |_| {})
    }

    /// One that is in recovery for ever: it has nothing to replay, and waits for more.
    pub fn standby() -> Server {
        Server::prepare("", |data| fs::write(data.join("standby.signal"), "").unwrap())
    }

    fn prepare(hba: &str, change: impl FnOnce(&Path)) -> Server {
        let mut server = background(async {
            let server = PrivateServer::start(&[]).await;
            let client = server.client().await;
            client
                .batch_execute(&format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"))
                .await
                .unwrap();
            server
        });
        let data = server.ephemeral().data_dir();
        // Within the server's own folder, which goes when the server goes.
        let certificates = data.join("tls");
        fs::create_dir(&certificates).unwrap();
        make_certificates(&certificates);
        give_to_postgres(&certificates);
        server.append_conf(
            "ssl = on\nssl_cert_file = 'tls/server.crt'\nssl_key_file = 'tls/server.key'\nssl_ca_file = 'tls/ca.crt'",
        );
        if !hba.is_empty() {
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
        }
        change(&data);
        background(async { server.restart().await });
        Server {
            port: server.ephemeral().port(),
            socket_dir: server.ephemeral().socket_dir().to_owned(),
            certificates,
            server: Mutex::new(server),
        }
    }

    /// The path of a certificate or key.
    pub fn path(&self, name: &str) -> String {
        self.certificates.join(name).display().to_string()
    }

    /// Key-value settings for a role over TCP; more can follow.
    pub fn tcp(&self, user: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={user} password='{PASSWORD}' dbname=postgres",
            self.port
        )
    }

    /// As superuser through the Unix socket.
    pub fn socket(&self) -> String {
        let dir = self.socket_dir.display();
        format!("host={dir} port={} user=postgres password='{PASSWORD}' dbname=postgres", self.port)
    }

    /// Asks it to shut down when the last session has left.
    pub fn shut_down_when_left(&self) {
        self.server.lock().unwrap().signal(Signal::TERM);
    }

    /// Runs a statement beside the code under test, and returns its first value.
    pub fn run(&self, sql: &str) -> String {
        background(async {
            let client = connect(&self.socket()).await.unwrap();
            let messages =
                client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            let row = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            });
            row.unwrap_or_default()
        })
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
    for entry in
        fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.file_type().unwrap().is_file())
    {
        chown(entry.path(), Some(uid), Some(gid)).unwrap();
    }
}

fn postgres_ids() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("no user postgres to run servers as");
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
    for (file, name, common_name) in
        [("server", "localhost", "localhost"), ("client", "client.test", "cert_user")]
    {
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
