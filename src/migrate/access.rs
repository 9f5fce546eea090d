//! Whether this session can migrate at all, and what mends it where it cannot.
//!
//! Looked at before anything is written: PostgreSQL's own words name the first privilege that is
//! missing, without the statement that gives it.
//!
//! The schema `steward` is also checked for trust. Every role with CREATE on the database can make
//! a schema of that name first and plant functions, triggers or a history in it, which pgsteward
//! would then use with its own rights.

use super::{Error as MigrateError, ErrorKind};
use crate::db::{Conn, Error};
use crate::observe::access::{self, Access, Distrust, Untrusted};
use crate::store::schema_migrations;

/// The findings that an error names at most.
const SHOWN_MAX: usize = 5;

/// Fails with [`ErrorKind::Untrusted`] where a role that is not trusted controls the schema
/// `steward` or something in it. Succeeds where there is no such schema.
pub async fn require_trusted(conn: &Conn) -> Result<(), MigrateError> {
    match distrust(conn).await? {
        Some(reason) => Err(MigrateError::new(ErrorKind::Untrusted, reason)),
        None => Ok(()),
    }
}

/// Returns why the schema `steward` is not trusted, and what to do; `None` where it is.
pub async fn distrust(conn: &Conn) -> Result<Option<String>, Error> {
    let found = access::untrusted(conn, "steward").await?;
    Ok((!found.items.is_empty()).then(|| explain_distrust(&found)))
}

fn explain_distrust(found: &Distrust) -> String {
    let role = &found.role;
    let (mut facts, mut remedies) = (Vec::new(), Vec::new());
    for item in &found.items {
        let (fact, remedy) = match item {
            Untrusted::Schema { owner } => (
                format!("schema steward owned by {owner}"),
                format!("ALTER SCHEMA steward OWNER TO {role}"),
            ),
            Untrusted::Grant { grantee } => (
                format!("CREATE on schema steward granted to {grantee}"),
                format!("REVOKE CREATE ON SCHEMA steward FROM {grantee}"),
            ),
            Untrusted::Object { object, owner } => {
                let object_type = object.split(' ').next().unwrap_or_default();
                (
                    format!("{object} owned by {owner}"),
                    format!("drop the {object_type} or change its owner to {role}"),
                )
            }
        };
        facts.push(fact);
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    let more = facts.len().saturating_sub(SHOWN_MAX);
    facts.truncate(SHOWN_MAX);
    if more > 0 {
        facts.push(format!("{more} more"));
    }
    format!(
        "expected schema steward and its objects to be owned by {role}, a member of {role} or a \
         superuser, found {}; pgsteward does not use it, because its owner could run code with the \
         rights of {role}; if the schema is not pgsteward's, drop it: DROP SCHEMA steward CASCADE; \
         if it is: {}",
        facts.join(", "),
        remedies.join("; ")
    )
}

/// Why the history cannot be written; absent where it can.
pub async fn obstacle(conn: &Conn) -> Result<Option<String>, Error> {
    Ok(explain(
        &access::to_table(conn, "steward", "schema_migrations", schema_migrations::COLUMNS).await?,
    ))
}

fn explain(access: &Access) -> Option<String> {
    let Access { role, database, .. } = access;
    if access.in_recovery {
        return Some(
            "the server is a standby, where nothing can be migrated; connect to the primary, for example with several \
             hosts and target_session_attrs=read-write"
                .to_owned(),
        );
    }
    if access.read_only {
        return Some(format!(
            "transactions of {role} are read-only here (default_transaction_read_only); migrating writes"
        ));
    }
    let Some(schema) = &access.schema else {
        return (!access.may_create_schemas).then(|| {
            format!(
                "there is no schema steward, and {role} may not make one: GRANT CREATE ON DATABASE {database} TO \
                 {role}; or CREATE SCHEMA steward AUTHORIZATION {role}"
            )
        });
    };
    match schema.table {
        Some(table) if !table.as_expected => Some(
            "steward.schema_migrations is not the migration history of pgsteward: its columns are others; rename it, \
             or keep this database in another way"
                .to_owned(),
        ),
        Some(table) if schema.usage && !table.writable => Some(format!(
            "{role} may not write the migration history: GRANT SELECT, INSERT, UPDATE, DELETE ON \
             steward.schema_migrations TO {role}"
        )),
        Some(_) if schema.usage => None,
        None if schema.usage && schema.create => None,
        _ => Some(format!(
            "the schema steward belongs to {0}, and {role} may not work in it; if it is pgsteward's, connect as {0} or \
             a member of it, or: GRANT USAGE, CREATE ON SCHEMA steward TO {role}",
            schema.owner
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::access::{SchemaAccess, TableAccess};

    #[test]
    fn what_is_not_trusted_is_named_with_the_statements_that_help() {
        let object = |name: &str| Untrusted::Object {
            object: format!("table steward.{name}"),
            owner: "mallory".into(),
        };
        let mut items = vec![
            Untrusted::Schema { owner: "mallory".into() },
            Untrusted::Grant { grantee: "PUBLIC".into() },
        ];
        items.extend(["a", "b", "c", "d", "e"].map(object));
        assert_eq!(
            explain_distrust(&Distrust { role: "app".into(), items }),
            "expected schema steward and its objects to be owned by app, a member of app or a \
             superuser, found schema steward owned by mallory, CREATE on schema steward granted to \
             PUBLIC, table steward.a owned by mallory, table steward.b owned by mallory, table \
             steward.c owned by mallory, 2 more; pgsteward does not use it, because its owner \
             could run code with the rights of app; if the schema is not pgsteward's, drop it: \
             DROP SCHEMA steward CASCADE; if it is: ALTER SCHEMA steward OWNER TO app; REVOKE \
             CREATE ON SCHEMA steward FROM PUBLIC; drop the table or change its owner to app"
        );
    }

    /// As expected, writable.
    type Table = Option<(bool, bool)>;

    /// The schema's USAGE, its CREATE, and the table.
    fn access(schema: Option<(bool, bool, Table)>) -> Access {
        Access {
            in_recovery: false,
            read_only: false,
            role: "app".into(),
            database: "shop".into(),
            may_create_schemas: false,
            schema: schema.map(|(usage, create, table)| SchemaAccess {
                owner: "dba".into(),
                usage,
                create,
                table: table.map(|(as_expected, writable)| TableAccess { as_expected, writable }),
            }),
        }
    }

    #[test]
    fn each_obstacle_is_told_with_what_mends_it() {
        for (found, wanted) in [
            (access(None), Some("GRANT CREATE ON DATABASE shop TO app")),
            (Access { may_create_schemas: true, ..access(None) }, None),
            (Access { in_recovery: true, ..access(None) }, Some("is a standby")),
            (Access { read_only: true, ..access(None) }, Some("of app are read-only")),
            (access(Some((false, false, None))), Some("belongs to dba")),
            (
                access(Some((true, false, None))),
                Some("GRANT USAGE, CREATE ON SCHEMA steward TO app"),
            ),
            (access(Some((true, true, None))), None),
            (access(Some((true, false, Some((true, true))))), None),
            (access(Some((false, false, Some((true, true))))), Some("belongs to dba")),
            (
                access(Some((true, true, Some((true, false))))),
                Some("ON steward.schema_migrations TO app"),
            ),
            (access(Some((true, true, Some((false, true))))), Some("its columns are others")),
        ] {
            match (explain(&found), wanted) {
                (None, None) => {}
                (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
                (explained, wanted) => panic!("{explained:?}, wanted {wanted:?}: {found:?}"),
            }
        }
    }
}
