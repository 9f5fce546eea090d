//! Percent-encoding, as far as paths and queries of ours need it.

/// The parameters of a query, decoded, in order. A name may occur more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// None when a percent sign is not followed by two hexadecimal digits, or the bytes are no UTF-8.
    pub fn parse(query: &str) -> Option<Query> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name, true)?, decode(value, true)?))
        });
        pairs.collect::<Option<Vec<_>>>().map(Query)
    }

    /// Whether a parameter occurs, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The first value of a parameter.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The names of the parameters, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Decodes `%XX`, and `+` as a space where a form says so.
pub fn decode(text: &str, form: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'%' => {
                let (pair, after) = tail.split_at_checked(2)?;
                let digit = |byte: u8| (byte as char).to_digit(16);
                bytes.push(u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?);
                rest = after;
            }
            b'+' if form => bytes.push(b' '),
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_is_encoded_and_refuses_what_is_not() {
        let table = [
            ("plain", false, Some("plain")),
            ("connected%3Amain", false, Some("connected:main")),
            ("a+b", true, Some("a b")),
            ("a+b", false, Some("a+b")),
            ("%c3%A9", false, Some("é")),
            ("%", false, None),
            ("%4", false, None),
            ("%zz", false, None),
            ("%+1", false, None),
            ("%ff", false, None),
        ];
        for (text, form, expected) in table {
            assert_eq!(decode(text, form).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn parameters_repeat_and_may_lack_a_value() {
        let query = Query::parse("verbose&exclude=a&exclude=b%26c&&x=").unwrap();
        assert!(query.has("verbose") && query.has("x") && !query.has("y"));
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a", "b&c"]);
        assert_eq!(query.first("exclude"), Some("a"));
        assert_eq!(Query::parse("a=%"), None);
        assert_eq!(Query::parse(""), Some(Query::default()));
    }
}
