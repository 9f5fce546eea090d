//! A superuser of the database alters recorded events: verification finds and names each change.

use pgsteward::audit::Head;
use pgsteward::audit::verify::{AuditFinding, SealedRow};

use crate::fixture::AuditFixture;

/// Thirty events under three seals.
async fn sealed() -> AuditFixture {
    let fixture = AuditFixture::new().await;
    for first in [1, 11, 21] {
        fixture.log(first, first + 9).await;
        assert_eq!(fixture.seal().await.len(), 1);
    }
    let found = fixture.verify().await;
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.entries, found.rows, found.purged, found.unsealed), (3, 30, 0, 0));
    fixture
}

#[tokio::test]
async fn a_change_of_any_field_of_a_row_is_found_and_named() {
    let fixture = sealed().await;
    let id = fixture.id(17).await;
    let changes = [
        ("user_id", "'u99'"),
        ("user_id", "NULL"),
        ("actor", "'somebody'"),
        ("session_user_name", "'somebody'"),
        ("action", "'test.other'"),
        ("resource_type", "'t'"),
        ("resource_id", "''"),
        ("old_values", "'{}'"),
        ("new_values", "'null'"),
        ("ip_address", "'192.0.2.1'"),
        ("user_agent", "'curl'"),
        ("request_id", "'r'"),
        ("source", "'trigger'"),
        ("details", r#"'{"n": 18}'"#),
        ("created_at", "created_at - interval '1 microsecond'"),
        // Into another transaction of the same seal, of another seal, and after all seals.
        ("xid", "(xid::text::bigint + 1)::text::xid8"),
        ("xid", "(SELECT max(xid::text::bigint)::text::xid8 FROM steward.audit_logs)"),
        ("xid", "pg_current_xact_id()"),
    ];
    for (field, value) in changes {
        let (before, found) =
            changed(&fixture, &format!("SET {field} = {value} WHERE id = '{id}'")).await;
        let altered = |finding: &AuditFinding| matches!(finding, AuditFinding::RowAltered(SealedRow { entry: 2, id: named, .. }) if *named == id);
        let added = |finding: &AuditFinding| matches!(finding, AuditFinding::RowAdded(SealedRow { id: named, .. }) if *named == id);
        assert!(
            found.iter().any(altered) && found.iter().all(|f| altered(f) || added(f)),
            "{field} = {value}: {found:?}"
        );
        restore(&fixture, &before).await;
    }
    assert!(fixture.verify().await.is_sound());
}

#[tokio::test]
async fn rows_that_are_missing_added_or_swapped_are_named() {
    let fixture = sealed().await;
    let (a, b) = (fixture.id(5).await, fixture.id(25).await);

    let (before, found) = changed(&fixture, &format!("DELETE WHERE id IN ('{a}', '{b}')")).await;
    let missing: Vec<_> = found
        .iter()
        .map(|finding| match finding {
            AuditFinding::RowMissing(SealedRow { entry, id, .. }) => (*entry, *id),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(missing, [(1, a), (3, b)]);
    restore(&fixture, &before).await;

    fixture
        .sql(
            "CREATE TABLE forged AS SELECT gen_random_uuid() AS id;
             INSERT INTO steward.audit_logs (id, created_at, action, source, xid)
             SELECT forged.id, l.created_at, 'forged', 'application', l.xid FROM forged, steward.audit_logs l WHERE l.user_id = 'u12'",
        )
        .await;
    let forged: uuid::Uuid = fixture.admin.text("SELECT id FROM forged").await.parse().unwrap();
    let found = fixture.verify().await.findings;
    assert!(
        matches!(found[..], [AuditFinding::RowAdded(SealedRow { entry: 2, id, .. })] if id == forged),
        "{found:?}"
    );
    fixture.sql("DELETE FROM steward.audit_logs WHERE action = 'forged'").await;

    // Two rows exchange their values, but not id, time and transaction.
    let (before, found) = changed(
        &fixture,
        &format!(
            "SET user_id = o.user_id, details = o.details FROM steward.audit_logs o
              WHERE (l.id, o.id) IN (('{a}', '{b}'), ('{b}', '{a}'))"
        ),
    )
    .await;
    let named: Vec<_> = found.iter().filter_map(altered).collect();
    assert_eq!(named, [(1, a), (3, b)]);
    restore(&fixture, &before).await;

    fixture
        .sql(
            "INSERT INTO steward.audit_logs (action, source, xid)
             VALUES ('early', 'application', (pg_current_xact_id()::text::bigint + 1000)::text::xid8)",
        )
        .await;
    assert_eq!(fixture.verify().await.findings, [AuditFinding::RowsFromTheFuture { rows: 1 }]);
}

fn altered(finding: &AuditFinding) -> Option<(i64, uuid::Uuid)> {
    match finding {
        AuditFinding::RowAltered(SealedRow { entry, id, .. }) => Some((*entry, *id)),
        _ => None,
    }
}

#[tokio::test]
async fn changed_leaves_and_entries_are_found() {
    let fixture = sealed().await;
    let heads: Vec<Head> = heads(&fixture).await;
    // A leaf alone, and a leaf together with its row.
    let flip = "UPDATE steward.audit_leaves SET leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) WHERE seal = 2";
    fixture.sql(flip).await;
    assert_eq!(
        fixture.verify().await.findings,
        [AuditFinding::LeavesAltered { entry: 2, rows_as_sealed: true }]
    );
    let id = fixture.id(11).await;
    let (before, found) = changed(&fixture, &format!("SET actor = 'x' WHERE id = '{id}'")).await;
    assert_eq!(found, [AuditFinding::LeavesAltered { entry: 2, rows_as_sealed: false }]);
    restore(&fixture, &before).await;
    fixture.sql(flip).await;
    // Deleted leaves.
    fixture
        .sql("CREATE TABLE kept AS SELECT * FROM steward.audit_leaves; DELETE FROM steward.audit_leaves WHERE seal = 3")
        .await;
    assert_eq!(
        fixture.verify().await.findings,
        [AuditFinding::LeavesAltered { entry: 3, rows_as_sealed: true }]
    );
    fixture.sql("INSERT INTO steward.audit_leaves SELECT * FROM kept WHERE seal = 3").await;

    // Altered entries.
    for change in [
        "row_count = 11",
        "epoch = 'x/1'",
        "sealed_by = 'x'",
        "last_at = last_at + interval '1 s'",
        "root = head",
    ] {
        fixture.sql(&format!("CREATE TABLE was AS SELECT * FROM steward.audit_seals WHERE number = 2; UPDATE steward.audit_seals SET {change} WHERE number = 2")).await;
        let found = fixture.verify().await.findings;
        assert!(found.contains(&AuditFinding::EntryAltered { entry: 2 }), "{change}: {found:?}");
        fixture
            .sql(
                "UPDATE steward.audit_seals s SET (row_count, epoch, sealed_by, last_at, root)
                      = (w.row_count, w.epoch, w.sealed_by, w.last_at, w.root) FROM was w WHERE s.number = 2; DROP TABLE was",
            )
            .await;
    }
    assert!(fixture.verify_against(&heads).await.is_sound());
    // Nothing is appended to an altered entry.
    fixture.sql("UPDATE steward.audit_seals SET sealed_by = 'x' WHERE number = 3").await;
    fixture.log(31, 31).await;
    let refused = fixture.seal_one().await.unwrap_err().to_string();
    assert!(refused.contains("entry 3 of steward.audit_seals was altered"), "{refused}");
    fixture.sql("UPDATE steward.audit_seals SET sealed_by = 'test' WHERE number = 3").await;

    fixture
        .sql("DELETE FROM steward.audit_leaves WHERE seal = 2; DELETE FROM steward.audit_seals WHERE number = 2")
        .await;
    let found = fixture.verify().await.findings;
    assert_eq!(found[0], AuditFinding::EntriesMissing { from: 2, to: 2 });
    fixture.sql("TRUNCATE steward.audit_leaves, steward.audit_seals").await;
    let found = fixture.verify().await;
    assert_eq!(
        (found.entries, found.unsealed, found.is_sound()),
        (0, 31, true),
        "without a chain there is nothing to compare with"
    );
    let found = fixture.verify_against(&heads[2..]).await.findings;
    assert_eq!(
        found,
        [AuditFinding::HeadDiffers { published: heads[2].to_string(), chain_has: None }]
    );
}

#[tokio::test]
async fn a_chain_that_a_superuser_rewrote_differs_only_from_a_published_head() {
    let fixture = sealed().await;
    let published = heads(&fixture).await;
    let id = fixture.id(8).await;
    fixture
        .sql(&format!(
            "UPDATE steward.audit_logs SET user_id = 'nobody' WHERE id = '{id}';
             TRUNCATE steward.audit_leaves, steward.audit_seals"
        ))
        .await;
    fixture.seal().await;
    let found = fixture.verify().await;
    assert!(found.is_sound(), "only a published head reveals the rewritten chain: {found:?}");
    let found = fixture.verify_against(&published[1..2]).await;
    assert_eq!(found.heads_matched, 0);
    assert!(
        matches!(&found.findings[..], [AuditFinding::HeadDiffers { chain_has: None, .. }]),
        "{found:?}"
    );
    fixture.log(40, 41).await;
    fixture.seal().await;
    let found = fixture.verify_against(&published).await;
    assert_eq!(found.findings_total, 3, "{found:?}");
}

async fn heads(fixture: &AuditFixture) -> Vec<Head> {
    let sql = "SELECT string_agg(number || ':' || encode(head, 'hex'), ' ' ORDER BY number) FROM steward.audit_seals";
    fixture.admin.text(sql).await.split(' ').map(|head| head.parse().unwrap()).collect()
}

/// Changes the audit log by the rest of an UPDATE or DELETE of `l`. Returns the name of the table that
/// holds the rows before the change, and the findings.
async fn changed(fixture: &AuditFixture, change: &str) -> (String, Vec<AuditFinding>) {
    fixture
        .sql("DROP TABLE IF EXISTS before; CREATE TABLE before AS SELECT * FROM steward.audit_logs")
        .await;
    let sql = match change.strip_prefix("DELETE") {
        Some(rest) => format!("DELETE FROM steward.audit_logs l {rest}"),
        None => format!("UPDATE steward.audit_logs l {change}"),
    };
    fixture.sql(&sql).await;
    let found = fixture.verify().await;
    assert!(!found.is_sound(), "{change}");
    ("before".to_owned(), found.findings)
}

async fn restore(fixture: &AuditFixture, table: &str) {
    fixture
        .sql(&format!(
            "BEGIN; DELETE FROM steward.audit_logs; INSERT INTO steward.audit_logs SELECT * FROM {table}; COMMIT"
        ))
        .await;
}
