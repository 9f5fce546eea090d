//! What there is: held against `expected.txt`, and gone after the way down.

use std::collections::BTreeSet;

use super::{Place, Way, apply, lines};

/// One line per column, constraint, index, trigger, view, policy and function. Partitions made for
/// a date stand in no list; what differs between server versions (NOT NULL as a constraint since
/// 18, a view's reading role since 15) has a test of its own or is in the column's line.
const INVENTORY: &str = r"
    WITH relation AS (
        SELECT n.nspname || '.' || c.relname AS name, c.*
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname IN ('steward', 'public')
           AND (NOT c.relispartition OR c.relname ~ '_default$'))
    SELECT 'column ' || r.name || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
           || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
           || CASE WHEN a.attidentity <> '' THEN ' identity' ELSE '' END
           || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
      FROM relation r
      JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE r.relkind IN ('r', 'p', 'v', 'm') AND NOT r.relispartition
    UNION ALL
    SELECT 'table ' || r.name
           || CASE WHEN r.relkind = 'p' THEN ' partition by ' || pg_get_partkeydef(r.oid) ELSE '' END
           || CASE WHEN r.relispartition THEN ' default partition' ELSE '' END
           || coalesce(' with ' || array_to_string(r.reloptions, ', '), '')
      FROM relation r WHERE r.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'sequence ' || r.name FROM relation r WHERE r.relkind = 'S'
    UNION ALL
    SELECT 'materialized view ' || r.name FROM relation r WHERE r.relkind = 'm' AND r.relispopulated
    UNION ALL
    SELECT 'constraint ' || r.name || '.' || c.conname || ' '
           || regexp_replace(pg_get_constraintdef(c.oid), '\s+', ' ', 'g')
           || CASE WHEN c.convalidated THEN '' ELSE ' not valid' END
      FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid
     WHERE c.contype IN ('c', 'f', 'p', 'u', 'x') AND NOT r.relispartition
    UNION ALL
    SELECT 'index ' || pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END
      FROM relation r JOIN pg_index i ON i.indrelid = r.oid
     WHERE NOT r.relispartition
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'A' THEN ' always' WHEN 'O' THEN '' ELSE ' off' END
      FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'policy ' || r.name || '.' || p.polname || ' ' || p.polroles::regrole[]::text || ' ' || pg_get_expr(p.polqual, p.polrelid)
      FROM relation r JOIN pg_policy p ON p.polrelid = r.oid
    UNION ALL
    SELECT 'function ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ') returns '
           || pg_get_function_result(p.oid) || CASE WHEN p.prosecdef THEN ' as definer' ELSE '' END
           || coalesce(' set ' || array_to_string(p.proconfig, '; '), '')
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname IN ('steward', 'public')
    ORDER BY 1";

async fn inventory(place: &Place) -> Vec<String> {
    // Names in definitions are qualified whatever the search path of a role is.
    let client = place.client().await;
    client.batch_execute("SET search_path = pg_catalog").await.unwrap();
    lines(&client, INVENTORY).await
}

#[tokio::test]
async fn every_object_is_as_written_down() {
    let place = Place::migrated().await;
    let found: BTreeSet<String> = inventory(&place).await.into_iter().collect();
    let expected: BTreeSet<String> =
        include_str!("expected.txt").lines().map(str::to_owned).collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let unexpected: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && unexpected.is_empty(),
        "if the change is meant, change tests/schema/expected.txt\nmissing:\n{missing:#?}\nunexpected:\n{unexpected:#?}"
    );
}

/// Everything a digest of the catalog would see, partitions, grants and comments included.
async fn catalog(place: &Place) -> Vec<String> {
    let mut all = inventory(place).await;
    let client = place.client().await;
    client.batch_execute("SET search_path = pg_catalog").await.unwrap();
    let rest = lines(
        &client,
        r"SELECT 'relation ' || c.oid::regclass || ' ' || c.relkind::text || ' ' || c.relrowsecurity || ' '
                 || coalesce(pg_get_expr(c.relpartbound, c.oid), '') || ' ' || coalesce(c.relacl::text, '') || ' '
                 || coalesce(c.reloptions::text, '')
            FROM pg_class c WHERE c.relnamespace IN (to_regnamespace('public'), to_regnamespace('steward'))
          UNION ALL
          SELECT 'source ' || p.oid::regprocedure || ' ' || coalesce(p.proacl::text, '') || ' ' || md5(p.prosrc)
            FROM pg_proc p WHERE p.pronamespace IN (to_regnamespace('public'), to_regnamespace('steward'))
          UNION ALL
          SELECT 'comment ' || i.identity || ' ' || d.description
            FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
           WHERE i.schema IN ('public', 'steward') OR i.identity ~ '^(public|steward)\.'
          UNION ALL
          SELECT 'view ' || c.oid::regclass || ' ' || pg_get_viewdef(c.oid)
            FROM pg_class c WHERE c.relkind IN ('v', 'm')
             AND c.relnamespace IN (to_regnamespace('public'), to_regnamespace('steward'))
          UNION ALL
          SELECT 'type ' || t.oid::regtype FROM pg_type t
           WHERE t.typnamespace IN (to_regnamespace('public'), to_regnamespace('steward'))
          ORDER BY 1",
    )
    .await;
    all.extend(rest);
    all
}

