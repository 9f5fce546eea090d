//! Row audit over every kind of table and column, and what is said of triggers that are gone.

use super::audit::begun;
use super::{Place, lines, refused};

const TRAIL: &str = "SELECT action, resource_type, resource_id, old_values, new_values, details FROM steward.audit_logs
                      WHERE source = 'trigger' ORDER BY created_at, id";

#[tokio::test]
async fn values_of_every_type_come_back_as_they_were() {
    let place = begun().await;
    let client = place.client().await;
    client
        .batch_execute(
            "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN even AS int CHECK (VALUE % 2 = 0);
             CREATE TABLE every (
                 id bigint PRIMARY KEY, s smallint, i int, n numeric, r real, d double precision, m money, b boolean, t text,
                 v varchar(5), c char(5), name name, by bytea, j json, jb jsonb, x xml, u uuid, dt date, ti time, tz timetz, ts timestamp,
                 tstz timestamptz, iv interval, ip inet, ci cidr, ma macaddr, bi bit(4), bv varbit, ts_v tsvector, ts_q tsquery,
                 po point, li line, se lseg, bo box, pa path, pg polygon, ci_r circle, rg int4range, mr int4multirange, ar int[], ar2 text[][],
                 mo mood, co pair, ev even, lsn pg_lsn, xi xid8, reg regclass, o oid,
                 gen text GENERATED ALWAYS AS (t || '!') STORED, \"Quoted \"\"name\" text);
             SELECT steward.audit_table('every');
             INSERT INTO every VALUES (
                 1, 2, 3, 'NaN', 'Infinity', 1e-300, 1.5, true, E'tab\\t\"quote\" \\\\ ü 😀', 'vc', 'ch', 'nm', '\\x00ff', '{\"k\":  1.50}', '{\"k\": 1.50}',
                 '<a>&lt;</a>', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'infinity', '24:00', '12:00+02', '4713-01-01 BC', 'infinity', '1 mon -2 days',
                 '192.0.2.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', B'1010', B'1', 'a:1 b', 'a & b', '(1,2)', '{1,2,3}', '((1,2),(3,4))',
                 '((1,2),(3,4))', '((1,2),(3,4))', '((1,2),(3,4))', '<(1,2),3>', '[1,5)', '{[1,2),[4,5)}', '{1,NULL,3}', '{{a,b},{c,NULL}}',
                 'happy', '(1,\"x y\")', 4, '16/B374D848', '7', 'pg_class', 26)",
        )
        .await
        .unwrap();
    let client = place.client().await;
    let differ = "SELECT string_agg(e.key, ', ') FROM every t, steward.audit_logs l, jsonb_each(to_jsonb(t.*)) e
                   WHERE l.action = 'insert' AND l.new_values -> e.key IS DISTINCT FROM e.value";
    assert_eq!(client.text(differ).await, "NULL");
    assert_eq!(
        client
            .text("SELECT new_values ->> 'gen' FROM steward.audit_logs WHERE action = 'insert'")
            .await
            .chars()
            .last(),
        Some('!')
    );
    // Updates of the hard ones.
    client
        .batch_execute("UPDATE every SET x = '<b/>', po = '(3,4)', j = '[1]', \"Quoted \"\"name\" = 'q', t = 'new'")
        .await
        .unwrap();
    let changed = "SELECT string_agg(k, ',' ORDER BY k) FROM steward.audit_logs, jsonb_object_keys(new_values) k WHERE action = 'update'";
    assert_eq!(client.text(changed).await, "Quoted \"name,gen,j,po,t,x");
    assert_eq!(client.number("SELECT last_value FROM steward.audit_losses").await, 0);
}

#[tokio::test]
async fn what_json_cannot_hold_costs_the_values_not_the_statement() {
    let place = begun().await;
    let client = place.client().await;
    // json keeps the escape as text; jsonb has no NUL.
    client
        .batch_execute(
            r#"CREATE TABLE raw (id int PRIMARY KEY, j json); SELECT steward.audit_table('raw');
               INSERT INTO raw VALUES (1, '{"a": "\u0000"}'), (2, '1')"#,
        )
        .await
        .unwrap();
    let found = lines(
        &client,
        "SELECT action, details ->> 'sqlstate', details ->> 'rows' FROM steward.audit_logs WHERE source = 'trigger'",
    )
    .await;
    assert_eq!(found, ["insert | 22P05 | 2"]);
    assert_eq!(client.number("SELECT count(*) FROM raw").await, 2);
    // By the application it is refused, by the server itself.
    for (sql, code) in [
        (r#"SELECT steward.log_audit_event('x', details => '{"a": "\u0000"}')"#, "22P05"),
        ("SELECT steward.log_audit_event('x', details => '{broken')", "22P02"),
        ("SELECT steward.log_audit_events('{broken')", "22P02"),
    ] {
        assert_eq!(refused(&client, sql).await.0, code, "{sql}");
    }
}

#[tokio::test]
async fn toasted_values_are_told_and_unchanged_ones_are_not() {
    let place = begun().await;
    let client = place.client().await;
    client
        .batch_execute(
            "CREATE TABLE doc (id int PRIMARY KEY, body text, n int); ALTER TABLE doc ALTER body SET STORAGE EXTERNAL;
             SELECT steward.audit_table('doc');
             INSERT INTO doc SELECT 1, string_agg(md5(i::text), ''), 0 FROM generate_series(1, 900) i;
             UPDATE doc SET n = 1; UPDATE doc SET body = left(body, 20000)",
        )
        .await
        .unwrap();
    let found = lines(&client, "SELECT action, (SELECT string_agg(k, ',') FROM jsonb_object_keys(new_values) k), length(new_values ->> 'body') FROM steward.audit_logs WHERE source = 'trigger' ORDER BY created_at").await;
    assert_eq!(found, ["insert | n,id,body | 28800", "update | n | -", "update | body | 20000"]);
}

#[tokio::test]
async fn sixteen_hundred_columns() {
    let place = begun().await;
    let client = place.client().await;
    let columns: Vec<String> = (1..1600).map(|n| format!("c{n} int DEFAULT {n}")).collect();
    client.batch_execute(&format!("CREATE TABLE wide (id int PRIMARY KEY, {}); SELECT steward.audit_table('wide'); INSERT INTO wide (id) VALUES (1); UPDATE wide SET c1599 = 0", columns.join(", "))).await.unwrap();
    let found = lines(&client, "SELECT (SELECT count(*) FROM jsonb_object_keys(new_values)), new_values -> 'c1599', old_values -> 'c1599' FROM steward.audit_logs WHERE source = 'trigger' ORDER BY created_at").await;
    assert_eq!(found, ["1600 | 1599 | -", "1 | 0 | 1599"]);
}

#[tokio::test]
async fn partitions_are_seen_by_whatever_name_a_statement_says() {
    let place = begun().await;
    let client = place.client().await;
    client
        .batch_execute(
            "CREATE TABLE part (id int, k text, v int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
             CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
             CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b', 'c') PARTITION BY LIST (k);
             CREATE TABLE part_bb PARTITION OF part_b FOR VALUES IN ('b');
             SELECT steward.audit_table('part');
             INSERT INTO part VALUES (1, 'a', 0), (2, 'b', 0);
             INSERT INTO part_a VALUES (3, 'a', 0);
             UPDATE part SET v = 1 WHERE id = 2;
             UPDATE part_bb SET v = 2;
             UPDATE part SET k = 'b' WHERE id = 3;
             DELETE FROM part_b WHERE id = 2;
             TRUNCATE part_a",
        )
        .await
        .unwrap();
    let found = lines(&client, TRAIL).await;
    let wanted = [
        r#"insert | public.part | 1/a | - | {"k": "a", "v": 0, "id": 1} | -"#,
        r#"insert | public.part | 2/b | - | {"k": "b", "v": 0, "id": 2} | -"#,
        r#"insert | public.part | 3/a | - | {"k": "a", "v": 0, "id": 3} | {"relation": "public.part_a"}"#,
        r#"update | public.part | 2/b | {"v": 0} | {"v": 1} | -"#,
        r#"update | public.part | 2/b | {"v": 1} | {"v": 2} | {"relation": "public.part_bb"}"#,
        // It moves to another partition.
        r#"update | public.part | 3/a | {"k": "a"} | {"k": "b"} | -"#,
        r#"delete | public.part | 2/b | {"k": "b", "v": 2, "id": 2} | - | {"relation": "public.part_b"}"#,
        r#"truncate | public.part | - | - | - | {"relation": "public.part_a"}"#,
    ];
    assert_eq!(found, wanted);
    // A partition that comes later is a gap until audit_table takes it in.
    client
        .batch_execute("CREATE TABLE part_bc PARTITION OF part_b FOR VALUES IN ('c')")
        .await
        .unwrap();
    let gaps = "SELECT DISTINCT table_name, relation, problem FROM steward.audit_gaps()";
    assert_eq!(lines(&client, gaps).await, ["public.part | public.part_bc | missing"]);
    client
        .batch_execute("SELECT steward.audit_table('part'); INSERT INTO part_bc VALUES (9, 'c', 0)")
        .await
        .unwrap();
    assert_eq!(lines(&client, gaps).await, Vec::<String>::new());
    assert_eq!(lines(&client, TRAIL).await.len(), wanted.len() + 1);
    client
        .batch_execute(
            "SELECT steward.unaudit_table('part'); INSERT INTO part_a VALUES (10, 'a', 0)",
        )
        .await
        .unwrap();
    assert_eq!(lines(&client, TRAIL).await.len(), wanted.len() + 1);
}

#[tokio::test]
async fn tables_that_inherit_are_seen_by_both_names() {
    let place = begun().await;
    let client = place.client().await;
    client
        .batch_execute(
            "CREATE TABLE animal (id int PRIMARY KEY, name text); CREATE TABLE cat (lives int) INHERITS (animal);
             SELECT steward.audit_table('animal');
             INSERT INTO cat VALUES (1, 'tom', 9); UPDATE animal SET name = 'tim'; UPDATE cat SET lives = 8; DELETE FROM animal",
        )
        .await
        .unwrap();
    let wanted = [
        r#"insert | public.animal | 1 | - | {"id": 1, "name": "tom", "lives": 9} | {"relation": "public.cat"}"#,
        r#"update | public.animal | 1 | {"name": "tom"} | {"name": "tim"} | -"#,
        r#"update | public.animal | 1 | {"lives": 9} | {"lives": 8} | {"relation": "public.cat"}"#,
        // The statement named the parent, and sees its columns.
        r#"delete | public.animal | 1 | {"id": 1, "name": "tim"} | - | -"#,
    ];
    assert_eq!(lines(&client, TRAIL).await, wanted);
}

#[tokio::test]
async fn row_security_hides_nothing_from_the_trail() {
    let mut place = begun().await;
    let role = place.database.role("app", "").await;
    place
        .client()
        .await
        .batch_execute(&format!(
            "CREATE TABLE mine (id int PRIMARY KEY, owner text, v int); ALTER TABLE mine ENABLE ROW LEVEL SECURITY; ALTER TABLE mine FORCE ROW LEVEL SECURITY;
             CREATE POLICY writes ON mine USING (owner = current_user) WITH CHECK (true);
             SELECT steward.audit_table('mine'); GRANT SELECT, INSERT, UPDATE ON mine TO {0}",
            role.name
        ))
        .await
        .unwrap();
    let app = super::connect(&role.url).await.unwrap();
    app.batch_execute("INSERT INTO mine VALUES (1, 'another', 0); INSERT INTO mine VALUES (2, current_user, 0); UPDATE mine SET v = 1, owner = 'another'").await.unwrap();
    assert_eq!(app.number("SELECT count(*) FROM mine").await, 0);
    let found = lines(&place.client().await, "SELECT action, resource_id, actor = session_user_name FROM steward.audit_logs WHERE source = 'trigger' ORDER BY created_at, id").await;
    assert_eq!(found, ["insert | 1 | t", "insert | 2 | t", "update | 2 | t"]);
    // And it may do nothing to the trail itself.
    for sql in [
        "INSERT INTO steward.audit_logs (action, source) VALUES ('x', 'trigger')",
        "DELETE FROM steward.audit_logs",
        "UPDATE steward.audit_logs SET actor = ''",
        "SELECT steward.unaudit_table('mine')",
        "ALTER TABLE mine DISABLE TRIGGER ALL",
    ] {
        assert_eq!(refused(&app, sql).await.0, "42501", "{sql}");
    }
}

#[tokio::test]
async fn triggers_that_are_disabled_dropped_or_gone_are_named() {
    let place = begun().await;
    let client = place.client().await;
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); SELECT steward.audit_table('a'); SELECT steward.audit_table('b')").await.unwrap();
    let gaps = "SELECT table_name, trigger_name, problem FROM steward.audit_gaps() ORDER BY 1, 2";
    assert_eq!(lines(&client, gaps).await, Vec::<String>::new());
    client
        .batch_execute(
            "ALTER TABLE a DISABLE TRIGGER steward_audit_update; ALTER TABLE a ENABLE TRIGGER steward_audit_insert; DROP TRIGGER steward_audit_delete ON a; DROP TABLE b",
        )
        .await
        .unwrap();
    let wanted = [
        "public.a | steward_audit_delete | missing",
        "public.a | steward_audit_insert | not always",
        "public.a | steward_audit_update | disabled",
        "public.b | - | the table is gone",
    ];
    assert_eq!(lines(&client, gaps).await, wanted);
    let number = client
        .text("SELECT relation FROM steward.audit_gaps() WHERE table_name = 'public.b'")
        .await;
    client
        .batch_execute(&format!(
            "SELECT steward.unaudit_table('{number}'); SELECT steward.audit_table('a')"
        ))
        .await
        .unwrap();
    assert_eq!(lines(&client, gaps).await, Vec::<String>::new());
    client
        .batch_execute(
            "SELECT steward.audit_table('a', ignore => '{id}'); SELECT steward.unaudit_table('a')",
        )
        .await
        .unwrap();
    let acts = "SELECT action, resource_id, old_values, new_values FROM steward.audit_logs WHERE source = 'pgsteward' ORDER BY created_at";
    let wanted = [
        r#"audit.table_audited | public.a | - | {"ignore": [], "redact": []}"#,
        r#"audit.table_audited | public.b | - | {"ignore": [], "redact": []}"#,
        r#"audit.table_unaudited | public.b | {"ignore": [], "redact": []} | -"#,
        // Said again as it was, it is no act.
        r#"audit.table_audited | public.a | {"ignore": [], "redact": []} | {"ignore": ["id"], "redact": []}"#,
        r#"audit.table_unaudited | public.a | {"ignore": ["id"], "redact": []} | -"#,
    ];
    assert_eq!(lines(&client, acts).await, wanted);
}

#[tokio::test]
async fn who_owns_a_table_audits_it_without_owning_the_trail() {
    let mut place = begun().await;
    let role = place.database.role("dev", "").await;
    let owner = place.client().await;
    owner
        .batch_execute(&format!(
            "GRANT CREATE ON SCHEMA public TO {0};
             SELECT steward.let_audit('{0}');
             CREATE TABLE theirs (id int PRIMARY KEY)",
            role.name
        ))
        .await
        .unwrap();
    let dev = super::connect(&role.url).await.unwrap();
    dev.batch_execute(
        "CREATE TABLE own (id int PRIMARY KEY); SELECT steward.audit_table('own'); INSERT INTO own VALUES (1)",
    )
    .await
    .unwrap();
    assert_eq!(
        owner.number("SELECT count(*) FROM steward.audit_logs WHERE source = 'trigger'").await,
        1
    );
    let by = owner
        .text("SELECT actor FROM steward.audit_logs WHERE action = 'audit.table_audited'")
        .await;
    assert_eq!(by, role.name);
    for sql in [
        "SELECT steward.audit_table('theirs')",
        "SELECT steward.audit_register('theirs', '{}', '{}')",
        "SELECT steward.audit_unregister('theirs')",
    ] {
        assert_eq!(refused(&dev, sql).await.0, "42501", "{sql}");
    }
    // What is not so is not written down.
    assert_eq!(refused(&dev, "SELECT steward.audit_unregister('own')").await.0, "55000");
    dev.batch_execute("DROP TRIGGER steward_audit_update ON own").await.unwrap();
    assert_eq!(refused(&dev, "SELECT steward.audit_register('own', '{}', '{}')").await.0, "55000");
    dev.batch_execute("SELECT steward.unaudit_table('own')").await.unwrap();
}

#[tokio::test]
async fn many_events_in_one_call_are_all_or_none() {
    let place = begun().await;
    let client = place.client().await;
    let ids = client.text(r#"SELECT set_config('steward.request_id', 'r7', false); "#).await;
    assert_eq!(ids, "r7");
    let count = client
        .number(
            r#"SELECT cardinality(steward.log_audit_events('[
                {"action": "a", "user_id": "u1", "ip_address": "192.0.2.1", "details": {"x": 1}, "new_values": null},
                {"action": " b ", "ip_address": "nonsense", "details": [1], "request_id": "own"},
                {"action": "c", "old_values": {"k": "v"}, "user_agent": "ua"}]'))"#,
        )
        .await;
    assert_eq!(count, 3);
    let found = lines(&client, "SELECT action, user_id, host(ip_address), request_id, old_values, new_values, details FROM steward.audit_logs ORDER BY id").await;
    let wanted = [
        r#"a | u1 | 192.0.2.1 | r7 | - | - | {"x": 1}"#,
        r#"b | - | - | own | - | - | {"details": [1], "ip_address": "nonsense"}"#,
        r#"c | - | - | r7 | {"k": "v"} | - | -"#,
    ];
    assert_eq!(found, wanted);
    assert_eq!(client.text("SELECT steward.log_audit_events('[]')").await, "{}");
    for (events, told) in [
        ("{}", "found object, wanted an array of events"),
        ("null", "found null, wanted an array of events"),
        (r#"[{"action": "a"}, 7]"#, "event 2 is no object"),
        (r#"[{"user_id": "u"}]"#, "event 1 has no action"),
        (r#"[{"action": "  "}]"#, "event 1 has an empty action"),
        (r#"[{"action": "a", "userid": "u"}]"#, "event 1 has the unknown key userid"),
    ] {
        let error = client
            .batch_execute(&format!("SELECT steward.log_audit_events('{events}')"))
            .await
            .unwrap_err();
        assert_eq!(error.as_db_error().unwrap().message(), format!("log_audit_events: {told}"));
    }
    let many = "SELECT steward.log_audit_events((SELECT jsonb_agg('{\"action\": \"a\"}'::jsonb) FROM generate_series(1, 10001)))";
    assert_eq!(refused(&client, many).await.0, "54000");
    assert_eq!(client.number("SELECT count(*) FROM steward.audit_logs").await, 3);
}

#[tokio::test]
async fn what_the_set_zentry_keeps_is_audited() {
    let place = Place::migrated().await;
    let client = place.client().await;
    let audited = "SELECT table_name, ignored, redacted FROM steward.audited_tables ORDER BY 1";
    let wanted = [
        "public.billing_records | {updated_at} | {}",
        "public.projects | {updated_at} | {}",
        "public.users | {last_login_at,updated_at} | {api_key_hash,password_hash}",
        "public.vms | {updated_at} | {}",
    ];
    assert_eq!(lines(&client, audited).await, wanted);
    assert_eq!(lines(&client, "SELECT * FROM steward.audit_gaps()").await, Vec::<String>::new());
}
