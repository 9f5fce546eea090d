//! The lexical structure of SQL scripts, as far as migrations and jobs need it: where statements
//! begin and end, which of them cannot run in a transaction around the script, and whether two
//! scripts differ in anything but comments and white space.
//!
//! The tokens come from `squawk-lexer`. Nothing is parsed by a grammar, so nesting of any depth is
//! safe.

mod location;

pub use location::{SourceLocation, locate, locate_statement};

use squawk_lexer::{LiteralKind, TokenKind, tokenize};

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<'a> {
    /// From the first token to the last, without the semicolon.
    pub text: &'a str,
    /// Byte offset of `text` in the script.
    pub offset: usize,
    /// Its unquoted words in upper case, at most [`WORDS_MAX`].
    pub words: Vec<String>,
}

/// More words than any rule below checks.
const WORDS_MAX: usize = 24;

/// A part of a script that keeps it from running as one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// From 1.
    pub line: usize,
    pub reason: RefusalReason,
}

/// Why a statement cannot be sent as part of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// The statement begins or ends a transaction; with its first word.
    Transaction(String),
    /// A command of psql; with its first line.
    Psql(String),
    /// COPY through the client.
    ClientCopy,
    /// PostgreSQL refuses it inside a transaction; with its first line.
    OutsideOnly(String),
    /// A string, identifier or comment without an end.
    Unterminated(&'static str),
}

/// Splits a script into its statements. Semicolons in strings, comments, parentheses and
/// `BEGIN ATOMIC … END` bodies do not end one.
pub fn statements(script: &str) -> Vec<Statement<'_>> {
    let mut splitter = Splitter::default();
    let mut offset = 0;
    for token in tokenize(script) {
        let end = offset + token.len as usize;
        splitter.token(script, token.kind, offset, end);
        offset = end;
    }
    splitter.finish(script);
    splitter.done
}

#[derive(Default)]
struct Splitter<'a> {
    done: Vec<Statement<'a>>,
    start: Option<usize>,
    last_end: usize,
    words: Vec<String>,
    parens: usize,
    /// Open `BEGIN ATOMIC` (1) and the `CASE`s inside it.
    atomic: usize,
    previous: String,
}

impl<'a> Splitter<'a> {
    fn token(&mut self, script: &'a str, kind: TokenKind, start: usize, end: usize) {
        match kind {
            TokenKind::Whitespace
            | TokenKind::LineComment
            | TokenKind::BlockComment { .. }
            | TokenKind::Eof => return,
            TokenKind::Semi if self.parens == 0 && self.atomic == 0 => return self.finish(script),
            TokenKind::OpenParen => self.parens += 1,
            TokenKind::CloseParen => self.parens = self.parens.saturating_sub(1),
            TokenKind::Ident => self.word(script[start..end].to_ascii_uppercase()),
            _ => {}
        }
        if !matches!(kind, TokenKind::Ident) {
            self.previous.clear();
        }
        self.start.get_or_insert(start);
        self.last_end = end;
    }

    fn word(&mut self, word: String) {
        match word.as_str() {
            "ATOMIC"
                if self.previous == "BEGIN"
                    && self.words.first().is_some_and(|first| first == "CREATE") =>
            {
                self.atomic = 1;
            }
            "CASE" if self.atomic > 0 => self.atomic += 1,
            "END" if self.atomic > 0 => self.atomic -= 1,
            _ => {}
        }
        if self.words.len() < WORDS_MAX {
            self.words.push(word.clone());
        }
        self.previous = word;
    }

    fn finish(&mut self, script: &'a str) {
        if let Some(start) = self.start.take() {
            let text = &script[start..self.last_end];
            self.done.push(Statement {
                text,
                offset: start,
                words: std::mem::take(&mut self.words),
            });
        }
        self.parens = 0;
        self.atomic = 0;
        self.previous.clear();
    }
}

/// Finds everything in a script that keeps it from running as one transaction.
pub fn refusals(script: &str) -> Vec<Refusal> {
    let mut found: Vec<Refusal> = statements(script)
        .iter()
        .filter_map(|statement| {
            let reason = refusal(statement)?;
            Some(Refusal { line: line_of(script, statement.offset), reason })
        })
        .collect();
    if let Some((offset, part)) = unterminated(script) {
        let reason = RefusalReason::Unterminated(part);
        found.push(Refusal { line: line_of(script, offset), reason });
    }
    found
}

