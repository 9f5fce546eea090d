//! Supabase names a project by the URL of its API; the database behind it follows from that.
//!
//! `https://REF.supabase.co` has its database at `db.REF.supabase.co:5432`, which has an IPv6 address
//! only (unless the project bought an IPv4 one). Where no such route exists, the address of the
//! session pooler has to be copied from the dashboard, since its region cannot be derived.

use crate::config::Secret;
use crate::config::conninfo::{ConnInfo, ConnInfoError, Host};

/// Where to copy the address from that works over IPv4.
pub(crate) const USE_SESSION_POOLER: &str = "no way to Supabase's direct address, which has IPv6 only \
     (and none while the project is paused); over IPv4, copy the session pooler's address from the dashboard (Connect, Session pooler) into DATABASE_URL";

/// The settings of a project's database.
pub fn conninfo(url: &str, password: Option<Secret>) -> Result<ConnInfo, ConnInfoError> {
    let reference = reference(url).ok_or_else(|| {
        ConnInfoError::new(
            "SUPABASE_URL is not the address of a project; wanted https://REF.supabase.co as the dashboard shows it \
             (a self-hosted one, or a custom domain, needs DATABASE_URL)",
        )
    })?;
    if password.is_none() {
        return Err(ConnInfoError::new(
            "no password for Supabase's database: set SUPABASE_DB_PASSWORD \
             (SUPABASE_SERVICE_KEY is a key for the API, not for the database)",
        ));
    }
    let mut info = ConnInfo::parse("user=postgres dbname=postgres sslmode=require")?;
    info.hosts =
        vec![Host::Tcp { name: format!("db.{reference}.supabase.co"), addr: None, port: 5432 }];
    info.password = password;
    Ok(info)
}

/// The project's reference: letters and digits.
fn reference(url: &str) -> Option<&str> {
    let host = url.trim().strip_prefix("https://")?.trim_end_matches('/');
    let reference = host.strip_suffix(".supabase.co")?;
    let plain = !reference.is_empty()
        && reference.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    plain.then_some(reference)
}

/// Whether the host is one of Supabase's direct addresses.
pub(crate) fn is_direct_host(name: &str) -> bool {
    name.starts_with("db.") && name.ends_with(".supabase.co")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::conninfo::SslMode;

    #[test]
    fn a_project_gives_host_user_and_tls() {
        for url in [
            "https://abcdefghijklmnopqrst.supabase.co",
            " https://abcdefghijklmnopqrst.supabase.co/ ",
        ] {
            let info = conninfo(url, Some(Secret::new("s3cret"))).unwrap();
            assert_eq!(info.hosts[0].to_string(), "db.abcdefghijklmnopqrst.supabase.co:5432");
            assert_eq!((info.user.as_str(), info.dbname.as_str()), ("postgres", "postgres"));
            assert_eq!(info.tls.mode, SslMode::Require);
            assert_eq!(info.password.unwrap().expose(), "s3cret");
        }
    }

    #[test]
    fn bad_urls_say_what_is_wanted() {
        for url in [
            "",
            "abc",
            "http://abc.supabase.co",
            "https://abc.supabase.com",
            "https://.supabase.co",
            "https://evil.example/.supabase.co",
            "https://a.b.supabase.co",
            "https://user:pw@abc.supabase.co",
        ] {
            let error = conninfo(url, Some(Secret::new("s3cret"))).unwrap_err().to_string();
            assert!(error.contains("https://REF.supabase.co"), "{url}: {error}");
        }
        let error = conninfo("https://abc.supabase.co", None).unwrap_err().to_string();
        assert!(error.contains("SUPABASE_DB_PASSWORD"), "{error}");
    }
}
