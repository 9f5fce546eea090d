//! Reaching a PostgreSQL server.
//!
//! [`Database`] is one database with its fixed budget of connections, a small pool per [`Purpose`]:
//! a statement for the API can never take the connection that renews a lease. A connection is
//! taken with [`Database::acquire`], used through [`Conn::transaction`], and given back by dropping
//! it; one that comes back inside a transaction or with an answer outstanding is closed instead.
//!
//! Nothing here knows pgsteward's tables.

mod conn;
mod connect;
mod dial;
pub mod ephemeral;
pub mod error;
mod failure;
mod login;
mod pool;
pub mod pooler;
pub mod retry;
mod row;
mod script;
mod session;
pub mod supabase;
mod tls;
mod transaction;
mod wire;

pub use conn::{Conn, Param, quote_ident, quote_literal};
pub use connect::{ConnectTimings, Server};
pub use error::{Error, Fault, Kind};
pub use pool::{Database, JobConn, PoolStats, Pooled};
pub use pooler::Between;
pub use row::FromRow;
pub(crate) use row::from_row;
pub use script::Done;
pub use session::{CancelOutcome, Canceller};
pub use transaction::{Tx, TxFuture, TxOptions};

/// What a connection is for. It names the connection on the server (`application_name`) and picks
/// the pool, so that no purpose starves another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// One: takes measurements. Only the observer holds it.
    Observe,
    /// One: leases, ledger, pgsteward's own rows.
    Control,
    /// Up to `jobs.max_concurrent`: the work itself.
    Job,
    /// `pool_min_size..=pool_max_size`: on behalf of a caller.
    Api,
    /// Two while migrating: the lock and the work.
    Migrate,
    /// Command-line tools and the connectivity check: short-lived.
    Check,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Purpose; 6] = [
        Purpose::Observe,
        Purpose::Control,
        Purpose::Job,
        Purpose::Api,
        Purpose::Migrate,
        Purpose::Check,
    ];

    /// The label used in metrics; `pgsteward/` and this is the `application_name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Observe => "observe",
            Purpose::Control => "control",
            Purpose::Job => "job",
            Purpose::Api => "api",
            Purpose::Migrate => "migrate",
            Purpose::Check => "check",
        }
    }
}

/// Which address to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Route {
    /// `url`: perhaps a pooler.
    Pooled,
    /// `direct_url` where given, else `url`.
    Direct,
}
