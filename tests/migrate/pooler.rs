//! Behind PgBouncer in transaction mode, where each transaction may meet another server process.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::harness::{BOUND, Template, TestClient, TestDatabase, connect, wait_until};
use super::{Folder, GATE, at_gate, begin_up, close_gate, end, migrate, open_gate, up, versions};

/// Server processes for everybody together.
const POOL_SIZE: usize = 4;

struct PgBouncer {
    process: Child,
    url: String,
    _folder: TempDir,
}

impl PgBouncer {
    /// One port and one user for a test's database.
    async fn start(db: &TestDatabase) -> PgBouncer {
        let folder = tempfile::tempdir().unwrap();
        let port = super::harness::free_port();
        let server = db.server();
        let ini = folder.path().join("ini");
        std::fs::write(
            &ini,
            format!(
                "[databases]\n{} = host={} port={} user=postgres password={}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nlogfile =\npidfile =\n",
                db.name(),
                server.socket_dir.display(),
                server.port,
                server.password
            ),
        )
        .unwrap();
        let mut command = Command::new("pgbouncer");
        if rustix::process::geteuid().is_root() {
            // It refuses to be root, and reads its file as whom it becomes.
            use std::os::unix::fs::PermissionsExt;
            for path in [folder.path(), ini.as_path()] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            command.args(["-u", "postgres"]);
        }
        command
            .arg("-q")
            .arg(&ini)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("no pgbouncer ({error}): apt-get install -y --no-install-recommends pgbouncer")
        });
        let url = format!("postgresql://postgres@127.0.0.1:{port}/{}", db.name());
        wait_until("pgbouncer answers", BOUND, async || connect(&url).await.is_ok()).await;
        PgBouncer { process, url, _folder: folder }
    }

    /// One client in a transaction for each server process, so that each is looked at.
    async fn everyone(&self) -> Vec<TestClient> {
        let mut clients = Vec::new();
        for _ in 0..POOL_SIZE {
            let client = connect(&self.url).await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            clients.push(client);
        }
        clients
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn migrators_behind_a_transaction_pooler_apply_once_and_leave_no_settings() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    let bouncer = PgBouncer::start(&db).await;
    close_gate(&client).await;
    let folder = Folder::new(&[
        (
            "001_sets.sql",
            "SET lock_timeout = '7s'; SET work_mem = '77MB'; SET search_path = nowhere; CREATE TEMP TABLE scratch ();",
        ),
        ("002_gate.sql", &format!("CREATE TABLE a ();\n{GATE}")),
        ("003_last.sql", "CREATE TABLE b ();"),
        ("003_last.down.sql", "DROP TABLE b;"),
    ]);
    let first = begin_up(&bouncer.url, &folder);
    at_gate(&client).await;
    let others = [begin_up(&bouncer.url, &folder), begin_up(&bouncer.url, &folder)];
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND state = 'idle' AND query = 'ROLLBACK'";
    wait_until("another migrator waits", BOUND, async || client.number(waiting).await >= 1).await;
    open_gate(&client).await;
    let mut applied = 0;
    for child in others.into_iter().chain([first]) {
        applied += end(child).await.ok().out.matches("applied app/").count();
    }
    assert_eq!(applied, 3);
    assert_eq!(versions(&client, "app").await, "1,2,3");
    let leaks =
        "SELECT concat_ws(' ', current_setting('lock_timeout'), current_setting('work_mem'),
                        current_setting('search_path'), to_regclass('pg_temp.scratch'))";
    // As on a connection of our own, where nobody has set anything.
    let wanted = client.text(leaks).await;
    for (position, stranger) in bouncer.everyone().await.iter().enumerate() {
        assert_eq!(stranger.text(leaks).await, wanted, "server process {position}");
    }
    migrate(&bouncer.url, &folder, &["down", "--yes"]).await.ok();
    up(&bouncer.url, &folder).await.ok();
}
