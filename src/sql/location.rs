//! Locates the statement of a script that failed: by the server's position if there is one, or else
//! by counting the statements that completed.

use tokio_postgres::error::ErrorPosition;

use super::{Statement, byte_of, first_line, line_of, statements};

/// A location in a script. All numbers begin at 1; the column counts characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLocation {
    /// The number of the statement.
    pub number: usize,
    pub line: usize,
    pub column: usize,
    /// The statement's first line, shortened.
    pub statement: String,
}

/// Returns the location of a failure. `before` is the number of characters that were sent before
/// the script in the same message; `completed` is the number of its statements that completed, if
/// known.
pub fn locate(
    script: &str,
    before: usize,
    completed: Option<usize>,
    position: Option<&ErrorPosition>,
) -> Option<SourceLocation> {
    let statements = statements(script);
    let last = statements.last()?;
    let running = || statements.get(completed?);
    let offset = match position {
        Some(ErrorPosition::Original(position)) => {
            let offset =
                byte_of(script, (*position as usize).checked_sub(before).filter(|at| *at > 0)?);
            // At the end of the script: its last statement is incomplete.
            if offset >= script.len() { last.offset } else { offset }
        }
        // In the body of a DO block or function: `query` is the body, or a statement in it.
        Some(ErrorPosition::Internal { position, query }) => {
            let statement = running()?;
            let mut found = statement.text.match_indices(query.as_str());
            match (found.next(), found.next()) {
                (Some((at, _)), None) => statement.offset + at + byte_of(query, *position as usize),
                _ => statement.offset,
            }
        }
        None => running()?.offset,
    };
    let at = statements.iter().rposition(|statement| statement.offset <= offset)?;
    Some(at_offset(script, &statements, at, offset))
}

/// Returns the location at which a statement begins, by its index.
pub fn locate_statement(script: &str, at: usize) -> Option<SourceLocation> {
    let statements = statements(script);
    let offset = statements.get(at)?.offset;
    Some(at_offset(script, &statements, at, offset))
}

fn at_offset(
    script: &str,
    statements: &[Statement<'_>],
    at: usize,
    offset: usize,
) -> SourceLocation {
    let line_start = script[..offset].rfind('\n').map_or(0, |at| at + 1);
    SourceLocation {
        number: at + 1,
        line: line_of(script, offset),
        column: script[line_start..offset].chars().count() + 1,
        statement: first_line(statements[at].text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "SELECT 'ä';\n  DO $$ BEGIN\n    PERFORM 1 / 0;\nEND $$;\nSELECT (1";

    fn found(
        completed: Option<usize>,
        position: Option<&ErrorPosition>,
    ) -> Option<(usize, usize, usize)> {
        locate(SCRIPT, 10, completed, position).map(|at| (at.number, at.line, at.column))
    }

    #[test]
    fn by_the_servers_position_else_by_counting() {
        assert_eq!(found(None, Some(&ErrorPosition::Original(10 + 8))), Some((1, 1, 8)));
        assert_eq!(
            found(None, Some(&ErrorPosition::Original(10 + 15))),
            Some((2, 2, 3)),
            "characters, not bytes"
        );
        assert_eq!(
            found(None, Some(&ErrorPosition::Original(10 + 900))),
            Some((3, 5, 1)),
            "at its end"
        );
        assert_eq!(found(Some(1), Some(&ErrorPosition::Original(10))), None, "before the script");
        let inside = ErrorPosition::Internal { position: 1, query: "PERFORM 1 / 0".to_owned() };
        assert_eq!(found(Some(1), Some(&inside)), Some((2, 3, 5)));
        let elsewhere = ErrorPosition::Internal { position: 1, query: "SELECT 1 / 0".to_owned() };
        assert_eq!(
            found(Some(1), Some(&elsewhere)),
            Some((2, 2, 3)),
            "in a function: the statement that called it"
        );
        assert_eq!(found(Some(2), None), Some((3, 5, 1)));
        assert_eq!(found(Some(3), None), None, "all had completed");
        assert_eq!(
            locate_statement(SCRIPT, 1).map(|at| at.statement),
            Some("DO $$ BEGIN".to_owned())
        );
    }
}
