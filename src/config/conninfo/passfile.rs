//! Password files: lines of `host:port:dbname:user:password`, as `~/.pgpass`.
//!
//! `*` matches anything, `\` escapes the next character, `#` at the start makes a comment, and the
//! first line that matches counts. A file that others may read is refused; libpq ignores it with a
//! warning, which a daemon's user would not see.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Host;
use crate::config::Secret;

const SIZE_MAX: u64 = 1024 * 1024;

/// Returns the password for this host, database and user, if there is one.
pub(crate) async fn lookup(
    path: &Path,
    host: &Host,
    dbname: &str,
    user: &str,
) -> Result<Option<Secret>, std::io::Error> {
    let meta = tokio::fs::metadata(path).await?;
    if !meta.is_file() || meta.len() > SIZE_MAX {
        return Err(std::io::Error::other("not a regular file of at most 1 MiB"));
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(std::io::Error::other(format!(
            "expected mode 0600, found {mode:04o}, so that others may read it (chmod 600)"
        )));
    }
    let text = tokio::fs::read_to_string(path).await?;
    Ok(find(&text, host, dbname, user))
}

fn find(text: &str, host: &Host, dbname: &str, user: &str) -> Option<Secret> {
    let (name, port) = match host {
        Host::Tcp { name, port, .. } => (name.clone(), port),
        // libpq calls its own socket directory "localhost" here.
        Host::Unix { dir, port } if super::SOCKET_DIRS.iter().any(|d| Path::new(d) == dir) => {
            ("localhost".to_owned(), port)
        }
        Host::Unix { dir, port } => (dir.display().to_string(), port),
    };
    let port = port.to_string();
    let sought = [name.as_str(), port.as_str(), dbname, user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = fields(line);
        let password = (fields.len() == 5).then(|| fields.pop()).flatten()?;
        fields
            .iter()
            .zip(sought)
            .all(|(field, sought)| field.any || field.text == sought)
            .then(|| Secret::new(password.text))
    })
}

struct Field {
    text: String,
    /// A lone, unescaped `*`.
    any: bool,
}

/// Splits a line into its first five fields; the fifth ends at an unescaped colon too, as in libpq.
fn fields(line: &str) -> Vec<Field> {
    let mut fields = Vec::with_capacity(5);
    let mut text = String::new();
    let mut escaped = false;
    let mut chars = line.trim_end_matches('\r').chars();
    loop {
        match chars.next() {
            Some('\\') => {
                escaped = true;
                text.extend(chars.next());
            }
            Some(c) if c != ':' => text.push(c),
            end => {
                fields
                    .push(Field { any: text == "*" && !escaped, text: std::mem::take(&mut text) });
                escaped = false;
                if end.is_none() || fields.len() == 5 {
                    return fields;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::Tcp { name: name.to_owned(), addr: None, port: 5432 }
    }

    #[test]
    fn the_first_line_that_matches_wins() {
        let text = "# \
            db:5432:app:bob:no\n\ndb:5432:app:alice:first\ndb:*:*:bob:se\\:co\\\\nd\n*:*:*:*:last\n";
        for (name, user, password) in
            [("db", "alice", "first"), ("db", "bob", "se:co\\nd"), ("other", "bob", "last")]
        {
            let found = find(text, &host(name), "app", user).unwrap();
            assert_eq!(found.expose(), password, "{user}@{name}");
        }
        assert!(find("db:5432:app:alice:x", &host("db"), "app", "bob").is_none());
        assert!(find("db:5432:app", &host("db"), "app", "bob").is_none(), "too few fields");
        assert!(
            find("\\*:5432:app:bob:x", &host("db"), "app", "bob").is_none(),
            "an escaped * is a name"
        );
    }

    #[test]
    fn the_default_socket_directory_is_localhost() {
        let socket = Host::Unix { dir: "/var/run/postgresql".into(), port: 5432 };
        assert_eq!(find("localhost:5432:app:bob:x", &socket, "app", "bob").unwrap().expose(), "x");
        let other = Host::Unix { dir: "/srv/pg".into(), port: 5432 };
        assert!(find("localhost:5432:app:bob:x", &other, "app", "bob").is_none());
        assert_eq!(find("/srv/pg:5432:app:bob:x", &other, "app", "bob").unwrap().expose(), "x");
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "*:*:*:*:x\n").unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = lookup(file.path(), &host("db"), "app", "bob").await.unwrap_err();
        assert!(error.to_string().contains("0640"), "{error}");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(lookup(file.path(), &host("db"), "app", "bob").await.unwrap().is_some());
    }
}
