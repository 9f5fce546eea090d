//! The member `tables` of a request body.

use crate::http::HttpError;

const TABLES_MAX: usize = 400;
const NAME_CHARS_MAX: usize = 128;

/// Refuses an empty list, a list that is too long, and names without a schema.
pub fn check(tables: Option<&[String]>) -> Result<(), HttpError> {
    let Some(tables) = tables else { return Ok(()) };
    if tables.is_empty() || tables.len() > TABLES_MAX {
        let found = tables.len();
        let detail = format!("tables: expected 1 to {TABLES_MAX} names, found {found}");
        return Err(HttpError::invalid(detail));
    }
    let valid = |name: &String| {
        name.split_once('.').is_some_and(|(schema, table)| !schema.is_empty() && !table.is_empty())
            && name.chars().count() <= NAME_CHARS_MAX
            && !name.contains('\0')
    };
    let Some(invalid) = tables.iter().find(|name| !valid(name)) else { return Ok(()) };
    let found: String = invalid.chars().take(NAME_CHARS_MAX).collect();
    Err(HttpError::invalid(format!(
        "tables: expected a name with its schema, such as \"public.vms\", found {found:?}"
    )))
}
