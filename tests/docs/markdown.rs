//! Markdown as far as this project's documents use it: fenced blocks, code spans, sections, links
//! and anchors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One Markdown file of the repository.
pub struct Document {
    /// Relative to the repository's root, as in `docs/jobs.md`.
    pub path: String,
    pub text: String,
}

/// A fenced block: its language, and its lines without their indentation.
pub struct Block {
    pub language: String,
    pub text: String,
}

/// A line outside fenced blocks, with its number from 1.
pub type ProseLine<'a> = (usize, &'a str);

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents for users: README.md, CONTRIBUTING.md, migrations/README.md and docs/*.md.
pub fn user_documents() -> Vec<Document> {
    let mut paths = vec![
        "README.md".to_owned(),
        "CONTRIBUTING.md".to_owned(),
        "migrations/README.md".to_owned(),
    ];
    let folder = fs::read_dir(root().join("docs")).expect("the folder docs exists");
    for entry in folder {
        let name = entry.expect("docs can be listed").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            paths.push(format!("docs/{name}"));
        }
    }
    paths.sort();
    paths.iter().map(|path| Document::read(path)).collect()
}

impl Document {
    /// Panics if the file does not exist: the tests name their documents.
    pub fn read(path: &str) -> Self {
        let text =
            fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("reading {path}: {e}"));
        Self { path: path.to_owned(), text }
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(language), None) => {
                    open = Some(Block { language: language.to_owned(), text: String::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => {
                    block.text.push_str(line.trim_start());
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a fenced block has no end", self.path);
        blocks
    }

    pub fn block_lines(&self, language: &str) -> Vec<String> {
        let blocks = self.blocks().into_iter().filter(|block| block.language == language);
        blocks.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    pub fn prose_lines(&self) -> Vec<ProseLine<'_>> {
        let mut inside = false;
        let mut lines = Vec::new();
        for (index, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                inside = !inside;
            } else if !inside {
                lines.push((index + 1, line));
            }
        }
        lines
    }

    /// The text of every code span outside fenced blocks.
    pub fn spans(&self) -> Vec<String> {
        spans_of(&self.prose())
    }

    /// The targets of all links outside fenced blocks and code spans.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let outside_spans: String = prose.split('`').step_by(2).collect();
        let targets = outside_spans.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// The anchors that GitHub gives to the headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let headings = self.prose_lines().into_iter().filter(|(_, line)| line.starts_with('#'));
        headings.map(|(_, line)| anchor(line.trim_start_matches('#').trim())).collect()
    }

    /// The lines below `## title`, down to the next heading of this or a higher level.
    pub fn section(&self, title: &str) -> String {
        let heading = format!("## {title}\n");
        let (_, rest) = self
            .text
            .split_once(&heading)
            .unwrap_or_else(|| panic!("{} has no section {title:?}", self.path));
        rest.split("\n## ").next().unwrap_or_default().to_owned()
    }

    fn prose(&self) -> String {
        self.prose_lines().into_iter().flat_map(|(_, line)| [line, "\n"]).collect()
    }
}

fn anchor(title: &str) -> String {
    let kept = title.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
}

pub fn spans_of(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// The words of a shell line, as far as the documents use quotes, up to a pipe, a redirection,
/// a comment or `&&`.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') if !word.is_empty() => words.push(std::mem::take(&mut word)),
            (None, ' ') => {}
            (None, _) => word.push(c),
        }
    }
    words.push(word);
    let end = words
        .iter()
        .position(|word| ["|", ">", "&&", "#", ""].contains(&word.as_str()))
        .unwrap_or(words.len());
    words.truncate(end);
    words
}

/// The file that a relative link names, from the repository's root, and the anchor within it.
pub fn resolve(document: &Document, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let own = Path::new(&document.path);
    if path.is_empty() {
        return (own.to_owned(), anchor);
    }
    let mut resolved = own.parent().map(Path::to_owned).unwrap_or_default();
    for part in path.split('/') {
        match part {
            ".." => assert!(resolved.pop(), "{}: {link} leaves the repository", document.path),
            "." => {}
            part => resolved.push(part),
        }
    }
    (resolved, anchor)
}
