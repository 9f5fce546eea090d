//! Section markers of other migration tools.
//!
//! Many tools keep both directions of a migration in one file and divide it with comments.
//! PostgreSQL ignores comments, so such a file would run both halves: create a table, then drop
//! it. These formats are not supported yet, so a file that has a marker is refused before anything
//! runs.
//!
//! A marker is a `--` comment that begins its line. Text in strings and block comments never
//! counts, although some of the tools, which read lines and not SQL, would find a marker there.

use squawk_lexer::{TokenKind, tokenize};

use crate::sql;

/// What a file of pgsteward's own format does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// A marker in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// 1-based.
    pub line: usize,
    pub tool: &'static str,
    /// The comment, shortened.
    pub comment: String,
}

/// What may follow a marker's text.
#[derive(Clone, Copy)]
enum Rest {
    Nothing,
    /// Nothing, or white space and anything.
    Options,
    Anything,
}

/// How sure a comment is to be a marker.
#[derive(Clone, Copy)]
enum Counts {
    Always,
    /// The marker is plain words that may head any file. It counts only between statements, in a
    /// file of this direction, which is the opposite of the marker's.
    Between(Direction),
}

struct Marker {
    tool: &'static str,
    /// In lower case, as [`normalize`] returns it.
    text: &'static str,
    rest: Rest,
    counts: Counts,
}

const fn marker(tool: &'static str, text: &'static str, rest: Rest, counts: Counts) -> Marker {
    Marker { tool, text, rest, counts }
}

/// Case, spaces and framing dashes are ignored for every tool, although some of them are stricter.
const MARKERS: &[Marker] = &[
    marker("dbmate", "migrate:up", Rest::Options, Counts::Always),
    marker("dbmate", "migrate:down", Rest::Options, Counts::Always),
    marker("goose", "+goose", Rest::Options, Counts::Always),
    marker("sql-migrate", "+migrate", Rest::Options, Counts::Always),
    marker("micrate", "+micrate", Rest::Options, Counts::Always),
    marker("rambler", "rambler up", Rest::Nothing, Counts::Always),
    marker("rambler", "rambler down", Rest::Nothing, Counts::Always),
    // Liquibase reads `--changeset` and `--rollback` only in a file that has this header.
    marker("Liquibase", "liquibase formatted", Rest::Options, Counts::Always),
    marker("Atlas", "atlas:txtar", Rest::Options, Counts::Always),
    marker("tern", "create above / drop below", Rest::Options, Counts::Always),
    marker("Play Evolutions", "!ups", Rest::Anything, Counts::Always),
    marker("Play Evolutions", "!downs", Rest::Anything, Counts::Always),
    marker("MyBatis Migrations", "@undo", Rest::Options, Counts::Always),
    marker("Migrondi", "migrondi:", Rest::Anything, Counts::Always),
    marker("node-pg-migrate", "up migration", Rest::Anything, Counts::Between(Direction::Down)),
    marker("node-pg-migrate", "down migration", Rest::Anything, Counts::Between(Direction::Up)),
    marker("shmig", "up", Rest::Nothing, Counts::Between(Direction::Down)),
    marker("shmig", "down", Rest::Nothing, Counts::Between(Direction::Up)),
];

impl Marker {
    fn matches(&self, text: &str, between: bool, direction: Direction) -> bool {
        let Some(rest) = text.strip_prefix(self.text) else { return false };
        let rest = match self.rest {
            Rest::Nothing => rest.is_empty(),
            Rest::Options => rest.is_empty() || rest.starts_with(' '),
            Rest::Anything => true,
        };
        rest && match self.counts {
            Counts::Always => true,
            Counts::Between(opposite) => between && opposite == direction,
        }
    }
}

/// Returns the first marker in a file of the given direction.
pub fn find(script: &str, direction: Direction) -> Option<Found> {
    let script = sql::without_mark(script);
    let (mut offset, mut alone, mut between) = (0, true, true);
    for token in tokenize(script) {
        let text = &script[offset..offset + token.len as usize];
        match token.kind {
            TokenKind::Whitespace => alone |= text.contains(['\n', '\r']),
            TokenKind::LineComment => {
                let normalized = normalize(text);
                let matches = |marker: &&Marker| marker.matches(&normalized, between, direction);
                if alone && let Some(marker) = MARKERS.iter().find(matches) {
                    return Some(Found {
                        line: sql::line_of(script, offset),
                        tool: marker.tool,
                        comment: sql::first_line(text),
                    });
                }
            }
            kind => {
                alone = false;
                if !matches!(kind, TokenKind::BlockComment { .. }) {
                    between = kind == TokenKind::Semi;
                }
            }
        }
        offset += token.len as usize;
    }
    None
}

