//! The keys of libpq and of programs like it: used, ignored, or refused with advice.

use super::ConnInfoError;
use crate::config::problem::nearest;

/// Keys that are used.
const USED: &str = "host hostaddr port dbname user password passfile sslmode sslrootcert sslcert \
                    sslkey sslnegotiation sslsni channel_binding connect_timeout application_name \
                    options target_session_attrs load_balance_hosts keepalives keepalives_idle \
                    keepalives_interval keepalives_count tcp_user_timeout ssl client_encoding \
                    gssencmode";

/// Keys that other programs write and that have no meaning here, whatever their value.
const IGNORED: [&str; 3] = ["fallback_application_name", "sslcompression", "krbsrvname"];

/// Keys that are not supported, with advice. Several keys share one line of it.
const REFUSED: [(&str, &str); 21] = [
    ("service servicefile", "write the settings themselves: service files are not read"),
    (
        "sslpassword",
        "decrypt the key (openssl pkey -in KEY -out KEY.plain) and protect it with mode 0600",
    ),
    ("sslcertmode", "give sslcert and sslkey to send a certificate, or leave both away"),
    ("sslcrl sslcrldir", "revocation lists are not supported; use short-lived certificates"),
    ("sslkeylogfile", "key logging is not supported; remove it"),
    ("ssl_min_protocol_version", "TLS 1.2 and 1.3 are offered, nothing older; remove it"),
    ("ssl_max_protocol_version", "TLS 1.2 and 1.3 are offered; remove it"),
    ("requirepeer", "use TLS with sslmode=verify-full where the server's identity matters"),
    ("require_auth", "use channel_binding=require with SCRAM, or sslmode=verify-full"),
    ("gsslib gssdelegation", "GSSAPI is not supported; use SCRAM or certificates"),
    ("replication", "replication connections are not for this program; remove it"),
    (
        "min_protocol_version max_protocol_version",
        "protocol 3.0 is spoken, which every server accepts; remove it",
    ),
    ("scram_client_key scram_server_key", "use password"),
    (
        "oauth_issuer oauth_client_id oauth_client_secret oauth_scope",
        "OAuth is not supported; use password_command for tokens that serve as password",
    ),
    (
        "pgbouncer",
        "it is Prisma's; remove it (poolers are detected, or set pooler = \"transaction\")",
    ),
    ("connection_limit", "it is Prisma's; remove it and set pool_max_size"),
    ("pool_timeout", "it is Prisma's; remove it"),
    ("schema", "it is Prisma's; remove it (set migrations.search_path)"),
    ("sslaccept sslidentity", "it is Prisma's; use sslmode, sslcert and sslkey"),
    ("currentschema", "it is the JDBC driver's; remove it (set migrations.search_path)"),
    ("statement_cache_mode prepared_statements", "remove it (only unnamed statements are used)"),
];

/// Decides on a key: returns its name if it is used, nothing if it is ignored, or an error with
/// advice.
///
/// `may_name` says whether an unknown key may be shown: not if it may be a part of a password.
pub(super) fn judge(key: &str, may_name: bool) -> Result<Option<&'static str>, ConnInfoError> {
    if let Some(used) = USED.split(' ').find(|used| *used == key) {
        return Ok(Some(used));
    }
    if IGNORED.contains(&key) {
        return Ok(None);
    }
    let lower = key.to_ascii_lowercase();
    if let Some((_, advice)) = REFUSED.iter().find(|(keys, _)| keys.split(' ').any(|k| k == lower))
    {
        return Err(ConnInfoError::new(format!("{lower}: {advice}")));
    }
    Err(ConnInfoError::new(match (nearest(&lower, USED.split(' ')), may_name) {
        (Some(near), true) => format!("unknown key {key:?}; did you mean {near}?"),
        (Some(near), false) => format!("an unknown key; did you mean {near}?"),
        (None, true) => format!(
            "expected a key of libpq, such as host, port, dbname, user, sslmode, found {key:?}"
        ),
        (None, false) => {
            "an unknown key after the password; is a space, a quote or one of @ / ? in \
                          the password written as it must be?"
                .to_owned()
        }
    }))
}
