//! Whoever may do anything to the database changes what was recorded: it is found, and named.

use pgsteward::audit::Head;
use pgsteward::audit::verify::Finding;

use crate::stage::Stage;

/// Thirty events under three seals.
async fn sealed() -> Stage {
    let stage = Stage::new().await;
    for first in [1, 11, 21] {
        stage.log(first, first + 9).await;
        assert_eq!(stage.seal().await.len(), 1);
    }
    let found = stage.verify().await;
    assert!(found.is_sound(), "{found:?}");
    assert_eq!((found.entries, found.rows, found.purged, found.unsealed), (3, 30, 0, 0));
    stage
}

#[tokio::test]
async fn a_change_of_any_field_of_a_row_is_found_and_named() {
    let stage = sealed().await;
    let id = stage.id(17).await;
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
        // Within its seal, into another, and behind all of them.
        ("xid", "(xid::text::bigint + 1)::text::xid8"),
        ("xid", "(SELECT max(xid::text::bigint)::text::xid8 FROM steward.audit_logs)"),
        ("xid", "pg_current_xact_id()"),
    ];
    for (field, value) in changes {
        let (before, found) =
            changed(&stage, &format!("SET {field} = {value} WHERE id = '{id}'")).await;
        let altered = |finding: &Finding| matches!(finding, Finding::RowAltered { entry: 2, id: named, .. } if *named == id);
        let added = |finding: &Finding| matches!(finding, Finding::RowAdded { id: named, .. } if *named == id);
        assert!(
            found.iter().any(altered) && found.iter().all(|f| altered(f) || added(f)),
            "{field} = {value}: {found:?}"
        );
        restore(&stage, &before).await;
    }
    assert!(stage.verify().await.is_sound());
}

