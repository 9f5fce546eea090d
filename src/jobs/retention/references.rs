//! What deleting rows does to the tables that refer to them.
//!
//! A key with ON DELETE CASCADE, SET NULL or SET DEFAULT deletes or changes rows that no configuration
//! named, whatever their age. Such a table is refused unless each table that it reaches is itself named
//! in retention and is not to be kept longer. And a key without an index has the server read the
//! whole referring table for each deleted row: refused where that table is large.

use super::Outcome;
use super::purge::SMALL_BYTES;
use super::targets::Target;
use crate::db::{Error, Kind};
use crate::observe::tables::references::{OnDelete, Reference};

/// Refuses, or notes what will happen.
///
/// # Errors
/// [`Kind::Sql`], with every key that stands in the way and what mends it.
pub fn check(
    target: &Target,
    targets: &[Target],
    references: &[Reference],
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let mut refused = Vec::new();
    for reference in references {
        let (name, key, holder) = (reference.name(), &reference.key, reference.leaf());
        if let Some(does) = does(reference.on_delete) {
            let on_delete = reference.on_delete.sql();
            let told = format!(
                "rows of {name} that refer to a deleted one are {does} (key {key}, ON DELETE {on_delete})"
            );
            match targets.iter().find(|other| other.name() == name) {
                Some(named) if named.keep <= target.keep => note(outcome, format!("{told}, whatever their age")),
                Some(_) => refused.push(format!(
                    "{told}, but retention keeps {name} for longer: shorten that, lengthen this, or make the key ON \
                     DELETE NO ACTION"
                )),
                None => refused.push(format!(
                    "{told}, but {name} is not named in retention: name it in retention.tables with a keep no longer \
                     than this one's, or make the key ON DELETE NO ACTION"
                )),
            }
        }
        if !reference.indexed {
            let mend = format!("CREATE INDEX CONCURRENTLY ON {holder} ({})", reference.columns);
            let told = format!(
                "each deleted row reads all of {holder}, which refers to it without an index (key {key})"
            );
            if reference.size_bytes > SMALL_BYTES {
                let size_mib = reference.size_bytes / (1024 * 1024);
                refused.push(format!("{told}, {size_mib} MiB: {mend}"));
            } else {
                outcome.warn(format!("{told}: {mend}"));
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::new(Kind::Sql, refused.join("; "))) }
}

/// What becomes of rows that refer to a deleted one; none where the DELETE fails instead.
fn does(on_delete: OnDelete) -> Option<&'static str> {
    match on_delete {
        OnDelete::Refuse => None,
        OnDelete::Cascade => Some("deleted with it"),
        OnDelete::SetNull | OnDelete::SetDefault => Some("changed"),
    }
}

/// Once: of a partitioned table each partition has the key.
fn note(outcome: &mut Outcome, note: String) {
    if !outcome.notes.contains(&note) {
        outcome.notes.push(note);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target(table: &str, days: u64) -> Target {
        Target {
            schema: "public".to_owned(),
            table: table.to_owned(),
            column: Some("ts".to_owned()),
            keep: Duration::from_secs(days * 86_400),
        }
    }

    fn reference(on_delete: OnDelete, indexed: bool, size_bytes: i64) -> Reference {
        Reference {
            key: "k".to_owned(),
            schema: "public".to_owned(),
            table: "child".to_owned(),
            on_delete,
            leaf_schema: "public".to_owned(),
            leaf_table: "child".to_owned(),
            size_bytes,
            columns: "parent".to_owned(),
            indexed,
        }
    }

    #[test]
    fn rows_are_reached_only_where_retention_names_them_for_no_longer() {
        // (on delete, keep of the child in days) → refused, which word
        let table = [
            (OnDelete::Refuse, None, None),
            (OnDelete::Cascade, None, Some("not named in retention")),
            (OnDelete::SetNull, None, Some("are changed")),
            (OnDelete::SetDefault, None, Some("ON DELETE SET DEFAULT")),
            (OnDelete::Cascade, Some(10), None),
            (OnDelete::Cascade, Some(11), Some("for longer")),
        ];
        for (on_delete, child, wanted) in table {
            let mut targets = vec![target("parent", 10)];
            targets.extend(child.map(|days| target("child", days)));
            let mut outcome = Outcome::default();
            let checked =
                check(&targets[0], &targets, &[reference(on_delete, true, 0)], &mut outcome);
            match (checked, wanted) {
                (Ok(()), None) => {
                    assert_eq!(outcome.notes.len(), usize::from(child.is_some()), "{on_delete:?}");
                }
                (Err(error), Some(wanted)) => {
                    assert!(error.to_string().contains(wanted), "{error}");
                }
                (checked, _) => panic!("{on_delete:?}, {child:?}: {checked:?}"),
            }
        }
    }

    #[test]
    fn a_key_without_an_index_is_refused_where_the_child_is_large() {
        let mut outcome = Outcome::default();
        let mut checked = |size| {
            check(&target("p", 1), &[], &[reference(OnDelete::Refuse, false, size)], &mut outcome)
        };
        checked(SMALL_BYTES).expect("small enough to be read");
        let error = checked(SMALL_BYTES + 1).expect_err("too large").to_string();
        assert!(
            error.contains("CREATE INDEX CONCURRENTLY ON \"public\".\"child\" (parent)"),
            "{error}"
        );
        assert_eq!(outcome.warnings.len(), 1, "{outcome:?}");
    }
}
