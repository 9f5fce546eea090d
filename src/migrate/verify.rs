//! Checks that the objects that pgsteward relies on exist, after migrating and at every start.

use crate::db::{Conn, Error};
use crate::observe::objects;
use crate::sets::{Manifest, Object};

/// Returns the objects of these sets that are missing.
pub async fn missing_objects(conn: &Conn, sets: &[&Manifest]) -> Result<Vec<String>, Error> {
    let expected: Vec<Object> = sets.iter().flat_map(|set| set.objects).copied().collect();
    objects::missing(conn, &expected).await
}