#[tokio::test]
async fn rows_that_are_missing_added_or_swapped_are_named() {
    let stage = sealed().await;
    let (a, b) = (stage.id(5).await, stage.id(25).await);

    let (before, found) = changed(&stage, &format!("DELETE WHERE id IN ('{a}', '{b}')")).await;
    let missing: Vec<_> = found
        .iter()
        .map(|finding| match finding {
            Finding::RowMissing { entry, id, .. } => (*entry, *id),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(missing, [(1, a), (3, b)]);
    restore(&stage, &before).await;

    stage
        .sql(
            "CREATE TABLE forged AS SELECT gen_random_uuid() AS id;
             INSERT INTO steward.audit_logs (id, created_at, action, source, xid)
             SELECT forged.id, l.created_at, 'forged', 'application', l.xid FROM forged, steward.audit_logs l WHERE l.user_id = 'u12'",
        )
        .await;
    let forged: uuid::Uuid = stage.admin.text("SELECT id FROM forged").await.parse().unwrap();
    let found = stage.verify().await.findings;
    assert!(
        matches!(found[..], [Finding::RowAdded { entry: 2, id, .. }] if id == forged),
        "{found:?}"
    );
    stage.sql("DELETE FROM steward.audit_logs WHERE action = 'forged'").await;

    // What one row says is put under the other's id, time and transaction.
    let (before, found) = changed(
        &stage,
        &format!(
            "SET user_id = o.user_id, details = o.details FROM steward.audit_logs o
              WHERE (l.id, o.id) IN (('{a}', '{b}'), ('{b}', '{a}'))"
        ),
    )
    .await;
    let named: Vec<_> = found.iter().filter_map(altered).collect();
    assert_eq!(named, [(1, a), (3, b)]);
    restore(&stage, &before).await;

    stage
        .sql(
            "INSERT INTO steward.audit_logs (action, source, xid)
             VALUES ('early', 'application', (pg_current_xact_id()::text::bigint + 1000)::text::xid8)",
        )
        .await;
    assert_eq!(stage.verify().await.findings, [Finding::RowsFromTheFuture { rows: 1 }]);
}

fn altered(finding: &Finding) -> Option<(i64, uuid::Uuid)> {
    match finding {
        Finding::RowAltered { entry, id, .. } => Some((*entry, *id)),
        _ => None,
    }
}

#[tokio::test]
async fn changed_leaves_and_entries_are_found() {
    let stage = sealed().await;
    let heads: Vec<Head> = heads(&stage).await;
    // A leaf alone, and a leaf together with its row.
    let flip = "UPDATE steward.audit_leaves SET leaves = set_byte(leaves, 40, get_byte(leaves, 40) # 1) WHERE seal = 2";
    stage.sql(flip).await;
    assert_eq!(
        stage.verify().await.findings,
        [Finding::LeavesAltered { entry: 2, rows_as_sealed: true }]
    );
    let id = stage.id(11).await;
    let (before, found) = changed(&stage, &format!("SET actor = 'x' WHERE id = '{id}'")).await;
    assert_eq!(found, [Finding::LeavesAltered { entry: 2, rows_as_sealed: false }]);
    restore(&stage, &before).await;
    stage.sql(flip).await;
    // Taken away.
    stage
        .sql("CREATE TABLE kept AS SELECT * FROM steward.audit_leaves; DELETE FROM steward.audit_leaves WHERE seal = 3")
        .await;
    assert_eq!(
        stage.verify().await.findings,
        [Finding::LeavesAltered { entry: 3, rows_as_sealed: true }]
    );
    stage.sql("INSERT INTO steward.audit_leaves SELECT * FROM kept WHERE seal = 3").await;

    // An entry.
    for change in [
        "row_count = 11",
        "epoch = 'x/1'",
        "sealed_by = 'x'",
        "last_at = last_at + interval '1 s'",
        "root = head",
    ] {
        stage.sql(&format!("CREATE TABLE was AS SELECT * FROM steward.audit_seals WHERE number = 2; UPDATE steward.audit_seals SET {change} WHERE number = 2")).await;
        let found = stage.verify().await.findings;
        assert!(found.contains(&Finding::EntryAltered { entry: 2 }), "{change}: {found:?}");
        stage
            .sql(
                "UPDATE steward.audit_seals s SET (row_count, epoch, sealed_by, last_at, root)
                      = (w.row_count, w.epoch, w.sealed_by, w.last_at, w.root) FROM was w WHERE s.number = 2; DROP TABLE was",
            )
            .await;
    }
    assert!(stage.verify_against(&heads).await.is_sound());
    // One that no longer says what it said is not built upon.
    stage.sql("UPDATE steward.audit_seals SET sealed_by = 'x' WHERE number = 3").await;
    stage.log(31, 31).await;
    let refused = stage.seal_one().await.unwrap_err().to_string();
    assert!(refused.contains("entry 3 of steward.audit_seals was altered"), "{refused}");
    stage.sql("UPDATE steward.audit_seals SET sealed_by = 'test' WHERE number = 3").await;

    stage
        .sql("DELETE FROM steward.audit_leaves WHERE seal = 2; DELETE FROM steward.audit_seals WHERE number = 2")
        .await;
    let found = stage.verify().await.findings;
    assert_eq!(found[0], Finding::EntriesMissing { from: 2, to: 2 });
    stage.sql("TRUNCATE steward.audit_leaves, steward.audit_seals").await;
    let found = stage.verify().await;
    assert_eq!(
        (found.entries, found.unsealed, found.is_sound()),
        (0, 31, true),
        "without a chain nothing is proven"
    );
    let found = stage.verify_against(&heads[2..]).await.findings;
    assert_eq!(found, [Finding::HeadDiffers { published: heads[2].to_string(), chain_has: None }]);
}

#[tokio::test]
async fn a_chain_that_a_superuser_made_anew_shows_only_against_a_head_from_outside() {
    let stage = sealed().await;
    let published = heads(&stage).await;
    let id = stage.id(8).await;
    stage
        .sql(&format!(
            "UPDATE steward.audit_logs SET user_id = 'nobody' WHERE id = '{id}';
             TRUNCATE steward.audit_leaves, steward.audit_seals"
        ))
        .await;
    stage.seal().await;
    let found = stage.verify().await;
    assert!(
        found.is_sound(),
        "it is sound in itself, which is what the outside head is for: {found:?}"
    );
    let found = stage.verify_against(&published[1..2]).await;
    assert_eq!(found.heads_matched, 0);
    assert!(
        matches!(&found.findings[..], [Finding::HeadDiffers { chain_has: None, .. }]),
        "{found:?}"
    );
    stage.log(40, 41).await;
    stage.seal().await;
    let found = stage.verify_against(&published).await;
    assert_eq!(found.findings_total, 3, "{found:?}");
}

async fn heads(stage: &Stage) -> Vec<Head> {
    let sql = "SELECT string_agg(number || ':' || encode(head, 'hex'), ' ' ORDER BY number) FROM steward.audit_seals";
    stage.admin.text(sql).await.split(' ').map(|head| head.parse().unwrap()).collect()
}

/// Changes the trail (the rest of an UPDATE or DELETE of `l`), and returns what was found, and the ids of rows to restore.
async fn changed(stage: &Stage, change: &str) -> (String, Vec<Finding>) {
    stage
        .sql("DROP TABLE IF EXISTS before; CREATE TABLE before AS SELECT * FROM steward.audit_logs")
        .await;
    let sql = match change.strip_prefix("DELETE") {
        Some(rest) => format!("DELETE FROM steward.audit_logs l {rest}"),
        None => format!("UPDATE steward.audit_logs l {change}"),
    };
    stage.sql(&sql).await;
    let found = stage.verify().await;
    assert!(!found.is_sound(), "{change}");
    ("before".to_owned(), found.findings)
}

async fn restore(stage: &Stage, table: &str) {
    stage
        .sql(&format!(
            "BEGIN; DELETE FROM steward.audit_logs; INSERT INTO steward.audit_logs SELECT * FROM {table}; COMMIT"
        ))
        .await;
}
