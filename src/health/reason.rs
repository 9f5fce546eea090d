//! The meaning of an error kind for the health of the database, and its remedy.

use crate::db::Kind;

/// Whether the server was reached and answered, though not with what was asked: then the database
/// is up, and the measurement is what failed.
pub fn reached(kind: Kind) -> bool {
    match kind {
        Kind::InRecovery
        | Kind::ReadOnly
        | Kind::LockTimeout
        | Kind::Conflict
        | Kind::Cancelled
        | Kind::Permission
        | Kind::Sql
        | Kind::Fenced => true,
        Kind::Unreachable
        | Kind::Refused
        | Kind::Auth
        | Kind::Tls
        | Kind::Hba
        | Kind::UnknownDatabase
        | Kind::TooManyConnections
        | Kind::StartingUp
        | Kind::Timeout
        | Kind::ConnectionLost
        | Kind::PoolTimeout
        | Kind::Config
        | Kind::Protocol => false,
    }
}

/// The action for an operator.
pub fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::Unreachable => {
            "check the host name, the route and the firewall between here and the server"
        }
        Kind::Refused => "start the server, or check the port and listen_addresses",
        Kind::Auth => "check the user and the password or certificate that the configuration names",
        Kind::Tls => "check sslmode and sslrootcert against what the server offers",
        Kind::Hba => {
            "add a line to pg_hba.conf for this user, database and address, and reload the server"
        }
        Kind::UnknownDatabase => {
            "create the database, or correct its name in the connection settings"
        }
        Kind::TooManyConnections => {
            "close idle sessions, raise max_connections, or grant pg_use_reserved_connections (16 and later)"
        }
        Kind::StartingUp => {
            "wait: the server starts up, shuts down or recovers; its log says which"
        }
        Kind::InRecovery => {
            "this server is a standby; point pgsteward at the primary to have it maintained"
        }
        Kind::ReadOnly => {
            "look for default_transaction_read_only, a full disk guard, or a fail-over"
        }
        Kind::Timeout => {
            "look for load, a full disk or a hanging network; query_timeout and connect_timeout bound it"
        }
        Kind::LockTimeout => {
            "look for a session that locks the system catalogs (VACUUM FULL, REINDEX SYSTEM)"
        }
        Kind::Conflict => "nothing: the measurement is retried",
        Kind::Cancelled => {
            "somebody cancelled the measurement (pg_cancel_backend); nothing if that was meant"
        }
        Kind::Permission => "grant what `pgsteward role` prints",
        Kind::ConnectionLost => {
            "see the server's log for a crash, a restart or a terminated session"
        }
        Kind::PoolTimeout => {
            "an earlier measurement still holds the connection; if it stays, the server hangs"
        }
        Kind::Config => "correct the connection settings; `pgsteward check --connect` tries them",
        Kind::Sql => {
            "see the error; a server that is no PostgreSQL 14 or later may not know a statement"
        }
        Kind::Protocol => "check that the address is a PostgreSQL server's, not another service's",
        Kind::Fenced => "nothing: another instance has taken over",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_us_from_connecting_means_not_reached() {
        for kind in Kind::ALL {
            assert!(
                !(kind.is_connection() && reached(kind)),
                "{kind} is a connection's fault, yet counts as reached"
            );
            assert!(remedy(kind).len() > 10, "{kind} has no remedy");
        }
    }
}