#[tokio::test]
async fn down_leaves_nothing_and_up_again_leaves_the_same() {
    let place = Place::bare().await;
    let client = place.client().await;
    let nothing = catalog(&place).await;
    apply(&client, "steward", Way::Up).await;
    let steward = catalog(&place).await;
    apply(&client, "zentry", Way::Up).await;
    let both = catalog(&place).await;
    assert!(both.len() > steward.len() + 100 && steward.len() > nothing.len() + 100);

    apply(&client, "zentry", Way::Down).await;
    assert_eq!(catalog(&place).await, steward, "zentry's way down");
    apply(&client, "steward", Way::Down).await;
    assert_eq!(catalog(&place).await, nothing, "steward's way down");

    apply(&client, "steward", Way::Up).await;
    assert_eq!(catalog(&place).await, steward, "steward again");
    apply(&client, "zentry", Way::Up).await;
    assert_eq!(catalog(&place).await, both, "zentry again");
}

#[tokio::test]
async fn each_file_can_be_undone_and_done_again_alone() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let folder = format!("{}/migrations", env!("CARGO_MANIFEST_DIR"));
    let before = catalog(&place).await;
    for (path, file) in [
        ("public", "zentry/003_add_audit_and_logging"),
        ("public", "zentry/002_add_indexes_and_constraints"),
        ("public", "zentry/001_initial_schema"),
    ] {
        let down = std::fs::read_to_string(format!("{folder}/{file}.down.sql")).unwrap();
        client
            .batch_execute(&format!("BEGIN; SET LOCAL search_path = {path};{down}; COMMIT"))
            .await
            .unwrap();
        let after = catalog(&place).await;
        assert!(after.len() < before.len(), "{file}");
    }
    apply(&client, "zentry", Way::Up).await;
    assert_eq!(catalog(&place).await, before);
}

#[tokio::test]
async fn the_session_s_settings_do_not_matter() {
    let plain = Place::migrated().await;
    let odd = Place::bare().await;
    let client = odd.client().await;
    client
        .batch_execute(
            "SET timezone = 'Pacific/Auckland'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard';
             SET standard_conforming_strings = on; SET check_function_bodies = off; SET xmloption = 'document'",
        )
        .await
        .unwrap();
    apply(&client, "steward", Way::Up).await;
    apply(&client, "zentry", Way::Up).await;
    let name = |place: &Place| place.owner.name.clone();
    let own = |catalog: Vec<String>, name: String| -> Vec<String> {
        catalog.into_iter().map(|line| in_order(&line.replace(&name, "OWNER"))).collect()
    };
    // Grants stand in the order of their roles' numbers, and who made a role first is a race of tests.
    fn in_order(line: &str) -> String {
        let Some((head, (list, tail))) =
            line.split_once('{').and_then(|(h, rest)| Some((h, rest.split_once('}')?)))
        else {
            return line.to_owned();
        };
        let mut entries: Vec<&str> = list.split(',').collect();
        entries.sort_unstable();
        format!("{head}{{{}}}{tail}", entries.join(","))
    }
    assert_eq!(own(catalog(&plain).await, name(&plain)), own(catalog(&odd).await, name(&odd)));
}

#[tokio::test]
async fn every_foreign_key_has_an_index_that_begins_with_it() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let keys = "SELECT c.conrelid::regclass || '.' || c.conname
                  FROM pg_constraint c WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace";
    assert!(lines(&client, keys).await.len() >= 7);
    // A partial index serves if it leaves out nothing but the rows that refer to nobody.
    let bare = format!(
        "{keys} AND NOT EXISTS (
             SELECT FROM pg_index i
              WHERE i.indrelid = c.conrelid AND i.indisvalid
                AND (i.indpred IS NULL
                     OR pg_get_expr(i.indpred, i.indrelid) = (
                        SELECT format('(%I IS NOT NULL)', a.attname) FROM pg_attribute a
                         WHERE a.attrelid = c.conrelid AND a.attnum = c.conkey[1]))
                AND (SELECT array_agg(k ORDER BY k) FROM unnest((i.indkey::int2[])[0:cardinality(c.conkey) - 1]) k)
                  = (SELECT array_agg(k ORDER BY k) FROM unnest(c.conkey) k))"
    );
    assert_eq!(lines(&client, &bare).await, Vec::<String>::new());
}

#[tokio::test]
async fn keys_are_uuids() {
    let place = Place::migrated().await;
    let other = lines(
        &place.client().await,
        "SELECT c.oid::regclass || '.' || a.attname
           FROM pg_class c
           JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
          WHERE c.relnamespace IN ('steward'::regnamespace, 'public'::regnamespace) AND c.relkind IN ('r', 'p')
            AND NOT c.relispartition AND a.atttypid <> 'uuid'::regtype
          ORDER BY 1",
    )
    .await;
    // Named things, the chain of seals, whose order is its point, the trail, which is read by time, and what
    // the server numbers itself.
    let wanted = [
        "steward.audit_leaves.seal",
        "steward.audit_logs.created_at",
        "steward.audit_publications.sink",
        "steward.audit_seals.number",
        "steward.audited_tables.relation",
        "steward.idempotency_keys.caller",
        "steward.job_state.job",
        "steward.leases.name",
        "steward.retirements.partition",
    ];
    assert_eq!(other, wanted);
}
