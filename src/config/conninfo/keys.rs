//! The keys that libpq and its relatives know, and what becomes of each here.

use super::ConnInfoError;

/// Keys that are used.
const USED: [&str; 27] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslnegotiation",
    "sslsni",
    "channel_binding",
    "connect_timeout",
    "application_name",
    "options",
    "target_session_attrs",
    "load_balance_hosts",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "ssl",
    "client_encoding",
    "gssencmode",
];

/// Keys that others write and that mean nothing here whatever their value: they are passed over.
const PASSED_OVER: [&str; 3] = ["fallback_application_name", "sslcompression", "krbsrvname"];

/// Keys that cannot be honoured, with what to do instead.
const REFUSED: [(&str, &str); 31] = [
    ("service", "write the settings themselves: service files are not read"),
    ("servicefile", "write the settings themselves: service files are not read"),
    (
        "sslpassword",
        "decrypt the key (openssl pkey -in KEY -out KEY.plain) and protect it with mode 0600",
    ),
    ("sslcertmode", "give sslcert and sslkey to send a certificate, or leave both away"),
    ("sslcrl", "revocation lists are not supported; use short-lived certificates"),
    ("sslcrldir", "revocation lists are not supported; use short-lived certificates"),
    ("sslkeylogfile", "key logging is not supported; remove it"),
    ("ssl_min_protocol_version", "TLS 1.2 and 1.3 are offered, nothing older; remove it"),
    ("ssl_max_protocol_version", "TLS 1.2 and 1.3 are offered; remove it"),
    ("requirepeer", "use TLS with sslmode=verify-full where the server's identity matters"),
    ("require_auth", "use channel_binding=require with SCRAM, or sslmode=verify-full"),
    ("gsslib", "GSSAPI is not supported; use SCRAM or certificates"),
    ("gssdelegation", "GSSAPI is not supported; use SCRAM or certificates"),
    ("replication", "replication connections are not for this program; remove it"),
    ("min_protocol_version", "protocol 3.0 is spoken, which every server accepts; remove it"),
    ("max_protocol_version", "protocol 3.0 is spoken, which every server accepts; remove it"),
    ("scram_client_key", "use password"),
    ("scram_server_key", "use password"),
    (
        "oauth_issuer",
        "OAuth is not supported; use password_command for tokens that serve as password",
    ),
    (
        "oauth_client_id",
        "OAuth is not supported; use password_command for tokens that serve as password",
    ),
    (
        "oauth_client_secret",
        "OAuth is not supported; use password_command for tokens that serve as password",
    ),
    (
        "oauth_scope",
        "OAuth is not supported; use password_command for tokens that serve as password",
    ),
    (
        "pgbouncer",
        "it is Prisma's; remove it (poolers are recognised, or set pooler = \"transaction\")",
    ),
    ("connection_limit", "it is Prisma's; remove it and set pool_max_size"),
    ("pool_timeout", "it is Prisma's; remove it"),
    ("schema", "it is Prisma's; remove it (set migrations.search_path)"),
    ("sslaccept", "it is Prisma's; use sslmode"),
    ("sslidentity", "it is Prisma's; use sslcert and sslkey"),
    ("currentschema", "it is the JDBC driver's; remove it (set migrations.search_path)"),
    ("statement_cache_mode", "it is pgx's; remove it (only unnamed statements are used)"),
    ("prepared_statements", "remove it (only unnamed statements are used)"),
];

/// Whether the key is used (then with its lasting name), passed over, or refused with a reason.
///
/// `may_name` says whether an unknown key may be shown: not where it may be part of a password.
pub(super) fn judge(key: &str, may_name: bool) -> Result<Option<&'static str>, ConnInfoError> {
    if let Some(used) = USED.iter().find(|used| **used == key) {
        return Ok(Some(used));
    }
    if PASSED_OVER.contains(&key) {
        return Ok(None);
    }
    let lower = key.to_ascii_lowercase();
    if let Some((name, advice)) = REFUSED.iter().find(|(name, _)| *name == lower) {
        return Err(ConnInfoError::new(format!("{name}: {advice}")));
    }
    let near = USED
        .iter()
        .map(|used| (distance(used, &lower), used))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    Err(ConnInfoError::new(match (near, may_name) {
        (Some((_, near)), true) => format!("unknown key {key:?}; did you mean {near}?"),
        (Some((_, near)), false) => format!("an unknown key; did you mean {near}?"),
        (None, true) => {
            format!("unknown key {key:?}; wanted one of libpq's, such as host, port, dbname, user, sslmode")
        }
        (None, false) => "an unknown key after the password; is a space, a quote or one of @ / ? in the password \
                          written as it must be?"
            .to_owned(),
    }))
}

/// Levenshtein's distance; keys are short.
fn distance(a: &str, b: &str) -> usize {
    if b.len() > 40 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let cost = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
