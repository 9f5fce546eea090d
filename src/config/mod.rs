//! The configuration: one declared table of keys per TOML table.
//!
//! Loading is one pass without side effects: the file (`--config`, else
//! `/etc/pgsteward/config.toml`, else nothing), over it the environment, over it the flags. Every
//! problem is collected and none stops the pass. Each names its place, what was expected there and
//! what was found. The result is complete: later layers never meet a missing or malformed value.
//!
//! ```text
//! file ─► tree ◄─ overlay (environment, credentials, flags)
//!          └─► tables (declared in keys, read by read) ─► Config ─► check (contradictions)
//! ```
//!
//! `config.example.toml` is the manual. A test holds it equal to the declarations in [`keys`]. The
//! configuration knows where a secret is found; secrets are read at every connect.

pub mod auth;
mod check;
pub mod cidr;
pub mod conninfo;
pub mod job;
mod keys;
pub mod load;
mod overlay;
pub mod problem;
mod read;
pub mod schedule;
mod secret;
mod table;
mod tree;
mod value;
pub mod window;
pub mod zone;

pub use auth::{Auth, Role};
pub use cidr::Cidr;
pub use job::{
    AfterFailure, Builtin, CatchUp, Job, JobName, Jobs, ON_TIME, Overlap, SqlWork, Trigger, Work,
};
pub use keys::{
    Audit, Config, Database, Development, Environment, Health, Http, Log, LogFormat, LogLevel,
    MAIN, Migrations, Mode, OnFailure, Pooler, Refresh, Retention, RetentionTable, Spool, Supabase,
    TlsFiles, Vacuum,
};
pub use load::{Args, Loaded, load};
pub use problem::{Origin, Problem, Problems};
pub use schedule::Schedule;
pub use secret::{Secret, SecretError, SecretSource};
pub use window::{Window, Windows};
pub use zone::Zone;
