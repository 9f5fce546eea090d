//! Where in a script a statement failed: by the server's position where there is one, else by counting
//! the statements that completed.

use tokio_postgres::error::ErrorPosition;

use super::{Statement, byte_of, first_line, line_of, statements};

/// 1-based, in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which statement of the script.
    pub number: usize,
    pub line: usize,
    pub column: usize,
    /// The statement's first line, shortened.
    pub statement: String,
}

/// Finds it. `before` is how many characters were sent in front of the script in the same message;
/// `completed` is how many of the script's statements completed, where that is known.
pub fn place(
    script: &str,
    before: usize,
    completed: Option<usize>,
    position: Option<&ErrorPosition>,
) -> Option<Place> {
    let statements = statements(script);
    let last = statements.last()?;
    let running = || statements.get(completed?);
    let offset = match position {
        Some(ErrorPosition::Original(position)) => {
            let offset =
                byte_of(script, (*position as usize).checked_sub(before).filter(|at| *at > 0)?);
            // Found only after the script: its last statement lacks something, a parenthesis say.
            if offset >= script.len() { last.offset } else { offset }
        }
        // In the body of a DO block or of a function: `query` is that text, or a statement within.
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
    Some(of_offset(script, &statements, at, offset))
}

/// Where a statement of the script begins.
pub fn place_of(script: &str, at: usize) -> Option<Place> {
    let statements = statements(script);
    let offset = statements.get(at)?.offset;
    Some(of_offset(script, &statements, at, offset))
}

fn of_offset(script: &str, statements: &[Statement<'_>], at: usize, offset: usize) -> Place {
    let line_start = script[..offset].rfind('\n').map_or(0, |at| at + 1);
    Place {
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
        place(SCRIPT, 10, completed, position).map(|place| (place.number, place.line, place.column))
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
            place_of(SCRIPT, 1).map(|place| place.statement),
            Some("DO $$ BEGIN".to_owned())
        );
    }
}
