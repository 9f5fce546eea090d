//! The table, and what of it reaches a terminal.

use crate::Trail;

#[tokio::test]
async fn the_table_tells_who_did_what_to_what() {
    let trail = Trail::new().await;
    let sql = "
        CREATE TABLE public.item (id int PRIMARY KEY, name text, n int);
        SELECT steward.audit_table('public.item');
        TRUNCATE steward.audit_logs;
        SET steward.user_id = 'user-7'; SET steward.ip = '10.0.0.7';
        INSERT INTO public.item VALUES (1, 'a', 5);
        UPDATE public.item SET name = 'b', n = NULL;
        DELETE FROM public.item;
        RESET steward.user_id; RESET steward.ip;
        SELECT steward.log_audit_event('report.sent', details => '{\"to\": \"board\"}')";
    trail.client.batch_execute(sql).await.unwrap();
    let said = trail.audit(&["list"]).succeeded();
    let lines: Vec<Vec<&str>> = said
        .out
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
        .collect();
    let without_time: Vec<Vec<&str>> =
        lines.iter().map(|cells| cells[1..].iter().map(|cell| cell.trim()).collect()).collect();
    assert_eq!(
        without_time,
        [
            vec!["who", "action", "resource", "ip", "what"],
            vec!["postgres", "report.sent", r#"{"to": "board"}"#],
            vec![
                "user-7",
                "delete",
                "public.item/1",
                "10.0.0.7",
                r#"was id: 1, n: null, name: "b""#
            ],
            vec![
                "user-7",
                "update",
                "public.item/1",
                "10.0.0.7",
                r#"n: 5 → null, name: "a" → "b""#
            ],
            vec!["user-7", "insert", "public.item/1", "10.0.0.7", r#"id: 1, n: 5, name: "a""#],
        ],
        "{}",
        said.out
    );
    assert!(lines[1][0].ends_with(" UTC"), "{}", said.out);
}

#[tokio::test]
async fn nothing_that_a_terminal_obeys_gets_there() {
    let trail = Trail::new().await;
    let sql = r#"
        INSERT INTO steward.audit_logs (source, action, user_id, resource_type, resource_id, user_agent, new_values, details)
        SELECT 'application', 'a' || t, 'u' || t, 'r' || t, 'i' || t, 'g' || t, jsonb_build_object('k' || t, t), to_jsonb(t)
          FROM (VALUES (E'\u001b]0;owned\u0007\u009b31m\r\n\t\u007f\u202e\u2066')) v (t)"#;
    trail.client.batch_execute(sql).await.unwrap();
    let obeyed = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{2028}".contains(c));
    let table = trail.audit(&["list"]).succeeded();
    assert!(!table.out.contains(obeyed), "{:?}", table.out);
    assert!(
        table.out.contains("\\u001b]0;owned\\u0007\\u009b31m\\r\\n\\t\\u007f\\u202e"),
        "{}",
        table.out
    );
    assert_eq!(table.out.lines().count(), 2, "an event is one line: {}", table.out);

    let json = trail.audit(&["list", "--json"]).succeeded();
    assert!(!json.out.contains(obeyed), "{:?}", json.out);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&json.out).unwrap();
    let exported = trail.audit(&["export"]).succeeded().lines();
    assert_eq!(listed, exported, "and still says the same");
    assert!(listed[0]["user_id"].as_str().unwrap().contains('\u{1b}'));
}

#[tokio::test]
async fn a_line_is_bounded() {
    let trail = Trail::new().await;
    let sql = "
        INSERT INTO steward.audit_logs (source, action, user_id, resource_type, resource_id, new_values)
        SELECT 'application', repeat('a', 128), repeat('u', 256), repeat('r', 128), repeat('i', 512),
               jsonb_object_agg('key' || i, repeat('v', 500)) FROM generate_series(1, 50) i";
    trail.client.batch_execute(sql).await.unwrap();
    let said = trail.audit(&["list"]).succeeded();
    assert!(said.out.lines().all(|line| line.chars().count() <= 260), "{}", said.out);
    assert!(said.out.contains('…'), "{}", said.out);
}
