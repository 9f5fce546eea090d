//! What the enabled jobs will not be permitted, looked up once at start.

use crate::config::{Builtin, Config, Mode, SqlWork, Work};
use crate::db::{Conn, Error};
use crate::observe::privileges::{self, MissingPrivilege};
use crate::sets::Manifest;

/// Everything that is lacking, each with what mends it. Changes nothing.
pub async fn lacks(
    conn: &Conn,
    config: &Config,
    sets: &[&Manifest],
) -> Result<Vec<MissingPrivilege>, Error> {
    let enabled = |job| config.mode == Mode::Maintain && config.jobs.enabled(job).is_some();
    let mut lacks = privileges::measurements(conn).await?;
    if enabled(Builtin::Vacuum) {
        lacks.extend(privileges::vacuum(conn, &config.vacuum.schemas_exclude).await?);
    }
    if enabled(Builtin::Refresh) {
        let views = super::refresh::configured(config, sets);
        let views: Vec<String> = views.into_iter().map(str::to_owned).collect();
        lacks.extend(privileges::refresh(conn, &views).await?);
    }
    if enabled(Builtin::Retention) {
        let tables: Vec<String> = config.retention.tables.keys().cloned().collect();
        lacks.extend(privileges::retention(conn, &tables).await?);
    }
    let roles: Vec<(String, String)> = config
        .jobs
        .all
        .iter()
        .filter(|(_, job)| job.is_active(config.mode))
        .filter_map(|(name, job)| match &job.work {
            Work::Sql(SqlWork { role: Some(role), login: None, .. }) => {
                Some((name.as_str().to_owned(), role.clone()))
            }
            _ => None,
        })
        .collect();
    if !roles.is_empty() {
        lacks.extend(privileges::roles(conn, &roles).await?);
    }
    Ok(lacks)
}
