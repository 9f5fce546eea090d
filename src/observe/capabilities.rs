//! Determines which parts of a snapshot this connection can read: which views and functions exist,
//! and which of them this role may use.
//!
//! The decision comes from the catalog, not from version numbers: forks and managed servers keep
//! the version number and drop functions.

use std::time::Duration;

use super::catalog::{PARTS, Part};
use super::read_values;
use super::snapshot::Unavailable;
use crate::db::{Conn, Error, Kind, quote_ident, quote_literal};

/// The parts that cannot be read, each with its reason. All others can.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Capabilities {
    unavailable: Vec<Unavailable>,
}

impl Capabilities {
    /// Reads the capabilities in one round trip.
    pub async fn read(conn: &Conn, statement_timeout: Duration) -> Result<Capabilities, Error> {
        const WHAT: &str = "read capabilities";
        let needs: Vec<String> = PARTS
            .iter()
            .flat_map(|part| part.needs)
            .map(|need| format!("({})", quote_literal(need)))
            .collect();
        let sql = format!(
            "SELECT json_build_object(
               'role', current_user,
               'missing', coalesce(json_agg(DISTINCT need) FILTER (WHERE allowed IS NULL), '[]'),
               'denied', coalesce(json_agg(DISTINCT need) FILTER (WHERE NOT allowed), '[]'))
               FROM (SELECT need,
                            CASE WHEN need LIKE '%(%'
                                 THEN has_function_privilege(to_regprocedure(need), 'EXECUTE')
                                 ELSE has_table_privilege(to_regclass(need), 'SELECT')
                            END AS allowed
                       FROM (VALUES {}) AS needs (need)) AS checked",
            needs.join(", ")
        );
        let values = read_values(conn, WHAT, [sql].iter(), statement_timeout).await?;
        let json = values.into_iter().next().flatten().unwrap_or_default();
        Capabilities::parse(&json).map_err(|error| Error::with_source(Kind::Protocol, WHAT, error))
    }

    fn parse(json: &str) -> Result<Capabilities, serde_json::Error> {
        #[derive(serde::Deserialize)]
        struct Checked {
            role: String,
            missing: Vec<String>,
            denied: Vec<String>,
        }
        let checked: Checked = serde_json::from_str(json)?;
        let unavailable = |part: &Part| {
            let first_of = |names: &[String]| {
                part.needs.iter().find(|need| names.iter().any(|name| name == *need))
            };
            if let Some(need) = first_of(&checked.missing) {
                let reason = format!("this server has no {need}");
                return Some(Unavailable::not_supported(part.name, reason));
            }
            let need = first_of(&checked.denied)?;
            let privilege = if need.contains('(') { "EXECUTE ON FUNCTION" } else { "SELECT ON" };
            Some(Unavailable::not_permitted(
                part.name,
                format!("no privilege on {need}"),
                format!("GRANT {privilege} pg_catalog.{need} TO {}", quote_ident(&checked.role)),
            ))
        };
        let optional = PARTS.iter().filter(|part| !part.required);
        Ok(Capabilities { unavailable: optional.filter_map(unavailable).collect() })
    }

    /// The parts that can be read, in their order.
    pub fn parts(&self) -> impl Iterator<Item = &'static Part> {
        PARTS.iter().filter(|part| self.unavailable.iter().all(|out| out.what != part.name))
    }

    /// Excludes a part that the server refused.
    pub fn leave_out(&mut self, part: &Part, error: &Error) {
        tracing::info!(part = part.name, error = %error, "server refused a query, leaving it out");
        let reason = error.to_string();
        self.unavailable.push(if error.kind() == Kind::Permission {
            let remedy = "GRANT the role the privilege that the error names, or pg_monitor";
            Unavailable::not_permitted(part.name, reason, remedy.to_owned())
        } else {
            Unavailable::not_supported(part.name, reason)
        });
    }

    /// The excluded parts, with their reasons.
    pub fn unavailable(&self) -> &[Unavailable] {
        &self.unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_denied_is_left_out_with_its_remedy() {
        let capabilities = Capabilities::parse(
            r#"{"role": "a\"b", "missing": ["pg_stat_wal_receiver"],
                "denied": ["pg_stat_get_archiver()", "pg_database"]}"#,
        )
        .unwrap();
        let parts: Vec<&str> = capabilities.parts().map(|part| part.name).collect();
        assert_eq!(parts, ["server", "sessions", "replication slots", "partitions"]);
        let unavailable = capabilities.unavailable();
        assert_eq!(unavailable[0].remedy, r#"GRANT SELECT ON pg_catalog.pg_database TO "a""b""#);
        assert_eq!(unavailable[1].code, "not_supported");
        assert_eq!(unavailable[1].reason, "this server has no pg_stat_wal_receiver");
        assert_eq!(
            unavailable[2].remedy,
            r#"GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_get_archiver() TO "a""b""#
        );
    }

    #[test]
    fn a_required_part_is_always_read_so_that_its_error_is_reported() {
        let json = r#"{"role": "r", "missing": ["pg_locks"], "denied": []}"#;
        assert_eq!(Capabilities::parse(json).unwrap().parts().count(), PARTS.len());
    }
}
