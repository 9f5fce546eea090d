//! `pgsteward check`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Exit, Selection, Session, bounded, print, print_json, say};
use crate::config::Config;
use crate::db::{Kind, Purpose, Route};
use crate::http::auth::Auth;
use crate::http::tls::Tls;
use crate::migrate;
use crate::telemetry::Metrics;
use crate::telemetry::log::chain;

/// For the answer of a server that let us in.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct Check {
    /// Connect to the database too, and say what it is
    #[arg(long)]
    connect: bool,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Serialize)]
struct Connected {
    database: String,
    /// The key that names it: `url` or `direct_url`.
    address: &'static str,
    server_version: String,
    pooler: bool,
    connect_ms: f64,
}

impl Check {
    pub async fn execute(self, session: Session) -> Exit {
        for warning in &session.loaded.warnings {
            say(&format!("warning: {warning}"));
        }
        // The files are part of what is configured.
        if let Err(error) = migrate::configured_sets(session.config()) {
            say(&error.to_string());
            return Exit::Config;
        }
        if let Err(told) = callers(session.config()).await {
            say(&told);
            return Exit::Config;
        }
        let connected = if self.connect {
            let opened = match session.open(&self.selection) {
                Ok(opened) => opened,
                Err(exit) => return exit,
            };
            let direct = session
                .config()
                .databases
                .get(opened.db.name())
                .is_some_and(|db| db.direct_url.is_some());
            let mut connected = Vec::new();
            for route in
                [Some(Route::Pooled), direct.then_some(Route::Direct)].into_iter().flatten()
            {
                match connect(&opened.db, route).await {
                    Ok(answer) => connected.push(answer),
                    Err(error) => {
                        say(&format!("database {}, {}: {error}", opened.db.name(), address(route)));
                        return Exit::Unavailable;
                    }
                }
            }
            connected
        } else {
            Vec::new()
        };
        report(&session, &connected);
        Exit::Ok
    }
}

/// Reads what callers are known by, and the listener's certificate, as the daemon will.
async fn callers(config: &Config) -> Result<(), String> {
    let auth = Auth::load(config).await.map_err(|error| chain(&error))?;
    for warning in auth.warnings() {
        say(&format!("warning: {warning}"));
    }
    if let Some(files) = config.http.tls() {
        let metrics = Metrics::new().map_err(|error| chain(&error))?;
        Tls::load(&files.cert, &files.key, &Arc::new(metrics))
            .await
            .map_err(|error| chain(&error))?;
    }
    Ok(())
}

/// The key of a route's address.
fn address(route: Route) -> &'static str {
    match route {
        Route::Pooled => "url",
        Route::Direct => "direct_url",
    }
}

async fn connect(db: &crate::db::Database, route: Route) -> Result<Connected, crate::db::Error> {
    let conn = db.connect(Purpose::Check, route).await?;
    let asked = conn.row("ask for the version", "SELECT current_setting('server_version')", &[]);
    let row = bounded("ask for the version", ANSWER_BOUND, asked).await?;
    let check = migrate::access::distrust(&conn);
    if let Some(reason) = bounded("check the schema", ANSWER_BOUND, check).await? {
        return Err(crate::db::Error::new(Kind::Permission, reason));
    }
    let timings = conn.timings();
    Ok(Connected {
        database: db.name().to_owned(),
        address: address(route),
        server_version: row.get(0),
        pooler: !conn.has_session_state(),
        connect_ms: (timings.dns + timings.tcp + timings.tls + timings.auth).as_secs_f64() * 1000.0,
    })
}

fn report(session: &Session, connected: &[Connected]) {
    let source = session.loaded.source.as_ref().map(|path| path.display().to_string());
    if session.json {
        print_json(&serde_json::json!({
            "ok": true,
            "file": source,
            "warnings": session.loaded.warnings,
            "connected": connected,
        }));
        return;
    }
    print(&format!(
        "configuration is valid ({})",
        source.as_deref().unwrap_or("no file; defaults and environment")
    ));
    for connected in connected {
        let pooler = if connected.pooler { ", behind a transaction pooler" } else { "" };
        print(&format!(
            "database {} answers at its {}: PostgreSQL {}{pooler}, connected in {:.1} ms",
            connected.database, connected.address, connected.server_version, connected.connect_ms
        ));
    }
}