fn refusal(statement: &Statement<'_>) -> Option<RefusalReason> {
    let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
    let has = |word: &str| words.contains(&word);
    let ends_transaction = match words.as_slice() {
        ["ROLLBACK", "TO" | "WORK" | "TRANSACTION", ..] if has("TO") => false,
        ["BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] => true,
        ["START" | "PREPARE", "TRANSACTION", ..] => true,
        _ => false,
    };
    if ends_transaction {
        return Some(RefusalReason::Transaction(words[0].to_owned()));
    }
    if statement.text.starts_with('\\') {
        return Some(RefusalReason::Psql(first_line(statement.text)));
    }
    if words.first() == Some(&"COPY") && (has("STDIN") || has("STDOUT")) {
        return Some(RefusalReason::ClientCopy);
    }
    let outside_only = match words.as_slice() {
        ["VACUUM", ..] => true,
        ["CREATE" | "DROP" | "REINDEX", rest @ ..] if rest.contains(&"CONCURRENTLY") => true,
        ["ALTER", "TABLE", rest @ ..]
            if rest.contains(&"DETACH") && rest.contains(&"CONCURRENTLY") =>
        {
            true
        }
        ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] => true,
        ["REINDEX", rest @ ..]
            if rest.iter().any(|word| matches!(*word, "DATABASE" | "SYSTEM" | "SCHEMA")) =>
        {
            true
        }
        ["ALTER", "SYSTEM", ..] => true,
        ["CLUSTER"] => true,
        _ => false,
    };
    outside_only.then(|| RefusalReason::OutsideOnly(first_line(statement.text)))
}

/// Returns the first string, identifier or comment that is still open at the end, with its offset.
fn unterminated(script: &str) -> Option<(usize, &'static str)> {
    let mut offset = 0;
    for token in tokenize(script) {
        let what = match token.kind {
            TokenKind::BlockComment { terminated: false } => Some("a comment"),
            TokenKind::QuotedIdent { terminated: false, .. } => Some("a quoted identifier"),
            TokenKind::Literal {
                kind:
                    LiteralKind::Str { terminated: false }
                    | LiteralKind::EscStr { terminated: false }
                    | LiteralKind::UnicodeEscStr { terminated: false }
                    | LiteralKind::DollarQuotedString { terminated: false }
                    | LiteralKind::BitStr { terminated: false }
                    | LiteralKind::ByteStr { terminated: false },
            } => Some("a string"),
            _ => None,
        };
        if let Some(what) = what {
            return Some((offset, what));
        }
        offset += token.len as usize;
    }
    None
}

/// Whether a rollback script may remove or overwrite data, by its words: DROP TABLE, DROP COLUMN,
/// TRUNCATE … If in doubt, returns true.
pub fn loses_data(script: &str) -> bool {
    statements(script).iter().any(|statement| {
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["TRUNCATE" | "DELETE" | "UPDATE" | "MERGE" | "WITH", ..] => true,
            [
                "DROP",
                "TABLE" | "SCHEMA" | "SEQUENCE" | "TYPE" | "DOMAIN" | "EXTENSION" | "OWNED",
                ..,
            ] => true,
            ["ALTER", "TABLE", rest @ ..] => words.len() == WORDS_MAX || drops_column(rest),
            ["DO", ..] => true,
            _ => false,
        }
    })
}

/// Whether ALTER TABLE contains `DROP [COLUMN] name`, and not only drops of constraints, defaults
/// and the like. A quoted name is not one of the words, so that `DROP` may be the last of them.
fn drops_column(words: &[&str]) -> bool {
    words.last() == Some(&"DROP")
        || words.windows(2).any(|pair| {
            pair[0] == "DROP"
                && !matches!(pair[1], "CONSTRAINT" | "DEFAULT" | "NOT" | "IDENTITY" | "EXPRESSION")
        })
}

/// Removes the byte order mark that some editors write, because it is a syntax error to the server.
pub fn without_mark(script: &str) -> &str {
    script.strip_prefix('\u{feff}').unwrap_or(script)
}

/// Returns the tokens of a script without comments, and with one space wherever tokens are
/// separated: two scripts with equal fingerprints are the same SQL.
pub fn fingerprint(script: &str) -> String {
    let script = without_mark(script);
    let mut print = String::with_capacity(script.len());
    let mut offset = 0;
    let mut gap = false;
    for token in tokenize(script) {
        let text = &script[offset..offset + token.len as usize];
        offset += token.len as usize;
        match token.kind {
            TokenKind::Whitespace
            | TokenKind::LineComment
            | TokenKind::BlockComment { .. }
            | TokenKind::Eof => {
                gap = true;
            }
            _ => {
                if gap && !print.is_empty() {
                    print.push(' ');
                }
                print.push_str(text);
                gap = false;
            }
        }
    }
    print
}

