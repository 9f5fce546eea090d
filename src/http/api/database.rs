//! `GET /health/database`: everything that is known about a database, from memory.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::http::health::HealthSummary;
use crate::http::response::ok;
use crate::http::{Context, HttpError, Response};

/// Returns the last measurements with their age. Answers while the database is unavailable, too.
pub fn database(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let database = context.database()?;
    let reading = database.board.read();
    let mut body = HealthSummary::new(database.db.name(), reading.clone()).members();
    let report = reading.report.as_deref();
    let server = report.and_then(|report| report.server.as_ref());
    let leadership = database.status.role();
    let pool: BTreeMap<&str, Value> = database
        .db
        .stats()
        .into_iter()
        .map(|(purpose, stats)| (purpose.as_str(), json!(stats)))
        .collect();
    let members = json!({
        "target": database.db.name(),
        "is_leader": leadership.observer,
        "leader": leadership.holder,
        "paused": leadership.paused,
        "server": server,
        "connections": server.map(|server| &server.connections),
        "replication": server.and_then(|server| server.replication.as_ref()),
        "pool": pool,
        "connect_ms": report.and_then(|report| report.connect_ms.as_ref()),
        "components": report.map(|report| report.components.as_slice()).unwrap_or_default(),
        "unavailable": report.map(|report| report.unavailable.as_slice()).unwrap_or_default(),
        "migrations": database.status.migrations.read(),
    });
    if let Value::Object(members) = members {
        body.extend(members);
    }
    Ok(ok(&body))
}
