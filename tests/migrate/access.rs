//! Roles, standbys and schemas that do not let us write: each named, with what mends it.

use std::os::unix::fs::PermissionsExt;

use super::harness::{self, PrivateServer, Role, Template, TestClient, TestDatabase};
use super::{Folder, migrate, pgsteward, up, versions};

fn folder() -> Folder {
    Folder::new(&[("001_a.sql", "SELECT 1")])
}

#[tokio::test]
async fn a_role_that_may_make_no_schema_is_told_the_grant() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let (role, client, folder) = (db.role("app", "").await, db.client().await, folder());
    let grant = format!("GRANT CREATE ON DATABASE {} TO {}", db.name(), role.name);
    up(&role.url, &folder).await.fails(3, &["there is no schema steward", &grant]);
    client.batch_execute(&grant).await.unwrap();
    up(&role.url, &folder).await.ok();
    assert_eq!(versions(&client, "app").await, "1");
}

#[tokio::test]
async fn a_schema_made_for_the_role_is_enough() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let (role, client) = (db.role("app", "").await, db.client().await);
    client
        .batch_execute(&format!("CREATE SCHEMA steward AUTHORIZATION {}", role.name))
        .await
        .unwrap();
    up(&role.url, &folder()).await.ok();
    assert_eq!(versions(&client, "app").await, "1");
}

#[tokio::test]
async fn a_schema_of_a_superuser_needs_grants_and_names_them() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let (role, client, folder) = (db.role("app", "").await, db.client().await, folder());
    client.batch_execute("CREATE SCHEMA steward").await.unwrap();
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA steward TO {}", role.name);
    up(&role.url, &folder).await.fails(3, &["the schema steward belongs to postgres", &grant]);
    client.batch_execute(&grant).await.unwrap();
    up(&role.url, &folder).await.ok();

    // A history that this role may see nothing of, or may not write. The owner of the history can
    // act as the role, so that it is trusted.
    let second = db.role("second", "").await;
    client.batch_execute(&format!("GRANT {} TO {}", second.name, role.name)).await.unwrap();
    folder.write("002_b.sql", "SELECT 2");
    up(&second.url, &folder).await.fails(3, &["the schema steward belongs to", "GRANT USAGE"]);
    client
        .batch_execute(&format!(
            "GRANT USAGE ON SCHEMA steward TO {0}; GRANT SELECT ON steward.schema_migrations TO {0}",
            second.name
        ))
        .await
        .unwrap();
    assert!(migrate(&second.url, &folder, &["status"]).await.ok().out.contains("pending"));
    up(&second.url, &folder).await.fails(
        3,
        &["GRANT SELECT, INSERT, UPDATE, DELETE ON steward.schema_migrations TO", &second.name],
    );
    assert_eq!(versions(&client, "app").await, "1");
}

/// A database in which `mallory` may create schemas, and `app`, which pgsteward runs as.
struct Contested {
    /// Dropped with its roles at the end.
    _database: TestDatabase,
    app: Role,
    mallory: Role,
    client: TestClient,
}

impl Contested {
    async fn create() -> Contested {
        let mut db = TestDatabase::create(Template::Empty).await;
        let (app, mallory) = (db.role("app", "").await, db.role("mallory", "").await);
        let client = db.client().await;
        let grant =
            format!("GRANT CREATE ON DATABASE {} TO {}, {}", db.name(), app.name, mallory.name);
        client.batch_execute(&grant).await.unwrap();
        Contested { _database: db, app, mallory, client }
    }

    /// Runs SQL as `mallory`, with the roles' names for `{app}` and `{mallory}`.
    async fn plant(&self, sql: &str) {
        let client = harness::connect(&self.mallory.url).await.unwrap();
        client.batch_execute(&self.named(sql)).await.unwrap();
    }

    fn named(&self, text: &str) -> String {
        text.replace("{app}", &self.app.name).replace("{mallory}", &self.mallory.name)
    }

