//! `GET /health/database`: everything that is known of one database, from memory.

use serde_json::{Map, Value, json};

use crate::http::health::HealthSummary;
use crate::http::response::ok;
use crate::http::{Context, HttpError, Response};

/// As last measured, with its age; also while the database is away.
pub fn database(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let database = context.database()?;
    let reading = database.board.read();
    let summary = HealthSummary::new(database.db.name(), reading.clone());
    let report = reading.report.as_deref();
    let pool: Map<String, Value> = database
        .db
        .stats()
        .into_iter()
        .map(|(purpose, stats)| (purpose.as_str().to_owned(), json!(stats)))
        .collect();
    let role = database.status.role();
    let mut body = summary.members();
    let more = json!({
        "target": database.db.name(),
        "observer": role.observer,
        "observed_by": role.holder,
        "paused": role.paused,
        "server": report.and_then(|report| report.server.as_ref()),
        "connections": report.and_then(|report| report.server.as_ref()).map(|server| &server.connections),
        "replication": report.and_then(|report| report.server.as_ref()).and_then(|server| server.replication.as_ref()),
        "pool": pool,
        "connect_ms": report.and_then(|report| report.connect_ms.as_ref()),
        "components": report.map(|report| report.components.as_slice()).unwrap_or_default(),
        "unavailable": report.map(|report| report.unavailable.as_slice()).unwrap_or_default(),
        "migrations": database.status.migrations.read(),
    });
    if let Value::Object(more) = more {
        body.extend(more);
    }
    Ok(ok(&body))
}
