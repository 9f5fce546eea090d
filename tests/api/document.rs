//! The OpenAPI document is the table of routes.

use std::collections::BTreeMap;

use pgsteward::http::{Access, routes};
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(include_str!("../../src/http/openapi.json")).unwrap()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = document();
    let mut described = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let access = operation["x-access"].as_str().unwrap_or_default().to_owned();
            described.insert((path.clone(), method.to_uppercase()), access);
        }
    }
    let access = |access: Access| match access {
        Access::OptionalAuth => "details".to_owned(),
        access => access.as_str().to_owned(),
    };
    let routed: BTreeMap<_, _> = routes()
        .iter()
        .map(|r| ((r.path.to_owned(), r.method.to_string()), access(r.access)))
        .collect();
    assert_eq!(described, routed);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn operations_have_names_of_their_own_and_every_reference_leads_somewhere() {
    let document = document();
    let mut ids = std::collections::BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            assert!(
                ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
                "{}",
                operation["operationId"]
            );
            assert!(operation["responses"]["default"].is_object(), "{}", operation["operationId"]);
        }
    }
    let mut references = Vec::new();
    gather(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
}

fn gather(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| gather(value, into));
        }
        Value::Array(all) => all.iter().for_each(|value| gather(value, into)),
        _ => {}
    }
}

#[tokio::test]
async fn it_is_served() {
    let house = crate::House::open().await;
    assert_eq!(house.get("", "/openapi.json").await, document());
}