    /// Everything that would write into the schema refuses it, and says these parts.
    async fn is_refused(&self, parts: &[&str]) {
        let parts: Vec<String> = parts.iter().map(|part| self.named(part)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let folder = folder();
        up(&self.app.url, &folder).await.fails(3, &parts);
        migrate(&self.app.url, &folder, &["status"]).await.fails(3, &parts);
        pgsteward(&self.app.url, &["check", "--connect"]).await.fails(69, &parts);
        let here = ["job", "run", "partitions", "--here"];
        pgsteward(&self.app.url, &here).await.fails(69, &parts);
    }
}

#[tokio::test]
async fn a_schema_that_another_role_made_is_refused_with_its_owner() {
    let contested = Contested::create().await;
    contested.plant("CREATE SCHEMA steward; GRANT ALL ON SCHEMA steward TO {app}").await;
    let told = [
        "expected schema steward and its objects to be owned by {app}",
        "found schema steward owned by {mallory}",
        "DROP SCHEMA steward CASCADE",
        "ALTER SCHEMA steward OWNER TO {app}",
    ];
    contested.is_refused(&told).await;
    let tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'steward'::regnamespace";
    assert_eq!(contested.client.number(tables).await, 0, "nothing was created in it");

    // With a new owner it is as good as any, except for what the old owner left.
    let plant = "CREATE TABLE steward.leases (id int);
         CREATE FUNCTION steward.f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TYPE steward.mood AS ENUM ('bad')";
    contested.plant(plant).await;
    contested
        .client
        .batch_execute(&contested.named("ALTER SCHEMA steward OWNER TO {app}"))
        .await
        .unwrap();
    let told = [
        "found function steward.f(integer) owned by {mallory}, table steward.leases owned by \
         {mallory}, type steward.mood owned by {mallory}",
        "change its owner to {app}",
    ];
    contested.is_refused(&told).await;
    contested
        .client
        .batch_execute(&contested.named("DROP OWNED BY {mallory} CASCADE"))
        .await
        .unwrap();
    up(&contested.app.url, &folder()).await.ok();
}

#[tokio::test]
async fn a_planted_history_is_not_believed() {
    let contested = Contested::create().await;
    up(&contested.app.url, &folder()).await.ok();
    let copy = "CREATE SCHEMA planted;
         CREATE TABLE planted.schema_migrations AS TABLE steward.schema_migrations;
         DROP SCHEMA steward CASCADE; ALTER SCHEMA planted RENAME TO steward;
         ALTER TABLE steward.schema_migrations OWNER TO {mallory};
         ALTER SCHEMA steward OWNER TO {mallory};
         GRANT ALL ON SCHEMA steward TO {app}; GRANT ALL ON steward.schema_migrations TO {app}";
    contested.client.batch_execute(&contested.named(copy)).await.unwrap();
    let told =
        ["schema steward owned by {mallory}", "table steward.schema_migrations owned by {mallory}"];
    contested.is_refused(&told).await;
    let folder = folder();
    let told = told.map(|part| contested.named(part));
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    migrate(&contested.app.url, &folder, &["down", "--yes"]).await.fails(3, &told);
}

#[tokio::test]
async fn create_for_others_on_the_schema_is_refused() {
    let contested = Contested::create().await;
    up(&contested.app.url, &folder()).await.ok();
    for grantee in ["PUBLIC", "{mallory}"] {
        let grant = contested.named(&format!("GRANT CREATE ON SCHEMA steward TO {grantee}"));
        contested.client.batch_execute(&grant).await.unwrap();
        let found = format!("found CREATE on schema steward granted to {grantee}");
        let revoke = format!("REVOKE CREATE ON SCHEMA steward FROM {grantee}");
        contested.is_refused(&[&found, &revoke]).await;
        contested.client.batch_execute(&contested.named(&revoke)).await.unwrap();
        up(&contested.app.url, &folder()).await.ok();
    }
}

#[tokio::test]
async fn a_group_owns_the_schema_only_while_all_its_members_are_trusted() {
    let contested = Contested::create().await;
    let group = format!("{}_group", contested.app.name);
    let sql = format!(
        "CREATE ROLE {group} NOLOGIN; GRANT {group} TO {};
         CREATE SCHEMA steward AUTHORIZATION {group}",
        contested.app.name
    );
    contested.client.batch_execute(&sql).await.unwrap();
    up(&contested.app.url, &folder()).await.ok();

    let join = format!("GRANT {group} TO {}", contested.mallory.name);
    contested.client.batch_execute(&join).await.unwrap();
    contested.is_refused(&[&format!("found schema steward owned by {group}")]).await;
    let leave = format!("REVOKE {group} FROM {}", contested.mallory.name);
    contested.client.batch_execute(&leave).await.unwrap();
    up(&contested.app.url, &folder()).await.ok();

    // A login that made pgsteward its member gains nothing by it.
    let sql = contested.named("GRANT {mallory} TO {app}; ALTER SCHEMA steward OWNER TO {mallory}");
    contested.client.batch_execute(&sql).await.unwrap();
    contested.is_refused(&["found schema steward owned by {mallory}"]).await;
    let sql = format!("DROP SCHEMA steward CASCADE; DROP OWNED BY {group}; DROP ROLE {group}");
    contested.client.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_history_of_another_tool_is_not_written_to() {
    let db = TestDatabase::create(Template::Empty).await;
    let client = db.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA steward; CREATE TABLE steward.schema_migrations (version bigint PRIMARY KEY, dirty bool)",
        )
        .await
        .unwrap();
    let folder = folder();
    for command in [["up"], ["status"]] {
        let done = migrate(&db.url(), &folder, &command).await;
        done.fails(3, &["steward.schema_migrations is not the migration history of pgsteward"]);
    }
    assert_eq!(client.text("SELECT count(*) FROM steward.schema_migrations").await, "0");
}

#[tokio::test]
async fn a_standby_is_refused_as_such() {
    let mut server = PrivateServer::start(&[("wal_level", "replica"), ("hot_standby", "on")]).await;
    let folder = folder();
    up(&server.url(), &folder).await.ok();
    server.stop().await;
    let signal = server.ephemeral().data_dir().join("standby.signal");
    std::fs::write(&signal, "").unwrap();
    // The server opens it for writing, as another user.
    std::fs::set_permissions(&signal, std::fs::Permissions::from_mode(0o666)).unwrap();
    server.restart().await;
    // Nothing pending, nothing to write.
    up(&server.url(), &folder).await.ok();
    folder.write("002_b.sql", "SELECT 2");
    let done = up(&server.url(), &folder).await;
    done.fails(3, &["the server is a standby", "target_session_attrs=read-write"]);
    assert!(
        migrate(&server.url(), &folder, &["status"]).await.ok().out.contains("app/002_b  pending")
    );
}

#[tokio::test]
async fn a_read_only_default_is_refused_as_such() {
    let db = TestDatabase::create(Template::Empty).await;
    let name = db.name();
    db.client()
        .await
        .batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .await
        .unwrap();
    up(&db.url(), &folder()).await.fails(3, &["transactions of postgres are read-only here"]);
}
