//! Declares the tables of the configuration: one line per key.
//!
//! A key's line names its field and type, its default, its form with bounds, and whether a reload
//! applies a change. From these lines [`table!`] derives the struct, its `Default`, the reader, the
//! comparison at a reload, and the environment variables and systemd credentials of the key. So a
//! new key is one line in a table, one in `config.example.toml` (a test compares both), and its
//! use. The last word of the line is `live` if a reload applies a change, `restart` if it takes
//! effect at the next start, or `nested` for a table whose keys say it themselves.
//!
//! ```text
//! "max_age" max_age: Duration = 7 * DAY, duration(MINUTE, 30 * DAY), live;
//!  key       field    type       default  form: a method of Section    reload
//! ```
//!
//! A key that gets another name goes into [`RENAMED`]; its old name then fails naming the new one.

use super::read::Section;

/// Former paths of keys and their present ones. A `*` stands for any one name.
pub(super) const RENAMED: &[(&str, &str)] = &[];

/// One declared key.
#[derive(Debug)]
pub(super) struct Key {
    pub name: &'static str,
    /// The default as Rust source.
    pub default: &'static str,
    /// The method of [`Section`] that reads it.
    pub form: &'static str,
    /// Whether a changed value applies only after a restart.
    pub needs_restart: bool,
    /// An environment variable beside `PGSTEWARD__SECTION__KEY`.
    pub variable: Option<&'static str>,
    /// A file in systemd's credentials directory.
    pub credential: Option<&'static str>,
}

impl Key {
    /// Whether the key may also be given as a file, and therefore has more than one form.
    pub fn is_secret(&self) -> bool {
        self.form.starts_with("secret")
    }
}

/// A table of the configuration.
pub(super) trait Table: Sized {
    /// Reads each key from `section`; `default` has the values of those that are missing.
    fn read(section: &Section<'_>, default: Self) -> Self;

    /// The keys that stand in this table itself and whose values differ from those of `new`.
    fn changed(&self, new: &Self) -> Vec<&'static str>;

    /// Adds the path of each key whose change to its value in `new` needs a restart.
    fn needs_restart(&self, new: &Self, path: &str, keys: &mut Vec<String>);

    /// Visits every declared key of this table, and of the tables nested in it, with its path.
    fn declared(path: &str, visit: &mut dyn FnMut(String, &'static Key));
}

/// Joins a table's path and a key.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The present path of a key that once had another.
pub(super) fn renamed(path: &str, table: &[(&str, &str)]) -> Option<String> {
    let given: Vec<&str> = path.split('.').collect();
    table.iter().find_map(|(old, new)| {
        let old: Vec<&str> = old.split('.').collect();
        let fits = |(old, given): (&&str, &&str)| *old == "*" || old == given;
        if old.len() != given.len() || !old.iter().zip(&given).all(fits) {
            return None;
        }
        let mut any = old.iter().zip(&given).filter(|(old, _)| **old == "*").map(|(_, name)| *name);
        let new = new.split('.').map(|name| if name == "*" { any.next() } else { Some(name) });
        Some(new.collect::<Option<Vec<_>>>()?.join("."))
    })
}

macro_rules! table {
    (
        $(#[$doc:meta])*
        $name:ident {
            $(
                $(#[$field_doc:meta])*
                $key:literal $field:ident : $type:ty = $default:expr,
                $form:ident ( $($arg:expr),* ),
                $reload:ident
                $(, env $variable:literal)?
                $(, credential $credential:literal)?;
            )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $( $field: $default, )* }
            }
        }

        impl $crate::config::table::Table for $name {
            fn read(section: &$crate::config::read::Section<'_>, default: $name) -> $name {
                $name { $( $field: section.$form($key, default.$field $(, $arg)*), )* }
            }

            fn changed(&self, new: &$name) -> Vec<&'static str> {
                let keys = [$( ($key, self.$field != new.$field) ),*];
                keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
            }

            fn needs_restart(&self, new: &$name, path: &str, keys: &mut Vec<String>) {
                $( $crate::config::table::restart!(
                    $reload, self.$field, new.$field, path, $key, keys
                ); )*
            }

            fn declared(
                path: &str,
                visit: &mut dyn FnMut(String, &'static $crate::config::table::Key),
            ) {
                $( $crate::config::table::declare!($reload, $type, path, $key, visit, {
                    $crate::config::table::Key {
                        name: $key,
                        default: stringify!($default),
                        form: stringify!($form),
                        needs_restart: $crate::config::table::needs_restart!($reload),
                        variable: $crate::config::table::option!($($variable)?),
                        credential: $crate::config::table::option!($($credential)?),
                    }
                }); )*
            }
        }
    };
}

macro_rules! restart {
    // Names its arguments all the same, because a table may have no other key than live ones.
    (live, $old:expr, $new:expr, $path:ident, $key:literal, $keys:ident) => {
        let _ = (&$new, $path, &$keys);
    };
    (restart, $old:expr, $new:expr, $path:ident, $key:literal, $keys:ident) => {
        if $old != $new {
            $keys.push($crate::config::table::join($path, $key));
        }
    };
    (nested, $old:expr, $new:expr, $path:ident, $key:literal, $keys:ident) => {
        $crate::config::table::Table::needs_restart(
            &$old,
            &$new,
            &$crate::config::table::join($path, $key),
            $keys,
        )
    };
}

macro_rules! declare {
    (nested, $type:ty, $path:ident, $key:literal, $visit:ident, $declared:expr) => {
        <$type as $crate::config::table::Table>::declared(
            &$crate::config::table::join($path, $key),
            $visit,
        )
    };
    ($reload:ident, $type:ty, $path:ident, $key:literal, $visit:ident, $declared:expr) => {{
        static KEY: $crate::config::table::Key = $declared;
        $visit($crate::config::table::join($path, $key), &KEY)
    }};
}

macro_rules! needs_restart {
    (live) => {
        false
    };
    (restart) => {
        true
    };
}

macro_rules! option {
    () => {
        None
    };
    ($value:literal) => {
        Some($value)
    };
}

/// An enum whose values are words in the configuration.
pub(super) trait Words: Copy + 'static {
    /// Each word with its value. Later words for a value are accepted, its first one is written.
    const WORDS: &'static [(&'static str, Self)];
}

macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident {
            $( $(#[$variant_doc:meta])* $variant:ident = $word:literal $(| $alias:literal)*, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$variant_doc])* $variant, )* }

        impl $name {
            /// The word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $word, )* }
            }
        }

        impl $crate::config::table::Words for $name {
            const WORDS: &'static [(&'static str, $name)] =
                &[$( ($word, $name::$variant), $( ($alias, $name::$variant), )* )*];
        }
    };
}

pub(super) use {declare, needs_restart, option, restart, table, words};

#[cfg(test)]
mod tests {
    use super::renamed;

    #[test]
    fn a_former_path_leads_to_the_present_one() {
        let table =
            [("health.ttl", "health.cache_ttl"), ("jobs.*.deadline", "jobs.*.start_within")];
        for (path, expected) in [
            ("health.ttl", Some("health.cache_ttl")),
            ("jobs.report.deadline", Some("jobs.report.start_within")),
            ("jobs.report", None),
            ("health.cache_ttl", None),
        ] {
            assert_eq!(renamed(path, &table).as_deref(), expected, "{path}");
        }
    }
}
