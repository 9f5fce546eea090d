//! What is exported is what is in the trail, in both formats.

use std::io::Read as _;

use crate::Trail;
use crate::harness::{BOUND, wait_until};
use serde_json::{Map, Value};

/// Texts and JSON that formats trip over.
const HARD: &str = r#"
    INSERT INTO steward.audit_logs (created_at, action, user_id, actor, resource_type, resource_id, old_values, new_values,
                                    ip_address, user_agent, request_id, source, details)
    VALUES ('2026-11-01 00:00Z', 'plain', NULL, 'app', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'application', NULL),
           ('2026-11-01 00:00:00.000001Z', 'empty', '', '', '', '', '""', '{}', '::1', '', '', 'application', '[]'),
           ('2026-11-01 00:00:00.1Z', 'quotes', '"', 'a "b" c', 'x,y', '""', '{"a": "\"q\", b"}', 'null', '10.0.0.0/8',
            ',', '"",""', 'trigger', '"text"'),
           ('2026-11-01 00:00:01Z', 'lines', E'a\nb', E'a\r\nb', E'\r', E'\n', '{"a": "x\ny"}', NULL, '10.0.0.1', E'\t',
            E' lead and trail ', 'trigger', '{"tab": "\t", "bell": "\u0007"}'),
           ('2026-11-01 00:00:02Z', 'unicode', 'Zoë', '日本語', '🦀', E'\u0301e', '{"ключ": "значение 🦀"}', NULL, NULL,
            E'\u2028\u0085\u009b', E'\u202e', 'application', '{"": ""}'),
           ('2026-11-01 00:00:03Z', 'numbers', '007', '1e5', '-1', 'null', '12345678901234567890.123456789',
            '{"n": 123456789012345678901234567890.50, "deep": [[[[1]]]], "t": true, "z": null}', NULL, NULL, NULL,
            'pgsteward', '1e2')"#;

/// RFC 4180, by the letter: records of fields, of which those without quotes that are empty are null.
fn parse_csv(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut records, mut record) = (Vec::new(), Vec::new());
    let mut rest = text;
    while !rest.is_empty() {
        let field;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next().expect("a quote that ends the field") {
                    (_, '"') if chars.next_if(|(_, c)| *c == '"').is_some() => value.push('"'),
                    (at, '"') => break at + 1,
                    (_, c) => value.push(c),
                }
            };
            (field, rest) = (Some(value), &quoted[end..]);
        } else {
            let end = rest.find([',', '\r']).expect("the field ends");
            assert!(!rest[..end].contains(['"', '\n']), "{rest}");
            (field, rest) = ((end > 0).then(|| rest[..end].to_owned()), &rest[end..]);
        }
        record.push(field);
        if let Some(more) = rest.strip_prefix(',') {
            rest = more;
        } else {
            rest = rest.strip_prefix("\r\n").expect("a record ends with CR LF");
            records.push(std::mem::take(&mut record));
        }
    }
    records
}

#[tokio::test]
async fn both_formats_give_back_what_is_in_the_trail() {
    let trail = Trail::new().await;
    trail.client.batch_execute(HARD).await.unwrap();
    // The columns in the order of the table, each as text.
    let columns = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                    WHERE attrelid = 'steward.audit_logs'::regclass AND attnum > 0 AND NOT attisdropped";
    let columns = trail.client.text(columns).await;
    let names: Vec<&str> = columns.split(',').collect();
    let texts: Vec<String> = names
        .iter()
        .map(|name| match *name {
            "created_at" => {
                r#"to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#
                    .to_owned()
            }
            "ip_address" => "to_jsonb(ip_address) #>> '{}'".to_owned(),
            name => format!("{name}::text"),
        })
        .collect();
    let sql =
        format!("SELECT {} FROM steward.audit_logs ORDER BY created_at, id", texts.join(", "));
    let rows = trail.client.query(&sql, &[]).await.unwrap();
    let expected: Vec<Vec<Option<String>>> =
        rows.iter().map(|row| (0..names.len()).map(|column| row.get(column)).collect()).collect();
    assert_eq!((names.len(), expected.len()), (16, 6));

    let csv = trail.audit(&["export", "--format", "csv"]).succeeded();
    let mut records = parse_csv(&csv.out);
    let header: Vec<String> = records.remove(0).into_iter().flatten().collect();
    assert_eq!(header, names);
    // What a spreadsheet would take for a formula begins with an apostrophe.
    let shown = |text: &String| {
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            format!("'{text}")
        } else {
            text.clone()
        }
    };
    let told: Vec<Vec<Option<String>>> = expected
        .iter()
        .map(|row| row.iter().map(|text| text.as_ref().map(shown)).collect())
        .collect();
    assert_eq!(records, told);
    assert!(csv.err.contains(
        "6 events exported, from 2026-11-01T00:00:00.000000Z to 2026-11-01T00:00:03.000000Z"
    ));

    let ndjson = trail.audit(&["export"]).succeeded();
    for (line, row) in ndjson.out.lines().zip(&expected) {
        let object: Map<String, Value> = serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), 16);
        for (name, wanted) in names.iter().zip(row) {
            let is_json = matches!(*name, "old_values" | "new_values" | "details");
            match wanted {
                None => assert_eq!(object[*name], Value::Null, "{name}"),
                // As PostgreSQL wrote it, letter by letter.
                Some(json) if is_json => {
                    assert!(line.contains(&format!("\"{name}\":{json}")), "{json}: {line}");
                }
                Some(text) => assert_eq!(object[*name], Value::String(text.clone()), "{name}"),
            }
        }
    }
    assert_eq!(ndjson.out.lines().count(), 6);
}

#[tokio::test]
async fn an_empty_trail_is_a_header_or_nothing() {
    let trail = Trail::new().await;
    let said = trail.audit(&["export"]).succeeded();
    assert_eq!(said.out, "");
    assert!(said.err.contains("no event exported"), "{said:?}");
    assert_eq!(parse_csv(&trail.audit(&["export", "--format", "csv"]).succeeded().out).len(), 1);
    trail.fill(1).await;
    assert!(trail.audit(&["export"]).succeeded().err.contains("1 event exported, of 20"));
}

#[tokio::test]
async fn who_has_read_enough_ends_it_quietly() {
    let trail = Trail::new().await;
    // More than a pipe holds.
    trail.fill(3_000).await;
    for format in ["ndjson", "csv"] {
        let mut child = trail.start(&["export", "--format", format]);
        let mut pipe = child.stdout.take().unwrap();
        let mut some = [0; 1000];
        pipe.read_exact(&mut some).unwrap();
        drop(pipe);
        wait_until("the export ends", BOUND, async || child.try_wait().unwrap().is_some()).await;
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
    }
}
