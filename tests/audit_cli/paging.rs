//! Pages cover everything once, also where many events bear one time.

use std::collections::BTreeSet;

use crate::Trail;

const EVENTS: usize = 2_300;

async fn ids(trail: &Trail, filter: &str) -> Vec<String> {
    let sql =
        format!("SELECT id::text FROM steward.audit_logs WHERE {filter} ORDER BY created_at, id");
    trail.client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The ids of all pages of a list, as the cursors lead from one to the next.
fn paged(trail: &Trail, arguments: &[&str]) -> Vec<String> {
    let (mut ids, mut before) = (Vec::new(), None::<String>);
    loop {
        let cursor: Vec<&str> =
            before.iter().flat_map(|cursor| ["--before", cursor.as_str()]).collect();
        let said = trail.audit(&[&["list", "--json"], arguments, &cursor].concat()).succeeded();
        let page: Vec<serde_json::Value> = serde_json::from_str(&said.out).unwrap();
        ids.extend(page.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        let Some(next) = said.err.lines().find_map(|line| line.split_once("older: --before "))
        else {
            return ids;
        };
        assert!(before.as_deref() != Some(next.1), "it goes on: {said:?}");
        before = Some(next.1.to_owned());
    }
}

#[tokio::test]
async fn pages_cover_everything_once() {
    let trail = Trail::new().await;
    trail.fill(EVENTS).await;
    trail.fill(EVENTS).await;
    assert_eq!(
        trail.client.number("SELECT count(DISTINCT created_at) FROM steward.audit_logs").await,
        2
    );
    let all = ids(&trail, "true").await;
    let exported: Vec<String> = trail
        .audit(&["export"])
        .succeeded()
        .lines()
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(exported.len(), 2 * EVENTS);
    assert_eq!(exported.iter().collect::<BTreeSet<_>>().len(), 2 * EVENTS, "none twice");
    assert_eq!(exported, all, "in the order of time");

    let newest_first: Vec<String> = all.iter().rev().cloned().collect();
    assert_eq!(paged(&trail, &["--limit", "999"]), newest_first);
    // A page that is exactly full is the last, and names no older one.
    let one_time = trail.client.text("SELECT max(created_at)::text FROM steward.audit_logs").await;
    let theirs: Vec<String> =
        ids(&trail, &format!("created_at = '{one_time}' AND user_id = 'user-3'")).await;
    let theirs: Vec<String> = theirs.into_iter().rev().collect();
    let some = paged(&trail, &["--limit", &theirs.len().to_string(), "--user", "user-3"]);
    assert_eq!(some[..theirs.len()], theirs);
    assert_eq!(some.len(), ids(&trail, "user_id = 'user-3'").await.len());
}

#[tokio::test]
async fn partitions_and_the_default_one_are_read_in_one_order() {
    let trail = Trail::new().await;
    // From before any partition to behind the last.
    let sql = "
        INSERT INTO steward.audit_logs (created_at, source, action)
        SELECT now() + i * interval '1 hour', 'application', 'x' FROM generate_series(-3000, 6000, 5) i";
    trail.client.batch_execute(sql).await.unwrap();
    let count = "SELECT count(DISTINCT tableoid) FROM steward.audit_logs";
    assert!(trail.client.number(count).await > 3, "several partitions");
    let exported = trail.audit(&["export", "--until", "9999-12-31"]).succeeded().lines();
    let exported: Vec<&str> = exported.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(exported, ids(&trail, "true").await);
}
