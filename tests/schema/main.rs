//! The two schemas that pgsteward brings, object by object and by what they promise.
//!
//! The files are applied as they are in production: by a plain role that owns the database, one
//! transaction per file, on a database whose default privileges give Supabase's API roles
//! everything that appears in `public`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access;
mod audit;
mod constraints;
#[path = "../harness/mod.rs"]
mod harness;
mod objects;
mod partitions;
mod row_audit;
mod zentry;

use harness::{Role, Template, TestClient, TestDatabase, connect};
use tokio_postgres::error::SqlState;

/// A database with its owner, on which both sets can be applied.
pub struct Place {
    pub database: TestDatabase,
    pub owner: Role,
}

#[derive(Clone, Copy)]
pub enum Way {
    Up,
    Down,
}

impl Place {
    /// Nothing applied yet.
    pub async fn bare() -> Place {
        let mut database = TestDatabase::create(Template::Empty).await;
        let owner = database.role("owner", "").await;
        let admin = database.client().await;
        for role in ["anon", "authenticated", "service_role BYPASSRLS"] {
            // Roles are the whole server's: another test may have made them, or be about to.
            let made = admin.batch_execute(&format!("CREATE ROLE {role}")).await;
            let known = made.as_ref().err().and_then(|error| error.code());
            let raced = [Some(&SqlState::DUPLICATE_OBJECT), Some(&SqlState::UNIQUE_VIOLATION)]
                .contains(&known);
            assert!(made.is_ok() || raced, "create role {role}: {made:?}");
        }
        let sql = format!("ALTER DATABASE {} OWNER TO {}", database.name(), owner.name);
        admin.batch_execute(&sql).await.unwrap();
        admin
            .batch_execute("GRANT USAGE ON SCHEMA public TO anon, authenticated, service_role")
            .await
            .unwrap();
        let place = Place { database, owner };
        let client = place.client().await;
        for kind in ["TABLES", "FUNCTIONS", "SEQUENCES"] {
            let sql = format!(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO anon, authenticated, service_role"
            );
            client.batch_execute(&sql).await.unwrap();
        }
        client.batch_execute("CREATE SCHEMA steward").await.unwrap();
        place
    }

    /// Both sets applied.
    pub async fn migrated() -> Place {
        let place = Place::bare().await;
        let client = place.client().await;
        apply(&client, "steward", Way::Up).await;
        apply(&client, "zentry", Way::Up).await;
        place
    }

    /// A connection as the owner, who is no superuser.
    pub async fn client(&self) -> TestClient {
        connect(&self.owner.url).await.unwrap()
    }

    /// A superuser's connection that has become another role.
    pub async fn acting_as(&self, role: &str) -> TestClient {
        let client = self.database.client().await;
        client.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
        client
    }
}

/// Applies a set's files in order, each as one transaction under its own search path.
pub async fn apply(client: &TestClient, set: &str, way: Way) {
    let folder = format!("{}/migrations/{set}", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            name.ends_with(".sql") && name.ends_with(".down.sql") == matches!(way, Way::Down)
        })
        .collect();
    assert!(!names.is_empty(), "no files in {folder}");
    names.sort();
    if matches!(way, Way::Down) {
        names.reverse();
    }
    let search_path = if set == "steward" { "pg_catalog, pg_temp" } else { "public" };
    for name in names {
        let text = std::fs::read_to_string(format!("{folder}/{name}")).unwrap();
        let sql = format!("BEGIN; SET LOCAL search_path = {search_path};\n{text}\n; COMMIT");
        client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{set}/{name}: {error:?}"));
    }
}

/// The SQLSTATE and the constraint (or column) with which the server refuses a statement.
pub async fn refused(client: &TestClient, sql: &str) -> (String, String) {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("accepted: {sql}"),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
            let object = error.constraint().or(error.column()).unwrap_or_default();
            (error.code().code().to_owned(), object.to_owned())
        }
    }
}

/// Every row of a query, its columns joined by " | ".
pub async fn lines(client: &TestClient, sql: &str) -> Vec<String> {
    let messages =
        client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        (0..row.len()).map(|i| row.get(i).unwrap_or("-")).collect::<Vec<_>>().join(" | ")
    })
    .collect()
}
