//! What this connection can be asked: which views and functions exist, and which are open to us.
//!
//! Planned from what is there, not from version numbers: forks and managed servers keep the number
//! and drop the function.

use std::time::Duration;

use super::catalog::Part;
use super::snapshot::Unseen;
use crate::db::{Conn, Error, Kind, quote_ident, quote_literal};

/// What can be asked, and what cannot, with the reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    left_out: Vec<(Part, Unseen)>,
}

impl Capabilities {
    /// Asks in one round trip.
    pub(super) async fn read(
        conn: &Conn,
        statement_timeout: Duration,
    ) -> Result<Capabilities, Error> {
        let timeout_ms = statement_timeout.as_millis().clamp(1, i32::MAX as u128);
        let needs = Part::ALL
            .iter()
            .flat_map(|part| part.needs())
            .map(|need| format!("({})", quote_literal(need)));
        let sql = format!(
            "BEGIN READ ONLY; SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = {timeout_ms}; \
             SET LOCAL lock_timeout = 500;
             SELECT json_build_object(
                      'role', current_user,
                      'missing', coalesce(json_agg(DISTINCT need) FILTER (WHERE allowed IS NULL), '[]'),
                      'closed', coalesce(json_agg(DISTINCT need) FILTER (WHERE NOT allowed), '[]'))
               FROM (SELECT need,
                            CASE WHEN need LIKE '%(%' THEN has_function_privilege(to_regprocedure(need), 'EXECUTE')
                                 ELSE has_table_privilege(to_regclass(need), 'SELECT') END AS allowed
                       FROM (VALUES {}) AS needs (need)) AS checked;
             COMMIT",
            needs.collect::<Vec<_>>().join(", ")
        );
        match conn.batch_values("read capabilities", &sql).await {
            Ok(values) => match values.into_iter().next().flatten() {
                Some(json) => Capabilities::parse(&json),
                None => Err(Error::new(Kind::Protocol, "read capabilities: no answer")),
            },
            Err(error) => {
                if !error.kind().is_connection() {
                    let _ = conn.batch("roll back", "ROLLBACK").await;
                }
                Err(error)
            }
        }
    }

    fn parse(json: &str) -> Result<Capabilities, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            role: String,
            missing: Vec<String>,
            closed: Vec<String>,
        }
        let answer: Answer = serde_json::from_str(json)
            .map_err(|error| Error::with_source(Kind::Protocol, "read capabilities", error))?;
        let mut left_out = Vec::new();
        for part in Part::ALL.into_iter().filter(|part| !part.required()) {
            let lacks = |names: &[String]| {
                part.needs().iter().find(|need| names.iter().any(|n| n == *need)).copied()
            };
            if let Some(need) = lacks(&answer.missing) {
                left_out.push((
                    part,
                    Unseen::not_supported(part.as_str(), format!("this server has no {need}")),
                ));
            } else if let Some(need) = lacks(&answer.closed) {
                let what = if need.contains('(') { "EXECUTE ON FUNCTION" } else { "SELECT ON" };
                let mend =
                    format!("GRANT {what} pg_catalog.{need} TO {}", quote_ident(&answer.role));
                left_out.push((
                    part,
                    Unseen::not_permitted(part.as_str(), format!("no privilege on {need}"), mend),
                ));
            }
        }
        Ok(Capabilities { left_out })
    }

    /// The questions to ask, in their order.
    pub(super) fn parts(&self) -> Vec<Part> {
        Part::ALL
            .into_iter()
            .filter(|part| !self.left_out.iter().any(|(out, _)| out == part))
            .collect()
    }

    /// Does not ask again what the server refused.
    pub(super) fn leave_out(&mut self, part: Part, error: &Error) {
        tracing::info!(part = part.as_str(), error = %error, "the server does not answer this; left out");
        let unseen = if error.kind() == Kind::Permission {
            let mend = "GRANT to the role what the error names, or pg_monitor".to_owned();
            Unseen::not_permitted(part.as_str(), error.to_string(), mend)
        } else {
            Unseen::not_supported(part.as_str(), error.to_string())
        };
        self.left_out.push((part, unseen));
    }

    /// What is not asked for, and why.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &Unseen> {
        self.left_out.iter().map(|(_, unseen)| unseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_closed_is_left_out_with_what_mends_it() {
        let capabilities = Capabilities::parse(
            r#"{"role":"a\"b","missing":["pg_stat_wal_receiver"],"closed":["pg_stat_get_archiver()","pg_database"]}"#,
        )
        .unwrap();
        let parts = [Part::Server, Part::Sessions, Part::Slots, Part::Partitions];
        assert_eq!(capabilities.parts(), parts);
        let unseen: Vec<_> = capabilities.unseen().cloned().collect();
        assert_eq!(unseen[0].mend, r#"GRANT SELECT ON pg_catalog.pg_database TO "a""b""#);
        assert_eq!(unseen[1].code, "not_supported");
        assert_eq!(unseen[1].reason, "this server has no pg_stat_wal_receiver");
        assert_eq!(
            unseen[2].mend,
            r#"GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_get_archiver() TO "a""b""#
        );
    }

    #[test]
    fn a_required_part_is_always_asked_so_that_its_error_is_seen() {
        let capabilities =
            Capabilities::parse(r#"{"role":"r","missing":["pg_locks"],"closed":[]}"#).unwrap();
        assert_eq!(capabilities.parts(), Part::ALL);
    }
}
