//! Which metrics and labels an expression names. Not a parser of PromQL (promtool checks the
//! grammar): words, strings and brackets are enough to tell them apart.

use std::collections::BTreeSet;

/// What one expression names.
#[derive(Debug, Default, PartialEq)]
pub struct Named {
    pub selectors: Vec<Selector>,
    /// Labels in `by`, `on`, `without`, `ignoring` and `group_left`.
    pub grouped: BTreeSet<String>,
}

/// A metric with its matchers: label, operator, value.
#[derive(Debug, PartialEq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<(String, String, String)>,
}

const OPERATORS: [&str; 8] = ["and", "or", "unless", "offset", "bool", "start", "end", "atan2"];
const GROUPERS: [&str; 6] = ["by", "on", "without", "ignoring", "group_left", "group_right"];

/// Reads an expression that promtool accepts.
pub fn named(expression: &str) -> Named {
    let tokens = tokens(expression);
    let mut named = Named::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).map(String::as_str);
        let word = token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        at += 1;
        if GROUPERS.contains(&token.as_str()) {
            // Up to the closing bracket.
            while let Some(label) = tokens.get(at).filter(|token| *token != ")") {
                if label != "(" && label != "," {
                    named.grouped.insert(label.clone());
                }
                at += 1;
            }
        } else if word
            && next != Some("(")
            && !OPERATORS.contains(&token.as_str())
            && !aggregates(&tokens[at..])
        {
            let mut selector = Selector { metric: token.clone(), matchers: Vec::new() };
            if next == Some("{") {
                at += 1;
                while tokens[at] != "}" {
                    if tokens[at] == "," {
                        at += 1;
                        continue;
                    }
                    selector.matchers.push((
                        tokens[at].clone(),
                        tokens[at + 1].clone(),
                        tokens[at + 2].clone(),
                    ));
                    at += 3;
                }
            }
            named.selectors.push(selector);
        }
    }
    named
}

/// `sum by (…) (…)`: the word before is no metric. A metric is followed by `on` or `ignoring` only
/// after an operator.
fn aggregates(rest: &[String]) -> bool {
    rest.first().is_some_and(|next| next == "by" || next == "without")
}

fn tokens(expression: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        let mut token = c.to_string();
        let mut take = |wanted: fn(char) -> bool, token: &mut String| {
            while let Some(c) = chars.next_if(|c| wanted(*c)) {
                token.push(c);
            }
        };
        match c {
            '"' => {
                token.clear();
                take(|c| c != '"', &mut token);
                chars.next();
            }
            // A duration in brackets names nothing.
            '[' => {
                take(|c| c != ']', &mut token);
                chars.next();
                continue;
            }
            c if c.is_ascii_alphabetic() || c == '_' => {
                take(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':', &mut token);
            }
            // A number, or the duration of an offset.
            c if c.is_ascii_digit() => take(|c| c.is_ascii_alphanumeric() || c == '.', &mut token),
            '=' | '!' | '<' | '>' => take(|c| c == '=' || c == '~', &mut token),
            c if c.is_whitespace() => continue,
            _ => {}
        }
        tokens.push(token);
    }
    tokens
}

#[test]
fn names_are_found_where_promql_has_them() {
    let found = named(
        "sum by (a, b) (rate(x_total{c=~\"d|e\",f!=\"\"}[5m])) / on (a) group_left (g) y:z offset 1h > 1e9 \
         unless time() - max(w) > bool 5",
    );
    let metrics: Vec<&str> = found.selectors.iter().map(|s| s.metric.as_str()).collect();
    assert_eq!(metrics, ["x_total", "y:z", "w"]);
    let matcher = |l: &str, o: &str, v: &str| (l.to_owned(), o.to_owned(), v.to_owned());
    assert_eq!(found.selectors[0].matchers, [matcher("c", "=~", "d|e"), matcher("f", "!=", "")]);
    assert_eq!(found.grouped.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "g"]);
}