/// Returns the line of a byte offset, from 1.
pub fn line_of(script: &str, offset: usize) -> usize {
    script.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Returns the byte offset of a character position, which the server counts from 1.
pub fn byte_of(script: &str, position: usize) -> usize {
    script.char_indices().nth(position.saturating_sub(1)).map_or(script.len(), |(at, _)| at)
}

/// Returns the first line of a statement, shortened for messages.
pub fn first_line(text: &str) -> String {
    const SHOWN_MAX: usize = 120;
    let line = text.lines().next().unwrap_or_default().trim_end();
    match line.char_indices().nth(SHOWN_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        statements(script).iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn semicolons_end_statements_only_where_they_are_syntax() {
        assert_eq!(texts("SELECT 1; -- a;b\n;;\nSELECT ';' /* ; */ ;"), ["SELECT 1", "SELECT ';'"]);
        assert_eq!(
            texts("DO $x$ BEGIN a; END $x$; SELECT 2"),
            ["DO $x$ BEGIN a; END $x$", "SELECT 2"]
        );
        assert_eq!(texts("CREATE RULE r AS ON INSERT TO t DO ALSO (a; b); SELECT 2").len(), 2);
        let atomic = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 \
            END; SELECT 2; END; SELECT 3";
        assert_eq!(texts(atomic).len(), 2);
        assert_eq!(texts("  \n -- nothing\n"), Vec::<&str>::new());
        assert_eq!(
            texts("SELECT E'it\\'s; fine'; SELECT U&'\\0061;'"),
            ["SELECT E'it\\'s; fine'", "SELECT U&'\\0061;'"]
        );
    }

    #[test]
    fn ends_of_the_transaction_are_refused_with_their_line() {
        for script in [
            "BEGIN",
            "start transaction",
            "COMMIT",
            "end",
            "ROLLBACK",
            "abort",
            "PREPARE TRANSACTION 'x'",
        ] {
            let found = refusals(&format!("SELECT 1;\n{script};\n"));
            assert_eq!(found.len(), 1, "{script}");
            assert_eq!(found[0].line, 2, "{script}");
        }
        for script in [
            "ROLLBACK TO SAVEPOINT a",
            "SAVEPOINT a",
            "SELECT 'COMMIT'",
            "-- COMMIT",
            "SELECT 1 AS \"COMMIT\"",
        ] {
            assert_eq!(refusals(script), [], "{script}");
        }
    }

    #[test]
    fn statements_that_refuse_a_transaction_are_refused() {
        for script in [
            "VACUUM t",
            "create unique index concurrently i on t (a)",
            "DROP INDEX CONCURRENTLY i",
            "REINDEX TABLE CONCURRENTLY t",
            "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
            "CREATE DATABASE d",
            "ALTER SYSTEM SET a = 1",
            "COPY t FROM STDIN",
            "COPY t TO STDOUT",
            "\\i other.sql",
            "SELECT 'open",
            "SELECT $a$ open",
            "/* open",
        ] {
            assert_eq!(refusals(script).len(), 1, "{script}");
        }
        assert_eq!(
            refusals("REFRESH MATERIALIZED VIEW CONCURRENTLY v; ALTER TYPE t ADD VALUE 'x'"),
            []
        );
    }

    #[test]
    fn fingerprints_ignore_comments_and_space_but_nothing_else() {
        let a = "CREATE TABLE a (id int);\nSELECT 1;\n";
        assert_eq!(
            fingerprint(a),
            fingerprint("-- licence\r\nCREATE  TABLE a (id int); /* x */ SELECT 1;")
        );
        assert_eq!(
            fingerprint(a),
            fingerprint("\u{feff}-- saved on Windows\r\nCREATE TABLE a (id int); SELECT 1;")
        );
        assert_ne!(fingerprint(a), fingerprint("CREATE TABLE a (id int);\nSELECT 2;\n"));
        assert_ne!(fingerprint("SELECT 'a b'"), fingerprint("SELECT 'a  b'"));
        assert_ne!(
            fingerprint("SELECT a-1"),
            fingerprint("SELECT a - 1"),
            "kept separate, because `--` would begin a comment"
        );
    }

    #[test]
    fn rollbacks_that_lose_data_are_known_by_their_words() {
        assert!(loses_data("DROP TABLE a"));
        assert!(loses_data("ALTER TABLE a DROP b"));
        assert!(loses_data("ALTER TABLE a DROP COLUMN IF EXISTS b"));
        assert!(loses_data("ALTER TABLE \"a\" DROP \"b\""));
        assert!(loses_data(
            "ALTER TABLE a ADD x int, ADD y int, ADD z int, ADD u int, ADD v int, ADD w int, DROP b"
        ));
        assert!(loses_data("UPDATE a SET b = NULL"));
        assert!(!loses_data(
            "ALTER TABLE a DROP CONSTRAINT b; DROP INDEX i; DROP FUNCTION f; DROP VIEW v"
        ));
    }

    #[test]
    fn positions_are_characters_not_bytes() {
        let script = "SELECT 'ä';\nSELEC 1";
        assert_eq!(&script[byte_of(script, 13)..], "SELEC 1");
        assert_eq!(line_of(script, byte_of(script, 13)), 2);
    }
}
