//! Roles, standbys and schemas that do not let us write: each named, with what mends it.

use std::os::unix::fs::PermissionsExt;

use super::harness::{PrivateServer, Template, TestDatabase};
use super::{Folder, migrate, up, versions};

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
async fn a_schema_of_somebody_else_is_named_with_its_owner() {
    let mut db = TestDatabase::create(Template::Empty).await;
    let (role, other, client, folder) =
        (db.role("app", "").await, db.role("other", "").await.name, db.client().await, folder());
    client.batch_execute(&format!("CREATE SCHEMA steward AUTHORIZATION {other}")).await.unwrap();
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA steward TO {}", role.name);
    up(&role.url, &folder)
        .await
        .fails(3, &[&format!("the schema steward belongs to {other}"), &grant]);
    client.batch_execute(&grant).await.unwrap();
    up(&role.url, &folder).await.ok();

    // A history that this role may see nothing of, or may not write.
    let second = db.role("second", "").await;
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
