//! A throw-away server: how it starts, and that nothing of it stays however its owner ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout
)]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{BOUND, connect, wait_until};
use pgsteward::db::ephemeral::{Ephemeral, EphemeralError, Options};
use rustix::process::{Pid, Signal, kill_process};

/// A folder of the test's own, so that its sweeps and leftovers are nobody else's. The path is
/// short enough for a socket wherever TMPDIR points.
fn base() -> tempfile::TempDir {
    let base = tempfile::Builder::new().prefix("pgs-").tempdir_in("/tmp").unwrap();
    // The account that the server runs as must get through.
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o777)).unwrap();
    base
}

fn options(base: &Path) -> Options {
    Options { base: Some(base.to_owned()), ..Options::from_env() }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn is_running(pid: i32) -> bool {
    // A zombie of somebody who has not waited yet does not run.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

const HELD_IN: &str = "PGSTEWARD_TEST_HELD_IN";
const HOLDER: &str = "it_answers_on_both_doors_and_goes_when_stopped";

/// Also the child of the tests below: told a folder, it holds its server until it is killed.
#[tokio::test]
async fn it_answers_on_both_doors_and_goes_when_stopped() {
    let told = std::env::var_os(HELD_IN).map(PathBuf::from);
    let own = told.is_none().then(base);
    let folder = own.as_ref().map(|own| own.path()).or(told.as_deref()).unwrap();
    let server = Ephemeral::start(options(folder)).await.unwrap();
    let password = server.password().expose();

    let socket = connect(server.url().expose()).await.unwrap();
    assert_eq!(socket.text("SELECT inet_server_addr()").await, "NULL");
    let tcp =
        connect(&format!("postgresql://postgres:{password}@127.0.0.1:{}/postgres", server.port()))
            .await
            .unwrap();
    assert_eq!(tcp.text("SELECT inet_server_addr()").await, "127.0.0.1");
    for (setting, wanted) in
        [("fsync", "off"), ("max_connections", "50"), ("server_encoding", "UTF8")]
    {
        assert_eq!(socket.text(&format!("SHOW {setting}")).await, wanted, "{setting}");
    }
    let version = socket.number("SHOW server_version_num").await;
    assert_eq!(version / 10_000, i64::from(server.version().0));

    if told.is_some() {
        println!("HELD {} {}", server.postmaster_pid().unwrap(), server.socket_dir().display());
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let pid = server.postmaster_pid().unwrap();
    server.stop().await;
    assert_eq!((is_running(pid), entries(folder)), (false, vec![]));
}

/// Another process with a server in `base`: the process, its server's pid and folder.
fn hold(base: &Path) -> (Child, i32, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", HOLDER, "--nocapture", "--test-threads=1"])
        .env(HELD_IN, base)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // libtest may write the test's name before what the test prints.
    let held = lines
        .into_iter()
        .find_map(|line| line.split_once("HELD ").map(|(_, held)| held.to_owned()));
    let held = held.expect("the other process holds a server");
    let (pid, folder) = held.split_once(' ').unwrap();
    (child, pid.parse().unwrap(), folder.into())
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn it_dies_with_an_owner_that_is_killed() {
    let base = base();
    let (mut owner, server, folder) = hold(base.path());
    assert!(is_running(server) && folder.exists());
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_until("the server of a killed process ends", BOUND, async || !is_running(server)).await;
    wait_until("its folder goes", BOUND, async || entries(base.path()).is_empty()).await;
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let base = base();
    let start = tokio::spawn(Ephemeral::start(options(base.path())));
    wait_until("initdb is at work", BOUND, async || {
        entries(base.path()).iter().any(|folder| folder.join("data/pg_wal").exists())
    })
    .await;
    start.abort();
    assert!(start.await.is_err_and(|error| error.is_cancelled()), "it was given up, not done");
    wait_until("its folder goes", BOUND, async || entries(base.path()).is_empty()).await;
}

#[tokio::test]
async fn what_a_dead_owner_and_a_dead_supervisor_left_is_swept() {
    let base = base();
    let (mut owner, server, folder) = hold(base.path());
    // Owner and supervisor at once, as a machine's out-of-memory killer may: only the server lives.
    let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let supervisor =
        status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    signal(supervisor, Signal::KILL);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(is_running(server) && folder.exists(), "there is something to sweep");

    let next = Ephemeral::start(options(base.path())).await.unwrap();
    assert!(!is_running(server), "the orphan is ended");
    assert_eq!(entries(base.path()), [next.socket_dir()], "its folder is swept");
    next.stop().await;
}

#[tokio::test]
async fn two_at_once_leave_each_other_alone() {
    let base = base();
    let (one, two) = tokio::join!(
        Ephemeral::start(options(base.path())),
        Ephemeral::start(options(base.path()))
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    // A third start sweeps while both run.
    let three = Ephemeral::start(options(base.path())).await.unwrap();
    assert_eq!(entries(base.path()).len(), 3);
    for server in [&one, &two, &three] {
        assert_eq!(connect(server.url().expose()).await.unwrap().number("SELECT 1").await, 1);
    }
    assert!(
        connect(&one.url().expose().replace(one.password().expose(), two.password().expose()))
            .await
            .is_err()
    );
    drop(one);
    two.stop().await;
    three.stop().await;
    wait_until("the folder of a server that was only dropped goes", BOUND, async || {
        entries(base.path()).is_empty()
    })
    .await;
}

#[tokio::test]
async fn it_is_nobody_elses_and_never_roots() {
    let base = base();
    let server = Ephemeral::start(options(base.path())).await.unwrap();
    let pid = server.postmaster_pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert!(ids("Uid:").iter().chain(&ids("Gid:")).all(|id| *id != "0"), "the server runs as root");
    if rustix::process::geteuid().is_root() {
        assert_eq!(ids("Groups:"), [""; 0], "root's groups are dropped");
    }

    let folder = server.socket_dir();
    assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700);
    let password = server.password().expose();
    for entry in entries(folder).iter().filter(|entry| entry.is_file()) {
        let holds_it = fs::read(entry)
            .unwrap()
            .windows(password.len())
            .any(|part| part == password.as_bytes());
        assert_eq!(holds_it, entry.ends_with("pgpass"), "{} holds the password", entry.display());
    }
    for name in ["pgpass", "connection.env"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
    // No process line tells it either.
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            let told = text.windows(password.len()).any(|part| part == password.as_bytes());
            assert!(!told, "{}/{file} holds the password", process.path().display());
        }
    }
    assert!(!format!("{server:?}").contains(password), "Debug prints the password");
    server.stop().await;
}

#[tokio::test]
async fn libpq_connects_by_the_files_of_the_folder() {
    let base = base();
    let server = Ephemeral::start(options(base.path())).await.unwrap();
    let text = fs::read_to_string(server.socket_dir().join("connection.env")).unwrap();
    let environment = text.lines().map(|line| line.split_once('=').unwrap());
    let psql = Command::new(server.bin_dir().join("psql"))
        .args(["-XAtc", "SELECT current_user"])
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&psql.stdout), "postgres\n", "{psql:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_dies_alone_is_noticed_and_comes_back_with_its_data() {
    let base = base();
    let mut durable = options(base.path());
    // Without it, a killed server loses its last commits.
    durable.settings = vec![("synchronous_commit".to_owned(), "on".to_owned())];
    let mut server = Ephemeral::start(durable).await.unwrap();
    connect(server.url().expose())
        .await
        .unwrap()
        .batch_execute("CREATE TABLE kept ()")
        .await
        .unwrap();
    signal(server.postmaster_pid().unwrap(), Signal::KILL);
    tokio::time::timeout(BOUND, server.ended()).await.expect("its end is noticed");
    assert_eq!(server.postmaster_pid(), None);
    server.restart().await.unwrap();
    let client = connect(server.url().expose()).await.unwrap();
    assert_eq!(client.text("SELECT to_regclass('kept')").await, "kept");
    server.pause().await;
    drop(server);
    wait_until("the folder of a stopped server goes", BOUND, async || {
        entries(base.path()).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_setting_that_the_server_refuses_is_told_in_its_own_words() {
    let base = base();
    let mut wrong = options(base.path());
    wrong.settings = vec![("shared_buffers".to_owned(), "many".to_owned())];
    let error = Ephemeral::start(wrong).await.unwrap_err();
    assert!(matches!(error, EphemeralError::Ended { .. }), "{error:?}");
    assert!(
        error.to_string().contains("invalid value for parameter \"shared_buffers\": \"many\""),
        "{error}"
    );
    assert_eq!(
        entries(base.path()),
        [""; 0].map(PathBuf::from),
        "a start that failed leaves nothing"
    );
}

#[tokio::test]
async fn a_programme_that_hangs_or_fails_is_told() {
    let base = base();
    for (initdb, part) in [
        (
            "echo 'initdb: error: could not write: No space left on device' >&2; exit 1",
            "the disk is full",
        ),
        ("exec sleep 60", "was not ready within 1 s"),
    ] {
        let bin = base.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::set_permissions(&bin, fs::Permissions::from_mode(0o755)).unwrap();
        for (name, script) in
            [("postgres", "echo 'postgres (PostgreSQL) 17.2'"), ("initdb", initdb)]
        {
            fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut broken = options(base.path());
        broken.bin = Some(bin.clone());
        broken.start_timeout = std::time::Duration::from_secs(1);
        let error = Ephemeral::start(broken).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!(entries(base.path()), [bin], "a start that failed leaves nothing");
    }
}
