//! What the server tells about itself, as plain data.
//!
//! The only place with SQL on system catalogs and statistics views.

pub mod objects;
pub mod sessions;