/// The words of a comment in lower case, one space apart, without the rules that frame them.
fn normalize(comment: &str) -> String {
    let words: Vec<&str> = comment.split_whitespace().collect();
    let text = words.join(" ").to_lowercase();
    let text = text.trim_start_matches(['-', '=', '/', ' ']);
    text.trim_end_matches(['-', '=', ' ']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Down, Up};

    #[test]
    fn every_tool_s_markers_are_found() {
        for (tool, direction, comments) in [
            (
                "dbmate",
                Up,
                &[
                    "-- migrate:up",
                    "--migrate:up",
                    "--  \tmigrate:down  ",
                    "-- migrate:up transaction:false",
                    "-- migrate:down\r",
                ] as &[&str],
            ),
            (
                "goose",
                Up,
                &[
                    "-- +goose Up",
                    "--+goose down",
                    "-- +goose  StatementBegin",
                    "-- +goose StatementEnd",
                    "-- +goose NO TRANSACTION",
                    "-- +goose ENVSUBST ON",
                ],
            ),
            (
                "sql-migrate",
                Up,
                &["-- +migrate Up", "-- +migrate Down notransaction", "-- +migrate StatementBegin"],
            ),
            ("micrate", Up, &["-- +micrate Up", "-- +micrate Down"]),
            ("rambler", Up, &["-- rambler up", "-- rambler down"]),
            ("Liquibase", Up, &["--liquibase formatted sql", "-- liquibase formatted SQL"]),
            ("Atlas", Up, &["-- atlas:txtar"]),
            ("tern", Up, &["---- create above / drop below ----"]),
            ("Play Evolutions", Up, &["-- !Ups", "--- !Downs", "-- !Ups adds users"]),
            ("MyBatis Migrations", Up, &["-- //@UNDO", "--//@UNDO", "-- @UNDO"]),
            (
                "Migrondi",
                Up,
                &["-- MIGRONDI:NAME=a.sql", "-- ---------- MIGRONDI:DOWN:1593 ----------"],
            ),
            (
                "node-pg-migrate",
                Up,
                &["-- Down Migration", "  --- down   migration of users", "-- DOWN MIGRATIONS"],
            ),
            ("node-pg-migrate", Down, &["-- Up Migration"]),
            ("shmig", Up, &["-- ==== DOWN ====", "-- Down", "--down"]),
            ("shmig", Down, &["-- ====  UP  ===="]),
        ] {
            for comment in comments {
                let found = find(&format!("SELECT 1;\n{comment}\nSELECT 2;\n"), direction);
                let found = found.map(|found| (found.line, found.tool, found.comment));
                let expected = (2, tool, comment.trim().to_owned());
                assert_eq!(found, Some(expected), "{comment:?}");
            }
        }
    }

    #[test]
    fn the_first_marker_counts_also_behind_a_byte_order_mark() {
        let found = find("\u{feff}-- migrate:up\r\nSELECT 1;\r\n-- migrate:down\r\n", Up).unwrap();
        assert_eq!((found.line, found.comment.as_str()), (1, "-- migrate:up"));
    }

    #[test]
    fn prose_strings_and_trailing_comments_are_no_markers() {
        for (script, direction) in [
            ("-- migrate: upwards of 3 rows", Up),
            ("-- migrate:upwards", Up),
            ("-- run migrate:up first", Up),
            ("-- see migrate:down", Up),
            ("-- goose Up", Up),
            ("-- +gooseberry", Up),
            ("-- rambler updates", Up),
            ("-- rambler up the hill", Up),
            ("-- liquibase is not used here", Up),
            ("-- rollback: drop the table by hand", Up),
            ("-- changeset 12", Up),
            ("-- atlas:nolint", Up),
            ("-- create above", Up),
            ("-- set up migration helpers", Down),
            ("-- downmigration", Up),
            ("-- down the road", Up),
            ("-- down: by hand", Up),
            ("-- upper bound", Down),
            // What a file of this direction may be headed with.
            ("-- Up Migration\nSELECT 1", Up),
            ("-- Down Migration\nSELECT 1", Down),
            ("-- ==== UP ====\nSELECT 1", Up),
            ("-- Down\nSELECT 1", Down),
            // Inside a statement.
            ("CREATE TYPE way AS ENUM (\n  -- up\n  'up',\n  -- down\n  'down'\n);", Up),
            ("SELECT 1; -- migrate:down", Up),
            ("SELECT '\n-- migrate:down\n';", Up),
            ("SELECT E'\\'\n-- +goose Down\n';", Up),
            ("SELECT \"\n-- +goose Down\n\";", Up),
            ("DO $$\n-- migrate:down\nBEGIN END $$;", Up),
            ("/*\n-- migrate:down\n/* nested */\n-- +goose Down\n*/", Up),
            ("/* migrate:down */", Up),
        ] {
            assert_eq!(find(script, direction), None, "{script:?}");
        }
    }
}
